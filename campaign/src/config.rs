//! The campaign service's settings: each from an argument or its environment variable.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use secrecy::SecretString;
use shared::pubsub;
use shared::telemetry::LogFormat;

use crate::domain::Patience;
use crate::rebuild::Rebuild;
use crate::store::Policy;

/// Accepts token-grant requests over HTTP and shows their status.
#[derive(Debug, Parser)]
#[command(name = "campaign", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// Something else than to run the service.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// How the service runs.
    #[command(flatten)]
    pub config: Config,
}

/// What the program can do besides running the service.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Work all tables out from the ledger once more, and compare.
    Rebuild(Rebuild),
}

/// How the service runs.
#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Config {
    /// Address and port to serve HTTP on.
    #[arg(long, env = "LISTEN_ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen_address: SocketAddr,

    /// This service's own database: `sqlite://path` (the file is created where missing) or
    /// `postgres://user:password@host/database`.
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite://data/campaign.db", hide_env_values = true)]
    pub database_url: SecretString,

    /// Which Pub/Sub.
    #[command(flatten)]
    pub pubsub: pubsub::Config,

    /// Seconds until a request that has no result yet is published again; the wait doubles each time.
    #[arg(long, env = "REPUBLISH_AFTER_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub republish_after_seconds: u64,

    /// How often a request is published again, until its grant needs the attention of an operator: by default for a day.
    #[arg(long, env = "REPUBLISH_LIMIT", default_value_t = 28, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub republish_limit: u32,

    /// Whether the first request for a campaign that nobody has made makes it, with the settings of a campaign of which
    /// nothing is said; otherwise such a request is refused.
    #[arg(long, env = "CAMPAIGN_AUTO_CREATE", default_value_t = true, action = clap::ArgAction::Set)]
    pub campaign_auto_create: bool,

    /// Seconds between two Merkle trees of a campaign whose grants are claimed: grants that come meanwhile share the next
    /// one, and the transaction that publishes its root.
    #[arg(long, env = "CLAIM_ROOT_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub claim_root_seconds: u64,

    /// Seconds that work under way has to finish after SIGTERM.
    #[arg(long, env = "SHUTDOWN_DEADLINE_SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub shutdown_deadline_seconds: u64,

    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
}

impl Config {
    /// How long a grant waits for its result, and how often it is published again.
    #[must_use]
    pub fn patience(&self) -> Patience {
        Patience { first_wait: Duration::from_secs(self.republish_after_seconds), limit: self.republish_limit }
    }

    /// How requests are accepted.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy { republish_after: self.patience().first_wait, auto_create: self.campaign_auto_create }
    }

    /// How often a tree of a campaign is made at most.
    #[must_use]
    pub fn claim_root_every(&self) -> Duration {
        Duration::from_secs(self.claim_root_seconds)
    }

    /// How long shutting down may take.
    #[must_use]
    pub fn shutdown_deadline(&self) -> Duration {
        Duration::from_secs(self.shutdown_deadline_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
