//! What the chain has paid, as an audit has read it, and how far it was read.
//!
//! Every page is small, and each write a short transaction: an audit may run in another process beside the service.

use alloy::primitives::{Address, B256, U256};
use shared::db::{self, Tx};
use shared::id::Issuer;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::Store;
use crate::audit::ChainPayment;
use crate::domain::GrantId;

/// Whose events are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// The chain (EIP-155).
    pub chain_id: u64,
    /// The distributor.
    pub distributor: Address,
    /// The block of its deployment, or any before it.
    pub first_block: u64,
}

/// How far events have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Every block below this has been read.
    pub next_block: u64,
    /// The hash of the block before it; `None` before anything was read.
    pub block_hash: Option<B256>,
}

/// A place in the order of the chain: block number and log index.
pub type Place = (u64, u64);

db::row! {
    #[derive(Debug)]
    struct NewRow {
        block_number: u64 => bigint,
        log_index: u64 => bigint,
        block_hash: String => text,
        transaction_hash: String => text,
        grant_id: String => text,
        issuer: Option<Issuer> => text,
        grant_index: Option<i64> => bigint,
        recipient: String => text,
        amount: String => text,
        seen_at: i64 => bigint,
    }
}

impl NewRow {
    fn new(paid: &ChainPayment) -> Self {
        let number = paid.grant_id.number();
        Self {
            block_number: paid.block_number,
            log_index: paid.log_index,
            block_hash: paid.block_hash.to_string(),
            transaction_hash: paid.transaction_hash.to_string(),
            grant_id: paid.grant_id.to_string(),
            issuer: number.map(|(issuer, _)| issuer),
            grant_index: number.map(|(_, index)| index.cast_signed()),
            recipient: paid.recipient.to_checksum(None),
            amount: paid.amount.to_string(),
            seen_at: paid.seen_at.timestamp_micros(),
        }
    }
}

fn ids(ids: &[GrantId]) -> String {
    db::keys(ids.iter().map(GrantId::to_string))
}

/// The columns that [`chain_payment`] reads, from a table or alias `c`.
macro_rules! chain_columns {
    () => {
        "c.block_number, c.log_index, c.block_hash, c.transaction_hash, c.grant_id, c.recipient, c.amount, c.seen_at"
    };
}

fn chain_payment(row: &AnyRow) -> db::Result<ChainPayment> {
    Ok(ChainPayment {
        grant_id: db::parse(row, "grant_id")?,
        recipient: db::parse(row, "recipient")?,
        amount: db::parse::<U256>(row, "amount")?,
        transaction_hash: db::parse(row, "transaction_hash")?,
        block_number: db::unsigned(row, "block_number")?,
        block_hash: db::parse(row, "block_hash")?,
        log_index: db::unsigned(row, "log_index")?,
        seen_at: db::time(row, "seen_at")?,
    })
}

impl Store {
    /// How far the events of this source were read. Stored events of another source, or of one that began later, are
    /// forgotten.
    ///
    /// # Errors
    ///
    /// When the database cannot be read, or what is to be forgotten cannot be.
    pub async fn chain_cursor(&self, source: &Source) -> db::Result<Cursor> {
        let row = sqlx::query(
            "-- store::chain_cursor
             select next_block, block_hash from chain_cursor
             where chain_id = $1 and distributor = $2 and first_block <= $3",
        )
        .bind(source.chain_id.cast_signed())
        .bind(source.distributor.to_checksum(None))
        .bind(source.first_block.cast_signed())
        .fetch_optional(self.database.reader())
        .await?;
        if let Some(row) = row {
            let (next_block, block_hash) = (db::unsigned(&row, "next_block")?, db::parse_option(&row, "block_hash")?);
            return Ok(Cursor { next_block, block_hash });
        }
        self.forget_chain(source).await
    }

