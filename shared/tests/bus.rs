//! What the broker within the process and the official emulator have in common: each test runs on both, so that what is
//! built on the one holds on the other.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use shared::clock::Clock;
use shared::event::AttributeMap;
use shared::pubsub::{Bus, Delivery, Local, Message, PubSub, Receiver, Topic};
use testkit::Emulator;

const SOON: Duration = Duration::from_mins(1);

fn local() -> Arc<dyn Bus> {
    Arc::new(Local::new(Clock::system()))
}

/// The shared emulator, in a project that no other test knows.
async fn emulator() -> Arc<dyn Bus> {
    let emulator = Emulator::shared().await.unwrap();
    let project = format!("project-{:016x}", rand::rng().random::<u64>());
    Arc::new(PubSub::connect(&project, Some(emulator.host())).await.unwrap())
}

/// Each of these runs on the broker within the process and on the emulator.
macro_rules! on_both_brokers {
    ($($test:ident,)*) => {
        mod on_the_local_broker {
            $(#[tokio::test] async fn $test() { super::$test(super::local()).await; })*
        }
        mod on_the_emulator {
            $(#[tokio::test] async fn $test() { super::$test(super::emulator().await).await; })*
        }
    };
}

on_both_brokers! {
    a_message_arrives_as_it_was_published,
    topics_that_are_missing_are_made_and_what_was_published_before_is_refused,
    what_is_acknowledged_does_not_come_again,
    what_is_dropped_comes_again_with_the_same_id_and_time,
    a_stream_without_a_subscription_fails,
    a_stream_that_is_stopped_ends,
    topics_do_not_mix,
    streams_share_the_messages,
}

fn message(text: &str) -> Message {
    Message {
        data: text.to_owned().into(),
        attributes: AttributeMap::from([("request_id".to_owned(), text.to_owned())]),
    }
}

async fn publish(bus: &Arc<dyn Bus>, topic: Topic, texts: &[&str]) {
    for outcome in bus.publish(topic, texts.iter().map(|text| message(text)).collect()).await {
        outcome.unwrap();
    }
}

async fn next(receiver: &mut Receiver) -> Delivery {
    tokio::time::timeout(SOON, receiver.next()).await.unwrap().unwrap().unwrap()
}

fn text(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.data.to_vec()).unwrap()
}

async fn a_message_arrives_as_it_was_published(bus: Arc<dyn Bus>) {
    bus.ensure(false).await.unwrap();
    publish(&bus, Topic::Requests, &["{\"ü\":1}"]).await;
    let mut receiver = bus.receive(Topic::Requests, 10);
    let delivery = next(&mut receiver).await;
    assert_eq!(text(&delivery), "{\"ü\":1}");
    assert_eq!(delivery.message.attributes["request_id"], "{\"ü\":1}");
    assert!(!delivery.message_id.is_empty());
    let age = Clock::system().now() - delivery.published_at;
    assert!(age.num_minutes().abs() < 2, "{age}");
    delivery.ack();
    receiver.stop().await;
}

async fn topics_that_are_missing_are_made_and_what_was_published_before_is_refused(bus: Arc<dyn Bus>) {
    let outcomes = bus.publish(Topic::Requests, vec![message("lost"), message("lost")]).await;
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap_err().is_not_found()), "{outcomes:?}");
    assert!(!bus.ensure(false).await.unwrap(), "the publisher has made them");
    assert!(bus.ensure(true).await.unwrap(), "whoever starts opens streams");
    publish(&bus, Topic::Requests, &["kept"]).await;
    let mut receiver = bus.receive(Topic::Requests, 10);
    let delivery = next(&mut receiver).await;
    assert_eq!(text(&delivery), "kept");
    delivery.ack();
    receiver.stop().await;
}

