//! Ten times the load for ten seconds, on top of a steady rate: is anything lost, and when is all as before?

use anyhow::{Context as _, Result};
use serde_json::json;

use super::end_to_end::show;
use crate::{
    arrivals::Phase,
    measure::{Plan, Second},
    print::say,
    report::{Outcome, number},
    settings::Settings,
    world::World,
};

const STEADY_PER_SECOND: f64 = 300.0;
const TIMES: f64 = 10.0;

/// Seconds before, of, and after the spike. The first few say what starting costs.
const BEFORE: u32 = 30;
const SPIKE: u32 = 10;
const AFTER: u32 = 40;
const WARM_UP: u32 = 5;

/// What is still normal, in multiples of the worst second before the spike.
const NORMAL: f64 = 1.1;

/// So many seconds in a row have to be normal.
const IN_A_ROW: usize = 3;

pub(super) async fn run(settings: &Settings) -> Result<Outcome> {
    let rate = settings.rate_or(STEADY_PER_SECOND);
    let phase = |rate, seconds: u32| Phase::new(rate, f64::from(seconds));
    let phases = vec![phase(rate, BEFORE), phase(rate * TIMES, SPIKE), phase(rate, AFTER)];
    let mut world = World::start(settings).await?;
    let measured = world.measure(&Plan { phases, warm_up: f64::from(WARM_UP), stages: true }).await?;
    world.stop().await?;
    show(&measured);

    let (from, until, end) = (WARM_UP as usize, BEFORE as usize, (BEFORE + SPIKE) as usize);
    let loaded = measured.seconds.get(..(BEFORE + SPIKE + AFTER) as usize).context("a load of so many seconds")?;
    let before = loaded[from..until].iter().filter_map(|second| second.to_completed_p99);
    let normal = before.reduce(f64::max).context("no grant was completed before the spike")?;
    let recovered = recovery(&loaded[end..], normal * NORMAL);
    match recovered {
        Some(seconds) => say!("  p99 before {} s; normal again {seconds} s after the spike", number(normal)),
        None => say!("  p99 before {} s; not normal again within {AFTER} s", number(normal)),
    }
    // Not shorter than it was waited for, where it was not seen.
    let recovery_seconds = recovered.unwrap_or(AFTER as usize);
    Ok(Outcome {
        figures: json!({ "spike": { "lost": measured.error_count(), "recovery_seconds": recovery_seconds } }),
        details: json!({
            "settings": settings.describe(),
            "phases_seconds": { "before": BEFORE, "spike": SPIKE, "after": AFTER },
            "normal_p99_seconds": normal,
            "recovered": recovered.is_some(),
            "runs": [measured],
        }),
    })
}

/// Seconds until requests are served within `bound` again (their 99th percentile), for a few seconds in a row.
fn recovery(after: &[Second], bound: f64) -> Option<usize> {
    let is_normal = |second: &Second| second.to_completed_p99.is_some_and(|p99| p99 <= bound);
    after.windows(IN_A_ROW).position(|seconds| seconds.iter().all(is_normal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(p99: &[f64]) -> Vec<Second> {
        p99.iter().map(|p99| Second { to_completed_p99: Some(*p99), ..Second::default() }).collect()
    }

    #[test]
    fn normal_is_what_stays_normal() {
        assert_eq!(recovery(&seconds(&[1.0, 1.0, 1.0]), 1.1), Some(0));
        assert_eq!(recovery(&seconds(&[5.0, 1.0, 3.0, 1.0, 1.0, 1.0, 9.0]), 1.1), Some(3));
        assert_eq!(recovery(&seconds(&[5.0, 1.0, 1.0, 2.0]), 1.1), None);
        let mut silent = seconds(&[1.0, 1.0, 1.0]);
        silent[1].to_completed_p99 = None;
        assert_eq!(recovery(&silent, 1.1), None);
    }
}
