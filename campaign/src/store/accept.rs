//! Accepting a batch of requests: decisions, grants, events and messages in one transaction.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use shared::db::{self, Tx};
use shared::event::RequestEvent;
use shared::fail_point;
use shared::id::{CampaignId, IdempotencyKey, RequestId, UserId, WalletAddress};
use shared::outbox::{self, Pending};

use super::{NewEvent, Store, grant, grant_columns, record};
use crate::domain::{Arrival, Decision, Grant, Known, State};

impl Store {
    /// Decides all the arrivals and commits what is new, each decision at its arrival's place.
    ///
    /// The transaction begins by locking the numbering, so that any number of writers decide one after the other.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn accept(
        &self,
        arrivals: &[Arrival],
        now: DateTime<Utc>,
        republish_after: Duration,
    ) -> db::Result<Vec<Decision>> {
        let mut tx = self.database.begin("accept").await?;
        let row = sqlx::query(
            "-- store::lock_numbering
             update deployment set next_grant_index = next_grant_index returning next_grant_index",
        )
        .fetch_one(&mut *tx)
        .await?;
        let mut next_grant_index = db::unsigned(&row, "next_grant_index")?;

        let mut known = known(&mut tx, arrivals).await?;
        let mut decisions = Vec::with_capacity(arrivals.len());
        for arrival in arrivals {
            let decision = known.decide(arrival, next_grant_index, now);
            next_grant_index += u64::from(matches!(decision, Decision::New(_)));
            decisions.push(decision);
        }

        self.insert(&mut tx, &decisions, now, republish_after).await?;
        insert_keys(&mut tx, arrivals, &decisions).await?;
        sqlx::query("-- store::advance_numbering\n update deployment set next_grant_index = $1")
            .bind(next_grant_index.cast_signed())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(decisions)
    }

    async fn insert(
        &self,
        tx: &mut Tx,
        decisions: &[Decision],
        now: DateTime<Utc>,
        republish_after: Duration,
    ) -> db::Result<()> {
        let grants: Vec<_> = decisions
            .iter()
            .filter_map(|decision| if let Decision::New(grant) = decision { Some(grant) } else { None })
            .collect();
        if grants.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = grants.iter().map(|grant| NewGrant::new(grant, now + republish_after)).collect();
        sqlx::query(
            "-- store::insert_grants
             insert into token_grant (request_id, grant_index, user_id, campaign_id, wallet_address, token_amount,
                                      state, retry_count, traceparent, requested_at, updated_at, publish_again_at)
             select value->>'request_id', cast(value->>'grant_index' as bigint), value->>'user_id',
                    value->>'campaign_id', value->>'wallet_address', cast(value->>'token_amount' as bigint),
                    value->>'state', 0, value->>'traceparent', cast(value->>'requested_at' as bigint),
                    cast(value->>'requested_at' as bigint), cast(value->>'publish_again_at' as bigint)
             from json_each($1)",
        )
        .bind(db::rows(&rows))
        .execute(&mut **tx)
        .await?;
        let events: Vec<_> = grants
            .iter()
            .map(|grant| NewEvent::new(&grant.request_id, "requested", now, &json!(grant.request)))
            .collect();
        record(tx, &events).await?;
        let messages: Vec<_> = grants
            .iter()
            .map(|grant| Pending::request(&RequestEvent::Requested(grant.to_message(self.issuer)), grant.trace, now))
            .collect();
        if fail_point::switched("grant_without_message") {
            return Ok(());
        }
        outbox::enqueue(tx, &messages).await
    }
}

#[derive(Debug, Serialize)]
struct NewGrant<'a> {
    request_id: &'a RequestId,
    grant_index: u64,
    user_id: &'a UserId,
    campaign_id: &'a CampaignId,
    wallet_address: Option<WalletAddress>,
    token_amount: u64,
    state: State,
    traceparent: Option<String>,
    requested_at: i64,
    publish_again_at: i64,
}

impl<'a> NewGrant<'a> {
    fn new(grant: &'a Grant, publish_again_at: DateTime<Utc>) -> Self {
        Self {
            request_id: &grant.request_id,
            grant_index: grant.grant_index,
            user_id: &grant.request.user_id,
            campaign_id: &grant.request.campaign_id,
            wallet_address: grant.request.wallet_address,
            token_amount: grant.request.token_amount.whole_tokens(),
            state: grant.state,
            traceparent: grant.trace.map(|trace| trace.to_string()),
            requested_at: grant.requested_at.timestamp_micros(),
            publish_again_at: publish_again_at.timestamp_micros(),
        }
    }
}

/// One element of `json_each($1)`: what identifies an arrival.
#[derive(Debug, Serialize)]
struct Identity<'a> {
    idempotency_key: Option<&'a IdempotencyKey>,
    campaign_id: &'a CampaignId,
    user_id: &'a UserId,
}

/// The grants that the arrivals may repeat.
async fn known(tx: &mut Tx, arrivals: &[Arrival]) -> db::Result<Known> {
    let identities: Vec<_> = arrivals
        .iter()
        .map(|Arrival { request, key, .. }| Identity {
            idempotency_key: key.as_ref(),
            campaign_id: &request.campaign_id,
            user_id: &request.user_id,
        })
        .collect();
    let identities = db::rows(&identities);
    let mut known = Known::default();
    let by_nature = sqlx::query(concat!(
        "-- store::known_by_nature\n select ",
        grant_columns!(),
        " from json_each($1) join token_grant g
           on g.campaign_id = value->>'campaign_id' and g.user_id = value->>'user_id'"
    ))
    .bind(&identities)
    .fetch_all(&mut **tx)
    .await?;
    for row in &by_nature {
        let grant = grant(row)?;
        known.by_nature.insert((grant.request.campaign_id.clone(), grant.request.user_id.clone()), grant);
    }
    if arrivals.iter().any(|arrival| arrival.key.is_some()) {
        let by_key = sqlx::query(concat!(
            "-- store::known_by_key\n select k.idempotency_key, ",
            grant_columns!(),
            " from json_each($1) join idempotency_key k on k.idempotency_key = value->>'idempotency_key'
               join token_grant g on g.request_id = k.request_id"
        ))
        .bind(&identities)
        .fetch_all(&mut **tx)
        .await?;
        for row in &by_key {
            known.by_key.insert(db::parse(row, "idempotency_key")?, grant(row)?);
        }
    }
    Ok(known)
}

#[derive(Debug, Serialize)]
struct NewKey<'a> {
    idempotency_key: &'a IdempotencyKey,
    request_id: &'a RequestId,
}

/// Remembers which grant each new key stands for.
async fn insert_keys(tx: &mut Tx, arrivals: &[Arrival], decisions: &[Decision]) -> db::Result<()> {
    let keys: Vec<_> = arrivals
        .iter()
        .zip(decisions)
        .filter_map(|(arrival, decision)| match decision {
            Decision::New(grant) | Decision::Repeat(grant) => {
                Some(NewKey { idempotency_key: arrival.key.as_ref()?, request_id: &grant.request_id })
            }
            Decision::KeyReused { .. } | Decision::AlreadyGranted { .. } => None,
        })
        .collect();
    if keys.is_empty() || fail_point::switched("keys_forgotten") {
        return Ok(());
    }
    sqlx::query(
        "-- store::insert_keys
         insert into idempotency_key (idempotency_key, request_id)
         select value->>'idempotency_key', value->>'request_id' from json_each($1) where true
         on conflict (idempotency_key) do nothing",
    )
    .bind(db::rows(&keys))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
