//! A campaign's rules: whom it refuses and why, with nothing stored; and that what was granted stays granted.

use super::*;

on_both_databases! {
    |kind| Service::strict(kind).await;
    every_refusal_is_told_by_its_type_and_stores_nothing,
    a_campaign_pays_from_its_start_until_before_its_end,
    what_was_granted_is_answered_again_whatever_became_of_the_campaign,
    the_amount_is_the_campaigns_where_the_request_names_none,
    a_new_key_may_ask_again_once_nothing_will_be_paid,
    a_user_gets_as_many_grants_as_the_campaign_allows,
    a_budget_is_never_promised_twice,
    a_budget_holds_while_grants_end,
    a_users_limit_holds_against_all_requests_at_once,
    a_grant_carries_the_terms_of_its_campaign,
}

async fn every_refusal_is_told_by_its_type_and_stores_nothing(service: Service) {
    let starts = json!({"starts_at": "2023-11-15T00:00:00Z"});
    let over = json!({"ends_at": "2023-11-14T22:13:20Z"});
    for (campaign_id, settings) in [
        ("draft", json!({"state": "draft"})),
        ("paused", json!({"state": "paused"})),
        ("ended", json!({"state": "ended"})),
        ("future", starts),
        ("past", over),
        ("friends", json!({"eligibility": "allow_list", "listed_users": ["bob"]})),
        ("nobodys", json!({"eligibility": "allow_list"})),
        ("no-cheats", json!({"eligibility": "block_list", "listed_users": ["alice"]})),
        ("twice", json!({"max_grants_per_user": 2})),
        ("poor", json!({"budget": 25})),
        ("open", json!({})),
    ] {
        service.campaign(campaign_id, settings).await;
    }
    for _ in 0..2 {
        service.grant("user_id=alice&campaign_id=twice").await;
        service.grant("user_id=bob&campaign_id=twice").await;
    }
    for user in ["bob", "carol"] {
        service.grant(&format!("user_id={user}&campaign_id=poor")).await;
    }
    let rows = service.all_rows().await;
    let not_eligible = "the campaign does not pay this user";
    for (query, status, kind, detail) in [
        (
            "campaign_id=nothing",
            404,
            "campaign-not-found",
            "there is no such campaign; make it with PUT /campaigns/{campaign_id}",
        ),
        ("campaign_id=draft", 409, "campaign-not-active", "the campaign is draft"),
        ("campaign_id=paused", 409, "campaign-not-active", "the campaign is paused"),
        ("campaign_id=ended", 409, "campaign-not-active", "the campaign is ended"),
        ("campaign_id=future", 403, "campaign-not-started", "the campaign starts at 2023-11-15T00:00:00Z"),
        ("campaign_id=past", 403, "campaign-over", "the campaign was over at 2023-11-14T22:13:20Z"),
        ("campaign_id=friends", 403, "not-eligible", not_eligible),
        ("campaign_id=nobodys", 403, "not-eligible", not_eligible),
        ("campaign_id=no-cheats", 403, "not-eligible", not_eligible),
        (
            "campaign_id=twice",
            409,
            "user-limit-reached",
            "the user has 2 grants of this campaign, and may not have more",
        ),
        ("campaign_id=poor", 409, "budget-exhausted", "5 tokens are left of the campaign's budget"),
        ("campaign_id=poor&token_amount=6", 409, "budget-exhausted", "5 tokens are left of the campaign's budget"),
    ] {
        for request in
            [post(&format!("user_id=alice&{query}")), with_key(post(&format!("user_id=alice&{query}")), b"k")]
        {
            assert_told(&service.send(request).await, status, kind, detail);
        }
    }
    assert_eq!(service.all_rows().await, rows, "who is refused leaves no trace, in whatever table");

    // Those whom the rules let through get theirs, under the key that was refused before.
    for query in [
        "user_id=bob&campaign_id=friends",
        "user_id=bob&campaign_id=no-cheats",
        "user_id=alice&campaign_id=poor&token_amount=5",
    ] {
        service.grant(query).await;
    }
    let key = service.send(with_key(post("user_id=alice&campaign_id=open"), b"k")).await;
    assert_eq!(key.status, StatusCode::ACCEPTED);

    let rows = service.all_rows().await;
    service.put("/kill-switch", json!({"engaged": true})).await;
    let stopped = service.post("user_id=dave&campaign_id=open").await;
    assert_told(&stopped, 503, "stopped", "all payments are stopped for now");
    assert_eq!(stopped.headers[header::RETRY_AFTER], "1");
    let unknown = service.post("user_id=dave&campaign_id=nothing").await;
    assert_problem(&unknown, 404, "a campaign that does not exist will not exist later");
    service.put("/kill-switch", json!({"engaged": false})).await;
    let switched = rows.iter().map(|(table, count)| match *table {
        "event" | "outbox" => (*table, count + 2),
        "kill_switch" => (*table, count + 1),
        _ => (*table, *count),
    });
    assert_eq!(service.all_rows().await, switched.collect::<Vec<_>>());
    assert_eq!(service.post("user_id=dave&campaign_id=open").await.status, StatusCode::ACCEPTED);
}

