//! Plots of what the report tells, as SVG files: how long things take, where that time goes, what happened over time.
//!
//! A plot is drawn where the report has what it shows. All of them are drawn anew whenever something was measured.

mod chart;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use self::chart::{Axis, Bar, Line, bars, lines};
use crate::{report::at, spread::float};

/// Draws everything that the report has into a folder; returns the files.
pub(crate) fn draw(report: &Value, folder: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut files = Vec::new();
    for (name, draw) in PLOTS {
        let file = folder.join(format!("{name}.svg"));
        if draw(report, &file).with_context(|| format!("cannot draw {}", file.display()))? {
            files.push(file);
        }
    }
    Ok(files)
}

/// Draws one plot, if the report has what it shows.
type Draw = fn(&Value, &Path) -> Result<bool>;

const PLOTS: [(&str, Draw); 8] = [
    ("bench-latency", latency),
    ("bench-accept", accept),
    ("bench-stages", stages),
    ("bench-throughput", throughput),
    ("bench-spike", spike),
    ("bench-spike-latency", spike_latency),
    ("bench-history", history),
    ("bench-soak", soak),
];

/// What is measured at a steady rate, with the run of its scenario that is shown.
const STEADY: [&str; 3] = ["latency-30", "latency-1000", "end-to-end"];

fn latency(report: &Value, file: &Path) -> Result<bool> {
    let mut shown = Vec::new();
    for scenario in STEADY {
        for run in sustained(report, scenario) {
            let rate = run["rate_per_second"].as_f64().unwrap_or_default();
            for (what, field) in [("in a block", "to_block"), ("completed", "to_completed")] {
                shown.extend(percentiles(&run[field]).map(|points| Line::new(format!("{what}, {rate:.0}/s"), points)));
            }
        }
    }
    let y = Axis::new("seconds since the request was due");
    lines(file, "From request to block, and to completed", Axis::percentiles(), y, &shown)
}

fn accept(report: &Value, file: &Path) -> Result<bool> {
    let mut shown = Vec::new();
    for (scenario, database) in [("accept", "SQLite"), ("accept-postgres", "PostgreSQL")] {
        let Some(step) = at(report, &format!("details.{scenario}.at_80_percent")) else { continue };
        let rate = step["offered_per_second"].as_f64().unwrap_or_default();
        let Some(points) = percentiles(&step["to_answer"]) else { continue };
        let points = points.into_iter().map(|(x, seconds)| (x, seconds * 1e3)).collect();
        shown.push(Line::new(format!("{database}, {rate:.0}/s"), points));
    }
    let y = Axis::new("milliseconds since the request was due");
    lines(file, "Accepting at 80 % of the highest rate", Axis::percentiles(), y, &shown)
}

fn stages(report: &Value, file: &Path) -> Result<bool> {
    let mut shown = Vec::new();
    for scenario in STEADY {
        for run in sustained(report, scenario) {
            let parts = array(&run["stages"]).iter().filter_map(|stage| {
                // What overlaps with the stage before it may be negative; there is no such bar.
                Some((stage["name"].as_str()?.to_owned(), stage["mean"].as_f64()?.max(0.0) * 1e3))
            });
            let name = format!("{:.0}/s", run["rate_per_second"].as_f64().unwrap_or_default());
            shown.push(Bar { name, parts: parts.collect() });
        }
    }
    bars(file, "Where a grant's time goes (mean)", "milliseconds", &shown)
}

fn throughput(report: &Value, file: &Path) -> Result<bool> {
    let mut shown = Vec::new();
    for run in runs(report, "end-to-end") {
        let rate = run["rate_per_second"].as_f64().unwrap_or_default();
        let seconds = array(&run["seconds"]);
        let completed = smoothed(&by_second(seconds, "completed"));
        shown.push(Line::new(format!("completed, {rate:.0}/s offered"), completed));
    }
    let y = Axis::new("grants a second");
    lines(file, "Completed grants at a steady rate (means of 5 s)", Axis::new("seconds"), y, &shown)
}

fn spike(report: &Value, file: &Path) -> Result<bool> {
    let mut shown = Vec::new();
    for run in runs(report, "spike") {
        let seconds = array(&run["seconds"]);
        shown.push(Line::new("requested", by_second(seconds, "requests")));
        shown.push(Line::new("completed", by_second(seconds, "completed")));
    }
    lines(file, "A spike of ten times the rate", Axis::new("seconds"), Axis::new("grants a second"), &shown)
}

