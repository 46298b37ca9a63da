//! Grants without a result: counted, their requests published again, cancelled, and given to an operator in the end.

use chrono::{DateTime, Utc};
use shared::db;
use shared::event::RequestEvent;
use shared::id::RequestId;
use shared::ledger::Cause;
use shared::outbox::Pending;
use sqlx::Row;

use super::ledger::Ledger;
use super::{Store, grant, grant_columns};
use crate::domain::event::{CancelRequested, GrantEvent, actor};
use crate::domain::{Grant, Patience, State};

/// Open grants, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// How many have no result yet, those that need attention included.
    pub grants: u64,
    /// When the oldest of them was accepted.
    pub oldest: Option<DateTime<Utc>>,
    /// How many of them need attention.
    pub needing_attention: u64,
}

/// What a step did about overdue results.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Republished {
    /// How many requests were queued to be published again.
    pub published: usize,
    /// The grants that need attention from now on.
    pub given_up: Vec<RequestId>,
}

/// What the wish to cancel a grant came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cancellation {
    /// The blockchain service is asked, or has cancelled it.
    Asked(Grant),
    /// It is in a transaction, or has ended otherwise.
    TooLate(Grant),
}

/// Which of the grants that need attention.
#[derive(Debug, Clone, Copy)]
pub enum WhichGrants<'a> {
    /// This one.
    One(&'a RequestId),
    /// All, the oldest first.
    All,
}