async fn a_campaign_pays_from_its_start_until_before_its_end(service: Service) {
    let window = json!({"starts_at": "2023-11-14T22:13:30Z", "ends_at": "2023-11-14T22:13:40Z"});
    service.campaign("summer", window).await;
    for (seconds, kind) in [(9, Some("campaign-not-started")), (1, None), (9, None), (1, Some("campaign-over"))] {
        service.advance(seconds);
        let now = service.clock.now();
        let answer = service.post(&format!("user_id=user-{}&campaign_id=summer", now.timestamp())).await;
        match kind {
            None => assert_eq!(answer.status, StatusCode::ACCEPTED, "{now}"),
            Some(kind) => assert_eq!(answer.body["type"], format!("urn:problem-type:{kind}"), "{now}"),
        }
    }
}

async fn what_was_granted_is_answered_again_whatever_became_of_the_campaign(service: Service) {
    service.campaign("summer", json!({"budget": 10})).await;
    let query = "user_id=alice&campaign_id=summer";
    let first = service.send(with_key(post(query), b"order-1")).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    for change in [
        json!({"state": "paused"}),
        json!({"state": "active", "eligibility": "block_list", "listed_users": ["alice"]}),
        json!({"ends_at": "2023-11-01T00:00:00Z"}),
        json!({"amount": 77}),
        json!({"state": "ended"}),
    ] {
        assert_eq!(service.patch("/campaigns/summer", change.clone()).await.status, StatusCode::OK);
        for request in [post(query), with_key(post(query), b"order-1")] {
            let repeat = service.send(request).await;
            assert_eq!((repeat.status, &repeat.body), (StatusCode::OK, &first.body), "{change}");
        }
    }
    service.put("/kill-switch", json!({"engaged": true})).await;
    let repeat = service.send(with_key(post(query), b"order-2")).await;
    assert_eq!((repeat.status, &repeat.body), (StatusCode::OK, &first.body), "payments stop, answers do not");
}

async fn the_amount_is_the_campaigns_where_the_request_names_none(service: Service) {
    service.campaign("summer", json!({})).await;
    let alice = service.grant("user_id=alice&campaign_id=summer").await;
    let bob = service.grant("user_id=bob&campaign_id=summer&token_amount=25").await;
    service.patch("/campaigns/summer", json!({"amount": 11})).await;
    let carol = service.grant("user_id=carol&campaign_id=summer").await;
    let amounts = [alice, bob, carol].map(|grant| grant.request.token_amount.whole_tokens());
    assert_eq!(amounts, [10, 25, 11]);
    // Whoever names none means the grant there is; whoever names one means that amount.
    assert_eq!(service.post("user_id=bob&campaign_id=summer").await.status, StatusCode::OK);
    assert_eq!(service.post("user_id=alice&campaign_id=summer&token_amount=10").await.status, StatusCode::OK);
    let other = service.post("user_id=alice&campaign_id=summer&token_amount=11").await;
    assert_problem(&other, 409, "another amount");
    assert_eq!(other.body["type"], "urn:problem-type:already-granted");
}

