//! Dead letters on both databases: each failure is kept once and as it was, sent again once, and shown and steered over
//! HTTP with errors that name field, rule and cure.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use chrono::TimeDelta;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use shared::clock::{Clock, from_micros};
use shared::db::Database;
use shared::dead_letter::{
    ATTEMPT_ATTRIBUTE, DeadLetters, Failure, Filter, ID_ATTRIBUTE, Kept, LetterId, MAX_PAYLOAD_BYTES, Page, Reason,
    Selection, Source, State, api,
};
use shared::health::Health;
use shared::http::with_common_routes;
use shared::pubsub::Topic;
use sqlx::Row as _;
use support::{change, open};
use testkit::{Place, on_both_databases};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    the_same_failure_is_one_row,
    a_broker_that_counts_from_the_start_again_repeats_nothing,
    whatever_was_published_is_kept_as_it_was,
    what_is_too_large_is_cut_and_never_sent_again,
    a_letter_is_sent_again_once,
    replicas_that_redrive_at_the_same_time_send_it_once,
    a_redriven_message_that_fails_again_is_a_new_attempt_of_its_row,
    a_stranger_who_names_a_row_does_not_touch_it,
    what_pubsub_has_added_is_not_sent_again,
    all_that_match_are_sent_again_in_portions,
    what_is_discarded_stays_and_is_not_sent_again,
    letters_are_listed_by_page_and_filter,
    a_letter_is_shown_with_its_body,
    redriving_over_http_answers_the_same_again,
    many_are_redriven_over_http_and_the_others_named,
    a_discarded_letter_is_not_redriven_over_http_nor_the_reverse,
    bad_requests_name_field_and_rule,
}

/// The dead letters of a database, and where they are shown.
struct Desk {
    letters: DeadLetters,
    database: Database,
    clock: Clock,
    routes: Router,
}

impl Desk {
    async fn open(place: &Place) -> Self {
        let database = open(place).await;
        let clock = Clock::manual(from_micros(1_700_000_000_000_000));
        let letters = DeadLetters::new(database.clone(), clock.clone(), Arc::default());
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let routes = Router::from(api::routes()).with_state(letters.clone());
        Self { letters, database, clock, routes: with_common_routes(routes, Health::default(), metrics) }
    }

    async fn keep(&self, failure: &Failure) -> Kept {
        self.letters.commit(std::slice::from_ref(failure)).await.unwrap()[0]
    }

    async fn keep_new(&self, failure: &Failure) -> LetterId {
        let Kept::New(id) = self.keep(failure).await else { panic!("it was known: {failure:?}") };
        id
    }

    async fn redrive(&self, id: LetterId) -> usize {
        self.letters.redrive(&Selection::These(vec![id])).await.unwrap().ids.len()
    }

    async fn state(&self, id: LetterId) -> (State, u32) {
        let letter = self.letters.find(id).await.unwrap().unwrap();
        (letter.state, letter.attempts)
    }

    /// What waits to be published: topic, attributes, and the row that has the body.
    async fn outbox(&self) -> Vec<(String, Value, String)> {
        let rows = sqlx::query("select topic, attributes, dead_letter_id from outbox order by id")
            .fetch_all(self.database.reader())
            .await
            .unwrap();
        let attributes = |text: String| serde_json::from_str(&text).unwrap();
        rows.iter().map(|row| (row.get(0), attributes(row.get(1)), row.get(2))).collect()
    }

    async fn publish_all(&self) {
        change(&self.database, "delete from outbox").await;
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str) -> (u16, Value) {
        self.send(Request::post(path).body(Body::empty()).unwrap()).await
    }