async fn what_is_acknowledged_does_not_come_again(bus: Arc<dyn Bus>) {
    bus.ensure(false).await.unwrap();
    publish(&bus, Topic::Results, &["one"]).await;
    let mut receiver = bus.receive(Topic::Results, 10);
    next(&mut receiver).await.ack();
    receiver.stop().await;
    // As whoever starts again does: the emulator may hand messages to a stream that has just ended.
    bus.ensure(true).await.unwrap();
    publish(&bus, Topic::Results, &["two"]).await;
    let mut receiver = bus.receive(Topic::Results, 10);
    let delivery = next(&mut receiver).await;
    assert_eq!(text(&delivery), "two");
    delivery.ack();
    receiver.stop().await;
}

async fn what_is_dropped_comes_again_with_the_same_id_and_time(bus: Arc<dyn Bus>) {
    bus.ensure(false).await.unwrap();
    publish(&bus, Topic::Requests, &["one"]).await;
    let mut receiver = bus.receive(Topic::Requests, 10);
    let first = next(&mut receiver).await;
    let before = (first.message_id.clone(), first.published_at);
    drop(first);
    let again = next(&mut receiver).await;
    assert_eq!((again.message_id.clone(), again.published_at), before);
    assert_eq!(text(&again), "one");
    again.ack();
    receiver.stop().await;
}

/// The emulator may hand out a few more.
#[tokio::test]
async fn a_stream_of_the_local_broker_holds_no_more_than_it_may() {
    let bus = local();
    bus.ensure(false).await.unwrap();
    publish(&bus, Topic::Requests, &["one", "two", "three"]).await;
    let mut receiver = bus.receive(Topic::Requests, 2);
    let (one, two) = (next(&mut receiver).await, next(&mut receiver).await);
    let third = tokio::time::timeout(Duration::from_millis(300), receiver.next()).await;
    assert!(third.is_err(), "{third:?}");
    one.ack();
    let three = next(&mut receiver).await;
    assert_ne!(text(&two), text(&three));
    two.ack();
    three.ack();
    receiver.stop().await;
}

async fn a_stream_without_a_subscription_fails(bus: Arc<dyn Bus>) {
    let mut receiver = bus.receive(Topic::Requests, 10);
    let next = tokio::time::timeout(SOON, receiver.next()).await.unwrap();
    assert!(next.as_ref().is_err_and(shared::pubsub::Error::is_not_found), "{next:?}");
}

async fn a_stream_that_is_stopped_ends(bus: Arc<dyn Bus>) {
    bus.ensure(false).await.unwrap();
    let receiver = bus.receive(Topic::Requests, 10);
    tokio::time::timeout(SOON, receiver.stop()).await.unwrap();
    // What comes after is for the next stream.
    publish(&bus, Topic::Requests, &["one"]).await;
    let mut receiver = bus.receive(Topic::Requests, 10);
    next(&mut receiver).await.ack();
    receiver.stop().await;
}

async fn topics_do_not_mix(bus: Arc<dyn Bus>) {
    bus.ensure(false).await.unwrap();
    publish(&bus, Topic::Requests, &["request"]).await;
    publish(&bus, Topic::Results, &["result"]).await;
    for (topic, expected) in [(Topic::Results, "result"), (Topic::Requests, "request")] {
        let mut receiver = bus.receive(topic, 10);
        let delivery = next(&mut receiver).await;
        assert_eq!(text(&delivery), expected);
        delivery.ack();
        receiver.stop().await;
    }
}

async fn streams_share_the_messages(bus: Arc<dyn Bus>) {
    bus.ensure(false).await.unwrap();
    let mut receivers = [bus.receive(Topic::Requests, 10), bus.receive(Topic::Requests, 10)];
    let texts: Vec<_> = (0..20).map(|number| format!("message-{number}")).collect();
    publish(&bus, Topic::Requests, &texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut seen = BTreeSet::new();
    while seen.len() < texts.len() {
        let [one, other] = &mut receivers;
        let delivery = tokio::select! {
            delivery = next(one) => delivery,
            delivery = next(other) => delivery,
        };
        seen.insert(text(&delivery));
        delivery.ack();
    }
    assert_eq!(seen, texts.into_iter().collect());
    for receiver in receivers {
        receiver.stop().await;
    }
}
