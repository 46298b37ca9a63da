//! Pub/Sub on the real emulator: what we create, publish, receive, set aside and acknowledge, and what happens when the
//! broker or the database is away.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod relay;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use serde_json::{Value, json};
use shared::clock::{Clock, from_micros};
use shared::db::{self, Database};
use shared::dead_letter::{DeadLetter, DeadLetters, Filter, Page, Reason, Selection, Source, State};
use shared::event::{GrantRequested, RequestEvent, Terms, TokenType};
use shared::health::Health;
use shared::inbox::{Consumer, Inbox, Received};
use shared::pubsub::{Bus, Delivery, Keeper, Message, PubSub, Receiver, Topic};
use shared::telemetry::TraceParent;
use shared::worker::{self, Schedule, Worker as _};
use support::{change, open};
use testkit::{Emulator, Place, Pubsub, RunDir, ports, until, until_some};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_mins(1);
const REQUESTS: &str = "token-grant-requests";
const REQUESTS_SUB: &str = "token-grant-requests-sub";
const DEAD_LETTER_SUB: &str = "token-grant-requests-dead-letter-sub";

async fn connect(project: &str, emulator: &str) -> Arc<dyn Bus> {
    Arc::new(PubSub::connect(project, Some(emulator)).await.unwrap())
}

/// A project of the shared emulator that no other test knows.
struct Project {
    bus: Arc<dyn Bus>,
    /// The same through testkit, which shares no code with us.
    witness: Pubsub,
}

impl Project {
    async fn new() -> Self {
        let emulator = Emulator::shared().await.unwrap();
        let name = format!("project-{:016x}", rand::rng().random::<u64>());
        Self { bus: connect(&name, emulator.host()).await, witness: emulator.project(&name) }
    }

    /// With our topics in place. Whatever is given back to the subscription is delivered again at once, so that it is
    /// seen when a message was not acknowledged.
    async fn eager() -> Self {
        let project = Self::new().await;
        project.witness.create_topic(REQUESTS).await.unwrap();
        project.witness.create_subscription(REQUESTS, REQUESTS_SUB).await.unwrap();
        project.bus.ensure(false).await.unwrap();
        project
    }
}

fn event(request_id: &str) -> RequestEvent {
    RequestEvent::Requested(GrantRequested {
        user_id: "alice ü".parse().unwrap(),
        campaign_id: "summer".parse().unwrap(),
        token_amount: 100.try_into().unwrap(),
        token_type: TokenType::Erc20,
        request_id: request_id.parse().unwrap(),
        timestamp: from_micros(1_700_000_000_000_000),
        retry_count: 0,
        wallet_address: None,
        issuer: None,
        grant_index: None,
        terms: Terms::default(),
    })
}

fn message(request_id: &str) -> Message {
    let event = event(request_id);
    Message { data: serde_json::to_vec(&event).unwrap().into(), attributes: event.attributes(None) }
}

async fn publish(bus: &Arc<dyn Bus>, request_ids: &[&str]) {
    let messages = request_ids.iter().map(|request_id| message(request_id)).collect();
    for outcome in bus.publish(Topic::Requests, messages).await {
        outcome.unwrap();
    }
}

/// The request ids that the subscription still has beside a last message: what was not acknowledged.
async fn left_over(bus: &Arc<dyn Bus>, witness: &Pubsub) -> Vec<String> {
    publish(bus, &["the-last"]).await;
    let mut left = Vec::new();
    loop {
        let message = pull_one(witness, REQUESTS_SUB).await;
        witness.acknowledge(REQUESTS_SUB, std::slice::from_ref(&message)).await.unwrap();
        match &*message.attributes["request_id"] {
            "the-last" => break,
            other => left.push(other.to_owned()),
        }
    }
    let behind_it = witness.pull(REQUESTS_SUB, 100).await.unwrap();
    left.extend(behind_it.into_iter().map(|message| message.attributes["request_id"].clone()));
    left
}

async fn pull_one(witness: &Pubsub, subscription: &str) -> testkit::pubsub::Message {
    until_some(SOON, "a message", || async { witness.pull(subscription, 1).await.unwrap().into_iter().next() })
        .await
        .unwrap()
}

