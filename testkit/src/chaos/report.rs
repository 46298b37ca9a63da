//! What all seeds of a run have come to: `target/reports/chaos.json`, and the table in `docs/RELIABILITY.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use super::{
    kind::{Area, Kind},
    seed::Outcome,
};
use crate::paths::workspace;

/// The lines that the table stands between.
const BEGIN: &str = "<!-- chaos:begin -->";
const END: &str = "<!-- chaos:end -->";

/// What `target/reports/chaos.json` says.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Seeds that were run.
    pub seeds: usize,
    /// The first of them; the others follow it.
    pub first_seed: u64,
    /// Seeds that ended with something lost, paid twice, wrong or stuck, or not at all.
    pub failed_seeds: Vec<u64>,
    /// Faults that were done.
    pub faults: usize,
    /// The same by kind.
    pub faults_by_kind: BTreeMap<&'static str, usize>,
    /// The same by area.
    pub faults_by_area: BTreeMap<&'static str, usize>,
    /// The fail points at which services died.
    pub fail_points: BTreeSet<&'static str>,
    /// Grants that clients were promised.
    pub grants_accepted: usize,
    /// Of these, paid and known to be.
    pub completed: usize,
    /// Of these, ended without a payment, with a reason.
    pub failed: usize,
    /// The same by reason.
    pub failed_by_reason: BTreeMap<String, usize>,
    /// Forgotten, or called completed and not paid.
    pub lost: usize,
    /// Payments beyond the one that was promised.
    pub paid_twice: usize,
    /// Payments and balances that were not promised.
    pub wrong_amount: usize,
    /// Grants that did not end.
    pub stuck: usize,
    /// Campaigns that had promised, or that were paid, more than their budget.
    pub over_budget: usize,
    /// Campaigns that count otherwise than the chain what was paid for them.
    pub miscounted: usize,
    /// Requests that were refused, since a budget had run out.
    pub refused: usize,
    /// Budgets that ran out.
    pub budgets_exhausted: usize,
    /// How often a budget was looked at.
    pub budget_looks: usize,
    /// Grants that clients did not want any more.
    pub unwanted: usize,
    /// Uploads of many requests.
    pub uploads: usize,
    /// Differences that the product's own auditor has found, by ledger and kind.
    pub auditor: BTreeMap<String, usize>,
    /// Answers to clients that contradict each other, or refuse what cannot be refused.
    pub contradictions: usize,
    /// How often the contract was given a grant that it had paid.
    pub skipped_by_contract: usize,
    /// The longest time from a seed's last fault to its last grant's end.
    pub max_recovery_seconds: f64,
    /// By kind, where seeds had faults of one kind alone.
    pub max_recovery_seconds_by_kind: BTreeMap<&'static str, f64>,
    /// Seeds by database.
    pub seeds_by_database: BTreeMap<&'static str, usize>,
    /// How long the run took.
    pub minutes: f64,
    /// Each seed.
    pub runs: Vec<Outcome>,
    /// Seeds that could not be run to their end, and why.
    pub broken: BTreeMap<u64, String>,
}

impl Report {
    /// Adds a seed.
    pub fn add(&mut self, outcome: Outcome) {
        self.count(outcome.seed);
        if !outcome.is_good() {
            self.failed_seeds.push(outcome.seed);
        }
        for (name, times) in &outcome.faults {
            self.faults += times;
            *self.faults_by_kind.entry(name).or_default() += times;
            let kind = Kind::ALL.iter().find(|kind| kind.name() == *name);
            let area = kind.map_or("other", |kind| kind.area().name());
            *self.faults_by_area.entry(area).or_default() += times;
        }
        self.fail_points.extend(&outcome.points);
        self.grants_accepted += outcome.accepted;
        self.completed += outcome.verdict.completed;
        for (reason, grants) in &outcome.verdict.failed {
            self.failed += grants;
            *self.failed_by_reason.entry(reason.clone()).or_default() += grants;
        }
        self.lost += outcome.verdict.lost;
        self.paid_twice += outcome.verdict.paid_twice;
        self.wrong_amount += outcome.verdict.wrong_amount;
        self.stuck += outcome.verdict.stuck;
        self.over_budget += outcome.verdict.over_budget;
        self.miscounted += outcome.verdict.miscounted;
        self.refused += outcome.verdict.refused;
        self.budgets_exhausted += outcome.verdict.exhausted;
        self.budget_looks += outcome.budget_looks;
        self.unwanted += outcome.unwanted;
        self.uploads += outcome.uploads;
        for (difference, times) in &outcome.auditor {
            *self.auditor.entry(difference.clone()).or_default() += times;
        }
        self.contradictions += outcome.contradictions.len();
        self.skipped_by_contract += outcome.skipped;
        *self.seeds_by_database.entry(outcome.database).or_default() += 1;
        if let Some(seconds) = outcome.recovery_seconds {
            let seconds = rounded(seconds);
            self.max_recovery_seconds = self.max_recovery_seconds.max(seconds);
            if let [kind] = *outcome.faults.keys().collect::<Vec<_>>() {
                let longest = self.max_recovery_seconds_by_kind.entry(kind).or_default();
                *longest = longest.max(seconds);
            }
        }
        self.runs.push(outcome);
    }

