//! Lanes: nonces, the transactions they were taken for, and the signed bytes.

use alloy::primitives::{Address, B256, Bytes};
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db;
use shared::event::{GrantsSubmitted, ResultEvent};
use shared::id::RequestId;
use shared::outbox::{self, Pending};
use shared::random::ascending_uuid;
use sqlx::Row;

use super::{Store, keys, payment, payment_columns};

use crate::domain::Payment;
use crate::fees::Fees;
use crate::signer::Signed;

/// An ordered line of nonces: one signer on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneId {
    /// The chain (EIP-155).
    pub chain_id: u64,
    /// The signer.
    pub signer: Address,
}

impl LaneId {
    fn signer(self) -> String {
        self.signer.to_checksum(None)
    }
}

/// A transaction, signed and not sent yet.
#[derive(Debug)]
pub struct NewTransaction<'a> {
    /// Its place in the lane.
    pub nonce: u64,
    /// Its bytes and hash.
    pub signed: &'a Signed,
    /// The most gas that it may use.
    pub gas_limit: u64,
    /// What it offers for gas.
    pub fees: Fees,
    /// What it pays.
    pub payments: &'a [Payment],
}

/// A transaction that was, or may have been, sent, and whose fate is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingTransaction {
    /// Our name for it.
    pub id: String,
    /// Its place in the lane.
    pub nonce: u64,
    /// When it was committed.
    pub created_at: DateTime<Utc>,
    /// Its signed bytes, the newest last: any of them may be mined, and only one can be.
    pub attempts: Vec<Attempt>,
}

/// Signed bytes of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Their hash.
    pub hash: B256,
    /// When they were last given to a node that answered.
    pub sent_at: Option<DateTime<Utc>>,
}

