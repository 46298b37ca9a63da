//! A request is durable before it is answered, and a repeat is answered with the first grant.

use campaign::acceptor::Refused;
use support::{arrival, request};

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    a_new_grant_is_accepted_with_its_location,
    a_repeat_is_answered_with_the_first_grant,
    query_and_body_ask_for_the_same_thing,
    a_reused_key_is_refused_and_names_the_earlier_grant,
    another_amount_is_a_conflict_and_names_the_earlier_grant,
    concurrent_repeats_get_one_grant,
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

#[tokio::test]
async fn a_full_queue_is_unavailable_for_now_and_who_has_hung_up_is_not_served() {
    let place = Place::sqlite().unwrap();
    let (store, clock) = (open(&place).await, Clock::system());
    let (acceptor, writer) = acceptor::new(store.clone(), clock.clone(), Arc::default(), POLICY);
    let routes = routes(store.clone(), acceptor.clone(), &clock);
    // Nobody takes requests from the queue yet, and whoever has queued one hangs up.
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

    // Once there is room the same request goes through. Nothing is done for those who have hung up.
    tokio::spawn(writer.run(CancellationToken::new()));
    testkit::until(Duration::from_secs(20), "room in the queue", || async {
        send(&routes, post("user_id=alice&campaign_id=summer")).await.status == StatusCode::ACCEPTED
    })
    .await
    .unwrap();
    assert_eq!(row_counts(&store).await, [1, 1, 0, 1]);
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
