//! The Avro schemas of the two topics, and the JSON that Avro's own encoders write.
//!
//! Our messages are plain JSON, whether a topic has a schema or not: the first revision of each schema names only what
//! every message has, plain JSON fits it, and a topic takes what fits any revision. Later revisions name every field, all
//! further ones nullable. An encoder that follows those writes `"user_id": {"string": "alice"}` and
//! `"wallet_address": null`; [`event::read`](crate::event::read) takes both away again.

use serde::de::DeserializeOwned;
use serde::de::value::MapDeserializer;
use serde_json::Value;

use crate::members::Members;
use crate::pubsub::Topic;

/// Every revision of a topic's schema, the oldest first; the newest is `schemas/{topic}.avsc` too. None for the
/// dead-letter topics, which take whatever failed.
///
/// A revision that was published never changes.
#[must_use]
pub fn revisions(topic: Topic) -> &'static [&'static str] {
    macro_rules! revisions {
        ($topic:literal: $($number:literal)+) => {
            &[$(include_str!(concat!("../schemas/revisions/", $topic, "/", $number, ".avsc")),)+]
        };
    }
    match topic {
        Topic::Requests => revisions!("token-grant-requests": 1 2 3),
        Topic::Results => revisions!("token-grant-results": 1 2 3),
        Topic::DeadRequests | Topic::DeadResults => &[],
    }
}

/// Reads a message as an Avro encoder writes it; `None` if nothing shows that one has written it.
pub(crate) fn read<E: DeserializeOwned>(data: &[u8]) -> Option<Result<E, serde_json::Error>> {
    let Members(mut members) = serde_json::from_slice(data).ok()?;
    let mut encoded = false;
    members.retain_mut(|(_, value)| {
        encoded |= value.is_null() | untag(value);
        !value.is_null()
    });
    encoded.then(|| E::deserialize(MapDeserializer::new(members.into_iter())))
}

/// Takes the names of union branches away, at any depth; whether there were any.
fn untag(value: &mut Value) -> bool {
    match value {
        Value::Object(object) if object.len() == 1 && object.keys().all(|name| is_branch(name)) => {
            let inner = object.values_mut().next().map(Value::take);
            *value = inner.unwrap_or_default();
            untag(value);
            true
        }
        Value::Object(object) => {
            let members = object.len();
            object.retain(|_, value| !value.is_null());
            let dropped = object.len() < members;
            object.values_mut().fold(dropped, |encoded, value| encoded | untag(value))
        }
        Value::Array(items) => items.iter_mut().fold(false, |encoded, item| encoded | untag(item)),
        _ => false,
    }
}

/// Whether this names a type. Those of records begin with a capital letter, which no field of ours does.
fn is_branch(name: &str) -> bool {
    matches!(name, "boolean" | "int" | "long" | "float" | "double" | "bytes" | "string" | "array" | "map")
        || name.starts_with(|first: char| first.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_and_lists_are_unwrapped_at_any_depth() {
        let written = json!({
            "plain": 1, "absent": null, "list": {"array": [{"string": "a"}, "b"]},
            "record": {"Inner": {"name": {"string": "c"}, "absent": null, "blocks": {"long": 5}}},
        });
        let unwrapped = read::<Value>(written.to_string().as_bytes()).unwrap().unwrap();
        assert_eq!(unwrapped, json!({"plain": 1, "list": ["a", "b"], "record": {"name": "c", "blocks": 5}}));
        let inside = json!({"record": {"name": "c", "absent": null}});
        assert!(read::<Value>(inside.to_string().as_bytes()).is_some());
    }

    #[test]
    fn what_carries_no_mark_of_an_encoder_is_not_read_again() {
        for plain in [r#"{"record": {"name": "c", "blocks": 5}, "list": [1]}"#, "{}", "[]", "not JSON"] {
            assert!(read::<Value>(plain.as_bytes()).is_none(), "{plain}");
        }
    }
}
