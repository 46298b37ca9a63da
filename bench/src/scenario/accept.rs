//! How many requests a second are accepted, durably, and how fast.
//!
//! Only accepting is measured: the blockchain service does not run, the emulator is stopped once the campaign service is
//! ready, and the outbox fills. Nothing of the ledger is left out: campaign, budget, events and seals are on the path.

use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;
use testkit::Which;
use tokio::time::sleep;

use crate::{
    arrivals::{Phase, Schedule},
    load::{Epoch, Load, Pace, Request, Sent},
    print::say,
    report::Outcome,
    settings::{Database, Settings},
    spread::{Spread, float},
    world::{Services, World},
};

/// How long the ceiling is looked for, each step of the search takes, and the latency is measured.
const SATURATED_SECONDS: u64 = 5;
const STEP_SECONDS: f64 = 6.0;
const LATENCY_SECONDS: f64 = 20.0;

/// What the latencies of the first requests say is of the start.
const WARM_UP_SECONDS: f64 = 1.0;

/// Steps of the search, at most, and how close the highest rate that is sustained and the lowest that is not shall be.
const STEPS: usize = 8;
const CLOSE: f64 = 1.05;

/// How long the answers to the last requests of a step are waited for: when they are late, the step has failed already.
const PATIENCE: Duration = Duration::from_secs(5);

/// A rate is sustained if no request fails and 99 % of them are answered within this time of when they were due: then
/// nothing piles up.
const SUSTAINED: Duration = Duration::from_millis(250);

/// The share of the ceiling at which latency is told, unless a rate is asked for.
const COMFORTABLE: f64 = 0.8;

/// A rate that was tried.
#[derive(Debug, Serialize)]
struct Step {
    offered_per_second: f64,
    accepted_per_second: f64,
    errors: std::collections::BTreeMap<u16, usize>,
    to_answer: Option<Spread>,
    generator_cpu_us_per_request: f64,
    is_sustained: bool,
}

impl Step {
    fn of(sent: &Sent, seconds: f64) -> Self {
        let late = |request: &&Request| request.due.as_secs_f64() >= WARM_UP_SECONDS;
        let spread = Spread::of(sent.accepted().filter(late).map(Request::latency));
        let errors = sent.errors();
        let is_fast = spread.as_ref().is_some_and(|spread| spread.p99 <= SUSTAINED.as_secs_f64());
        let until = seconds + SUSTAINED.as_secs_f64();
        let in_time = sent.accepted().filter(|request| request.answered.as_secs_f64() <= until).count();
        Self {
            offered_per_second: float(sent.requests.len()) / seconds,
            accepted_per_second: float(in_time) / seconds,
            is_sustained: errors.is_empty() && is_fast,
            generator_cpu_us_per_request: sent.cpu.as_secs_f64() * 1e6 / float(sent.requests.len()).max(1.0),
            errors,
            to_answer: spread,
        }
    }
}

pub(super) async fn run(figure: &str, database: Database, settings: &Settings) -> Result<Outcome> {
    // Nothing is published, so nothing would be gained by publishing it again.
    let settings = Settings { database, ..settings.clone() }.with(Which::Campaign, "REPUBLISH_AFTER_SECONDS", 86_400);
    let mut world = World::prepare(&settings, Services::None).await?;
    world.stack.campaign.start().await?;
    world.make_campaign().await?;
    world.stack.emulator().stop().await?;
    sleep(Duration::from_secs(1)).await;

    let saturated = world.send(Pace::Saturated(Duration::from_secs(SATURATED_SECONDS))).await?;
    let from = Duration::from_secs(1);
    let counted = saturated.accepted().filter(|request| request.answered >= from).count();
    let saturated = float(counted) / float(SATURATED_SECONDS - 1);
    say!("  {} connections, always busy: {saturated:.0} requests/s", settings.connections);

    let mut search = Search::new(saturated);
    let mut steps: Vec<Step> = Vec::new();
    while let Some(rate) = search.next() {
        let step = world.step(rate, STEP_SECONDS).await?;
        search.tried(rate, step.is_sustained);
        steps.push(step);
    }
    let sustained = steps.iter().filter(|step| step.is_sustained);
    let Some(best) = sustained.max_by(|a, b| a.offered_per_second.total_cmp(&b.offered_per_second)) else {
        bail!("no rate was sustained, although {saturated:.0} requests/s were answered");
    };
    let requests_per_second = best.accepted_per_second;

    let (before, metrics) = (world.processes().await?.usages(), world.metrics(Which::Campaign).await?);
    let seconds = settings.seconds_or(LATENCY_SECONDS);
    let latency = world.step(settings.rate_or(best.offered_per_second * COMFORTABLE), seconds).await?;
    let after = world.processes().await?.usages();
    let histograms = world.metrics(Which::Campaign).await?.since(&metrics).histograms();
    let requests = latency.accepted_per_second * seconds;
    let cpu = |name: &str| {
        let used = |usages: &crate::processes::Usages| usages.get(name).map(|usage| usage.cpu).unwrap_or_default();
        used(&after).saturating_sub(used(&before)).as_secs_f64() * 1e3 / requests
    };
    let p99_ms = latency.to_answer.as_ref().map(|spread| spread.p99 * 1e3);
    let details = json!({
        "conditions": "the blockchain service does not run and the emulator is stopped: only accepting is measured, while \
                       the outbox fills",
        "saturated_requests_per_second": saturated,
        "steps": steps,
        "at_80_percent": latency,
        "cpu_ms_per_request": { "campaign": cpu("campaign"), "bench": cpu("bench"), "postgres": cpu("postgres") },
        "memory": after,
        "histograms": histograms,
        "settings": settings.describe(),
    });
    world.stop().await?;
    Ok(Outcome {
        figures: json!({ figure: { "requests_per_second": requests_per_second, "p99_ms": p99_ms } }),
        details,
    })
}

