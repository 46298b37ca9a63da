//! Rows of the outbox that hold several messages, of which the broker takes some.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::clock::{Clock, from_micros};
use shared::db::Database;
use shared::event::{GrantRequested, RequestEvent, Terms, TokenType};
use shared::outbox::{self, Pending, Relay};
use shared::pubsub::{Bus, Error, Message, Receiver, Topic};
use shared::worker::{Progress, Worker as _};
use support::{change, open};
use testkit::{Place, on_both_databases};

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    messages_that_are_committed_together_share_rows,
    a_row_keeps_what_was_not_published,
    a_row_of_the_version_before_is_published,
}

/// A broker that has no time for some requests: a fake, since the emulator takes all of a call or nothing.
#[derive(Debug, Default)]
struct Picky {
    late: Mutex<BTreeSet<String>>,
    published: Mutex<Vec<String>>,
}

#[async_trait::async_trait]
impl Bus for Picky {
    async fn publish(&self, _: Topic, messages: Vec<Message>) -> Vec<Result<(), Error>> {
        let late = self.late.lock().unwrap();
        let outcome = |message: Message| {
            let request_id = message.attributes["request_id"].clone();
            if late.contains(&request_id) {
                return Err(Error::Timeout(Duration::from_secs(1)));
            }
            self.published.lock().unwrap().push(request_id);
            Ok(())
        };
        messages.into_iter().map(outcome).collect()
    }

    fn receive(&self, _: Topic, _: i64) -> Receiver {
        Receiver::new(futures::stream::pending(), async {})
    }

    async fn ensure(&self, _: bool) -> Result<bool, Error> {
        Ok(false)
    }
}

async fn enqueue(database: &Database, numbers: std::ops::Range<u32>) {
    let messages: Vec<_> = numbers
        .map(|number| {
            let event = RequestEvent::Requested(GrantRequested {
                user_id: "alice \"\\".parse().unwrap(),
                campaign_id: "summer".parse().unwrap(),
                token_amount: 1.try_into().unwrap(),
                token_type: TokenType::Erc20,
                request_id: format!("r-{number}").parse().unwrap(),
                timestamp: from_micros(7),
                retry_count: 0,
                wallet_address: None,
                issuer: None,
                grant_index: None,
                terms: Terms::default(),
            });
            Pending::request(&event, None, from_micros(7))
        })
        .collect();
    let mut tx = database.begin("test").await.unwrap();
    outbox::enqueue(&mut tx, &messages);
    tx.commit().await.unwrap();
}

/// The requests that wait to be published, in their order, and in how many rows.
async fn waiting(database: &Database) -> (Vec<String>, i64) {
    let waiting = outbox::waiting(database, i64::MAX).await.unwrap();
    let rows = sqlx::query_scalar("select count(*) from outbox").fetch_one(database.reader()).await.unwrap();
    (waiting.iter().map(|waiting| waiting.message.attributes["request_id"].clone()).collect(), rows)
}

fn requests(numbers: impl IntoIterator<Item = u32>) -> Vec<String> {
    numbers.into_iter().map(|number| format!("r-{number}")).collect()
}

async fn messages_that_are_committed_together_share_rows(place: Place) {
    let database = open(&place).await;
    enqueue(&database, 0..25).await;
    enqueue(&database, 25..26).await;
    assert_eq!(waiting(&database).await, (requests(0..26), 3));
    let messages = outbox::waiting(&database, i64::MAX).await.unwrap();
    let RequestEvent::Requested(event) = serde_json::from_slice(&messages[25].message.data).unwrap() else { panic!() };
    assert_eq!((event.request_id.as_str(), event.user_id.as_str()), ("r-25", "alice \"\\"));
}

async fn a_row_keeps_what_was_not_published(place: Place) {
    let database = open(&place).await;
    enqueue(&database, 0..45).await;
    let bus = Arc::new(Picky { late: Mutex::new(requests([3, 19, 44]).into_iter().collect()), ..Picky::default() });
    let relay = Relay::new(database.clone(), Arc::clone(&bus) as Arc<dyn Bus>, Clock::system());
    let error = relay.run_once().await.unwrap_err();
    assert!(matches!(error, outbox::Error::Publish { failed: 3, total: 45, .. }), "{error}");
    assert_eq!(waiting(&database).await, (requests([3, 19, 44]), 2));

    bus.late.lock().unwrap().remove("r-19");
    let error = relay.run_once().await.unwrap_err();
    assert!(matches!(error, outbox::Error::Publish { failed: 2, total: 3, .. }), "{error}");
    assert_eq!(waiting(&database).await, (requests([3, 44]), 2));

    bus.late.lock().unwrap().clear();
    assert_eq!(relay.run_once().await.unwrap(), Progress::Worked(2));
    assert_eq!(waiting(&database).await, (Vec::new(), 0));
    assert_eq!(relay.run_once().await.unwrap(), Progress::Idle);
    let mut published = bus.published.lock().unwrap().clone();
    assert_eq!(published.len(), 45);
    published.sort();
    published.dedup();
    assert_eq!(published.len(), 45, "nothing was published twice");
}

async fn a_row_of_the_version_before_is_published(place: Place) {
    let database = open(&place).await;
    change(
        &database,
        r#"insert into outbox (id, topic, request_id, data, attributes, created_at)
           values ('00000000-0000-7000-8000-000000000000', 'token-grant-requests', 'r-1', '{}', '{"request_id": "r-1"}', 7)"#,
    )
    .await;
    enqueue(&database, 2..3).await;
    let bus = Arc::new(Picky::default());
    let relay = Relay::new(database.clone(), Arc::clone(&bus) as Arc<dyn Bus>, Clock::system());
    assert_eq!(relay.run_once().await.unwrap(), Progress::Worked(2));
    assert_eq!(*bus.published.lock().unwrap(), requests([1, 2]));
    assert_eq!(waiting(&database).await, (Vec::new(), 0));
}
