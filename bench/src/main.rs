//! `bench`: measures the whole system from outside, on the real parts: what it accepts, how fast a grant is paid, and what
//! that costs. `make bench` runs it; docs/PERFORMANCE.md shows what it found.

mod arrivals;
mod compare;
mod connection;
mod load;
mod measure;
mod metrics;
mod plots;
mod print;
mod processes;
mod queue;
mod records;
mod report;
mod scenario;
mod settings;
mod spread;
mod template;
mod watch;
mod world;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use testkit::paths::workspace;
use tokio::signal::ctrl_c;

use self::{print::say, report::Report, scenario::Scenario, settings::Settings};

/// Measures the whole system through its public interface, on the real parts, and writes `target/reports/bench.json`
#[derive(Parser, Debug)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// What to measure; without a name, all that give the figures to be reached
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    #[command(flatten)]
    settings: Settings,
    /// The folder of another build's binaries of the services: both builds run in turn, and only their ratios are told
    #[arg(long, value_name = "FOLDER")]
    compare: Option<PathBuf>,
    /// How often both builds run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The folder of the report
    #[arg(long, value_name = "FOLDER")]
    reports: Option<PathBuf>,
}

/// How long all that gives the figures may take.
const ALL: Duration = Duration::from_mins(14);

#[derive(Subcommand, Debug)]
enum Command {
    /// Draw what the report has
    Plots {
        /// The folder of the report
        #[arg(long, value_name = "FOLDER")]
        reports: Option<PathBuf>,
        /// Where to; the folder of the report unless told
        #[arg(long, value_name = "FOLDER")]
        into: Option<PathBuf>,
    },
}

// One thread for all but the load: what measures should leave the cores to what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = tokio::select! {
        done = Box::pin(run(Arguments::parse())) => done,
        _ = ctrl_c() => Err(anyhow::anyhow!("interrupted: everything is stopped")),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    let or_usual = |folder: Option<PathBuf>| folder.unwrap_or_else(|| workspace().join("target/reports"));
    if let Some(Command::Plots { reports, into }) = arguments.command {
        let reports = or_usual(reports);
        draw(&Report::open(&reports, true)?, &into.unwrap_or(reports))?;
        return Ok(ExitCode::SUCCESS);
    }
    let folder = or_usual(arguments.reports);
    let mut settings = arguments.settings;
    let mut scenarios = arguments.scenarios;
    if scenarios.is_empty() {
        scenarios = Scenario::DEFAULT.to_vec();
        settings.deadline = Some(Instant::now() + ALL);
    }
    if let Some(other) = arguments.compare {
        ensure!(scenarios.len() == 1, "one scenario at a time is compared");
        let file = compare::compare(scenarios[0], &settings, &other, arguments.rounds, &folder).await?;
        say!("written to {}", file.display());
        return Ok(ExitCode::SUCCESS);
    }
    measure_all(&scenarios, &settings, &folder).await
}

/// Runs scenarios one after the other; what fails does not keep the others from running.
async fn measure_all(scenarios: &[Scenario], settings: &Settings, folder: &Path) -> Result<ExitCode> {
    let mut failed = false;
    let usual = settings.are_usual() && !scenarios.contains(&Scenario::Smoke);
    for scenario in scenarios {
        let name = scenario.name();
        say!("{name}");
        let began = Instant::now();
        let outcome = scenario.run(settings).await;
        // Read again each time: others may have written meanwhile.
        let mut report = Report::open(folder, usual)?;
        report.forget(&name, scenario.figures());
        match outcome {
            Ok(mut outcome) => {
                outcome.details["machine"] = report::machine();
                outcome.details["took_seconds"] = json!(began.elapsed().as_secs_f64());
                report.add(&name, outcome);
            }
            Err(error) => {
                failed = true;
                eprintln!("{name} failed: {error:#}");
            }
        }
        report.write()?;
    }
    let report = Report::open(folder, usual)?;
    if usual {
        draw(&report, folder)?;
    } else {
        say!("the conditions are not those of the figures, which stay as they are");
    }
    say!("{}written to {}", report.table(), report.file().display());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn draw(report: &Report, folder: &Path) -> Result<()> {
    for file in plots::draw(&Value::Object(report.content().clone()), folder)? {
        say!("drawn: {}", file.display());
    }
    Ok(())
}
