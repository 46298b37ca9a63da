//! Messages that are committed together with the change they announce, and published afterwards.
//!
//! [`enqueue`] writes inside the caller's transaction; the [`Relay`] publishes what is committed and removes a row only
//! after the broker has acknowledged it. A crash in between publishes the message again, never loses it: whoever
//! receives it must treat a repeat as harmless.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::Row;

use crate::clock::Clock;
use crate::db::{self, Database, Tx};
use crate::event::{AttributeMap, RequestEvent, ResultEvent};
use crate::fail_point;
use crate::id::RequestId;
use crate::pubsub::{self, Bus, Topic};
use crate::random::ascending_uuid;
use crate::telemetry::TraceParent;
use crate::worker::{Progress, Worker};

/// A message that waits to be published.
#[derive(Debug, Serialize)]
pub struct Pending {
    id: String,
    topic: &'static str,
    request_id: Option<RequestId>,
    data: String,
    attributes: String,
    created_at: i64,
}

impl Pending {
    /// A request, to be published on `token-grant-requests`.
    #[must_use]
    pub fn request(event: &RequestEvent, trace: Option<TraceParent>, at: DateTime<Utc>) -> Self {
        let RequestEvent::Requested(requested) = event;
        Self::new(Topic::Requests, Some(requested.request_id.clone()), event, &event.attributes(trace), at)
    }

    /// A result, to be published on `token-grant-results`.
    #[must_use]
    pub fn result(event: &ResultEvent, trace: Option<TraceParent>, at: DateTime<Utc>) -> Self {
        let request_id = match event {
            ResultEvent::Submitted(_) => None,
            ResultEvent::Completed(completed) => Some(completed.request_id.clone()),
            ResultEvent::Failed(failed) => Some(failed.request_id.clone()),
        };
        Self::new(Topic::Results, request_id, event, &event.attributes(trace), at)
    }

    fn new(
        topic: Topic,
        request_id: Option<RequestId>,
        event: &impl Serialize,
        attributes: &AttributeMap,
        at: DateTime<Utc>,
    ) -> Self {
        Self {
            id: ascending_uuid(at).to_string(),
            topic: topic.name(),
            request_id,
            data: json(event),
            attributes: json(attributes),
            created_at: at.timestamp_micros(),
        }
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("messages are plain structs")
}

/// Commits messages to be published, together with whatever else is in the transaction.
///
/// # Errors
///
/// When the database refuses.
pub async fn enqueue(tx: &mut Tx, messages: &[Pending]) -> db::Result<()> {
    sqlx::query(
        "-- outbox::enqueue
         insert into outbox (id, topic, request_id, data, attributes, created_at)
         select value->>'id', value->>'topic', value->>'request_id', value->>'data', value->>'attributes',
                cast(value->>'created_at' as bigint)
         from json_each($1)",
    )
    .bind(db::rows(messages))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Publishes what is committed.
#[derive(Debug)]
pub struct Relay {
    database: Database,
    bus: Arc<dyn Bus>,
    clock: Clock,
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

impl Relay {
    /// The most messages that one step publishes.
    const BATCH: i64 = 1000;

    /// A relay of this database's outbox.
    #[must_use]
    pub fn new(database: Database, bus: Arc<dyn Bus>, clock: Clock) -> Self {
        Self { database, bus, clock }
    }
}

impl Worker for Relay {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        let rows = sqlx::query(
            "-- outbox::next
             select id, topic, data, attributes, created_at from outbox order by id limit $1",
        )
        .bind(Self::BATCH)
        .fetch_all(self.database.reader())
        .await
        .map_err(db::Error::from)?;
        let Some(oldest) = rows.first() else {
            metrics::gauge!("outbox_oldest_seconds").set(0);
            return Ok(Progress::Idle);
        };
        let now = self.clock.now();
        metrics::gauge!("outbox_oldest_seconds").set((now - db::time(oldest, "created_at")?).as_seconds_f64());

        let mut ids = Vec::with_capacity(rows.len());
        let mut by_topic: BTreeMap<Topic, Vec<(usize, pubsub::Message)>> = BTreeMap::new();
        for row in &rows {
            let topic: Topic = db::parse(row, "topic")?;
            let data: String = row.try_get("data").map_err(db::Error::from)?;
            let attributes: String = row.try_get("attributes").map_err(db::Error::from)?;
            let attributes = db::corrupt("attributes", serde_json::from_str(&attributes))?;
            by_topic.entry(topic).or_default().push((ids.len(), pubsub::Message { data: data.into(), attributes }));
            ids.push(Sent {
                id: row.try_get("id").map_err(db::Error::from)?,
                waited_seconds: (now - db::time(row, "created_at")?).as_seconds_f64(),
            });
        }

        let mut sent = Vec::with_capacity(ids.len());
        let mut first_error = None;
        for (topic, messages) in by_topic {
            let (positions, messages): (Vec<_>, Vec<_>) = messages.into_iter().unzip();
            let outcomes = self.bus.publish(topic, messages).await;
            fail_point::reach("relay:published").await;
            let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
            let count = |status, messages: usize| {
                metrics::counter!("messages_published_total", "topic" => topic.name(), "status" => status)
                    .increment(messages as u64);
            };
            count("ok", outcomes.len() - failed);
            count("error", failed);
            for (position, outcome) in positions.into_iter().zip(outcomes) {
                match outcome {
                    Ok(()) => {
                        metrics::histogram!("outbox_wait_seconds").record(ids[position].waited_seconds);
                        sent.push(&ids[position]);
                    }
                    Err(error) => first_error = first_error.or(Some(error)),
                }
            }
        }
        self.remove(&sent).await?;
        match first_error {
            None => Ok(Progress::Worked),
            Some(source) => Err(Error::Publish { failed: ids.len() - sent.len(), total: ids.len(), source }),
        }
    }
}

#[derive(Serialize)]
struct Sent {
    id: String,
    #[serde(skip)]
    waited_seconds: f64,
}

impl Relay {
    async fn remove(&self, sent: &[&Sent]) -> db::Result<()> {
        if sent.is_empty() {
            return Ok(());
        }
        let mut tx = self.database.begin("relay").await?;
        sqlx::query(
            "-- outbox::remove
             delete from outbox where id in (select value->>'id' from json_each($1))",
        )
        .bind(db::rows(sent))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}
