//! The campaign service's process. All it does is in the library.

use std::process::ExitCode;

use campaign::Config;
use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    campaign::run(Config::parse()).await
}
