//! One function for each event worth counting: it counts, it logs, and it keeps what `/stats` shows.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::chain::Receipt;
use crate::domain::Ending;
use crate::store::{Settlement, Verdict};
use crate::transaction::{End, Pending, Purpose};

/// How many of the latest values the percentiles are taken from.
const WINDOW: usize = 4096;

/// What was seen lately.
#[derive(Debug, Default)]
pub struct Observations(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    batch_grants: VecDeque<f64>,
    seconds_to_final: VecDeque<f64>,
}

/// The spread of the latest values.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many values.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Half are no larger.
    pub p50: f64,
    /// Nine of ten are no larger.
    pub p90: f64,
    /// 99 of 100 are no larger.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    fn of(values: &VecDeque<f64>) -> Self {
        let mut sorted: Vec<_> = values.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        let Some(&max) = sorted.last() else { return Self::default() };
        let at = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        #[expect(clippy::cast_precision_loss, reason = "a few thousand values")]
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Self { count: sorted.len(), mean, p50: at(50), p90: at(90), p99: at(99), max }
    }
}

impl Observations {
    /// A transaction was committed, with grants that had been queued since then.
    pub fn batch(&self, queued_since: &[DateTime<Utc>], now: DateTime<Utc>) {
        for since in queued_since {
            metrics::histogram!("queue_wait_seconds").record((now - since).as_seconds_f64().max(0.0));
        }
        let grants = f64::from(u32::try_from(queued_since.len()).unwrap_or(u32::MAX));
        metrics::histogram!("transaction_grants").record(grants);
        metrics::counter!("transactions_total", "state" => "submitted").increment(1);
        push(&mut self.recent().batch_grants, grants);
    }

    /// A transaction does not move, and was replaced.
    pub fn replaced(&self, purpose: Purpose) {
        let state = match purpose {
            Purpose::Pay => "replaced",
            Purpose::Cancel => "cancelling",
        };
        metrics::counter!("transactions_total", "state" => state).increment(1);
    }

    /// A transaction has ended, and with it its grants.
    pub fn transaction_ended(
        &self,
        transaction: &Pending,
        end: End,
        settlement: &Settlement,
        receipt: Option<&Receipt>,
        now: DateTime<Utc>,
    ) {
        let seconds = (now - transaction.created_at).as_seconds_f64().max(0.0);
        metrics::histogram!("transaction_final_seconds").record(seconds);
        let state = end.as_str();
        metrics::counter!("transactions_total", "state" => state).increment(1);
        metrics::counter!("gas_used_total").increment(receipt.map_or(0, |receipt| receipt.gas_used));
        tracing::info!(
            transaction_hash = receipt.map(|receipt| receipt.transaction_hash.to_string()),
            block_number = receipt.map(|receipt| receipt.block_number),
            gas_used = receipt.map(|receipt| receipt.gas_used),
            nonce = transaction.nonce,
            grants = settlement.verdicts.len(),
            state,
            "transaction final"
        );
        self.grants_ended(settlement, now);
    }

    /// Grants have ended, or go back to the queue.
    pub fn grants_ended(&self, settlement: &Settlement, now: DateTime<Utc>) {
        let mut recent = self.recent();
        for (payment, verdict) in &settlement.verdicts {
            let (request_id, trace_id) =
                (&payment.request_id, payment.trace.map(shared::telemetry::TraceParent::trace_id));
            match verdict {
                Verdict::Ended(Ending::Completed(paid)) => {
                    metrics::counter!("grants_total", "state" => "completed").increment(1);
                    let seconds = (now - payment.requested_at).as_seconds_f64().max(0.0);
                    metrics::histogram!("request_to_final_seconds").record(seconds);
                    push(&mut recent.seconds_to_final, seconds);
                    tracing::info!(%request_id, trace_id, transaction_hash = %paid.transaction_hash, "grant paid");
                }
                Verdict::Ended(Ending::Failed(failure)) => {
                    metrics::counter!("grants_total", "state" => "failed").increment(1);
                    let (code, reason) = (&failure.code, &failure.message);
                    tracing::warn!(%request_id, trace_id, error_code = code, reason, "grant refused");
                }
                Verdict::Again { .. } => metrics::counter!("grants_total", "state" => "requeued").increment(1),
            }
        }
    }

    /// The spreads of the latest batch sizes (in grants) and times from request to final (in seconds).
    #[must_use]
    pub fn spreads(&self) -> (Spread, Spread) {
        let recent = self.recent();
        (Spread::of(&recent.batch_grants), Spread::of(&recent.seconds_to_final))
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push(values: &mut VecDeque<f64>, value: f64) {
    if values.len() == WINDOW {
        values.pop_front();
    }
    values.push_back(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_the_values_at_its_percentiles() {
        let values = (1..=100).map(f64::from).collect();
        let spread = Spread::of(&values);
        assert_eq!((spread.count, spread.p50, spread.p90, spread.p99, spread.max), (100, 50.0, 90.0, 99.0, 100.0));
        assert_eq!(Spread::of(&VecDeque::new()), Spread::default());
        assert!((Spread::of(&VecDeque::from([3.0])).p99 - 3.0).abs() < f64::EPSILON);
    }
}
