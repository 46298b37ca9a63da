//! The campaign service's HTTP interface, from the request's bytes to the committed rows: bad input is refused with its
//! field and its rule and stores nothing, good input is durable before it is answered.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![expect(clippy::needless_pass_by_value, reason = "bodies are written where they are sent")]

#[path = "../support/mod.rs"]
mod support;

mod admission;
mod bulk;
mod campaigns;
mod claims;
mod events;
mod input;
mod operations;
mod operators;
mod past;
mod reading;
mod requests;
mod saga;
mod views;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use campaign::acceptor::{self, Acceptor};
use campaign::api::{self, Loader};
use campaign::claims::Trees;
use campaign::domain::{Grant, Patience};
use campaign::operator::Operator;
use campaign::republisher::Republisher;
use campaign::store::{Policy, Report, Store};
use chrono::{DateTime, TimeDelta, Utc};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use shared::clock::{Clock, from_micros};
use shared::dead_letter::DeadLetters;
use shared::event::{
    GrantCompleted, GrantFailed, GrantsConfirmed, GrantsReverted, GrantsStarted, GrantsSubmitted, ResultEvent,
};
use shared::health::Health;
use shared::http::with_common_routes;
use shared::id::RequestId;
use shared::outbox;
use support::{POLICY, open, row_counts};
use testkit::{Database, Place, on_both_databases};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// A request is published again once, after a minute.
const PATIENCE: Patience = Patience { first_wait: Duration::from_mins(1), limit: 1 };

/// The service as it is wired in production, without a socket.
struct Service {
    routes: Router,
    store: Store,
    clock: Clock,
    _place: Place,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
    text: String,
}

impl Service {
    async fn start(kind: Database) -> Self {
        Self::start_with(kind, POLICY).await
    }

    /// One whose campaigns must be made before they are used.
    async fn strict(kind: Database) -> Self {
        Self::start_with(kind, Policy { auto_create: false, ..POLICY }).await
    }

    async fn start_with(kind: Database, policy: Policy) -> Self {
        let place = Place::new(kind).await.unwrap();
        let (store, clock) = (open(&place).await, Clock::manual(at(0)));
        let (acceptor, writer) = acceptor::new(store.clone(), clock.clone(), Arc::default(), policy);
        tokio::spawn(writer.run(CancellationToken::new()));
        Self { routes: routes(store.clone(), acceptor, &clock), store, clock, _place: place }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        send(&self.routes, request).await
    }

    async fn post(&self, query: &str) -> Answer {
        self.send(post(query)).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(Request::delete(path).body(Body::empty()).unwrap()).await
    }

    async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(with_body(Request::put(path), body)).await
    }

    async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(with_body(Request::patch(path), body)).await
    }

    /// Makes a campaign that pays 10 tokens, with these settings besides.
    async fn campaign(&self, campaign_id: &str, mut settings: Value) {
        settings["name"] = json!(campaign_id);
        settings["amount"] = json!(10);
        let answer = self.put(&format!("/campaigns/{campaign_id}"), settings).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    }

    /// A grant that did not exist.
    async fn grant(&self, query: &str) -> Grant {
        let answer = self.post(query).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{query}: {}", answer.body);
        self.stored(answer.body["request_id"].as_str().unwrap()).await
    }

    async fn stored(&self, request_id: &str) -> Grant {
        self.store.grant(&request_id.parse().unwrap()).await.unwrap().unwrap()
    }

    /// Applies results now, as if one message had brought each of them.
    async fn apply(&self, results: &[ResultEvent]) {
        let reports: Vec<_> =
            results.iter().map(|event| Report { event, message_id: Some("7"), trace: None }).collect();
        let applied = self.store.apply(&reports, self.clock.now()).await.unwrap();
        assert_eq!(applied.unknown, 0);
    }

    fn advance(&self, seconds: i64) {
        self.clock.advance(TimeDelta::seconds(seconds));
    }

    /// What has become of a campaign.
    async fn statistics(&self, campaign_id: &str) -> Value {
        let answer = self.get(&format!("/campaigns/{campaign_id}/statistics")).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        answer.body
    }

    /// How many rows each table has that anything writes to.
    async fn all_rows(&self) -> Vec<(&'static str, i64)> {
        let mut counts = Vec::new();
        for table in [
            "event",
            "token_grant",
            "idempotency_key",
            "campaign",
            "listed_user",
            "campaign_minute",
            "campaign_transaction",
            "claim_leaf",
            "claim_root",
            "kill_switch",
            "outbox",
        ] {
            counts.push((table, self.count(&format!("select count(*) from {table}")).await));
        }
        counts
    }

    async fn count(&self, query: &str) -> i64 {
        let query = sqlx::AssertSqlSafe(query.to_owned());
        sqlx::query_scalar(query).fetch_one(self.store.database().reader()).await.unwrap()
    }

    /// The messages that wait to be published, oldest first.
    async fn messages(&self) -> Vec<Value> {
        let waiting = outbox::waiting(self.store.database(), i64::MAX).await.unwrap();
        waiting.iter().map(|waiting| serde_json::from_slice(&waiting.message.data).unwrap()).collect()
    }
}

fn routes(store: Store, acceptor: Acceptor, clock: &Clock) -> Router {
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    let letters = DeadLetters::new(store.database().clone(), clock.clone(), Arc::default());
    let republisher = Arc::new(Republisher::new(store.clone(), clock.clone(), Arc::default(), PATIENCE));
    let operator = Operator::new(store.clone(), clock.clone(), Arc::default());
    let loader = Loader { store: store.clone(), clock: clock.clone(), policy: POLICY, outbox_ready: Arc::default() };
    let trees = Trees::new(store.clone());
    let routes = api::routes(store, acceptor, letters, republisher, operator, loader, trees);
    with_common_routes(routes, Health::default(), metrics)
}

