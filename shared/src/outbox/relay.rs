//! The relay: publishes what is committed, and takes it from the outbox.
//!
//! A row that the broker refuses for good does not hold up those behind it: it becomes a dead letter in the transaction
//! that removes it. Since the broker refuses a whole request for one message in it, each is tried alone first.
//!
//! Replicas share the outbox: the rows that one publishes are locked meanwhile, and the others skip them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Bundled, json};
use crate::clock::Clock;
use crate::db::{self, Database, Tx};
use crate::dead_letter::{self, Failure, Reason, Source};
use crate::fail_point;
use crate::id::RequestId;
use crate::pace::FULL;
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

/// The most rows that one step takes: 1,000 messages, where many were committed together.
const ROWS: i64 = 50;

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
        let (waiting, there_is_more, tx) = self.take().await?;
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
            let sent = by_topic.values().flatten().cloned().collect();
            self.remove(None, &Tried { sent, ..Tried::default() }).await?;
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
        self.remove(tx, &tried).await?;
        self.set_aside(&tried).await?;
        match tried.first_error {
            None if there_is_more => Ok(Progress::Worked(total.max(FULL))),
            None => Ok(Progress::Worked(total)),
            Some(source) => Err(Error::Publish { failed: tried.left.len(), total, source }),
        }
    }
}

/// A message in the outbox.
#[derive(Debug, Clone)]
pub struct Waiting {
    row: Arc<Stored>,
    id: String,
    /// Where it is to be published.
    pub topic: Topic,
    request_id: Option<RequestId>,
    /// What is to be published.
    pub message: Message,
    created_at: DateTime<Utc>,
}

/// A row of the outbox, with the text of its messages if there are several.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stored {
    id: String,
    messages: String,
}

/// What became of the messages of a step.
#[derive(Default)]
struct Tried {
    sent: Vec<Waiting>,
    /// What the broker refuses for good, with its reason.
    undeliverable: Vec<(Waiting, String)>,
    /// What stays in the outbox.
    left: Vec<Waiting>,
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
             select id, topic, request_id, data, attributes, messages, created_at, dead_letter_id from outbox
             order by id limit $1 ",
            $lock
        )
    };
}

/// The messages of the oldest rows, up to so many, as they would be published.
///
/// # Errors
///
/// When the database cannot be read.
pub async fn waiting(database: &Database, rows: i64) -> db::Result<Vec<Waiting>> {
    let rows = sqlx::query(oldest!("")).bind(rows).fetch_all(database.reader()).await?;
    Ok(read_rows(database, &rows).await?.0)
}

impl<P: Published> Relay<P> {
    /// The messages of the oldest rows that no other process publishes now, and whether there are more of them; and the
    /// transaction that keeps others from them, where there may be others.
    async fn take(&self) -> db::Result<(Vec<Waiting>, bool, Option<Tx>)> {
        let mut tx = self.database.begin_taking("relay").await?;
        let rows = match &mut tx {
            None => sqlx::query(oldest!("")).bind(ROWS).fetch_all(self.database.reader()).await?,
            Some(tx) => sqlx::query(oldest!("for update skip locked")).bind(ROWS).fetch_all(&mut **tx).await?,
        };
        let (waiting, all) = read_rows(&self.database, &rows).await?;
        Ok((waiting, !all || i64::try_from(rows.len()).is_ok_and(|rows| rows == ROWS), tx))
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
                Err(error) if !error.is_refusal() => {
                    tried.left.push(waiting);
                    tried.first_error = tried.first_error.take().or(Some(error));
                }
                Err(error) if alone == Alone::Yes => tried.undeliverable.push((waiting, error.to_string())),
                Err(_) => refused.push(waiting),
            }
        }
        refused
    }

    /// Takes what was sent from the outbox.
    async fn remove(&self, taken: Option<Tx>, tried: &Tried) -> db::Result<()> {
        if tried.sent.is_empty() {
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
        let undeliverable = tried.undeliverable.iter().map(|(waiting, _)| waiting);
        take_out(&mut tx, tried.sent.iter(), tried.left.iter().chain(undeliverable)).await?;
        let grants: Vec<_> = tried.sent.iter().filter_map(|waiting| waiting.request_id.clone()).collect();
        self.published.record(tx, &grants, self.clock.now()).await?.commit().await
    }

    /// Moves what cannot be published to the dead letters.
    async fn set_aside(&self, tried: &Tried) -> db::Result<()> {
        if tried.undeliverable.is_empty() {
            return Ok(());
        }
        let failures: Vec<_> = tried.undeliverable.iter().map(|(waiting, detail)| failure(waiting, detail)).collect();
        let mut tx = self.database.begin("undeliverable").await?;
        let kept = dead_letter::keep(&mut tx, &failures, self.clock.now()).await?;
        take_out(&mut tx, tried.undeliverable.iter().map(|(waiting, _)| waiting), tried.left.iter()).await?;
        tx.commit().await?;
        dead_letter::observe(&failures, &kept);
        Ok(())
    }
}

