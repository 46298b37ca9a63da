//! What is told of a transaction on its way: in its own history, and to the owners of its grants.

use alloy::primitives::B256;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use shared::db::{self, Tx};
use shared::event::{GrantsConfirmed, GrantsReverted, GrantsSubmitted, ResultEvent};
use shared::outbox::{self, Pending};
use shared::random::ascending_uuid;

use super::NewTransaction;
use crate::domain::Payment;
use crate::transaction::BlockId;

/// Tells the owners of the grants that their transaction is in a block, or is not any more.
pub(super) async fn announce_block(
    tx: &mut Tx,
    transaction: &str,
    hash: B256,
    block: Option<BlockId>,
    now: DateTime<Utc>,
) -> db::Result<()> {
    let rows = sqlx::query(
        "-- store::assigned
         select request_id from payment where transaction_id = $1 and state = 'assigned' order by request_id",
    )
    .bind(transaction)
    .fetch_all(&mut **tx)
    .await?;
    let request_ids: Vec<_> = rows.iter().map(|row| db::parse(row, "request_id")).collect::<db::Result<_>>()?;
    if request_ids.is_empty() {
        return Ok(());
    }
    let (transaction_hash, processed_at) = (hash.to_string(), now);
    let progress = match block {
        Some(block) => ResultEvent::Confirmed(GrantsConfirmed {
            request_ids,
            transaction_hash,
            block_number: block.number,
            block_hash: block.hash.to_string(),
            processed_at,
        }),
        None => ResultEvent::Reverted(GrantsReverted { request_ids, transaction_hash, processed_at }),
    };
    outbox::enqueue(tx, &[Pending::result(&progress, None, now)]);
    Ok(())
}

/// Tells the owners of the grants which transaction is to pay them.
pub(super) fn announce(tx: &mut Tx, payments: &[Payment], hash: B256, now: DateTime<Utc>) {
    if payments.is_empty() {
        return;
    }
    let progress = ResultEvent::Submitted(GrantsSubmitted {
        request_ids: payments.iter().map(|payment| payment.request_id.clone()).collect(),
        transaction_hash: hash.to_string(),
        processed_at: now,
    });
    outbox::enqueue(tx, &[Pending::result(&progress, None, now)]);
}

/// What the history says of an attempt.
pub(super) fn attempt_told(attempt: &NewTransaction<'_>) -> Value {
    json!({
        "transaction_hash": attempt.signed.hash,
        "purpose": attempt.purpose.as_str(),
        "nonce": attempt.nonce,
        "max_fee_per_gas_wei": attempt.fees.max_fee_per_gas,
        "max_priority_fee_per_gas_wei": attempt.fees.max_priority_fee_per_gas,
    })
}

/// What it says of a block.
pub(super) fn block_told(block: BlockId) -> Value {
    json!({ "block_number": block.number, "block_hash": block.hash })
}

db::row! {
    #[derive(Debug)]
    struct EventRow<'a> {
        id: String => text,
        transaction_id: &'a str => text,
        kind: &'static str => text,
        at: i64 => bigint,
        data: String => text,
    }
}

/// Adds a line to a transaction's history.
pub(super) fn record(tx: &mut Tx, transaction_id: &str, kind: &'static str, now: DateTime<Utc>, data: &impl Serialize) {
    let (id, at) = (ascending_uuid(now).to_string(), now.timestamp_micros());
    let data = serde_json::to_string(data).expect("it is plain JSON");
    tx.writes().add(
        db::sql!("-- store::record\n insert into chain_transaction_event ", EventRow::VALUES),
        &[EventRow { id, transaction_id, kind, at, data }],
    );
}
