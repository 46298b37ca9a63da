//! What the campaign service, or a foreign publisher, asks for: queued, a batch in one transaction.

use std::sync::Arc;

use shared::clock::Clock;
use shared::db;
use shared::event::{GrantRequested, KillSwitchChanged, RequestEvent};
use shared::inbox::{Consumer, Received};
use shared::telemetry::TraceParent;
use tokio::sync::Notify;

use crate::domain::{Currency, Demand, Payment, Wallets};
use crate::store::{Store, SwitchSource};

/// The consumer of `token-grant-requests`.
#[derive(Debug)]
pub struct Subscriber {
    /// Where payments are queued.
    pub store: Store,
    /// Time.
    pub clock: Clock,
    /// Where users without a wallet are paid.
    pub wallets: Wallets,
    /// What is paid, and where.
    pub currency: Currency,
    /// Notified after payments were queued.
    pub queue_ready: Arc<Notify>,
    /// Notified after messages were committed.
    pub outbox_ready: Arc<Notify>,
}

impl Consumer for Subscriber {
    type Event = RequestEvent;

    async fn consume(&self, batch: &[Received<RequestEvent>]) -> db::Result<()> {
        let now = self.clock.now();
        let mut demands = Vec::with_capacity(batch.len());
        for Received { event, trace, .. } in batch {
            match event {
                RequestEvent::Requested(request) => {
                    demands.push(self.currency.demand(self.payment(request, *trace), &request.terms));
                }
                RequestEvent::CancelRequested(cancel) => {
                    demands.push(Demand::Cancel(self.payment(&cancel.request, *trace)));
                }
                RequestEvent::KillSwitchChanged(KillSwitchChanged { engaged, number, .. }) => {
                    self.store.switch(SwitchSource::Campaign, *engaged, Some(*number), now).await?;
                    tracing::warn!(engaged, "the campaign service has used the kill switch");
                    self.queue_ready.notify_one();
                }
                RequestEvent::ClaimRootChanged(changed) => {
                    self.store.want_claim_root(changed, now).await?;
                    self.queue_ready.notify_one();
                }
            }
        }
        let received = self.store.receive(&demands, self.currency.decimals, now).await?;
        let count = |outcome, grants: usize| {
            metrics::counter!("requests_received_total", "outcome" => outcome).increment(grants as u64);
        };
        count("queued", received.queued);
        count("claimable", received.claimable);
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
        }
        self.outbox_ready.notify_one();
        Ok(())
    }
}

impl Subscriber {
    fn payment(&self, request: &GrantRequested, trace: Option<TraceParent>) -> Payment {
        Payment::new(request, trace, &self.wallets).expect("no hash is known to end in 20 zero bytes")
    }
}
