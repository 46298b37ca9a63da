//! What the campaign service, or a foreign publisher, asks for: queued, a batch in one transaction.

use std::sync::Arc;

use shared::clock::Clock;
use shared::db;
use shared::event::RequestEvent;
use shared::inbox::{Consumer, Received};
use tokio::sync::Notify;

use crate::domain::{Payment, Wallets};
use crate::store::Store;

/// The consumer of `token-grant-requests`.
#[derive(Debug)]
pub struct Subscriber {
    /// Where payments are queued.
    pub store: Store,
    /// Time.
    pub clock: Clock,
    /// Where users without a wallet are paid.
    pub wallets: Wallets,
    /// Notified after payments were queued.
    pub queue_ready: Arc<Notify>,
    /// Notified after messages were committed.
    pub outbox_ready: Arc<Notify>,
}

impl Consumer for Subscriber {
    type Event = RequestEvent;

    async fn consume(&self, batch: &[Received<RequestEvent>]) -> db::Result<()> {
        let payments: Vec<_> = batch
            .iter()
            .map(|Received { event: RequestEvent::Requested(request), trace }| {
                Payment::new(request, *trace, &self.wallets).expect("no hash is known to end in 20 zero bytes")
            })
            .collect();
        let received = self.store.receive(&payments, self.clock.now()).await?;
        let count = |outcome, grants: usize| {
            metrics::counter!("requests_received_total", "outcome" => outcome).increment(grants as u64);
        };
        count("queued", received.queued);
        count("repeated", received.repeated);
        count("refused", received.refused);
        if received.queued > 0 {
            self.queue_ready.notify_one();
        }
        if received.repeated + received.refused > 0 {
            tracing::info!(
                repeated = received.repeated,
                refused = received.refused,
                "requests answered again or refused"
            );
            self.outbox_ready.notify_one();
        }
        Ok(())
    }
}
