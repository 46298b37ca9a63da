//! The leaves and the roots of campaigns' trees, as the ledger's entries make them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db;
use shared::id::{BaseUnits, CampaignId, RequestId, WalletAddress};
use sqlx::AnyConnection;

use crate::domain::Grant;
use crate::domain::event::{ClaimRootMade, ClaimRootPublished, Claimable};

#[derive(Debug, Serialize)]
pub(super) struct LeafRow {
    request_id: RequestId,
    campaign_id: CampaignId,
    sequence: u64,
    grant_id: String,
    wallet_address: WalletAddress,
    amount: BaseUnits,
}

impl LeafRow {
    pub(super) fn new(grant: &Grant, claimable: &Claimable, sequence: u64) -> Self {
        Self {
            request_id: grant.request_id.clone(),
            campaign_id: grant.request.campaign_id.clone(),
            sequence,
            grant_id: claimable.grant_id.to_string(),
            wallet_address: claimable.wallet_address,
            amount: claimable.amount,
        }
    }
}

pub(super) async fn save_leaves(connection: &mut AnyConnection, leaves: &[LeafRow]) -> db::Result<()> {
    if leaves.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "-- projection::save_leaves
         insert into claim_leaf (request_id, campaign_id, sequence, grant_id, wallet_address, amount)
         select value->>'request_id', value->>'campaign_id', cast(value->>'sequence' as bigint), value->>'grant_id',
                value->>'wallet_address', value->>'amount'
         from json_each($1)",
    )
    .bind(db::rows(leaves))
    .execute(connection)
    .await?;
    Ok(())
}

#[derive(Debug, Serialize)]
pub(super) struct RootRow {
    campaign_id: CampaignId,
    number: u64,
    root: String,
    leaves: u64,
    up_to: u64,
    made_at: i64,
}

impl RootRow {
    pub(super) fn new(campaign_id: &CampaignId, made: &ClaimRootMade, at: DateTime<Utc>, sequence: u64) -> Self {
        Self {
            campaign_id: campaign_id.clone(),
            number: sequence,
            root: made.root.to_string(),
            leaves: made.leaves,
            up_to: made.up_to,
            made_at: at.timestamp_micros(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct PublishedRow {
    campaign_id: CampaignId,
    number: u64,
    chain_id: u64,
    distributor: WalletAddress,
    transaction_hash: String,
    block_number: u64,
    published_at: i64,
}

impl PublishedRow {
    pub(super) fn new(campaign_id: &CampaignId, published: &ClaimRootPublished) -> Self {
        Self {
            campaign_id: campaign_id.clone(),
            number: published.number,
            chain_id: published.chain_id,
            distributor: published.distributor,
            transaction_hash: published.transaction_hash.clone(),
            block_number: published.block_number,
            published_at: published.processed_at.timestamp_micros(),
        }
    }

    pub(super) fn is_of(&self, campaign_id: &CampaignId, number: u64) -> bool {
        (&self.campaign_id, self.number) == (campaign_id, number)
    }
}

pub(super) async fn save_roots(
    connection: &mut AnyConnection,
    made: &[RootRow],
    published: &[PublishedRow],
) -> db::Result<()> {
    if !made.is_empty() {
        sqlx::query(
            "-- projection::save_roots
             insert into claim_root (campaign_id, number, root, leaves, up_to, made_at)
             select value->>'campaign_id', cast(value->>'number' as bigint), value->>'root',
                    cast(value->>'leaves' as bigint), cast(value->>'up_to' as bigint),
                    cast(value->>'made_at' as bigint)
             from json_each($1)",
        )
        .bind(db::rows(made))
        .execute(&mut *connection)
        .await?;
    }
    if !published.is_empty() {
        sqlx::query(
            "-- projection::save_published_roots
             update claim_root set
                 chain_id = cast(value->>'chain_id' as bigint), distributor = value->>'distributor',
                 transaction_hash = value->>'transaction_hash',
                 block_number = cast(value->>'block_number' as bigint),
                 published_at = cast(value->>'published_at' as bigint)
             from json_each($1)
             where claim_root.campaign_id = value->>'campaign_id'
               and claim_root.number = cast(value->>'number' as bigint)",
        )
        .bind(db::rows(published))
        .execute(connection)
        .await?;
    }
    Ok(())
}
