//! Messages that could not be handled or published: kept in the database of the service that they concern, until an
//! operator sends them again or discards them.
//!
//! A message is committed here before it is acknowledged, or in the transaction that takes it from the outbox, and it is
//! one row however often the broker repeats it. To redrive it is to put it into the outbox in the transaction that marks
//! it, so that a crash neither loses nor doubles it. The message then carries [`ID_ATTRIBUTE`] and
//! [`ATTEMPT_ATTRIBUTE`]: if it fails again, the same row is open again.
//!
//! Nothing here deletes a row, and nothing is redriven of which only a part is kept.

pub mod api;
mod census;
mod keep;
mod store;

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

pub use census::Census;
pub(crate) use keep::observe;
pub use keep::{Kept, keep};
pub use store::{DeadLetters, Filter, Page, Redriven, Selection};

use crate::event::AttributeMap;
use crate::id::RequestId;
use crate::pubsub::Topic;

/// The most bytes of a body that are kept: more than any message has that could be handled.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024;

/// The most bytes of attributes, names and values, that are kept: all that Pub/Sub takes.
pub const MAX_ATTRIBUTE_BYTES: usize = 128 * 1024;

/// The most characters of a `detail` that are kept: parsers quote what they could not read.
const MAX_DETAIL_CHARS: usize = 1000;

/// The attribute of a redriven message that names its row.
pub const ID_ATTRIBUTE: &str = "dead_letter_id";

/// The attribute of a redriven message that says which attempt it is: 2 for the first redrive.
pub const ATTEMPT_ATTRIBUTE: &str = "dead_letter_attempt";

/// What Pub/Sub adds to a message that it moves to the dead-letter topic, and to one that fitted a schema. (Whoever
/// publishes may not set attributes that begin with `goog`.)
const PUBSUB_PREFIXES: [&str; 2] = ["CloudPubSubDeadLetter", "googclient_schema"];

/// How often Pub/Sub had delivered a message that it moved.
pub const DELIVERIES_ATTRIBUTE: &str = "CloudPubSubDeadLetterSourceDeliveryCount";

/// A closed set of words, as they are stored and shown.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $unknown:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// The word that is stored and shown.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl FromStr for $name {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($unknown),
                }
            }
        }
    };
}

words! {
    /// Why a message is here.
    Reason, "must be malformed, refused, exhausted or undeliverable" {
        /// It cannot be read.
        Malformed = "malformed",
        /// It can be read, and the database refuses what it says.
        Refused = "refused",
        /// It was delivered again and again without an answer, and Pub/Sub moved it to the dead-letter topic.
        Exhausted = "exhausted",
        /// It was to be published, and the broker refuses it for good.
        Undeliverable = "undeliverable",
    }
}

words! {
    /// What became of a dead letter.
    State, "must be open, redriven or discarded" {
        /// Nothing yet.
        Open = "open",
        /// It was sent again, and did not come back.
        Redriven = "redriven",
        /// An operator decided that nothing is to be done.
        Discarded = "discarded",
    }
}

words! {
    /// Where a dead letter was taken from.
    Source, "must be subscription, dead_letter_topic or outbox" {
        /// The topic's subscription.
        Subscription = "subscription",
        /// The subscription of the topic that Pub/Sub moves exhausted messages to.
        DeadLetterTopic = "dead_letter_topic",
        /// The service's own outbox.
        Outbox = "outbox",
    }
}

/// Names a dead letter (`UUIDv7`, in the order of arrival).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LetterId(Uuid);

/// The text names no dead letter.
#[derive(Debug, thiserror::Error)]
#[error("must be the id of a dead letter: a UUID, as GET /dead-letters lists them")]
pub struct InvalidLetterId;

impl FromStr for LetterId {
    type Err = InvalidLetterId;

    fn from_str(text: &str) -> Result<Self, InvalidLetterId> {
        text.parse().map(Self).map_err(|_| InvalidLetterId)
    }
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A message that came to grief, as it was.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Where it belongs.
    pub topic: Topic,
    /// What it was taken from.
    pub source: Source,
    /// The broker's id of it, or that of its outbox row.
    pub message_id: String,
    /// When it was published, or committed to the outbox.
    pub published_at: DateTime<Utc>,
    /// Its body: anything at all.
    pub data: Bytes,
    /// Its attributes.
    pub attributes: AttributeMap,
    /// What is the matter with it.
    pub reason: Reason,
    /// The same in words.
    pub detail: String,
}

