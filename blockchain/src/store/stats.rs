//! Numbers for `/stats` and `/metrics`: each costs the same however long the history is.

use chrono::{DateTime, Utc};
use shared::db;
use sqlx::Row;

use super::Store;

/// Payments that wait for a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// How many.
    pub grants: u64,
    /// Since when the longest has been waiting.
    pub oldest: Option<DateTime<Utc>>,
}

/// Transactions whose fate is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InFlight {
    /// How many.
    pub transactions: u64,
    /// How many grants they carry.
    pub grants: u64,
    /// When the oldest of them was committed.
    pub oldest: Option<DateTime<Utc>>,
}

/// What was ever paid and refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Grants that were paid.
    pub completed_grants: u64,
    /// Whole tokens of them.
    pub completed_tokens: u64,
    /// Grants that were refused.
    pub failed_grants: u64,
}

impl Store {
    /// Counts the payments that wait for a transaction.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn queue(&self) -> db::Result<Queue> {
        let row = sqlx::query(
            "-- store::queue\n select count(*) as grants, min(received_at) as oldest from payment where state = 'queued'",
        )
        .fetch_one(self.database.reader())
        .await?;
        Ok(Queue {
            grants: db::unsigned(&row, "grants")?,
            oldest: row.try_get::<Option<i64>, _>("oldest")?.map(shared::clock::from_micros),
        })
    }

    /// The transactions whose fate is open.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn in_flight(&self) -> db::Result<InFlight> {
        let row = sqlx::query(
            "-- store::in_flight
             select count(*) as transactions, cast(coalesce(sum(grants), 0) as bigint) as grants,
                    min(created_at) as oldest
             from chain_transaction where state = 'pending'",
        )
        .fetch_one(self.database.reader())
        .await?;
        Ok(InFlight {
            transactions: db::unsigned(&row, "transactions")?,
            grants: db::unsigned(&row, "grants")?,
            oldest: row.try_get::<Option<i64>, _>("oldest")?.map(shared::clock::from_micros),
        })
    }

    /// What was ever paid and refused.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn tally(&self) -> db::Result<Tally> {
        let row = sqlx::query("-- store::tally\n select completed_grants, completed_tokens, failed_grants from tally")
            .fetch_one(self.database.reader())
            .await?;
        Ok(Tally {
            completed_grants: db::unsigned(&row, "completed_grants")?,
            completed_tokens: db::unsigned(&row, "completed_tokens")?,
            failed_grants: db::unsigned(&row, "failed_grants")?,
        })
    }
}
