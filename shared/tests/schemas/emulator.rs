//! The schemas at the real emulator: registered, attached, asked, forgotten and put in place again.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use serde_json::{Value, json};
use shared::clock::Clock;
use shared::db::Database;
use shared::dead_letter::{DeadLetters, Filter, Page, Reason, Source};
use shared::outbox::Relay;
use shared::pubsub::{Bus, Keeper, Message, PubSub, Topic};
use shared::schema;
use shared::worker::{Progress, Worker as _};
use sqlx::migrate::Migrator;
use testkit::{Emulator, Place, Pubsub, RunDir, ports, until_some};

use crate::avro::{datum, encoded, newest};
use crate::document::examples;

static MIGRATIONS: Migrator = sqlx::migrate!("../campaign/migrations");

const SOON: Duration = Duration::from_mins(1);
const REQUESTS: &str = "token-grant-requests";

/// A project that no other test knows.
struct Project {
    name: String,
    emulator: &'static Emulator,
    witness: Pubsub,
}

impl Project {
    async fn new() -> Self {
        let emulator = Emulator::shared().await.unwrap();
        let name = format!("project-{:016x}", rand::rng().random::<u64>());
        Self { witness: emulator.project(&name), emulator, name }
    }

    /// A connection that wants the topics to have their schemas.
    async fn bus(&self) -> Arc<dyn Bus> {
        connect(self.emulator, &self.name, true).await
    }

    /// With topics and schemas in place, for the first time.
    async fn with_schemas() -> (Self, Arc<dyn Bus>) {
        let project = Self::new().await;
        let bus = project.bus().await;
        bus.ensure(true).await.unwrap();
        (project, bus)
    }

    async fn schema_of(&self, topic: &str) -> Value {
        schema_of(&self.witness, topic).await
    }
}

async fn connect(emulator: &Emulator, project: &str, with_schemas: bool) -> Arc<dyn Bus> {
    Arc::new(PubSub::connect(project, Some(emulator.host())).await.unwrap().with_schemas(with_schemas))
}

async fn schema_of(witness: &Pubsub, topic: &str) -> Value {
    witness.describe("topics", topic).await.unwrap().unwrap()["schemaSettings"].clone()
}

async fn assert_in_place(witness: &Pubsub) {
    for topic in Topic::LIVE {
        assert_eq!(witness.schema_revisions(topic.name()).await.unwrap(), schema::revisions(topic));
        let settings = schema_of(witness, topic.name()).await;
        assert_eq!(settings["encoding"], "JSON");
        assert!(settings["schema"].as_str().unwrap().ends_with(&format!("/schemas/{topic}")), "{settings}");
    }
}

async fn publish(bus: &Arc<dyn Bus>, topic: Topic, body: &Value) -> Result<(), shared::pubsub::Error> {
    let message = Message { data: body.to_string().into(), attributes: [].into() };
    bus.publish(topic, vec![message]).await.remove(0)
}

#[tokio::test]
async fn both_topics_get_their_schemas_and_the_dead_letter_topics_take_anything() {
    let (project, bus) = Project::with_schemas().await;
    assert_in_place(&project.witness).await;
    for topic in [Topic::DeadRequests, Topic::DeadResults] {
        assert_eq!(project.schema_of(topic.name()).await, Value::Null);
    }
    // Again, from the same process and from one more.
    assert!(!bus.ensure(false).await.unwrap());
    project.bus().await.ensure(true).await.unwrap();
    assert_in_place(&project.witness).await;
}

#[tokio::test]
async fn without_the_setting_nothing_is_attached_and_nothing_is_taken_away() {
    let project = Project::new().await;
    let indifferent = connect(project.emulator, &project.name, false).await;
    indifferent.ensure(true).await.unwrap();
    assert_eq!(project.schema_of(REQUESTS).await, Value::Null);
    project.bus().await.ensure(true).await.unwrap();
    indifferent.ensure(true).await.unwrap();
    assert_in_place(&project.witness).await;
}

