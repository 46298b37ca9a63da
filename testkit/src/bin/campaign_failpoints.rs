//! The campaign service with its fail points compiled in (see `shared::fail_point`).

use std::process::ExitCode;

use campaign::config::{Cli, Command};
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Cli { command, config } = Cli::parse();
    match command {
        None => campaign::run(config).await,
        Some(Command::Rebuild(rebuild)) => Ok(rebuild.run().await),
    }
}
