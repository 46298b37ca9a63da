//! What people order by hand: other settings for a campaign, that a grant not be paid, that nothing be paid.

use std::sync::Arc;

use shared::clock::Clock;
use shared::db;
use shared::id::{Actor, CampaignId, RequestId};
use shared::ledger::Cause;
use shared::telemetry::TraceParent;
use tokio::sync::Notify;

use crate::domain::campaign::{Campaign, Spec};
use crate::domain::event::actor;
use crate::store::{Cancellation, Change, KillSwitch, Store};

/// Who orders something, and why.
#[derive(Debug, Clone)]
pub struct Order {
    /// Who, if they say so.
    pub by: Option<Actor>,
    /// Why, in their words.
    pub reason: Option<String>,
    /// The trace of the HTTP request.
    pub trace: TraceParent,
}

impl Order {
    fn cause(&self) -> Cause {
        let actor = self.by.clone().unwrap_or_else(actor::operator);
        Cause { trace_id: Some(self.trace.trace_id()), ..Cause::by(actor) }
    }
}

/// Carries out orders; clones share the store.
#[derive(Debug, Clone)]
pub struct Operator {
    store: Store,
    clock: Clock,
    outbox_ready: Arc<Notify>,
}

impl Operator {
    /// Orders concern this store.
    #[must_use]
    pub fn new(store: Store, clock: Clock, outbox_ready: Arc<Notify>) -> Self {
        Self { store, clock, outbox_ready }
    }

    /// Gives a campaign the settings that `decide` says, or makes it with them.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn change_campaign<R>(
        &self,
        campaign_id: &CampaignId,
        order: Order,
        decide: impl FnOnce(Option<&Campaign>) -> Result<Spec, R>,
    ) -> db::Result<Result<Change, R>> {
        let (cause, now) = (order.cause(), self.clock.now());
        let changed = self.store.change_campaign(campaign_id, cause, order.reason, now, decide).await?;
        if let Ok(Change::Created(campaign) | Change::Changed(campaign)) = &changed {
            tracing::info!(%campaign_id, state = campaign.spec.state.as_str(), "campaign has other settings");
        }
        Ok(changed)
    }

    /// Asks that a grant not be paid, if there is one.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn cancel(&self, request_id: &RequestId, order: Order) -> db::Result<Option<Cancellation>> {
        let cause = order.cause();
        let cancellation = self.store.cancel(request_id, order.reason, &cause, self.clock.now()).await?;
        if let Some(Cancellation::Asked(grant)) = &cancellation {
            tracing::info!(%request_id, state = grant.state.as_str(), "grant is not wanted any more");
            self.outbox_ready.notify_one();
        }
        Ok(cancellation)
    }

    /// Stops all payments, or lets them go on.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn switch(&self, engaged: bool, order: Order) -> db::Result<KillSwitch> {
        let cause = order.cause();
        let switch = self.store.switch(engaged, cause, order.reason, self.clock.now()).await?;
        tracing::warn!(engaged, "the kill switch was used");
        self.outbox_ready.notify_one();
        Ok(switch)
    }
}
