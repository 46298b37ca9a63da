//! One fault: its kind and its parameters, as a plain value.

use std::fmt;

use super::kind::Kind;
use crate::{
    rpc_proxy::{Liar, Lie},
    service::Which,
};

/// What is deleted from the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The topic of the requests.
    RequestsTopic,
    /// The topic of the results.
    ResultsTopic,
    /// The subscription to the requests.
    RequestsSubscription,
    /// The subscription to the results.
    ResultsSubscription,
}

impl Deleted {
    /// As the broker calls it: `topics` or `subscriptions`, and the name.
    #[must_use]
    pub fn resource(self) -> (&'static str, &'static str) {
        match self {
            Self::RequestsTopic => ("topics", "token-grant-requests"),
            Self::ResultsTopic => ("topics", "token-grant-results"),
            Self::RequestsSubscription => ("subscriptions", "token-grant-requests-sub"),
            Self::ResultsSubscription => ("subscriptions", "token-grant-results-sub"),
        }
    }
}

/// One fault. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kinds say what each does, and the fields are parameters by their names")]
pub enum Fault {
    /// [`Kind::KillAtFailPoint`], when the point is reached for the time after `after` others.
    KillAtFailPoint { service: Which, point: &'static str, after: u32 },
    /// [`Kind::Kill`].
    Kill { service: Which, down: u64 },
    /// [`Kind::KillBoth`].
    KillBoth { down: u64 },
    /// [`Kind::Freeze`].
    Freeze { service: Which, milliseconds: u64 },
    /// [`Kind::Terminate`].
    Terminate { service: Which },
    /// [`Kind::TwinProcess`], which ends by kill -9 or is asked to.
    TwinProcess { milliseconds: u64, killed: bool },
    /// [`Kind::RestartEmulator`].
    RestartEmulator { down: u64 },
    /// [`Kind::RepeatMessages`]: half of them as they were, half so many hours late.
    RepeatMessages { messages: usize, hours_late: u32 },
    /// [`Kind::HostileMessages`].
    HostileMessages { messages: usize, salt: u64 },
    /// [`Kind::DeleteTopics`].
    DeleteTopics { what: Deleted },
    /// [`Kind::RestartChain`].
    RestartChain { down: u64 },
    /// [`Kind::Reorg`].
    Reorg { depth: u64 },
    /// [`Kind::StopBlocks`].
    StopBlocks { milliseconds: u64, rush: u64 },
    /// [`Kind::BaseFeeSpike`].
    BaseFeeSpike { gwei: u64, milliseconds: u64 },
    /// [`Kind::DropMempool`].
    DropMempool,
    /// The kinds whose names begin with `rpc`: this lie, so many times, within the time, by one node or all.
    Rpc { lie: Lie, times: u32, milliseconds: u64, liar: Liar },
    /// [`Kind::CutCommit`]: so many commits, within the time.
    CutCommit { service: Which, durable: bool, times: u32, milliseconds: u64 },
    /// [`Kind::EndSessions`].
    EndSessions { service: Which },
    /// [`Kind::RestartPostgres`].
    RestartPostgres { down: u64 },
    /// [`Kind::LockTables`].
    LockTables { service: Which, milliseconds: u64 },
    /// [`Kind::FillDisk`].
    FillDisk { service: Which, milliseconds: u64 },
    /// [`Kind::RestoreDatabase`], with a copy made `age` before.
    RestoreDatabase { age: u64 },
    /// [`Kind::ClocksApart`].
    ClocksApart { service: Which, seconds: i64 },
    /// [`Kind::KillSwitch`].
    KillSwitch { milliseconds: u64 },
}

impl Fault {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::KillAtFailPoint { .. } => Kind::KillAtFailPoint,
            Self::Kill { .. } => Kind::Kill,
            Self::KillBoth { .. } => Kind::KillBoth,
            Self::Freeze { .. } => Kind::Freeze,
            Self::Terminate { .. } => Kind::Terminate,
            Self::TwinProcess { .. } => Kind::TwinProcess,
            Self::RestartEmulator { .. } => Kind::RestartEmulator,
            Self::RepeatMessages { .. } => Kind::RepeatMessages,
            Self::HostileMessages { .. } => Kind::HostileMessages,
            Self::DeleteTopics { .. } => Kind::DeleteTopics,
            Self::RestartChain { .. } => Kind::RestartChain,
            Self::Reorg { .. } => Kind::Reorg,
            Self::StopBlocks { .. } => Kind::StopBlocks,
            Self::BaseFeeSpike { .. } => Kind::BaseFeeSpike,
            Self::DropMempool => Kind::DropMempool,
            Self::Rpc { lie, .. } => match lie {
                Lie::Withheld { .. } => Kind::RpcTimeout,
                Lie::Reset { .. } => Kind::RpcReset,
                Lie::RateLimited => Kind::RpcRateLimit,
                Lie::ServerError { .. } => Kind::RpcServerError,
                Lie::Truncated { .. } => Kind::RpcTruncated,
                Lie::OldBlock { .. } => Kind::RpcOldBlock,
                Lie::OldNonce { .. } => Kind::RpcOldNonce,
                Lie::NoReceipt => Kind::RpcNoReceipt,
                Lie::AlreadyKnown { .. } => Kind::RpcAlreadyKnown,
                Lie::NonceTooLow { .. } => Kind::RpcNonceTooLow,
                Lie::Underpriced { .. } => Kind::RpcUnderpriced,
            },
            Self::CutCommit { .. } => Kind::CutCommit,
            Self::EndSessions { .. } => Kind::EndSessions,
            Self::RestartPostgres { .. } => Kind::RestartPostgres,
            Self::LockTables { .. } => Kind::LockTables,
            Self::FillDisk { .. } => Kind::FillDisk,
            Self::RestoreDatabase { .. } => Kind::RestoreDatabase,
            Self::ClocksApart { .. } => Kind::ClocksApart,
            Self::KillSwitch { .. } => Kind::KillSwitch,
        }
    }

    /// How long it is expected to take, healing included, in milliseconds.
    pub(super) fn expected(&self) -> u64 {
        match self {
            Self::KillAtFailPoint { .. } => 2_500,
            Self::Kill { down, .. } | Self::KillBoth { down } => down + 100,
            Self::Terminate { .. } => 1_000,
            Self::Freeze { milliseconds, .. }
            | Self::StopBlocks { milliseconds, .. }
            | Self::BaseFeeSpike { milliseconds, .. }
            | Self::CutCommit { milliseconds, .. }
            | Self::LockTables { milliseconds, .. }
            | Self::FillDisk { milliseconds, .. } => *milliseconds,
            // Told before the time is over, unless nobody asks.
            Self::Rpc { milliseconds, .. } => milliseconds / 2,
            Self::TwinProcess { milliseconds, .. } | Self::KillSwitch { milliseconds } => milliseconds + 500,
            Self::RestartEmulator { down } => down + 3_000,
            Self::RestartChain { down } | Self::RestartPostgres { down } => down + 500,
            Self::RestoreDatabase { age } => age + 500,
            Self::RepeatMessages { .. } | Self::HostileMessages { .. } => 300,
            Self::DeleteTopics { .. }
            | Self::Reorg { .. }
            | Self::DropMempool
            | Self::EndSessions { .. }
            | Self::ClocksApart { .. } => 0,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind())?;
        match self {
            Self::KillAtFailPoint { service, point, after } => write!(f, " {service} at {point}, after {after} times"),
            Self::Kill { service, down } => write!(f, " {service}, down for {down} ms"),
            Self::KillBoth { down }
            | Self::RestartEmulator { down }
            | Self::RestartChain { down }
            | Self::RestartPostgres { down } => write!(f, " down for {down} ms"),
            Self::Terminate { service } | Self::EndSessions { service } => write!(f, " {service}"),
            Self::TwinProcess { milliseconds, killed } => {
                write!(f, " for {milliseconds} ms, then {}", if *killed { "killed" } else { "terminated" })
            }
            Self::RepeatMessages { messages, hours_late } => {
                write!(f, " {messages} of each topic, half of them {hours_late} h late")
            }
            Self::HostileMessages { messages, salt } => write!(f, " {messages} (salt {salt})"),
            Self::DeleteTopics { what } => write!(f, " {}", what.resource().1),
            Self::Reorg { depth } => write!(f, " {depth} deep"),
            Self::StopBlocks { milliseconds, rush } => write!(f, " for {milliseconds} ms, then {rush} at once"),
            Self::BaseFeeSpike { gwei, milliseconds } => write!(f, " {gwei} gwei for {milliseconds} ms"),
            Self::DropMempool => Ok(()),
            Self::KillSwitch { milliseconds } => write!(f, " for {milliseconds} ms"),
            Self::Rpc { lie, times, milliseconds, liar } => {
                write!(f, " {lie:?} of {liar:?}, {times} times within {milliseconds} ms")
            }
            Self::CutCommit { service, durable, times, milliseconds } => {
                let when = if *durable { "after" } else { "before" };
                write!(f, " {service}, {when} it is durable, {times} times within {milliseconds} ms")
            }
            Self::Freeze { service, milliseconds }
            | Self::LockTables { service, milliseconds }
            | Self::FillDisk { service, milliseconds } => write!(f, " {service} for {milliseconds} ms"),
            Self::RestoreDatabase { age } => write!(f, " from a copy {age} ms old"),
            Self::ClocksApart { service, seconds } => write!(f, " {service} by {seconds} s"),
        }
    }
}
