//! What the blockchain service reports: applied to the grants, a batch in one transaction.

use shared::clock::Clock;
use shared::db;
use shared::event::ResultEvent;
use shared::inbox::{Consumer, Received};

use crate::domain::{Grant, State};
use crate::store::{Report, Store};

/// The consumer of `token-grant-results`.
#[derive(Debug)]
pub struct Subscriber {
    store: Store,
    clock: Clock,
}

impl Subscriber {
    /// Applies results to the grants of this store.
    #[must_use]
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }
}

impl Consumer for Subscriber {
    type Event = ResultEvent;

    async fn consume(&self, batch: &[Received<ResultEvent>]) -> db::Result<()> {
        let reports: Vec<_> = batch
            .iter()
            .map(|Received { event, trace, message_id }| Report { event, message_id: Some(message_id), trace: *trace })
            .collect();
        let applied = self.store.apply(&reports, self.clock.now()).await?;
        applied.moved.iter().for_each(observe);
        if applied.unknown > 0 {
            metrics::counter!("results_without_grant_total").increment(applied.unknown as u64);
            tracing::warn!(results = applied.unknown, "results belong to no grant of this service");
        }
        Ok(())
    }
}

fn observe(grant: &Grant) {
    metrics::counter!("grant_transitions_total", "state" => grant.state.as_str()).increment(1);
    let Some(completed_at) = grant.completed_at else { return };
    let seconds = (completed_at - grant.requested_at).as_seconds_f64();
    metrics::histogram!("grant_result_seconds", "state" => grant.state.as_str()).record(seconds);
    let (request_id, trace_id) = (&grant.request_id, grant.trace.map(shared::telemetry::TraceParent::trace_id));
    if grant.state == State::Completed {
        tracing::info!(%request_id, trace_id, transaction_hash = grant.transaction_hash, seconds, "grant completed");
    } else {
        let (code, message) = (&grant.error_code, &grant.error_message);
        tracing::warn!(%request_id, trace_id, error_code = code, error_message = message, "grant failed");
    }
}
