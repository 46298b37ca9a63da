//! Grants that are claimed: the roots that are to be published, and the claims that the chain has seen.

use std::collections::HashSet;

use alloy::primitives::{Address, B256};
use chrono::{DateTime, TimeDelta, Utc};
use shared::db::{self, Tx};
use shared::event::{ClaimRootChanged, ClaimRootPublished, ResultEvent};
use shared::id::CampaignId;
use shared::outbox::{self, Pending};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Ended, Store, payment, payment_columns};
use crate::domain::{Paid, Payment};
use crate::transaction::End;

/// How long a root waits whose transaction came to nothing.
const AGAIN_AFTER: TimeDelta = TimeDelta::seconds(10);

/// The root of the tree that a campaign's grants are to be claimed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRoot {
    /// Whose grants.
    pub campaign_id: CampaignId,
    /// The tree's number.
    pub number: u64,
    /// The root.
    pub root: B256,
}

/// A root, and the contract that it is published to.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// The root.
    pub root: &'a ClaimRoot,
    /// The contract.
    pub distributor: Address,
}

/// The columns that [`published`] reads.
macro_rules! published_columns {
    () => {
        "campaign_id, number, root, distributor, transaction_hash, block_number, published_at"
    };
}

impl Store {
    /// Remembers that a root is to be published, in place of those before. One that is published already is answered with
    /// that, and one that is not the newest is ignored.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn want_claim_root(&self, wanted: &ClaimRootChanged, now: DateTime<Utc>) -> db::Result<()> {
        let mut tx = self.database.begin("want_root").await?;
        sqlx::query(
            "-- store::want_claim_root
             insert into claim_root (campaign_id, number, root, state, not_before) values ($1, $2, $3, 'wanted', $4)
             on conflict do nothing",
        )
        .bind(wanted.campaign_id.as_str())
        .bind(wanted.number.cast_signed())
        .bind(&wanted.root)
        .bind(now.timestamp_micros())
        .execute(&mut *tx)
        .await?;
        // Twice that it is wanted: by itself, SQLite reads all trees that the campaign ever had, and not those that wait.
        sqlx::query(
            "-- store::forget_older_claim_roots
             delete from claim_root where campaign_id = $1 and state = 'wanted'
               and number in (select w.number from claim_root w where w.state = 'wanted')
               and number < (select max(n.number) from claim_root n where n.campaign_id = $1)",
        )
        .bind(wanted.campaign_id.as_str())
        .execute(&mut *tx)
        .await?;
        let row = sqlx::query(concat!(
            "-- store::published_claim_root\n select ",
            published_columns!(),
            ", t.chain_id from claim_root r join chain_transaction t on t.id = r.transaction_id
               where r.campaign_id = $1 and r.number = $2 and r.state = 'published'"
        ))
        .bind(wanted.campaign_id.as_str())
        .bind(wanted.number.cast_signed())
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(row) = row {
            let event = published(&row, db::unsigned(&row, "chain_id")?)?;
            outbox::enqueue(&mut tx, &[Pending::result(&event, None, now)]);
        }
        tx.commit().await
    }

    /// The root that has waited longest for a transaction.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn next_claim_root(&self, now: DateTime<Utc>) -> db::Result<Option<ClaimRoot>> {
        let row = sqlx::query(
            "-- store::next_claim_root
             select r.campaign_id, r.number, r.root from claim_root r
             where r.state = 'wanted' and r.not_before <= $1
               and not exists (select 1 from claim_root n where n.campaign_id = r.campaign_id and n.number > r.number)
             order by r.not_before, r.campaign_id limit 1",
        )
        .bind(now.timestamp_micros())
        .fetch_optional(self.database.reader())
        .await?;
        row.map(|row| {
            Ok(ClaimRoot {
                campaign_id: db::parse(&row, "campaign_id")?,
                number: db::unsigned(&row, "number")?,
                root: db::parse(&row, "root")?,
            })
        })
        .transpose()
    }

    /// Lets a root wait until then that cannot be published for now, so that it holds up nothing else.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn postpone_claim_root(&self, root: &ClaimRoot, not_before: DateTime<Utc>) -> db::Result<()> {
        let mut tx = self.database.begin("postpone_root").await?;
        sqlx::query(
            "-- store::postpone_claim_root
             update claim_root set not_before = $3 where campaign_id = $1 and number = $2 and state = 'wanted'",
        )
        .bind(root.campaign_id.as_str())
        .bind(root.number.cast_signed())
        .bind(not_before.timestamp_micros())
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Up to `limit` payments that are claimable as far as this store knows, and that the chain has paid as they should be, in
    /// a token of so many decimals, in the blocks that were read from this one on; each with where.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn claimed(&self, decimals: u8, from_block: u64, limit: u16) -> db::Result<Vec<(Payment, Paid)>> {
        let rows = sqlx::query(concat!(
            "-- store::claimed\n select ",
            payment_columns!(),
            ", c.transaction_hash as claimed_by, c.block_number as claimed_in
               from chain_payment c join payment p on p.grant_id = c.grant_id and p.recipient = c.recipient
                 and cast(p.token_amount as text) || $1 = c.amount
               where p.state = 'claimable' and c.block_number >= $2
               order by c.block_number, c.log_index limit $3"
        ))
        .bind("0".repeat(decimals.into()))
        .bind(from_block.cast_signed())
        .bind(i64::from(limit))
        .fetch_all(self.database.reader())
        .await?;
        let mut claimed: Vec<(Payment, Paid)> = rows
            .iter()
            .map(|row| {
                let paid = Paid {
                    transaction_hash: db::parse(row, "claimed_by")?,
                    block_number: db::unsigned(row, "claimed_in")?,
                    gas_used: None,
                    gas_price: None,
                };
                Ok((payment(row)?, paid))
            })
            .collect::<db::Result<_>>()?;
        // Should the chain have paid one twice, the first time counts. It is for the audit to say that there was a second.
        let mut seen = HashSet::new();
        claimed.retain(|(payment, _)| seen.insert(payment.request_id.clone()));
        Ok(claimed)
    }
}

