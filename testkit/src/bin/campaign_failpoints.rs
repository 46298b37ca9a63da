//! The campaign service with its fail points compiled in (see `shared::fail_point`).

use std::process::ExitCode;

use campaign::Config;
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    campaign::run(Config::parse()).await
}
