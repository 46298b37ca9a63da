//! The campaign service's HTTP interface, from the request's bytes to the committed rows: bad input is refused with its
//! field and its rule and stores nothing, good input is durable before it is answered.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode, header};
use campaign::acceptor::{self, Acceptor, Refused};
use campaign::domain::Patience;
use campaign::operator::Operator;
use campaign::republisher::Republisher;
use campaign::store::{Report, Store};
use campaign::{api, domain};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use shared::clock::{Clock, from_micros};
use shared::dead_letter::DeadLetters;
use shared::event::{GrantCompleted, GrantsSubmitted, ResultEvent};
use shared::health::Health;
use shared::http::{MAX_BODY_BYTES, with_common_routes};
use support::{POLICY, arrival, open, request, row_counts};
use testkit::{Database, Place, on_both_databases};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

on_both_databases! {
    |kind| Service::start(kind).await;
    a_new_grant_is_accepted_with_its_location,
    a_repeat_is_answered_with_the_first_grant,
    query_and_body_ask_for_the_same_thing,
    bad_input_names_field_and_rule_and_stores_nothing,
    unreadable_requests_are_refused_and_store_nothing,
    a_reused_key_is_refused_and_names_the_earlier_grant,
    another_amount_is_a_conflict_and_names_the_earlier_grant,
    a_user_whom_nobody_has_seen_has_an_empty_list,
    status_lists_grants_and_totals_page_by_page,
    a_grant_tells_its_history,
    the_ledger_lists_all_grants_in_the_order_of_their_numbers,
    a_closed_database_is_unavailable_for_now,
    concurrent_repeats_get_one_grant,
    a_grant_that_needs_attention_is_shown_and_set_going_again,
    dead_letters_are_served_here_too,
}

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
}

impl Service {
    async fn start(kind: Database) -> Self {
        let place = Place::new(kind).await.unwrap();
        let (store, clock) = (open(&place).await, Clock::manual(from_micros(1_700_000_000_000_000)));
        let (acceptor, writer) = acceptor::new(store.clone(), clock.clone(), Arc::default(), POLICY);
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
}

fn routes(store: Store, acceptor: Acceptor, clock: &Clock) -> Router {
    let metrics = PrometheusBuilder::new().build_recorder().handle();
    let letters = DeadLetters::new(store.database().clone(), clock.clone(), Arc::default());
    let republisher = Arc::new(Republisher::new(store.clone(), clock.clone(), Arc::default(), PATIENCE));
    let operator = Operator::new(store.clone(), clock.clone(), Arc::default());
    let routes = api::routes(store, acceptor, letters, republisher, operator, clock.clone());
    with_common_routes(routes, Health::default(), metrics)
}

async fn send(routes: &Router, request: Request<Body>) -> Answer {
    let response = routes.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8(bytes.into()).unwrap().into());
    Answer { status, headers, body }
}

fn post(query: &str) -> Request<Body> {
    Request::post(format!("/token-request?{query}")).body(Body::empty()).unwrap()
}

fn post_json(body: impl Into<Body>) -> Request<Body> {
    Request::post("/token-request").header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap()
}

