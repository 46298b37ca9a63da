//! `blockchain audit`: one audit, for an operator or a scheduler. It may run beside the service.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use shared::clock::Clock;
use shared::{db, telemetry};

use super::auditor::{Auditor, Error};
use super::reader::Reading;
use super::report::Report;
use crate::chain::{Chain, Rpc};
use crate::config::Config;
use crate::deployment::Deployment;
use crate::store::Store;

/// Compares what the ledgers say with what the distributor has paid in final blocks, and names each difference.
///
/// It reads the environment of the service, but for `SIGNER_KEY`. Exit status: 0 if ledger and chain are equal, 1 if they
/// differ, 2 if that could not be found out.
#[derive(Debug, Clone, Args)]
pub struct Audit {
    /// Where everything is.
    #[command(flatten)]
    pub config: Config,

    /// Print JSON.
    #[arg(long)]
    pub json: bool,

    /// Record results that were lost: payments in final blocks, as they should be, of which the ledger never heard. The
    /// service does so by itself.
    #[arg(long)]
    pub repair: bool,

    /// Forget what was read before of the chain and of the campaign service's events, and read all of it again.
    #[arg(long)]
    pub read_again: bool,
}

/// How often an audit is begun again because blocks were replaced meanwhile.
const TRIES: usize = 3;

impl Audit {
    /// Audits, prints what came out, and says so as the exit status of the process.
    pub async fn run(&self) -> ExitCode {
        telemetry::start(self.config.log_format);
        match self.report().await.and_then(|report| self.print(&report).map(|()| report.equal)) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::from(1),
            Err(error) => {
                eprintln!("Error: {error:?}");
                ExitCode::from(2)
            }
        }
    }

    #[expect(clippy::print_stdout, reason = "this is the command's output")]
    fn print(&self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(report)?);
        } else {
            print!("{report}");
        }
        Ok(())
    }

    async fn report(&self) -> anyhow::Result<Report> {
        let settings = self.config.validate_without_signer()?;
        db::ensure_exists(&self.config.database_url)?;
        let chain: Arc<dyn Chain> = Arc::new(Rpc::connect(&settings.rpc_urls)?);
        let (deployment, chain_id) = Deployment::verify_without_signer(&*chain, settings.addresses).await?;
        let store = Store::open(&self.config.database_url).await.context("cannot open the database of DATABASE_URL")?;
        let auditor = Auditor {
            repair: self.repair,
            ..Auditor::new(&self.config, &settings, &store, &chain, deployment, chain_id, Clock::system())?
        };
        if self.read_again {
            store.forget_chain(&auditor.reader.source).await?;
            store.forget_ledgers().await?;
        }
        let report = audit(&auditor).await;
        store.database().close().await;
        report
    }
}

async fn audit(auditor: &Auditor) -> anyhow::Result<Report> {
    for _ in 0..TRIES {
        let next_block = loop {
            if let Reading::UpTo { next_block } = auditor.read_once().await? {
                break next_block;
            }
        };
        let mut round = auditor.begin(next_block);
        loop {
            match auditor.step(&mut round).await {
                Ok(true) => {}
                Ok(false) => return Ok(round.into_report()),
                Err(Error::Replaced) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
    bail!("{}", Error::Replaced)
}