/// Writes down each request id and how often it came, in a real database that refuses ids beginning with `refused`.
#[derive(Clone)]
struct Ledger {
    database: Database,
    /// How many more times the database is away.
    away: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
    traces: Arc<std::sync::Mutex<Vec<Option<TraceParent>>>>,
    _place: Arc<Place>,
}

impl Ledger {
    async fn open() -> Self {
        let place = Place::sqlite().unwrap();
        let database = open(&place).await;
        change(
            &database,
            "create table ledger (
                 request_id text constraint ledger_pkey primary key,
                 times integer not null,
                 constraint ledger_refuses check (request_id not like 'refused%')
             )",
        )
        .await;
        let (away, calls, traces) = Default::default();
        Self { database, away, calls, traces, _place: Arc::new(place) }
    }

    fn away_for(self, calls: usize) -> Self {
        self.away.store(calls, Ordering::SeqCst);
        self
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    async fn times(&self) -> BTreeMap<String, i64> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("select request_id, times from ledger").fetch_all(self.database.reader()).await.unwrap();
        rows.into_iter().collect()
    }

    async fn holds(&self, messages: usize) {
        until(SOON, "the messages", || async { self.times().await.len() >= messages }).await.unwrap();
    }
}

impl Consumer for Ledger {
    type Event = RequestEvent;

    async fn consume(&self, batch: &[Received<RequestEvent>]) -> db::Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |away| away.checked_sub(1)).is_ok() {
            return Err(sqlx::Error::PoolTimedOut.into());
        }
        let mut tx = self.database.begin("test").await?;
        for Received { event, trace, .. } in batch {
            let RequestEvent::Requested(request) = event else { continue };
            sqlx::query(
                "insert into ledger (request_id, times) values ($1, 1)
                 on conflict (request_id) do update set times = ledger.times + 1",
            )
            .bind(request.request_id.as_str())
            .execute(&mut *tx)
            .await?;
            self.traces.lock().unwrap().push(*trace);
        }
        tx.commit().await?;
        Ok(())
    }
}

fn inbox(bus: &Arc<dyn Bus>, consumer: &Ledger) -> Inbox<Ledger> {
    Inbox {
        bus: bus.clone(),
        topic: Topic::Requests,
        streams: 2,
        created: Arc::default(),
        consumer: consumer.clone(),
        letters: letters(&consumer.database),
    }
}

fn letters(database: &Database) -> DeadLetters {
    DeadLetters::new(database.clone(), Clock::system(), Arc::default())
}

/// Waits for so many dead letters; the oldest first, each with its body.
async fn dead_letters(database: &Database, count: usize) -> Vec<(DeadLetter, Bytes)> {
    let letters = letters(database);
    let page = Page { limit: 500, before: None };
    let listed = || async { Some(letters.list(Filter::default(), page).await.unwrap()).filter(|l| l.len() >= count) };
    let mut dead = Vec::new();
    for letter in until_some(SOON, "the dead letters", listed).await.unwrap().into_iter().rev() {
        let payload = letters.payload(letter.id).await.unwrap().unwrap();
        dead.push((letter, payload));
    }
    assert_eq!(dead.len(), count);
    dead
}

/// An inbox that runs, and how to stop it.
struct Running {
    bus: Arc<dyn Bus>,
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Running {
    fn start(inbox: Inbox<Ledger>) -> Self {
        let (bus, shutdown) = (inbox.bus.clone(), CancellationToken::new());
        Self { bus, task: tokio::spawn(inbox.run(shutdown.clone())), shutdown }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(SOON, self.task).await.expect("the inbox stops when it is told to").unwrap();
        start_keeper(&self.bus).await;
    }
}

/// Closes a stream, for others to get what it has given back.
async fn close(receiver: Receiver, bus: &Arc<dyn Bus>) {
    receiver.stop().await;
    start_keeper(bus).await;
}

/// What the next process does first: the emulator would go on handing messages to streams that nobody reads any more.
async fn start_keeper(bus: &Arc<dyn Bus>) {
    Keeper::new(bus.clone(), Arc::default()).run_once().await.unwrap();
}

/// So many deliveries of one stream, as one batch.
async fn deliveries(receiver: &mut Receiver, count: usize) -> Vec<Delivery> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let next = tokio::time::timeout(SOON, receiver.next()).await.expect("a message within a minute");
        deliveries.push(next.unwrap().expect("the stream is open"));
    }
    deliveries
}

