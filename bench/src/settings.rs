//! What a benchmark is told: on which parts, how, and with which settings of the services.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use testkit::Which;

use crate::arrivals::Arrivals;

/// Wallets where a scenario makes so many grants that the development chain, which copies all balances for each block, would
/// take all memory, and be what is measured, if each had a new one.
pub(crate) const FEW_WALLETS: u64 = 1_000;

/// Where the services keep their data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Database {
    /// A file for each service.
    #[default]
    Sqlite,
    /// A server of the benchmark's own, with the defaults that make commits durable.
    Postgres,
}

impl Database {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// What holds for all scenarios, unless one says otherwise.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    /// Requests a second, where the scenario has one rate; several for one run after another
    #[arg(long, env = "BENCH_RATE", value_delimiter = ',')]
    pub(crate) rate: Vec<f64>,
    /// Seconds of load, after the warm-up
    #[arg(long, env = "BENCH_SECONDS")]
    pub(crate) seconds: Option<f64>,
    /// Past grants at which `history` measures
    #[arg(long, env = "BENCH_HISTORY", value_delimiter = ',', value_name = "GRANTS")]
    pub(crate) history: Vec<u64>,
    /// Where the services keep their data
    #[arg(long, env = "BENCH_DATABASE", value_enum, default_value_t)]
    pub(crate) database: Database,
    /// Seconds between two blocks
    #[arg(long, env = "BENCH_BLOCK_TIME", default_value_t = 1.0)]
    pub(crate) block_time: f64,
    /// Connections that requests are sent over
    #[arg(long, default_value_t = 256)]
    pub(crate) connections: usize,
    /// How requests are spread over a second
    #[arg(long, value_enum, default_value_t)]
    pub(crate) arrivals: Arrivals,
    /// What random arrivals are drawn from
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// A variable of a service, such as `campaign.RUST_LOG=warn`; repeat it for more
    #[arg(long = "set", value_name = "SERVICE.KEY=VALUE", value_parser = variable)]
    pub(crate) variables: Vec<Variable>,
    /// The folder of other binaries of the services than those beside this program
    #[arg(long, value_name = "FOLDER")]
    pub(crate) binaries: Option<PathBuf>,
    /// When everything should be over: what would take longer is left out
    #[arg(skip)]
    pub(crate) deadline: Option<Instant>,
    /// How many wallets have the grants, in turn: a new one each, unless a scenario says otherwise
    #[arg(skip = u64::MAX)]
    pub(crate) wallets: u64,
    /// Seconds that grants have to complete, once the load is over
    #[arg(long, default_value_t = 60.0)]
    pub(crate) patience: f64,
}

/// A setting of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Variable {
    pub(crate) service: Which,
    pub(crate) key: String,
    pub(crate) value: String,
}

fn variable(text: &str) -> Result<Variable, &'static str> {
    let rule = "SERVICE.KEY=VALUE, where SERVICE is campaign or blockchain";
    let (name, value) = text.split_once('=').ok_or(rule)?;
    let (service, key) = name.split_once('.').ok_or(rule)?;
    let service = match service {
        "campaign" => Which::Campaign,
        "blockchain" => Which::Blockchain,
        _ => return Err(rule),
    };
    Ok(Variable { service, key: key.to_owned(), value: value.to_owned() })
}

impl Settings {
    pub(crate) fn block_time(&self) -> Duration {
        Duration::from_secs_f64(self.block_time)
    }

    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.patience)
    }

    /// Whether the figures may be told by their names, which say nothing of other conditions.
    pub(crate) fn are_usual(&self) -> bool {
        let own_load = self.rate.is_empty() && self.seconds.is_none() && self.history.is_empty();
        let own_parts = self.variables.is_empty() && self.binaries.is_none() && self.database == Database::Sqlite;
        own_load && own_parts && (self.block_time - 1.0).abs() < 1e-9 && !cfg!(debug_assertions)
    }

    /// The one rate, or the scenario's own.
    pub(crate) fn rate_or(&self, own: f64) -> f64 {
        self.rate.first().copied().unwrap_or(own)
    }

    pub(crate) fn seconds_or(&self, own: f64) -> f64 {
        self.seconds.unwrap_or(own)
    }

    /// With a variable of a service, unless it was set already.
    pub(crate) fn with(mut self, service: Which, key: &str, value: u64) -> Self {
        let is_set = self.variables.iter().any(|variable| variable.service == service && variable.key == key);
        if !is_set {
            self.variables.push(Variable { service, key: key.to_owned(), value: value.to_string() });
        }
        self
    }

    pub(crate) fn describe(&self) -> Value {
        let variables: Vec<_> = self
            .variables
            .iter()
            .map(|Variable { service, key, value }| {
                let service = match service {
                    Which::Campaign => "campaign",
                    Which::Blockchain => "blockchain",
                };
                format!("{service}.{key}={value}")
            })
            .collect();
        json!({
            "database": self.database.name(),
            "block_time_seconds": self.block_time,
            "connections": self.connections,
            "arrivals": if self.arrivals == Arrivals::Poisson { "poisson" } else { "constant" },
            "seed": self.seed,
            "wallets": (self.wallets < u64::MAX).then_some(self.wallets),
            "variables": variables,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_name_their_service() {
        let expected = Variable { service: Which::Campaign, key: "RUST_LOG".to_owned(), value: "a=b".to_owned() };
        assert_eq!(variable("campaign.RUST_LOG=a=b"), Ok(expected));
        for text in ["RUST_LOG=warn", "campaign.RUST_LOG", "emulator.X=1"] {
            variable(text).unwrap_err();
        }
    }
}
