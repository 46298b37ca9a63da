//! Messages that are committed together with the change they announce, and published afterwards.
//!
//! [`enqueue`] writes inside the caller's transaction; the [`Relay`] publishes what is committed and removes a message only
//! after the broker has acknowledged it. A crash in between publishes the message again, never loses it: whoever
//! receives it must treat a repeat as harmless.
//!
//! A row holds up to 20 messages: each row costs an insert, a delete and an entry of the index.

mod relay;

use std::borrow::Cow;

use chrono::{DateTime, Utc};
pub use relay::{Error, Forgotten, Published, Relay, Waiting, waiting};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::db::{self, Tx};
use crate::dead_letter::LetterId;
use crate::event::{AttributeMap, RequestEvent, ResultEvent};
use crate::id::RequestId;
use crate::pubsub::Topic;
use crate::random::ascending_uuid;
use crate::telemetry::TraceParent;

/// A message that is to be published.
#[derive(Debug)]
pub struct Pending {
    id: String,
    topic: &'static str,
    request_id: Option<RequestId>,
    body: Body,
    attributes: Box<RawValue>,
    created_at: i64,
}

#[derive(Debug)]
enum Body {
    Json(Box<RawValue>),
    /// That of a dead letter, which stays there.
    Of(LetterId),
}

impl Pending {
    /// A request, to be published on `token-grant-requests`.
    #[must_use]
    pub fn request(event: &RequestEvent, trace: Option<TraceParent>, at: DateTime<Utc>) -> Self {
        let (request_id, body) = (event.request_id().cloned(), Body::Json(raw(event)));
        Self::new(Topic::Requests, request_id, body, &event.attributes(trace), at)
    }

    /// A result, to be published on `token-grant-results`.
    #[must_use]
    pub fn result(event: &ResultEvent, trace: Option<TraceParent>, at: DateTime<Utc>) -> Self {
        let (request_id, body) = (event.request_id().cloned(), Body::Json(raw(event)));
        Self::new(Topic::Results, request_id, body, &event.attributes(trace), at)
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
        Self::new(topic, request_id, Body::Of(letter), attributes, at)
    }

    fn new(
        topic: Topic,
        request_id: Option<RequestId>,
        body: Body,
        attributes: &AttributeMap,
        at: DateTime<Utc>,
    ) -> Self {
        Self {
            id: ascending_uuid(at).to_string(),
            topic: topic.name(),
            request_id,
            body,
            attributes: raw(attributes),
            created_at: at.timestamp_micros(),
        }
    }
}

/// The text that is stored.
pub(crate) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("messages are plain structs")
}

/// The most messages in a row.
const BUNDLE: usize = 20;

db::row! {
    /// A row of the outbox: messages that were committed together, or a single one whose body is elsewhere.
    #[derive(Debug)]
    struct Row<'a> {
        id: &'a str => text,
        topic: &'a str => text,
        request_id: Option<&'a RequestId> => text,
        data: &'a str => text,
        attributes: &'a str => text,
        messages: Option<String> => text,
        created_at: i64 => bigint,
        dead_letter_id: Option<LetterId> => text,
    }
}

impl<'a> Row<'a> {
    /// All of one topic.
    fn of(messages: &'a [Pending]) -> Self {
        let Pending { id, topic, request_id, body, attributes, created_at } = &messages[0];
        let row = Self {
            id,
            topic,
            request_id: None,
            data: "",
            attributes: "",
            messages: None,
            created_at: *created_at,
            dead_letter_id: None,
        };
        match body {
            Body::Json(_) => {
                Self { messages: Some(json(&messages.iter().map(Bundled::from).collect::<Vec<_>>())), ..row }
            }
            Body::Of(letter) => Self {
                request_id: request_id.as_ref(),
                attributes: attributes.get(),
                dead_letter_id: Some(*letter),
                ..row
            },
        }
    }
}

/// One of the messages of a row: an array, without the names.
#[derive(Debug, Serialize, Deserialize)]
struct Bundled<'a>(
    /// Its own name.
    #[serde(borrow)]
    Cow<'a, str>,
    Option<RequestId>,
    /// The body; nothing is an empty one.
    #[serde(borrow)]
    Option<&'a RawValue>,
    /// The attributes.
    #[serde(borrow)]
    &'a RawValue,
);

impl<'a> From<&'a Pending> for Bundled<'a> {
    fn from(message: &'a Pending) -> Self {
        let body = match &message.body {
            Body::Json(body) => Some(&**body),
            Body::Of(_) => None,
        };
        Self(Cow::Borrowed(&message.id), message.request_id.clone(), body, &message.attributes)
    }
}

fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("messages are plain structs")
}

/// Messages to be published, committed together with whatever else is in the transaction.
pub fn enqueue(tx: &mut Tx, messages: &[Pending]) {
    let is_alike = |one: &Pending, next: &Pending| {
        one.topic == next.topic && matches!([&one.body, &next.body], [Body::Json(_), Body::Json(_)])
    };
    let rows: Vec<_> = messages.chunk_by(is_alike).flat_map(|alike| alike.chunks(BUNDLE)).map(Row::of).collect();
    tx.writes().add(db::sql!("-- outbox::enqueue\n insert into outbox ", Row::VALUES), &rows);
}
