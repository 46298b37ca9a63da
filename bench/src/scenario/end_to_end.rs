//! From a request to its grant's completion, at a steady rate.

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::{
    measure::{Measured, Plan},
    print::say,
    report::{Outcome, number},
    settings::Settings,
    world::World,
};

/// Requests a second that are to be sustained. A little above the round number, so that the chance of arrivals does not
/// decide whether that is reached.
const RATES: [f64; 2] = [2_050.0, 4_100.0];

const WARM_UP: f64 = 5.0;

/// Grants a second, sustained: the highest of the rates at which completions keep up and nothing fails; if none is, what
/// the lowest comes to, with its errors.
pub(super) async fn sustained(settings: &Settings) -> Result<Outcome> {
    let rates = if settings.rate.is_empty() { RATES.to_vec() } else { settings.rate.clone() };
    let mut runs: Vec<Measured> = Vec::new();
    for rate in rates {
        let measured = steady(settings, rate, settings.seconds_or(60.0)).await?;
        let is_sustained = measured.is_sustained;
        runs.push(measured);
        if !is_sustained {
            break;
        }
    }
    let best = runs.iter().rfind(|run| run.is_sustained).or(runs.first()).context("no rate to measure")?;
    // Whatever the heaviest load was, that memory was needed.
    let peak =
        |name: &str| runs.iter().filter_map(|run| run.memory.get(name)).map(|usage| usage.peak_mb).fold(0.0, f64::max);
    let figures = json!({
        "end_to_end": { "grants_per_second": best.completed_per_second, "errors": best.error_count() },
        "memory_mb": { "campaign": peak("campaign"), "blockchain": peak("blockchain") },
    });
    Ok(Outcome { figures, details: json!({ "settings": settings.describe(), "runs": runs }) })
}

pub(super) async fn latency_at_1000(settings: &Settings) -> Result<Outcome> {
    let measured = steady(settings, settings.rate_or(1000.0), settings.seconds_or(40.0)).await?;
    let spread = measured.to_completed.clone().context("no grant was completed")?;
    let figures = json!({
        "latency_at_1000": { "mean_seconds": spread.mean, "p50_seconds": spread.p50, "p99_seconds": spread.p99 },
        "cpu_ms_per_grant": measured.cpu_ms_of_services(),
    });
    Ok(Outcome { figures, details: json!({ "settings": settings.describe(), "runs": [measured] }) })
}

pub(super) async fn latency_at_30(settings: &Settings) -> Result<Outcome> {
    let measured = steady(settings, settings.rate_or(30.0), settings.seconds_or(60.0)).await?;
    let spread = measured.to_block.clone().context("no grant was in a block")?;
    let figures = json!({ "latency_at_30": { "p50_seconds": spread.p50, "p99_seconds": spread.p99 } });
    Ok(Outcome { figures, details: json!({ "settings": settings.describe(), "runs": [measured] }) })
}

/// A fresh system under a steady rate.
async fn steady(settings: &Settings, rate: f64, seconds: f64) -> Result<Measured> {
    let mut world = World::start(settings).await?;
    let measured = world.measure(&Plan::steady(rate, WARM_UP, seconds)).await?;
    world.stop().await?;
    show(&measured);
    Ok(measured)
}

/// Tells the most important of it.
pub(super) fn show(measured: &Measured) {
    say!(
        "  offered {:.0}/s: completed {:.0}/s, {} of {} accepted, {} lost, errors by status {:?}",
        measured.offered_per_second,
        measured.completed_per_second,
        measured.accepted,
        measured.requests,
        measured.lost,
        measured.errors
    );
    for (name, spread) in
        [("to answer", &measured.to_answer), ("to block", &measured.to_block), ("to completed", &measured.to_completed)]
    {
        let Some(spread) = spread else { continue };
        let (mean, p50, p99, max) = (number(spread.mean), number(spread.p50), number(spread.p99), number(spread.max));
        say!("  {name:<12} mean {mean} s, p50 {p50} s, p99 {p99} s, max {max} s");
    }
    let stages: Vec<_> =
        measured.stages.iter().map(|stage| format!("{} {:.0}", stage.name, stage.mean * 1e3)).collect();
    if !stages.is_empty() {
        say!("  stages, mean ms: {}", stages.join(", "));
    }
    let cpu: Vec<_> = measured.cpu_ms_per_grant.iter().map(|(name, cpu)| format!("{name} {cpu:.3}")).collect();
    say!("  CPU, ms a grant: {}; generator {:.1} µs a request", cpu.join(", "), measured.generator.cpu_us_per_request);
    let peak: Vec<_> = measured.memory.iter().map(|(name, usage)| format!("{name} {:.0}", usage.peak_mb)).collect();
    say!("  peak MB: {}", peak.join(", "));
    let chain = &measured.chain;
    say!(
        "  {} transactions in {} blocks, {:.0} grants each, {:.0} gas a grant",
        chain.transactions,
        chain.blocks,
        chain.grants_per_transaction,
        chain.gas_per_grant
    );
}
