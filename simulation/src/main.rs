//! `simulate`: runs worlds on all cores, and tells the shortest story of each that breaks a rule.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use serde::Serialize;
use simulation::bug::Bug;
use simulation::coverage;
use simulation::plan::Plan;
use simulation::run::{Outcome, Stage};
use simulation::story::{self, Story};

/// Runs both services over a simulated broker and a simulated chain, every fault decided by one number.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Options {
    /// How many worlds are run.
    #[arg(long, env = "SIM_SEEDS", default_value_t = 1000)]
    seeds: u64,

    /// The number of the first.
    #[arg(long, env = "SIM_FIRST", default_value_t = 0)]
    first: u64,

    /// Runs the world of this number alone, and prints all that happens in it.
    #[arg(long, env = "SIM_SEED")]
    seed: Option<u64>,

    /// How many worlds run at the same time; 0 for as many as there are cores.
    #[arg(long, env = "SIM_JOBS", default_value_t = 0)]
    jobs: usize,

    /// Runs every so many worlds twice and compares their logs; 1 for every world, 0 for none.
    #[arg(long, env = "SIM_REPLAY_EVERY", default_value_t = 100)]
    replay_every: u64,

    /// Plants a mistake, to see that it is found.
    #[arg(long, env = "SIM_BUG")]
    bug: Option<Bug>,

    /// Stops after so many worlds that break a rule.
    #[arg(long, default_value_t = 5)]
    stories: usize,

    /// Where the report goes.
    #[arg(long, default_value = "target/reports/simulate.json")]
    report: PathBuf,
}

/// What came of all worlds.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// How many worlds were run.
    seeds: u64,
    first_seed: u64,
    /// Grants that were accepted.
    grants: u64,
    /// Requests that a campaign's budget did not allow.
    refused: u64,
    /// Claims that players have sent, some of them for a second time.
    claims: u64,
    /// Services that died.
    crashes: u64,
    /// Worlds that broke a rule.
    violations: usize,
    /// Whether every world that was run twice gave the same log, byte for byte.
    replayable: bool,
    /// How many were run twice.
    replayed: u64,
    turns: u64,
    /// Blocks that a reorg took away.
    reorged_blocks: u64,
    seconds: f64,
    grants_per_second: f64,
    /// How often each kind of turn was taken.
    turns_by_kind: BTreeMap<String, u64>,
    /// How often a step reached each point at which it can die.
    points: BTreeMap<String, u64>,
    /// Points at which a service can die and that no world has reached.
    points_missed: Vec<&'static str>,
    /// Points that were reached and that no service lists.
    points_unlisted: Vec<String>,
    /// The numbers of the worlds that broke a rule, and how.
    broken: BTreeMap<u64, String>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    match options.seed {
        Some(seed) => tell(&options, seed),
        None => run_all(&options),
    }
}

/// Runs one world and prints its log.
fn tell(options: &Options, seed: u64) -> Result<ExitCode> {
    let stage = Stage::new()?;
    let plan = Plan::new(seed);
    let outcome = stage.run(&plan, options.bug)?;
    show(&outcome);
    if outcome.violation.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    let story = story::shorten(&stage, &plan, outcome, options.bug, PATIENCE)?;
    show_story(&story, options.bug);
    Ok(ExitCode::FAILURE)
}

/// So many worlds reach every point.
const ENOUGH: u64 = 2000;

