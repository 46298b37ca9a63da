//! The leaves and the roots of campaigns' trees, as the ledger's entries make them.

use chrono::{DateTime, Utc};
use shared::db::{self, Writes};
use shared::id::{BaseUnits, CampaignId, RequestId, WalletAddress};

use crate::domain::Grant;
use crate::domain::event::{ClaimRootMade, ClaimRootPublished, Claimable};

db::row! {
    #[derive(Debug)]
    pub(super) struct LeafRow {
        request_id: RequestId => text,
        campaign_id: CampaignId => text,
        sequence: u64 => bigint,
        grant_id: String => text,
        wallet_address: WalletAddress => text,
        amount: BaseUnits => text,
    }
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

pub(super) fn save_leaves(writes: &mut Writes, leaves: &[LeafRow]) {
    writes.add(db::sql!("-- projection::save_leaves\n insert into claim_leaf ", LeafRow::VALUES), leaves);
}

db::row! {
    #[derive(Debug)]
    pub(super) struct RootRow {
        campaign_id: CampaignId => text,
        number: u64 => bigint,
        root: String => text,
        leaves: u64 => bigint,
        up_to: u64 => bigint,
        made_at: i64 => bigint,
    }
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

db::row! {
    #[derive(Debug)]
    pub(super) struct PublishedRow {
        campaign_id: CampaignId => text,
        number: u64 => bigint,
        chain_id: u64 => bigint,
        distributor: WalletAddress => text,
        transaction_hash: String => text,
        block_number: u64 => bigint,
        published_at: i64 => bigint,
    }
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

/// Roots that were made, and then those that were published, perhaps of the same trees.
pub(super) fn save_roots(writes: &mut Writes, made: &[RootRow], published: &[PublishedRow]) {
    writes.change(db::sql!("-- projection::save_roots\n insert into claim_root ", RootRow::VALUES), made);
    writes.change(
        db::sql!(
            "-- projection::save_published_roots
             update claim_root set
                 chain_id = published.chain_id, distributor = published.distributor,
                 transaction_hash = published.transaction_hash, block_number = published.block_number,
                 published_at = published.published_at
             from (",
            PublishedRow::SELECT,
            ") published
             where claim_root.campaign_id = published.campaign_id and claim_root.number = published.number"
        ),
        published,
    );
}