/// Reads the messages of rows, and the bodies of those that are redriven; says whether these are all of them.
async fn read_rows(database: &Database, rows: &[AnyRow]) -> db::Result<(Vec<Waiting>, bool)> {
    let mut waiting = Vec::with_capacity(rows.len());
    let mut redriven_bytes = 0;
    for row in rows {
        if let Some(messages) = row.try_get::<Option<String>, _>("messages")? {
            read_bundle(row, messages, &mut waiting)?;
            continue;
        }
        let data = match row.try_get::<Option<String>, _>("dead_letter_id")? {
            None => row.try_get::<String, _>("data")?.into(),
            Some(_) if redriven_bytes > REDRIVEN_BYTES => return Ok((waiting, false)),
            Some(letter) => {
                let payload = payload(database, &letter).await?;
                redriven_bytes += payload.len();
                payload
            }
        };
        waiting.push(read_single(row, data)?);
    }
    Ok((waiting, true))
}

async fn payload(database: &Database, dead_letter_id: &str) -> db::Result<Bytes> {
    let row = sqlx::query("-- outbox::payload\n select payload from dead_letter where id = $1")
        .bind(dead_letter_id)
        .fetch_one(database.reader())
        .await?;
    Ok(row.try_get::<Vec<u8>, _>("payload")?.into())
}

fn read_bundle(row: &AnyRow, messages: String, waiting: &mut Vec<Waiting>) -> db::Result<()> {
    let stored = Arc::new(Stored { id: row.try_get("id")?, messages });
    let (topic, created_at) = (db::parse(row, "topic")?, db::time(row, "created_at")?);
    for Bundled(id, request_id, body, attributes) in stored.bundle()? {
        let data = body.map(|body| Bytes::copy_from_slice(body.get().as_bytes())).unwrap_or_default();
        let attributes = db::corrupt("attributes", serde_json::from_str(attributes.get()))?;
        let message = Message { data, attributes };
        waiting.push(Waiting { row: Arc::clone(&stored), id: id.into_owned(), topic, request_id, message, created_at });
    }
    Ok(())
}

impl Stored {
    fn bundle(&self) -> db::Result<Vec<Bundled<'_>>> {
        db::corrupt("messages", serde_json::from_str(&self.messages))
    }
}

fn read_single(row: &AnyRow, data: Bytes) -> db::Result<Waiting> {
    let (id, attributes): (String, String) = (row.try_get("id")?, row.try_get("attributes")?);
    let attributes = db::corrupt("attributes", serde_json::from_str(&attributes))?;
    Ok(Waiting {
        row: Arc::new(Stored { id: id.clone(), messages: String::new() }),
        id,
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

db::row! {
    /// What stays of a row.
    #[derive(Debug)]
    struct Rest<'a> {
        id: &'a str => text,
        messages: String => text,
    }
}

/// Takes messages from the outbox: their rows, but for what stays of them.
async fn take_out<'a>(
    tx: &mut Tx,
    gone: impl Iterator<Item = &'a Waiting>,
    left: impl Iterator<Item = &'a Waiting>,
) -> db::Result<()> {
    let mut rows: BTreeMap<&Stored, BTreeSet<&str>> = gone.map(|waiting| (&*waiting.row, BTreeSet::new())).collect();
    for waiting in left {
        if let Some(rest) = rows.get_mut(&*waiting.row) {
            rest.insert(&waiting.id);
        }
    }
    let (emptied, shrunk): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(_, rest)| rest.is_empty());
    // Not left to the end of the transaction: others may wait for what it locks next.
    sqlx::query("-- outbox::remove\n delete from outbox where id in (select value->>0 from jsonb_each($1))")
        .bind(db::keys(emptied.iter().map(|(row, _)| &row.id)))
        .execute(&mut **tx)
        .await?;
    let shrunk = shrunk.iter().map(|(row, rest)| {
        let mut bundle = row.bundle()?;
        bundle.retain(|Bundled(id, ..)| rest.contains(&**id));
        Ok(Rest { id: &row.id, messages: json(&bundle) })
    });
    let shrunk = shrunk.collect::<db::Result<Vec<_>>>()?;
    tx.writes().change(
        db::sql!(
            "-- outbox::shrink\n update outbox set messages = rest.messages from (",
            Rest::SELECT,
            ") rest where outbox.id = rest.id"
        ),
        &shrunk,
    );
    Ok(())
}