#[tokio::test]
async fn everything_is_created_with_its_policies_and_creating_it_again_is_harmless() {
    let Project { bus, witness } = Project::new().await;
    bus.ensure(false).await.unwrap();
    bus.ensure(false).await.unwrap();
    let topics = [
        "token-grant-requests",
        "token-grant-requests-dead-letter",
        "token-grant-results",
        "token-grant-results-dead-letter",
    ];
    assert_eq!(witness.topics().await.unwrap(), topics);
    let mut subscriptions = topics.map(|topic| format!("{topic}-sub"));
    subscriptions.sort();
    assert_eq!(witness.subscriptions().await.unwrap(), subscriptions);

    for topic in ["token-grant-requests", "token-grant-results"] {
        let described = witness.describe("subscriptions", &format!("{topic}-sub")).await.unwrap().unwrap();
        let dead_letters = &described["deadLetterPolicy"];
        assert!(described["topic"].as_str().unwrap().ends_with(&format!("/topics/{topic}")));
        assert!(dead_letters["deadLetterTopic"].as_str().unwrap().ends_with(&format!("/topics/{topic}-dead-letter")));
        assert_eq!(dead_letters["maxDeliveryAttempts"], 100);
        assert_eq!(described["retryPolicy"], json!({"minimumBackoff": "1s", "maximumBackoff": "10s"}));
        assert_eq!(described["ackDeadlineSeconds"], 30);
        assert_never_expires(&described);

        let dead = witness.describe("subscriptions", &format!("{topic}-dead-letter-sub")).await.unwrap().unwrap();
        assert_eq!(dead["deadLetterPolicy"], Value::Null, "a dead letter has nowhere else to go");
        assert_never_expires(&dead);
    }
}

/// An expiration policy without a time: the default would be 31 days.
fn assert_never_expires(subscription: &Value) {
    assert_eq!(subscription["expirationPolicy"], json!({}), "{subscription}");
}

#[tokio::test]
async fn what_is_missing_is_created_beside_what_is_there() {
    let Project { bus, witness } = Project::new().await;
    bus.ensure(false).await.unwrap();
    witness.delete("subscriptions", REQUESTS_SUB).await.unwrap();
    witness.delete("topics", "token-grant-results-dead-letter").await.unwrap();
    bus.ensure(false).await.unwrap();
    assert_eq!((witness.topics().await.unwrap().len(), witness.subscriptions().await.unwrap().len()), (4, 4));
}

#[tokio::test]
async fn a_message_arrives_as_it_was_published() {
    let Project { bus, .. } = Project::eager().await;
    publish(&bus, &["r-1"]).await;
    let mut receiver = bus.receive(Topic::Requests, 10);
    let delivery = deliveries(&mut receiver, 1).await.remove(0);
    let sent = message("r-1");
    assert_eq!((&delivery.message.data, &delivery.message.attributes), (&sent.data, &sent.attributes));
    delivery.ack();
    close(receiver, &bus).await;
}

#[tokio::test]
async fn a_foreign_message_is_handled_and_its_trace_followed() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let Project { bus, witness } = Project::eager().await;
    let body = json!({
        "event_type": "token.grant.requested", "user_id": "bob", "campaign_id": "summer", "token_amount": 5,
        "token_type": "ERC20", "request_id": "foreign", "timestamp": "2026-01-02T03:04:05Z", "retry_count": 0,
    });
    let body = body.to_string();
    witness.publish(REQUESTS, body.as_bytes(), &[("googclient_traceparent", TRACE)]).await.unwrap();
    let ledger = Ledger::open().await;
    let running = Running::start(inbox(&bus, &ledger));
    ledger.holds(1).await;
    running.stop().await;
    let traces = ledger.traces.lock().unwrap().clone();
    assert_eq!(traces.iter().map(|trace| trace.unwrap().to_string()).collect::<Vec<_>>(), [TRACE]);
}

