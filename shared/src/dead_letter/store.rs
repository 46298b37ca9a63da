//! The table `dead_letter`, which both services have: listed, sent again, discarded.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sqlx::Row;
use sqlx::any::AnyRow;
use tokio::sync::Notify;

use super::keep::{Kept, keep, observe};
use super::{ATTEMPT_ATTRIBUTE, DeadLetter, Failure, ID_ATTRIBUTE, LetterId, PUBSUB_PREFIXES, Reason, State};
use crate::clock::Clock;
use crate::db::{self, Database, Dialect};
use crate::event::AttributeMap;
use crate::outbox::{self, Pending};
use crate::pubsub::Topic;

/// The dead letters of one service; clones share them.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    database: Database,
    clock: Clock,
    outbox_ready: Arc<Notify>,
}

/// Which dead letters; a condition that is absent holds for all.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// In this state.
    pub state: Option<State>,
    /// For this reason.
    pub reason: Option<Reason>,
    /// Of this topic.
    pub topic: Option<Topic>,
}

/// Which part of a list, newest first.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// At most so many.
    pub limit: u16,
    /// Only those that came before this one.
    pub before: Option<LetterId>,
}

/// What is to be redriven. Only what is open and whole is.
#[derive(Debug, Clone)]
pub enum Selection {
    /// These.
    These(Vec<LetterId>),
    /// All that match, the oldest first, up to [`DeadLetters::REDRIVE_LIMIT`] at a time.
    All(Filter),
}

/// What a redrive came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redriven {
    /// Those that were sent again by this call.
    pub ids: Vec<LetterId>,
    /// How many more match that could be.
    pub remaining: u64,
}

macro_rules! letter_columns {
    () => {
        "id, topic, source, message_id, published_at, reason, detail, state, request_id, payload_bytes,
         cast(length(payload) as bigint) as payload_kept, attributes, attributes_dropped, attempts, first_failed_at,
         last_failed_at, redriven_at, discarded_at"
    };
}

fn letter(row: &AnyRow) -> db::Result<DeadLetter> {
    let time = |column| Ok::<_, db::Error>(row.try_get::<Option<i64>, _>(column)?.map(crate::clock::from_micros));
    let payload_bytes = db::unsigned(row, "payload_bytes")?;
    Ok(DeadLetter {
        id: db::parse(row, "id")?,
        topic: db::parse(row, "topic")?,
        source: db::parse(row, "source")?,
        message_id: row.try_get("message_id")?,
        reason: db::parse(row, "reason")?,
        detail: row.try_get("detail")?,
        state: db::parse(row, "state")?,
        attempts: attempts(row)?,
        request_id: row.try_get("request_id")?,
        attributes: attributes(row)?,
        attributes_dropped: db::unsigned(row, "attributes_dropped")?,
        payload_bytes,
        payload_truncated: db::unsigned(row, "payload_kept")? < payload_bytes,
        published_at: db::time(row, "published_at")?,
        first_failed_at: db::time(row, "first_failed_at")?,
        last_failed_at: db::time(row, "last_failed_at")?,
        redriven_at: time("redriven_at")?,
        discarded_at: time("discarded_at")?,
    })
}

fn attempts(row: &AnyRow) -> db::Result<u32> {
    db::corrupt("attempts", u32::try_from(row.try_get::<i64, _>("attempts")?))
}

fn attributes(row: &AnyRow) -> db::Result<AttributeMap> {
    db::corrupt("attributes", serde_json::from_str(&row.try_get::<String, _>("attributes")?))
}

fn keys(ids: &[LetterId]) -> String {
    db::keys(ids)
}

impl Filter {
    /// The texts that a query compares with; empty for a condition that is absent.
    fn texts(self) -> [&'static str; 3] {
        [
            self.state.map_or("", State::as_str),
            self.reason.map_or("", Reason::as_str),
            self.topic.map_or("", Topic::name),
        ]
    }
}

impl DeadLetters {
    /// The most messages that one call sends again.
    pub const REDRIVE_LIMIT: i64 = 500;

    /// The dead letters of this database, whose relay is told by `outbox_ready`.
    #[must_use]
    pub fn new(database: Database, clock: Clock, outbox_ready: Arc<Notify>) -> Self {
        Self { database, clock, outbox_ready }
    }

