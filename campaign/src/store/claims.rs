//! Grants that can be claimed: the leaves of campaigns' trees, and the trees that were made of them.

use alloy::primitives::B256;
use chrono::{DateTime, TimeDelta, Utc};
use futures::TryStreamExt as _;
use shared::db;
use shared::event::{ClaimRootChanged, RequestEvent, ResultEvent};
use shared::id::{BaseUnits, CampaignId, GrantId, WalletAddress};
use shared::ledger::Cause;
use shared::outbox::Pending;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::ledger::Ledger;
use super::{Store, grant, grant_columns};
use crate::domain::Grant;
use crate::domain::event::{CampaignEvent, ClaimRootMade, ClaimRootPublished, actor};
use crate::merkle::Leaf;

/// A tree that is to be made: of all leaves of the campaign up to an entry of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueTree {
    /// Whose grants.
    pub campaign_id: CampaignId,
    /// The number of the newest tree so far; 0 where there is none.
    pub previous: u64,
    /// The entry that made the newest leaf.
    pub up_to: u64,
}

/// A tree whose root is on chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimRoot {
    /// Its root.
    pub root: B256,
    /// It has the leaves up to this entry of the ledger.
    pub up_to: u64,
    /// The chain (EIP-155).
    pub chain_id: u64,
    /// The contract that pays.
    pub distributor: WalletAddress,
}

/// A grant that can be claimed, and its leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The grant.
    pub grant: Grant,
    /// The entry of the ledger that made it claimable.
    pub sequence: u64,
    /// Its id on chain.
    pub grant_id: GrantId,
    /// Who gets the tokens, whoever claims.
    pub wallet_address: WalletAddress,
    /// How much.
    pub amount: BaseUnits,
}

impl Claim {
    /// How it stands in the tree.
    #[must_use]
    pub fn leaf(&self) -> Leaf {
        Leaf { id: self.grant_id.0, to: self.wallet_address.address(), amount: self.amount.number() }
    }
}