impl Store {
    /// Queues the requests of up to `limit` grants that are overdue, to be published again, or marks the grant as needing
    /// attention. While requests have waited to be published for as long as a grant waits for its result, there is nothing
    /// to publish again.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn republish(&self, now: DateTime<Utc>, patience: Patience, limit: i64) -> db::Result<Republished> {
        let find = || {
            let sql = concat!(
                "-- store::overdue\n select ",
                grant_columns!(),
                " from token_grant g where g.publish_again_at <= $1
                   and not exists (select 1 from (select created_at from outbox order by id limit 1) oldest
                                   where oldest.created_at <= $3)
                   order by g.publish_again_at limit $2"
            );
            let asked_since = now - patience.first_wait;
            sqlx::query(sql).bind(now.timestamp_micros()).bind(limit).bind(asked_since.timestamp_micros())
        };
        // Looked up outside the transaction first: most often there is nothing, and nothing to lock.
        if find().fetch_all(self.database.reader()).await?.is_empty() {
            return Ok(Republished::default());
        }
        let mut ledger = self.ledger("republish", now).await?;
        let overdue = find().fetch_all(&mut *ledger.tx).await?.iter().map(grant).collect::<db::Result<Vec<_>>>()?;
        ledger.load_grants(&overdue.iter().map(|grant| &grant.request_id).collect::<Vec<_>>()).await?;
        let mut republished = Republished::default();
        for grant in &overdue {
            let event = grant.overdue(patience, now);
            ledger.record(&grant.request_id, &event, &Cause::by(actor::campaign()));
            if matches!(event, GrantEvent::NeedsAttention(_)) {
                republished.given_up.push(grant.request_id.clone());
            } else {
                republished.published += 1;
                self.send_again(&mut ledger, &grant.request_id, now);
            }
        }
        ledger.commit().await?;
        Ok(republished)
    }

    /// Queues the requests of grants that need attention, up to `limit`, and begins a new round with each; returns how
    /// many. A grant that does not need attention is left alone.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn set_going(
        &self,
        which: WhichGrants<'_>,
        now: DateTime<Utc>,
        patience: Patience,
        limit: i64,
    ) -> db::Result<usize> {
        let request_id = match which {
            WhichGrants::One(request_id) => request_id.as_str(),
            WhichGrants::All => "",
        };
        let mut ledger = self.ledger("set_going", now).await?;
        let rows = sqlx::query(concat!(
            "-- store::needing_attention_of\n select ",
            grant_columns!(),
            " from token_grant g where g.needs_attention_since is not null and ($1 = '' or g.request_id = $1)
               order by g.grant_index limit $2"
        ))
        .bind(request_id)
        .bind(limit)
        .fetch_all(&mut *ledger.tx)
        .await?;
        let grants = rows.iter().map(grant).collect::<db::Result<Vec<_>>>()?;
        ledger.load_grants(&grants.iter().map(|grant| &grant.request_id).collect::<Vec<_>>()).await?;
        for grant in &grants {
            ledger.record(&grant.request_id, &grant.set_going(patience, now), &Cause::by(actor::operator()));
            self.send_again(&mut ledger, &grant.request_id, now);
        }
        ledger.commit().await?;
        Ok(grants.len())
    }

    /// Asks that a grant not be paid. It is for the blockchain service to say whether it still can be: nothing happens to
    /// a grant that is in a transaction, that can be claimed, or that has ended.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn cancel(
        &self,
        request_id: &RequestId,
        reason: Option<String>,
        cause: &Cause,
        now: DateTime<Utc>,
    ) -> db::Result<Option<Cancellation>> {
        let mut ledger = self.ledger("cancel", now).await?;
        ledger.load_grants(&[request_id]).await?;
        let Some(grant) = ledger.projection.grant(request_id).cloned() else { return Ok(None) };
        if grant.state == State::Cancelled || grant.cancel_requested_at.is_some() && !grant.state.is_final() {
            return Ok(Some(Cancellation::Asked(grant)));
        }
        if !matches!(grant.state, State::Requested | State::Started) {
            return Ok(Some(Cancellation::TooLate(grant)));
        }
        ledger.record(request_id, &GrantEvent::CancelRequested(CancelRequested { reason }), cause);
        let grant = ledger.projection.grant(request_id).cloned().unwrap_or(grant);
        self.send_again(&mut ledger, request_id, now);
        ledger.commit().await?;
        Ok(Some(Cancellation::Asked(grant)))
    }

    /// Queues what a grant's request is now: that it be paid, or that it be not.
    fn send_again(&self, ledger: &mut Ledger, request_id: &RequestId, now: DateTime<Utc>) {
        let grant = ledger.projection.grant(request_id).expect("it was just recorded");
        let event = match grant.cancel_requested_at {
            None => RequestEvent::Requested(grant.to_message(self.issuer)),
            Some(_) => RequestEvent::CancelRequested(grant.to_cancellation(self.issuer)),
        };
        let message = Pending::request(&event, grant.trace, now);
        ledger.send(message);
    }

    /// Counts the grants that have no result yet, but for those that wait for their recipients to claim them. How long that
    /// takes grows with the campaigns, which count them as they change, and with the grants that need attention.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn open_grants(&self) -> db::Result<Open> {
        // A count of rows is made only where there is one: before PostgreSQL has looked at a new table it expects nearly
        // all of its grants to need attention, and reads them all to count them.
        let row = sqlx::query(
            "-- store::open_grants
             select open.grants, waiting.oldest, attention.oldest as oldest_needing_attention,
                    case when attention.oldest is null then 0
                         else (select count(*) from token_grant where needs_attention_since is not null) end
                    as needing_attention
             from (select cast(coalesce(sum(case when claimable < grants - completed - failed
                                                 then grants - completed - failed - claimable else 0 end), 0) as bigint)
                   as grants from campaign) open,
                  (select (select requested_at from token_grant where publish_again_at is not null and state <> 'claimable'
                           order by requested_at limit 1) as oldest) waiting,
                  (select (select requested_at from token_grant where needs_attention_since is not null
                           order by grant_index limit 1) as oldest) attention",
        )
        .fetch_one(self.database.reader())
        .await?;
        let oldest: [Option<i64>; 2] = [row.try_get("oldest")?, row.try_get("oldest_needing_attention")?];
        Ok(Open {
            grants: db::unsigned(&row, "grants")?,
            oldest: oldest.into_iter().flatten().min().map(shared::clock::from_micros),
            needing_attention: db::unsigned(&row, "needing_attention")?,
        })
    }
}
