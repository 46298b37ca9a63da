//! Ending a transaction, and with it the payments that it carried.

use std::collections::HashSet;

use alloy::primitives::B256;
use chrono::{DateTime, Utc};
use serde_json::json;
use shared::db::{self, Tx};
use shared::fail_point;
use shared::id::RequestId;
use shared::outbox::{self, Pending};

use super::lane::{Lane, hold};
use super::progress::record;
use super::{Store, claims, payment, payment_columns};
use crate::domain::{Ending, Payment};
use crate::transaction::End;

/// What becomes of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has ended.
    Ended(Ending),
    /// It goes back to the queue, until then at least.
    Again {
        /// Not to be put in a transaction earlier than this.
        not_before: DateTime<Utc>,
    },
}

/// What becomes of payments.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The transaction that carried them; `None` for payments that never got into one.
    pub transaction: Option<Ended>,
    /// What becomes of each.
    pub verdicts: Vec<(Payment, Verdict)>,
}

/// A transaction that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Whose nonce it took.
    pub lane: Lane,
    /// Our name for it.
    pub id: String,
    /// How it ended.
    pub end: End,
    /// The hash of the attempt that was mined and the number of its block, where one was.
    pub mined: Option<(B256, u64)>,
}

db::row! {
    #[derive(Debug)]
    struct Row<'a> {
        request_id: &'a RequestId => text,
        state: &'static str => text,
        not_before: Option<i64> => bigint,
        transaction_hash: Option<String> => text,
        block_number: Option<u64> => bigint,
        gas_used: Option<u64> => bigint,
        gas_price: Option<u64> => bigint,
        error_code: Option<&'a str> => text,
        error_message: Option<&'a str> => text,
        finished_at: Option<i64> => bigint,
    }
}

impl<'a> Row<'a> {
    fn new(payment: &'a Payment, verdict: &'a Verdict, now: DateTime<Utc>) -> Self {
        let row = Self {
            request_id: &payment.request_id,
            state: "queued",
            not_before: None,
            transaction_hash: None,
            block_number: None,
            gas_used: None,
            gas_price: None,
            error_code: None,
            error_message: None,
            finished_at: Some(now.timestamp_micros()),
        };
        match verdict {
            Verdict::Ended(Ending::Completed(paid)) => Self {
                state: "completed",
                transaction_hash: Some(paid.transaction_hash.to_string()),
                block_number: Some(paid.block_number),
                gas_used: paid.gas_used,
                gas_price: paid.gas_price,
                ..row
            },
            Verdict::Ended(Ending::Failed(failure)) => {
                Self { state: "failed", error_code: Some(&failure.code), error_message: Some(&failure.message), ..row }
            }
            Verdict::Again { not_before } => {
                Self { not_before: Some(not_before.timestamp_micros()), finished_at: None, ..row }
            }
        }
    }
}

impl Store {
    /// The payments that a transaction carries.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn payments_in(&self, transaction: &str) -> db::Result<Vec<Payment>> {
        let rows = sqlx::query(concat!(
            "-- store::payments_in\n select ",
            payment_columns!(),
            " from payment p where p.transaction_id = $1 and p.state = 'assigned'"
        ))
        .bind(transaction)
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(payment).collect()
    }

    /// Ends a transaction and the payments that it carries, and announces the endings. Without a transaction it ends
    /// payments that are in none; whatever has moved on meanwhile is left alone. Whether it did: not if the lane is
    /// another's by now, or the transaction has ended already.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn settle(&self, settlement: &Settlement, now: DateTime<Utc>) -> db::Result<bool> {
        let mut tx = self.database.begin("settle").await?;
        if let Some(transaction) = &settlement.transaction {
            if !hold(&mut tx, transaction.lane).await? {
                return Ok(false);
            }
            let ended = sqlx::query(
                "-- store::end_transaction
                 update chain_transaction set state = $2, finished_at = $3 where id = $1 and state = 'pending'",
            )
            .bind(&transaction.id)
            .bind(transaction.end.as_str())
            .bind(now.timestamp_micros())
            .execute(&mut *tx)
            .await?;
            if ended.rows_affected() != 1 {
                // Another process has settled it, with the same receipt.
                return Ok(false);
            }
            let told = json!({ "transaction_hash": transaction.mined.map(|(hash, _)| hash) });
            record(&mut tx, &transaction.id, transaction.end.as_str(), now, &told);
            claims::end(&mut tx, transaction, now).await?;
        }
        let transaction = settlement.transaction.as_ref().map(|transaction| &*transaction.id);
        end(&mut tx, transaction, &settlement.verdicts, now).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Ends those of the payments that the transaction carries, or without one those that wait for one, or lets them wait;
