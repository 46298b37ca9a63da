//! What the service answers beside grants and campaigns: when something is amiss, and what it is.

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    a_closed_database_is_unavailable_for_now,
    a_grant_that_needs_attention_is_shown_and_set_going_again,
    dead_letters_are_served_here_too,
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
        "/claims/{campaign_id}/{wallet_address}",
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
        "/jobs/{job_id}",
        "/kill-switch",
        "/needs-attention",
        "/needs-attention/republish",
        "/status",
        "/token-request",
        "/token-requests/bulk",
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
async fn probes_and_metrics_are_answered() {
    let service = Service::start(Database::Sqlite).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(service.get(path).await.status, StatusCode::OK, "{path}");
    }
}