    /// Commits messages that failed, and counts and logs those that were not known.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn commit(&self, failures: &[Failure]) -> db::Result<Vec<Kept>> {
        let mut tx = self.database.begin("dead_letter").await?;
        let kept = keep(&mut tx, failures, self.clock.now()).await?;
        tx.commit().await?;
        observe(failures, &kept);
        Ok(kept)
    }

    /// Those that match, newest first.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn list(&self, filter: Filter, page: Page) -> db::Result<Vec<DeadLetter>> {
        let [state, reason, topic] = filter.texts();
        let rows = sqlx::query(concat!(
            "-- dead_letter::list\n select ",
            letter_columns!(),
            " from dead_letter where ($1 = '' or state = $1) and ($2 = '' or reason = $2) and ($3 = '' or topic = $3)
               and ($4 = '' or id < $4) order by id desc limit $5"
        ))
        .bind(state)
        .bind(reason)
        .bind(topic)
        .bind(page.before.map_or_else(String::new, |id| id.to_string()))
        .bind(i64::from(page.limit))
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(letter).collect()
    }

    /// One of them.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn find(&self, id: LetterId) -> db::Result<Option<DeadLetter>> {
        let row = sqlx::query(concat!(
            "-- dead_letter::find\n select ",
            letter_columns!(),
            " from dead_letter where id = $1"
        ))
        .bind(id.to_string())
        .fetch_optional(self.database.reader())
        .await?;
        row.as_ref().map(letter).transpose()
    }

    /// What is kept of its body; nothing where there is no such row.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn payload(&self, id: LetterId) -> db::Result<Option<Bytes>> {
        let row = sqlx::query("-- dead_letter::payload\n select payload from dead_letter where id = $1")
            .bind(id.to_string())
            .fetch_optional(self.database.reader())
            .await?;
        row.map(|row| Ok(row.try_get::<Vec<u8>, _>("payload")?.into())).transpose()
    }

    /// Puts those that are open and whole into the outbox, and marks them redriven, in one transaction. What was
    /// redriven before is left alone.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn redrive(&self, selection: &Selection) -> db::Result<Redriven> {
        macro_rules! redrivable {
            ($name:literal, $columns:literal, $rest:literal) => {
                concat!(
                    "-- dead_letter::",
                    $name,
                    "\n select ",
                    $columns,
                    " from dead_letter where state = 'open' and attributes_dropped = 0
                        and payload_bytes = length(payload)
                        and ($1 = '[]' or id in (select value->>0 from jsonb_each($1)))
                        and ($2 = '' or state = $2) and ($3 = '' or reason = $3) and ($4 = '' or topic = $4)",
                    $rest
                )
            };
        }
        let (ids, filter) = match selection {
            Selection::These(ids) if ids.is_empty() => return Ok(Redriven { ids: Vec::new(), remaining: 0 }),
            Selection::These(ids) => (keys(ids), Filter::default()),
            Selection::All(filter) => ("[]".to_owned(), *filter),
        };
        let [state, reason, topic] = filter.texts();
        let matching = |sql| sqlx::query(sql).bind(ids.clone()).bind(state).bind(reason).bind(topic);
        let now = self.clock.now();

        let mut tx = self.database.begin("redrive").await?;
        let select = match self.database.dialect() {
            // The transaction is the only writer.
            Dialect::Sqlite => {
                redrivable!("redrivable", "id, topic, request_id, attributes, attempts", " order by id limit $5")
            }
            Dialect::Postgres => redrivable!(
                "redrivable",
                "id, topic, request_id, attributes, attempts",
                " order by id limit $5 for no key update"
            ),
        };
        let rows = matching(select).bind(Self::REDRIVE_LIMIT).fetch_all(&mut *tx).await?;
        let mut redriven = Vec::with_capacity(rows.len());
        let mut messages = Vec::with_capacity(rows.len());
        for row in &rows {
            let id: LetterId = db::parse(row, "id")?;
            let mut attributes = attributes(row)?;
            attributes.retain(|name, _| !PUBSUB_PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
            attributes.insert(ID_ATTRIBUTE.to_owned(), id.to_string());
            attributes.insert(ATTEMPT_ATTRIBUTE.to_owned(), (attempts(row)? + 1).to_string());
            let (topic, request_id) = (db::parse(row, "topic")?, db::parse_option(row, "request_id")?);
            messages.push(Pending::redriven(topic, request_id, &attributes, id, now));
            redriven.push(id);
        }
        if !redriven.is_empty() {
            sqlx::query(
                "-- dead_letter::mark_redriven
                 update dead_letter set state = 'redriven', redriven_at = $2
                 where id in (select value->>0 from jsonb_each($1))",
            )
            .bind(keys(&redriven))
            .bind(now.timestamp_micros())
            .execute(&mut *tx)
            .await?;
            outbox::enqueue(&mut tx, &messages);
        }
        let remaining =
            matching(redrivable!("still_redrivable", "count(*) as letters", "")).fetch_one(&mut *tx).await?;
        let remaining = db::unsigned(&remaining, "letters")?;
        tx.commit().await?;
        if !redriven.is_empty() {
            tracing::info!(messages = redriven.len(), "dead letters are sent again");
            self.outbox_ready.notify_one();
        }
        Ok(Redriven { ids: redriven, remaining })
    }

    /// Marks one that is open as discarded; one in another state is left as it is.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn discard(&self, id: LetterId) -> db::Result<()> {
        let mut tx = self.database.begin("discard").await?;
        let discarded = sqlx::query(
            "-- dead_letter::discard
             update dead_letter set state = 'discarded', discarded_at = $2 where id = $1 and state = 'open'",
        )
        .bind(id.to_string())
        .bind(self.clock.now().timestamp_micros())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        if discarded.rows_affected() > 0 {
            tracing::info!(dead_letter_id = %id, "dead letter discarded");
        }
        Ok(())
    }

    /// How many are open, by topic.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn open_by_topic(&self) -> db::Result<BTreeMap<Topic, u64>> {
        let rows = sqlx::query(
            "-- dead_letter::open_by_topic
             select topic, count(*) as letters from dead_letter where state = 'open' group by topic",
        )
        .fetch_all(self.database.reader())
        .await?;
        rows.iter().map(|row| Ok((db::parse(row, "topic")?, db::unsigned(row, "letters")?))).collect()
    }
}
