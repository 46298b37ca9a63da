//! Campaigns, from their settings to what is on chain: budgets, cancellation, expiry, terms, and the switch that stops all.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use chrono::TimeDelta;
use serde_json::{Value, json};
use shared::clock::Clock;
use testkit::stack::Builder;
use testkit::{GrantRequest, Stack, on_both_databases, until};

use crate::audit::change;
use crate::harness::{SOON, assert_paid_exactly_once, assert_supply, await_final, builder, request_grants, until_stat};

on_both_databases! {
    |kind| builder(kind);
    a_budget_is_reserved_then_spent_and_never_exceeded,
    a_grant_that_is_not_wanted_is_not_paid,
    a_grant_whose_time_is_over_is_not_paid,
    the_kill_switch_of_the_campaign_service_stops_both,
    a_grant_that_is_to_be_paid_elsewhere_fails_and_gives_its_budget_back,
    a_block_that_is_not_final_yet_is_shown,
    all_tables_can_be_worked_out_again,
}

pub(crate) async fn campaign(stack: &Stack, id: &str, settings: &Value) -> Result<()> {
    let answer = stack.campaign_client().put(&format!("/campaigns/{id}"), settings).await?;
    assert_eq!(answer.status, 201, "{}", answer.body);
    Ok(())
}

pub(crate) async fn budget_of(stack: &Stack, id: &str) -> Result<[Value; 3]> {
    let body = stack.campaign_client().get(&format!("/campaigns/{id}")).await?.body;
    Ok(["reserved", "spent", "budget_left"].map(|name| body[name].clone()))
}

async fn states(stack: &Stack, ids: &[String]) -> Result<BTreeSet<String>> {
    Ok(await_final(stack, ids).await?.into_iter().map(|grant| grant.state).collect())
}

async fn stop_payments(stack: &Stack, engaged: bool) -> Result<()> {
    let answer = stack.blockchain_client().put("/kill-switch", &json!({ "engaged": engaged })).await?;
    assert_eq!((answer.status, &answer.body["engaged"]), (200, &json!(engaged)), "{}", answer.body);
    Ok(())
}

/// Waits until the blockchain service has these grants, and pays nobody.
async fn until_queued(stack: &Stack, grants: u64) -> Result<()> {
    until_stat(stack, "/queue/grants", |queued| queued == grants).await
}

async fn a_budget_is_reserved_then_spent_and_never_exceeded(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    campaign(&stack, "summer", &json!({"name": "Summer", "amount": 30, "budget": 1000})).await?;
    stop_payments(&stack, true).await?;
    let client = stack.campaign_client();
    let asked = futures::future::try_join_all((0..50).map(|user| {
        let (client, request) = (client.clone(), GrantRequest::new(format!("user-{user}"), "summer"));
        async move { client.request(&request).await }
    }))
    .await?;
    let ids: Vec<_> = asked.iter().filter_map(|answer| answer.request_id().ok()).collect();
    assert_eq!(ids.len(), 33);
    for refused in asked.iter().filter(|answer| answer.status != 202) {
        assert_eq!(
            (refused.status, &refused.body["type"]),
            (409, &json!("urn:problem-type:budget-exhausted")),
            "{}",
            refused.body
        );
    }
    assert_eq!(budget_of(&stack, "summer").await?, [json!(990), json!(0), json!(10)]);
    until_queued(&stack, 33).await?;
    stop_payments(&stack, false).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    assert_eq!(budget_of(&stack, "summer").await?, [json!(0), json!(990), json!(10)]);

    let statistics = client.get("/campaigns/summer/statistics").await?.body;
    assert_eq!((&statistics["completed"], &statistics["distinct_users"]), (&json!(33), &json!(33)));
    let fee: u128 = statistics["fee_wei"].as_str().context("a fee")?.parse()?;
    assert!(fee > 0 && statistics["gas_used"].as_u64().is_some_and(|gas| gas > 20_000 * 33), "{statistics}");
    assert!(statistics["p99_seconds_to_mint"].as_f64().is_some_and(|seconds| seconds > 0.0), "{statistics}");
    let transactions = client.get("/transactions?campaign_id=summer&state=completed").await?.body;
    let grants = transactions["transactions"].as_array().unwrap().iter().map(|part| part["grants"].as_u64().unwrap());
    assert_eq!(grants.sum::<u64>(), 33);
    stack.stop().await
}

