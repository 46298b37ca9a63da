//! Whether a store that has paid a million grants is as fast as an empty one.
//!
//! The past is made as it comes about: by uploads, through both services and the chain. At a few lengths of it the same is
//! measured: how many grants a second are completed while thousands wait, and the CPU time of one.
//!
//! A machine that is shared differs from minute to minute by more than a past could make out, so each length is held
//! against a young store that runs beside it: one is measured after the other, again and again. What the old one does while
//! nobody asks for anything slows both; of that only its own CPU time tells.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::json;

use crate::{
    load::Epoch,
    print::say,
    report::Outcome,
    settings::{FEW_WALLETS, Settings},
    spread::{float, median},
    watch::Watch,
    world::World,
};

/// Grants that are past when it is measured.
const LENGTHS: [u64; 2] = [100_000, 1_000_000];

/// The length at which the headline is told.
const MILLION: u64 = 1_000_000;

/// Grants that are past in the young store, with which plans and caches are made.
const YOUNG: u64 = 1_000;

/// Grants of one measurement, and how often both stores are measured.
const PROBE: u64 = 20_000;
const PAIRS: usize = 3;

/// Grants under way while the past is made.
const OPEN: u64 = 20_000;

const PATIENCE: Duration = Duration::from_mins(3);

/// What was measured at a length.
#[derive(Debug, Serialize)]
struct Point {
    /// Each store's past at the first of its measurements, and the medians of all of them.
    young: Probe,
    old: Probe,
    /// The old store to the young one: medians of the pairs.
    speed_ratio: f64,
    cpu_ratio: f64,
    pairs: Vec<Pair>,
    filled_per_second: Option<f64>,
}

/// Both stores, one measured after the other.
#[derive(Debug, Serialize)]
struct Pair {
    young: Probe,
    old: Probe,
}

/// How fast a store was.
#[derive(Debug, Serialize)]
struct Probe {
    past_grants: u64,
    grants_per_second: f64,
    cpu_ms_per_grant: f64,
}

pub(super) async fn run(settings: &Settings) -> Result<Outcome> {
    let lengths = if settings.history.is_empty() { LENGTHS.to_vec() } else { settings.history.clone() };
    let settings = &Settings { wallets: FEW_WALLETS, ..settings.clone() };
    let mut old = World::start(settings).await?;
    let mut points: Vec<Point> = Vec::new();
    for length in lengths {
        if old.takes_too_long(length, &points) {
            say!("  {length} past grants take longer than this run may: `bench history` measures them");
            break;
        }
        let filled_per_second = old.grow(length).await?;
        let mut young = World::start(settings).await?;
        young.grow(YOUNG).await?;
        let mut pairs = Vec::new();
        for _ in 0..PAIRS {
            pairs.push(Pair { young: young.probe().await?, old: old.probe().await? });
        }
        young.stop().await?;
        let point = Point::of(pairs, filled_per_second)?;
        for Probe { past_grants, grants_per_second, cpu_ms_per_grant } in [&point.young, &point.old] {
            say!("  {past_grants} past grants: {grants_per_second:.0} grants/s, {cpu_ms_per_grant:.3} ms of CPU each");
        }
        say!("  the second to the first: {:.2} as fast, {:.2} times the CPU", point.speed_ratio, point.cpu_ratio);
        points.push(point);
    }
    let memory = old.processes().await?.usages();
    old.stop().await?;
    // What was not run is not told.
    let figures = match points.last() {
        Some(last) if last.old.past_grants >= MILLION => json!({ "history_ratio": last.speed_ratio }),
        _ => json!({}),
    };
    Ok(Outcome { figures, details: json!({ "points": points, "memory": memory, "settings": settings.describe() }) })
}

impl Point {
    fn of(pairs: Vec<Pair>, filled_per_second: Option<f64>) -> Result<Self> {
        let first = pairs.first().context("no pair was measured")?;
        let middle = |of: &dyn Fn(&Pair) -> f64| median(&pairs.iter().map(of).collect::<Vec<_>>()).unwrap_or_default();
        let middle_of = |of: fn(&Pair) -> &Probe| Probe {
            past_grants: of(first).past_grants,
            grants_per_second: middle(&|pair| of(pair).grants_per_second),
            cpu_ms_per_grant: middle(&|pair| of(pair).cpu_ms_per_grant),
        };
        Ok(Self {
            young: middle_of(|pair| &pair.young),
            old: middle_of(|pair| &pair.old),
            speed_ratio: middle(&|pair| pair.old.grants_per_second / pair.young.grants_per_second),
            cpu_ratio: middle(&|pair| pair.old.cpu_ms_per_grant / pair.young.cpu_ms_per_grant),
            filled_per_second,
            pairs,
        })
    }
}

impl World {
    /// Whether making so long a past, as fast as the last one was made, would not be over in time.
    fn takes_too_long(&self, length: u64, points: &[Point]) -> bool {
        let Some(deadline) = self.settings.deadline else { return false };
        let Some(per_second) = points.last().and_then(|point| point.filled_per_second) else { return false };
        let seconds = float(length.saturating_sub(self.next) + 2 * PAIRS as u64 * PROBE) / per_second;
        Instant::now() + Duration::from_secs_f64(seconds) > deadline
    }

    /// Makes the past this long; returns how many grants a second that took, if any.
    async fn grow(&mut self, length: u64) -> Result<Option<f64>> {
        let (began, before) = (Instant::now(), self.next);
        self.upload(length.saturating_sub(before), OPEN).await?;
        self.quiet(PATIENCE).await?;
        let grown = float(self.next - before);
        Ok((grown > 0.0).then(|| grown / began.elapsed().as_secs_f64()))
    }

    /// Completions a second while grants wait, and the CPU time of both services for each.
    async fn probe(&mut self) -> Result<Probe> {
        let campaign = self.targets()?[0];
        let before = self.services_cpu().await?;
        let first = self.next;
        let epoch = Epoch::after(Duration::ZERO);
        let watch = Watch::completed(campaign, Duration::from_millis(20), epoch);
        self.upload(PROBE, u64::MAX).await?;
        self.quiet(PATIENCE).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let cpu = self.services_cpu().await?.saturating_sub(before);
        let curve = watch.curve();
        // Its start and its end are left out, where fewer wait than fill the blocks.
        let from = curve.reached(first + PROBE / 10).context("a tenth was completed")?;
        let until = curve.reached(first + PROBE * 9 / 10).context("nine tenths were completed")?;
        Ok(Probe {
            past_grants: first,
            grants_per_second: curve.rate(from, until).context("it took longer than a moment")?,
            cpu_ms_per_grant: cpu.as_secs_f64() * 1e3 / float(PROBE),
        })
    }

    async fn services_cpu(&self) -> Result<Duration> {
        let usages = self.processes().await?.usages();
        Ok(["campaign", "blockchain"].iter().filter_map(|name| usages.get(*name)).map(|usage| usage.cpu).sum())
    }
}
