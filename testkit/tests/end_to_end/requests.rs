//! From a request to a balance, once, however often it is asked for.

use alloy::primitives::Address;
use anyhow::Result;
use futures::future::try_join_all;
use serde_json::{Value, json};
use testkit::stack::Builder;
use testkit::{GrantRequest, base_units, on_both_databases};

use crate::harness::{SOON, assert_paid_exactly_once, assert_supply, builder, until_stat};

on_both_databases! {
    |kind| builder(kind);
    a_request_becomes_a_balance,
    a_user_without_a_wallet_is_paid_at_the_address_that_is_theirs,
    a_repeat_by_key_or_by_nature_is_the_same_grant,
    requests_that_race_are_one_grant,
    a_capped_campaign_fails_with_a_reason,
}

const WALLET: &str = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed";

async fn a_request_becomes_a_balance(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let request = GrantRequest::new("alice", "summer").to(WALLET).amount(250);
    let answer = stack.campaign_client().request_by_query(&request).await?;
    assert_eq!((answer.status, &answer.body["state"]), (202, &Value::from("requested")));

    let grant = stack.final_grant(&answer.request_id()?, SOON).await?;
    assert!(grant.is_completed(), "{grant:?}");
    assert_eq!(stack.chain.balance_of(WALLET.parse()?).await?, base_units(250));
    let payments = stack.chain.payments().await?;
    assert_eq!(grant.transaction_hash.as_deref(), Some(payments[0].transaction_hash.to_string().as_str()));
    assert_eq!(grant.more["block_number"], payments[0].block_number);
    let kinds: Vec<_> = grant.more["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    assert!(kinds.contains(&json!("Published")), "{kinds:?}");
    // On a busy machine an answer may come before what the broker has taken is entered, and a block is seen before it is
    // final, of which there is no news otherwise.
    let kinds: Vec<_> = kinds.into_iter().filter(|kind| kind != "Published" && kind != "Confirmed").collect();
    assert_eq!(kinds, ["TokenGrantRequested", "Started", "BlockchainTxSubmitted", "Completed"]);

    let status = stack.campaign_client().get("/status?user_id=alice&campaign_id=summer").await?;
    assert_eq!(status.body["totals"]["tokens_completed"], 250);
    assert_eq!(status.body["grants"][0]["request_id"], grant.request_id);
    until_stat(&stack, "/minted/tokens", |tokens| tokens == 250).await?;
    stack.stop().await
}

async fn a_user_without_a_wallet_is_paid_at_the_address_that_is_theirs(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let answer = stack.campaign_client().request(&GrantRequest::new("bob / ü", "summer")).await?;
    let grant = stack.final_grant(&answer.request_id()?, SOON).await?;
    assert!(grant.is_completed());
    let wallet: Address = stack.chain.wallet_of("bob / ü").await?;
    assert_eq!(stack.chain.balance_of(wallet).await?, base_units(100));
    stack.stop().await
}

async fn a_repeat_by_key_or_by_nature_is_the_same_grant(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let client = stack.campaign_client();
    let request = GrantRequest::new("alice", "summer").key("order-1");
    let first = client.request(&request).await?;
    let by_key = client.request(&request).await?;
    let by_nature = client.request(&GrantRequest::new("alice", "summer")).await?;
    assert_eq!((first.status, by_key.status, by_nature.status), (202, 200, 200));
    assert_eq!(by_key.request_id()?, first.request_id()?);
    assert_eq!(by_nature.request_id()?, first.request_id()?);

    let reused = client.request(&GrantRequest::new("bob", "summer").key("order-1")).await?;
    assert_eq!((reused.status, reused.content_type.as_str()), (422, "application/problem+json"));
    let other_amount = client.request(&GrantRequest::new("alice", "summer").amount(5)).await?;
    assert_eq!(other_amount.status, 409);

    assert_paid_exactly_once(&stack, &[first.request_id()?]).await?;
    let after = client.request(&request).await?;
    assert_eq!((after.status, &after.body["state"]), (200, &Value::from("completed")));
    assert_supply(&stack, 100).await?;
    stack.stop().await
}

async fn requests_that_race_are_one_grant(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let client = stack.campaign_client();
    let requests = (0..50).map(|_| {
        let client = client.clone();
        async move { client.request(&GrantRequest::new("alice", "summer")).await }
    });
    let answers = try_join_all(requests).await?;
    assert_eq!(answers.iter().filter(|answer| answer.status == 202).count(), 1);
    let first = answers[0].request_id()?;
    for answer in &answers {
        assert_eq!(answer.request_id()?, first);
    }
    assert_paid_exactly_once(&stack, &[first]).await?;
    stack.stop().await
}

async fn a_capped_campaign_fails_with_a_reason(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let client = stack.campaign_client();
    crate::outages::as_admin(
        &stack,
        &blockchain::contract::GrantDistributor::setCampaignCapCall {
            campaign: alloy::primitives::keccak256("capped"),
            cap: base_units(150),
        },
    )
    .await?;
    let paid = client.request(&GrantRequest::new("alice", "capped")).await?.request_id()?;
    assert_paid_exactly_once(&stack, &[paid]).await?;
    let refused = client.request(&GrantRequest::new("bob", "capped")).await?.request_id()?;
    let grant = stack.final_grant(&refused, SOON).await?;
    assert_eq!((grant.state.as_str(), &grant.more["error_code"]), ("failed", &Value::from("campaign_cap_exceeded")));
    assert_supply(&stack, 100).await?;
    stack.stop().await
}
