//! `chaos`: the fault campaign, seed by seed, with its progress, its table and its report.

mod namespace;

use std::{
    io::{IsTerminal as _, stderr},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use testkit::{
    Database,
    chaos::{Area, Kind, Outcome, Plan, Report, Schedule, Selection, Venue},
    paths::workspace,
};

use crate::{
    interrupt::Interrupt,
    print::{raw, say},
    table::table,
};

/// How the campaign is to be.
#[derive(clap::Args)]
pub(crate) struct Settings {
    /// The first seed; the others follow it. Drawn unless given. A seed always has the same schedule
    #[arg(long, env = "CHAOS_SEED")]
    seed: Option<u64>,
    /// Seeds are begun until so many minutes are over
    #[arg(long, env = "CHAOS_MINUTES", default_value_t = 10.0)]
    minutes: f64,
    /// Run so many seeds, however long they take
    #[arg(long, env = "CHAOS_SEEDS")]
    seeds: Option<u64>,
    /// Kinds and areas of faults, with commas between them; `list` names them all
    #[arg(long, env = "CHAOS_FAULTS", default_value = "all")]
    faults: String,
    /// A seed for each of the selected kinds, with faults of that kind alone
    #[arg(long, env = "CHAOS_ONE_BY_ONE", default_value_t = false, value_parser = clap::builder::FalseyValueParser::new(), num_args = 0..=1, default_missing_value = "true")]
    one_by_one: bool,
    /// The database of all seeds; both in turn unless given
    #[arg(long, env = "CHAOS_DATABASE", value_enum)]
    database: Option<On>,
    /// Requests a second
    #[arg(long, env = "CHAOS_RATE", default_value_t = 240)]
    rate: u32,
    /// Seconds of load and faults in each seed
    #[arg(long, env = "CHAOS_LOAD_SECONDS", default_value_t = 12)]
    load_seconds: u64,
    /// Seconds after the last fault until a grant that is not final counts as stuck
    #[arg(long, env = "CHAOS_PATIENCE_SECONDS", default_value_t = 120)]
    patience_seconds: u64,
    /// Layers of protection to take away, with commas between them: the campaign has to find that out
    #[arg(long, env = "CHAOS_WITHOUT", value_delimiter = ',')]
    without: Vec<String>,
    /// Show the schedules, and run nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the figures into docs/RELIABILITY.md
    #[arg(long, env = "CHAOS_WRITE_TABLE", default_value_t = false, value_parser = clap::builder::FalseyValueParser::new(), num_args = 0..=1, default_missing_value = "true")]
    write_table: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum On {
    Sqlite,
    Postgres,
}

/// Runs the campaign; Ctrl-C ends it, and everything it has started.
pub(crate) async fn chaos(settings: &Settings) -> Result<ExitCode> {
    if settings.faults == "list" {
        list();
        return Ok(ExitCode::SUCCESS);
    }
    let plans = settings.plans()?;
    let first = settings.seed.unwrap_or_else(|| rand::random_range(0..1_000_000) * 2);
    if settings.dry_run {
        for (at, plan) in (0..settings.seeds.unwrap_or(plans.len() as u64)).zip(plans.iter().cycle()) {
            say!("{}", Schedule::of(first + at, plan));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let _temporary = namespace::enter()?;
    let mut interrupt = Interrupt::new()?;
    tokio::select! {
        done = campaign(settings, &plans, first) => done,
        () = interrupt.next() => bail!("interrupted: everything is stopped"),
    }
}

async fn campaign(settings: &Settings, plans: &[Plan], first: u64) -> Result<ExitCode> {
    let began = Instant::now();
    say!("fault campaign from seed {first} on: CHAOS_SEED={first} repeats it");
    let folder = workspace().join("target/chaos");
    let patience = Duration::from_secs(settings.patience_seconds);
    let venue = Venue::open(folder, settings.rate, patience).await?;
    let venue = Venue { without: settings.without.clone(), ..venue };
    say!("emulator and contracts are there after {:.1} s", began.elapsed().as_secs_f64());

    let mut report = Report::default();
    for (at, plan) in (0..).zip(plans.iter().cycle()) {
        if settings.is_over(at, plans.len() as u64, began.elapsed()) {
            break;
        }
        let schedule = Schedule::of(first + at, plan);
        run(&venue, &schedule, plan.length, &mut report).await;
        report.minutes = began.elapsed().as_secs_f64() / 60.0;
        // After each seed, so that an interrupted run has a report too.
        report.write()?;
    }

    let file = report.write()?;
    show(&report);
    say!("written to {}", file.display());
    if settings.write_table {
        say!("written to {}", report.write_table()?.display());
    }
    let failed = report.failed_seeds.len();
    say!("{} passed, {failed} failed", report.seeds - failed);
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs a seed and says what came of it.
async fn run(venue: &Venue, schedule: &Schedule, length: Duration, report: &mut Report) {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed} {msg}").expect("the template is fixed and valid"));
    if !stderr().is_terminal() {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let seed = schedule.seed;
    let outcome = venue.run(schedule, length, |now| {
        bar.set_message(format!("seed {seed}: {} faults, {} of {} grants final", now.faults, now.ended, now.accepted));
        bar.tick();
    });
    // Boxed: a whole stack is in it.
    let outcome = Box::pin(outcome).await;
    bar.finish_and_clear();
    match outcome {
        Ok(outcome) => {
            tell(&outcome);
            if !outcome.is_good() {
                say!("{schedule}");
                say!("  logs are in target/chaos/seed-{seed}");
            }
            report.add(outcome);
        }
        Err(error) => {
            say!("seed {seed} could not be run to its end: {error:#}\n{schedule}");
            report.add_broken(seed, format!("{error:#}"));
        }
    }
}

fn tell(outcome: &Outcome) {
    let Outcome { seed, database, verdict, recovery_seconds, .. } = outcome;
    let recovery = recovery_seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.1} s"));
    say!(
        "seed {seed:<8} {database:<8} {:>5.1} s  faults {:>4}  accepted {:>5}  completed {:>5}  failed {}  lost {}  \
         twice {}  wrong {}  stuck {}  refused {}  over budget {}  miscounted {}  skipped {}  recovery {recovery}",
        outcome.took_seconds,
        outcome.faults.values().sum::<usize>(),
        outcome.accepted,
        verdict.completed,
        verdict.failed.values().sum::<usize>(),
        verdict.lost,
        verdict.paid_twice,
        verdict.wrong_amount,
        verdict.stuck,
        verdict.refused,
        verdict.over_budget,
        verdict.miscounted,
        outcome.skipped,
    );
    for (difference, times) in &outcome.auditor {
        say!("  the product's auditor: {times} {difference}");
    }
    for list in [&verdict.differences, &outcome.contradictions, &outcome.findings] {
        for line in list.iter().take(10) {
            say!("  {line}");
        }
        if list.len() > 10 {
            say!("  and {} more", list.len() - 10);
        }
    }
}

fn show(report: &Report) {
    let count = |number: usize| number.to_string();
    let areas: Vec<(String, String)> =
        report.faults_by_area.iter().map(|(area, times)| (format!("  {area}"), times.to_string())).collect();
    let mut rows = vec![("seeds", count(report.seeds)), ("faults", count(report.faults))];
    rows.extend(areas.iter().map(|(area, times)| (&**area, times.clone())));
    rows.extend([
        ("fail points at which a service died", count(report.fail_points.len())),
        ("grants accepted", count(report.grants_accepted)),
        ("completed", count(report.completed)),
        ("failed, with a reason", count(report.failed)),
        ("lost", count(report.lost)),
        ("paid twice", count(report.paid_twice)),
        ("wrong amount or recipient", count(report.wrong_amount)),
        ("stuck", count(report.stuck)),
        ("campaigns above their budget", count(report.over_budget)),
        ("campaigns that miscount", count(report.miscounted)),
        ("budgets that ran out", count(report.budgets_exhausted)),
        ("looks at a budget", count(report.budget_looks)),
        ("requests refused, above a budget", count(report.refused)),
        ("grants that clients asked to cancel", count(report.unwanted)),
        ("uploads", count(report.uploads)),
        ("contradictory answers", count(report.contradictions)),
        ("differences that the product's auditor names", count(report.auditor.values().sum())),
        ("submissions that the contract skipped", count(report.skipped_by_contract)),
        ("longest time to recover", format!("{:.1} s", report.max_recovery_seconds)),
        ("altogether", format!("{:.1} min", report.minutes)),
    ]);
    raw(&table(&rows));
    for (kind, seconds) in &report.max_recovery_seconds_by_kind {
        say!("  {kind:<20} alone: recovered within {seconds:.1} s");
    }
}

fn list() {
    for area in Area::ALL {
        say!("{}", area.name());
        for kind in Kind::ALL.iter().filter(|kind| kind.area() == area) {
            say!("  {:<20} {}", kind.name(), kind.about());
        }
    }
}

impl Settings {
    /// One plan for all seeds, or one for each kind.
    fn plans(&self) -> Result<Vec<Plan>> {
        let selection = Selection::parse(&self.faults)?;
        let plan = |selection| Plan {
            selection,
            length: Duration::from_secs(self.load_seconds),
            database: self.database.map(|on| match on {
                On::Sqlite => Database::Sqlite,
                On::Postgres => Database::Postgres,
            }),
            campaign_points: campaign::FAIL_POINTS,
            blockchain_points: blockchain::FAIL_POINTS,
        };
        if self.one_by_one {
            let alone = |kind: Kind| {
                let database = [Database::Sqlite, Database::Postgres].into_iter().find(|on| kind.exists_on(*on));
                let only = plan(Selection::only(kind));
                Plan { database: only.database.filter(|on| kind.exists_on(*on)).or(database), ..only }
            };
            return Ok(selection.kinds().map(alone).collect());
        }
        Ok(vec![plan(selection)])
    }

    fn is_over(&self, seeds: u64, plans: u64, elapsed: Duration) -> bool {
        match self.seeds {
            Some(wanted) => seeds >= wanted,
            None if self.one_by_one => seeds >= plans,
            None => elapsed.as_secs_f64() >= self.minutes * 60.0,
        }
    }
}
