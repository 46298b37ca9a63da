//! Uploads of many requests: every line is decided by itself, and a repeated upload pays nobody twice.

use std::fmt::Write as _;

use axum::body::Bytes;
use futures::stream;

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    an_upload_of_json_lines_is_decided_line_by_line,
    an_upload_of_csv_is_decided_line_by_line,
    a_repeated_upload_pays_nobody_twice,
    lines_may_leave_campaign_and_amount_to_the_upload,
    lines_are_refused_as_requests_alone_are,
    an_upload_that_breaks_off_keeps_what_it_has_and_can_be_sent_again,
    an_upload_of_another_kind_is_refused,
    only_the_first_rejections_are_listed_and_all_are_counted,
    what_nobody_has_uploaded_is_not_found,
}

fn upload(query: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let path = format!("/token-requests/bulk{query}");
    Request::post(path).header(header::CONTENT_TYPE, kind).body(body.into()).unwrap()
}

const NDJSON: &str = "application/x-ndjson";

impl Service {
    /// Uploads, and returns the job as it is shown afterwards.
    async fn upload(&self, query: &str, kind: &str, body: impl Into<Body>) -> Value {
        let answer = self.send(upload(query, kind, body)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.body);
        let location = answer.headers[header::LOCATION].to_str().unwrap().to_owned();
        assert_eq!(self.get(&location).await.body, answer.body);
        answer.body
    }
}

/// Lines, and how many were accepted, repeated and rejected.
fn counts(job: &Value) -> [u64; 4] {
    ["lines", "accepted", "repeated", "rejected"].map(|name| job[name].as_u64().unwrap())
}

fn reasons(job: &Value) -> Vec<(u64, String)> {
    let rejections = job["rejections"].as_array().unwrap();
    rejections.iter().map(|one| (one["line"].as_u64().unwrap(), one["reason"].as_str().unwrap().to_owned())).collect()
}

async fn an_upload_of_json_lines_is_decided_line_by_line(service: Service) {
    let body = [
        r#"{"user_id": "alice", "campaign_id": "summer", "token_amount": 7}"#,
        r#"{"user_id": "bob", "campaign_id": "summer", "wallet_address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"}"#,
        r#"{"user_id": "carol"}"#,
        "",
        "nonsense",
        r#"{"user_id": "alice", "campaign_id": "summer", "token_amount": 7}"#,
        r#"{"user_id": "alice", "campaign_id": "summer", "token_amount": 8}"#,
    ]
    .join("\n");
    let job = service.upload("", NDJSON, body).await;
    assert_eq!((&job["state"], &job["done"], counts(&job)), (&json!("done"), &json!(true), [6, 2, 1, 3]));
    let reasons = reasons(&job);
    assert_eq!(reasons[0], (3, "campaign_id is missing".to_owned()));
    assert!(reasons[1].0 == 5 && reasons[1].1.contains("not JSON"), "{reasons:?}");
    assert_eq!(job["rejections"][2]["type"], "urn:problem-type:already-granted");

    assert_eq!(row_counts(&service.store).await[3], 2, "a message for each grant");
    let alice = service.get("/status?user_id=alice").await;
    assert_eq!((&alice.body["totals"]["grants"], &alice.body["totals"]["tokens"]), (&json!(1), &json!(7)));
}

async fn an_upload_of_csv_is_decided_line_by_line(service: Service) {
    let body = "user_id,campaign_id,token_amount\r\nalice,summer,7\r\n\"bob, the second\",summer,\r\ncarol,,\r\n";
    let job = service.upload("", "text/csv; charset=utf-8", body).await;
    assert_eq!(counts(&job), [3, 2, 0, 1]);
    assert_eq!(reasons(&job), [(4, "campaign_id is missing".to_owned())]);
    let bob = service.get("/status?user_id=bob,%20the%20second").await;
    assert_eq!(bob.body["grants"][0]["token_amount"], 100);
}

