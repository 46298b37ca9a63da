//! The campaign service's process. All it does is in the library.

use std::process::ExitCode;

use campaign::config::{Cli, Command};
use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Cli { command, config } = Cli::parse();
    match command {
        None => campaign::run(config).await,
        Some(Command::Rebuild(rebuild)) => Ok(rebuild.run().await),
    }
}