async fn a_grant_that_is_not_wanted_is_not_paid(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    campaign(&stack, "summer", &json!({"name": "Summer", "amount": 10, "budget": 100})).await?;
    stop_payments(&stack, true).await?;
    let ids = request_grants(&stack, "summer", 4).await?;
    until_queued(&stack, 4).await?;
    let client = stack.campaign_client();
    for _ in 0..2 {
        let asked = client.delete(&format!("/grants/{}?changed_by=support&reason=a+mistake", ids[0])).await?;
        assert!(matches!(asked.status, 200 | 202), "{}", asked.body);
    }
    assert_eq!(states(&stack, &ids[..1]).await?, ["cancelled".to_owned()].into());
    assert_eq!(budget_of(&stack, "summer").await?, [json!(30), json!(0), json!(70)]);
    // One that is cancelled while nobody takes requests in is known by its cancellation alone, and never paid.
    stack.blockchain.stop().await?;
    let late = client.request(&GrantRequest::new("late", "summer")).await?.request_id()?;
    assert_eq!(client.delete(&format!("/grants/{late}")).await?.status, 202);
    stack.blockchain.start().await?;
    assert_eq!(states(&stack, std::slice::from_ref(&late)).await?, ["cancelled".to_owned()].into());

    stop_payments(&stack, false).await?;
    await_final(&stack, &ids).await?;
    assert_supply(&stack, 30).await?;
    assert_eq!(budget_of(&stack, "summer").await?, [json!(0), json!(30), json!(70)]);
    let too_late = client.delete(&format!("/grants/{}", ids[1])).await?;
    assert_eq!((too_late.status, &too_late.body["type"]), (409, &json!("urn:problem-type:too-late-to-cancel")));
    stack.stop().await
}

async fn a_grant_whose_time_is_over_is_not_paid(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    stop_payments(&stack, true).await?;
    let client = stack.campaign_client();
    let body = |user: &str, expires_at| json!({"user_id": user, "campaign_id": "summer", "expires_at": expires_at});
    let soon = client.post("/token-request", &body("soon", Clock::system().now() + TimeDelta::seconds(2))).await?;
    let later = client.post("/token-request", &body("later", Clock::system().now() + TimeDelta::hours(1))).await?;
    assert_eq!(states(&stack, &[soon.request_id()?]).await?, ["expired".to_owned()].into());
    stop_payments(&stack, false).await?;
    assert_paid_exactly_once(&stack, &[later.request_id()?]).await?;
    stack.stop().await
}