/// Assigns a root to the transaction that is to publish it; whether it was still to be published.
pub(super) async fn assign(tx: &mut Tx, publication: Publication<'_>, transaction: &str) -> db::Result<bool> {
    let Publication { root, distributor } = publication;
    let assigned = sqlx::query(
        "-- store::assign_claim_root
         update claim_root set state = 'assigned', transaction_id = $3, distributor = $4
         where campaign_id = $1 and number = $2 and state = 'wanted'",
    )
    .bind(root.campaign_id.as_str())
    .bind(root.number.cast_signed())
    .bind(transaction)
    .bind(distributor.to_checksum(None))
    .execute(&mut **tx)
    .await?;
    Ok(assigned.rows_affected() == 1)
}

/// Ends the publication of the root that a transaction carries, if it carries one: announced where it succeeded, and
/// wanted again otherwise.
pub(super) async fn end(tx: &mut Tx, transaction: &Ended, now: DateTime<Utc>) -> db::Result<()> {
    let Some((hash, block_number)) = transaction.mined.filter(|_| transaction.end == End::Succeeded) else {
        sqlx::query(
            "-- store::want_claim_root_again
             update claim_root set state = 'wanted', transaction_id = null, not_before = $2
             where transaction_id = $1 and state = 'assigned'",
        )
        .bind(&transaction.id)
        .bind((now + AGAIN_AFTER).timestamp_micros())
        .execute(&mut **tx)
        .await?;
        return Ok(());
    };
    let row = sqlx::query(concat!(
        "-- store::publish_claim_root
         update claim_root set state = 'published', transaction_hash = $2, block_number = $3, published_at = $4
         where transaction_id = $1 and state = 'assigned' returning ",
        published_columns!()
    ))
    .bind(&transaction.id)
    .bind(hash.to_string())
    .bind(block_number.cast_signed())
    .bind(now.timestamp_micros())
    .fetch_optional(&mut **tx)
    .await?;
    if let Some(row) = row {
        let event = published(&row, transaction.lane.id.chain_id)?;
        outbox::enqueue(tx, &[Pending::result(&event, None, now)]);
    }
    Ok(())
}

/// Lets the root that a transaction has published wait for it again.
pub(super) async fn reopen(tx: &mut Tx, transaction: &str) -> db::Result<()> {
    sqlx::query("-- store::reopen_claim_root\n update claim_root set state = 'assigned' where transaction_id = $1")
        .bind(transaction)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn published(row: &AnyRow, chain_id: u64) -> db::Result<ResultEvent> {
    Ok(ResultEvent::ClaimRootPublished(ClaimRootPublished {
        campaign_id: db::parse(row, "campaign_id")?,
        root: row.try_get("root")?,
        number: db::unsigned(row, "number")?,
        chain_id,
        distributor: db::parse(row, "distributor")?,
        transaction_hash: row.try_get("transaction_hash")?,
        block_number: db::unsigned(row, "block_number")?,
        processed_at: db::time(row, "published_at")?,
    }))
}
