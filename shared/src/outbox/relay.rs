//! The relay: publishes what is committed, and takes it from the outbox.
//!
//! A row that the broker refuses for good does not hold up those behind it: it becomes a dead letter in the transaction
//! that removes it. Since the broker refuses a whole request for one message in it, each is tried alone first.
//!
//! Replicas share the outbox: the rows that one publishes are locked meanwhile, and the others skip them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::clock::Clock;
use crate::db::{self, Database, Tx};
use crate::dead_letter::{self, Failure, Reason, Source};
use crate::fail_point;
use crate::id::RequestId;
use crate::pubsub::{self, Bus, Message, Topic};
use crate::worker::{Progress, Worker};

/// Publishes what is committed.
#[derive(Debug)]
pub struct Relay<P = Forgotten> {
    database: Database,
    bus: Arc<dyn Bus>,
    clock: Clock,
    published: P,
}

/// What a service does about messages that the broker has: in the transaction that takes them from the outbox.
pub trait Published: Send + Sync + 'static {
    /// Writes in the transaction, and gives it back for the commit. The grants are those that the messages name, in their
    /// order.
    ///
    /// # Errors
    ///
    /// When the database refuses; the messages stay in the outbox, and are published again.
    fn record(&self, tx: Tx, grants: &[RequestId], now: DateTime<Utc>) -> impl Future<Output = db::Result<Tx>> + Send;
}

/// Nothing is done about them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forgotten;

impl Published for Forgotten {
    async fn record(&self, tx: Tx, _: &[RequestId], _: DateTime<Utc>) -> db::Result<Tx> {
        Ok(tx)
    }
}

/// Why a step of the relay failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The outbox could not be read or written.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The broker did not take everything; what it took is gone from the outbox.
    #[error("{failed} of {total} messages were not published: {source}")]
    Publish {
        /// How many stay in the outbox.
        failed: usize,
        /// How many were tried.
        total: usize,
        /// Why the first of them failed.
        source: pubsub::Error,
    },
}

/// The most messages that one step publishes.
const BATCH: i64 = 1000;

/// A step takes no more redriven messages after so many bytes of them: their bodies may be large.
const REDRIVEN_BYTES: usize = 8 * 1024 * 1024;

impl Relay {
    /// A relay of this database's outbox.
    #[must_use]
    pub fn new(database: Database, bus: Arc<dyn Bus>, clock: Clock) -> Self {
        Relay { database, bus, clock, published: Forgotten }
    }

    /// The same, which tells of what was published.
    #[must_use]
    pub fn telling<P: Published>(self, published: P) -> Relay<P> {
        Relay { database: self.database, bus: self.bus, clock: self.clock, published }
    }
}

impl<P: Published> Worker for Relay<P> {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        let (waiting, tx) = self.take().await?;
        let Some(oldest) = waiting.first() else {
            metrics::gauge!("outbox_oldest_seconds").set(0);
            return Ok(Progress::Idle);
        };
        let now = self.clock.now();
        metrics::gauge!("outbox_oldest_seconds").set((now - oldest.created_at).as_seconds_f64());

        let total = waiting.len();
        let mut by_topic: BTreeMap<Topic, Vec<Waiting>> = BTreeMap::new();
        for waiting in waiting {
            by_topic.entry(waiting.topic).or_default().push(waiting);
        }
        let mut tried = Tried::default();
        if fail_point::switched("outbox_removed_before_publish") {
            self.remove(None, &by_topic.values().flatten().cloned().collect::<Vec<_>>()).await?;
        }
        for (topic, waiting) in by_topic {
            let refused = self.publish(topic, waiting, &mut tried, Alone::No).await;
            for waiting in refused {
                self.publish(topic, vec![waiting], &mut tried, Alone::Yes).await;
            }
        }
        for waiting in &tried.sent {
            metrics::histogram!("outbox_wait_seconds").record((now - waiting.created_at).as_seconds_f64());
        }
        self.remove(tx, &tried.sent).await?;
        self.set_aside(&tried.undeliverable).await?;
        match tried.first_error {
            None => Ok(Progress::Worked(total)),
            Some(source) => {
                let failed = total - tried.sent.len() - tried.undeliverable.len();
                Err(Error::Publish { failed, total, source })
            }
        }
    }
}

/// A row of the outbox.
#[derive(Clone)]
struct Waiting {
    id: String,
    topic: Topic,
    request_id: Option<RequestId>,
    message: Message,
    created_at: DateTime<Utc>,
}

/// What became of the messages of a step; those in neither list stay in the outbox.
#[derive(Default)]
struct Tried {
    sent: Vec<Waiting>,
    /// What the broker refuses for good, with its reason.
    undeliverable: Vec<(Waiting, String)>,
    first_error: Option<pubsub::Error>,
}

/// Whether a message is tried by itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Alone {
    Yes,
    No,
}

/// The oldest rows, locked or not.
macro_rules! oldest {
    ($lock:literal) => {
        concat!(
            "-- outbox::oldest
             select id, topic, request_id, data, attributes, created_at, dead_letter_id from outbox
             order by id limit $1 ",
            $lock
        )
    };
}