async fn send(routes: &Router, request: Request<Body>) -> Answer {
    let response = routes.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let text = String::from_utf8(bytes.into()).unwrap();
    let body = serde_json::from_str(&text).unwrap_or_else(|_| text.clone().into());
    Answer { status, headers, body, text }
}

fn post(query: &str) -> Request<Body> {
    Request::post(format!("/token-request?{query}")).body(Body::empty()).unwrap()
}

fn post_json(body: impl Into<Body>) -> Request<Body> {
    Request::post("/token-request").header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap()
}

fn with_body(request: axum::http::request::Builder, body: Value) -> Request<Body> {
    request.header(header::CONTENT_TYPE, "application/json").body(body.to_string().into()).unwrap()
}

fn with_key(mut request: Request<Body>, key: &[u8]) -> Request<Body> {
    request.headers_mut().append("Idempotency-Key", key.try_into().unwrap());
    request
}

/// The time that the clock shows after so many seconds; it begins at 2023-11-14T22:13:20Z.
fn at(seconds: i64) -> DateTime<Utc> {
    from_micros((1_700_000_000 + seconds) * 1_000_000)
}

/// The hash of a transaction.
fn hash(number: u64) -> String {
    format!("0x{number:064x}")
}

fn ids(grants: &[&Grant]) -> Vec<RequestId> {
    grants.iter().map(|grant| grant.request_id.clone()).collect()
}

fn started(grants: &[&Grant], second: i64) -> ResultEvent {
    ResultEvent::Started(GrantsStarted { request_ids: ids(grants), processed_at: at(second) })
}

fn submitted(grants: &[&Grant], transaction: u64, second: i64) -> ResultEvent {
    ResultEvent::Submitted(GrantsSubmitted {
        request_ids: ids(grants),
        transaction_hash: hash(transaction),
        processed_at: at(second),
    })
}

fn confirmed(grants: &[&Grant], transaction: u64, block_number: u64, second: i64) -> ResultEvent {
    ResultEvent::Confirmed(GrantsConfirmed {
        request_ids: ids(grants),
        transaction_hash: hash(transaction),
        block_number,
        block_hash: hash(block_number),
        processed_at: at(second),
    })
}

fn reverted(grants: &[&Grant], transaction: u64, second: i64) -> ResultEvent {
    ResultEvent::Reverted(GrantsReverted {
        request_ids: ids(grants),
        transaction_hash: hash(transaction),
        processed_at: at(second),
    })
}

/// It took 26,000 gas at 3 wei.
fn completed(grant: &Grant, transaction: u64) -> ResultEvent {
    ResultEvent::Completed(GrantCompleted {
        user_id: grant.request.user_id.clone(),
        campaign_id: grant.request.campaign_id.clone(),
        request_id: grant.request_id.clone(),
        transaction_hash: hash(transaction),
        timestamp: grant.requested_at,
        processed_at: grant.requested_at,
        wallet_address: None,
        block_number: Some(7),
        gas_used: Some(26_000),
        gas_price: Some(3),
    })
}

fn failed(grant: &Grant, code: &str) -> ResultEvent {
    ResultEvent::Failed(GrantFailed {
        user_id: grant.request.user_id.clone(),
        campaign_id: grant.request.campaign_id.clone(),
        request_id: grant.request_id.clone(),
        error_message: format!("it is {code}"),
        timestamp: grant.requested_at,
        processed_at: grant.requested_at,
        error_code: Some(code.to_owned()),
    })
}

/// Checks that the answer is a problem of this status, in the form of RFC 9457.
#[track_caller]
fn assert_problem(answer: &Answer, status: u16, what: &str) {
    assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.body);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/problem+json", "{what}");
    assert_eq!(answer.body["status"], status, "{what}");
    assert!(answer.body["type"].as_str().unwrap().starts_with("urn:problem-type:"), "{what}");
    assert!(!answer.body["title"].as_str().unwrap().is_empty(), "{what}");
}

/// Checks that the answer is a 400 that names this field and this rule, among others perhaps.
#[track_caller]
fn assert_refused(answer: &Answer, field: &str, rule: &str, what: &str) {
    assert_problem(answer, 400, what);
    let errors = answer.body["errors"].as_array().unwrap_or_else(|| panic!("{what}: {}", answer.body));
    let names_it = |error: &Value| error["field"] == field && error["rule"].as_str().unwrap().contains(rule);
    assert!(errors.iter().any(names_it), "{what}: {field} {rule} is not in {}", answer.body);
}

/// Checks that the answer is this very problem.
#[track_caller]
fn assert_told(answer: &Answer, status: u16, kind: &str, detail: &str) {
    assert_problem(answer, status, kind);
    assert_eq!(answer.body["type"], format!("urn:problem-type:{kind}"));
    assert_eq!(answer.body["detail"], detail, "{kind}");
}

/// The values of a member, of each element of a list.
fn each(list: &Value, member: &str) -> Vec<Value> {
    list.as_array().unwrap().iter().map(|element| element[member].clone()).collect()
}

/// The rows of a file of comma-separated values, its header first.
fn csv_rows(answer: &Answer) -> Vec<Vec<String>> {
    assert_eq!(answer.headers[header::CONTENT_TYPE], "text/csv; charset=utf-8; header=present");
    assert!(answer.text.ends_with("\r\n"), "lines end as RFC 4180 says");
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(answer.text.as_bytes());
    reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect()
}
