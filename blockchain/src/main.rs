//! The blockchain service's process. All it does is in the library.

use std::process::ExitCode;

use blockchain::config::{Cli, Command};
use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Cli { command, config } = Cli::parse();
    match command {
        None => blockchain::run(config).await,
        Some(Command::Deploy(deploy)) => blockchain::run_deploy(deploy).await,
        Some(Command::Pause(pausing)) => blockchain::run_pause(pausing, true).await,
        Some(Command::Unpause(pausing)) => blockchain::run_pause(pausing, false).await,
        Some(Command::Audit(audit)) => Ok(audit.run().await),
    }
}
