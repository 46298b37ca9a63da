//! What people ask about grants: of a user, of one grant, of all.

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    a_user_whom_nobody_has_seen_has_an_empty_list,
    status_lists_grants_and_totals_page_by_page,
    a_grant_tells_its_history,
    the_ledger_lists_all_grants_in_the_order_of_their_numbers,
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
    let grant = service.stored(request_id).await;
    service.advance(2);
    service.apply(&[submitted(&[&grant], 0xab, 0), completed(&grant, 0xab)]).await;

    let answer = service.get(&format!("/grants/{request_id}")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!((&answer.body["state"], &answer.body["transaction_hash"]), (&json!("completed"), &json!(hash(0xab))));
    assert_eq!(answer.body["completed_at"], "2023-11-14T22:13:22Z");
    let events = answer.body["events"].as_array().unwrap();
    let kinds: Vec<_> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["TokenGrantRequested", "BlockchainTxSubmitted", "Completed"]);
    assert_eq!(events[0]["data"]["token_amount"], 100);

    let missing = service.get("/grants/019a9f5e-7c1e-7bd2-a3a7-0242ac120002").await;
    assert_problem(&missing, 404, "no such grant");
    assert_eq!(missing.body["type"], "urn:problem-type:grant-not-found");
}

async fn the_ledger_lists_all_grants_in_the_order_of_their_numbers(service: Service) {
    let empty = service.get("/grants").await;
    let issuer = service.store.issuer().to_string();
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
