//! A grant reserves, a payment spends, and what will not be paid gives back; the figures tell.

use super::*;

on_both_databases! {
    |kind| Service::start(kind).await;
    a_payment_turns_what_is_reserved_into_what_is_spent,
    what_will_not_be_paid_is_given_back,
    a_payment_that_is_reported_after_a_failure_is_spent_all_the_same,
    a_budget_that_is_given_back_can_be_promised_again,
    statistics_count_grants_tokens_times_and_costs,
    figures_of_a_minute_are_those_of_the_last_full_one,
    a_campaign_without_grants_has_figures_of_nothing,
}

/// What a campaign has reserved, spent, and left.
async fn tokens(service: &Service, campaign_id: &str) -> [Value; 3] {
    let shown = service.get(&format!("/campaigns/{campaign_id}")).await.body;
    let statistics = service.statistics(campaign_id).await;
    let tokens = ["reserved", "spent", "budget_left"].map(|name| shown[name].clone());
    assert_eq!(tokens, ["reserved", "spent", "budget_left"].map(|name| statistics[name].clone()));
    tokens
}

async fn a_payment_turns_what_is_reserved_into_what_is_spent(service: Service) {
    service.campaign("summer", json!({"budget": 100})).await;
    let grant = service.grant("user_id=alice&campaign_id=summer&token_amount=30").await;
    assert_eq!(tokens(&service, "summer").await, [30, 0, 70]);
    for (progress, state) in [
        (started(&[&grant], 1), "started"),
        (submitted(&[&grant], 1, 2), "submitted"),
        (confirmed(&[&grant], 1, 7, 3), "confirmed"),
        (reverted(&[&grant], 1, 4), "submitted"),
        (confirmed(&[&grant], 1, 8, 5), "confirmed"),
    ] {
        service.apply(&[progress]).await;
        assert_eq!(service.stored(grant.request_id.as_str()).await.state.as_str(), state);
        assert_eq!(tokens(&service, "summer").await, [30, 0, 70], "{state} is promised and not paid");
    }
    service.apply(&[completed(&grant, 1)]).await;
    assert_eq!(tokens(&service, "summer").await, [0, 30, 70]);
    let rows = service.all_rows().await;
    service.apply(&[completed(&grant, 1), confirmed(&[&grant], 1, 8, 5)]).await;
    assert_eq!(tokens(&service, "summer").await, [0, 30, 70], "a repeat spends nothing");
    assert_eq!(service.all_rows().await, rows);
}

async fn what_will_not_be_paid_is_given_back(service: Service) {
    service.campaign("summer", json!({"budget": 100})).await;
    for (user, code, state, kind) in [
        ("alice", "rejected_by_token", "failed", "Failed"),
        ("bob", "expired", "expired", "Expired"),
        ("carol", "cancelled", "cancelled", "Cancelled"),
    ] {
        let grant = service.grant(&format!("user_id={user}&campaign_id=summer&token_amount=30")).await;
        assert_eq!(tokens(&service, "summer").await, [30, 0, 70]);
        service.apply(&[started(&[&grant], 1), failed(&grant, code), failed(&grant, code)]).await;
        assert_eq!(tokens(&service, "summer").await, [0, 0, 100], "{state}");
        let shown = service.get(&format!("/grants/{}", grant.request_id)).await.body;
        assert_eq!((&shown["state"], &shown["error_code"]), (&json!(state), &json!(code)));
        assert_eq!(shown["error_message"], format!("it is {code}"));
        assert_eq!(each(&shown["events"], "kind"), ["TokenGrantRequested", "Started", kind]);
        let status = service.get(&format!("/status?user_id={user}")).await.body;
        assert_eq!(status["totals"]["tokens_failed"], 30);
    }
    let statistics = service.statistics("summer").await;
    assert_eq!((&statistics["failed"], &statistics["pending"]), (&json!(3), &json!(0)));
}

async fn a_payment_that_is_reported_after_a_failure_is_spent_all_the_same(service: Service) {
    service.campaign("summer", json!({"budget": 35})).await;
    let alice = service.grant("user_id=alice&campaign_id=summer&token_amount=30").await;
    service.apply(&[failed(&alice, "rejected_by_token")]).await;
    service.grant("user_id=bob&campaign_id=summer&token_amount=35").await;
    service.apply(&[completed(&alice, 1)]).await;
    // The chain has the last word: more is spent than the budget, and nothing is left of it.
    assert_eq!(tokens(&service, "summer").await, [35, 30, 0]);
    let statistics = service.statistics("summer").await;
    assert_eq!((&statistics["completed"], &statistics["failed"]), (&json!(1), &json!(0)));
}

