//! docs/asyncapi.yaml says what the code does, and all of it.

use std::fs;

use serde_json::Value;
use shared::event::AttributeMap;
use shared::pubsub::Topic;
use testkit::paths::workspace;

use crate::{Event, kinds, names};

/// A message as the document shows it.
pub(crate) struct Example {
    pub(crate) topic: Topic,
    pub(crate) kind: String,
    pub(crate) attributes: AttributeMap,
    pub(crate) payload: Value,
}

impl Example {
    pub(crate) fn event(&self) -> Event {
        Event::read(self.topic, self.payload.to_string().as_bytes()).unwrap()
    }
}

/// What the document says of one kind of message.
struct Kind {
    topic: Topic,
    name: String,
    fields: Vec<String>,
    required: Vec<String>,
    examples: Vec<Example>,
}

fn document() -> Value {
    let text = fs::read_to_string(workspace().join("docs/asyncapi.yaml")).unwrap();
    yaml_serde::from_str(&text).unwrap()
}

/// What a reference points at.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let Some(reference) = value["$ref"].as_str() else { return value };
    document.pointer(reference.trim_start_matches('#')).unwrap()
}

fn described() -> Vec<Kind> {
    let document = document();
    let mut all = Vec::new();
    for channel in document["channels"].as_object().unwrap().values() {
        let topic: Topic = channel["address"].as_str().unwrap().parse().unwrap();
        for (name, message) in channel["messages"].as_object().unwrap() {
            let message = resolved(&document, message);
            let schema = resolved(&document, &message["payload"]);
            let examples = message["examples"].as_array().unwrap().iter().map(|example| Example {
                topic,
                kind: name.clone(),
                attributes: serde_json::from_value(example["headers"].clone()).unwrap(),
                payload: example["payload"].clone(),
            });
            let mut required: Vec<String> = serde_json::from_value(schema["required"].clone()).unwrap();
            required.sort();
            assert_eq!(message["name"], **name);
            assert_eq!(schema["properties"]["event_type"]["const"], **name);
            let (fields, examples) = (names(&schema["properties"]), examples.collect());
            all.push(Kind { topic, name: name.clone(), fields, required, examples });
        }
    }
    all
}

/// Every example of the document: of each kind of message one with all its fields and one with no more than it must have.
pub(crate) fn examples() -> Vec<Example> {
    described().into_iter().flat_map(|kind| kind.examples).collect()
}

#[test]
fn every_kind_of_message_is_described_on_its_topic() {
    for topic in Topic::LIVE {
        let mut described: Vec<_> =
            described().into_iter().filter(|kind| kind.topic == topic).map(|kind| kind.name).collect();
        described.sort();
        assert_eq!(described, kinds(topic));
    }
}

#[test]
fn every_service_has_an_operation_for_each_topic_and_no_other() {
    let document = document();
    let operations = document["operations"].as_object().unwrap().values();
    let mut operations: Vec<_> = operations
        .map(|operation| {
            let channel = resolved(&document, &operation["channel"]);
            [&operation["tags"][0]["name"], &operation["action"], &channel["address"]]
                .map(|part| part.as_str().unwrap())
        })
        .collect();
    operations.sort_unstable();
    assert_eq!(
        operations,
        [
            ["blockchain", "receive", Topic::Requests.name()],
            ["blockchain", "send", Topic::Results.name()],
            ["campaign", "receive", Topic::Results.name()],
            ["campaign", "send", Topic::Requests.name()],
        ]
    );
}

#[test]
fn every_example_is_read_and_written_as_it_is() {
    for example in examples() {
        let event = example.event();
        assert_eq!(serde_json::to_value(&event).unwrap(), example.payload);
        let trace = example.attributes.get("traceparent").map(|trace| trace.parse().unwrap());
        assert_eq!(event.attributes(trace), example.attributes);
    }
}

#[test]
fn each_kind_has_an_example_with_every_field_and_these_are_the_fields_described() {
    for kind in described() {
        let complete: Vec<_> = kind.examples.iter().filter(|example| example.event().is_complete()).collect();
        let [example] = complete[..] else { panic!("{} complete examples of {}", complete.len(), kind.name) };
        assert_eq!(names(&example.payload), kind.fields, "{}", kind.name);
    }
}

#[test]
fn a_field_is_required_exactly_where_a_message_without_it_is_not_read() {
    for kind in described() {
        let example = kind.examples.iter().find(|example| example.event().is_complete()).unwrap();
        let needed = |field: &&String| {
            let mut without = example.payload.clone();
            without.as_object_mut().unwrap().remove(&***field);
            Event::read(kind.topic, without.to_string().as_bytes()).is_err()
        };
        let needed: Vec<_> = kind.fields.iter().filter(needed).collect();
        assert_eq!(needed, kind.required.iter().collect::<Vec<_>>(), "{}", kind.name);
        let bare = kind.examples.iter().map(|example| names(&example.payload).len()).min().unwrap();
        assert!(bare <= needed.len() + 1, "{} has no example without its optional fields", kind.name);
    }
}
