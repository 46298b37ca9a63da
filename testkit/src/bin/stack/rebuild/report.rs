//! What the rebuilds have come to: `target/reports/rebuild.json`, and a table.

use std::{collections::BTreeMap, fs, path::PathBuf, thread::available_parallelism};

use anyhow::{Context as _, Result};
use serde::Serialize;
use testkit::paths::workspace;

use crate::print::say;

/// What `target/reports/rebuild.json` says.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The least number of events that was asked for.
    events_wanted: u64,
    /// Cores of the machine.
    cores: usize,
    /// One database after the other.
    pub(super) databases: Vec<Figures>,
}

/// What was measured on one database.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    /// Which one.
    pub(super) database: &'static str,
    /// Events in the ledger.
    pub(super) events: u64,
    /// How many there are of each kind.
    pub(super) kinds: BTreeMap<String, u64>,
    /// How long the service's code took to write them.
    pub(super) fill_seconds: f64,
    /// How long the first rebuild took, by its own account.
    pub(super) rebuild_seconds: f64,
    /// The most memory that it had, the database server's not included; `None` where the system does not tell.
    pub(super) peak_resident_bytes: Option<u64>,
    /// What was not as it should be.
    pub(super) findings: Vec<String>,
}

impl Report {
    pub(super) fn new(events_wanted: u64) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self { events_wanted, cores, databases: Vec::new() }
    }

    /// Whether each rebuild has said what it had to.
    pub(super) fn is_exact(&self) -> bool {
        !self.databases.is_empty() && self.databases.iter().all(|figures| figures.findings.is_empty())
    }

    /// Writes it as JSON, and says where.
    pub(super) fn write(&self) -> Result<PathBuf> {
        let folder = workspace().join("target/reports");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join("rebuild.json");
        fs::write(&file, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    pub(super) fn show(&self) {
        say!("");
        say!("database    events    filled  events/s   rebuilt  events/s  peak memory  exact");
        for figures in &self.databases {
            let Figures { database, events, fill_seconds, rebuild_seconds, peak_resident_bytes, .. } = figures;
            let memory =
                peak_resident_bytes.map_or_else(|| "?".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000));
            #[expect(clippy::cast_precision_loss, reason = "there are fewer events than that")]
            let [fill_rate, rebuild_rate] = [fill_seconds, rebuild_seconds].map(|seconds| *events as f64 / seconds);
            let exact = if figures.findings.is_empty() { "yes" } else { "NO" };
            say!(
                "{database:<8} {events:>9} {fill_seconds:>7.1} s {fill_rate:>9.0} {rebuild_seconds:>7.1} s \
                 {rebuild_rate:>9.0} {memory:>12}  {exact}"
            );
            for finding in &figures.findings {
                say!("  {finding}");
            }
        }
        say!("");
    }
}