async fn a_new_key_may_ask_again_once_nothing_will_be_paid(service: Service) {
    service.campaign("summer", json!({"budget": 10})).await;
    let query = "user_id=alice&campaign_id=summer";
    let mut grant = service.grant(query).await;
    for (number, code) in ["rejected_by_token", "cancelled", "expired"].iter().enumerate() {
        let key = format!("try-{number}");
        let early = service.send(with_key(post(query), format!("early-{number}").as_bytes())).await;
        assert_eq!((early.status, &early.body["request_id"]), (StatusCode::OK, &json!(grant.request_id)));
        service.apply(&[failed(&grant, code)]).await;
        // The keys of the grant, and no key at all, name the grant that failed.
        for request in [post(query), with_key(post(query), format!("early-{number}").as_bytes())] {
            let repeat = service.send(request).await;
            assert_eq!((repeat.status, &repeat.body["request_id"]), (StatusCode::OK, &json!(grant.request_id)));
            assert_ne!(repeat.body["state"], "requested");
        }
        let again = service.send(with_key(post(query), key.as_bytes())).await;
        assert_eq!(again.status, StatusCode::ACCEPTED, "after {code}: {}", again.body);
        let repeat = service.send(with_key(post(query), key.as_bytes())).await;
        assert_eq!((repeat.status, &repeat.body), (StatusCode::OK, &again.body));
        grant = service.stored(again.body["request_id"].as_str().unwrap()).await;
        assert_eq!(grant.user_grant_number, number as u64 + 2);
    }
    service.apply(&[completed(&grant, 1)]).await;
    let paid = service.send(with_key(post(query), b"once-more")).await;
    assert_eq!((paid.status, &paid.body["state"]), (StatusCode::OK, &json!("completed")));
    let statistics = service.statistics("summer").await;
    let figures = ["requested", "completed", "failed", "distinct_users"].map(|name| statistics[name].clone());
    assert_eq!(figures, [4, 1, 3, 1]);
}

async fn a_user_gets_as_many_grants_as_the_campaign_allows(service: Service) {
    service.campaign("summer", json!({"max_grants_per_user": 2})).await;
    service.campaign("endless", json!({"max_grants_per_user": null})).await;
    let query = "user_id=alice&campaign_id=summer";
    let first = service.grant(query).await;
    let second = service.grant(&format!("{query}&token_amount=3")).await;
    assert_eq!((first.user_grant_number, second.user_grant_number), (1, 2));
    assert_problem(&service.post(query).await, 409, "a third");
    service.grant("user_id=bob&campaign_id=summer").await;
    // One that fails makes room.
    service.apply(&[failed(&first, "rejected_by_token"), completed(&second, 1)]).await;
    assert_eq!(service.grant(query).await.user_grant_number, 3);
    assert_problem(&service.post(query).await, 409, "a third that stands");
    for number in 1..=5 {
        assert_eq!(service.grant("user_id=alice&campaign_id=endless").await.user_grant_number, number);
    }
}

/// Sends all of them at once; how many were granted, and the kinds of the refusals.
async fn send_at_once(service: &Service, requests: impl Iterator<Item = Request<Body>>) -> (usize, Vec<Value>) {
    let mut running = tokio::task::JoinSet::new();
    for request in requests {
        let routes = service.routes.clone();
        running.spawn(async move { send(&routes, request).await });
    }
    let answers = running.join_all().await;
    let granted = answers.iter().filter(|answer| answer.status == StatusCode::ACCEPTED).count();
    let refused = answers.iter().filter(|answer| answer.status != StatusCode::ACCEPTED);
    let mut kinds: Vec<_> = refused.map(|answer| answer.body["type"].clone()).collect();
    kinds.dedup();
    (granted, kinds)
}

