//! Transactions: the nonces that they took, the signed bytes, and what was seen of them.
//!
//! What is committed here may be sent, and nothing else ever is. Every change is recorded in the transaction's history.

use alloy::primitives::{B256, Bytes};
use chrono::{DateTime, Utc};
use serde_json::json;
use shared::db::{self, Tx};
use shared::finality::Finality;
use shared::random::ascending_uuid;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::lane::{Lane, LaneId, hold};
use super::progress::{announce, announce_block, attempt_told, block_told, record};
use super::{Publication, Store, claims, keys, payment, payment_columns};
use crate::domain::Payment;
use crate::fees::Fees;
use crate::signer::Signed;
use crate::transaction::{Attempt, BlockId, Pending, Purpose};

/// A transaction, signed and not sent yet.
#[derive(Debug)]
pub struct NewTransaction<'a> {
    /// Its place in the lane.
    pub nonce: u64,
    /// Its bytes and hash.
    pub signed: &'a Signed,
    /// What they are for.
    pub purpose: Purpose,
    /// The most gas that it may use.
    pub gas_limit: u64,
    /// What it offers for gas.
    pub fees: Fees,
    /// What it pays; all of them are final at the same time.
    pub payments: &'a [Payment],
    /// The root that it publishes, if it does.
    pub publication: Option<Publication<'a>>,
}

impl NewTransaction<'_> {
    /// When its block counts as final; `None` for the service's own setting.
    fn finality(&self) -> Option<Finality> {
        self.payments.first().and_then(|payment| payment.terms.finality)
    }
}

/// What was found at a nonce that the chain has lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reopened {
    /// A transaction that had ended: it is open again, and so are its payments.
    Transaction {
        /// Our name for it.
        id: String,
        /// How many payments are open again.
        payments: u64,
    },
    /// A transaction that is open already, or the lane is another's by now.
    Nothing,
    /// Nothing was ever known of this nonce.
    Unknown,
}

/// Payments that wait for a transaction.
#[derive(Debug)]
pub struct Taken {
    /// Each with the time since when it waits.
    pub payments: Vec<(Payment, DateTime<Utc>)>,
    /// Keeps other processes from them, where there may be others.
    pub lock: Option<Tx>,
}

impl Taken {
    /// Lets anybody take them, from now on.
    ///
    /// # Errors
    ///
    /// When the database did not say so; they are free all the same.
    pub async fn give_back(self) -> db::Result<()> {
        match self.lock {
            Some(tx) => tx.roll_back().await,
            None => Ok(()),
        }
    }
}

/// The queue in its order, locked or not.
macro_rules! queued {
    ($lock:literal) => {
        concat!(
            "-- store::queued\n select ",
            payment_columns!(),
            ", p.not_before from payment p where p.state = 'queued' and p.not_before <= $1
               order by p.priority desc, p.not_before, p.request_id limit $2 ",
            $lock
        )
    };
}