impl<P: Published> Relay<P> {
    /// The oldest rows that no other process publishes now, with the bodies of those that are redriven; and the
    /// transaction that keeps others from them, where there may be others.
    async fn take(&self) -> db::Result<(Vec<Waiting>, Option<Tx>)> {
        let mut tx = self.database.begin_taking("relay").await?;
        let rows = match &mut tx {
            None => sqlx::query(oldest!("")).bind(BATCH).fetch_all(self.database.reader()).await?,
            Some(tx) => sqlx::query(oldest!("for update skip locked")).bind(BATCH).fetch_all(&mut **tx).await?,
        };
        let mut waiting = Vec::with_capacity(rows.len());
        let mut redriven_bytes = 0;
        for row in &rows {
            let data = match row.try_get::<Option<String>, _>("dead_letter_id")? {
                None => row.try_get::<String, _>("data")?.into(),
                Some(_) if redriven_bytes > REDRIVEN_BYTES => break,
                Some(letter) => {
                    let payload = self.payload(&letter).await?;
                    redriven_bytes += payload.len();
                    payload
                }
            };
            waiting.push(read(row, data)?);
        }
        Ok((waiting, tx))
    }

    async fn payload(&self, dead_letter_id: &str) -> db::Result<Bytes> {
        let row = sqlx::query("-- outbox::payload\n select payload from dead_letter where id = $1")
            .bind(dead_letter_id)
            .fetch_one(self.database.reader())
            .await?;
        Ok(row.try_get::<Vec<u8>, _>("payload")?.into())
    }

    /// Publishes messages of one topic. Those that were refused for good in company are returned, to be tried alone.
    async fn publish(&self, topic: Topic, waiting: Vec<Waiting>, tried: &mut Tried, alone: Alone) -> Vec<Waiting> {
        let messages = waiting.iter().map(|waiting| waiting.message.clone()).collect();
        let start = Instant::now();
        let outcomes = self.bus.publish(topic, messages).await;
        metrics::histogram!("publish_seconds", "topic" => topic.name()).record(start.elapsed().as_secs_f64());
        fail_point::reach("relay:published").await;
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        let count = |status, messages: usize| {
            metrics::counter!("messages_published_total", "topic" => topic.name(), "status" => status)
                .increment(messages as u64);
        };
        count("ok", outcomes.len() - failed);
        count("error", failed);
        let mut refused = Vec::new();
        for (waiting, outcome) in waiting.into_iter().zip(outcomes) {
            match outcome {
                Ok(()) => tried.sent.push(waiting),
                Err(error) if !error.is_refusal() => tried.first_error = tried.first_error.take().or(Some(error)),
                Err(error) if alone == Alone::Yes => tried.undeliverable.push((waiting, error.to_string())),
                Err(_) => refused.push(waiting),
            }
        }
        refused
    }

    async fn remove(&self, taken: Option<Tx>, sent: &[Waiting]) -> db::Result<()> {
        if sent.is_empty() {
            // What is set aside is taken from the outbox next, by another transaction.
            return match taken {
                Some(tx) => tx.roll_back().await,
                None => Ok(()),
            };
        }
        let mut tx = match taken {
            Some(tx) => tx,
            None => self.database.begin("relay").await?,
        };
        delete(&mut tx, sent.iter()).await?;
        let grants: Vec<_> = sent.iter().filter_map(|waiting| waiting.request_id.clone()).collect();
        self.published.record(tx, &grants, self.clock.now()).await?.commit().await
    }

    /// Moves what cannot be published to the dead letters.
    async fn set_aside(&self, undeliverable: &[(Waiting, String)]) -> db::Result<()> {
        if undeliverable.is_empty() {
            return Ok(());
        }
        let failures: Vec<_> = undeliverable.iter().map(|(waiting, detail)| failure(waiting, detail)).collect();
        let mut tx = self.database.begin("undeliverable").await?;
        let kept = dead_letter::keep(&mut tx, &failures, self.clock.now()).await?;
        delete(&mut tx, undeliverable.iter().map(|(waiting, _)| waiting)).await?;
        tx.commit().await?;
        dead_letter::observe(&failures, &kept);
        Ok(())
    }
}

fn read(row: &AnyRow, data: Bytes) -> db::Result<Waiting> {
    let attributes: String = row.try_get("attributes")?;
    let attributes = db::corrupt("attributes", serde_json::from_str(&attributes))?;
    Ok(Waiting {
        id: row.try_get("id")?,
        topic: db::parse(row, "topic")?,
        request_id: db::parse_option(row, "request_id")?,
        message: Message { data, attributes },
        created_at: db::time(row, "created_at")?,
    })
}

fn failure(waiting: &Waiting, detail: &str) -> Failure {
    Failure {
        topic: waiting.topic,
        source: Source::Outbox,
        message_id: waiting.id.clone(),
        published_at: waiting.created_at,
        data: waiting.message.data.clone(),
        attributes: waiting.message.attributes.clone(),
        reason: Reason::Undeliverable,
        detail: format!("the broker refuses it: {detail}"),
    }
}

async fn delete(tx: &mut Tx, rows: impl Iterator<Item = &Waiting>) -> db::Result<()> {
    sqlx::query(
        "-- outbox::remove
         delete from outbox where id in (select value->>0 from jsonb_each($1))",
    )
    .bind(db::keys(rows.map(|waiting| &waiting.id)))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
