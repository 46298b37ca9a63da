//! Applying a batch of results: states and history lines in one transaction.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use shared::db::{self, Dialect, Tx};
use shared::event::ResultEvent;
use shared::id::RequestId;

use super::{Key, NewEvent, Store, grant, grant_columns, record};
use crate::domain::{Effect, Grant, State};

/// What a batch of results came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// The grants whose state moved, as they are now.
    pub moved: Vec<Grant>,
    /// How many results belong to no grant of this store.
    pub unknown: usize,
}

impl Store {
    /// Applies the results in order, in one transaction.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn apply(&self, results: &[&ResultEvent], now: DateTime<Utc>) -> db::Result<Applied> {
        let mut tx = self.database.begin("apply").await?;
        let ids: Vec<_> = results.iter().flat_map(|event| request_ids(event)).collect();
        let before = self.lock(&mut tx, &ids).await?;
        let mut grants = before.clone();
        let mut applied = Applied::default();
        let mut events = Vec::new();
        for event in results {
            for request_id in request_ids(event).iter().collect::<BTreeSet<_>>() {
                let Some(grant) = grants.get_mut(request_id).filter(|grant| grant.is_meant_by(event)) else {
                    applied.unknown += 1;
                    continue;
                };
                match grant.apply(event, now) {
                    Effect::Moved | Effect::Late => {
                        let (kind, data) = history_line(event);
                        events.push(NewEvent::new(request_id, kind, now, &data));
                    }
                    Effect::Repeat => {}
                }
            }
        }
        applied.moved = grants.into_values().filter(|grant| before.get(&grant.request_id) != Some(grant)).collect();
        if !applied.moved.is_empty() {
            update(&mut tx, &applied.moved).await?;
        }
        if !events.is_empty() {
            record(&mut tx, &events).await?;
        }
        tx.commit().await?;
        Ok(applied)
    }

    pub(super) async fn lock(&self, tx: &mut Tx, ids: &[&RequestId]) -> db::Result<HashMap<RequestId, Grant>> {
        let keys: Vec<_> = ids.iter().map(|request_id| Key { request_id }).collect();
        macro_rules! select {
            ($lock:literal) => {
                concat!(
                    "-- store::lock_grants\n select ",
                    grant_columns!(),
                    " from token_grant g where g.request_id in (select value->>'request_id' from json_each($1))
                       order by g.request_id",
                    $lock
                )
            };
        }
        let sql = match self.database.dialect() {
            // The transaction is the only writer.
            Dialect::Sqlite => select!(""),
            Dialect::Postgres => select!(" for no key update"),
        };
        let rows = sqlx::query(sql).bind(db::rows(&keys)).fetch_all(&mut **tx).await?;
        rows.iter().map(grant).map(|grant| grant.map(|grant| (grant.request_id.clone(), grant))).collect()
    }
}

fn request_ids(event: &ResultEvent) -> &[RequestId] {
    match event {
        ResultEvent::Submitted(submitted) => &submitted.request_ids,
        ResultEvent::Completed(completed) => std::slice::from_ref(&completed.request_id),
        ResultEvent::Failed(failed) => std::slice::from_ref(&failed.request_id),
    }
}

/// How a result reads in the grant's history.
fn history_line(event: &ResultEvent) -> (&'static str, Value) {
    match event {
        ResultEvent::Submitted(submitted) => {
            (State::Submitted.as_str(), json!({ "transaction_hash": submitted.transaction_hash }))
        }
        ResultEvent::Completed(completed) => (
            State::Completed.as_str(),
            json!({
                "transaction_hash": completed.transaction_hash,
                "block_number": completed.block_number,
                "gas_used": completed.gas_used,
                "wallet_address": completed.wallet_address,
                "processed_at": completed.processed_at,
            }),
        ),
        ResultEvent::Failed(failed) => (
            State::Failed.as_str(),
            json!({
                "error_code": failed.error_code,
                "error_message": failed.error_message,
                "processed_at": failed.processed_at,
            }),
        ),
    }
}

#[derive(Debug, Serialize)]
struct Moved<'a> {
    request_id: &'a RequestId,
    state: State,
    transaction_hash: Option<&'a str>,
    block_number: Option<u64>,
    error_code: Option<&'a str>,
    error_message: Option<&'a str>,
    updated_at: i64,
    completed_at: Option<i64>,
}

async fn update(tx: &mut Tx, grants: &[Grant]) -> db::Result<()> {
    let rows: Vec<_> = grants
        .iter()
        .map(|grant| Moved {
            request_id: &grant.request_id,
            state: grant.state,
            transaction_hash: grant.transaction_hash.as_deref(),
            block_number: grant.block_number,
            error_code: grant.error_code.as_deref(),
            error_message: grant.error_message.as_deref(),
            updated_at: grant.updated_at.timestamp_micros(),
            completed_at: grant.completed_at.map(|at| at.timestamp_micros()),
        })
        .collect();
    sqlx::query(
        "-- store::update_grants
         update token_grant set
             state = value->>'state',
             transaction_hash = value->>'transaction_hash',
             block_number = cast(value->>'block_number' as bigint),
             error_code = value->>'error_code',
             error_message = value->>'error_message',
             updated_at = cast(value->>'updated_at' as bigint),
             completed_at = cast(value->>'completed_at' as bigint),
             publish_again_at = case when value->>'completed_at' is null then publish_again_at end,
             needs_attention_since = case when value->>'completed_at' is null then needs_attention_since end
         from json_each($1) where token_grant.request_id = value->>'request_id'",
    )
    .bind(db::rows(&rows))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
