//! `stack`: runs the whole system on this machine, for a demonstration, for development and for tests that need it whole.
//! The Makefile's targets are short names for its commands.

mod chaos;
mod demo;
mod interrupt;
mod print;
mod rebuild;
mod run;
mod show;
mod state;
mod table;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use self::run::Mode;

/// Runs the whole system on this machine: Pub/Sub emulator, chain, contracts, databases and both services.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything, grant tokens to all participants, compare ledger and chain, stop everything
    Demo {
        /// Who gets tokens: CSV with the columns `user_id`, `wallet_address` (may be empty) and `token_amount`
        #[arg(long, default_value = "testkit/participants.csv")]
        participants: PathBuf,
        /// Seconds between two blocks
        #[arg(long, env = "BLOCK_TIME_SECONDS", default_value_t = 1.0)]
        block_time: f64,
    },
    /// Cause faults under load, seed by seed, and hold what clients were promised against the chain
    Chaos {
        #[command(flatten)]
        settings: chaos::Settings,
    },
    /// Fill a ledger on both databases, rebuild what follows from it, and hold that to be exact
    Rebuild {
        #[command(flatten)]
        settings: rebuild::Settings,
    },
    /// Start everything on the ports of the specification, and leave it running
    Up {
        #[command(flatten)]
        settings: run::Settings,
    },
    /// Start what the services need (emulator, chain, contracts), and leave it running
    Dev {
        #[command(flatten)]
        settings: run::Settings,
    },
    /// Stop what `up` or `dev` has started
    Stop,
    /// Start everything on free ports, run a command that is told where, stop everything
    Exec {
        /// The command and its arguments; it sees `CAMPAIGN_URL`, `BLOCKCHAIN_URL`, `PUBSUB_EMULATOR_HOST`, `GCP_PROJECT_ID` and `RPC_URL`
        #[arg(required = true, trailing_var_arg = true)]
        command: Vec<String>,
    },
    /// What runs, how it is, and what it has done
    Status,
    /// Follow the logs of both services
    Logs,
    /// Watch queue and counters until interrupted
    Monitor {
        /// Seconds between two looks
        #[arg(long, default_value_t = 1.0)]
        interval: f64,
        /// Stop after so many looks
        #[arg(long)]
        count: Option<u64>,
    },
    /// What `up` and `dev` leave running
    #[command(hide = true)]
    Serve {
        #[arg(value_enum)]
        mode: Mode,
        #[command(flatten)]
        settings: run::Settings,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo { participants, block_time } => Box::pin(demo::demo(&participants, block_time)).await,
        Command::Chaos { settings } => Box::pin(chaos::chaos(&settings)).await,
        Command::Rebuild { settings } => rebuild::rebuild(&settings).await,
        Command::Up { settings } => run::up(Mode::Up, &settings).await,
        Command::Dev { settings } => run::up(Mode::Dev, &settings).await,
        Command::Stop => run::stop().await,
        Command::Exec { command } => Box::pin(run::exec(&command)).await,
        Command::Status => show::status().await,
        Command::Logs => show::logs(),
        Command::Monitor { interval, count } => show::monitor(interval, count).await,
        Command::Serve { mode, settings } => Box::pin(run::serve(mode, &settings)).await,
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