#[tokio::test]
async fn a_malformed_message_is_set_aside_at_once_with_its_reason_and_attributes() {
    let Project { bus, witness } = Project::eager().await;
    let ledger = Ledger::open().await;
    let running = Running::start(inbox(&bus, &ledger));
    let good = String::from_utf8(message("r").data.to_vec()).unwrap();
    let broken: Vec<(Vec<u8>, &str)> = vec![
        (b"no JSON".into(), "must be a JSON object"),
        (b"".into(), "must be a JSON object"),
        (b"\xff\xfe".into(), "must be a JSON object"),
        (b"{\xff}".into(), "key must be a string"),
        (format!("[\"token.grant.requested\",{good}]").into(), "must be a JSON object"),
        (b"{\"event_type\":\"token.grant.cancelled\"}".into(), "unknown variant"),
        (good.replace("event_type", "type").into(), "missing field `event_type`"),
        (good.replace("100", "1e400").into(), "number out of range"),
        (good.replace("100", "18446744073709551616").into(), "invalid type"),
        (good.replace("100", "\"100\"").into(), "invalid type"),
        (good.replace("\"retry_count\":0", "\"retry_count\":-1").into(), "invalid value"),
        (good.replace("\"r\"", "\"\"").into(), "must not be blank"),
        (format!("{{\"x\":{}", "[".repeat(100_000)).into(), "recursion limit"),
        (format!("{good}{good}").into(), "trailing characters"),
    ];
    for (body, _) in &broken {
        witness.publish(REQUESTS, body, &[("request_id", "of-the-attributes"), ("theirs", "ü")]).await.unwrap();
    }
    publish(&bus, &["good"]).await;

    let dead = dead_letters(&ledger.database, broken.len()).await;
    for (body, detail) in &broken {
        let (letter, _) = dead.iter().find(|(_, payload)| payload == body).unwrap();
        assert_eq!(
            (letter.reason, letter.source, letter.state),
            (Reason::Malformed, Source::Subscription, State::Open)
        );
        assert!(letter.detail.contains(detail), "{detail}: {}", letter.detail);
        assert_eq!((&*letter.attributes["request_id"], &*letter.attributes["theirs"]), ("of-the-attributes", "ü"));
        assert_eq!(letter.request_id.as_deref(), Some("of-the-attributes"));
    }
    let ids: std::collections::BTreeSet<_> = dead.iter().map(|(letter, _)| &letter.message_id).collect();
    assert_eq!(ids.len(), broken.len());

    ledger.holds(1).await;
    running.stop().await;
    assert_eq!(ledger.times().await, BTreeMap::from([("good".to_owned(), 1)]));
    assert_eq!(left_over(&bus, &witness).await, [""; 0], "nothing goes in circles");
    assert!(witness.pull(DEAD_LETTER_SUB, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_message_of_ten_megabytes_is_cut_and_holds_up_nobody() {
    let Project { bus, witness } = Project::eager().await;
    let ledger = Ledger::open().await;
    let running = Running::start(inbox(&bus, &ledger));
    witness.publish(REQUESTS, &vec![b'x'; 9_900_000], &[]).await.unwrap();
    publish(&bus, &["good"]).await;
    let (letter, payload) = dead_letters(&ledger.database, 1).await.remove(0);
    assert_eq!((letter.payload_bytes, letter.payload_truncated), (9_900_000, true));
    assert_eq!(payload.len(), 256 * 1024);
    ledger.holds(1).await;
    running.stop().await;
    assert_eq!(left_over(&bus, &witness).await, [""; 0]);
}

/// As after a crash between the commit of the dead letter and the acknowledgement.
#[tokio::test]
async fn a_dead_letter_that_was_not_acknowledged_is_one_row() {
    let Project { bus, witness } = Project::eager().await;
    let ledger = Ledger::open().await;
    witness.publish(REQUESTS, b"no JSON", &[]).await.unwrap();
    let mut receiver = bus.receive(Topic::Requests, 10);
    let first = deliveries(&mut receiver, 1).await.remove(0);
    let (id, published_at) = (first.message_id.clone(), first.published_at);
    assert!(!id.is_empty() && published_at > from_micros(1_700_000_000_000_000), "{first:?}");
    let lost = Delivery::new(first.message.clone(), id.clone(), published_at, || {});
    inbox(&bus, &ledger).handle(vec![lost], &CancellationToken::new()).await;
    drop(first);
    close(receiver, &bus).await;

    let mut receiver = bus.receive(Topic::Requests, 10);
    let second = deliveries(&mut receiver, 1).await;
    assert_eq!((&second[0].message_id, second[0].published_at), (&id, published_at));
    inbox(&bus, &ledger).handle(second, &CancellationToken::new()).await;
    close(receiver, &bus).await;
    let (letter, _) = dead_letters(&ledger.database, 1).await.remove(0);
    assert_eq!((letter.attempts, letter.message_id), (1, id));
    assert_eq!(left_over(&bus, &witness).await, [""; 0]);
}

#[tokio::test]
async fn what_the_broker_has_set_aside_is_kept_too() {
    let Project { bus, witness } = Project::eager().await;
    let ledger = Ledger::open().await;
    let running = Running::start(inbox(&bus, &ledger));
    let body = message("r-1").data;
    let deliveries = [("CloudPubSubDeadLetterSourceDeliveryCount", "100")];
    witness.publish("token-grant-requests-dead-letter", &body, &deliveries).await.unwrap();
    let (letter, payload) = dead_letters(&ledger.database, 1).await.remove(0);
    assert_eq!(
        (letter.topic, letter.reason, letter.source),
        (Topic::Requests, Reason::Exhausted, Source::DeadLetterTopic)
    );
    assert_eq!((payload, &*letter.detail), (body, "delivered 100 times without an answer"));
    assert_eq!(letter.request_id.as_deref(), Some("r-1"));
    running.stop().await;
    assert_eq!(ledger.calls(), 0);
    assert!(witness.pull(DEAD_LETTER_SUB, 1).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_message_that_the_store_refuses_is_set_aside_alone() {
    let Project { bus, witness } = Project::eager().await;
    let ledger = Ledger::open().await;
    publish(&bus, &["a", "refused-1", "b", "refused-2", "c"]).await;
    let mut receiver = bus.receive(Topic::Requests, 10);
    let batch = deliveries(&mut receiver, 5).await;
    inbox(&bus, &ledger).handle(batch, &CancellationToken::new()).await;
    close(receiver, &bus).await;

    let each_once = ["a", "b", "c"].map(|id| (id.to_owned(), 1));
    assert_eq!(ledger.times().await, BTreeMap::from(each_once));
    let mut set_aside = Vec::new();
    for (letter, _) in dead_letters(&ledger.database, 2).await {
        assert_eq!(letter.reason, Reason::Refused);
        assert!(letter.detail.contains("ledger_refuses"), "{}", letter.detail);
        assert_eq!(letter.attributes["campaign_id"], "summer");
        set_aside.push(letter.request_id.unwrap());
    }
    set_aside.sort();
    assert_eq!(set_aside, ["refused-1", "refused-2"]);
    assert_eq!(left_over(&bus, &witness).await, [""; 0]);
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_repeated_while_the_database_is_away_for_a_while() {
    let Project { bus, witness } = Project::eager().await;
    let ledger = Ledger::open().await.away_for(4);
    let ids: Vec<_> = (0..50).map(|number| format!("r-{number:02}")).collect();
    publish(&bus, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let running = Running::start(inbox(&bus, &ledger));
    ledger.holds(50).await;
    running.stop().await;
    assert!(ledger.calls() > 4, "{} calls", ledger.calls());
    assert_eq!(ledger.times().await, ids.into_iter().map(|id| (id, 1)).collect());
    assert_eq!(left_over(&bus, &witness).await, [""; 0]);
}

#[tokio::test]
async fn a_duplicate_is_handed_on_and_acknowledged_like_any_other() {
    let Project { bus, witness } = Project::eager().await;
    let ledger = Ledger::open().await;
    publish(&bus, &["r-1", "r-1", "r-1"]).await;
    let mut receiver = bus.receive(Topic::Requests, 10);
    let batch = deliveries(&mut receiver, 3).await;
    inbox(&bus, &ledger).handle(batch, &CancellationToken::new()).await;
    close(receiver, &bus).await;
    assert_eq!(ledger.times().await, BTreeMap::from([("r-1".to_owned(), 3)]));
    assert_eq!(left_over(&bus, &witness).await, [""; 0]);
}

#[tokio::test]
async fn at_shutdown_what_was_committed_is_acknowledged_and_the_rest_given_back() {
    let Project { bus, witness } = Project::eager().await;
    let ledger = Ledger::open().await;
    let ids: Vec<_> = (0..200).map(|number| format!("r-{number:03}")).collect();
    publish(&bus, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let running = Running::start(inbox(&bus, &ledger));
    ledger.holds(200).await;
    running.stop().await;
    assert_eq!(left_over(&bus, &witness).await, [""; 0]);
    assert_eq!(ledger.times().await, ids.into_iter().map(|id| (id, 1)).collect());

    // Now the database is away for good: the message is held, and given back when we stop.
    let away = Ledger::open().await.away_for(usize::MAX);
    publish(&bus, &["held"]).await;
    let running = Running::start(inbox(&bus, &away));
    until(SOON, "two tries", || async { away.calls() >= 2 }).await.unwrap();
    running.stop().await;
    assert_eq!(pull_one(&witness, REQUESTS_SUB).await.attributes["request_id"], "held");
}

#[tokio::test]
async fn a_message_that_nobody_answers_is_delivered_again() {
    let Project { bus, witness } = Project::eager().await;
    publish(&bus, &["r-1"]).await;
    let mut receiver = bus.receive(Topic::Requests, 10);
    drop(deliveries(&mut receiver, 1).await);
    close(receiver, &bus).await;
    assert_eq!(pull_one(&witness, REQUESTS_SUB).await.attributes["request_id"], "r-1");
}

#[tokio::test]
async fn a_new_keeper_ends_the_streams_that_nobody_reads() {
    let Project { bus, witness } = Project::eager().await;
    let mut idle = bus.receive(Topic::Requests, 10);
    tokio::time::timeout(Duration::from_millis(500), idle.next()).await.unwrap_err();
    idle.stop().await;
    start_keeper(&bus).await;
    publish(&bus, &["r-1"]).await;
    // Sooner than a lease ends, which such a stream would have got.
    let message = tokio::time::timeout(Duration::from_secs(5), pull_one(&witness, REQUESTS_SUB)).await.unwrap();
    assert_eq!(message.attributes["request_id"], "r-1");
}

// A start makes subscriptions push for a moment.
#[tokio::test]
async fn a_start_that_broke_off_is_made_good_by_the_next() {
    let Project { bus, witness } = Project::eager().await;
    witness.push_to_nowhere("token-grant-requests-sub").await.unwrap();
    witness.delete("subscriptions", "token-grant-results-sub").await.unwrap();
    start_keeper(&bus).await;
    publish(&bus, &["r-1"]).await;
    assert_eq!(pull_one(&witness, REQUESTS_SUB).await.attributes["request_id"], "r-1");
}

#[tokio::test]
async fn an_emulator_that_comes_back_empty_is_set_up_again_and_received_from() {
    let folder = RunDir::temporary().unwrap();
    let emulator = Emulator::start_own(folder.log("emulator"), ports::free().unwrap(), None).await.unwrap();
    let (bus, witness) = (connect("forgetful", emulator.host()).await, emulator.project("forgetful"));
    let (created, health, shutdown) = (Arc::new(Notify::new()), Health::default(), CancellationToken::new());
    let schedule = Schedule::polled("keeper", Duration::from_millis(200), health.dependency("pubsub"));
    let keeper = Keeper::new(bus.clone(), Arc::clone(&created));
    let keeping = tokio::spawn(worker::run(keeper, schedule, shutdown.clone()));
    let ledger = Ledger::open().await;
    let running = Running::start(Inbox { created, ..inbox(&bus, &ledger) });
    let in_place = || async { witness.subscriptions().await.is_ok_and(|subscriptions| subscriptions.len() == 4) };

    // The topics come into existence after the streams were opened.
    until(SOON, "the subscriptions", in_place).await.unwrap();
    publish(&bus, &["before"]).await;
    ledger.holds(1).await;

    emulator.kill9().await.unwrap();
    until(SOON, "the outage to be noticed", || async { !health.is_ready() }).await.unwrap();
    emulator.launch().await.unwrap();
    until(SOON, "the subscriptions again", in_place).await.unwrap();
    until(SOON, "the end of the outage to be noticed", || async { health.is_ready() }).await.unwrap();
    publish(&bus, &["after"]).await;
    ledger.holds(2).await;

    running.stop().await;
    shutdown.cancel();
    keeping.await.unwrap();
}