impl Store {
    /// Opens the lane whose next nonce on chain is `chain_nonce`, and returns the nonce that it goes on from. Where the
    /// chain is ahead of this database (an old backup), the chain is right.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn open_lane(&self, lane: LaneId, chain_nonce: u64) -> db::Result<u64> {
        let mut tx = self.database.begin("open_lane").await?;
        let row = sqlx::query(
            "-- store::open_lane
             insert into lane (chain_id, signer, next_nonce) values ($1, $2, $3)
             on conflict (chain_id, signer) do update set next_nonce =
                 case when lane.next_nonce < excluded.next_nonce then excluded.next_nonce else lane.next_nonce end
             returning next_nonce",
        )
        .bind(lane.chain_id.cast_signed())
        .bind(lane.signer())
        .bind(chain_nonce.cast_signed())
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        db::unsigned(&row, "next_nonce")
    }

    /// The nonce that the lane's next transaction takes.
    ///
    /// # Errors
    ///
    /// When the database cannot be read, or the lane was never opened.
    pub async fn next_nonce(&self, lane: LaneId) -> db::Result<u64> {
        let row = sqlx::query("-- store::next_nonce\n select next_nonce from lane where chain_id = $1 and signer = $2")
            .bind(lane.chain_id.cast_signed())
            .bind(lane.signer())
            .fetch_one(self.database.reader())
            .await?;
        db::unsigned(&row, "next_nonce")
    }

    /// Up to `limit` payments that wait for a transaction, the longest waiting first, with the time since when.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn queued(&self, limit: usize, now: DateTime<Utc>) -> db::Result<Vec<(Payment, DateTime<Utc>)>> {
        let rows = sqlx::query(concat!(
            "-- store::queued\n select ",
            payment_columns!(),
            ", p.not_before from payment p where p.state = 'queued' and p.not_before <= $1
               order by p.not_before, p.request_id limit $2"
        ))
        .bind(now.timestamp_micros())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(|row| Ok((payment(row)?, db::time(row, "not_before")?))).collect()
    }

    /// Binds payments to a nonce for ever, with the signed bytes and their hash: what is committed here may be sent, and
    /// nothing else ever is. Returns the transaction's name; `None`, having changed nothing, if the nonce or one of the
    /// payments is no longer free.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn assign(
        &self,
        lane: LaneId,
        transaction: &NewTransaction<'_>,
        now: DateTime<Utc>,
    ) -> db::Result<Option<String>> {
        let id = ascending_uuid(now).to_string();
        let mut tx = self.database.begin("assign").await?;
        let taken = sqlx::query(
            "-- store::take_nonce
             update lane set next_nonce = next_nonce + 1 where chain_id = $1 and signer = $2 and next_nonce = $3",
        )
        .bind(lane.chain_id.cast_signed())
        .bind(lane.signer())
        .bind(transaction.nonce.cast_signed())
        .execute(&mut *tx)
        .await?;
        let assigned = sqlx::query(
            "-- store::assign_payments
             update payment set state = 'assigned', transaction_id = $2
             where state = 'queued' and request_id in (select value->>'request_id' from json_each($1))",
        )
        .bind(keys(transaction.payments))
        .bind(&id)
        .execute(&mut *tx)
        .await?;
        if taken.rows_affected() != 1 || assigned.rows_affected() != transaction.payments.len() as u64 {
            tx.rollback().await?;
            return Ok(None);
        }
        sqlx::query(
            "-- store::insert_transaction
             insert into chain_transaction (id, chain_id, signer, nonce, state, grants, created_at)
             values ($1, $2, $3, $4, 'pending', $5, $6)",
        )
        .bind(&id)
        .bind(lane.chain_id.cast_signed())
        .bind(lane.signer())
        .bind(transaction.nonce.cast_signed())
        .bind(i64::try_from(transaction.payments.len()).unwrap_or(i64::MAX))
        .bind(now.timestamp_micros())
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "-- store::insert_attempt
             insert into attempt (hash, transaction_id, raw, gas_limit, max_fee_per_gas_wei,
                                  max_priority_fee_per_gas_wei, created_at)
             values ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(transaction.signed.hash.to_string())
        .bind(&id)
        .bind(transaction.signed.raw.to_vec())
        .bind(transaction.gas_limit.cast_signed())
        .bind(transaction.fees.max_fee_per_gas.cast_signed())
        .bind(transaction.fees.max_priority_fee_per_gas.cast_signed())
        .bind(now.timestamp_micros())
        .execute(&mut *tx)
        .await?;
        let progress = ResultEvent::Submitted(GrantsSubmitted {
            request_ids: transaction
                .payments
                .iter()
                .map(|payment| payment.request_id.clone())
                .collect::<Vec<RequestId>>(),
            transaction_hash: transaction.signed.hash.to_string(),
            processed_at: now,
        });
        outbox::enqueue(&mut tx, &[Pending::result(&progress, None, now)]).await?;
        tx.commit().await?;
        Ok(Some(id))
    }

    /// The lane's transactions whose fate is open, in the order of their nonces.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn pending(&self, lane: LaneId) -> db::Result<Vec<PendingTransaction>> {
        let rows = sqlx::query(
            "-- store::pending
             select t.id, t.nonce, t.created_at, a.hash, a.sent_at
             from chain_transaction t join attempt a on a.transaction_id = t.id
             where t.state = 'pending' and t.chain_id = $1 and t.signer = $2 order by t.nonce, a.created_at",
        )
        .bind(lane.chain_id.cast_signed())
        .bind(lane.signer())
        .fetch_all(self.database.reader())
        .await?;
        let mut pending: Vec<PendingTransaction> = Vec::new();
        for row in &rows {
            let attempt = Attempt {
                hash: db::parse(row, "hash")?,
                sent_at: row.try_get::<Option<i64>, _>("sent_at")?.map(shared::clock::from_micros),
            };
            let nonce = db::unsigned(row, "nonce")?;
            match pending.last_mut() {
                Some(transaction) if transaction.nonce == nonce => transaction.attempts.push(attempt),
                _ => pending.push(PendingTransaction {
                    id: row.try_get("id")?,
                    nonce,
                    created_at: db::time(row, "created_at")?,
                    attempts: vec![attempt],
                }),
            }
        }
        Ok(pending)
    }

    /// The signed bytes of an attempt.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn raw(&self, hash: B256) -> db::Result<Bytes> {
        let row = sqlx::query("-- store::raw\n select raw from attempt where hash = $1")
            .bind(hash.to_string())
            .fetch_one(self.database.reader())
            .await?;
        Ok(row.try_get::<Vec<u8>, _>("raw")?.into())
    }

    /// Remembers that the attempts were given to a node, whatever it answered.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn mark_sent(&self, hashes: &[B256], now: DateTime<Utc>) -> db::Result<()> {
        #[derive(Serialize)]
        struct Sent {
            hash: String,
        }
        let rows: Vec<_> = hashes.iter().map(|hash| Sent { hash: hash.to_string() }).collect();
        let mut tx = self.database.begin("mark_sent").await?;
        sqlx::query(
            "-- store::mark_sent
             update attempt set sent_at = $2 where hash in (select value->>'hash' from json_each($1))",
        )
        .bind(db::rows(&rows))
        .bind(now.timestamp_micros())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}
