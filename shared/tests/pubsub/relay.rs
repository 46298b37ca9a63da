//! The relay takes from the outbox what the broker has, and nothing else.

use shared::dead_letter::Failure;
use shared::outbox::{self, Pending, Relay};
use shared::worker::Progress;
use testkit::on_both_databases;

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    the_relay_publishes_what_is_committed_and_removes_it,
    the_relay_creates_topics_that_are_missing,
    the_relay_takes_no_more_than_a_batch_a_step,
    the_relay_keeps_everything_while_the_broker_is_away,
    a_message_that_the_broker_refuses_for_good_holds_up_nobody,
    a_redriven_message_is_published_as_it_was,
}

/// Commits these requests to the outbox, in one transaction.
async fn enqueue(database: &Database, request_ids: impl IntoIterator<Item = String>) {
    let now = from_micros(1_700_000_000_000_000);
    let messages: Vec<_> = request_ids.into_iter().map(|id| Pending::request(&event(&id), None, now)).collect();
    let mut tx = database.begin("test").await.unwrap();
    outbox::enqueue(&mut tx, &messages);
    tx.commit().await.unwrap();
}

/// How many messages wait to be published.
async fn waiting(database: &Database) -> usize {
    outbox::waiting(database, i64::MAX).await.unwrap().len()
}

fn relay(database: &Database, bus: &Arc<dyn Bus>) -> Relay {
    Relay::new(database.clone(), bus.clone(), Clock::system())
}

async fn the_relay_publishes_what_is_committed_and_removes_it(place: Place) {
    let Project { bus, witness } = Project::eager().await;
    let database = open(&place).await;
    let relay = relay(&database, &bus);
    assert_eq!(relay.run_once().await.unwrap(), Progress::Idle);

    // What is rolled back was never said.
    let mut tx = database.begin("test").await.unwrap();
    let unsaid = Pending::request(&event("rolled-back"), None, from_micros(0));
    outbox::enqueue(&mut tx, &[unsaid]);
    drop(tx);

    let trace = TraceParent::new();
    let mut tx = database.begin("test").await.unwrap();
    outbox::enqueue(&mut tx, &[Pending::request(&event("said"), Some(trace), from_micros(0))]);
    tx.commit().await.unwrap();
    assert_eq!((relay.run_once().await.unwrap(), waiting(&database).await), (Progress::Worked(1), 0));
    assert_eq!(relay.run_once().await.unwrap(), Progress::Idle);

    let message = pull_one(&witness, REQUESTS_SUB).await;
    assert_eq!(serde_json::from_slice::<RequestEvent>(&message.data).unwrap(), event("said"));
    assert_eq!(message.attributes, event("said").attributes(Some(trace)));
    witness.acknowledge(REQUESTS_SUB, &[message]).await.unwrap();
    assert_eq!(left_over(&bus, &witness).await, [""; 0]);
}

async fn the_relay_creates_topics_that_are_missing(place: Place) {
    let Project { bus, witness } = Project::new().await;
    let database = open(&place).await;
    enqueue(&database, ["r-1".to_owned()]).await;
    let relay = relay(&database, &bus);
    let error = relay.run_once().await.unwrap_err();
    assert!(
        matches!(&error, outbox::Error::Publish { failed: 1, total: 1, source } if source.is_not_found()),
        "{error}"
    );
    assert_eq!(waiting(&database).await, 1);

    assert_eq!((relay.run_once().await.unwrap(), waiting(&database).await), (Progress::Worked(1), 0));
    assert_eq!(pull_one(&witness, REQUESTS_SUB).await.attributes["request_id"], "r-1");
}

async fn the_relay_takes_no_more_than_a_batch_a_step(place: Place) {
    let Project { bus, .. } = Project::eager().await;
    let database = open(&place).await;
    enqueue(&database, (0..1500).map(|number| format!("r-{number}"))).await;
    let relay = relay(&database, &bus);
    assert_eq!((relay.run_once().await.unwrap(), waiting(&database).await), (Progress::Worked(1000), 500));
    assert_eq!((relay.run_once().await.unwrap(), waiting(&database).await), (Progress::Worked(500), 0));
}

