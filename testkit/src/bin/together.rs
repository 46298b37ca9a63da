//! Both services in one process, over a broker in its memory: for a demonstration where there is no Pub/Sub emulator.
//! `together CAMPAIGN_ARGUMENTS -- BLOCKCHAIN_ARGUMENTS`.

use std::{env, iter::once, process::ExitCode, sync::Arc};

use anyhow::{Result, ensure};
use blockchain::config::Cli;
use clap::Parser as _;
use shared::{
    clock::Clock,
    pubsub::{Bus, Local},
    telemetry,
};

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let mut parts = arguments.splitn(2, |argument| argument == "--").map(<[String]>::to_vec);
    let mut of = |name: &str| once(name.to_owned()).chain(parts.next().unwrap_or_default());
    let campaign::Cli { config: campaign, .. } = campaign::Cli::parse_from(of("campaign"));
    let Cli { config: blockchain, .. } = Cli::parse_from(of("blockchain"));

    let metrics = telemetry::start(campaign.log_format);
    let bus: Arc<dyn Bus> = Arc::new(Local::new(Clock::system()));
    let services =
        (campaign::serve(campaign, Arc::clone(&bus), metrics.clone()), blockchain::serve(blockchain, bus, metrics));
    // Neither goes on without the other.
    tokio::try_join!(well(services.0), well(services.1)).map(drop)
}

/// What a service that did not end well is to the process.
async fn well(service: impl Future<Output = Result<ExitCode>>) -> Result<()> {
    ensure!(service.await? == ExitCode::SUCCESS, "a service ended, see above");
    Ok(())
}
