//! The messages' descriptions hold: schemas, `AsyncAPI` document, and what the code reads and writes.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod avro;
mod document;
mod emulator;
mod encoding;
mod evolution;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::event::{self, AttributeMap, RequestEvent, ResultEvent};
use shared::pubsub::Topic;
use shared::telemetry::TraceParent;

/// A message of either topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum Event {
    Request(RequestEvent),
    Result(ResultEvent),
}

impl Event {
    fn read(topic: Topic, data: &[u8]) -> Result<Self, event::Malformed> {
        match topic {
            Topic::Requests => event::read(data).map(Self::Request),
            Topic::Results => event::read(data).map(Self::Result),
            Topic::DeadRequests | Topic::DeadResults => panic!("{topic} has no format"),
        }
    }

    fn attributes(&self, trace: Option<TraceParent>) -> AttributeMap {
        match self {
            Self::Request(event) => event.attributes(trace),
            Self::Result(event) => event.attributes(trace),
        }
    }

    /// Whether every field that may be absent is there.
    fn is_complete(&self) -> bool {
        !format!("{self:?}").contains("None")
    }
}

/// Every `event_type` of a topic, as serde knows them.
fn kinds(topic: Topic) -> Vec<String> {
    fn of<E: DeserializeOwned>() -> String {
        serde_json::from_str::<E>(r#"{"event_type": "?"}"#).err().expect("no such event").to_string()
    }
    let refusal = match topic {
        Topic::Requests => of::<RequestEvent>(),
        Topic::Results => of::<ResultEvent>(),
        Topic::DeadRequests | Topic::DeadResults => String::new(),
    };
    // Names stand between backticks, the unknown one first.
    let mut kinds: Vec<_> = refusal.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect();
    kinds.sort();
    kinds
}

/// The names of an object's members, sorted.
fn names(object: &Value) -> Vec<String> {
    let mut names: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
    names.sort();
    names
}
