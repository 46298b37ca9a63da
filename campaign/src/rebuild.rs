//! `campaign rebuild`: works all tables out from the ledger once more. It may run beside the service.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use secrecy::SecretString;

use crate::store::{Rebuilt, Store};

/// Works all tables out from the ledger's events once more, compares them with those there are, and prints what came out as
/// JSON; checks every seal on the way.
///
/// The service may run meanwhile. Only with `--swap` does the last part, which compares and replaces, keep it from writing
/// for as long as it takes. Exit status: 0 if all is as the ledger says, 1 if something was not, replaced or not, 2 if
/// that could not be found out.
#[derive(Debug, Clone, Args)]
pub struct Rebuild {
    /// The service's own database, which must exist.
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite://data/campaign.db", hide_env_values = true)]
    pub database_url: SecretString,

    /// Replace the tables that are not what the ledger says, unless the ledger itself was changed.
    #[arg(long)]
    pub swap: bool,
}

impl Rebuild {
    /// Rebuilds, prints what came out, and says so as the exit status of the process.
    pub async fn run(self) -> ExitCode {
        match self.rebuild().await {
            Ok(rebuilt) if rebuilt.differences.is_empty() && rebuilt.broken_seal.is_none() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::from(1),
            Err(error) => {
                eprintln!("Error: {error:?}");
                ExitCode::from(2)
            }
        }
    }

    #[expect(clippy::print_stdout, reason = "this is the command's output")]
    async fn rebuild(&self) -> anyhow::Result<Rebuilt> {
        shared::db::ensure_exists(&self.database_url)?;
        let store = Store::open(&self.database_url).await.context("cannot open the database of DATABASE_URL")?;
        let rebuilt = store.rebuild(self.swap).await.context("cannot rebuild")?;
        store.database().close().await;
        println!("{}", serde_json::to_string_pretty(&rebuilt)?);
        Ok(rebuilt)
    }
}
