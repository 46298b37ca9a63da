//! What stood at an earlier time, as the ledger tells it.

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    a_grant_is_shown_as_it_stood,
    a_users_grants_and_totals_are_shown_as_they_stood,
    the_past_comes_page_by_page_and_by_campaign,
    the_present_is_the_past_of_now,
    times_that_are_none_are_refused,
}

async fn a_grant_is_shown_as_it_stood(service: Service) {
    let grant = service.grant("user_id=alice&campaign_id=summer").await;
    for (second, result) in [
        (10, started(&[&grant], 1)),
        (20, submitted(&[&grant], 1, 2)),
        (30, failed(&grant, "rejected_by_token")),
        (40, completed(&grant, 2)),
    ] {
        service.clock.advance(at(second) - service.clock.now());
        service.apply(&[result]).await;
    }
    let path = format!("/grants/{}", grant.request_id);
    for (time, state, transaction, error, events) in [
        ("2023-11-14T22:13:20Z", "requested", None, None, 1),
        ("2023-11-14T22:13:29.999999Z", "requested", None, None, 1),
        ("2023-11-14T22:13:30Z", "started", None, None, 2),
        ("2023-11-14T23:13:45%2B01:00", "submitted", Some(1), None, 3),
        ("2023-11-14T22:13:50Z", "failed", Some(1), Some("rejected_by_token"), 4),
        ("2023-11-14T22:13:59Z", "failed", Some(1), Some("rejected_by_token"), 4),
        ("2023-11-14T22:14:00Z", "completed", Some(2), None, 5),
        ("9999-12-31T23:59:59Z", "completed", Some(2), None, 5),
    ] {
        let then = service.get(&format!("{path}?at={time}")).await;
        assert_eq!((then.status, &then.body["state"]), (StatusCode::OK, &json!(state)), "{time}");
        assert_eq!(then.body["transaction_hash"], json!(transaction.map(hash)), "{time}");
        assert_eq!(then.body["error_code"], json!(error), "{time}");
        assert_eq!(then.body["events"].as_array().unwrap().len(), events, "{time}");
        let ended = matches!(state, "failed" | "completed");
        assert_eq!(then.body["completed_at"].is_string(), ended, "{time}");
    }
    for time in ["2023-11-14T22:13:19.999999Z", "1970-01-01T00:00:00Z", "0000-01-01T00:00:00Z"] {
        let before = service.get(&format!("{path}?at={time}")).await;
        assert_problem(&before, 404, time);
        assert_eq!(before.body["type"], "urn:problem-type:grant-not-found");
    }
}

async fn a_users_grants_and_totals_are_shown_as_they_stood(service: Service) {
    let alice = |campaign, amount| format!("user_id=alice&campaign_id={campaign}&token_amount={amount}");
    let first = service.grant(&alice("a", 1)).await;
    service.advance(10);
    let second = service.grant(&alice("b", 10)).await;
    service.grant("user_id=bob&campaign_id=a&token_amount=7").await;
    service.advance(10);
    service.apply(&[completed(&first, 1)]).await;
    service.advance(10);
    service.apply(&[failed(&second, "expired")]).await;

    for (second, states, totals) in [
        (-1, vec![], [0, 0, 0, 0, 0]),
        (0, vec!["requested"], [1, 1, 0, 1, 0]),
        (9, vec!["requested"], [1, 1, 0, 1, 0]),
        (10, vec!["requested", "requested"], [2, 11, 0, 11, 0]),
        (20, vec!["requested", "completed"], [2, 11, 1, 10, 0]),
        (29, vec!["requested", "completed"], [2, 11, 1, 10, 0]),
        (30, vec!["expired", "completed"], [2, 11, 1, 0, 10]),
        (1_000_000, vec!["expired", "completed"], [2, 11, 1, 0, 10]),
    ] {
        let time = at(second).to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        let then = service.get(&format!("/status?user_id=alice&at={time}")).await;
        assert_eq!(
            (then.status, each(&then.body["grants"], "state")),
            (StatusCode::OK, states.iter().map(|state| json!(state)).collect()),
            "{time}"
        );
        let names = ["grants", "tokens", "tokens_completed", "tokens_pending", "tokens_failed"];
        assert_eq!(names.map(|name| then.body["totals"][name].clone()), totals, "{time}");
    }
}

async fn the_past_comes_page_by_page_and_by_campaign(service: Service) {
    for campaign in 1..=5 {
        service.grant(&format!("user_id=alice&campaign_id=c{campaign}&token_amount={campaign}")).await;
        service.advance(10);
    }
    let campaigns = |answer: &Answer| each(&answer.body["grants"], "campaign_id");
    // As it stood before the fifth.
    let question = "/status?user_id=alice&at=2023-11-14T22:13:59Z";
    let (mut cursor, mut pages) = (String::new(), Vec::new());
    loop {
        let page = service.get(&format!("{question}&limit=2{cursor}")).await;
        assert_eq!(page.body["totals"]["tokens"], 10, "totals are of all pages");
        pages.push(campaigns(&page));
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, [vec!["c4", "c3"], vec!["c2", "c1"]]);
    let one = service.get(&format!("{question}&campaign_id=c2")).await;
    assert_eq!((campaigns(&one), &one.body["totals"]["tokens"]), (vec![json!("c2")], &json!(2)));
    let none = service.get(&format!("{question}&campaign_id=c5")).await;
    assert_eq!((campaigns(&none), &none.body["totals"]["grants"]), (vec![], &json!(0)));
}

async fn the_present_is_the_past_of_now(service: Service) {
    let mut grants = Vec::new();
    for user in ["alice", "bob", "carol"] {
        grants.push(service.grant(&format!("user_id={user}&campaign_id=summer")).await);
    }
    let [alice, bob, carol] = &grants[..] else { panic!("three") };
    service.apply(&[started(&[alice, bob], 1), confirmed(&[alice], 1, 7, 2), reverted(&[alice], 1, 3)]).await;
    service.advance(60);
    service.delete(&format!("/grants/{}", bob.request_id)).await;
    service.apply(&[completed(bob, 2), failed(carol, "x")]).await;
    let now = service.clock.now().to_rfc3339();
    let now = now.replace('+', "%2B");
    for grant in [alice, bob, carol] {
        let path = format!("/grants/{}", grant.request_id);
        let then = service.get(&format!("{path}?at={now}")).await;
        assert_eq!((then.status, then.body), (StatusCode::OK, service.get(&path).await.body));
        let path = format!("/status?user_id={}", grant.request.user_id);
        assert_eq!(service.get(&format!("{path}&at={now}")).await.body, service.get(&path).await.body);
    }
}

async fn times_that_are_none_are_refused(service: Service) {
    let grant = service.grant("user_id=alice&campaign_id=summer").await;
    for time in [
        "",
        "yesterday",
        "1700000000",
        "2023-11-14",
        "2023-11-14T22:13:20",
        "2023-13-14T22:13:20Z",
        "2023-11-14T25:00:00Z",
    ] {
        for path in [format!("/grants/{}?at={time}", grant.request_id), format!("/status?user_id=alice&at={time}")] {
            assert_refused(&service.get(&path).await, "at", "must be a time as RFC 3339 has it", &path);
        }
    }
    let twice = format!("/grants/{}?at=2023-11-14T22:13:20Z&at=2023-11-14T22:13:20Z", grant.request_id);
    assert_refused(&service.get(&twice).await, "at", "more than once", "two times");
}