impl Store {
    /// Up to `limit` payments whose time is over and that are in no transaction.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn expired(&self, limit: usize, now: DateTime<Utc>) -> db::Result<Vec<Payment>> {
        let rows = sqlx::query(concat!(
            "-- store::expired\n select ",
            payment_columns!(),
            " from payment p where p.state = 'queued' and p.expires_at is not null and p.expires_at <= $1
               order by p.expires_at limit $2"
        ))
        .bind(now.timestamp_micros())
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(payment).collect()
    }

    /// Up to `limit` payments that wait for a transaction, the most urgent first, then the longest waiting, that no other
    /// process is about to assign.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn take_queued(&self, limit: usize, now: DateTime<Utc>) -> db::Result<Taken> {
        let mut tx = self.database.begin_taking("assign").await?;
        let (now, limit) = (now.timestamp_micros(), i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = match &mut tx {
            None => sqlx::query(queued!("")).bind(now).bind(limit).fetch_all(self.database.reader()).await?,
            Some(tx) => {
                let query = sqlx::query(queued!("for update skip locked"));
                query.bind(now).bind(limit).fetch_all(&mut **tx).await?
            }
        };
        let payments = rows.iter().map(|row| Ok((payment(row)?, db::time(row, "not_before")?)));
        Ok(Taken { payments: payments.collect::<db::Result<_>>()?, lock: tx })
    }

    /// Binds payments, or a root, to the lane's next nonce for ever, with the signed bytes and their hash. Returns the
    /// transaction's name; `None`, having changed nothing, if the lane, the nonce, one of the payments or the root is no
    /// longer free. `lock` is what the payments were [taken](Self::take_queued) with.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn assign(
        &self,
        lock: Option<Tx>,
        lane: Lane,
        transaction: &NewTransaction<'_>,
        now: DateTime<Utc>,
    ) -> db::Result<Option<String>> {
        let mut tx = match lock {
            Some(tx) => tx,
            None => self.database.begin("assign").await?,
        };
        let id = assign(&mut tx, lane, transaction, now).await?;
        match id {
            Some(_) => tx.commit().await?,
            None => tx.roll_back().await?,
        }
        Ok(id)
    }

    /// Takes a nonce of the lane that nothing is known of, for a transaction that pays nobody. Whether it did: not if the
    /// lane is another's by now.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn fill(&self, lane: Lane, transaction: &NewTransaction<'_>, now: DateTime<Utc>) -> db::Result<bool> {
        let mut tx = self.database.begin("fill").await?;
        if !hold(&mut tx, lane).await? {
            return Ok(false);
        }
        insert(&mut tx, lane.id, transaction, now).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Adds an attempt to an open transaction, at its nonce, paying what it pays or, to cancel it, nothing. Whether it did:
    /// not if the lane is another's by now, or the transaction has ended.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn replace(
        &self,
        lane: Lane,
        id: &str,
        attempt: &NewTransaction<'_>,
        now: DateTime<Utc>,
    ) -> db::Result<bool> {
        let mut tx = self.database.begin("replace").await?;
        if !hold(&mut tx, lane).await? || !is_pending(&mut tx, id).await? {
            return Ok(false);
        }
        insert_attempt(&mut tx, id, attempt, now).await?;
        let kind = match attempt.purpose {
            Purpose::Pay => "replaced",
            Purpose::Cancel => "cancelling",
        };
        record(&mut tx, id, kind, now, &attempt_told(attempt));
        if attempt.purpose == Purpose::Pay {
            announce(&mut tx, attempt.payments, attempt.signed.hash, now);
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Remembers which block holds an attempt of an open transaction now, `None` that the one which did is gone; and tells
    /// the owners of the grants.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn mined(
        &self,
        lane: Lane,
        transaction: &Pending,
        attempt: &Attempt,
        block: Option<BlockId>,
        now: DateTime<Utc>,
    ) -> db::Result<()> {
        let mut tx = self.database.begin("mined").await?;
        if !hold(&mut tx, lane).await? || !is_pending(&mut tx, &transaction.id).await? {
            return Ok(());
        }
        sqlx::query(
            "-- store::mined\n update chain_transaction set mined_block = $2, mined_block_hash = $3 where id = $1",
        )
        .bind(&transaction.id)
        .bind(block.map(|block| block.number.cast_signed()))
        .bind(block.map(|block| block.hash.to_string()))
        .execute(&mut *tx)
        .await?;
        if let Some(before) = transaction.mined_in {
            record(&mut tx, &transaction.id, "fell_back", now, &block_told(before));
        }
        if let Some(block) = block {
            record(&mut tx, &transaction.id, "mined", now, &block_told(block));
        }
        if attempt.purpose == Purpose::Pay {
            announce_block(&mut tx, &transaction.id, attempt.hash, block, now).await?;
        }
        tx.commit().await
    }

    /// Opens the transaction of a nonce again that the chain has lost, with the payments that it decided.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn reopen(&self, lane: Lane, nonce: u64, now: DateTime<Utc>) -> db::Result<Reopened> {
        let mut tx = self.database.begin("reopen").await?;
        if !hold(&mut tx, lane).await? {
            return Ok(Reopened::Nothing);
        }
        let row = sqlx::query(
            "-- store::transaction_of_nonce
             select id, state from chain_transaction where chain_id = $1 and signer = $2 and nonce = $3",
        )
        .bind(lane.id.chain_id.cast_signed())
        .bind(lane.id.signer())
        .bind(nonce.cast_signed())
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(Reopened::Unknown) };
        let (id, state): (String, String) = (row.try_get("id")?, row.try_get("state")?);
        if state == "pending" {
            return Ok(Reopened::Nothing);
        }
        sqlx::query(
            "-- store::reopen
             update chain_transaction set state = 'pending', finished_at = null, mined_block = null,
                                          mined_block_hash = null where id = $1",
        )
        .bind(&id)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "-- store::count_back
             update tally set
                 completed_grants = completed_grants - (select count(*) from payment
                     where transaction_id = $1 and state = 'completed'),
                 completed_tokens = completed_tokens - (select cast(coalesce(sum(token_amount), 0) as bigint) from payment
                     where transaction_id = $1 and state = 'completed'),
                 failed_grants = failed_grants - (select count(*) from payment
                     where transaction_id = $1 and state = 'failed')",
        )
        .bind(&id)
        .execute(&mut *tx)
        .await?;
        let payments = sqlx::query(
            "-- store::reopen_payments
             update payment set state = 'assigned', transaction_hash = null, block_number = null, gas_used = null, gas_price = null,
                                error_code = null, error_message = null, finished_at = null
             where transaction_id = $1",
        )
        .bind(&id)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        claims::reopen(&mut tx, &id).await?;
        record(&mut tx, &id, "reopened", now, &json!({ "was": state, "payments": payments }));
        tx.commit().await?;
        Ok(Reopened::Transaction { id, payments })
    }

    /// The lane's transactions whose fate is open, in the order of their nonces.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn pending(&self, lane: LaneId) -> db::Result<Vec<Pending>> {
        // Joined to the attempts, SQLite would take the unique index for the order, and read all that the signer ever had.
        let rows = sqlx::query(
            "-- store::pending
             select t.id, t.nonce, t.created_at, coalesce((select max(e.at) from chain_transaction_event e
                        where e.transaction_id = t.id and e.kind in ('fell_back', 'reopened')), t.created_at)
                        as open_since,
                    t.mined_block, t.mined_block_hash, t.finality, a.hash, a.purpose,
                    a.max_fee_per_gas_wei, a.max_priority_fee_per_gas_wei, a.created_at as attempted_at, a.sent_at,
                    a.refusal
             from chain_transaction t join attempt a on a.transaction_id = t.id
             where t.id in (select id from chain_transaction where state = 'pending' and chain_id = $1 and signer = $2)
             order by t.nonce, a.created_at, a.sequence",
        )
        .bind(lane.chain_id.cast_signed())
        .bind(lane.signer())
        .fetch_all(self.database.reader())
        .await?;
        let mut pending: Vec<Pending> = Vec::new();
        for row in &rows {
            let nonce = db::unsigned(row, "nonce")?;
            match pending.last_mut() {
                Some(transaction) if transaction.nonce == nonce => transaction.attempts.push(attempt(row)?),
                _ => pending.push(Pending {
                    id: row.try_get("id")?,
                    nonce,
                    created_at: db::time(row, "created_at")?,
                    open_since: db::time(row, "open_since")?,
                    mined_in: mined_in(row)?,
                    finality: db::parse_option(row, "finality")?,
                    attempts: vec![attempt(row)?],
                }),
            }
        }
        Ok(pending)
    }

    /// How many transactions of the lane have an open fate.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn open_transactions(&self, lane: LaneId) -> db::Result<usize> {
        let row = sqlx::query(
            "-- store::open_transactions
             select count(*) as open from chain_transaction where state = 'pending' and chain_id = $1 and signer = $2",
        )
        .bind(lane.chain_id.cast_signed())
        .bind(lane.signer())
        .fetch_one(self.database.reader())
        .await?;
        db::corrupt("open", usize::try_from(row.try_get::<i64, _>("open")?))
    }

    /// How many transactions of a chain wait for a block, and the grants in them.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn unmined(&self, chain_id: u64) -> db::Result<(u64, u64)> {
        let row = sqlx::query(
            "-- store::unmined
             select count(*) as transactions, cast(coalesce(sum(grants), 0) as bigint) as grants
             from chain_transaction where state = 'pending' and chain_id = $1 and mined_block is null",
        )
        .bind(chain_id.cast_signed())
        .fetch_one(self.database.reader())
        .await?;
        Ok((db::unsigned(&row, "transactions")?, db::unsigned(&row, "grants")?))
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

    /// Remembers that an attempt was given to a node that answered, and why it did not take it, if it did not.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn mark_sent(
        &self,
        hash: B256,
        refusal: Option<crate::chain::Refusal>,
        now: DateTime<Utc>,
    ) -> db::Result<()> {
        let mut tx = self.database.begin("mark_sent").await?;
        sqlx::query("-- store::mark_sent\n update attempt set sent_at = $2, refusal = $3 where hash = $1")
            .bind(hash.to_string())
            .bind(now.timestamp_micros())
            .bind(refusal.map(|refusal| refusal.to_string()))
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }
}