impl Store {
    /// The campaigns with grants that are in no tree yet, whose newest tree, if there is one, is on chain and at least so
    /// old.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn due_trees(&self, now: DateTime<Utc>, every: TimeDelta) -> db::Result<Vec<DueTree>> {
        let rows = sqlx::query(
            "-- store::due_trees
             select c.campaign_id, c.newest_claimable, coalesce(r.number, 0) as previous from campaign c
             left join claim_root r on r.campaign_id = c.campaign_id
               and r.number = (select max(n.number) from claim_root n where n.campaign_id = c.campaign_id)
             where c.newest_claimable is not null
               and (r.number is null
                    or r.up_to < c.newest_claimable and r.published_at is not null and r.made_at <= $1)
             order by c.newest_claimable",
        )
        .bind((now - every).timestamp_micros())
        .fetch_all(self.database.reader())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(DueTree {
                    campaign_id: db::parse(row, "campaign_id")?,
                    previous: db::unsigned(row, "previous")?,
                    up_to: db::unsigned(row, "newest_claimable")?,
                })
            })
            .collect()
    }

    /// The hashes of a campaign's leaves up to an entry of the ledger.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn leaf_hashes(&self, campaign_id: &CampaignId, up_to: u64) -> db::Result<Vec<B256>> {
        let rows = sqlx::query(
            "-- store::leaf_hashes
             select grant_id, wallet_address, amount from claim_leaf where campaign_id = $1 and sequence <= $2",
        )
        .bind(campaign_id.as_str())
        .bind(up_to.cast_signed())
        .fetch(self.database.reader());
        rows.map_err(db::Error::from).and_then(async |row| Ok(leaf(&row)?.hash())).try_collect().await
    }

    /// Records a tree, and asks for its root to be published. Whether it did: not where somebody else has made one
    /// meanwhile.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn make_root(&self, due: &DueTree, leaves: u64, root: B256, now: DateTime<Utc>) -> db::Result<bool> {
        let DueTree { campaign_id, previous, up_to } = due;
        let mut ledger = self.ledger("make_root", now).await?;
        let row = sqlx::query(
            "-- store::newest_root
             select coalesce(max(number), 0) as number from claim_root where campaign_id = $1",
        )
        .bind(campaign_id.as_str())
        .fetch_one(&mut *ledger.tx)
        .await?;
        if db::unsigned(&row, "number")? != *previous {
            return Ok(false);
        }
        let event = CampaignEvent::ClaimRootMade(ClaimRootMade { root, leaves, up_to: *up_to });
        let number = ledger.record_campaign(campaign_id, &event, Cause::by(actor::campaign()));
        let message = ClaimRootChanged {
            campaign_id: campaign_id.clone(),
            root: root.to_string(),
            number,
            timestamp: ledger.at(),
        };
        ledger.send(Pending::request(&RequestEvent::ClaimRootChanged(message), None, now));
        ledger.commit().await?;
        Ok(true)
    }

    /// The newest of a campaign's trees whose root is on chain.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn published_root(&self, campaign_id: &CampaignId) -> db::Result<Option<ClaimRoot>> {
        let row = sqlx::query(
            "-- store::published_root
             select root, up_to, chain_id, distributor from claim_root
             where campaign_id = $1 and published_at is not null order by number desc limit 1",
        )
        .bind(campaign_id.as_str())
        .fetch_optional(self.database.reader())
        .await?;
        row.map(|row| {
            Ok(ClaimRoot {
                root: db::parse(&row, "root")?,
                up_to: db::unsigned(&row, "up_to")?,
                chain_id: db::unsigned(&row, "chain_id")?,
                distributor: db::parse(&row, "distributor")?,
            })
        })
        .transpose()
    }

    /// Up to `limit` grants of a campaign that a wallet can claim, or has claimed, in the order in which they became so;
    /// those behind this entry of the ledger.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn claims_of(
        &self,
        campaign_id: &CampaignId,
        wallet: WalletAddress,
        after: u64,
        limit: u16,
    ) -> db::Result<Vec<Claim>> {
        let rows = sqlx::query(concat!(
            "-- store::claims_of\n select ",
            grant_columns!(),
            ", l.sequence, l.grant_id, l.wallet_address as claimant, l.amount
               from claim_leaf l join token_grant g on g.request_id = l.request_id
               where l.campaign_id = $1 and l.wallet_address = $2 and l.sequence > $3 order by l.sequence limit $4"
        ))
        .bind(campaign_id.as_str())
        .bind(wallet.to_string())
        .bind(after.cast_signed())
        .bind(i64::from(limit))
        .fetch_all(self.database.reader())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Claim {
                    grant: grant(row)?,
                    sequence: db::unsigned(row, "sequence")?,
                    grant_id: db::parse(row, "grant_id")?,
                    wallet_address: db::parse(row, "claimant")?,
                    amount: db::parse(row, "amount")?,
                })
            })
            .collect()
    }
}

impl Ledger {
    /// Records that a root is on chain. Whether it is one of this service's.
    pub(super) async fn record_published_root(&mut self, result: &ResultEvent, cause: Cause) -> db::Result<bool> {
        let ResultEvent::ClaimRootPublished(told) = result else { return Ok(false) };
        let row = sqlx::query(
            "-- ledger::root
             select root, published_at from claim_root where campaign_id = $1 and number = $2",
        )
        .bind(told.campaign_id.as_str())
        .bind(told.number.cast_signed())
        .fetch_optional(&mut *self.tx)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let root = db::parse::<B256>(&row, "root")?;
        if root.to_string() != told.root {
            return Ok(false);
        }
        if row.try_get::<Option<i64>, _>("published_at")?.is_some()
            || self.projection.has_published(&told.campaign_id, told.number)
        {
            return Ok(true);
        }
        let published = ClaimRootPublished {
            number: told.number,
            root,
            chain_id: told.chain_id,
            distributor: told.distributor,
            transaction_hash: told.transaction_hash.clone(),
            block_number: told.block_number,
            processed_at: told.processed_at,
        };
        self.record_campaign(&told.campaign_id, &CampaignEvent::ClaimRootPublished(published), cause);
        Ok(true)
    }
}

fn leaf(row: &AnyRow) -> db::Result<Leaf> {
    Ok(Leaf {
        id: db::parse::<GrantId>(row, "grant_id")?.0,
        to: db::parse::<WalletAddress>(row, "wallet_address")?.address(),
        amount: db::parse::<BaseUnits>(row, "amount")?.number(),
    })
}