/// How long a story is shortened.
const PATIENCE: Duration = Duration::from_secs(30);

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn show(outcome: &Outcome) {
    for line in &outcome.log {
        println!("{line}");
    }
    println!("{} turns, {} grants, {} crashes", outcome.count.turns, outcome.count.grants, outcome.count.crashes);
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn show_story(story: &Story, bug: Option<Bug>) {
    let Story { plan, outcome, tried } = story;
    println!("\nThe shortest story, of {tried} that were tried ({} actions):", plan.actions.len());
    println!("{:?}\n{:?}", plan.settings, plan.hazards);
    for line in &outcome.log {
        println!("  {line}");
    }
    let bug = bug.map(|bug| format!(" SIM_BUG={bug}")).unwrap_or_default();
    println!("To see it again: make simulate SIM_SEED={}{bug}", plan.seed);
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn run_all(options: &Options) -> Result<ExitCode> {
    let jobs = if options.jobs == 0 { thread::available_parallelism()?.get() } else { options.jobs };
    let began = Instant::now();
    let next = AtomicU64::new(options.first);
    let end = options.first + options.seeds;
    let report = Mutex::new(Report { first_seed: options.first, replayable: true, ..Report::default() });
    println!("{} worlds on {jobs} threads", options.seeds);

    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(|| work(options, &next, end, &report))).collect();
        let mut shown = Instant::now();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(Duration::from_millis(50));
            if shown.elapsed() > Duration::from_secs(10) {
                shown = Instant::now();
                let report = report.lock().unwrap_or_else(PoisonError::into_inner);
                let seconds = began.elapsed().as_secs_f64();
                #[expect(clippy::cast_precision_loss, reason = "for people")]
                let rate = report.seeds as f64 / seconds;
                println!("{:5.0} s  {:6} worlds, {rate:.1}/s, {} grants", seconds, report.seeds, report.grants);
            }
        }
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a thread of the simulation panicked"))??;
        }
        Ok(())
    })?;

    let mut report = report.into_inner().unwrap_or_else(PoisonError::into_inner);
    report.seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    {
        report.grants_per_second = report.grants as f64 / report.seconds;
    }
    report.points_missed = coverage::missed(&report.points);
    report.points_unlisted = coverage::unlisted(&report.points).into_iter().cloned().collect();
    if let Some(folder) = options.report.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let json = serde_json::to_string_pretty(&report)?;
    std::fs::write(&options.report, json).with_context(|| format!("cannot write {}", options.report.display()))?;
    println!(
        "{} worlds, {} grants, {} refused, {} claims, {} crashes, {} reorged blocks in {:.1} s ({:.0} grants/s): {} violations, {} replayed{}",
        report.seeds,
        report.grants,
        report.refused,
        report.claims,
        report.crashes,
        report.reorged_blocks,
        report.seconds,
        report.grants_per_second,
        report.violations,
        report.replayed,
        if report.replayable { "" } else { ", NOT REPLAYABLE" },
    );
    let missed = report.seeds >= ENOUGH && !report.points_missed.is_empty();
    if missed || !report.points_unlisted.is_empty() {
        println!("fail points never reached: {:?}; not listed: {:?}", report.points_missed, report.points_unlisted);
    }
    let covered = !missed && report.points_unlisted.is_empty();
    Ok(if report.violations == 0 && report.replayable && covered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The first lines in which two logs differ.
fn difference(one: &[String], other: &[String]) -> Option<[String; 2]> {
    let length = one.len().max(other.len());
    let line = |log: &[String], at: usize| log.get(at).cloned().unwrap_or_default();
    (0..length).map(|at| [line(one, at), line(other, at)]).find(|[one, other]| one != other)
}

/// Runs worlds until there are no more.
#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn work(options: &Options, next: &AtomicU64, end: u64, report: &Mutex<Report>) -> Result<()> {
    let stage = Stage::new()?;
    let lock = || report.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end || lock().violations >= options.stories {
            return Ok(());
        }
        let plan = Plan::new(seed);
        let outcome = stage.run(&plan, options.bug)?;
        let twice = options.replay_every > 0 && seed.is_multiple_of(options.replay_every);
        let differing = if twice { difference(&outcome.log, &stage.run(&plan, options.bug)?.log) } else { None };
        if let Some([first, second]) = &differing {
            println!("world {seed} went otherwise the second time:\n  {first}\n  {second}");
        }
        {
            let mut report = lock();
            report.seeds += 1;
            report.grants += outcome.count.grants;
            report.refused += outcome.count.refused;
            report.claims += outcome.count.claims;
            report.crashes += outcome.count.crashes;
            report.turns += outcome.count.turns;
            report.reorged_blocks += outcome.count.reorged;
            report.replayed += u64::from(twice);
            report.replayable &= differing.is_none();
            for (kind, times) in &outcome.count.kinds {
                *report.turns_by_kind.entry(kind.clone()).or_default() += times;
            }
            for (point, times) in &outcome.count.points {
                *report.points.entry(point.clone()).or_default() += times;
            }
            if let Some(violation) = &outcome.violation {
                report.violations += 1;
                report.broken.insert(seed, violation.to_string());
            }
        }
        if outcome.violation.is_some() {
            let story = story::shorten(&stage, &plan, outcome, options.bug, PATIENCE)?;
            let _one_at_a_time = lock();
            show_story(&story, options.bug);
        }
    }
}
