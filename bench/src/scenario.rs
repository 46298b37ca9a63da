//! What can be measured, each by a name.

mod accept;
mod end_to_end;
mod gas;
mod history;
mod long;
mod smoke;
mod spike;
mod start;

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    report::Outcome,
    settings::{Database, Settings},
};

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// The most requests a second that are accepted, on SQLite, and how fast at 80 % of it
    Accept,
    /// The same on PostgreSQL
    AcceptPostgres,
    /// Grants a second from request to completed, for a minute, at rising rates
    EndToEnd,
    /// From request to completed at 1,000 grants a second, and the CPU time that a grant costs
    #[value(name = "latency-1000")]
    Latency1000,
    /// From request to block at 30 grants a second
    #[value(name = "latency-30")]
    Latency30,
    /// Ten times the load for ten seconds: what is lost, and how long until all is as before
    Spike,
    /// From the start of the processes to readiness
    Start,
    /// Gas of a grant, and the share of the chain's gas that is used while grants queue
    Gas,
    /// Whether a million past grants make anything slower
    History,
    /// Half an hour of load: whether memory grows (by name only)
    Soak,
    /// One and three replicas of both services on one `PostgreSQL` (by name only)
    Replicas,
    /// Blocks each 0.25, 1 and 2 seconds (by name only)
    BlockTimes,
    /// A few seconds of everything that measures, for the tests (by name only)
    Smoke,
}

impl Scenario {
    /// Those that give the figures to be reached, in less than 15 minutes.
    pub(crate) const DEFAULT: &[Self] = &[
        Self::Accept,
        Self::AcceptPostgres,
        Self::EndToEnd,
        Self::Latency1000,
        Self::Latency30,
        Self::Spike,
        Self::Start,
        Self::Gas,
        Self::History,
    ];

    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// The first names of its figures in the report.
    pub(crate) fn figures(self) -> &'static [&'static str] {
        match self {
            Self::Accept => &["accept"],
            Self::AcceptPostgres => &["accept_postgres"],
            Self::EndToEnd => &["end_to_end", "memory_mb"],
            Self::Latency1000 => &["latency_at_1000", "cpu_ms_per_grant"],
            Self::Latency30 => &["latency_at_30"],
            Self::Spike => &["spike"],
            Self::Start => &["ready_seconds"],
            Self::Gas => &["gas_per_grant", "gas_ceiling_ratio"],
            Self::History => &["history_ratio"],
            Self::Smoke => &["smoke"],
            Self::Soak | Self::Replicas | Self::BlockTimes => &[],
        }
    }

    pub(crate) async fn run(self, settings: &Settings) -> Result<Outcome> {
        match self {
            Self::Accept => accept::run("accept", Database::Sqlite, settings).await,
            Self::AcceptPostgres => accept::run("accept_postgres", Database::Postgres, settings).await,
            Self::EndToEnd => end_to_end::sustained(settings).await,
            Self::Latency1000 => end_to_end::latency_at_1000(settings).await,
            Self::Latency30 => end_to_end::latency_at_30(settings).await,
            Self::Spike => spike::run(settings).await,
            Self::Start => start::run(settings).await,
            Self::Gas => gas::run(settings).await,
            Self::History => history::run(settings).await,
            Self::Soak => long::soak(settings).await,
            Self::Replicas => long::replicas(settings).await,
            Self::BlockTimes => long::block_times(settings).await,
            Self::Smoke => smoke::run(settings).await,
        }
    }
}