async fn a_budget_is_never_promised_twice(service: Service) {
    service.campaign("summer", json!({"budget": 505})).await;
    let requests = (0..200).map(|user| post(&format!("user_id=user-{user}&campaign_id=summer")));
    let (granted, refused) = send_at_once(&service, requests).await;
    assert_eq!((granted, refused), (50, vec![json!("urn:problem-type:budget-exhausted")]));
    let statistics = service.statistics("summer").await;
    let figures = ["requested", "reserved", "spent", "budget_left"].map(|name| statistics[name].clone());
    assert_eq!(figures, [50, 500, 0, 5]);
    let rows = service.all_rows().await;
    assert_eq!(rows[..2], [("event", 51), ("token_grant", 50)]);
}

async fn a_budget_holds_while_grants_end(service: Service) {
    service.campaign("summer", json!({"budget": 100})).await;
    let (mut under_way, mut paid) = (Vec::new(), 0);
    for round in 0..6 {
        let ends: Vec<_> = std::mem::take(&mut under_way);
        let results = ends.iter().enumerate().map(|(number, grant)| match number % 3 {
            0 => completed(grant, round),
            1 => failed(grant, "expired"),
            _ => failed(grant, "rejected_by_token"),
        });
        let results: Vec<_> = results.collect();
        paid += results.iter().filter(|result| matches!(result, ResultEvent::Completed(_))).count();
        let requests = (0..40).map(|user| post(&format!("user_id=user-{round}-{user}&campaign_id=summer")));
        let ((granted, _), ()) = tokio::join!(send_at_once(&service, requests), async {
            for result in results {
                service.apply(&[result]).await;
                let figures = service.statistics("summer").await;
                let [reserved, spent] = ["reserved", "spent"].map(|name| figures[name].as_u64().unwrap());
                assert!(reserved + spent <= 100, "{reserved} reserved and {spent} spent");
            }
        });
        assert!(granted <= 10);
        let filter =
            campaign::store::GrantFilter { state: Some(campaign::domain::State::Requested), ..Default::default() };
        under_way = service.store.grants_after(&filter, None, 500).await.unwrap();
        let figures = service.statistics("summer").await;
        assert_eq!(figures["reserved"], under_way.len() * 10);
        assert_eq!(figures["spent"], paid * 10);
    }
    assert!(paid > 0);
}

async fn a_users_limit_holds_against_all_requests_at_once(service: Service) {
    service.campaign("summer", json!({"max_grants_per_user": 3})).await;
    let requests = (0..200).map(|number| {
        let request = post("user_id=alice&campaign_id=summer");
        if number % 2 == 0 { request } else { with_key(request, format!("key-{number}").as_bytes()) }
    });
    let (granted, refused) = send_at_once(&service, requests).await;
    assert_eq!((granted, refused), (3, vec![json!("urn:problem-type:user-limit-reached")]));
    let figures = service.statistics("summer").await;
    assert_eq!((&figures["requested"], &figures["distinct_users"]), (&json!(3), &json!(1)));
}

async fn a_grant_carries_the_terms_of_its_campaign(service: Service) {
    let token = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";
    let terms = json!({"finality": "safe", "priority": 7, "chain_id": 10, "token": token});
    service.campaign("summer", terms).await;
    let grant = service.grant("user_id=alice&campaign_id=summer&expires_at=2023-11-15T00:00:00%2B01:00").await;
    let message = service.messages().await.pop().unwrap();
    let shown = service.get(&format!("/grants/{}", grant.request_id)).await.body;
    for carrier in [&message, &shown] {
        let carried = ["finality", "priority", "chain_id", "token", "expires_at"].map(|name| carrier[name].clone());
        assert_eq!(carried, [json!("safe"), json!(7), json!(10), json!(token), json!("2023-11-14T23:00:00Z")]);
    }
    // What changes later is for later grants.
    service.patch("/campaigns/summer", json!({"finality": null, "priority": 0})).await;
    assert_eq!(service.get(&format!("/grants/{}", grant.request_id)).await.body["finality"], "safe");
    let bob = service.grant("user_id=bob&campaign_id=summer").await;
    assert_eq!(bob.terms.finality, None);
    let bad = service.post("user_id=eve&campaign_id=summer&expires_at=soon").await;
    assert_refused(&bad, "expires_at", "RFC 3339", "no time");
}
