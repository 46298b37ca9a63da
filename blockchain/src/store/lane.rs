//! Lanes: who may use them, and their next nonces.

use std::collections::BTreeSet;

use alloy::primitives::Address;
use chrono::{DateTime, Utc};
use shared::db::{self, Tx};
use shared::fail_point;

use super::Store;

/// An ordered line of nonces: one signer on one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneId {
    /// The chain (EIP-155).
    pub chain_id: u64,
    /// The signer.
    pub signer: Address,
}

impl LaneId {
    pub(crate) fn signer(self) -> String {
        self.signer.to_checksum(None)
    }
}

/// A lane that its holder may use, see [`crate::lease`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    /// Which.
    pub id: LaneId,
    /// The number of its lease: nothing is committed under an older one.
    pub fence: u64,
}

impl Store {
    /// Takes the lane for `owner` until then, or renews what `owner` has; `None` while another owner's time is not over.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn lease(
        &self,
        id: LaneId,
        owner: &str,
        now: DateTime<Utc>,
        until: DateTime<Utc>,
    ) -> db::Result<Option<Lane>> {
        let mut tx = self.database.begin("lease").await?;
        let row = sqlx::query(
            "-- store::lease
             insert into lane (chain_id, signer, next_nonce, owner, fence, leased_until) values ($1, $2, 0, $3, 1, $5)
             on conflict (chain_id, signer) do update set
                 fence = case when lane.owner = excluded.owner then lane.fence else lane.fence + 1 end,
                 owner = excluded.owner, leased_until = excluded.leased_until
             where lane.owner is null or lane.owner = excluded.owner or lane.leased_until <= $4
             returning fence",
        )
        .bind(id.chain_id.cast_signed())
        .bind(id.signer())
        .bind(owner)
        .bind(now.timestamp_micros())
        .bind(until.timestamp_micros())
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        row.map(|row| Ok(Lane { id, fence: db::unsigned(&row, "fence")? })).transpose()
    }

    /// Gives a lease back; no harm where it is another's by now.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn release(&self, lane: Lane) -> db::Result<()> {
        let mut tx = self.database.begin("lease").await?;
        sqlx::query(
            "-- store::release
             update lane set owner = null, leased_until = 0 where chain_id = $1 and signer = $2 and fence = $3",
        )
        .bind(lane.id.chain_id.cast_signed())
        .bind(lane.id.signer())
        .bind(lane.fence.cast_signed())
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Raises the lane's next nonce to that of the chain, where the chain is ahead; returns the next nonce, `None` if the
    /// lease was lost.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn raise_nonce(&self, lane: Lane, chain_nonce: u64) -> db::Result<Option<u64>> {
        let mut tx = self.database.begin("raise_nonce").await?;
        let row = sqlx::query(
            "-- store::raise_nonce
             update lane set next_nonce = case when next_nonce < $4 then $4 else next_nonce end
             where chain_id = $1 and signer = $2 and fence = $3 returning next_nonce",
        )
        .bind(lane.id.chain_id.cast_signed())
        .bind(lane.id.signer())
        .bind(lane.fence.cast_signed())
        .bind(chain_nonce.cast_signed())
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        row.map(|row| db::unsigned(&row, "next_nonce")).transpose()
    }

    /// The nonce that the lane's next transaction takes.
    ///
    /// # Errors
    ///
    /// When the database cannot be read, or the lane was never taken.
    pub async fn next_nonce(&self, lane: LaneId) -> db::Result<u64> {
        let row = sqlx::query("-- store::next_nonce\n select next_nonce from lane where chain_id = $1 and signer = $2")
            .bind(lane.chain_id.cast_signed())
            .bind(lane.signer())
            .fetch_one(self.database.reader())
            .await?;
        db::unsigned(&row, "next_nonce")
    }

    /// The nonces of the lane's open transactions.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn open_nonces(&self, lane: LaneId) -> db::Result<BTreeSet<u64>> {
        let rows = sqlx::query(
            "-- store::open_nonces
             select nonce from chain_transaction where state = 'pending' and chain_id = $1 and signer = $2",
        )
        .bind(lane.chain_id.cast_signed())
        .bind(lane.signer())
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(|row| db::unsigned(row, "nonce")).collect()
    }
}

/// Whether the lane is still its holder's; until the transaction ends, nobody else can take it.
pub(super) async fn hold(tx: &mut Tx, lane: Lane) -> db::Result<bool> {
    if fail_point::switched("fence_ignored") {
        return Ok(true);
    }
    let held = sqlx::query(
        "-- store::hold\n update lane set fence = fence where chain_id = $1 and signer = $2 and fence = $3",
    )
    .bind(lane.id.chain_id.cast_signed())
    .bind(lane.id.signer())
    .bind(lane.fence.cast_signed())
    .execute(&mut **tx)
    .await?;
    Ok(held.rows_affected() == 1)
}
