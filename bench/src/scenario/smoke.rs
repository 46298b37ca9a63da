//! A few seconds of load on a real system: not to learn anything of the services, but to know that the benchmark works.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::end_to_end::show;
use crate::{measure::Plan, report::Outcome, settings::Settings, world::World};

pub(super) async fn run(settings: &Settings) -> Result<Outcome> {
    let settings = Settings { block_time: settings.block_time.min(0.25), ..settings.clone() };
    let mut world = World::start(&settings).await?;
    let measured = world.measure(&Plan::steady(settings.rate_or(50.0), 1.0, settings.seconds_or(3.0))).await?;
    // What an upload asks for is seen in the same way.
    world.upload(100, u64::MAX).await?;
    world.quiet(settings.patience()).await?;
    world.stop().await?;
    show(&measured);
    ensure!(measured.error_count() == 0, "{} errors, {} grants lost", measured.error_count(), measured.lost);
    ensure!(!measured.stages.is_empty(), "no stage was seen");
    let spread = measured.to_completed.clone().context("no grant was completed")?;
    let block = measured.to_block.clone().context("no grant was in a block")?;
    ensure!(block.p50 <= spread.p50, "grants are in a block before they are completed");
    let peak = |name: &str| measured.memory.get(name).map(|usage| usage.peak_mb);
    let figures = json!({ "smoke": {
        "grants_per_second": measured.completed_per_second,
        "errors": measured.error_count(),
        "mean_seconds": spread.mean,
        "p50_seconds": spread.p50,
        "p99_seconds": spread.p99,
        "cpu_ms_per_grant": measured.cpu_ms_of_services(),
        "memory_mb": { "campaign": peak("campaign"), "blockchain": peak("blockchain") },
    } });
    Ok(Outcome { figures, details: json!({ "settings": settings.describe(), "runs": [measured] }) })
}
