//! Messages that are committed together with the change they announce, and published afterwards.
//!
//! [`enqueue`] writes inside the caller's transaction; the [`Relay`] publishes what is committed and removes a row only
//! after the broker has acknowledged it. A crash in between publishes the message again, never loses it: whoever
//! receives it must treat a repeat as harmless.

mod relay;

use chrono::{DateTime, Utc};
pub use relay::{Error, Forgotten, Published, Relay};
use serde::Serialize;

use crate::db::{self, Tx};
use crate::dead_letter::LetterId;
use crate::event::{AttributeMap, RequestEvent, ResultEvent};
use crate::id::RequestId;
use crate::pubsub::Topic;
use crate::random::ascending_uuid;
use crate::telemetry::TraceParent;

/// A message that waits to be published.
#[derive(Debug, Serialize)]
pub struct Pending {
    id: String,
    topic: &'static str,
    request_id: Option<RequestId>,
    data: String,
    attributes: String,
    created_at: i64,
    /// A message with this has its body there.
    dead_letter_id: Option<LetterId>,
}

impl Pending {
    /// A request, to be published on `token-grant-requests`.
    #[must_use]
    pub fn request(event: &RequestEvent, trace: Option<TraceParent>, at: DateTime<Utc>) -> Self {
        Self::new(Topic::Requests, event.request_id().cloned(), event, &event.attributes(trace), at)
    }

    /// A result, to be published on `token-grant-results`.
    #[must_use]
    pub fn result(event: &ResultEvent, trace: Option<TraceParent>, at: DateTime<Utc>) -> Self {
        Self::new(Topic::Results, event.request_id().cloned(), event, &event.attributes(trace), at)
    }

    /// A dead letter, to be published on its topic once more.
    #[must_use]
    pub fn redriven(
        topic: Topic,
        request_id: Option<RequestId>,
        attributes: &AttributeMap,
        letter: LetterId,
        at: DateTime<Utc>,
    ) -> Self {
        Self {
            id: ascending_uuid(at).to_string(),
            topic: topic.name(),
            request_id,
            data: String::new(),
            attributes: json(attributes),
            created_at: at.timestamp_micros(),
            dead_letter_id: Some(letter),
        }
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
            dead_letter_id: None,
        }
    }
}

/// The text that is stored.
pub(crate) fn json(value: &impl Serialize) -> String {
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
         insert into outbox (id, topic, request_id, data, attributes, created_at, dead_letter_id)
         select value->>'id', value->>'topic', value->>'request_id', value->>'data', value->>'attributes',
                cast(value->>'created_at' as bigint), value->>'dead_letter_id'
         from json_each($1)",
    )
    .bind(db::rows(messages))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