impl Failure {
    /// The row that this message was redriven from, and which attempt it is, if it says so.
    fn redriven_from(&self) -> Option<(LetterId, u32)> {
        let attribute = |name| self.attributes.get(name);
        Some((attribute(ID_ATTRIBUTE)?.parse().ok()?, attribute(ATTEMPT_ATTRIBUTE)?.parse().ok()?))
    }

    /// The request that it is about, where its attributes or its body say so.
    fn request_id(&self) -> Option<RequestId> {
        let attribute = self.attributes.get("request_id").and_then(|id| id.parse().ok());
        attribute.or_else(|| {
            let body = self.data.get(..MAX_PAYLOAD_BYTES).unwrap_or(&self.data);
            serde_json::from_slice::<Value>(body).ok()?.get("request_id")?.as_str()?.parse().ok()
        })
    }
}

/// A message that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeadLetter {
    /// Names it.
    #[schema(value_type = String, example = "019a9f5e-7c1e-7bd2-a3a7-0242ac120002")]
    pub id: LetterId,
    /// Where the message belongs: it is published there when it is redriven.
    #[schema(value_type = String, example = "token-grant-requests")]
    pub topic: Topic,
    /// What it was taken from.
    pub source: Source,
    /// The broker's id of the message; that of the outbox row where `source` is `outbox`.
    pub message_id: String,
    /// Why it is here.
    pub reason: Reason,
    /// The same in words, of the latest attempt.
    pub detail: String,
    /// What became of it.
    pub state: State,
    /// How often it failed: 1, and once more for each time that it was redriven in vain.
    pub attempts: u32,
    /// The request that it is about, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Its attributes.
    #[schema(value_type = Object)]
    pub attributes: AttributeMap,
    /// How many further attributes were not kept.
    pub attributes_dropped: u64,
    /// The size of the whole body, in bytes.
    pub payload_bytes: u64,
    /// Whether only the beginning of the body is kept (256 KiB). Such a message cannot be redriven.
    pub payload_truncated: bool,
    /// When it was published, UTC.
    pub published_at: DateTime<Utc>,
    /// When it failed first, UTC.
    pub first_failed_at: DateTime<Utc>,
    /// When it failed last, UTC.
    pub last_failed_at: DateTime<Utc>,
    /// When it was sent again last, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redriven_at: Option<DateTime<Utc>>,
    /// When it was discarded, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discarded_at: Option<DateTime<Utc>>,
}

impl DeadLetter {
    /// Whether all of the message is kept, so that it can be sent again.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.payload_truncated && self.attributes_dropped == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::from_micros;

    fn failure(data: &'static [u8], attributes: &[(&str, &str)]) -> Failure {
        Failure {
            topic: Topic::Requests,
            source: Source::Subscription,
            message_id: "1".to_owned(),
            published_at: from_micros(0),
            data: Bytes::from_static(data),
            attributes: attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            reason: Reason::Malformed,
            detail: String::new(),
        }
    }

    #[test]
    fn a_message_names_its_request_by_attribute_or_by_body() {
        let named = |data, attributes: &[_]| failure(data, attributes).request_id().map(|id| id.to_string());
        assert_eq!(named(b"{\"request_id\":\"body\"}", &[("request_id", "attribute")]).as_deref(), Some("attribute"));
        assert_eq!(named(b"{\"request_id\":\"body\"}", &[("request_id", "\0")]).as_deref(), Some("body"));
        for nameless in [&b"{\"request_id\":1}"[..], b"[\"request_id\"]", b"\xff", b""] {
            assert_eq!(named(nameless, &[]), None);
        }
    }

    #[test]
    fn only_both_attributes_name_the_row_of_a_redriven_message() {
        let id = "019a9f5e-7c1e-7bd2-a3a7-0242ac120002";
        let redriven = failure(b"", &[(ID_ATTRIBUTE, id), (ATTEMPT_ATTRIBUTE, "2")]).redriven_from();
        assert_eq!(redriven, Some((id.parse().unwrap(), 2)));
        assert_eq!(failure(b"", &[(ID_ATTRIBUTE, id)]).redriven_from(), None);
        assert_eq!(failure(b"", &[(ID_ATTRIBUTE, "x"), (ATTEMPT_ATTRIBUTE, "2")]).redriven_from(), None);
        assert_eq!(failure(b"", &[(ID_ATTRIBUTE, id), (ATTEMPT_ATTRIBUTE, "-1")]).redriven_from(), None);
    }
}
