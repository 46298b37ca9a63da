//! The kinds of faults: their names, which area of the system each belongs to, and how users select them.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

use crate::stack::Database;

/// What a fault is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// The services' processes.
    Processes,
    /// The broker and its messages.
    Pubsub,
    /// The chain itself.
    Chain,
    /// What the node tells the blockchain service.
    Rpc,
    /// The services' databases.
    Database,
    /// The services' clocks.
    Time,
    /// What people order.
    Operators,
}

impl Area {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Processes, Self::Pubsub, Self::Chain, Self::Rpc, Self::Database, Self::Time, Self::Operators];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Pubsub => "pubsub",
            Self::Chain => "chain",
            Self::Rpc => "rpc",
            Self::Database => "database",
            Self::Time => "time",
            Self::Operators => "operators",
        }
    }
}

macro_rules! kinds {
    ($($kind:ident $name:literal $area:ident $on:ident $weight:literal $about:literal,)+) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $(#[doc = $about] $kind,)+
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind,)+];

            /// Its name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// What it is done to.
            #[must_use]
            pub fn area(self) -> Area {
                match self { $(Self::$kind => Area::$area,)+ }
            }

            /// What it does, for people.
            #[must_use]
            pub fn about(self) -> &'static str {
                match self { $(Self::$kind => $about,)+ }
            }

            /// How often it is drawn, compared to others.
            pub(super) fn weight(self) -> u32 {
                match self { $(Self::$kind => $weight,)+ }
            }

            fn needs(self) -> On {
                match self { $(Self::$kind => On::$on,)+ }
            }
        }
    };
}

/// Which databases a kind of fault exists for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Both,
    Sqlite,
    Postgres,
}

kinds! {
    KillAtFailPoint "kill_at_fail_point" Processes Both 6
        "A service dies at a durable step, before or after it, as by kill -9, and is started again.",
    Kill "kill" Processes Both 2
        "A service is killed with kill -9 at any moment, and started again.",
    KillBoth "kill_both" Processes Both 1
        "Both services are killed at once, and started again.",
    Freeze "freeze" Processes Both 1
        "A service is stopped (SIGSTOP) for longer than its leases, and goes on as if nothing had been.",
    Terminate "terminate" Processes Both 2
        "A service is asked to end (SIGTERM) under load, and started again.",
    TwinProcess "twin_process" Processes Both 1
        "A second blockchain service runs on the same database and signer for a while, by mistake.",
    RestartEmulator "restart_emulator" Pubsub Both 1
        "The broker is killed and comes back empty: no topics, no subscriptions, no messages.",
    RepeatMessages "repeat_messages" Pubsub Both 5
        "Messages of both topics are published again, in another order, as they were or with timestamps hours late.",
    HostileMessages "hostile_messages" Pubsub Both 4
        "Malformed, oversized and hostile messages are published among the good ones.",
    DeleteTopics "delete_topics" Pubsub Both 2
        "A topic or a subscription is deleted under way.",
    RestartChain "restart_chain" Chain Both 1
        "The node is stopped and started again from its dumped state; its mempool is lost.",
    Reorg "reorg" Chain Both 4
        "The newest blocks are replaced by empty ones, up to one block less than finality.",
    StopBlocks "stop_blocks" Chain Both 2
        "No blocks are made for seconds, then many at once.",
    BaseFeeSpike "base_fee_spike" Chain Both 2
        "The base fee jumps, below or above what the service is ready to pay, and stays there for seconds.",
    DropMempool "drop_mempool" Chain Both 3
        "The node forgets all transactions that are not mined.",
    RpcTimeout "rpc_timeout" Rpc Both 2
        "A transaction reaches the node, and the answer does not come.",
    RpcReset "rpc_reset" Rpc Both 3
        "The connection to the node is reset, before or after the node got the call.",
    RpcRateLimit "rpc_rate_limit" Rpc Both 3
        "The node answers a burst of calls with 429 Too Many Requests.",
    RpcServerError "rpc_server_error" Rpc Both 3
        "The node answers a burst of calls with a 5xx status and a page of HTML.",
    RpcTruncated "rpc_truncated" Rpc Both 3
        "Answers of the node end in the middle.",
    RpcOldBlock "rpc_old_block" Rpc Both 3
        "The node says that an old block is the newest.",
    RpcOldNonce "rpc_old_nonce" Rpc Both 3
        "The node says that the signer has sent fewer transactions than it has.",
    RpcNoReceipt "rpc_no_receipt" Rpc Both 3
        "The node says that a mined transaction has no receipt.",
    RpcAlreadyKnown "rpc_already_known" Rpc Both 2
        "The node says `already known` of a transaction, whether it has got it or not.",
    RpcNonceTooLow "rpc_nonce_too_low" Rpc Both 2
        "The node says `nonce too low` of a transaction whose nonce is free, whether it has taken it or not.",
    RpcUnderpriced "rpc_underpriced" Rpc Both 2
        "The node says `replacement transaction underpriced`, whether it has taken the transaction or not.",
    CutCommit "cut_commit" Database Postgres 5
        "The connection is cut in the middle of a commit: before the server gets it, or after it is durable.",
    EndSessions "end_sessions" Database Postgres 3
        "PostgreSQL ends all sessions of a service (`pg_terminate_backend`).",
    RestartPostgres "restart_postgres" Database Postgres 1
        "PostgreSQL crashes (immediate shutdown) and is started again.",
    LockTables "lock_tables" Database Both 2
        "Another process holds the lock on a service's tables for seconds, up to longer than the service waits.",
    FillDisk "fill_disk" Database Sqlite 3
        "The disk of a service's SQLite file is full for seconds.",
    RestoreDatabase "restore_database" Database Both 1
        "The blockchain service's database is replaced by a copy that is seconds old.",
    ClocksApart "clocks_apart" Time Both 1
        "The clock of one service is an hour ahead of, or behind, the other's for the whole seed.",
    KillSwitch "kill_switch" Operators Both 1
        "Somebody stops all payments by the campaign service's kill switch, and lets them go on a moment later.",
}

