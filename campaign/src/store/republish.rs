//! Grants without a result: counted, and their requests published again.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use serde_json::json;
use shared::db::{self, Dialect};
use shared::event::RequestEvent;
use shared::id::RequestId;
use shared::outbox::{self, Pending};
use sqlx::Row;

use super::{NewEvent, Store, grant, grant_columns, record};

/// Open grants, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// How many have no result yet.
    pub grants: u64,
    /// When the oldest of them was accepted.
    pub oldest: Option<DateTime<Utc>>,
}

impl Store {
    /// Queues the requests of up to `limit` grants that are overdue, to be published again; returns how many. The next
    /// wait is twice as long, up to an hour. A request that still waits to be published is left alone.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn republish(&self, now: DateTime<Utc>, after: Duration, limit: i64) -> db::Result<usize> {
        macro_rules! overdue {
            ($lock:literal) => {
                concat!(
                    "-- store::overdue\n select ",
                    grant_columns!(),
                    " from token_grant g where g.publish_again_at <= $1
                       and not exists (select 1 from outbox o where o.request_id = g.request_id)
                       order by g.publish_again_at limit $2",
                    $lock
                )
            };
        }
        let find = |sql| sqlx::query(sql).bind(now.timestamp_micros()).bind(limit);
        // Looked up outside the transaction first: most often there is nothing, and nothing to lock.
        if find(overdue!("")).fetch_all(self.database.reader()).await?.is_empty() {
            return Ok(0);
        }
        let mut tx = self.database.begin("republish").await?;
        let overdue = match self.database.dialect() {
            // The transaction is the only writer.
            Dialect::Sqlite => overdue!(""),
            // What another replica is publishing again, or just has, is left to it.
            Dialect::Postgres => overdue!(" for no key update of g skip locked"),
        };
        let grants = find(overdue).fetch_all(&mut *tx).await?;
        let grants = grants.iter().map(grant).collect::<db::Result<Vec<_>>>()?;
        let mut rows = Vec::new();
        let mut events = Vec::new();
        let mut messages = Vec::new();
        for mut grant in grants {
            grant.retry_count += 1;
            let first_wait = TimeDelta::from_std(after).unwrap_or(MAX_WAIT);
            let wait = first_wait * 2_i32.pow(grant.retry_count.min(12));
            let publish_again_at = (now + wait.min(MAX_WAIT.max(first_wait))).timestamp_micros();
            let message = RequestEvent::Requested(grant.to_message(self.issuer));
            messages.push(Pending::request(&message, grant.trace, now));
            rows.push(Again { request_id: grant.request_id, retry_count: grant.retry_count, publish_again_at });
        }
        for Again { request_id, retry_count, .. } in &rows {
            events.push(NewEvent::new(request_id, "published_again", now, &json!({ "retry_count": retry_count })));
        }
        sqlx::query(
            "-- store::mark_published_again
             update token_grant set retry_count = cast(value->>'retry_count' as bigint),
                                    publish_again_at = cast(value->>'publish_again_at' as bigint)
             from json_each($1) where token_grant.request_id = value->>'request_id'",
        )
        .bind(db::rows(&rows))
        .execute(&mut *tx)
        .await?;
        record(&mut tx, &events).await?;
        outbox::enqueue(&mut tx, &messages).await?;
        tx.commit().await?;
        Ok(rows.len())
    }

    /// Counts the grants that have no result yet.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn open_grants(&self) -> db::Result<Open> {
        let row = sqlx::query(
            "-- store::open_grants
             select count(*) as grants, min(requested_at) as oldest from token_grant where publish_again_at is not null",
        )
        .fetch_one(self.database.reader())
        .await?;
        Ok(Open {
            grants: db::unsigned(&row, "grants")?,
            oldest: row.try_get::<Option<i64>, _>("oldest")?.map(shared::clock::from_micros),
        })
    }
}

const MAX_WAIT: TimeDelta = TimeDelta::hours(1);

#[derive(Debug, Serialize)]
struct Again {
    request_id: RequestId,
    retry_count: u32,
    publish_again_at: i64,
}
