//! The audit that the service makes by itself: it follows the chain, completes what was claimed there, compares every now
//! and then, repairs what is safe to repair, and says what differs, in metrics and once in the log.
//!
//! It reports on no dependency of the service: a difference is for people to look at, and no reason to take a service out
//! of rotation that pays as it should; nor is a campaign service that is away.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use shared::worker::{Progress, Worker};
use tokio::sync::Mutex;

use super::auditor::{Auditor, Error, Round};
use super::reader::Reading;
use super::report::{Difference, Report};
use super::seals::{Broken, Sealed};
use super::{Kind, Ledger};

/// How often the chain is read: often enough that what has come meanwhile fits into memory.
pub const FOLLOW: Duration = Duration::from_secs(5);

/// The worker.
#[derive(Debug)]
pub struct PeriodicAudit {
    auditor: Auditor,
    every: TimeDelta,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    round: Option<Round>,
    /// When the chain is read again, if a comparison is under way: it may take long.
    follow_at: Option<DateTime<Utc>>,
    /// When the next comparison is due; at once after a start.
    due_at: Option<DateTime<Utc>>,
    /// What the comparison before has found and logged.
    logged: HashSet<Difference>,
}

impl PeriodicAudit {
    /// Compares this often.
    #[must_use]
    pub fn new(auditor: Auditor, every: Duration) -> Self {
        let every = TimeDelta::from_std(every).unwrap_or(TimeDelta::MAX);
        Self { auditor, every, state: Mutex::default() }
    }
}

impl Worker for PeriodicAudit {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        let mut state = self.state.lock().await;
        let now = self.auditor.clock.now();
        if state.round.is_none() || state.follow_at.is_none_or(|follow_at| now >= follow_at) {
            let reading = self.auditor.read_once().await?;
            if self.auditor.complete_claimed().await? > 0 {
                return Ok(Progress::Worked(1));
            }
            let Reading::UpTo { next_block } = reading else { return Ok(Progress::Worked(1)) };
            state.follow_at = Some(now + FOLLOW);
            if state.round.is_none() && state.due_at.is_none_or(|due_at| now >= due_at) {
                state.due_at = Some(now + self.every);
                state.round = Some(self.auditor.begin(next_block));
            }
        }
        let Some(mut round) = state.round.take() else { return Ok(Progress::Idle) };
        let more = match self.auditor.step(&mut round).await {
            Err(error @ Error::Campaign(_)) => {
                tracing::warn!(%error, "the ledger of the campaign service is not compared");
                round.leave_out_campaign();
                true
            }
            Err(Error::Replaced) => {
                state.due_at = None;
                return Err(Error::Replaced);
            }
            // The page is compared again.
            Err(error) => {
                state.round = Some(round);
                return Err(error);
            }
            Ok(more) => more,
        };
        if more {
            state.round = Some(round);
        } else {
            self.publish(round.report(), &mut state.logged);
        }
        Ok(Progress::Unhurried)
    }
}

impl PeriodicAudit {
    fn publish(&self, report: &Report, logged: &mut HashSet<Difference>) {
        let finished = self.auditor.clock.now().timestamp_millis();
        for (ledger, compared) in &report.ledgers {
            for kind in Kind::ALL {
                let count = compared.differences.get(&kind).copied().unwrap_or(0);
                metrics::gauge!("audit_differences", "ledger" => ledger.as_str(), "kind" => kind.as_str())
                    .set(number(count));
            }
            #[expect(clippy::cast_precision_loss, reason = "milliseconds have 41 bits")]
            metrics::gauge!("audit_finished_timestamp_seconds", "ledger" => ledger.as_str())
                .set(finished as f64 / 1000.0);
        }
        if let Some(Sealed { sequence, broken, .. }) = &report.sealed {
            metrics::gauge!("audit_ledger_sequence").set(number(*sequence));
            metrics::gauge!("audit_ledger_broken").set(f64::from(u8::from(broken.is_some())));
            if let Some(Broken { sequence, reason }) = broken {
                tracing::error!(sequence, reason, "the campaign service's ledger of events was changed");
            }
        }
        metrics::gauge!("audit_block_number").set(number(report.chain.next_block.saturating_sub(1)));
        metrics::counter!("audit_repairs_total").increment(report.repaired);

        for difference in report.differences.iter().filter(|difference| !logged.contains(*difference)) {
            let Difference { ledger, kind, grant_id, request_id, expected, found } = difference;
            let request_id = request_id.as_ref().map(tracing::field::display);
            let (ledger, kind) = (ledger.as_str(), kind.as_str());
            tracing::error!(ledger, kind, grant_id, request_id, ?expected, ?found, "ledger and chain differ");
        }
        // What could not be compared this time is not news the next time.
        logged.retain(|difference| !report.ledgers.contains_key(&difference.ledger));
        logged.extend(report.differences.iter().cloned());
        let Report { chain, repaired, .. } = report;
        tracing::info!(
            block_number = chain.next_block.saturating_sub(1),
            payments = chain.payments,
            campaign = report.ledgers.contains_key(&Ledger::Campaign),
            repaired,
            differences = report.total(),
            "ledger and chain compared"
        );
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}