impl Kind {
    /// Whether it can be done to a stack on this database.
    #[must_use]
    pub fn exists_on(self, database: Database) -> bool {
        match self.needs() {
            On::Both => true,
            On::Sqlite => database == Database::Sqlite,
            On::Postgres => database == Database::Postgres,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The kinds of faults that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(BTreeSet<Kind>);

impl Selection {
    /// Every kind.
    #[must_use]
    pub fn all() -> Self {
        Self(Kind::ALL.iter().copied().collect())
    }

    /// This kind alone.
    #[must_use]
    pub fn only(kind: Kind) -> Self {
        Self(BTreeSet::from([kind]))
    }

    /// Names of kinds and areas, with commas between them; `all`, or nothing, for every kind.
    ///
    /// # Errors
    /// [`UnknownName`], which lists all names.
    pub fn parse(names: &str) -> Result<Self, UnknownName> {
        let mut kinds = BTreeSet::new();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let is_meant = |kind: &&Kind| name == "all" || kind.name() == name || kind.area().name() == name;
            let before = kinds.len();
            kinds.extend(Kind::ALL.iter().filter(is_meant));
            if kinds.len() == before && !Kind::ALL.iter().any(|kind| is_meant(&kind)) {
                return Err(UnknownName(name.to_owned()));
            }
        }
        Ok(if kinds.is_empty() { Self::all() } else { Self(kinds) })
    }

    /// The kinds, in order.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> + '_ {
        self.0.iter().copied()
    }

    /// Without this kind.
    #[must_use]
    pub fn without(mut self, kind: Kind) -> Self {
        self.0.remove(&kind);
        self
    }
}

/// There is no kind or area of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownName(pub String);

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no fault called {:?}. There are, by area:", self.0)?;
        for area in Area::ALL {
            let kinds = Kind::ALL.iter().filter(|kind| kind.area() == area);
            let names: Vec<&str> = kinds.map(|kind| kind.name()).collect();
            write!(f, "\n  {}: {}", area.name(), names.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for UnknownName {}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(names: &str) -> Vec<&'static str> {
        Selection::parse(names).unwrap().kinds().map(Kind::name).collect()
    }

    #[test]
    fn kinds_and_areas_are_selected_by_name() {
        assert_eq!(selected("reorg, kill"), ["kill", "reorg"]);
        assert_eq!(selected("chain"), ["restart_chain", "reorg", "stop_blocks", "base_fee_spike", "drop_mempool"]);
        assert_eq!(selected("chain,reorg").len(), 5);
        assert_eq!(Selection::parse(""), Ok(Selection::all()));
        assert_eq!(Selection::parse("all"), Ok(Selection::all()));
    }

    #[test]
    fn an_unknown_name_is_refused_with_all_that_there_are() {
        let said = Selection::parse("reorg,earthquake").unwrap_err().to_string();
        assert!(said.contains("\"earthquake\""));
        for kind in Kind::ALL {
            assert!(said.contains(kind.name()) && said.contains(kind.area().name()), "{kind}");
        }
    }

    #[test]
    fn every_area_has_faults_on_either_database() {
        for area in Area::ALL {
            for database in [Database::Sqlite, Database::Postgres] {
                assert!(Kind::ALL.iter().any(|kind| kind.area() == area && kind.exists_on(database)), "{area:?}");
            }
        }
    }
}
