//! `rebuild`: a ledger of a million events on both databases, rebuilt by `campaign rebuild`, and held to be exact.

mod report;

use std::{
    fs,
    io::{IsTerminal as _, stderr},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use campaign::store::Store;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use testkit::{
    Postgres, RunDir,
    ledger::{self, DAMAGES, Damage},
    paths::workspace_binary,
    process::Program,
    wait::POLL,
};

use self::report::{Figures, Report};
use crate::{interrupt::Interrupt, print::say};

/// How long the ledger is to be, and where.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// Entries that the ledger is to have at least
    #[arg(long, env = "REBUILD_EVENTS", default_value_t = 1_000_000)]
    events: u64,
    /// The databases
    #[arg(long, env = "REBUILD_DATABASES", value_enum, value_delimiter = ',', default_value = "sqlite,postgres")]
    databases: Vec<On>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum On {
    Sqlite,
    Postgres,
}

impl On {
    fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// Fills, rebuilds, damages and repairs; Ctrl-C ends it, and everything it has started.
pub(crate) async fn rebuild(settings: &Settings) -> Result<ExitCode> {
    let mut interrupt = Interrupt::new()?;
    tokio::select! {
        done = all(settings) => done,
        () = interrupt.next() => bail!("interrupted: everything is stopped"),
    }
}

async fn all(settings: &Settings) -> Result<ExitCode> {
    let mut report = Report::new(settings.events);
    for on in &settings.databases {
        // Boxed: the whole filling is in it.
        report.databases.push(Box::pin(figures(*on, settings.events)).await?);
        // After each database, so that an interrupted run has a report too.
        report.write()?;
    }
    let file = report.write()?;
    report.show();
    say!("written to {}", file.display());
    Ok(if report.is_exact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn figures(on: On, events: u64) -> Result<Figures> {
    let folder = RunDir::temporary()?;
    let url = match on {
        On::Sqlite => format!("sqlite://{}/ledger.db", folder.path().display()),
        On::Postgres => Postgres::shared().await?.create_database("rebuild").await?,
    };
    let store = Store::open(&url.as_str().into()).await?;

    let bar = ProgressBar::new(events);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {human_pos} events").expect("the template is valid"));
    bar.set_message(format!("filling {}", on.name()));
    if !stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let began = Instant::now();
    let kinds = ledger::fill(&store, events, |written| bar.set_position(written)).await?;
    let fill_seconds = began.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let entries: u64 = kinds.values().sum();
    say!("{}: {entries} events in {fill_seconds:.1} s", on.name());

    let output = folder.log("rebuild").with_extension("out");
    let program = Program::new("rebuild", workspace_binary("campaign")?, folder.log("rebuild"))
        .output(&output)
        .env("DATABASE_URL", &url)
        .arg("rebuild");
    let mut held = Held { on, program, output, findings: Vec::new() };
    let sound = json!({ "entries": entries, "broken_seal": null, "differences": [], "swapped": false });
    let first = held.run("as it was filled", false, &sound).await?;
    for damage in DAMAGES {
        damage.cause(&store).await?;
        let Damage { table, missing, unknown, .. } = damage;
        let differences = json!([{ "table": table, "missing": missing, "unknown": unknown }]);
        let found = json!({ "entries": entries, "broken_seal": null, "differences": differences, "swapped": true });
        // Each of these would find too what the one before it had not repaired.
        held.run(&format!("a row of {table} changed by hand"), true, &found).await?;
    }
    held.run("after the repairs", false, &sound).await?;
    let broken = ledger::break_seal(&store).await?;
    let found = json!({ "entries": entries, "broken_seal": broken, "differences": [], "swapped": false });
    held.run("an entry changed by hand", true, &found).await?;
    ledger::mend_seal(&store).await?;
    held.run("at the end", false, &sound).await?;
    store.database().close().await;

    let rebuild_seconds = first.said["milliseconds"].as_f64().context("it says how long it took")? / 1000.0;
    Ok(Figures {
        database: on.name(),
        events: entries,
        kinds,
        fill_seconds,
        rebuild_seconds,
        peak_resident_bytes: first.peak_resident_bytes,
        findings: held.findings,
    })
}

/// Runs of `campaign rebuild`, each held against what it has to say.
struct Held {
    on: On,
    program: Program,
    output: PathBuf,
    findings: Vec<String>,
}

struct Run {
    said: Value,
    peak_resident_bytes: Option<u64>,
}

impl Held {
    async fn run(&mut self, what: &str, swap: bool, expected: &Value) -> Result<Run> {
        let program = if swap { self.program.clone().arg("--swap") } else { self.program.clone() };
        // It is appended to.
        let _ = fs::remove_file(&self.output);
        let process = program.spawn()?;
        let mut peak_resident_bytes = None;
        let status = loop {
            peak_resident_bytes = resident_peak(process.id()).or(peak_resident_bytes);
            if let Some(status) = process.ended() {
                break status;
            }
            tokio::time::sleep(POLL).await;
        };
        let told = fs::read_to_string(&self.output).unwrap_or_default();
        let Ok(said) = serde_json::from_str::<Value>(&told) else {
            bail!("`campaign rebuild` ended with {status}, and said nothing: {}", process.log_tail());
        };
        let is_sound = expected["differences"] == json!([]) && expected["broken_seal"].is_null();
        let is_right =
            expected.as_object().is_some_and(|fields| fields.iter().all(|(name, value)| said[name] == *value))
                && status.code() == Some(i32::from(!is_sound));
        let seconds = said["milliseconds"].as_f64().unwrap_or_default() / 1000.0;
        let verdict = if is_right { "as it should be" } else { "WRONG" };
        say!("{}: {what}: {verdict}, {seconds:.1} s", self.on.name());
        if !is_right {
            self.findings.push(format!("{what}: {status} with {said}, instead of {expected}"));
        }
        Ok(Run { said, peak_resident_bytes })
    }
}

/// The most memory that a process has had so far, where the system says so.
fn resident_peak(process: u32) -> Option<u64> {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}