#[tokio::test]
async fn every_message_passes_in_plain_json_and_as_an_avro_encoder_writes_it() {
    let (project, bus) = Project::with_schemas().await;
    for topic in Topic::LIVE {
        project.witness.create_subscription(topic.name(), &format!("{topic}-test")).await.unwrap();
    }
    for example in examples() {
        let schema = newest(example.topic);
        let written = encoded(&schema, &datum(&schema, &example.payload));
        for body in [&example.payload, &written] {
            publish(&bus, example.topic, body).await.unwrap();
            let subscription = format!("{}-test", example.topic);
            let next = async || project.witness.pull(&subscription, 1).await.unwrap().pop();
            let message = until_some(SOON, "the message", next).await.unwrap();
            assert_eq!(message.json().unwrap(), *body);
            assert_eq!(message.attributes["googclient_schemaencoding"], "JSON");
            project.witness.acknowledge(&subscription, &[message]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_stranger_needs_no_field_of_ours() {
    let (project, _bus) = Project::with_schemas().await;
    let founding = json!({
        "event_type": "token.grant.requested", "user_id": "alice", "campaign_id": "summer", "token_amount": 100,
        "token_type": "ERC20", "request_id": "r-1", "timestamp": "2026-01-02T03:04:05Z", "retry_count": 0,
        "somebody_elses_field": {"deep": [1]},
    });
    project.witness.publish(REQUESTS, founding.to_string().as_bytes(), &[]).await.unwrap();
}

#[tokio::test]
async fn what_no_message_is_without_is_asked_for() {
    let (project, bus) = Project::with_schemas().await;
    for body in
        ["not JSON", "[]", "{}", r#"{"event_type": "token.grant.requested"}"#, r#"{"event_type": 1, "timestamp": ""}"#]
    {
        let refused = project.witness.publish(REQUESTS, body.as_bytes(), &[]).await;
        assert!(refused.unwrap_err().to_string().contains("INVALID_ARGUMENT"), "{body}");
    }
    let refused = publish(&bus, Topic::Results, &json!({"event_type": "token.grant.failed"})).await.unwrap_err();
    assert!(refused.is_refusal(), "{refused}");
}

#[tokio::test]
async fn the_relay_sets_aside_what_the_schema_refuses_and_sends_the_rest() {
    let (project, bus) = Project::with_schemas().await;
    let place = Place::sqlite().unwrap();
    let database = Database::open(&place.url().into(), &MIGRATIONS).await.unwrap();
    let good = r#"{"event_type": "token.grant.requested", "timestamp": "2026-01-02T03:04:05Z"}"#;
    for (number, data) in [(1, good), (2, r#"{"event_type": "token.grant.requested"}"#), (3, good)] {
        let mut tx = database.begin("test").await.unwrap();
        sqlx::query(
            "insert into outbox (id, topic, request_id, data, attributes, created_at)
             values ($1, 'token-grant-requests', null, $2, $3, 7)",
        )
        .bind(format!("018c0000-0000-7000-8000-00000000000{number}"))
        .bind(data)
        .bind(json!({"number": number.to_string()}).to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }
    let relay = Relay::new(database.clone(), bus, Clock::system());
    assert_eq!(relay.run_once().await.unwrap(), Progress::Worked(3));
    assert_eq!(relay.run_once().await.unwrap(), Progress::Idle);

    let mut arrived = Vec::new();
    while arrived.len() < 2 {
        let next = async || project.witness.pull("token-grant-requests-sub", 1).await.unwrap().pop();
        let message = until_some(SOON, "a message", next).await.unwrap();
        arrived.push(message.attributes["number"].clone());
        project.witness.acknowledge("token-grant-requests-sub", &[message]).await.unwrap();
    }
    arrived.sort();
    assert_eq!(arrived, ["1", "3"]);
    let letters = DeadLetters::new(database, Clock::system(), Arc::default());
    let letter = letters.list(Filter::default(), Page { limit: 10, before: None }).await.unwrap().remove(0);
    assert_eq!((letter.reason, letter.source), (Reason::Undeliverable, Source::Outbox));
    assert_eq!(letter.attributes["number"], "2");
}

#[tokio::test]
async fn a_schema_that_was_deleted_is_put_in_place_again() {
    let (project, bus) = Project::with_schemas().await;
    project.witness.delete("schemas", REQUESTS).await.unwrap();
    assert_eq!(project.schema_of(REQUESTS).await["schema"], "_deleted-schema_");
    bus.ensure(false).await.unwrap();
    assert_in_place(&project.witness).await;

    // Whoever publishes first finds it out as well.
    project.witness.delete("schemas", REQUESTS).await.unwrap();
    let body = json!({"event_type": "token.grant.requested", "timestamp": "2026-01-02T03:04:05Z"});
    assert!(publish(&bus, Topic::Requests, &body).await.unwrap_err().is_not_found());
    publish(&bus, Topic::Requests, &body).await.unwrap();
    assert_in_place(&project.witness).await;
}

#[tokio::test]
async fn an_older_schema_gets_the_revisions_that_it_lacks() {
    let project = Project::new().await;
    for topic in Topic::LIVE {
        project.witness.create_schema(topic.name(), schema::revisions(topic)[0]).await.unwrap();
        project.witness.create_topic_with_schema(topic.name(), topic.name()).await.unwrap();
    }
    project.bus().await.ensure(true).await.unwrap();
    assert_in_place(&project.witness).await;
}

#[tokio::test]
async fn a_schema_that_is_newer_than_the_program_is_left_as_it_is() {
    let (project, _bus) = Project::with_schemas().await;
    let newer = schema::revisions(Topic::Requests).last().unwrap().replacen("\"user_id\"", "\"player_id\"", 1);
    project.witness.commit_schema(REQUESTS, &newer).await.unwrap();
    project.bus().await.ensure(true).await.unwrap();
    let revisions = project.witness.schema_revisions(REQUESTS).await.unwrap();
    assert_eq!(revisions.len(), schema::revisions(Topic::Requests).len() + 1);
    assert_eq!(revisions.last(), Some(&newer));
}

#[tokio::test]
async fn somebody_elses_schema_is_left_on_its_topic_and_stops_nothing() {
    let project = Project::new().await;
    project.witness.create_schema("theirs", schema::revisions(Topic::Requests)[0]).await.unwrap();
    project.witness.create_topic_with_schema(REQUESTS, "theirs").await.unwrap();
    Keeper::new(project.bus().await, Arc::default()).run_once().await.unwrap();
    assert!(project.schema_of(REQUESTS).await["schema"].as_str().unwrap().ends_with("/theirs"));
    assert!(project.schema_of("token-grant-results").await["schema"].is_string());
}

#[tokio::test]
async fn an_emulator_that_comes_back_empty_gets_the_schemas_again() {
    let folder = RunDir::temporary().unwrap();
    let emulator = Emulator::start_own(folder.log("emulator"), ports::free().unwrap(), None).await.unwrap();
    let (bus, witness) = (connect(&emulator, "forgetful", true).await, emulator.project("forgetful"));
    let keeper = Keeper::new(bus, Arc::default());
    keeper.run_once().await.unwrap();
    assert_in_place(&witness).await;
    emulator.restart().await.unwrap();
    assert!(witness.schema_revisions(REQUESTS).await.unwrap().is_empty());
    let again = async || keeper.run_once().await.ok();
    until_some(SOON, "the keeper to reach the emulator", again).await.unwrap();
    assert_in_place(&witness).await;
}