async fn a_repeated_upload_pays_nobody_twice(service: Service) {
    service.campaign("many", json!({"max_grants_per_user": null})).await;
    let mut body = String::new();
    for user in 0..1234 {
        writeln!(body, "{{\"user_id\": \"user-{user}\", \"campaign_id\": \"many\"}}").unwrap();
    }
    let job = service.upload("", NDJSON, body.clone()).await;
    assert_eq!(counts(&job), [1234, 1234, 0, 0]);
    let before = row_counts(&service.store).await;
    assert_eq!(counts(&service.upload("", NDJSON, body.clone()).await), [1234, 0, 1234, 0]);
    assert_eq!(row_counts(&service.store).await, before, "a repeat stores nothing");

    // Under a name of its own, the same lines are other requests.
    let mut november = upload("", NDJSON, body);
    november.headers_mut().insert("Idempotency-Key", "november".parse().unwrap());
    assert_eq!(counts(&service.send(november).await.body), [1234, 1234, 0, 0]);
}

async fn lines_may_leave_campaign_and_amount_to_the_upload(service: Service) {
    let body = "user_id,token_amount\nalice,\nbob,9\n";
    let job = service.upload("?campaign_id=summer&token_amount=5", "text/csv", body).await;
    assert_eq!(counts(&job), [2, 2, 0, 0]);
    let grants = service.get("/grants?campaign_id=summer").await;
    assert_eq!(
        [0, 1].map(|at| grants.body["grants"][at]["token_amount"].clone()),
        [json!(5), json!(9)],
        "{}",
        grants.body
    );
}

async fn lines_are_refused_as_requests_alone_are(service: Service) {
    service.campaign("small", json!({"budget": 25})).await;
    let line = |user| format!("{{\"user_id\": \"user-{user}\", \"campaign_id\": \"small\"}}\n");
    let lines = (0..4).map(line).collect::<Vec<_>>().concat();
    let job = service.upload("", NDJSON, lines).await;
    assert_eq!(counts(&job), [4, 2, 0, 2]);
    for rejection in job["rejections"].as_array().unwrap() {
        assert_eq!(rejection["type"], "urn:problem-type:budget-exhausted");
        assert_eq!(rejection["reason"], "5 tokens are left of the campaign's budget");
    }
}

async fn an_upload_that_breaks_off_keeps_what_it_has_and_can_be_sent_again(service: Service) {
    let lines: Vec<String> =
        (0..600).map(|user| format!("{{\"user_id\": \"user-{user}\", \"campaign_id\": \"summer\"}}\n")).collect();
    let whole = lines.concat();
    let lost = stream::iter([Ok(Bytes::from(whole.clone())), Err(std::io::Error::other("lost"))]);
    let answer = service.send(upload("", NDJSON, Body::from_stream(lost))).await;
    assert_problem(&answer, 408, "the connection was lost");
    let detail = answer.body["detail"].as_str().unwrap();
    let job = service.get(&detail[detail.find("/jobs/").unwrap()..]).await.body;
    assert_eq!((&job["state"], &job["done"]), (&json!("broken_off"), &json!(false)));
    assert_eq!(counts(&job), [500, 500, 0, 0], "whole batches are kept");
    assert_eq!(counts(&service.upload("", NDJSON, whole).await), [600, 100, 500, 0]);
}

async fn an_upload_of_another_kind_is_refused(service: Service) {
    let answer = service.send(upload("", "application/json", "[]")).await;
    assert_problem(&answer, 415, "JSON");
    let answer = service.send(upload("?user_id=alice", NDJSON, "")).await;
    assert_refused(&answer, "user_id", "not a field", "a field of a line");
    assert_eq!(row_counts(&service.store).await, [0, 0, 0, 0]);
    let empty = service.upload("", NDJSON, "").await;
    assert_eq!((counts(&empty), &empty["done"]), ([0, 0, 0, 0], &json!(true)));
}

async fn only_the_first_rejections_are_listed_and_all_are_counted(service: Service) {
    let job = service.upload("", NDJSON, "nonsense\n".repeat(1700)).await;
    assert_eq!(counts(&job), [1700, 0, 0, 1700]);
    let listed = reasons(&job);
    assert_eq!((listed.len(), listed[999].0), (1000, 1000));
}

async fn what_nobody_has_uploaded_is_not_found(service: Service) {
    let answer = service.get("/jobs/019a9f5e-7c1e-7bd2-a3a7-0242ac120002").await;
    assert_problem(&answer, 404, "no such job");
    assert_eq!(answer.body["type"], "urn:problem-type:job-not-found");
}
