//! `bench.json`: the figures, and behind each what it was measured by. Runs of different scenarios add up in it; a
//! scenario that is run again replaces its own figures only, and what was not run is not there. What was measured under
//! other conditions than the figures are told for is in a file of its own, `bench-other.json`.

mod machine;
mod targets;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

pub(crate) use self::machine::machine;
use self::targets::TARGETS;

/// What a scenario has found.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Nested objects, named as in the report.
    pub(crate) figures: Value,
    /// How they came about.
    pub(crate) details: Value,
}

/// The report, as it was found and with what was added.
#[derive(Debug)]
pub(crate) struct Report {
    file: PathBuf,
    content: Map<String, Value>,
}

impl Report {
    /// The report in this folder, or an empty one: of the figures under their usual conditions, or of others.
    pub(crate) fn open(folder: &Path, usual: bool) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join(if usual { "bench.json" } else { "bench-other.json" });
        let content = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{} is no report", file.display()))?,
            Err(_) => Map::new(),
        };
        Ok(Self { file, content })
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    pub(crate) fn content(&self) -> &Map<String, Value> {
        &self.content
    }

    /// Takes away what a scenario has said before.
    pub(crate) fn forget(&mut self, scenario: &str, figures: &[&str]) {
        for figure in figures {
            self.content.remove(*figure);
        }
        if let Some(Value::Object(details)) = self.content.get_mut("details") {
            details.remove(scenario);
        }
    }

    /// Adds what a scenario has found.
    pub(crate) fn add(&mut self, scenario: &str, outcome: Outcome) {
        if let Value::Object(figures) = outcome.figures {
            self.content.extend(figures);
        }
        let details = self.content.entry("details").or_insert_with(|| json!({}));
        details[scenario] = outcome.details;
    }

    pub(crate) fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.content)? + "\n";
        fs::write(&self.file, text).with_context(|| format!("cannot write {}", self.file.display()))
    }

    /// The figures as a table, with what is to be reached.
    pub(crate) fn table(&self) -> String {
        let whole = Value::Object(self.content.clone());
        let rows: Vec<_> = TARGETS
            .iter()
            .filter_map(|target| {
                let value = at(&whole, target.figure)?.as_f64()?;
                let (bound, verdict) = target.judge(value);
                Some([target.figure.to_owned(), number(value), target.unit.to_owned(), bound, verdict.to_owned()])
            })
            .collect();
        if rows.is_empty() { String::new() } else { table(["figure", "value", "unit", "target", ""], &rows) }
    }
}

/// The value at a path such as `accept.p99_ms`.
pub(crate) fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

/// All numbers in nested objects, by path.
pub(crate) fn numbers(value: &Value) -> Vec<(String, f64)> {
    fn walk(path: &str, value: &Value, numbers: &mut Vec<(String, f64)>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    walk(&path, member, numbers);
                }
            }
            value => numbers.extend(value.as_f64().map(|number| (path.to_owned(), number))),
        }
    }
    let mut found = Vec::new();
    walk("", value, &mut found);
    found
}

/// A number with as many digits as mean something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 || value == 0.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        large if large >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A number with at most so many decimals, and none that say nothing.
pub(crate) fn digits(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Rows in a frame: the first column flush left, the others flush right.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let width = |text: &str| text.chars().count();
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| width(&row[column])).chain([width(head[column])]).max().unwrap_or(0)
    });
    let edge = |left: &str, middle: &str, right: &str| {
        format!("{left}{}{right}\n", widths.map(|width| "─".repeat(width + 2)).join(middle))
    };
    let line = |cells: [&str; N]| {
        let cells: [String; N] = std::array::from_fn(|column| {
            let (cell, width) = (cells[column], widths[column]);
            if column == 0 { format!(" {cell:<width$} ") } else { format!(" {cell:>width$} ") }
        });
        format!("│{}│\n", cells.join("│"))
    };
    let body: String = rows.iter().map(|row| line(row.each_ref().map(String::as_str))).collect();
    [edge("┌", "┬", "┐"), line(head), edge("├", "┼", "┤"), body, edge("└", "┴", "┘")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(figures: Value) -> Outcome {
        Outcome { figures, details: json!({ "took": 1 }) }
    }

    #[test]
    fn a_scenario_replaces_its_own_figures_only() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::open(folder.path(), true).unwrap();
        report.add("accept", outcome(json!({ "accept": { "requests_per_second": 10, "p99_ms": 5 } })));
        report.add("start", outcome(json!({ "ready_seconds": 0.5 })));
        report.write().unwrap();

        let mut report = Report::open(folder.path(), true).unwrap();
        report.forget("accept", &["accept"]);
        report.add("accept", outcome(json!({ "accept": { "requests_per_second": 20 } })));
        report.write().unwrap();
        let content = Value::Object(Report::open(folder.path(), true).unwrap().content);
        assert_eq!(at(&content, "accept"), Some(&json!({ "requests_per_second": 20 })));
        assert_eq!(at(&content, "ready_seconds"), Some(&json!(0.5)));
        assert_eq!(at(&content, "accept.p99_ms"), None);
        assert_eq!(at(&content, "details.start.took"), Some(&json!(1)));
    }

    #[test]
    fn the_table_says_whether_a_target_is_met_and_leaves_out_what_was_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let mut report = Report::open(folder.path(), true).unwrap();
        report.add("x", outcome(json!({ "ready_seconds": 0.5, "history_ratio": 0.8 })));
        let table = report.table();
        let line = |figure: &str| table.lines().find(|line| line.contains(figure)).map(str::to_owned);
        assert!(line("ready_seconds").unwrap().contains("yes"), "{table}");
        assert!(line("history_ratio").unwrap().contains("NO"), "{table}");
        assert_eq!(line("accept.p99_ms"), None);
    }

    #[test]
    fn all_numbers_are_found_by_path() {
        let found = numbers(&json!({ "a": { "b": 1, "c": "text" }, "d": 2.5 }));
        assert_eq!(found, [("a.b".to_owned(), 1.0), ("d".to_owned(), 2.5)]);
    }
}