fn spike_latency(report: &Value, file: &Path) -> Result<bool> {
    let mut shown = Vec::new();
    for run in runs(report, "spike") {
        let seconds = array(&run["seconds"]);
        shown.push(Line::new("median", by_second(seconds, "to_completed_p50")));
        shown.push(Line::new("99th percentile", by_second(seconds, "to_completed_p99")));
    }
    let y = Axis::new("seconds from request to completed");
    lines(file, "Requests of each second of the spike", Axis::new("seconds"), y, &shown)
}

fn history(report: &Value, file: &Path) -> Result<bool> {
    let points = at(report, "details.history.points").map_or(&[][..], array);
    let bar = |store: &Value| {
        let parts = vec![("grants a second".to_owned(), store["grants_per_second"].as_f64()?)];
        Some(Bar { name: format!("{:.0} past grants", store["past_grants"].as_f64()?), parts })
    };
    let both = |point: &Value| [bar(&point["young"]), bar(&point["old"])];
    let shown: Vec<_> = points.iter().flat_map(both).flatten().collect();
    bars(file, "A young store, and one with a past beside it", "grants a second", &shown)
}

fn soak(report: &Value, file: &Path) -> Result<bool> {
    let mut shown = Vec::new();
    for run in runs(report, "soak") {
        for name in ["campaign", "blockchain"] {
            let point = |point: &Value| Some((point[0].as_f64()?, point[1][name].as_f64()?));
            shown.push(Line::new(name, array(&run["resident_mb"]).iter().filter_map(point).collect()));
        }
    }
    lines(file, "Memory under load", Axis::new("seconds"), Axis::new("resident MB"), &shown)
}

fn runs<'a>(report: &'a Value, scenario: &str) -> &'a [Value] {
    at(report, &format!("details.{scenario}.runs")).map_or(&[], array)
}

/// Those runs of a scenario that the system kept up with: how long a queue grows says nothing of a grant.
fn sustained<'a>(report: &'a Value, scenario: &str) -> impl Iterator<Item = &'a Value> {
    runs(report, scenario).iter().filter(|run| run["is_sustained"] == true)
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value of each second that has it.
fn by_second(seconds: &[Value], field: &str) -> Vec<(f64, f64)> {
    seconds.iter().filter_map(|second| Some((second["at"].as_f64()?, second[field].as_f64()?))).collect()
}

/// Means of five neighbours: a second may hold the end of one block and the whole of the next.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |window: &[(f64, f64)]| window.iter().map(|point| point.1).sum::<f64>() / float(window.len());
    points.windows(5).map(|window| (window[2].0, mean(window))).collect()
}

/// A spread's percentiles, on the scale of [`Axis::percentiles`].
fn percentiles(spread: &Value) -> Option<Vec<(f64, f64)>> {
    let count = spread["count"].as_f64()?;
    let steps = spread["percentiles"].as_array()?.iter();
    let points = steps.filter_map(|step| {
        let share = 1.0 - step[0].as_f64()? / 100.0;
        // Beyond the last grant but one there is nothing to tell.
        (share >= 1.0 / count).then_some((-share.log10(), step[1].as_f64()?))
    });
    Some(points.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_measured_is_drawn_and_nothing_else() {
        let spread =
            json!({ "count": 1000, "percentiles": [[0.0, 0.1], [50.0, 0.5], [90.0, 0.9], [99.0, 1.2], [100.0, 2.0]] });
        let run = json!({
            "rate_per_second": 1000.0, "is_sustained": true, "to_block": spread, "to_completed": spread,
            "stages": [{ "name": "accept", "mean": 0.01 }, { "name": "mine", "mean": 0.5 }],
            "seconds": [{ "at": 0, "completed": 10 }, { "at": 1, "completed": 20 }],
        });
        let report = json!({ "details": { "latency-1000": { "runs": [run] } } });
        let folder = tempfile::tempdir().unwrap();
        let files = draw(&report, folder.path()).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["bench-latency.svg", "bench-stages.svg"]);
        let drawn = fs::read_to_string(&files[0]).unwrap();
        assert!(drawn.contains("completed, 1000/s") && drawn.contains("99%"), "{drawn}");
        assert!(drawn.trim_end().ends_with("</svg>"));
    }
}
