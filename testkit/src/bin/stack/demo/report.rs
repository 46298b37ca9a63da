//! What a demonstration has shown: ledger against chain, as a table and as `target/reports/demo.json`.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::PathBuf,
};

use alloy::primitives::{Address, U256};
use anyhow::{Context as _, Result};
use serde::Serialize;
use testkit::{
    Grant, Stack, base_units,
    chain::{Payment, UNIT},
    paths::workspace,
};

use super::Granted;
use crate::{print::raw, table::table};

/// What `target/reports/demo.json` says.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Requests sent.
    requested: usize,
    /// Grants completed.
    minted: usize,
    /// Requests answered with a grant that was there already.
    repeated: usize,
    /// Requests refused.
    refused: usize,
    /// Grants that ended failed.
    failed: usize,
    /// Grants accepted and not minted, the failed ones included.
    lost: usize,
    /// Payments on chain beyond the one for each grant.
    duplicated: usize,
    /// From acceptance to completion, by the campaign service's clock.
    mean_seconds: f64,
    p99_seconds: f64,
    /// Whether the total supply is the sum of the completed grants.
    supply_matches: bool,
    supply_tokens: String,
    ledger_tokens: String,
    transactions: usize,
    block_time_seconds: f64,
    start_seconds: f64,
    grants_seconds: f64,
    total_seconds: f64,
}

impl Report {
    /// Holds what the services say against what the chain says.
    pub(super) async fn of(granted: &Granted, stack: &Stack) -> Result<Self> {
        let supply = stack.chain.total_supply().await?;
        let payments = stack.chain.payments().await?;
        let seen = || granted.grants.iter().filter_map(|(grant, _)| grant.as_ref());
        let completed: Vec<&Grant> = seen().filter(|grant| grant.is_completed()).collect();
        let ledger: U256 = completed.iter().map(|grant| base_units(grant.token_amount)).sum();
        let times: Vec<f64> = completed.iter().filter_map(|grant| Some(grant.time_to_mint()?.as_secs_f64())).collect();
        let transactions: HashSet<_> = payments.iter().map(|payment| payment.transaction_hash).collect();
        Ok(Self {
            requested: granted.requested,
            minted: completed.len(),
            repeated: granted.repeated,
            refused: granted.refused,
            failed: seen().filter(|grant| grant.state == "failed").count(),
            lost: granted.grants.len() - completed.len(),
            duplicated: surplus(&payments, granted.grants.iter().map(|(_, recipient)| *recipient)),
            mean_seconds: rounded(mean(&times)),
            p99_seconds: rounded(percentile(&times, 99)),
            supply_matches: supply == ledger,
            supply_tokens: tokens(supply),
            ledger_tokens: tokens(ledger),
            transactions: transactions.len(),
            grants_seconds: rounded(granted.took.as_secs_f64()),
            ..Self::default()
        })
    }

    /// Whether everything requested was minted once, and ledger and chain agree.
    pub(super) fn is_good(&self) -> bool {
        self.supply_matches && self.lost == 0 && self.duplicated == 0 && self.refused == 0 && self.minted > 0
    }

    /// Adds what only the whole run knows, in seconds.
    pub(super) fn timed(mut self, block_time: f64, start: f64, total: f64) -> Self {
        self.block_time_seconds = block_time;
        self.start_seconds = rounded(start);
        self.total_seconds = rounded(total);
        self
    }

    /// Writes it as JSON, and says where.
    pub(super) fn write(&self) -> Result<PathBuf> {
        let folder = workspace().join("target/reports");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let file = folder.join("demo.json");
        fs::write(&file, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
        Ok(file)
    }

    /// Shows it as a table.
    pub(super) fn show(&self) {
        let seconds = |seconds: f64| format!("{seconds:.2} s");
        raw(&table(&[
            ("requested", self.requested.to_string()),
            ("minted", self.minted.to_string()),
            ("repeated (answered with the first grant)", self.repeated.to_string()),
            ("refused", self.refused.to_string()),
            ("lost (accepted, not minted)", self.lost.to_string()),
            ("duplicated (paid more than once)", self.duplicated.to_string()),
            ("mean time to mint (accepted to completed)", seconds(self.mean_seconds)),
            ("p99 time to mint", seconds(self.p99_seconds)),
            ("transactions", self.transactions.to_string()),
            ("total supply on chain, tokens", self.supply_tokens.clone()),
            ("sum of the ledger, tokens", self.ledger_tokens.clone()),
            ("supply and ledger", if self.supply_matches { "equal" } else { "DIFFERENT" }.to_owned()),
            ("start of everything", seconds(self.start_seconds)),
            ("all grants", seconds(self.grants_seconds)),
            ("altogether", seconds(self.total_seconds)),
        ]));
    }
}

/// How many payments there are beyond one for each time an address was to be paid.
fn surplus(payments: &[Payment], due: impl Iterator<Item = Address>) -> usize {
    let mut open: BTreeMap<Address, usize> = BTreeMap::new();
    for recipient in due {
        *open.entry(recipient).or_default() += 1;
    }
    payments
        .iter()
        .filter(|payment| match open.get_mut(&payment.to) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        })
        .count()
}

fn mean(values: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a number of participants")]
    let count = values.len().max(1) as f64;
    values.iter().sum::<f64>() / count
}

/// The smallest value that so many percent of all do not exceed (nearest rank).
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0.0)
}

/// To milliseconds.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// Base units as whole tokens, with a remainder where there is one.
fn tokens(base_units: U256) -> String {
    let unit = U256::from(UNIT);
    let (whole, rest) = (base_units / unit, base_units % unit);
    if rest.is_zero() { whole.to_string() } else { format!("{whole} + {rest}/10^18") }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    fn payment(to: u8) -> Payment {
        Payment {
            id: U256::ZERO,
            to: Address::repeat_byte(to),
            amount: U256::ONE,
            transaction_hash: B256::ZERO,
            block_number: 1,
        }
    }

    #[test]
    fn a_payment_more_than_due_is_surplus() {
        let due = || [1, 2, 2].map(Address::repeat_byte).into_iter();
        assert_eq!(surplus(&[payment(1), payment(2), payment(2)], due()), 0);
        assert_eq!(surplus(&[payment(1), payment(1), payment(2)], due()), 1);
        assert_eq!(surplus(&[payment(3)], due()), 1);
        assert_eq!(surplus(&[], due()), 0);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((percentile(&values, 99) - 99.0).abs() < 1e-9);
        assert!((percentile(&values[..10], 99) - 100.0).abs() < 1e-9);
        assert!(percentile(&[], 99).abs() < 1e-9);
    }
}
