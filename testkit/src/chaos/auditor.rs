//! What the product's own auditor says in the end, beside the audit of this crate.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::world::World;
use crate::service::Which;

/// How long an audit may take.
const WITHIN: Duration = Duration::from_mins(1);

impl World {
    /// Runs `blockchain audit`; returns the differences that it has found, by ledger and kind.
    ///
    /// # Errors
    /// When it could not find out.
    pub(super) async fn ask_auditor(&self) -> Result<BTreeMap<String, usize>> {
        let log = self.run_dir.log("audit");
        let told = log.with_extension("json");
        let program = self.service(Which::Blockchain).program().log_to(&log).output(&told);
        let process = program.args(["audit", "--json", "--audit-grace-seconds", "0"]).spawn()?;
        let status = process.wait(WITHIN).await?;
        let report = match status.code() {
            Some(0 | 1) => fs::read_to_string(&told).context("cannot read what the auditor says")?,
            _ => bail!("the auditor could not find out ({status}): {}", process.log_tail()),
        };
        let report: Value = serde_json::from_str(&report).context("the auditor's report is JSON")?;
        let mut differences = BTreeMap::new();
        for difference in report["differences"].as_array().into_iter().flatten() {
            let said = |field: &str| difference[field].as_str().unwrap_or("unknown").to_owned();
            *differences.entry(format!("{} {}", said("ledger"), said("kind"))).or_default() += 1;
        }
        if differences.is_empty() && report["equal"] != true {
            bail!("the auditor says neither that ledger and chain are equal nor how they differ");
        }
        Ok(differences)
    }
}
