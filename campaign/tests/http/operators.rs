//! What people order by hand: that a grant not be paid, that nothing be paid.

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    a_grant_is_cancelled_once_however_often_it_is_asked_for,
    a_grant_that_many_cancel_at_once_is_cancelled_once,
    what_is_in_a_transaction_or_has_ended_is_not_cancelled,
    a_cancellation_that_comes_too_late_is_paid,
    a_cancellation_without_a_result_is_asked_for_again,
    a_cancellation_that_cannot_be_read_changes_nothing,
    the_kill_switch_is_engaged_and_released_once_each,
    the_kill_switch_refuses_what_it_cannot_read,
}

async fn a_grant_is_cancelled_once_however_often_it_is_asked_for(service: Service) {
    let grant = service.grant("user_id=alice&campaign_id=summer&token_amount=7").await;
    service.apply(&[started(&[&grant], 1)]).await;
    service.advance(3);
    let path = format!("/grants/{}", grant.request_id);
    let asked = service.delete(&format!("{path}?changed_by=carol&reason=wrong+player")).await;
    assert_eq!((asked.status, &asked.body["state"]), (StatusCode::ACCEPTED, &json!("started")));
    assert_eq!(asked.body["cancel_requested_at"], "2023-11-14T22:13:23Z");
    let rows = service.all_rows().await;
    service.advance(3);
    let again = service.delete(&path).await;
    assert_eq!((again.status, &again.body), (StatusCode::ACCEPTED, &asked.body));
    assert_eq!(service.all_rows().await, rows, "no second event, no second message");

    let messages = service.messages().await;
    assert_eq!(each(&json!(messages), "event_type"), ["token.grant.requested", "token.grant.cancel_requested"]);
    let [request, cancellation] = &messages[..] else { panic!("two messages") };
    let mut carried = request.clone();
    carried.as_object_mut().unwrap().remove("event_type");
    assert_eq!(cancellation["request"], carried, "whoever has not seen the request knows it from this");
    for name in ["user_id", "campaign_id", "request_id", "timestamp"] {
        assert_eq!(cancellation[name], request[name]);
    }
    let waiting = outbox::waiting(service.store.database(), i64::MAX).await.unwrap();
    let attributes = &waiting.last().unwrap().message.attributes;
    assert_eq!(attributes["event_type"], "token.grant.cancel_requested");
    assert_eq!(attributes["request_id"], grant.request_id.as_str());

    service.apply(&[failed(&grant, "cancelled")]).await;
    let rows = service.all_rows().await;
    let done = service.delete(&path).await;
    assert_eq!((done.status, &done.body["state"]), (StatusCode::OK, &json!("cancelled")));
    assert_eq!(service.all_rows().await, rows);
    let events = service.get(&format!("{path}/events")).await.body;
    let expected = ["TokenGrantRequested", "Started", "CancelRequested", "Cancelled"];
    assert_eq!(each(&events["events"], "kind"), expected);
    let wish = &events["events"][2];
    assert_eq!((&wish["cause"]["actor"], &wish["data"]["reason"]), (&json!("carol"), &json!("wrong player")));
}

async fn a_grant_that_many_cancel_at_once_is_cancelled_once(service: Service) {
    let grant = service.grant("user_id=alice&campaign_id=summer").await;
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (routes, path) = (service.routes.clone(), format!("/grants/{}", grant.request_id));
        running.spawn(async move { send(&routes, Request::delete(path).body(Body::empty()).unwrap()).await.status });
    }
    assert_eq!(running.join_all().await, [StatusCode::ACCEPTED; 20]);
    assert_eq!(service.count("select count(*) from event where kind = 'CancelRequested'").await, 1);
    assert_eq!(service.messages().await.len(), 2);
}

async fn what_is_in_a_transaction_or_has_ended_is_not_cancelled(service: Service) {
    for (user, results, state) in [
        (
            "alice",
            &(|grant: &Grant| vec![submitted(&[grant], 1, 1)]) as &dyn Fn(&Grant) -> Vec<ResultEvent>,
            "submitted",
        ),
        ("bob", &|grant| vec![confirmed(&[grant], 1, 7, 1)], "confirmed"),
        ("carol", &|grant| vec![completed(grant, 1)], "completed"),
        ("dave", &|grant| vec![failed(grant, "rejected_by_token")], "failed"),
        ("erin", &|grant| vec![failed(grant, "expired")], "expired"),
    ] {
        let grant = service.grant(&format!("user_id={user}&campaign_id=summer")).await;
        service.apply(&results(&grant)).await;
        let rows = service.all_rows().await;
        let late = service.delete(&format!("/grants/{}", grant.request_id)).await;
        assert_told(&late, 409, "too-late-to-cancel", &format!("the grant is {state}"));
        assert_eq!(late.body["request_id"], grant.request_id.as_str());
        assert_eq!(service.all_rows().await, rows, "{state}");
    }
}

