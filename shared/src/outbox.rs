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

db::row! {
    /// A message that waits to be published.
    #[derive(Debug)]
    pub struct Pending {
        id: String => text,
        topic: &'static str => text,
        request_id: Option<RequestId> => text,
        data: String => text,
        attributes: String => text,
        created_at: i64 => bigint,
        /// A message with this has its body there.
        dead_letter_id: Option<LetterId> => text,
    }
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
    db::write(tx, db::sql!("-- outbox::enqueue\n insert into outbox ", Pending::VALUES), messages).await
}
