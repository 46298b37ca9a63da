//! A schema only grows, by fields that may be absent, and each revision is kept.

use std::collections::BTreeSet;
use std::fs;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::schema_compatibility::SchemaCompatibility;
use serde_json::Value;
use shared::pubsub::Topic;
use shared::schema;
use testkit::paths::workspace;

use crate::avro::{newest, revisions, written_and_read};
use crate::document::{Example, examples};
use crate::{Event, names};

fn examples_of(topic: Topic) -> Vec<Example> {
    examples().into_iter().filter(|example| example.topic == topic).collect()
}

fn fields(schema: &Schema) -> BTreeSet<String> {
    let Schema::Record(record) = schema else { panic!("a topic's schema is one record") };
    record.fields.iter().map(|field| field.name.clone()).collect()
}

#[test]
fn the_schema_of_a_topic_is_its_newest_revision_and_every_file_is_a_revision() {
    for topic in Topic::LIVE {
        let folder = workspace().join("shared/schemas");
        let current = fs::read_to_string(folder.join(format!("{topic}.avsc"))).unwrap();
        let revisions = schema::revisions(topic);
        assert_eq!(Some(&&*current), revisions.last(), "change a schema by adding a revision");
        let numbers = 1..=revisions.len();
        let kept: Vec<_> = numbers
            .map(|number| fs::read_to_string(folder.join(format!("revisions/{topic}/{number}.avsc"))).unwrap())
            .collect();
        assert_eq!(kept, revisions);
        assert_eq!(fs::read_dir(folder.join(format!("revisions/{topic}"))).unwrap().count(), revisions.len());
    }
}

/// A new revision adds a line here; no line ever changes.
#[test]
fn a_revision_that_was_published_never_changes() {
    let fingerprints: Vec<_> = Topic::LIVE
        .into_iter()
        .flat_map(|topic| {
            let numbered = revisions(topic).into_iter().zip(1..);
            numbered.map(move |(schema, number)| format!("{topic}/{number}: {}", schema.fingerprint::<Rabin>()))
        })
        .collect();
    assert_eq!(
        fingerprints,
        [
            "token-grant-requests/1: df032d1d08983c42",
            "token-grant-requests/2: 13bb30078afa9eb7",
            "token-grant-requests/3: 6424c5381aa48a5a",
            "token-grant-results/1: 118a8b6c05d14c47",
            "token-grant-results/2: 51221eac0252097b",
            "token-grant-results/3: f44039ff59b0ed25",
        ]
    );
}

/// Pub/Sub takes twenty revisions of a schema, each of up to 300 KB.
#[test]
fn a_schema_is_small_enough_for_the_schema_service() {
    for revisions in Topic::LIVE.map(schema::revisions) {
        assert!(revisions.len() <= 20 && revisions.iter().all(|revision| revision.len() < 50_000));
    }
}

/// What Pub/Sub asks of a new revision, too: that it can read the others and they it.
#[test]
fn every_revision_reads_what_every_other_wrote() {
    for topic in Topic::LIVE {
        for writer in revisions(topic) {
            for reader in revisions(topic) {
                SchemaCompatibility::can_read(&writer, &reader).unwrap();
                for Example { payload, .. } in examples_of(topic) {
                    let read = written_and_read(&writer, &reader, &payload);
                    let both: BTreeSet<_> = fields(&writer).intersection(&fields(&reader)).cloned().collect();
                    let expected = names(&payload).into_iter().filter(|name| both.contains(name));
                    assert_eq!(names(&read), expected.collect::<Vec<_>>());
                    assert!(is_part_of(&read, &payload), "{read}");
                }
            }
        }
    }
}

/// Whether everything that was read stands in the message; a record in it may have grown too.
fn is_part_of(read: &Value, message: &Value) -> bool {
    match read {
        Value::Object(members) => members.iter().all(|(name, value)| is_part_of(value, &message[name])),
        _ => read == message,
    }
}

#[test]
fn a_message_that_went_through_the_newest_schema_is_the_same_event() {
    for example in examples() {
        let schema = newest(example.topic);
        let read = written_and_read(&schema, &schema, &example.payload);
        assert_eq!(Event::read(example.topic, read.to_string().as_bytes()).unwrap(), example.event());
    }
}

#[test]
fn the_newest_schema_has_the_fields_that_messages_have_and_no_other() {
    for topic in Topic::LIVE {
        let written: BTreeSet<_> = examples_of(topic).iter().flat_map(|example| names(&example.payload)).collect();
        assert_eq!(written, fields(&newest(topic)));
    }
}

/// Plain JSON has no place for the names of union branches, so it fits a revision that has no unions; and one that asks
/// for no more than every message has.
#[test]
fn the_first_revision_asks_only_for_what_every_message_has() {
    for topic in Topic::LIVE {
        let first: Value = serde_json::from_str(schema::revisions(topic)[0]).unwrap();
        for field in first["fields"].as_array().unwrap() {
            assert_eq!(field["type"], "string");
            for example in examples_of(topic) {
                assert!(example.payload[field["name"].as_str().unwrap()].is_string(), "{}", example.kind);
            }
        }
    }
}
