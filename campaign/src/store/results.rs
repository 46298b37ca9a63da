//! What the blockchain service and the broker say of grants: recorded, a batch in one transaction.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use shared::db::{self, Tx};
use shared::event::ResultEvent;
use shared::id::RequestId;
use shared::ledger::Cause;
use shared::outbox::Published;
use shared::telemetry::TraceParent;

use super::Store;
use crate::domain::event::{self, GrantEvent, actor};
use crate::domain::{Effect, Grant};

/// A result, and the message that brought it.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// What is reported.
    pub event: &'a ResultEvent,
    /// The broker's id of the message.
    pub message_id: Option<&'a str>,
    /// The trace that it belongs to.
    pub trace: Option<TraceParent>,
}

/// What a batch of results came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// The grants that are not as they were, as they are now.
    pub moved: Vec<Grant>,
    /// How many results belong to no grant of this store.
    pub unknown: usize,
}

impl Store {
    /// Records the results in order, in one transaction.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn apply(&self, reports: &[Report<'_>], now: DateTime<Utc>) -> db::Result<Applied> {
        let mut ledger = self.ledger("apply", now).await?;
        let ids: Vec<_> = reports.iter().flat_map(|report| report.event.request_ids()).collect();
        ledger.load_grants(&ids).await?;
        let mut unknown = 0;
        let mut late = Vec::new();
        for Report { event: result, message_id, trace } in reports {
            let cause = Cause {
                actor: actor::blockchain(),
                message_id: message_id.map(str::to_owned),
                trace_id: trace.map(TraceParent::trace_id),
            };
            let Some(event) = GrantEvent::of(result) else {
                unknown += usize::from(!ledger.record_published_root(result, cause).await?);
                continue;
            };
            for request_id in result.request_ids().iter().collect::<BTreeSet<_>>() {
                if !ledger.projection.grant(request_id).is_some_and(|grant| grant.is_meant_by(result, self.issuer)) {
                    unknown += 1;
                } else if ledger.record(request_id, &event, &cause) == Effect::Late {
                    late.push((request_id.clone(), event.clone(), cause.clone()));
                }
            }
        }
        ledger.record_late(late).await?;
        Ok(Applied { moved: ledger.commit().await?, unknown })
    }
}

impl Published for Store {
    /// Records that the broker has the requests of these grants.
    async fn record(&self, tx: Tx, grants: &[RequestId], now: DateTime<Utc>) -> db::Result<Tx> {
        let mut ledger = self.ledger_in(tx, now).await?;
        ledger.load_grants(&grants.iter().collect::<Vec<_>>()).await?;
        let cause = Cause::by(actor::campaign());
        for request_id in grants {
            // A redriven dead letter may name a grant of another service.
            let Some(grant) = ledger.projection.grant(request_id) else { continue };
            let event = GrantEvent::Published(event::Published { retry_count: grant.retry_count });
            ledger.record(request_id, &event, &cause);
        }
        Ok(ledger.into_tx().0)
    }
}
