//! Publishes a request again when its result does not come: whatever the broker lost, it is told again.

use std::sync::Arc;
use std::time::Duration;

use shared::clock::Clock;
use shared::db;
use shared::worker::{Progress, Worker};
use tokio::sync::Notify;

use crate::store::Store;

/// Looks for grants whose result is overdue.
#[derive(Debug)]
pub struct Republisher {
    store: Store,
    clock: Clock,
    outbox_ready: Arc<Notify>,
    after: Duration,
}

impl Republisher {
    /// The most grants that one step publishes again.
    const BATCH: i64 = 500;

    /// A grant is overdue when it has waited for `after` since it was last published.
    #[must_use]
    pub fn new(store: Store, clock: Clock, outbox_ready: Arc<Notify>, after: Duration) -> Self {
        Self { store, clock, outbox_ready, after }
    }
}

impl Worker for Republisher {
    type Error = db::Error;

    async fn run_once(&self) -> db::Result<Progress> {
        let now = self.clock.now();
        let open = self.store.open_grants().await?;
        metrics::gauge!("open_grants").set(u32::try_from(open.grants).unwrap_or(u32::MAX));
        let age = open.oldest.map_or(0.0, |oldest| (now - oldest).as_seconds_f64());
        metrics::gauge!("open_grants_oldest_seconds").set(age);

        let published = self.store.republish(now, self.after, Self::BATCH).await?;
        if published == 0 {
            return Ok(Progress::Idle);
        }
        metrics::counter!("grants_republished_total").increment(published as u64);
        tracing::warn!(grants = published, "results are overdue, requests are published again");
        self.outbox_ready.notify_one();
        Ok(Progress::Worked)
    }
}