    /// Adds a seed that could not be run to its end.
    pub fn add_broken(&mut self, seed: u64, why: String) {
        self.count(seed);
        self.failed_seeds.push(seed);
        self.broken.insert(seed, why);
    }

    fn count(&mut self, seed: u64) {
        if self.seeds == 0 {
            self.first_seed = seed;
        }
        self.seeds += 1;
    }

    /// Whether every seed was good, and there were some.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failed_seeds.is_empty() && self.seeds > 0
    }

    /// Writes it as JSON, and says where.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self) -> Result<PathBuf> {
        let folder = workspace().join("target/reports");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join("chaos.json");
        fs::write(&file, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// Writes the table into `docs/RELIABILITY.md`, and says where.
    ///
    /// # Errors
    /// When the file has no place for it.
    pub fn write_table(&self) -> Result<PathBuf> {
        let file = workspace().join("docs/RELIABILITY.md");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = with_table(&text, &self.table())?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// The figures as Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        let databases: Vec<String> =
            self.seeds_by_database.iter().map(|(name, seeds)| format!("{seeds} on {name}")).collect();
        let last = self.first_seed + (self.seeds as u64).saturating_sub(1);
        let rows = [
            ("seeds", format!("{} ({} to {last}: {})", self.seeds, self.first_seed, databases.join(", "))),
            ("minutes", format!("{:.1}", self.minutes)),
            ("faults", self.faults.to_string()),
            ("fail points at which a service died", self.fail_points.len().to_string()),
            ("grants accepted", self.grants_accepted.to_string()),
            ("completed", self.completed.to_string()),
            ("failed, with a reason", counted(&self.failed_by_reason)),
            ("**lost**", format!("**{}**", self.lost)),
            ("**paid twice**", format!("**{}**", self.paid_twice)),
            ("**wrong amount or recipient**", format!("**{}**", self.wrong_amount)),
            ("**stuck**", format!("**{}**", self.stuck)),
            ("**campaigns above their budget**", format!("**{}**", self.over_budget)),
            ("**campaigns that miscount**", format!("**{}**", self.miscounted)),
            ("budgets that ran out", format!("{}, looked at {} times", self.budgets_exhausted, self.budget_looks)),
            ("requests refused for that", self.refused.to_string()),
            ("grants that clients asked to cancel", self.unwanted.to_string()),
            ("uploads", self.uploads.to_string()),
            ("contradictory answers", self.contradictions.to_string()),
            ("differences that `blockchain audit` names", counted(&self.auditor)),
            ("submissions that the contract skipped", self.skipped_by_contract.to_string()),
            ("longest time to recover", format!("{:.1} s", self.max_recovery_seconds)),
            ("reproduce", format!("`make chaos CHAOS_SEED={} CHAOS_SEEDS={}`", self.first_seed, self.seeds)),
        ];
        text.push_str("| | |\n| --- | --- |\n");
        for (name, value) in rows {
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text.push_str("\n| area | fault | what happens | times |\n| --- | --- | --- | ---: |\n");
        for area in Area::ALL {
            for kind in Kind::ALL.iter().filter(|kind| kind.area() == area) {
                let times = self.faults_by_kind.get(kind.name()).copied().unwrap_or(0);
                let about = kind.about().trim_end_matches('.');
                let _ = writeln!(text, "| {} | `{kind}` | {about} | {times} |", area.name());
            }
        }
        text
    }
}

/// A sum, and what it is made of.
fn counted(by_name: &BTreeMap<String, usize>) -> String {
    let each: Vec<String> = by_name.iter().map(|(name, times)| format!("{times} {name}")).collect();
    let total: usize = by_name.values().sum();
    if each.is_empty() { total.to_string() } else { format!("{total} ({})", each.join(", ")) }
}

/// The text with another table between the marks.
fn with_table(text: &str, table: &str) -> Result<String> {
    let begin = text.find(BEGIN).with_context(|| format!("there is no line {BEGIN}"))? + BEGIN.len();
    let end = text.find(END).with_context(|| format!("there is no line {END}"))?;
    ensure!(begin <= end, "{END} stands before {BEGIN}");
    Ok(format!("{}\n\n{table}\n{}", &text[..begin], &text[end..]))
}

/// To hundredths.
fn rounded(seconds: f64) -> f64 {
    (seconds * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::audit::Verdict;

    fn outcome(seed: u64, verdict: Verdict) -> Outcome {
        Outcome {
            seed,
            database: "sqlite",
            faults: BTreeMap::from([("kill", 2), ("reorg", 1)]),
            not_done: Vec::new(),
            schedule: Vec::new(),
            accepted: 10,
            verdict,
            campaigns: Vec::new(),
            budget_looks: 5,
            unwanted: 3,
            uploads: 2,
            skipped: 1,
            retries: 0,
            recovery_seconds: Some(2.0),
            auditor: BTreeMap::new(),
            contradictions: Vec::new(),
            findings: Vec::new(),
            points: BTreeSet::new(),
            took_seconds: 20.0,
        }
    }

    #[test]
    fn seeds_add_up() {
        let mut report = Report::default();
        report.add(outcome(7, Verdict { completed: 10, ..Verdict::default() }));
        report.add(outcome(8, Verdict { completed: 9, stuck: 1, refused: 4, exhausted: 1, ..Verdict::default() }));
        report.add_broken(9, "no emulator".into());
        assert_eq!((report.seeds, report.first_seed, report.faults, report.grants_accepted), (3, 7, 6, 20));
        assert_eq!(report.faults_by_area, BTreeMap::from([("processes", 4), ("chain", 2)]));
        assert_eq!((report.completed, report.stuck, report.skipped_by_contract), (19, 1, 2));
        assert_eq!((report.refused, report.budgets_exhausted, report.budget_looks), (4, 1, 10));
        assert_eq!((report.unwanted, report.uploads), (6, 4));
        assert_eq!(report.failed_seeds, [8, 9]);
        assert!(!report.is_good() && !Report::default().is_good());
    }

    #[test]
    fn a_budget_that_did_not_hold_fails_the_run() {
        for verdict in
            [Verdict { over_budget: 1, ..Verdict::default() }, Verdict { miscounted: 1, ..Verdict::default() }]
        {
            let mut report = Report::default();
            report.add(outcome(7, verdict));
            assert_eq!((report.over_budget + report.miscounted, report.is_good()), (1, false));
        }
    }

    #[test]
    fn the_fields_that_others_read_have_their_names() {
        let mut report = Report::default();
        report.add(outcome(7, Verdict { completed: 10, ..Verdict::default() }));
        assert!(report.is_good());
        let json = serde_json::to_value(&report).unwrap();
        for field in
            ["seeds", "faults", "grants_accepted", "completed", "failed", "lost", "paid_twice", "wrong_amount", "stuck"]
        {
            assert!(json[field].is_u64(), "{field}");
        }
        assert_eq!(json["max_recovery_seconds"], 2.0);
        assert_eq!(json["faults_by_kind"]["kill"], 2);
    }

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = with_table(&text, "new\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"));
        assert_eq!(with_table(&once, "new\n").unwrap(), once);
        assert!(with_table("nothing", "new").is_err());
    }
}
