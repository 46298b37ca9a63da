//! Taking requests in: each grant once, however often its request arrives.

use std::collections::HashMap;

use alloy::primitives::B256;
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db::{self, Tx};
use shared::id::{RequestId, WalletAddress};
use shared::outbox::{self, Pending};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Store, keys, payment, payment_columns};
use crate::domain::{Ending, Failure, Paid, Payment};

/// What a batch of requests came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Queued for the chain.
    pub queued: usize,
    /// Known already. Those that have ended are answered again.
    pub repeated: usize,
    /// Refused, since their id on chain belongs to another grant.
    pub refused: usize,
}

#[derive(Debug, Serialize)]
struct NewPayment<'a> {
    request_id: &'a RequestId,
    grant_id: String,
    user_id: &'a str,
    campaign_id: &'a str,
    recipient: WalletAddress,
    token_amount: u64,
    traceparent: Option<String>,
    requested_at: i64,
    received_at: i64,
}

impl Store {
    /// Commits the payments that are new, and answers those that are not.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn receive(&self, payments: &[Payment], now: DateTime<Utc>) -> db::Result<Received> {
        let mut tx = self.database.begin("receive").await?;
        let inserted = insert(&mut tx, payments, now).await?;
        let mut received = Received { queued: inserted.len(), ..Received::default() };
        let mut answers = Vec::new();
        if inserted.len() < payments.len() {
            let known = known(&mut tx, payments).await?;
            let mut new: std::collections::HashSet<_> = inserted.into_iter().collect();
            // What was inserted is new where it stands first in the batch, and a repeat behind that.
            for payment in payments.iter().filter(|payment| !new.remove(&payment.request_id)) {
                if let Some((stored, ending)) = known.get(&payment.request_id) {
                    received.repeated += 1;
                    let answer = ending.as_ref().map(|(ending, at)| stored.result(ending, *at));
                    answers.extend(answer.map(|event| Pending::result(&event, stored.trace, now)));
                } else {
                    received.refused += 1;
                    let failure = Failure::new("grant_id_taken", "another grant has this issuer and grant_index");
                    let event = payment.result(&Ending::Failed(failure), now);
                    answers.push(Pending::result(&event, payment.trace, now));
                }
            }
        }
        if !answers.is_empty() {
            outbox::enqueue(&mut tx, &answers).await?;
        }
        tx.commit().await?;
        Ok(received)
    }
}

async fn insert(tx: &mut Tx, payments: &[Payment], now: DateTime<Utc>) -> db::Result<Vec<RequestId>> {
    let rows: Vec<_> = payments
        .iter()
        .map(|payment| NewPayment {
            request_id: &payment.request_id,
            grant_id: payment.grant_id.to_string(),
            user_id: payment.user_id.as_str(),
            campaign_id: payment.campaign_id.as_str(),
            recipient: payment.recipient,
            token_amount: payment.token_amount.whole_tokens(),
            traceparent: payment.trace.map(|trace| trace.to_string()),
            requested_at: payment.requested_at.timestamp_micros(),
            received_at: now.timestamp_micros(),
        })
        .collect();
    let inserted = sqlx::query(
        "-- store::insert_payments
         insert into payment (request_id, grant_id, user_id, campaign_id, recipient, token_amount, state, not_before,
                              traceparent, requested_at, received_at)
         select value->>'request_id', value->>'grant_id', value->>'user_id', value->>'campaign_id',
                value->>'recipient', cast(value->>'token_amount' as bigint), 'queued',
                cast(value->>'received_at' as bigint), value->>'traceparent',
                cast(value->>'requested_at' as bigint), cast(value->>'received_at' as bigint)
         from json_each($1) where true
         on conflict do nothing returning request_id",
    )
    .bind(db::rows(&rows))
    .fetch_all(&mut **tx)
    .await?;
    inserted.iter().map(|row| db::parse(row, "request_id")).collect()
}

type Known = HashMap<RequestId, (Payment, Option<(Ending, DateTime<Utc>)>)>;

/// The stored payments of these requests, and how those that have ended did.
async fn known(tx: &mut Tx, payments: &[Payment]) -> db::Result<Known> {
    let rows = sqlx::query(concat!(
        "-- store::known_payments\n select ",
        payment_columns!(),
        ", p.state, p.transaction_hash, p.block_number, p.gas_used, p.error_code, p.error_message, p.finished_at
         from payment p where p.request_id in (select value->>'request_id' from json_each($1))"
    ))
    .bind(keys(payments))
    .fetch_all(&mut **tx)
    .await?;
    rows.iter()
        .map(|row| {
            let payment = payment(row)?;
            Ok((payment.request_id.clone(), (payment, ending(row)?)))
        })
        .collect()
}

fn ending(row: &AnyRow) -> db::Result<Option<(Ending, DateTime<Utc>)>> {
    let ending = match row.try_get::<&str, _>("state")? {
        "completed" => Ending::Completed(Paid {
            transaction_hash: db::parse::<B256>(row, "transaction_hash")?,
            block_number: db::unsigned(row, "block_number")?,
            gas_used: row.try_get::<Option<i64>, _>("gas_used")?.map(i64::cast_unsigned),
        }),
        "failed" => {
            Ending::Failed(Failure { code: row.try_get("error_code")?, message: row.try_get("error_message")? })
        }
        _ => return Ok(None),
    };
    Ok(Some((ending, db::time(row, "finished_at")?)))
}