async fn a_budget_that_is_given_back_can_be_promised_again(service: Service) {
    service.campaign("summer", json!({"budget": 10})).await;
    let alice = service.grant("user_id=alice&campaign_id=summer").await;
    let refused = service.post("user_id=bob&campaign_id=summer").await;
    assert_told(&refused, 409, "budget-exhausted", "0 tokens are left of the campaign's budget");
    service.apply(&[failed(&alice, "expired")]).await;
    service.grant("user_id=bob&campaign_id=summer").await;
    assert_eq!(tokens(&service, "summer").await, [10, 0, 0]);
}

async fn statistics_count_grants_tokens_times_and_costs(service: Service) {
    service.campaign("summer", json!({"budget": 100})).await;
    let mut grants = Vec::new();
    for user in ["alice", "bob", "carol", "dave", "erin"] {
        grants.push(service.grant(&format!("user_id={user}&campaign_id=summer")).await);
    }
    // What another campaign does is not counted here.
    let other = service.grant("user_id=alice&campaign_id=winter").await;
    service.advance(2);
    service.apply(&[completed(&grants[0], 1), completed(&other, 1)]).await;
    service.advance(58);
    service.apply(&[completed(&grants[1], 2), failed(&grants[2], "x"), failed(&grants[3], "expired")]).await;

    let mut statistics = service.statistics("summer").await;
    let p99 = statistics["p99_seconds_to_mint"].take().as_f64().unwrap();
    assert!((60.0..61.8).contains(&p99), "{p99} s are within 3 % of a minute");
    let per_minute = statistics["completed_per_minute"].take().as_f64().unwrap();
    assert!((per_minute * 60.0 - 1.0).abs() < 1e-9, "one in the hour before this minute: {per_minute}");
    let expected = json!({
        "campaign_id": "summer", "requested": 5, "pending": 1, "completed": 2, "failed": 2, "distinct_users": 5,
        "budget": 100, "reserved": 10, "spent": 20, "budget_left": 70, "requested_last_minute": 5,
        "completed_last_minute": 1, "completed_per_minute": null, "mean_seconds_to_mint": 31.0,
        "p99_seconds_to_mint": null, "gas_used": 52_000, "fee_wei": "156000", "fee_wei_per_grant": "78000",
        "last_activity": "2023-11-14T22:14:20Z",
    });
    assert_eq!(statistics, expected);
}

async fn figures_of_a_minute_are_those_of_the_last_full_one(service: Service) {
    let figures = async || {
        let statistics = service.statistics("summer").await;
        let per_hour = statistics["completed_per_minute"].as_f64().unwrap() * 60.0;
        #[expect(clippy::cast_possible_truncation, reason = "it is a small whole number")]
        let per_hour = per_hour.round() as i64;
        let count = |name: &str| statistics[name].as_i64().unwrap();
        [count("requested_last_minute"), count("completed_last_minute"), per_hour]
    };
    // The clock stands at 20 seconds past a full minute.
    let alice = service.grant("user_id=alice&campaign_id=summer").await;
    let bob = service.grant("user_id=bob&campaign_id=summer").await;
    assert_eq!(figures().await, [0, 0, 0], "this minute is not over");
    service.advance(39);
    service.apply(&[completed(&alice, 1)]).await;
    assert_eq!(figures().await, [0, 0, 0]);
    service.advance(1);
    service.apply(&[completed(&bob, 1)]).await;
    assert_eq!(figures().await, [2, 1, 1]);
    service.advance(60);
    assert_eq!(figures().await, [0, 1, 2]);
    service.advance(58 * 60);
    assert_eq!(figures().await, [0, 0, 2], "an hour has sixty minutes");
    service.advance(60);
    assert_eq!(figures().await, [0, 0, 1]);
    service.advance(60);
    assert_eq!(figures().await, [0, 0, 0]);
}

async fn a_campaign_without_grants_has_figures_of_nothing(service: Service) {
    service.campaign("summer", json!({})).await;
    let expected = json!({
        "campaign_id": "summer", "requested": 0, "pending": 0, "completed": 0, "failed": 0, "distinct_users": 0,
        "reserved": 0, "spent": 0, "requested_last_minute": 0, "completed_last_minute": 0, "completed_per_minute": 0.0,
        "gas_used": 0, "fee_wei": "0",
    });
    assert_eq!(service.statistics("summer").await, expected);
    let free = service.grant("user_id=alice&campaign_id=summer").await;
    let ResultEvent::Completed(mut foreign) = completed(&free, 1) else { unreachable!() };
    (foreign.gas_used, foreign.gas_price, foreign.block_number) = (None, None, None);
    service.apply(&[ResultEvent::Completed(foreign)]).await;
    let statistics = service.statistics("summer").await;
    assert_eq!((&statistics["fee_wei"], &statistics["fee_wei_per_grant"]), (&json!("0"), &json!("0")));
    assert_eq!(statistics["mean_seconds_to_mint"], 0.0);
}