/// counts and announces the endings.
pub(super) async fn end(
    tx: &mut Tx,
    transaction: Option<&str>,
    verdicts: &[(Payment, Verdict)],
    now: DateTime<Utc>,
) -> db::Result<()> {
    let rows: Vec<_> = verdicts.iter().map(|(payment, verdict)| Row::new(payment, verdict, now)).collect();
    let moved = update(tx, transaction, &rows).await?;
    let verdicts: Vec<_> = verdicts.iter().filter(|(payment, _)| moved.contains(&payment.request_id)).collect();
    count(tx, &verdicts);
    let messages: Vec<_> = verdicts
        .iter()
        .filter_map(|(payment, verdict)| match verdict {
            Verdict::Ended(ending) => Some(Pending::result(&payment.result(ending, now), payment.trace, now)),
            Verdict::Again { .. } => None,
        })
        .collect();
    if !fail_point::switched("result_without_message") {
        outbox::enqueue(tx, &messages);
    }
    Ok(())
}

/// Ends or queues again those of the payments that the transaction carries; returns which these are.
async fn update(tx: &mut Tx, transaction: Option<&str>, rows: &[Row<'_>]) -> db::Result<HashSet<RequestId>> {
    let moved = sqlx::query(db::sql!(
        "-- store::end_payments
             update payment set
                 state = ended.state,
                 transaction_id = case when ended.state = 'queued' then null else transaction_id end,
                 not_before = coalesce(ended.not_before, payment.not_before),
                 transaction_hash = ended.transaction_hash, block_number = ended.block_number,
                 gas_used = ended.gas_used, gas_price = ended.gas_price, error_code = ended.error_code,
                 error_message = ended.error_message, finished_at = ended.finished_at
             from (",
        Row::SELECT,
        ") ended
             where payment.request_id = ended.request_id and payment.state in ('queued', 'claimable', 'assigned')
               and coalesce(payment.transaction_id, '') = $2
             returning payment.request_id"
    ))
    .bind(db::rows(rows))
    .bind(transaction.unwrap_or_default())
    .fetch_all(&mut **tx)
    .await?;
    moved.iter().map(|row| db::parse(row, "request_id")).collect()
}

db::row! {
    /// How many payments end together.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Counted {
        completed_grants: u64 => bigint,
        completed_tokens: u64 => bigint,
        failed_grants: u64 => bigint,
    }
}

fn count(tx: &mut Tx, verdicts: &[&(Payment, Verdict)]) {
    let mut ended = Counted::default();
    for (payment, verdict) in verdicts {
        match verdict {
            Verdict::Ended(Ending::Completed(_)) => {
                ended.completed_grants += 1;
                ended.completed_tokens += payment.token_amount.whole_tokens();
            }
            Verdict::Ended(Ending::Failed(_)) => ended.failed_grants += 1,
            Verdict::Again { .. } => {}
        }
    }
    tx.writes().change(
        db::sql!(
            "-- store::count
             update tally set completed_grants = tally.completed_grants + ended.completed_grants,
                              completed_tokens = tally.completed_tokens + ended.completed_tokens,
                              failed_grants = tally.failed_grants + ended.failed_grants
             from (",
            Counted::SELECT,
            ") ended"
        ),
        (ended != Counted::default()).then_some(ended).as_slice(),
    );
}
