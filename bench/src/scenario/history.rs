//! Whether a store that has paid a million grants is as fast as an empty one.
//!
//! The past is made as it comes about: by uploads, through both services and the chain. Its grants belong to few wallets,
//! or the development chain, which copies all balances for each block, would be what is measured. At a few lengths of it
//! the same is measured: how many grants a second are completed while thousands wait, and the CPU time of one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::Serialize;
use serde_json::json;

use crate::{
    load::Epoch,
    print::say,
    report::Outcome,
    settings::Settings,
    spread::{float, median},
    watch::Watch,
    world::World,
};

/// Grants that are past when it is measured.
const LENGTHS: [u64; 3] = [1_000, 100_000, 1_000_000];

/// The length at which the headline is told.
const MILLION: u64 = 1_000_000;

/// Grants of one measurement, and how many there are at each length.
const PROBE: u64 = 20_000;
const PROBES: usize = 3;

/// Grants under way while the past is made, and the wallets that have them.
const OPEN: u64 = 20_000;
const WALLETS: u64 = 1_000;

const PATIENCE: Duration = Duration::from_mins(3);

/// What was measured at a length.
#[derive(Debug, Serialize)]
struct Point {
    past_grants: u64,
    grants_per_second: f64,
    cpu_ms_per_grant: f64,
    probes: Vec<Probe>,
    filled_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Probe {
    grants_per_second: f64,
    cpu_ms_per_grant: f64,
}

pub(super) async fn run(settings: &Settings) -> Result<Outcome> {
    let lengths = if settings.history.is_empty() { LENGTHS.to_vec() } else { settings.history.clone() };
    let mut world = World::start(settings).await?;
    let mut points: Vec<Point> = Vec::new();
    for length in lengths {
        if world.takes_too_long(length, &points) {
            say!("  {length} past grants take longer than this run may: `bench history` measures them");
            break;
        }
        let (began, before) = (Instant::now(), world.next);
        world.upload_to(length.saturating_sub(before), OPEN, |number| number % WALLETS).await?;
        world.quiet(PATIENCE).await?;
        let grown = float(world.next - before);
        let filled_per_second = (grown > 0.0).then(|| grown / began.elapsed().as_secs_f64());
        let past_grants = world.next;
        let mut probes = Vec::new();
        for _ in 0..PROBES {
            probes.push(world.probe().await?);
        }
        let middle = |of: fn(&Probe) -> f64| median(&probes.iter().map(of).collect::<Vec<_>>());
        let point = Point {
            past_grants,
            grants_per_second: middle(|probe| probe.grants_per_second).context("there are probes")?,
            cpu_ms_per_grant: middle(|probe| probe.cpu_ms_per_grant).context("there are probes")?,
            probes,
            filled_per_second,
        };
        say!(
            "  {past_grants} past grants: {:.0} grants/s, {:.3} ms of CPU each",
            point.grants_per_second,
            point.cpu_ms_per_grant
        );
        points.push(point);
    }
    let memory = world.processes().await?.usages();
    world.stop().await?;
    let (first, last) = points.first().zip(points.last()).context("no length of history to measure")?;
    // What was not run is not told.
    let figures = if last.past_grants >= MILLION && points.len() > 1 {
        json!({ "history_ratio": last.grants_per_second / first.grants_per_second })
    } else {
        json!({})
    };
    Ok(Outcome { figures, details: json!({ "points": points, "memory": memory, "settings": settings.describe() }) })
}

impl World {
    /// Whether making so long a past, as fast as the last one was made, would not be over in time.
    fn takes_too_long(&self, length: u64, points: &[Point]) -> bool {
        let Some(deadline) = self.settings.deadline else { return false };
        let Some(per_second) = points.last().and_then(|point| point.filled_per_second) else { return false };
        let seconds = float(length.saturating_sub(self.next) + PROBES as u64 * PROBE) / per_second;
        Instant::now() + Duration::from_secs_f64(seconds) > deadline
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
            grants_per_second: curve.rate(from, until).context("it took longer than a moment")?,
            cpu_ms_per_grant: cpu.as_secs_f64() * 1e3 / float(PROBE),
        })
    }

    async fn services_cpu(&self) -> Result<Duration> {
        let usages = self.processes().await?.usages();
        Ok(["campaign", "blockchain"].iter().filter_map(|name| usages.get(*name)).map(|usage| usage.cpu).sum())
    }
}
