//! What the blockchain service must not forget, told again and again: how the kill switch stands, and which roots are to be
//! published. Whatever the broker loses is made good so.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use shared::db;
use shared::event::{ClaimRootChanged, KillSwitchChanged, RequestEvent};
use shared::outbox::{self, Pending};
use sqlx::Row;

use super::Store;

/// The most roots that are told at a time.
const ROOTS: i64 = 500;

impl Store {
    /// Queues the messages again, if there is anything to tell and the last time is longer ago than this: of the switch, if
    /// somebody has ever touched it, and of every root that is not on chain yet. Whether it did.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn tell_again(&self, now: DateTime<Utc>, every: Duration) -> db::Result<bool> {
        let before = now - TimeDelta::from_std(every).unwrap_or(TimeDelta::MAX);
        let is_due = || {
            sqlx::query(
                "-- store::untold
                 select 1 as one from deployment where told_at <= $1
                   and (exists (select 1 from kill_switch) or exists (select 1 from claim_root where published_at is null))",
            )
            .bind(before.timestamp_micros())
        };
        // Looked up outside the transaction first: most often there is nothing, and nothing to lock.
        if is_due().fetch_optional(self.database.reader()).await?.is_none() {
            return Ok(false);
        }
        let mut ledger = self.ledger("tell", now).await?;
        if is_due().fetch_optional(&mut *ledger.tx).await?.is_none() {
            return Ok(false);
        }
        let mut messages = Vec::new();
        let switch = sqlx::query("-- store::switch_to_tell\n select engaged, sequence from kill_switch");
        if let Some(row) = switch.fetch_optional(&mut *ledger.tx).await? {
            let (engaged, number) = (row.try_get::<i64, _>("engaged")? == 1, db::unsigned(&row, "sequence")?);
            messages.push(RequestEvent::KillSwitchChanged(KillSwitchChanged { engaged, number, timestamp: now }));
        }
        let roots = sqlx::query(
            "-- store::roots_to_tell
             select campaign_id, number, root from claim_root where published_at is null order by number limit $1",
        );
        for row in roots.bind(ROOTS).fetch_all(&mut *ledger.tx).await? {
            messages.push(RequestEvent::ClaimRootChanged(ClaimRootChanged {
                campaign_id: db::parse(&row, "campaign_id")?,
                root: row.try_get("root")?,
                number: db::unsigned(&row, "number")?,
                timestamp: now,
            }));
        }
        let messages: Vec<_> = messages.iter().map(|message| Pending::request(message, None, now)).collect();
        outbox::enqueue(&mut ledger.tx, &messages);
        sqlx::query("-- store::told\n update deployment set told_at = $1")
            .bind(now.timestamp_micros())
            .execute(&mut *ledger.tx)
            .await?;
        ledger.tx.commit().await?;
        Ok(true)
    }
}