    async fn post_json(&self, path: &str, body: Value) -> (u16, Value) {
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(body.to_string().into()).unwrap()).await
    }

    async fn send(&self, request: Request<Body>) -> (u16, Value) {
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let problem = response.headers()[header::CONTENT_TYPE] == "application/problem+json";
        assert_eq!(problem, status >= 400, "{status}");
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

fn failure(message_id: &str, data: impl Into<Vec<u8>>) -> Failure {
    Failure {
        topic: Topic::Requests,
        source: Source::Subscription,
        message_id: message_id.to_owned(),
        published_at: from_micros(1_600_000_000_000_000),
        data: data.into().into(),
        attributes: [("request_id".to_owned(), "r-1".to_owned())].into(),
        reason: Reason::Malformed,
        detail: "expected value at line 1 column 1".to_owned(),
    }
}

/// The message as it comes back after it was redriven for the nth time.
fn redriven(failure: &Failure, id: LetterId, attempt: u32, message_id: &str) -> Failure {
    let mut again = Failure { message_id: message_id.to_owned(), ..failure.clone() };
    again.attributes.insert(ID_ATTRIBUTE.to_owned(), id.to_string());
    again.attributes.insert(ATTEMPT_ATTRIBUTE.to_owned(), attempt.to_string());
    again
}

async fn the_same_failure_is_one_row(place: Place) {
    let desk = Desk::open(&place).await;
    let message = failure("1", "no JSON");
    let id = desk.keep_new(&message).await;
    desk.clock.advance(TimeDelta::minutes(1));
    // Delivered again, since the process died before its acknowledgement; even if it is refused in other words.
    assert_eq!(desk.keep(&message).await, Kept::Known);
    assert_eq!(desk.keep(&Failure { detail: "other words".to_owned(), ..message.clone() }).await, Kept::Known);
    let twice_in_a_batch = [failure("2", "x"), failure("2", "x")];
    let kept = desk.letters.commit(&twice_in_a_batch).await.unwrap();
    assert!(matches!(kept[..], [Kept::New(_), Kept::Known]), "{kept:?}");

    let letter = desk.letters.find(id).await.unwrap().unwrap();
    assert_eq!((letter.state, letter.attempts, letter.first_failed_at), (State::Open, 1, letter.last_failed_at));
    // The same number is another message's elsewhere.
    desk.keep_new(&Failure { topic: Topic::Results, ..message.clone() }).await;
    desk.keep_new(&Failure { source: Source::DeadLetterTopic, ..message.clone() }).await;
    desk.keep_new(&Failure { source: Source::Outbox, ..message }).await;
}

async fn a_broker_that_counts_from_the_start_again_repeats_nothing(place: Place) {
    let desk = Desk::open(&place).await;
    let before = failure("1", "before");
    desk.keep_new(&before).await;
    let published_at = before.published_at + TimeDelta::milliseconds(1);
    desk.keep_new(&Failure { published_at, ..failure("1", "after") }).await;
}

async fn whatever_was_published_is_kept_as_it_was(place: Place) {
    let desk = Desk::open(&place).await;
    let long = "ü".repeat(5000);
    for (number, data) in [&b""[..], b"\0", b"\xff\xfe\0\x80", "{\"a\":\"\u{0}ü\"}".as_bytes()].into_iter().enumerate()
    {
        let mut message = failure(&number.to_string(), data);
        message.detail = format!("a\0b{long}");
        message.attributes.insert("hostile \0 ü \u{202e}".to_owned(), "\0'; drop table dead_letter; --".to_owned());
        let id = desk.keep_new(&message).await;
        let letter = desk.letters.find(id).await.unwrap().unwrap();
        assert_eq!(desk.letters.payload(id).await.unwrap().unwrap(), data);
        assert_eq!((letter.payload_bytes, letter.payload_truncated), (data.len() as u64, false));
        assert_eq!((letter.attributes, letter.attributes_dropped), (message.attributes, 0));
        assert!(letter.detail.starts_with("a\u{fffd}bü") && letter.detail.chars().count() == 1000);
        assert_eq!(letter.request_id.as_deref(), Some("r-1"));
    }
}

async fn what_is_too_large_is_cut_and_never_sent_again(place: Place) {
    let desk = Desk::open(&place).await;
    let fits = desk.keep_new(&failure("1", vec![b'x'; MAX_PAYLOAD_BYTES])).await;
    let large = desk.keep_new(&failure("2", vec![b'x'; 10_000_000])).await;
    let mut with_attributes = failure("3", "x");
    for number in 0..3 {
        with_attributes.attributes.insert(format!("a{number}"), "y".repeat(60_000));
    }
    let overloaded = desk.keep_new(&with_attributes).await;

    let letter = desk.letters.find(large).await.unwrap().unwrap();
    assert_eq!((letter.payload_bytes, letter.payload_truncated, letter.is_whole()), (10_000_000, true, false));
    assert_eq!(desk.letters.payload(large).await.unwrap().unwrap().len(), MAX_PAYLOAD_BYTES);
    let letter = desk.letters.find(overloaded).await.unwrap().unwrap();
    assert_eq!((letter.attributes_dropped, letter.payload_truncated, letter.is_whole()), (1, false, false));

    let all = desk.letters.redrive(&Selection::All(Filter::default())).await.unwrap();
    assert_eq!((all.ids, all.remaining), (vec![fits], 0));
    for (id, kind) in [(large, "truncated"), (overloaded, "truncated")] {
        let (status, problem) = desk.post(&format!("/dead-letters/{id}/redrive")).await;
        assert_eq!((status, &problem["type"]), (409, &json!(format!("urn:problem-type:dead-letter-{kind}"))));
    }
    assert_eq!(desk.outbox().await.len(), 1);
}

async fn a_letter_is_sent_again_once(place: Place) {
    let desk = Desk::open(&place).await;
    let id = desk.keep_new(&failure("1", "x")).await;
    assert_eq!((desk.redrive(id).await, desk.redrive(id).await), (1, 0));
    let attributes = json!({"request_id": "r-1", "dead_letter_id": id.to_string(), "dead_letter_attempt": "2"});
    assert_eq!(desk.outbox().await, [("token-grant-requests".to_owned(), attributes, id.to_string())]);
    assert_eq!(desk.state(id).await, (State::Redriven, 1));
    desk.publish_all().await;
    assert_eq!((desk.redrive(id).await, desk.outbox().await.len()), (0, 0));
}

async fn replicas_that_redrive_at_the_same_time_send_it_once(place: Place) {
    let desk = Desk::open(&place).await;
    for number in 0..20 {
        desk.keep_new(&failure(&number.to_string(), "x")).await;
    }
    let mut running = JoinSet::new();
    for _ in 0..4 {
        let desk = Desk::open(&place).await;
        running.spawn(async move { desk.letters.redrive(&Selection::All(Filter::default())).await.unwrap().ids.len() });
    }
    assert_eq!(running.join_all().await.into_iter().sum::<usize>(), 20);
    assert_eq!(desk.outbox().await.len(), 20);
}

async fn a_redriven_message_that_fails_again_is_a_new_attempt_of_its_row(place: Place) {
    let desk = Desk::open(&place).await;
    let message = failure("1", "no JSON");
    let id = desk.keep_new(&message).await;
    desk.redrive(id).await;
    desk.publish_all().await;
    desk.clock.advance(TimeDelta::minutes(1));
    let again = Failure { reason: Reason::Refused, detail: "again".to_owned(), ..redriven(&message, id, 2, "7") };
    assert_eq!(desk.keep(&again).await, Kept::Again(id));
    // Delivered again by the broker; published twice by a relay that died.
    assert_eq!(desk.keep(&again).await, Kept::Known);
    assert_eq!(desk.keep(&Failure { message_id: "8".to_owned(), ..again.clone() }).await, Kept::Known);
    assert_eq!(desk.state(id).await, (State::Open, 2));
    let letter = desk.letters.find(id).await.unwrap().unwrap();
    assert_eq!((letter.reason, &*letter.detail), (Reason::Refused, "again"));
    assert_eq!(letter.last_failed_at - letter.first_failed_at, TimeDelta::minutes(1));

    assert_eq!(desk.redrive(id).await, 1);
    assert_eq!(desk.outbox().await[0].1["dead_letter_attempt"], "3");
    // A latecomer of the second attempt, and the first message once more, open nothing.
    assert_eq!(desk.keep(&again).await, Kept::Known);
    assert_eq!(desk.keep(&message).await, Kept::Known);
    assert_eq!(desk.state(id).await, (State::Redriven, 2));
    assert_eq!(desk.keep(&redriven(&message, id, 3, "9")).await, Kept::Again(id));
    assert_eq!(desk.state(id).await, (State::Open, 3));
    assert_eq!(desk.letters.open_by_topic().await.unwrap(), [(Topic::Requests, 1)].into());
}

async fn a_stranger_who_names_a_row_does_not_touch_it(place: Place) {
    let desk = Desk::open(&place).await;
    let message = failure("1", "ours");
    let id = desk.keep_new(&message).await;
    desk.redrive(id).await;
    let theirs = [
        redriven(&failure("", "theirs"), id, 2, "2"),
        redriven(&message, id, 3, "3"),
        Failure { topic: Topic::Results, ..redriven(&message, id, 2, "4") },
        redriven(&message, "019a9f5e-7c1e-7bd2-a3a7-0242ac120002".parse().unwrap(), 2, "5"),
    ];
    for their in theirs {
        desk.keep_new(&their).await;
    }
    assert_eq!(desk.state(id).await, (State::Redriven, 1));
}

async fn what_pubsub_has_added_is_not_sent_again(place: Place) {
    let desk = Desk::open(&place).await;
    let mut message = Failure { source: Source::DeadLetterTopic, reason: Reason::Exhausted, ..failure("1", "x") };
    for (name, value) in [("CloudPubSubDeadLetterSourceDeliveryCount", "100"), ("googclient_schemaencoding", "JSON")] {
        message.attributes.insert(name.to_owned(), value.to_owned());
    }
    let id = desk.keep_new(&message).await;
    desk.redrive(id).await;
    let (_, attributes, _) = desk.outbox().await.remove(0);
    let names: Vec<_> = attributes.as_object().unwrap().keys().collect();
    assert_eq!(names, ["dead_letter_attempt", "dead_letter_id", "request_id"]);
}

async fn all_that_match_are_sent_again_in_portions(place: Place) {
    let desk = Desk::open(&place).await;
    let mut failures: Vec<_> = (0..600).map(|number| failure(&number.to_string(), "x")).collect();
    failures.push(Failure { reason: Reason::Exhausted, ..failure("exhausted", "x") });
    failures.push(Failure { topic: Topic::Results, ..failure("result", "x") });
    desk.letters.commit(&failures).await.unwrap();
    let malformed = Filter { reason: Some(Reason::Malformed), topic: Some(Topic::Requests), ..Filter::default() };
    let mut portions = Vec::new();
    for _ in 0..3 {
        let redriven = desk.letters.redrive(&Selection::All(malformed)).await.unwrap();
        portions.push((redriven.ids.len(), redriven.remaining));
    }
    assert_eq!(portions, [(500, 100), (100, 0), (0, 0)]);
    assert_eq!(desk.letters.redrive(&Selection::These(Vec::new())).await.unwrap().ids, []);
    let open = desk.letters.open_by_topic().await.unwrap();
    assert_eq!(open, [(Topic::Requests, 1), (Topic::Results, 1)].into());
}

async fn what_is_discarded_stays_and_is_not_sent_again(place: Place) {
    let desk = Desk::open(&place).await;
    let message = failure("1", "x");
    let id = desk.keep_new(&message).await;
    desk.letters.discard(id).await.unwrap();
    let discarded = desk.letters.find(id).await.unwrap().unwrap();
    assert_eq!((discarded.state, discarded.discarded_at), (State::Discarded, Some(desk.clock.now())));
    desk.clock.advance(TimeDelta::minutes(1));
    desk.letters.discard(id).await.unwrap();
    assert_eq!(desk.letters.find(id).await.unwrap().unwrap(), discarded);
    assert_eq!((desk.redrive(id).await, desk.keep(&message).await), (0, Kept::Known));
    assert_eq!(desk.state(id).await, (State::Discarded, 1));
}

async fn letters_are_listed_by_page_and_filter(place: Place) {
    let desk = Desk::open(&place).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let reason = if number % 2 == 0 { Reason::Malformed } else { Reason::Exhausted };
        let id = desk.keep_new(&Failure { reason, ..failure(&number.to_string(), "x") }).await;
        ids.insert(0, id.to_string());
    }
    let mut path = "/dead-letters?limit=2".to_owned();
    let mut listed = Vec::new();
    loop {
        let (status, page) = desk.get(&path).await;
        assert_eq!(status, 200);
        for letter in page["dead_letters"].as_array().unwrap() {
            assert!(letter.get("payload").is_none());
            listed.push(letter["id"].as_str().unwrap().to_owned());
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/dead-letters?limit=2&cursor={cursor}");
    }
    assert_eq!(listed, ids);

    let count = async |query: &str| {
        let (_, page) = desk.get(&format!("/dead-letters?{query}")).await;
        page["dead_letters"].as_array().unwrap().len()
    };
    desk.redrive(ids[0].parse().unwrap()).await;
    assert_eq!((count("state=open").await, count("state=redriven").await, count("state=discarded").await), (4, 1, 0));
    assert_eq!((count("reason=exhausted").await, count("reason=malformed&state=open").await), (2, 2));
    assert_eq!((count("topic=token-grant-requests").await, count("topic=token-grant-results").await), (5, 0));
    let page = Page { limit: 1, before: None };
    assert_eq!(desk.letters.list(Filter::default(), page).await.unwrap()[0].id.to_string(), ids[0]);
}

async fn a_letter_is_shown_with_its_body(place: Place) {
    let desk = Desk::open(&place).await;
    let half = "ü".repeat(MAX_PAYLOAD_BYTES / 2 + 1);
    let cut_in_two = format!("x{half}").into_bytes();
    for (data, payload, encoding) in [
        ("{\"a\":\"ü\0\"}".into(), "{\"a\":\"ü\0\"}".to_owned(), "text"),
        (b"\xff\xfe".to_vec(), "//4=".to_owned(), "base64"),
        (cut_in_two, format!("x{}", "ü".repeat(MAX_PAYLOAD_BYTES / 2 - 1)), "text"),
    ] {
        let id = desk.keep_new(&failure(encoding, data)).await;
        let (status, shown) = desk.get(&format!("/dead-letters/{id}")).await;
        assert_eq!((status, &shown["payload_encoding"]), (200, &json!(encoding)));
        assert!(shown["payload"] == payload, "{id}");
        assert_eq!(
            (&shown["reason"], &shown["state"], &shown["attempts"]),
            (&json!("malformed"), &json!("open"), &json!(1))
        );
        assert_eq!((&shown["attributes"], &shown["request_id"]), (&json!({"request_id": "r-1"}), &json!("r-1")));
        assert_eq!((&shown["topic"], &shown["source"]), (&json!("token-grant-requests"), &json!("subscription")));
        assert_eq!(shown["first_failed_at"], "2023-11-14T22:13:20Z");
        change(&desk.database, "delete from dead_letter").await;
    }
}

async fn redriving_over_http_answers_the_same_again(place: Place) {
    let desk = Desk::open(&place).await;
    let id = desk.keep_new(&failure("1", "x")).await;
    let path = format!("/dead-letters/{id}/redrive");
    let first = desk.post(&path).await;
    assert_eq!(
        (first.0, &first.1["state"], &first.1["redriven_at"]),
        (200, &json!("redriven"), &json!("2023-11-14T22:13:20Z"))
    );
    desk.clock.advance(TimeDelta::minutes(1));
    assert_eq!(desk.post(&path).await, first);
    assert_eq!(desk.outbox().await.len(), 1);
}

async fn many_are_redriven_over_http_and_the_others_named(place: Place) {
    let desk = Desk::open(&place).await;
    let [new, before, discarded, large] = [
        desk.keep_new(&failure("1", "x")).await,
        desk.keep_new(&failure("2", "x")).await,
        desk.keep_new(&failure("3", "x")).await,
        desk.keep_new(&failure("4", vec![0; MAX_PAYLOAD_BYTES + 1])).await,
    ];
    desk.redrive(before).await;
    desk.letters.discard(discarded).await.unwrap();
    let nobodys = "019a9f5e-7c1e-7bd2-a3a7-0242ac120002";
    let ids = json!({"ids": [new.to_string(), before.to_string(), discarded.to_string(), large.to_string(), nobodys, new.to_string()]});
    let (status, report) = desk.post_json("/dead-letters/redrive", ids).await;
    assert_eq!((status, &report["redriven"]), (200, &json!([new.to_string()])));
    let why = |id: &str| {
        let skipped = report["skipped"].as_array().unwrap().iter().find(|skipped| skipped["id"] == id);
        skipped.unwrap()["why"].as_str().unwrap().to_owned()
    };
    assert_eq!(why(&before.to_string()), "redriven");
    assert_eq!(why(&discarded.to_string()), "discarded");
    assert_eq!((why(&large.to_string()), why(nobodys)), ("truncated".to_owned(), "not_found".to_owned()));

    let other = desk.keep_new(&Failure { reason: Reason::Exhausted, ..failure("5", "x") }).await;
    let (_, report) = desk.post_json("/dead-letters/redrive", json!({"all": true, "reason": "malformed"})).await;
    assert_eq!(report, json!({"redriven": [], "skipped": [], "remaining": 0}));
    let (_, report) = desk.post("/dead-letters/redrive?all=true").await;
    assert_eq!(report["redriven"], json!([other.to_string()]));
    assert_eq!(desk.outbox().await.len(), 3);
}

async fn a_discarded_letter_is_not_redriven_over_http_nor_the_reverse(place: Place) {
    let desk = Desk::open(&place).await;
    let [discarded, redriven] = [desk.keep_new(&failure("1", "x")).await, desk.keep_new(&failure("2", "x")).await];
    let first = desk.post(&format!("/dead-letters/{discarded}/discard")).await;
    assert_eq!((first.0, &first.1["state"]), (200, &json!("discarded")));
    assert_eq!(desk.post(&format!("/dead-letters/{discarded}/discard")).await, first);
    let (status, problem) = desk.post(&format!("/dead-letters/{discarded}/redrive")).await;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:problem-type:dead-letter-discarded")));
    desk.redrive(redriven).await;
    let (status, problem) = desk.post(&format!("/dead-letters/{redriven}/discard")).await;
    assert_eq!((status, &problem["type"]), (409, &json!("urn:problem-type:dead-letter-redriven")));
    assert_eq!(desk.state(redriven).await.0, State::Redriven);
}

async fn bad_requests_name_field_and_rule(place: Place) {
    let desk = Desk::open(&place).await;
    let refused = |(status, problem): (u16, Value), field: &str, rule: &str| {
        assert_eq!(status, 400, "{problem}");
        let names_it = |error: &Value| error["field"] == field && error["rule"].as_str().unwrap().contains(rule);
        assert!(problem["errors"].as_array().unwrap().iter().any(names_it), "{field} {rule}: {problem}");
    };
    for (query, field, rule) in [
        ("state=closed", "state", "open, redriven or discarded"),
        ("reason=bad", "reason", "malformed, refused, exhausted or undeliverable"),
        ("topic=other", "topic", "token-grant-requests or token-grant-results"),
        ("topic=token-grant-requests-dead-letter", "topic", "token-grant-requests or token-grant-results"),
        ("limit=501", "limit", "from 1 to 500"),
        ("cursor=1", "cursor", "next_cursor"),
        ("sort=id", "sort", "is not a field"),
    ] {
        refused(desk.get(&format!("/dead-letters?{query}")).await, field, rule);
    }
    refused(desk.get("/dead-letters/1").await, "id", "a UUID, as GET /dead-letters lists them");
    refused(desk.post("/dead-letters/1/redrive").await, "id", "a UUID");
    refused(desk.post("/dead-letters/1/discard").await, "id", "a UUID");
    let nobodys = "019a9f5e-7c1e-7bd2-a3a7-0242ac120002";
    for answer in [
        desk.get(&format!("/dead-letters/{nobodys}")).await,
        desk.post(&format!("/dead-letters/{nobodys}/redrive")).await,
        desk.post(&format!("/dead-letters/{nobodys}/discard")).await,
    ] {
        assert_eq!((answer.0, &answer.1["type"]), (404, &json!("urn:problem-type:dead-letter-not-found")));
    }
    let id = desk.keep_new(&failure("1", "x")).await.to_string();
    for (body, field, rule) in [
        (json!({}), "ids", "set all to true"),
        (json!({"all": false}), "ids", "set all to true"),
        (json!({"all": "yes"}), "all", "true or false"),
        (json!({"ids": []}), "ids", "1 to 500"),
        (json!({"ids": id}), "ids", "a list"),
        (json!({"ids": [id, 7]}), "ids[1]", "must be text"),
        (json!({"ids": ["7"]}), "ids[0]", "a UUID"),
        (json!({"ids": [id], "all": true}), "ids", "left out"),
        (json!({"ids": [id], "reason": "malformed"}), "reason", "left out"),
        (json!({"ids": [id], "topic": "token-grant-requests"}), "topic", "left out"),
        (json!({"all": true, "reason": 1}), "reason", "must be text"),
        (json!({"all": true, "limit": 1}), "limit", "is not a field"),
    ] {
        refused(desk.post_json("/dead-letters/redrive", body).await, field, rule);
    }
    assert_eq!(desk.post_json("/dead-letters/redrive", json!([id])).await.0, 400);
    assert_eq!(desk.outbox().await.len(), 0, "a refused request has sent nothing");
}