async fn a_cancellation_that_comes_too_late_is_paid(service: Service) {
    let grant = service.grant("user_id=alice&campaign_id=summer").await;
    let path = format!("/grants/{}", grant.request_id);
    assert_eq!(service.delete(&path).await.status, StatusCode::ACCEPTED);
    service.apply(&[submitted(&[&grant], 1, 1)]).await;
    let still = service.delete(&path).await;
    assert_eq!((still.status, &still.body["state"]), (StatusCode::ACCEPTED, &json!("submitted")));
    service.apply(&[completed(&grant, 1)]).await;
    let paid = service.delete(&path).await;
    assert_told(&paid, 409, "too-late-to-cancel", "the grant is completed");
    let shown = service.get(&path).await.body;
    assert_eq!(shown["cancel_requested_at"], "2023-11-14T22:13:20Z", "that it was asked for is not forgotten");
}

async fn a_cancellation_without_a_result_is_asked_for_again(service: Service) {
    let grant = service.grant("user_id=alice&campaign_id=summer").await;
    service.delete(&format!("/grants/{}", grant.request_id)).await;
    let mut tx = service.store.database().begin("test").await.unwrap();
    sqlx::query("delete from outbox").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    service.advance(3600);
    service.store.republish(service.clock.now(), PATIENCE, 500).await.unwrap();
    let messages = service.messages().await;
    assert_eq!(each(&json!(messages), "event_type"), ["token.grant.cancel_requested"]);
    assert_eq!(messages[0]["request"]["retry_count"], 1);
}

async fn a_cancellation_that_cannot_be_read_changes_nothing(service: Service) {
    let grant = service.grant("user_id=alice&campaign_id=summer").await;
    let rows = service.all_rows().await;
    for (query, field, rule) in [
        ("reason=", "reason", "must be text of 1 to 1000 bytes"),
        ("reason=a%00b", "reason", "must be text of 1 to 1000 bytes"),
        ("changed_by=%20", "changed_by", "must not be blank"),
        ("force=true", "force", "is not a field"),
    ] {
        let answer = service.delete(&format!("/grants/{}?{query}", grant.request_id)).await;
        assert_refused(&answer, field, rule, query);
    }
    assert_refused(&service.delete("/grants/%20").await, "request_id", "must not be blank", "no id");
    let unknown = service.delete("/grants/nobodys").await;
    assert_problem(&unknown, 404, "nobody's");
    assert_eq!(unknown.body["type"], "urn:problem-type:grant-not-found");
    assert_eq!(service.all_rows().await, rows);
}

async fn the_kill_switch_is_engaged_and_released_once_each(service: Service) {
    let untouched = service.get("/kill-switch").await;
    assert_eq!((untouched.status, untouched.body), (StatusCode::OK, json!({"engaged": false})));
    let rows = service.all_rows().await;
    let released = service.put("/kill-switch", json!({"engaged": false})).await;
    assert_eq!((released.status, released.body), (StatusCode::OK, json!({"engaged": false})));
    assert_eq!(service.all_rows().await, rows, "nothing to release");

    let wish = json!({"engaged": true, "changed_by": "carol", "reason": "a leaked key"});
    let engaged = service.put("/kill-switch", wish).await;
    let expected = json!({
        "engaged": true, "changed_by": "carol", "reason": "a leaked key", "changed_at": "2023-11-14T22:13:20Z",
    });
    assert_eq!((engaged.status, &engaged.body), (StatusCode::OK, &expected));
    let rows = service.all_rows().await;
    service.advance(5);
    let again = service.put("/kill-switch", json!({"engaged": "true", "changed_by": "dave"})).await;
    assert_eq!((again.status, &again.body), (StatusCode::OK, &expected), "it was carol");
    assert_eq!(service.get("/kill-switch").await.body, expected);
    assert_eq!(service.all_rows().await, rows);

    let request = Request::put("/kill-switch?engaged=false").body(Body::empty()).unwrap();
    let released = service.send(request).await;
    let expected = json!({"engaged": false, "changed_by": "operator", "changed_at": "2023-11-14T22:13:25Z"});
    assert_eq!((released.status, &released.body), (StatusCode::OK, &expected));

    let events = service.get("/events").await.body;
    assert_eq!(each(&events["events"], "kind"), ["KillSwitchEngaged", "KillSwitchReleased"]);
    assert_eq!(each(&events["events"], "stream"), ["service", "service"]);
    let told = |engaged, number, timestamp| json!({"event_type": "kill_switch.changed", "engaged": engaged, "number": number, "timestamp": timestamp});
    let expected = [told(true, 1, "2023-11-14T22:13:20Z"), told(false, 2, "2023-11-14T22:13:25Z")];
    assert_eq!(service.messages().await, expected, "its number is that of the entry, which grows");
}

async fn the_kill_switch_refuses_what_it_cannot_read(service: Service) {
    for (wish, field, rule) in [
        (json!({}), "engaged", "is missing"),
        (json!({"engaged": null}), "engaged", "is missing"),
        (json!({"engaged": 1}), "engaged", "must be true or false"),
        (json!({"engaged": "yes"}), "engaged", "must be true or false"),
        (json!({"engaged": true, "reason": ""}), "reason", "must be text of 1 to 1000 bytes"),
        (json!({"engaged": true, "changed_by": ""}), "changed_by", "must not be blank"),
        (json!({"engaged": true, "until": "tomorrow"}), "until", "is not a field"),
    ] {
        let what = wish.to_string();
        assert_refused(&service.put("/kill-switch", wish).await, field, rule, &what);
    }
    assert_eq!(service.get("/kill-switch").await.body, json!({"engaged": false}));
    assert!(service.messages().await.is_empty());
}