/// Everything that [`Store::assign`] writes; `None` where something is not free, and nothing of it may be committed.
async fn assign(
    tx: &mut Tx,
    lane: Lane,
    transaction: &NewTransaction<'_>,
    now: DateTime<Utc>,
) -> db::Result<Option<String>> {
    let taken = sqlx::query(
        "-- store::take_nonce
         update lane set next_nonce = next_nonce + 1
         where chain_id = $1 and signer = $2 and fence = $3 and next_nonce = $4",
    )
    .bind(lane.id.chain_id.cast_signed())
    .bind(lane.id.signer())
    .bind(lane.fence.cast_signed())
    .bind(transaction.nonce.cast_signed())
    .execute(&mut **tx)
    .await?;
    if taken.rows_affected() != 1 {
        return Ok(None);
    }
    let id = insert(tx, lane.id, transaction, now).await?;
    let assigned = sqlx::query(
        "-- store::assign_payments
         update payment set state = 'assigned', transaction_id = $2
         where state = 'queued' and request_id in (select value->>0 from jsonb_each($1))",
    )
    .bind(keys(transaction.payments))
    .bind(&id)
    .execute(&mut **tx)
    .await?;
    if assigned.rows_affected() != transaction.payments.len() as u64 {
        return Ok(None);
    }
    if let Some(publication) = transaction.publication
        && !claims::assign(tx, publication, &id).await?
    {
        return Ok(None);
    }
    announce(tx, transaction.payments, transaction.signed.hash, now);
    Ok(Some(id))
}