/// The search for the highest rate that is sustained, between one that is and one that is not.
#[derive(Debug)]
struct Search {
    next: f64,
    sustained: Option<f64>,
    too_high: Option<f64>,
    steps: usize,
}

impl Search {
    /// Begins below what is answered when all connections are busy.
    fn new(saturated: f64) -> Self {
        Self { next: saturated * 0.95, sustained: None, too_high: None, steps: 0 }
    }

    /// The next rate to try, until it is known well enough.
    fn next(&self) -> Option<f64> {
        let is_known =
            self.sustained.zip(self.too_high).is_some_and(|(sustained, too_high)| too_high <= sustained * CLOSE);
        (!is_known && self.steps < STEPS).then_some(self.next)
    }

    fn tried(&mut self, rate: f64, is_sustained: bool) {
        self.steps += 1;
        if is_sustained {
            self.sustained = Some(self.sustained.map_or(rate, |known| known.max(rate)));
        } else {
            self.too_high = Some(self.too_high.map_or(rate, |known| known.min(rate)));
        }
        self.next = match (self.sustained, self.too_high) {
            (None, None) => self.next,
            (Some(sustained), None) => sustained * 1.1,
            (None, Some(too_high)) => too_high * 0.8,
            (Some(sustained), Some(too_high)) => (sustained * too_high).sqrt(),
        };
    }
}

impl World {
    async fn send(&mut self, pace: Pace) -> Result<Sent> {
        let epoch = Epoch::after(Duration::from_millis(300));
        let (targets, connections, wallets) = (self.targets()?, self.settings.connections, self.settings.wallets);
        let load = Load { targets, connections, first: self.next, wallets, epoch, patience: PATIENCE };
        let sent = load.run(pace).await?;
        self.next += sent.requests.len() as u64 + u64::try_from(connections)?;
        Ok(sent)
    }

    async fn step(&mut self, rate: f64, seconds: f64) -> Result<Step> {
        let schedule = Schedule::new(vec![Phase::new(rate, seconds)], self.settings.arrivals, self.settings.seed);
        let step = Step::of(&self.send(Pace::Scheduled(schedule.into())).await?, seconds);
        let p99 = step.to_answer.as_ref().map_or(f64::NAN, |spread| spread.p99 * 1e3);
        let verdict = if step.is_sustained { "sustained" } else { "not sustained" };
        say!(
            "  offered {:.0}/s: accepted {:.0}/s, p99 {p99:.1} ms, generator {:.1} µs a request, {verdict}",
            step.offered_per_second,
            step.accepted_per_second,
            step.generator_cpu_us_per_request
        );
        if !step.errors.is_empty() {
            say!("  errors by status: {:?}", step.errors);
        }
        Ok(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(saturated: f64, ceiling: f64) -> (Option<f64>, usize) {
        let mut search = Search::new(saturated);
        while let Some(rate) = search.next() {
            search.tried(rate, rate <= ceiling);
        }
        (search.sustained, search.steps)
    }

    #[test]
    fn the_ceiling_is_found_from_below_and_from_above() {
        for ceiling in [3_000.0, 9_000.0, 9_600.0, 10_000.0, 12_000.0] {
            let (sustained, steps) = found(10_000.0, ceiling);
            let sustained = sustained.unwrap();
            assert!(sustained <= ceiling && sustained > ceiling * 0.9, "{sustained} for {ceiling} in {steps} steps");
        }
        assert_eq!(found(10_000.0, 0.0), (None, STEPS));
    }
}
