//! Two builds of the services under the same load, one after the other, again and again. On a machine that others use too
//! a figure says little; the ratio of neighbours says more, and its spread says how much.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::{
    print::say,
    report::{Outcome, machine, number, numbers, table},
    scenario::Scenario,
    settings::Settings,
    spread::Range,
};

/// What of a run is compared besides the figures; a path may end early, and then all numbers below it are.
const COMPARED: [&str; 7] = [
    "completed_per_second",
    "cpu_ms_per_grant.campaign",
    "cpu_ms_per_grant.blockchain",
    "to_answer",
    "to_block",
    "to_completed",
    "chain.grants_per_transaction",
];

/// Of a spread.
const OF_SPREADS: [&str; 3] = ["mean", "p50", "p99"];

/// A figure of both builds, a pair for each round.
type Pairs = BTreeMap<String, Vec<(f64, f64)>>;

/// Runs a scenario on this build and on the other, so many times; writes what it has found into the folder.
pub(crate) async fn compare(
    scenario: Scenario,
    settings: &Settings,
    other: &Path,
    rounds: u32,
    folder: &Path,
) -> Result<PathBuf> {
    let mut pairs = Pairs::new();
    for round in 1..=rounds {
        let mut found = Vec::new();
        for (name, binaries) in [("A", settings.binaries.clone()), ("B", Some(other.to_path_buf()))] {
            say!("{}, round {round} of {rounds}, build {name}", scenario.name());
            let settings = Settings { binaries, ..settings.clone() };
            found.push(compared(&scenario.run(&settings).await?));
        }
        let [first, second] = found.try_into().ok().context("there are two builds")?;
        pair(&mut pairs, &first, &second);
    }
    ensure!(!pairs.is_empty(), "{} has nothing to compare", scenario.name());
    say!("A: {}", settings.binaries.as_deref().unwrap_or(Path::new("this build")).display());
    say!("B: {}", other.display());
    say!("{}", show(&pairs));
    let file = folder.join("compare.json");
    let told: BTreeMap<_, _> =
        pairs.iter().map(|(name, pairs)| (name, json!({ "pairs": pairs, "ratio": Range::of_ratios(pairs) }))).collect();
    let report = json!({
        "scenario": scenario.name(),
        "other": other,
        "settings": settings.describe(),
        "machine": machine(),
        "figures": told,
    });
    std::fs::create_dir_all(folder)?;
    std::fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")?;
    Ok(file)
}

fn pair(pairs: &mut Pairs, first: &BTreeMap<String, f64>, second: &BTreeMap<String, f64>) {
    for (name, first) in first {
        if let Some(second) = second.get(name) {
            pairs.entry(name.clone()).or_default().push((*first, *second));
        }
    }
}

/// The numbers of an outcome that two builds may differ in.
fn compared(outcome: &Outcome) -> BTreeMap<String, f64> {
    let mut all: BTreeMap<_, _> = numbers(&outcome.figures).into_iter().collect();
    for run in outcome.details["runs"].as_array().into_iter().flatten() {
        let rate = run["rate_per_second"].as_f64().unwrap_or_default();
        for path in COMPARED {
            let value = path.split('.').fold(run, |value, name| &value[name]);
            let name = |path: &str| format!("{path} at {rate:.0}/s");
            match value {
                Value::Object(spread) => {
                    for of in OF_SPREADS {
                        let value = spread.get(of).and_then(Value::as_f64);
                        all.extend(value.map(|value| (name(&format!("{path}.{of}")), value)));
                    }
                }
                value => all.extend(value.as_f64().map(|value| (name(path), value))),
            }
        }
    }
    all
}

fn show(pairs: &Pairs) -> String {
    let rows: Vec<_> = pairs
        .iter()
        .filter_map(|(name, pairs)| {
            let (first, second): (Vec<_>, Vec<_>) = pairs.iter().copied().unzip();
            let ratio = Range::of_ratios(pairs)?;
            let mean = |values: &[f64]| Range::of(values).map_or_else(String::new, |range| number(range.mean));
            let spread = format!("{:.3} to {:.3}", ratio.min, ratio.max);
            Some([name.clone(), mean(&first), mean(&second), format!("{:.3}", ratio.mean), spread])
        })
        .collect();
    table(["figure", "A", "B", "B / A", "spread"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(rate: f64, p99: f64) -> Outcome {
        Outcome {
            figures: json!({ "cpu_ms_per_grant": rate / 1000.0 }),
            details: json!({ "runs": [{
                "rate_per_second": 1000.0, "completed_per_second": rate, "to_block": { "p99": p99, "count": 5 }
            }] }),
        }
    }

    #[test]
    fn both_builds_are_held_against_each_other_round_by_round() {
        let mut pairs = Pairs::new();
        pair(&mut pairs, &compared(&outcome(1000.0, 1.0)), &compared(&outcome(1100.0, 0.5)));
        pair(&mut pairs, &compared(&outcome(500.0, 1.0)), &compared(&outcome(600.0, 0.7)));
        assert_eq!(pairs["to_block.p99 at 1000/s"], [(1.0, 0.5), (1.0, 0.7)]);
        assert_eq!(pairs.len(), 3, "{pairs:?}");
        let table = show(&pairs);
        let line = table.lines().find(|line| line.contains("completed_per_second")).unwrap();
        assert!(line.contains("1.150") && line.contains("1.100 to 1.200"), "{line}");
    }
}