fn with_key(mut request: Request<Body>, key: &[u8]) -> Request<Body> {
    request.headers_mut().append("Idempotency-Key", key.try_into().unwrap());
    request
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

async fn a_new_grant_is_accepted_with_its_location(service: Service) {
    let answer = service.post("user_id=alice&campaign_id=summer").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    let request_id = answer.body["request_id"].as_str().unwrap();
    assert_eq!(answer.headers[header::LOCATION], format!("/grants/{request_id}"));
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!((&answer.body["state"], &answer.body["token_amount"]), (&json!("requested"), &json!(100)));
    assert_eq!(answer.body["requested_at"], "2023-11-14T22:13:20Z");

    let stored = service.store.grant(&request_id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(json!(stored), answer.body);
    assert_eq!(row_counts(&service.store).await, [1, 1, 0, 1]);
    let shown = service.get(answer.headers[header::LOCATION].to_str().unwrap()).await;
    assert_eq!(shown.body["request_id"], request_id);
}

async fn a_repeat_is_answered_with_the_first_grant(service: Service) {
    let query = "user_id=alice&campaign_id=summer&token_amount=5";
    let first = service.send(with_key(post(query), b"order-1")).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    for repeat in [post(query), with_key(post(query), b"order-1"), with_key(post(query), b"order-2")] {
        let repeat = service.send(repeat).await;
        assert_eq!((repeat.status, &repeat.body), (StatusCode::OK, &first.body));
        assert_eq!(repeat.headers[header::LOCATION], first.headers[header::LOCATION]);
    }
    assert_eq!(row_counts(&service.store).await, [1, 2, 2, 1]);
}

async fn query_and_body_ask_for_the_same_thing(service: Service) {
    let wallet = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
    let query = format!("user_id=%E3%83%97%20%26+1&campaign_id=summer&wallet_address={wallet}&token_amount=7");
    let first = service.post(&query).await;
    assert_eq!((first.status, &first.body["user_id"]), (StatusCode::ACCEPTED, &json!("プ & 1")));

    let body = json!({"user_id": "プ & 1", "campaign_id": "summer", "wallet_address": wallet, "token_amount": 7});
    for content_type in ["application/json", "application/json; charset=utf-8", "Application/JSON"] {
        let mut request = post_json(body.to_string());
        request.headers_mut().insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        let repeat = service.send(request).await;
        assert_eq!((repeat.status, &repeat.body), (StatusCode::OK, &first.body), "{content_type}");
    }
    // What is null is left out, and lower case carries no checksum.
    let sparse = json!({"user_id": "bob", "campaign_id": "summer", "wallet_address": null, "token_amount": null});
    let sparse = service.send(post_json(sparse.to_string())).await;
    assert_eq!((sparse.status, &sparse.body["token_amount"]), (StatusCode::ACCEPTED, &json!(100)));
    let lower =
        service.post(&query.replace("5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", &wallet[2..].to_lowercase())).await;
    assert_eq!((lower.status, &lower.body["wallet_address"]), (StatusCode::OK, &json!(wallet)));
}

async fn bad_input_names_field_and_rule_and_stores_nothing(service: Service) {
    const BLANK: &str = "must not be blank";
    const LONG: &str = "must be at most 128 bytes, this has 129";
    const CONTROL: &str = "control characters";
    const AMOUNT: &str = "must be a whole number of tokens from 1 to 1000000000";
    let long = "x".repeat(129);
    let long_in_bytes = "%C3%BC".repeat(64) + "x";

    // By query string: what is wrong, the query, the field, the rule.
    let queries = [
        ("no user", "campaign_id=c", "user_id", "is missing"),
        ("no campaign", "user_id=u", "campaign_id", "is missing"),
        ("empty user", "user_id=&campaign_id=c", "user_id", BLANK),
        ("blank campaign", "user_id=u&campaign_id=%20%09+", "campaign_id", BLANK),
        ("over-long user", &format!("user_id={long}&campaign_id=c"), "user_id", LONG),
        ("over-long campaign, in bytes", &format!("user_id=u&campaign_id={long_in_bytes}"), "campaign_id", LONG),
        ("NUL", "user_id=a%00b&campaign_id=c", "user_id", CONTROL),
        ("line feed", "user_id=u&campaign_id=a%0Ab", "campaign_id", CONTROL),
        ("C1 control", "user_id=a%C2%85b&campaign_id=c", "user_id", CONTROL),
        ("space at the end", "user_id=a%20&campaign_id=c", "user_id", "white space"),
        ("not UTF-8", "user_id=a%FFb&campaign_id=c", "user_id", "must be UTF-8"),
        ("field twice", "user_id=u&campaign_id=c&user_id=v", "user_id", "more than once"),
        ("field twice, equal", "user_id=u&campaign_id=c&campaign_id=c", "campaign_id", "more than once"),
        ("unknown field", "user_id=u&campaign_id=c&wallet_adress=0x1", "wallet_adress", "is not a field"),
        ("field in capitals", "user_id=u&campaign_id=c&User_Id=v", "User_Id", "is not a field"),
    ];
    for (what, query, field, rule) in queries {
        assert_refused(&service.post(query).await, field, rule, what);
    }
    for (wallet, rule) in [
        ("", "must be 0x and 40 hexadecimal digits"),
        ("0x5aAeb6", "must be 0x and 40 hexadecimal digits"),
        ("5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "must be 0x and 40 hexadecimal digits"),
        ("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAzz", "must be 0x and 40 hexadecimal digits"),
        ("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD", "did you mean 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed?"),
        ("0x0000000000000000000000000000000000000000", "must not be the zero address"),
    ] {
        let query = format!("user_id=u&campaign_id=c&wallet_address={wallet}");
        assert_refused(&service.post(&query).await, "wallet_address", rule, wallet);
    }
    for amount in ["0", "-1", "1.5", "1e3", "1000000001", "99999999999999999999999", "ten", "", "0x10", "%201", "NaN"] {
        let query = format!("user_id=u&campaign_id=c&token_amount={amount}");
        assert_refused(&service.post(&query).await, "token_amount", AMOUNT, amount);
    }
    // By body.
    let bodies = [
        ("no field", "{}", "user_id", "is missing"),
        ("null", r#"{"user_id":null,"campaign_id":"c"}"#, "user_id", "is missing"),
        ("NUL", r#"{"user_id":"a\u0000b","campaign_id":"c"}"#, "user_id", CONTROL),
        ("number", r#"{"user_id":42,"campaign_id":"c"}"#, "user_id", "must be text"),
        ("array", r#"{"user_id":["u"],"campaign_id":"c"}"#, "user_id", "must be text"),
        ("object", r#"{"user_id":"u","campaign_id":{}}"#, "campaign_id", "must be text"),
        ("boolean", r#"{"user_id":"u","campaign_id":"c","token_amount":true}"#, "token_amount", "must be"),
        ("zero", r#"{"user_id":"u","campaign_id":"c","token_amount":0}"#, "token_amount", AMOUNT),
        ("negative", r#"{"user_id":"u","campaign_id":"c","token_amount":-7}"#, "token_amount", AMOUNT),
        ("fraction", r#"{"user_id":"u","campaign_id":"c","token_amount":0.5}"#, "token_amount", AMOUNT),
        ("huge", r#"{"user_id":"u","campaign_id":"c","token_amount":18446744073709551616}"#, "token_amount", AMOUNT),
        ("words", r#"{"user_id":"u","campaign_id":"c","token_amount":"ten"}"#, "token_amount", AMOUNT),
        (
            "number as wallet",
            r#"{"user_id":"u","campaign_id":"c","wallet_address":7}"#,
            "wallet_address",
            "must be text",
        ),
        ("unknown field", r#"{"user_id":"u","campaign_id":"c","amount":7}"#, "amount", "is not a field"),
        ("field twice", r#"{"user_id":"u","campaign_id":"c","user_id":"v"}"#, "user_id", "more than once"),
    ];
    for (what, body, field, rule) in bodies {
        assert_refused(&service.send(post_json(body)).await, field, rule, what);
    }
    // By header.
    let good = || post("user_id=u&campaign_id=c");
    for (key, rule) in [
        (&b""[..], BLANK),
        (b"  ", BLANK),
        (long.as_bytes(), LONG),
        (b"a\tb", CONTROL),
        ("schlüssel".as_bytes(), "visible ASCII"),
        (b"\xff", "visible ASCII"),
    ] {
        let answer = service.send(with_key(good(), key)).await;
        assert_refused(&answer, "Idempotency-Key", rule, &String::from_utf8_lossy(key));
    }
    let twice = service.send(with_key(with_key(good(), b"one"), b"other")).await;
    assert_refused(&twice, "Idempotency-Key", "more than once", "two keys");

    assert_eq!(row_counts(&service.store).await, [0, 0, 0, 0]);
}

async fn unreadable_requests_are_refused_and_store_nothing(service: Service) {
    let good = r#"{"user_id":"u","campaign_id":"c"}"#;

    for (what, body) in [
        ("cut off", r#"{"user_id":"u""#),
        ("not JSON", "user_id=u&campaign_id=c"),
        ("array", r#"[{"user_id":"u","campaign_id":"c"}]"#),
        ("text", r#""u""#),
        ("null", "null"),
        ("two documents", &format!("{good}{good}")),
        ("lone surrogate", r#"{"user_id":"\ud800","campaign_id":"c"}"#),
        ("nested too deep", &format!(r#"{{"user_id":{}1{}}}"#, "[".repeat(500), "]".repeat(500))),
        ("number out of range", r#"{"user_id":"u","campaign_id":"c","token_amount":1e999}"#),
    ] {
        let answer = service.send(post_json(body.to_owned())).await;
        assert_problem(&answer, 400, what);
        assert!(answer.body["detail"].as_str().unwrap().contains("body"), "{what}: {}", answer.body);
    }
    let not_utf8 = service.send(post_json(&b"{\"user_id\":\"\xff\",\"campaign_id\":\"c\"}"[..])).await;
    assert_problem(&not_utf8, 400, "not UTF-8");

    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx")]
    {
        let mut request = post_json(good);
        request.headers_mut().remove(header::CONTENT_TYPE);
        if let Some(content_type) = content_type {
            request.headers_mut().insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        let answer = service.send(request).await;
        assert_problem(&answer, 415, content_type.unwrap_or("no content type"));
        assert!(answer.body["detail"].as_str().unwrap().contains("application/json"));
    }

    let padding = " ".repeat(MAX_BODY_BYTES - good.len());
    let too_large = service.send(post_json(format!("{good}{padding} "))).await;
    assert_problem(&too_large, 413, "one byte too many");
    assert!(too_large.body["detail"].as_str().unwrap().contains("65536"));

    let mut both = post("user_id=u");
    both.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
    *both.body_mut() = r#"{"campaign_id":"c"}"#.into();
    let both = service.send(both).await;
    assert_problem(&both, 400, "fields in query and body");
    assert!(both.body["detail"].as_str().unwrap().contains("not in both"));

    assert_eq!(row_counts(&service.store).await, [0, 0, 0, 0]);
    let as_large_as_may_be = service.send(post_json(format!("{good}{padding}"))).await;
    assert_eq!(as_large_as_may_be.status, StatusCode::ACCEPTED);
}

async fn a_reused_key_is_refused_and_names_the_earlier_grant(service: Service) {
    let first = service.send(with_key(post("user_id=alice&campaign_id=summer"), b"order-1")).await;
    let before = row_counts(&service.store).await;
    for query in ["user_id=bob&campaign_id=summer", "user_id=alice&campaign_id=summer&token_amount=99"] {
        let answer = service.send(with_key(post(query), b"order-1")).await;
        assert_problem(&answer, 422, query);
        assert_eq!(answer.body["type"], "urn:problem-type:idempotency-key-reused");
        assert_eq!(answer.body["request_id"], first.body["request_id"]);
    }
    assert_eq!(row_counts(&service.store).await, before);
}

async fn another_amount_is_a_conflict_and_names_the_earlier_grant(service: Service) {
    let first = service.post("user_id=alice&campaign_id=summer").await;
    let before = row_counts(&service.store).await;
    let answer = service.post("user_id=alice&campaign_id=summer&token_amount=99").await;
    assert_problem(&answer, 409, "another amount");
    assert_eq!(answer.body["type"], "urn:problem-type:already-granted");
    assert_eq!(answer.body["request_id"], first.body["request_id"]);
    assert_eq!(row_counts(&service.store).await, before);
}

async fn a_user_whom_nobody_has_seen_has_an_empty_list(service: Service) {
    let answer = service.get("/status?user_id=test").await;
    assert_eq!(answer.status, StatusCode::OK);
    let totals = json!({"grants": 0, "tokens": 0, "tokens_completed": 0, "tokens_pending": 0, "tokens_failed": 0});
    assert_eq!(answer.body, json!({"user_id": "test", "grants": [], "totals": totals}));
}

async fn status_lists_grants_and_totals_page_by_page(service: Service) {
    for campaign in 1..=5 {
        service.post(&format!("user_id=alice&campaign_id=c{campaign}&token_amount={campaign}")).await;
        service.post(&format!("user_id=bob&campaign_id=c{campaign}")).await;
    }
    let campaigns = |answer: &Answer| -> Vec<String> {
        let grants = answer.body["grants"].as_array().unwrap();
        grants.iter().map(|grant| grant["campaign_id"].as_str().unwrap().to_owned()).collect()
    };
    let (mut cursor, mut pages) = (String::new(), Vec::new());
    loop {
        let page = service.get(&format!("/status?user_id=alice&limit=2{cursor}")).await;
        assert_eq!(
            (page.status, &page.body["totals"]["tokens"]),
            (StatusCode::OK, &json!(15)),
            "totals are of all pages"
        );
        pages.push(campaigns(&page));
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, [vec!["c5", "c4"], vec!["c3", "c2"], vec!["c1"]]);

    let one = service.get("/status?user_id=alice&campaign_id=c2").await;
    assert_eq!((campaigns(&one), &one.body["totals"]["tokens"]), (vec!["c2".to_owned()], &json!(2)));
    let all = service.get("/status?user_id=alice&limit=5").await;
    assert_eq!((campaigns(&all).len(), all.body.get("next_cursor")), (5, None));
}

async fn a_grant_tells_its_history(service: Service) {
    let accepted = service.post("user_id=alice&campaign_id=summer").await;
    let request_id = accepted.body["request_id"].as_str().unwrap();
    let grant = service.store.grant(&request_id.parse().unwrap()).await.unwrap().unwrap();
    let hash = format!("0x{}", "ab".repeat(32));
    let submitted = ResultEvent::Submitted(GrantsSubmitted {
        request_ids: vec![grant.request_id.clone()],
        transaction_hash: hash.clone(),
        processed_at: grant.requested_at,
    });
    let completed = ResultEvent::Completed(completed(&grant, &hash));
    service.clock.advance(chrono::TimeDelta::seconds(2));
    let reports = [&submitted, &completed].map(|event| Report { event, message_id: Some("7"), trace: None });
    service.store.apply(&reports, service.clock.now()).await.unwrap();

    let answer = service.get(&format!("/grants/{request_id}")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!((&answer.body["state"], &answer.body["transaction_hash"]), (&json!("completed"), &json!(hash)));
    assert_eq!(answer.body["completed_at"], "2023-11-14T22:13:22Z");
    let events = answer.body["events"].as_array().unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["TokenGrantRequested", "BlockchainTxSubmitted", "Completed"]);
    assert_eq!(events[0]["data"]["token_amount"], 100);

    let missing = service.get("/grants/019a9f5e-7c1e-7bd2-a3a7-0242ac120002").await;
    assert_problem(&missing, 404, "no such grant");
    assert_eq!(missing.body["type"], "urn:problem-type:grant-not-found");
}

fn completed(grant: &domain::Grant, hash: &str) -> GrantCompleted {
    GrantCompleted {
        user_id: grant.request.user_id.clone(),
        campaign_id: grant.request.campaign_id.clone(),
        request_id: grant.request_id.clone(),
        transaction_hash: hash.to_owned(),
        timestamp: grant.requested_at,
        processed_at: grant.requested_at,
        wallet_address: None,
        block_number: Some(7),
        gas_used: None,
        gas_price: None,
    }
}

async fn the_ledger_lists_all_grants_in_the_order_of_their_numbers(service: Service) {
    let empty = service.get("/grants").await;
    let issuer = String::from(service.store.issuer());
    assert_eq!((empty.status, empty.body), (StatusCode::OK, json!({"issuer": issuer, "grants": []})));

    for user in 0..5 {
        service.post(&format!("user_id=user-{user}&campaign_id=summer&token_amount={}", user + 1)).await;
    }
    let (mut after, mut pages) = (String::new(), Vec::new());
    loop {
        let page = service.get(&format!("/grants?limit=2{after}")).await;
        assert_eq!((page.status, &page.body["issuer"]), (StatusCode::OK, &json!(issuer)));
        let grants = page.body["grants"].as_array().unwrap();
        pages.push(grants.iter().map(|grant| grant["grant_index"].as_u64().unwrap()).collect::<Vec<_>>());
        for grant in grants {
            let amount = grant["grant_index"].as_u64().unwrap() + 1;
            assert_eq!(grant["token_amount"], amount);
            assert_eq!(grant["user_id"], format!("user-{}", amount - 1));
            assert_eq!((&grant["state"], &grant["wallet_address"]), (&json!("requested"), &json!(null)));
        }
        let Some(next) = page.body["next_after"].as_u64() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(pages, [vec![0, 1], vec![2, 3], vec![4]]);

    for (query, field, rule) in [
        ("limit=501", "limit", "1 to 500"),
        ("limit=0", "limit", "1 to 500"),
        ("after=x", "after", "invalid digit"),
        ("before=1", "before", "not a field"),
    ] {
        assert_refused(&service.get(&format!("/grants?{query}")).await, field, rule, query);
    }
    let beyond = service.get(&format!("/grants?after={}", u64::MAX)).await;
    assert_eq!(beyond.body["grants"], json!([]));
}

async fn a_closed_database_is_unavailable_for_now(service: Service) {
    service.store.database().close().await;
    for answer in [
        service.post("user_id=alice&campaign_id=summer").await,
        service.get("/status?user_id=alice").await,
        service.get("/grants/some-grant").await,
        service.get("/grants").await,
    ] {
        assert_problem(&answer, 503, "database away");
        assert_eq!(answer.headers[header::RETRY_AFTER], "1");
        assert!(!answer.body.to_string().contains("pool"), "what broke inside is not told: {}", answer.body);
    }
    let refused = service.post("user_id=alice").await;
    assert_refused(&refused, "campaign_id", "is missing", "rules are checked without the database");
}

async fn concurrent_repeats_get_one_grant(service: Service) {
    let mut running = tokio::task::JoinSet::new();
    for number in 0..60 {
        let routes = service.routes.clone();
        running.spawn(async move {
            let answer = send(&routes, post(&format!("user_id=user-{}&campaign_id=summer", number % 3))).await;
            (answer.body["user_id"].to_string(), answer.body["request_id"].to_string(), answer.status)
        });
    }
    let answers = running.join_all().await;
    assert_eq!(answers.iter().filter(|(.., status)| *status == StatusCode::ACCEPTED).count(), 3);
    assert_eq!(answers.iter().filter(|(.., status)| *status == StatusCode::OK).count(), 57);
    let grants: std::collections::BTreeSet<_> = answers.into_iter().map(|(user, grant, _)| (user, grant)).collect();
    assert_eq!(grants.len(), 3);
    assert_eq!(row_counts(&service.store).await, [3, 3, 0, 3]);
}

/// Publishes what is overdue again, after a time that is long enough, as if the relay had published everything before.
async fn wait_for_nothing(service: &Service) {
    let mut tx = service.store.database().begin("test").await.unwrap();
    sqlx::query("delete from outbox").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    service.clock.advance(chrono::TimeDelta::hours(1));
    service.store.republish(service.clock.now(), PATIENCE, 500).await.unwrap();
}

async fn a_grant_that_needs_attention_is_shown_and_set_going_again(service: Service) {
    let mut ids = Vec::new();
    for user in ["alice", "bob", "carol"] {
        let accepted = service.post(&format!("user_id={user}&campaign_id=summer")).await;
        ids.push(accepted.body["request_id"].as_str().unwrap().to_owned());
    }
    let none = service.get("/needs-attention").await;
    assert_eq!(none.body, json!({"total": 0, "grants": []}));
    wait_for_nothing(&service).await;
    wait_for_nothing(&service).await;

    let since = "2023-11-15T00:13:20Z";
    let status = service.get("/status?user_id=alice").await;
    assert_eq!(status.body["grants"][0]["needs_attention_since"], since);
    let shown = service.get(&format!("/grants/{}", ids[0])).await;
    assert_eq!((&shown.body["needs_attention_since"], &shown.body["state"]), (&json!(since), &json!("requested")));
    assert_eq!(shown.body["events"][2]["kind"], "NeedsAttention");
    let first = service.get("/needs-attention?limit=2").await;
    assert_eq!((first.body["total"].as_u64(), first.body["grants"].as_array().unwrap().len()), (Some(3), 2));
    let rest = service.get(&format!("/needs-attention?cursor={}", first.body["next_cursor"].as_str().unwrap())).await;
    assert_eq!((&rest.body["grants"][0]["request_id"], &rest.body["next_cursor"]), (&json!(ids[0]), &Value::Null));

    let republish = |id: &str| Request::post(format!("/grants/{id}/republish")).body(Body::empty()).unwrap();
    for _ in 0..2 {
        let going = service.send(republish(&ids[0])).await;
        assert_eq!((going.status, &going.body["needs_attention_since"]), (StatusCode::OK, &Value::Null));
        assert_eq!(going.body["retry_count"], 2);
    }
    assert_eq!(row_counts(&service.store).await[3], 1, "it is published again once");
    let all = || Request::post("/needs-attention/republish").body(Body::empty()).unwrap();
    assert_eq!(service.send(all()).await.body, json!({"republished": 2, "remaining": 0}));
    assert_eq!(service.send(all()).await.body, json!({"republished": 0, "remaining": 0}));
    assert_eq!(row_counts(&service.store).await[3], 3);

    assert_problem(&service.send(republish("nobodys")).await, 404, "no such grant");
    assert_refused(&service.send(republish("%20")).await, "request_id", "blank", "no request id");
    assert_refused(&service.get("/needs-attention?limit=0").await, "limit", "from 1 to 500", "no limit");
    assert_refused(&service.get("/needs-attention?cursor=x").await, "cursor", "next_cursor", "no cursor");
}

async fn dead_letters_are_served_here_too(service: Service) {
    let answer = service.get("/dead-letters").await;
    assert_eq!((answer.status, &answer.body), (StatusCode::OK, &json!({"dead_letters": []})));
    let document = service.get("/openapi.json").await;
    assert!(document.body["paths"]["/dead-letters/{id}/redrive"]["post"].is_object());
}

#[tokio::test]
async fn a_full_queue_is_unavailable_for_now_and_stores_nothing() {
    let place = Place::sqlite().unwrap();
    let (store, clock) = (open(&place).await, Clock::system());
    let (acceptor, writer) = acceptor::new(store.clone(), clock.clone(), Arc::default(), POLICY);
    let routes = routes(store.clone(), acceptor.clone(), &clock);
    // Nobody takes requests from the queue yet; whoever has queued one and hung up does not take it out again.
    let refused = loop {
        tokio::select! {
            biased;
            refused = acceptor.accept(arrival(request("bob", "summer", 1), None)) => break refused.unwrap_err(),
            () = std::future::ready(()) => {}
        }
    };
    assert!(matches!(refused, Refused::QueueFull));

    let answer = send(&routes, post("user_id=alice&campaign_id=summer")).await;
    assert_problem(&answer, 503, "queue full");
    assert_eq!(answer.headers[header::RETRY_AFTER], "1");
    assert_eq!(answer.body["detail"], "too many requests are waiting");

    // With the queue drained the same request goes through, and the one that was refused has left nothing.
    tokio::spawn(writer.run(CancellationToken::new()));
    testkit::until(Duration::from_secs(20), "the queue to be drained", || async {
        row_counts(&store).await == [1, 1, 0, 1]
    })
    .await
    .unwrap();
    assert_eq!(send(&routes, post("user_id=alice&campaign_id=summer")).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn other_paths_and_methods_are_problems_too() {
    let service = Service::start(Database::Sqlite).await;
    for path in ["/", "/nothing", "/token-request/", "/grants/", "/grants/a/b", "/status/"] {
        assert_problem(&service.get(path).await, 404, path);
    }
    for (method, path, allowed) in [
        ("GET", "/token-request?user_id=u&campaign_id=c", "POST"),
        ("PUT", "/token-request?user_id=u&campaign_id=c", "POST"),
        ("DELETE", "/token-request", "POST"),
        ("POST", "/status?user_id=u", "GET,HEAD"),
        ("PATCH", "/grants/x", "GET,HEAD,DELETE"),
        ("POST", "/grants", "GET,HEAD"),
        ("POST", "/openapi.json", "GET,HEAD"),
    ] {
        let answer = service.send(Request::builder().method(method).uri(path).body(Body::empty()).unwrap()).await;
        assert_problem(&answer, 405, path);
        assert_eq!(answer.headers[header::ALLOW], allowed, "{method} {path}");
    }
    assert_eq!(row_counts(&service.store).await, [0, 0, 0, 0]);
}

#[tokio::test]
async fn questions_with_bad_parameters_are_refused() {
    const LIMIT: &str = "must be a number from 1 to 500";
    const CURSOR: &str = "must be the next_cursor of an earlier answer";
    let service = Service::start(Database::Sqlite).await;
    let long = "x".repeat(129);
    for (query, field, rule) in [
        ("", "user_id", "is missing"),
        ("user_id=", "user_id", "must not be blank"),
        (&format!("user_id={long}"), "user_id", "must be at most 128 bytes"),
        ("user_id=a%00b", "user_id", "control characters"),
        ("user_id=u&user_id=v", "user_id", "more than once"),
        ("user_id=u&campaign_id=%0A", "campaign_id", "must not be blank"),
        ("user_id=u&campaign=c", "campaign", "is not a field"),
        ("user_id=u&limit=0", "limit", LIMIT),
        ("user_id=u&limit=501", "limit", LIMIT),
        ("user_id=u&limit=-1", "limit", LIMIT),
        ("user_id=u&limit=many", "limit", LIMIT),
        ("user_id=u&limit=99999999999", "limit", LIMIT),
        ("user_id=u&cursor=", "cursor", CURSOR),
        ("user_id=u&cursor=-1", "cursor", CURSOR),
        ("user_id=u&cursor=abc", "cursor", CURSOR),
        ("user_id=u&cursor=99999999999999999999", "cursor", CURSOR),
    ] {
        assert_refused(&service.get(&format!("/status?{query}")).await, field, rule, query);
    }
    for (path, rule) in [
        ("/grants/%20", "must not be blank"),
        (&format!("/grants/{long}"), "must be at most 128 bytes"),
        ("/grants/a%00b", "control characters"),
        ("/grants/a%0Ab", "control characters"),
        ("/grants/%FF", "UTF-8"),
    ] {
        assert_refused(&service.get(path).await, "request_id", rule, path);
    }
}

#[tokio::test]
async fn all_that_is_wrong_is_told_at_once() {
    let service = Service::start(Database::Sqlite).await;
    let answer = service
        .post("user_id=%20&wallet_address=0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD&token_amount=0&token_amuont=5")
        .await;
    insta::assert_json_snapshot!(answer.body, @r#"
    {
      "errors": [
        {
          "field": "user_id",
          "rule": "must not be blank"
        },
        {
          "field": "campaign_id",
          "rule": "is missing"
        },
        {
          "field": "wallet_address",
          "rule": "has a wrong EIP-55 checksum; did you mean 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed?"
        },
        {
          "field": "token_amount",
          "rule": "must be a whole number of tokens from 1 to 1000000000"
        },
        {
          "field": "token_amuont",
          "rule": "is not a field of this request"
        }
      ],
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:problem-type:invalid-request"
    }
    "#);
}

#[tokio::test]
async fn the_openapi_document_is_served() {
    let service = Service::start(Database::Sqlite).await;
    let answer = service.get("/openapi.json").await;
    assert_eq!(
        (answer.status, &answer.headers[header::CONTENT_TYPE]),
        (StatusCode::OK, &"application/json".parse().unwrap())
    );
    assert_eq!(answer.body["openapi"], "3.1.0");
    let paths: Vec<_> = answer.body["paths"].as_object().unwrap().keys().collect();
    let expected = [
        "/campaigns",
        "/campaigns/{campaign_id}",
        "/campaigns/{campaign_id}/events",
        "/campaigns/{campaign_id}/statistics",
        "/dead-letters",
        "/dead-letters/redrive",
        "/dead-letters/{id}",
        "/dead-letters/{id}/discard",
        "/dead-letters/{id}/redrive",
        "/events",
        "/grants",
        "/grants/{request_id}",
        "/grants/{request_id}/events",
        "/grants/{request_id}/republish",
        "/kill-switch",
        "/needs-attention",
        "/needs-attention/republish",
        "/status",
        "/token-request",
        "/transactions",
        "/users/{user_id}",
    ];
    assert_eq!(paths, expected);
    // Every status that these tests have seen is described.
    let described = |path: &str, method: &str| -> Vec<String> {
        let mut statuses: Vec<_> =
            answer.body["paths"][path][method]["responses"].as_object().unwrap().keys().cloned().collect();
        statuses.sort();
        statuses
    };
    assert_eq!(
        described("/token-request", "post"),
        ["200", "202", "400", "403", "404", "405", "409", "413", "415", "422", "500", "503"]
    );
    assert_eq!(described("/status", "get"), ["200", "400", "405", "500", "503"]);
    assert_eq!(described("/grants", "get"), ["200", "400", "405", "500", "503"]);
    assert_eq!(described("/grants/{request_id}", "get"), ["200", "400", "404", "405", "500", "503"]);
}

#[tokio::test]
async fn the_callers_trace_goes_with_the_grant() {
    let service = Service::start(Database::Sqlite).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut asked = post("user_id=alice&campaign_id=summer");
    asked.headers_mut().insert("traceparent", trace.parse().unwrap());
    let answer = service.send(asked).await;
    let request_id = answer.body["request_id"].as_str().unwrap().parse().unwrap();
    let grant = service.store.grant(&request_id).await.unwrap().unwrap();
    assert_eq!(grant.trace.unwrap().trace_id(), "0af7651916cd43dd8448eb211c80319c");
}

#[tokio::test]
async fn probes_and_metrics_are_answered() {
    let service = Service::start(Database::Sqlite).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(service.get(path).await.status, StatusCode::OK, "{path}");
    }
}