async fn the_relay_keeps_everything_while_the_broker_is_away(place: Place) {
    let folder = RunDir::temporary().unwrap();
    let emulator = Emulator::start_own(folder.log("emulator"), ports::free().unwrap(), None).await.unwrap();
    let (bus, witness) = (connect("away", emulator.host()).await, emulator.project("away"));
    bus.ensure(false).await.unwrap();
    let database = open(&place).await;
    let relay = relay(&database, &bus);
    emulator.kill9().await.unwrap();
    enqueue(&database, ["r-1", "r-2", "r-3"].map(str::to_owned)).await;
    let error = relay.run_once().await.unwrap_err();
    assert!(matches!(error, outbox::Error::Publish { failed: 3, total: 3, .. }), "{error}");
    assert_eq!(waiting(&database).await, 3);

    emulator.launch().await.unwrap();
    until(SOON, "everything to be published", || async {
        relay.run_once().await.is_ok_and(|progress| progress == Progress::Idle)
    })
    .await
    .unwrap();
    assert_eq!(waiting(&database).await, 0);
    let mut arrived = Vec::new();
    while arrived.len() < 3 {
        let message = pull_one(&witness, REQUESTS_SUB).await;
        witness.acknowledge(REQUESTS_SUB, std::slice::from_ref(&message)).await.unwrap();
        arrived.push(message.attributes["request_id"].clone());
    }
    arrived.sort();
    assert_eq!(arrived, ["r-1", "r-2", "r-3"]);
}

async fn a_message_that_the_broker_refuses_for_good_holds_up_nobody(place: Place) {
    let Project { bus, witness } = Project::eager().await;
    let database = open(&place).await;
    enqueue(&database, (0..20).map(|number| format!("before-{number}"))).await;
    // Pub/Sub takes no message that is empty altogether, not even between others of its row.
    change(
        &database,
        r#"insert into outbox (id, topic, data, attributes, messages, created_at)
           values ('018c0000-0000-7000-8000-000000000000', 'token-grant-requests', '', '', '[
               ["018c0000-0000-7000-8000-000000000000", null, {}, {"request_id": "beside-0"}],
               ["018c0000-0000-7000-8000-000000000001", null, null, {}],
               ["018c0000-0000-7000-8000-000000000002", null, {}, {"request_id": "beside-1"}]]', 7)"#,
    )
    .await;
    enqueue(&database, (0..20).map(|number| format!("behind-{number}"))).await;
    let relay = relay(&database, &bus);
    assert_eq!((relay.run_once().await.unwrap(), waiting(&database).await), (Progress::Worked(43), 0));
    assert_eq!(relay.run_once().await.unwrap(), Progress::Idle);
    let mut arrived = std::collections::BTreeSet::new();
    while arrived.len() < 42 {
        let message = pull_one(&witness, REQUESTS_SUB).await;
        witness.acknowledge(REQUESTS_SUB, std::slice::from_ref(&message)).await.unwrap();
        arrived.insert(message.attributes["request_id"].clone());
    }

    let (letter, payload) = dead_letters(&database, 1).await.remove(0);
    assert_eq!((letter.reason, letter.source, payload.len()), (Reason::Undeliverable, Source::Outbox, 0));
    assert_eq!((letter.topic, &*letter.message_id), (Topic::Requests, "018c0000-0000-7000-8000-000000000001"));
    assert!(letter.detail.starts_with("the broker refuses it: "), "{}", letter.detail);
    assert_eq!(letter.published_at, from_micros(7));

    // Redriven it has attributes, which is enough.
    letters(&database).redrive(&Selection::These(vec![letter.id])).await.unwrap();
    assert_eq!((relay.run_once().await.unwrap(), waiting(&database).await), (Progress::Worked(1), 0));
    let message = pull_one(&witness, REQUESTS_SUB).await;
    assert_eq!((message.data.len(), &*message.attributes["dead_letter_attempt"]), (0, "2"));
    assert_eq!(message.attributes["dead_letter_id"], letter.id.to_string());
}

async fn a_redriven_message_is_published_as_it_was(place: Place) {
    let Project { bus, witness } = Project::eager().await;
    let database = open(&place).await;
    let body = b"\xff\0\xfe not JSON";
    let failure = Failure {
        topic: Topic::Requests,
        source: Source::Subscription,
        message_id: "1".to_owned(),
        published_at: from_micros(0),
        data: Bytes::from_static(body),
        attributes: [("theirs".to_owned(), "ü".to_owned())].into(),
        reason: Reason::Malformed,
        detail: "not JSON".to_owned(),
    };
    letters(&database).commit(&[failure]).await.unwrap();
    letters(&database).redrive(&Selection::All(Filter::default())).await.unwrap();
    let relay = relay(&database, &bus);
    assert_eq!((relay.run_once().await.unwrap(), waiting(&database).await), (Progress::Worked(1), 0));
    let message = pull_one(&witness, REQUESTS_SUB).await;
    assert_eq!((&*message.data, &*message.attributes["theirs"]), (&body[..], "ü"));
}
