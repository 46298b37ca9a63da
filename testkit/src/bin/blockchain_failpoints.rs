//! The blockchain service with its fail points compiled in (see `shared::fail_point`).

use std::process::ExitCode;

use blockchain::config::Cli;
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    blockchain::run(Cli::parse().config).await
}