async fn the_kill_switch_of_the_campaign_service_stops_both(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    stop_payments(&stack, true).await?;
    let ids = request_grants(&stack, "summer", 3).await?;
    until_queued(&stack, 3).await?;
    let client = stack.campaign_client();
    let switch = async |engaged: bool| {
        client.put("/kill-switch", &json!({"engaged": engaged, "changed_by": "ops", "reason": "an attack"})).await
    };
    assert_eq!(switch(true).await?.body["changed_by"], "ops");
    let stopped = async || stack.blockchain_client().get("/kill-switch").await;
    until(SOON, "the blockchain service to be told", async || {
        stopped().await.is_ok_and(|answer| answer.body["by_campaign_since"].is_string())
    })
    .await?;
    let released = stack.blockchain_client().put("/kill-switch", &json!({ "engaged": false })).await?;
    assert_eq!(released.body["engaged"], true, "whoever stopped payments lets them go: {}", released.body);
    let refused = client.request(&GrantRequest::new("late", "summer")).await?;
    assert_eq!((refused.status, &refused.body["type"]), (503, &json!("urn:problem-type:stopped")));
    assert_supply(&stack, 0).await?;

    assert_eq!(switch(false).await?.body["engaged"], false);
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

async fn a_grant_that_is_to_be_paid_elsewhere_fails_and_gives_its_budget_back(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    campaign(&stack, "mainnet", &json!({"name": "Elsewhere", "amount": 10, "budget": 100, "chain_id": 1})).await?;
    let ids = request_grants(&stack, "mainnet", 2).await?;
    for grant in await_final(&stack, &ids).await? {
        assert_eq!((grant.state.as_str(), &grant.more["error_code"]), ("failed", &json!("wrong_chain")), "{grant:?}");
    }
    assert_eq!(budget_of(&stack, "mainnet").await?, [json!(0), json!(0), json!(100)]);
    assert_supply(&stack, 0).await?;
    stack.stop().await
}

async fn a_block_that_is_not_final_yet_is_shown(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    campaign(&stack, "careful", &json!({"name": "Careful", "amount": 10, "finality": "4"})).await?;
    let careful = request_grants(&stack, "careful", 2).await?;
    let quick = request_grants(&stack, "quick", 2).await?;
    assert_paid_exactly_once(&stack, &[careful.clone(), quick.clone()].concat()).await?;
    let kinds = async |id: &str| -> Result<Vec<Value>> {
        let events = stack.campaign_client().get(&format!("/grants/{id}/events")).await?.body;
        Ok(events["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect())
    };
    // On a busy machine an answer may come before what the broker has taken is entered.
    let mut told = kinds(&careful[0]).await?;
    let published = told.iter().position(|kind| kind == "Published").context("it was published")?;
    told.remove(published);
    assert_eq!(told, ["TokenGrantRequested", "Started", "BlockchainTxSubmitted", "Confirmed", "Completed"]);
    assert!(published > 0, "a request comes first");
    assert!(!kinds(&quick[0]).await?.contains(&json!("Confirmed")), "its block was final when it was seen");
    stack.stop().await
}

/// What `campaign rebuild` printed, and its exit status.
pub(crate) async fn rebuild(stack: &Stack, arguments: &[&str]) -> Result<(i32, Value)> {
    let log = stack.run_dir().log("rebuild");
    let program = stack.campaign.program().log_to(&log).output(log.with_extension("out"));
    let status = program.arg("rebuild").args(arguments.to_vec()).spawn()?.wait(SOON).await?;
    let told = std::fs::read_to_string(log.with_extension("out"))?;
    Ok((status.code().context("it was killed")?, serde_json::from_str(&told).with_context(|| told.clone())?))
}

async fn all_tables_can_be_worked_out_again(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let ids = request_grants(&stack, "summer", 20).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let (status, told) = rebuild(&stack, &[]).await?;
    assert_eq!((status, &told["differences"], &told["broken_seal"]), (0, &json!([]), &Value::Null), "{told}");
    assert!(told["entries"].as_u64().is_some_and(|entries| entries > 100), "{told}");

    change(&stack.campaign, &[&format!("update token_grant set token_amount = 1 where request_id = '{}'", ids[0])])
        .await?;
    let (status, told) = rebuild(&stack, &[]).await?;
    assert_eq!((status, &told["swapped"]), (1, &json!(false)));
    assert_eq!(told["differences"], json!([{"table": "token_grant", "missing": 1, "unknown": 1}]));
    let (status, told) = rebuild(&stack, &["--swap"]).await?;
    assert_eq!((status, &told["swapped"]), (1, &json!(true)));
    assert_eq!(rebuild(&stack, &[]).await?.0, 0);
    // The service has gone on meanwhile.
    let more = request_grants(&stack, "winter", 5).await?;
    assert_paid_exactly_once(&stack, &[ids, more].concat()).await?;
    stack.stop().await
}
