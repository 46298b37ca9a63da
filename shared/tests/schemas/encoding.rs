//! What an Avro encoder writes is read like plain JSON, and nothing else is read that was not before.

use serde_json::{Value, json};
use shared::pubsub::Topic;

use crate::Event;
use crate::avro::{datum, encoded, newest};
use crate::document::examples;

fn read(message: &str) -> Result<Event, String> {
    Event::read(Topic::Requests, message.as_bytes()).map_err(|error| error.to_string())
}

fn request(change: impl FnOnce(&mut Value)) -> String {
    let mut request = json!({
        "event_type": "token.grant.requested", "user_id": "alice", "campaign_id": "summer", "token_amount": 100,
        "token_type": "ERC20", "request_id": "r-1", "timestamp": "2026-01-02T03:04:05Z",
    });
    change(&mut request);
    request.to_string()
}

#[test]
fn what_an_avro_encoder_writes_is_the_same_event() {
    for example in examples() {
        let schema = newest(example.topic);
        let written = encoded(&schema, &datum(&schema, &example.payload));
        assert_ne!(written, example.payload);
        let event = Event::read(example.topic, written.to_string().as_bytes()).unwrap();
        assert_eq!(event, example.event(), "{written}");
    }
}

#[test]
fn a_null_is_an_absent_field() {
    let plain = read(&request(|_| {})).unwrap();
    assert_eq!(read(&request(|request| request["wallet_address"] = Value::Null)), Ok(plain.clone()));
    assert_eq!(read(&request(|request| request["retry_count"] = Value::Null)), Ok(plain));
    let nobody = read(&request(|request| request["user_id"] = Value::Null));
    assert!(nobody.unwrap_err().contains("missing field `user_id`"));
}

#[test]
fn a_rule_holds_inside_a_union_too() {
    let blank = read(&request(|request| request["user_id"] = json!({"string": ""})));
    assert!(blank.unwrap_err().contains("must not be blank"));
    let amount = read(&request(|request| request["token_amount"] = json!({"long": 0})));
    assert!(amount.unwrap_err().contains("whole number of tokens"));
}

#[test]
fn no_other_object_is_taken_for_a_value() {
    for object in [json!({"text": "alice"}), json!({"string": "alice", "long": 1}), json!({})] {
        read(&request(|request| request["user_id"] = object)).unwrap_err();
    }
}

#[test]
fn a_field_that_comes_twice_is_refused_in_either_encoding() {
    let twice = |first: &str, second: &str| {
        let fields = format!(r#"{{"user_id": {first}, "user_id": {second},"#);
        let rest = request(|request| drop(request.as_object_mut().unwrap().remove("user_id")));
        read(&rest.replacen('{', &fields, 1)).unwrap_err()
    };
    assert!(twice(r#""alice""#, r#""bob""#).contains("duplicate field"));
    assert!(twice(r#"{"string": "alice"}"#, r#"{"string": "bob"}"#).contains("duplicate field"));
}