    /// Forgets all events, so that they are read again from the source's first block on.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn forget_chain(&self, source: &Source) -> db::Result<Cursor> {
        let mut tx = self.database.begin("audit_forget").await?;
        sqlx::query("-- store::forget_chain_payments\n delete from chain_payment").execute(&mut *tx).await?;
        sqlx::query(
            "-- store::open_chain_cursor
             insert into chain_cursor (singleton, chain_id, distributor, first_block, next_block, block_hash)
             values (1, $1, $2, $3, $3, null)
             on conflict (singleton) do update set chain_id = excluded.chain_id, distributor = excluded.distributor,
                                                   first_block = excluded.first_block,
                                                   next_block = excluded.next_block, block_hash = null",
        )
        .bind(source.chain_id.cast_signed())
        .bind(source.distributor.to_checksum(None))
        .bind(source.first_block.cast_signed())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Cursor { next_block: source.first_block, block_hash: None })
    }

    /// Adds the events of the blocks from one cursor to another. Returns whether it did: not where somebody else has
    /// moved the cursor meanwhile.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn record_chain(&self, from: Cursor, paid: &[ChainPayment], to: Cursor) -> db::Result<bool> {
        let mut tx = self.database.begin("audit_read").await?;
        if !move_cursor(&mut tx, from, to).await? {
            return Ok(false);
        }
        insert(&mut tx, paid).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Adds events of blocks that were read before, where they are missing; returns how many were.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn record_missed(&self, paid: &[ChainPayment]) -> db::Result<u64> {
        let mut tx = self.database.begin("audit_missed").await?;
        let inserted = insert(&mut tx, paid).await?;
        tx.commit().await?;
        Ok(inserted)
    }

    /// Goes back to an earlier cursor, forgetting the events behind it. Returns whether it did: not where somebody else
    /// has moved the cursor meanwhile.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn step_back(&self, from: Cursor, to: Cursor) -> db::Result<bool> {
        let mut tx = self.database.begin("audit_step_back").await?;
        if !move_cursor(&mut tx, from, to).await? {
            return Ok(false);
        }
        sqlx::query("-- store::forget_chain_payments_from\n delete from chain_payment where block_number >= $1")
            .bind(to.next_block.cast_signed())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The newest block below this that holds a payment, and its hash as it was read.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn recorded_block_below(&self, number: u64) -> db::Result<Option<(u64, B256)>> {
        let row = sqlx::query(
            "-- store::recorded_block_below
             select block_number, block_hash from chain_payment where block_number < $1
             order by block_number desc, log_index desc limit 1",
        )
        .bind(number.cast_signed())
        .fetch_optional(self.database.reader())
        .await?;
        row.map(|row| Ok((db::unsigned(&row, "block_number")?, db::parse(&row, "block_hash")?))).transpose()
    }

    /// What was paid under these ids in the blocks below `next_block`, in the order of the chain.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn chain_payments_of(&self, grants: &[GrantId], next_block: u64) -> db::Result<Vec<ChainPayment>> {
        let rows = sqlx::query(concat!(
            "-- store::chain_payments_of\n select ",
            chain_columns!(),
            " from chain_payment c
               where c.grant_id in (select value->>0 from jsonb_each($1)) and c.block_number < $2
               order by c.block_number, c.log_index"
        ))
        .bind(ids(grants))
        .bind(next_block.cast_signed())
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(chain_payment).collect()
    }

    /// Up to `limit` events behind a place, in the order of the chain, each with whether the ledger has a payment of its id.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn chain_payments_after(
        &self,
        after: Option<Place>,
        next_block: u64,
        limit: u16,
    ) -> db::Result<Vec<(ChainPayment, bool)>> {
        let (block, index) = after.map_or((-1, -1), |(block, index)| (block.cast_signed(), index.cast_signed()));
        let rows = sqlx::query(concat!(
            "-- store::chain_payments_after\n select ",
            chain_columns!(),
            ", p.request_id as known from chain_payment c left join payment p on p.grant_id = c.grant_id
               where (c.block_number, c.log_index) > ($1, $2) and c.block_number < $3
               order by c.block_number, c.log_index limit $4"
        ))
        .bind(block)
        .bind(index)
        .bind(next_block.cast_signed())
        .bind(i64::from(limit))
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(|row| Ok((chain_payment(row)?, row.try_get::<Option<String>, _>("known")?.is_some()))).collect()
    }

    /// Up to `limit` events of an issuer's numbers, from behind `after` (a number and a place) up to the number `last`,
    /// without those of the `known` ids.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn strangers_of(&self, span: &Span<'_>, next_block: u64, limit: u16) -> db::Result<Vec<ChainPayment>> {
        let (number, block, index) = match span.after {
            None => (i64::MIN, -1, -1),
            Some((number, None)) => (number.cast_signed(), i64::MAX, i64::MAX),
            Some((number, Some((block, index)))) => (number.cast_signed(), block.cast_signed(), index.cast_signed()),
        };
        let rows = sqlx::query(concat!(
            "-- store::strangers_of\n select ",
            chain_columns!(),
            " from chain_payment c
               where c.issuer = $1 and (c.grant_index, c.block_number, c.log_index) > ($2, $3, $4)
                 and c.grant_index <= $5 and c.block_number < $6
                 and c.grant_id not in (select value->>0 from jsonb_each($7))
               order by c.grant_index, c.block_number, c.log_index limit $8"
        ))
        .bind(span.issuer.to_string())
        .bind(number)
        .bind(block)
        .bind(index)
        .bind(span.last.map_or(i64::MAX, u64::cast_signed))
        .bind(next_block.cast_signed())
        .bind(ids(span.known))
        .bind(i64::from(limit))
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(chain_payment).collect()
    }
}

/// A stretch of an issuer's numbers.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Whose numbers.
    pub issuer: Issuer,
    /// Behind this number, or behind a place among the payments of this number; `None` from the first on.
    pub after: Option<(u64, Option<Place>)>,
    /// Up to this number; `None` up to the last.
    pub last: Option<u64>,
    /// But for these.
    pub known: &'a [GrantId],
}

async fn move_cursor(tx: &mut Tx, from: Cursor, to: Cursor) -> db::Result<bool> {
    let moved = sqlx::query(
        "-- store::move_chain_cursor
         update chain_cursor set next_block = $3, block_hash = nullif($4, '')
         where next_block = $1 and coalesce(block_hash, '') = $2",
    )
    .bind(from.next_block.cast_signed())
    .bind(from.block_hash.map(|hash| hash.to_string()).unwrap_or_default())
    .bind(to.next_block.cast_signed())
    .bind(to.block_hash.map(|hash| hash.to_string()).unwrap_or_default())
    .execute(&mut **tx)
    .await?;
    Ok(moved.rows_affected() == 1)
}

async fn insert(tx: &mut Tx, paid: &[ChainPayment]) -> db::Result<u64> {
    let rows: Vec<_> = paid.iter().map(NewRow::new).collect();
    let inserted = sqlx::query(db::sql!(
        "-- store::insert_chain_payments\n insert into chain_payment ",
        NewRow::VALUES,
        " where true
             on conflict (block_number, log_index) do nothing"
    ))
    .bind(db::rows(&rows))
    .execute(&mut **tx)
    .await?;
    Ok(inserted.rows_affected())
}