fn attempt(row: &AnyRow) -> db::Result<Attempt> {
    Ok(Attempt {
        hash: db::parse(row, "hash")?,
        purpose: db::parse(row, "purpose")?,
        fees: Fees {
            max_fee_per_gas: db::unsigned(row, "max_fee_per_gas_wei")?,
            max_priority_fee_per_gas: db::unsigned(row, "max_priority_fee_per_gas_wei")?,
        },
        created_at: db::time(row, "attempted_at")?,
        sent_at: row.try_get::<Option<i64>, _>("sent_at")?.map(shared::clock::from_micros),
        refusal: db::parse_option(row, "refusal")?,
    })
}

fn mined_in(row: &AnyRow) -> db::Result<Option<BlockId>> {
    let Some(hash) = db::parse_option(row, "mined_block_hash")? else { return Ok(None) };
    Ok(Some(BlockId { number: db::unsigned(row, "mined_block")?, hash }))
}

async fn is_pending(tx: &mut Tx, id: &str) -> db::Result<bool> {
    let row = sqlx::query(
        "-- store::is_pending\n select 1 as one from chain_transaction where id = $1 and state = 'pending'",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await?;
    Ok(row.is_some())
}

/// A transaction with its first attempt; returns its name.
async fn insert(tx: &mut Tx, lane: LaneId, transaction: &NewTransaction<'_>, now: DateTime<Utc>) -> db::Result<String> {
    let id = ascending_uuid(now).to_string();
    sqlx::query(
        "-- store::insert_transaction
         insert into chain_transaction (id, chain_id, signer, nonce, state, grants, created_at, finality)
         values ($1, $2, $3, $4, 'pending', $5, $6, $7)",
    )
    .bind(&id)
    .bind(lane.chain_id.cast_signed())
    .bind(lane.signer())
    .bind(transaction.nonce.cast_signed())
    .bind(i64::try_from(transaction.payments.len()).unwrap_or(i64::MAX))
    .bind(now.timestamp_micros())
    .bind(transaction.finality().map(|finality| finality.to_string()))
    .execute(&mut **tx)
    .await?;
    insert_attempt(tx, &id, transaction, now).await?;
    record(tx, &id, "made", now, &attempt_told(transaction));
    Ok(id)
}

async fn insert_attempt(tx: &mut Tx, id: &str, attempt: &NewTransaction<'_>, now: DateTime<Utc>) -> db::Result<()> {
    sqlx::query(
        "-- store::insert_attempt
         insert into attempt (hash, transaction_id, raw, purpose, gas_limit, max_fee_per_gas_wei,
                              max_priority_fee_per_gas_wei, created_at, sequence)
         values ($1, $2, $3, $4, $5, $6, $7, $8, (select count(*) from attempt a where a.transaction_id = $2))",
    )
    .bind(attempt.signed.hash.to_string())
    .bind(id)
    .bind(attempt.signed.raw.to_vec())
    .bind(attempt.purpose.as_str())
    .bind(attempt.gas_limit.cast_signed())
    .bind(attempt.fees.max_fee_per_gas.cast_signed())
    .bind(attempt.fees.max_priority_fee_per_gas.cast_signed())
    .bind(now.timestamp_micros())
    .execute(&mut **tx)
    .await?;
    Ok(())
}
