//! How far the campaign service's ledger was read, and the seal that stood there.

use chrono::{DateTime, Utc};
use shared::db;
use shared::id::Issuer;
use shared::ledger::Seal;

use super::Store;

/// The last entry of a ledger that was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeenLedger {
    /// Its number; 0 before the first.
    pub sequence: u64,
    /// Its seal.
    pub seal: Seal,
}

impl Store {
    /// How far the ledger of this issuer was read.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn seen_ledger(&self, issuer: Issuer) -> db::Result<SeenLedger> {
        let row = sqlx::query("-- store::seen_ledger\n select sequence, seal from seen_ledger where issuer = $1")
            .bind(issuer.to_string())
            .fetch_optional(self.database.reader())
            .await?;
        let Some(row) = row else { return Ok(SeenLedger::default()) };
        Ok(SeenLedger { sequence: db::unsigned(&row, "sequence")?, seal: db::parse(&row, "seal")? })
    }

    /// Remembers how far the ledger of this issuer was read; what was read further before stays.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn remember_ledger(&self, issuer: Issuer, seen: SeenLedger, now: DateTime<Utc>) -> db::Result<()> {
        let mut tx = self.database.begin("audit_seals").await?;
        sqlx::query(
            "-- store::remember_ledger
             insert into seen_ledger (issuer, sequence, seal, seen_at) values ($1, $2, $3, $4)
             on conflict (issuer) do update set
                 sequence = excluded.sequence, seal = excluded.seal, seen_at = excluded.seen_at
             where seen_ledger.sequence < excluded.sequence",
        )
        .bind(issuer.to_string())
        .bind(seen.sequence.cast_signed())
        .bind(seen.seal.to_string())
        .bind(now.timestamp_micros())
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// Forgets what was read of any ledger.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn forget_ledgers(&self) -> db::Result<()> {
        let mut tx = self.database.begin("audit_forget").await?;
        sqlx::query("-- store::forget_ledgers\n delete from seen_ledger").execute(&mut *tx).await?;
        tx.commit().await
    }
}
