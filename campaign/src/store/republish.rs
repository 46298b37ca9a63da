//! Grants without a result: counted, their requests published again, and given to an operator in the end.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use shared::db::{self, Dialect, Tx};
use shared::event::RequestEvent;
use shared::id::RequestId;
use shared::outbox::{self, Pending};
use sqlx::Row;

use super::{NewEvent, Store, grant, grant_columns, record};
use crate::domain::{Grant, Patience};

/// Open grants, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// How many have no result yet, those that need attention included.
    pub grants: u64,
    /// When the oldest of them was accepted.
    pub oldest: Option<DateTime<Utc>>,
    /// How many of them need attention.
    pub needing_attention: u64,
}

/// What a step did about overdue results.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Republished {
    /// How many requests were queued to be published again.
    pub published: usize,
    /// The grants that need attention from now on.
    pub given_up: Vec<RequestId>,
}

/// Which of the grants that need attention.
#[derive(Debug, Clone, Copy)]
pub enum WhichGrants<'a> {
    /// This one.
    One(&'a RequestId),
    /// All, the oldest first.
    All,
}

impl Store {
    /// Queues the requests of up to `limit` grants that are overdue, to be published again, or marks the grant as needing
    /// attention. A request that still waits to be published is left alone.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn republish(&self, now: DateTime<Utc>, patience: Patience, limit: i64) -> db::Result<Republished> {
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
            return Ok(Republished::default());
        }
        let mut tx = self.database.begin("republish").await?;
        let overdue = match self.database.dialect() {
            // The transaction is the only writer.
            Dialect::Sqlite => overdue!(""),
            // What another replica is publishing again, or just has, is left to it.
            Dialect::Postgres => overdue!(" for no key update of g skip locked"),
        };
        let mut changed = Vec::new();
        for row in &find(overdue).fetch_all(&mut *tx).await? {
            let mut grant = grant(row)?;
            let publish_again_at = grant.overdue(patience, now);
            let retry_count = grant.retry_count;
            changed.push(match publish_again_at {
                Some(_) => Changed {
                    grant,
                    publish_again_at,
                    kind: "published_again",
                    data: json!({ "retry_count": retry_count }),
                },
                None => Changed {
                    grant,
                    publish_again_at,
                    kind: "needs_attention",
                    data: json!({ "retry_count": retry_count, "reason": "no result came" }),
                },
            });
        }
        let given_up: Vec<_> = changed
            .iter()
            .filter(|changed| changed.publish_again_at.is_none())
            .map(|changed| changed.grant.request_id.clone())
            .collect();
        self.commit_changed(tx, &changed, now).await?;
        Ok(Republished { published: changed.len() - given_up.len(), given_up })
    }

    /// Queues the requests of grants that need attention, up to `limit`, and begins a new round with each; returns how
    /// many. A grant that does not need attention is left alone.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn set_going(
        &self,
        which: WhichGrants<'_>,
        now: DateTime<Utc>,
        patience: Patience,
        limit: i64,
    ) -> db::Result<usize> {
        macro_rules! needing_attention {
            ($lock:literal) => {
                concat!(
                    "-- store::needing_attention_of\n select ",
                    grant_columns!(),
                    " from token_grant g where g.needs_attention_since is not null and ($1 = '' or g.request_id = $1)
                       order by g.grant_index limit $2",
                    $lock
                )
            };
        }
        let request_id = match which {
            WhichGrants::One(request_id) => request_id.as_str(),
            WhichGrants::All => "",
        };
        let mut tx = self.database.begin("set_going").await?;
        let sql = match self.database.dialect() {
            // The transaction is the only writer.
            Dialect::Sqlite => needing_attention!(""),
            Dialect::Postgres => needing_attention!(" for no key update of g"),
        };
        let rows = sqlx::query(sql).bind(request_id).bind(limit).fetch_all(&mut *tx).await?;
        let mut changed = Vec::with_capacity(rows.len());
        for row in &rows {
            let mut grant = grant(row)?;
            let publish_again_at = Some(grant.set_going(patience, now));
            let data = json!({ "retry_count": grant.retry_count, "by": "operator" });
            changed.push(Changed { grant, publish_again_at, kind: "published_again", data });
        }
        self.commit_changed(tx, &changed, now).await?;
        Ok(changed.len())
    }

    /// Commits grants with their history lines, and the messages of those that are published again.
    async fn commit_changed(&self, mut tx: Tx, changed: &[Changed], now: DateTime<Utc>) -> db::Result<()> {
        if changed.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = changed.iter().map(ChangedRow::new).collect();
        sqlx::query(
            "-- store::update_republished
             update token_grant set retry_count = cast(value->>'retry_count' as bigint),
                                    round_began = cast(value->>'round_began' as bigint),
                                    publish_again_at = cast(value->>'publish_again_at' as bigint),
                                    needs_attention_since = cast(value->>'needs_attention_since' as bigint)
             from json_each($1) where token_grant.request_id = value->>'request_id'",
        )
        .bind(db::rows(&rows))
        .execute(&mut *tx)
        .await?;
        let events: Vec<_> = changed
            .iter()
            .map(|changed| NewEvent::new(&changed.grant.request_id, changed.kind, now, &changed.data))
            .collect();
        record(&mut tx, &events).await?;
        let published = changed.iter().filter(|changed| changed.publish_again_at.is_some());
        let messages: Vec<_> = published
            .map(|Changed { grant, .. }| {
                Pending::request(&RequestEvent::Requested(grant.to_message(self.issuer)), grant.trace, now)
            })
            .collect();
        if !messages.is_empty() {
            outbox::enqueue(&mut tx, &messages).await?;
        }
        tx.commit().await
    }

    /// Counts the grants that have no result yet.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn open_grants(&self) -> db::Result<Open> {
        let row = sqlx::query(
            "-- store::open_grants
             select waiting.grants, waiting.oldest, attention.grants as needing_attention,
                    attention.oldest as oldest_needing_attention
             from (select count(*) as grants, min(requested_at) as oldest from token_grant
                   where publish_again_at is not null) waiting,
                  (select count(*) as grants, min(requested_at) as oldest from token_grant
                   where needs_attention_since is not null) attention",
        )
        .fetch_one(self.database.reader())
        .await?;
        let needing_attention = db::unsigned(&row, "needing_attention")?;
        let oldest: [Option<i64>; 2] = [row.try_get("oldest")?, row.try_get("oldest_needing_attention")?];
        Ok(Open {
            grants: db::unsigned(&row, "grants")? + needing_attention,
            oldest: oldest.into_iter().flatten().min().map(shared::clock::from_micros),
            needing_attention,
        })
    }
}

/// A grant as it is to be stored, and the line that tells what happened.
struct Changed {
    grant: Grant,
    /// When the result is overdue; without it, the request is not published again.
    publish_again_at: Option<DateTime<Utc>>,
    kind: &'static str,
    data: Value,
}

#[derive(Debug, Serialize)]
struct ChangedRow<'a> {
    request_id: &'a RequestId,
    retry_count: u32,
    round_began: u32,
    publish_again_at: Option<i64>,
    needs_attention_since: Option<i64>,
}

impl<'a> ChangedRow<'a> {
    fn new(Changed { grant, publish_again_at, .. }: &'a Changed) -> Self {
        Self {
            request_id: &grant.request_id,
            retry_count: grant.retry_count,
            round_began: grant.round_began,
            publish_again_at: publish_again_at.map(|at| at.timestamp_micros()),
            needs_attention_since: grant.needs_attention_since.map(|at| at.timestamp_micros()),
        }
    }
}
