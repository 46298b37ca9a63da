//! Publishes a request again when its result does not come: whatever the broker lost, it is told again.
//!
//! A grant that was published as often as is allowed is not failed, for it may still be paid: it needs attention until its
//! result comes, it can be claimed or an operator sets it going again.

use std::sync::Arc;
use std::time::Instant;

use shared::clock::Clock;
use shared::db;
use shared::worker::{Progress, Worker};
use tokio::sync::{Mutex, Notify};

use crate::domain::Patience;
use crate::store::{Republished, Store, WhichGrants};

/// Looks for grants whose result is overdue.
#[derive(Debug)]
pub struct Republisher {
    store: Store,
    clock: Clock,
    outbox_ready: Arc<Notify>,
    patience: Patience,
    /// When the open grants are counted again.
    next_count: Mutex<Instant>,
}

impl Republisher {
    /// The most grants that one step publishes again.
    const BATCH: i64 = 500;

    /// Counting takes the longer the more grants need attention, and the more campaigns there are, but at most one part in so
    /// many of the time.
    const COUNT_SHARE: u32 = 100;

    /// Looks for grants in this store.
    #[must_use]
    pub fn new(store: Store, clock: Clock, outbox_ready: Arc<Notify>, patience: Patience) -> Self {
        Self { store, clock, outbox_ready, patience, next_count: Mutex::new(Instant::now()) }
    }

    /// Counts the open grants, unless they were counted a short while ago.
    async fn count(&self) -> db::Result<()> {
        let (began, mut next_count) = (Instant::now(), self.next_count.lock().await);
        if began < *next_count {
            return Ok(());
        }
        let open = self.store.open_grants().await?;
        let age = open.oldest.map_or(0.0, |oldest| (self.clock.now() - oldest).as_seconds_f64());
        metrics::gauge!("open_grants").set(u32::try_from(open.grants).unwrap_or(u32::MAX));
        metrics::gauge!("open_grants_oldest_seconds").set(age);
        metrics::gauge!("grants_needing_attention").set(u32::try_from(open.needing_attention).unwrap_or(u32::MAX));
        *next_count = began + began.elapsed() * Self::COUNT_SHARE;
        Ok(())
    }

    /// Sets grants that need attention going again, at most 500 at a time; returns how many.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn set_going(&self, which: WhichGrants<'_>) -> db::Result<usize> {
        let grants = self.store.set_going(which, self.clock.now(), self.patience, Self::BATCH).await?;
        if grants > 0 {
            tracing::info!(grants, "grants that needed attention are set going again");
            self.outbox_ready.notify_one();
        }
        Ok(grants)
    }
}

impl Worker for Republisher {
    type Error = db::Error;

    async fn run_once(&self) -> db::Result<Progress> {
        self.count().await?;
        let now = self.clock.now();
        if self.store.tell_again(now, self.patience.first_wait).await? {
            self.outbox_ready.notify_one();
        }
        let Republished { published, given_up } = self.store.republish(now, self.patience, Self::BATCH).await?;
        if let Some(request_id) = given_up.first() {
            metrics::counter!("grants_needing_attention_total").increment(given_up.len() as u64);
            tracing::error!(
                grants = given_up.len(),
                %request_id,
                "grants without a result need attention: see what keeps the blockchain service from answering, then \
                 POST /needs-attention/republish; GET /needs-attention lists them"
            );
        }
        if published > 0 {
            metrics::counter!("grants_republished_total").increment(published as u64);
            tracing::warn!(grants = published, "results are overdue, requests are published again");
            self.outbox_ready.notify_one();
        }
        Ok(match published + given_up.len() {
            0 => Progress::Idle,
            grants => Progress::Worked(grants),
        })
    }
}
