//! Messages that cannot be handled: kept once by the service that they concern, shown, sent again once.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use testkit::stack::Builder;
use testkit::{BlockchainClient, Pubsub, Stack, base_units, on_both_databases, until, until_some};

use crate::harness::{SOON, assert_paid_exactly_once, assert_supply, builder, request_grants};

on_both_databases! {
    |kind| builder(kind);
    malformed_messages_are_kept_by_the_service_that_they_concern,
    a_redriven_message_that_fails_again_comes_back_to_its_row,
    a_message_that_nobody_could_handle_is_redriven_and_paid_once,
    kill_9_while_dead_letters_arrive_keeps_each_once,
}

const REQUESTS: &str = "token-grant-requests";
const RESULTS: &str = "token-grant-results";

fn request(user: &str, request_id: &str, tokens: u64) -> Value {
    json!({
        "event_type": "token.grant.requested", "user_id": user, "campaign_id": "their-campaign",
        "token_amount": tokens, "token_type": "ERC20", "request_id": request_id,
        "timestamp": "2026-01-02T03:04:05Z", "retry_count": 0,
    })
}

/// Waits until the blockchain service has so many dead letters that match; they come without their bodies.
async fn letters(client: &BlockchainClient, filter: &str, count: usize) -> Result<Vec<Value>> {
    until_some(SOON, &format!("{count} dead letters with {filter}"), async || {
        let listed = client.get(&format!("/dead-letters?{filter}&limit=500")).await.ok()?;
        let letters = listed.body["dead_letters"].as_array()?.clone();
        (letters.len() == count).then_some(letters)
    })
    .await
}

fn id(letter: &Value) -> Result<&str> {
    letter["id"].as_str().context("a dead letter has an id")
}

async fn malformed_messages_are_kept_by_the_service_that_they_concern(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let (pubsub, blockchain) = (stack.pubsub(), stack.blockchain_client());
    let mut negative = request("eve", "r", 1);
    negative["token_amount"] = json!(-1);
    let array = json!(["token.grant.requested", request("eve", "r", 1)]);
    pubsub.publish(REQUESTS, b"not json", &[("request_id", "poison")]).await?;
    pubsub.publish(REQUESTS, negative.to_string().as_bytes(), &[]).await?;
    pubsub.publish(REQUESTS, array.to_string().as_bytes(), &[]).await?;
    pubsub.publish(REQUESTS, &vec![0xff; 9_000_000], &[]).await?;
    pubsub.publish(RESULTS, b"{}", &[]).await?;
    let ids = request_grants(&stack, "summer", 5).await?;

    let dead = letters(&blockchain, "reason=malformed&state=open", 4).await?;
    let with_detail =
        |text: &str| dead.iter().find(|letter| letter["detail"].as_str().is_some_and(|detail| detail.contains(text)));
    assert!(with_detail("whole number of tokens").is_some(), "{dead:?}");
    assert!(dead.iter().any(|letter| letter["request_id"] == "poison"));
    let large = dead.iter().find(|letter| letter["payload_truncated"] == true).context("the large one")?;
    let shown = blockchain.get(&format!("/dead-letters/{}", id(large)?)).await?;
    assert_eq!((&shown.body["payload_bytes"], &shown.body["payload_encoding"]), (&json!(9_000_000), &json!("base64")));
    let refused = blockchain.post(&format!("/dead-letters/{}/redrive", id(large)?), &json!({})).await?;
    assert_eq!((refused.status, &refused.body["type"]), (409, &json!("urn:problem-type:dead-letter-truncated")));

    let campaign = until_some(SOON, "the result's dead letter", async || {
        let listed = stack.campaign_client().get("/dead-letters").await.ok()?;
        listed.body["dead_letters"].get(0).cloned()
    })
    .await?;
    assert_eq!((&campaign["topic"], &campaign["reason"]), (&json!(RESULTS), &json!("malformed")));
    assert!(campaign["detail"].as_str().is_some_and(|detail| detail.contains("event_type")));
    let metrics = reqwest::get(format!("{}/metrics", stack.blockchain.url())).await?.text().await?;
    let counted = r#"messages_dead_lettered_total{topic="token-grant-requests",reason="malformed"} 4"#;
    assert!(metrics.contains(counted), "{metrics}");
    until(SOON, "the gauge", async || {
        let metrics = reqwest::get(format!("{}/metrics", stack.blockchain.url())).await.ok();
        let Some(metrics) = metrics else { return false };
        metrics.text().await.is_ok_and(|text| text.contains(r#"dead_letters_open{topic="token-grant-requests"} 4"#))
    })
    .await?;

    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

async fn a_redriven_message_that_fails_again_comes_back_to_its_row(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let (pubsub, blockchain) = (stack.pubsub(), stack.blockchain_client());
    pubsub.publish(REQUESTS, b"\xffnot even text", &[("theirs", "kept")]).await?;
    let first = letters(&blockchain, "reason=malformed", 1).await?.remove(0);
    let path = format!("/dead-letters/{}", id(&first)?);
    for attempts in 2..4 {
        let redriven = blockchain.post(&format!("{path}/redrive"), &json!({})).await?;
        assert_eq!(redriven.status, 200, "{}", redriven.body);
        until(SOON, "it to come back", async || {
            blockchain.get(&path).await.is_ok_and(|letter| letter.body["attempts"] == attempts)
        })
        .await?;
    }
    let letter = letters(&blockchain, "state=open", 1).await?.remove(0);
    assert_eq!((&letter["id"], &letter["attributes"]), (&first["id"], &json!({"theirs": "kept"})));
    let discarded = blockchain.post(&format!("{path}/discard"), &json!({})).await?;
    assert_eq!((discarded.status, &discarded.body["state"]), (200, &json!("discarded")));
    let none = blockchain.post("/dead-letters/redrive", &json!({"all": true})).await?;
    assert_eq!(none.body["redriven"], json!([]));
    stack.stop().await
}

/// Delivers the messages of a subscription until the broker gives them up.
async fn exhaust(pubsub: &Pubsub, subscription: &str, dead_letters: &str) -> Result<()> {
    until(SOON, "the broker to give the message up", async || {
        let Ok(messages) = pubsub.pull(subscription, 10).await else { return false };
        if !messages.is_empty() {
            let _ = pubsub.give_back(subscription, &messages).await;
        }
        let Ok(moved) = pubsub.pull(dead_letters, 10).await else { return false };
        !moved.is_empty() && pubsub.give_back(dead_letters, &moved).await.is_ok()
    })
    .await
}

/// The policy is the one that the service makes, but for the number of deliveries.
async fn a_message_that_nobody_could_handle_is_redriven_and_paid_once(builder: Builder) -> Result<()> {
    let stack = builder.without_services().start().await?;
    let (pubsub, blockchain) = (stack.pubsub(), stack.blockchain_client());
    let (topic, kept) = ("token-grant-requests-dead-letter", "token-grant-requests-dead-letter-sub");
    pubsub.create_topic(topic).await?;
    pubsub.create_subscription(topic, kept).await?;
    pubsub.create_topic(REQUESTS).await?;
    pubsub.create_subscription_with_dead_letters(REQUESTS, "token-grant-requests-sub", topic, 5).await?;
    let body = request("carol", "their-request", 7).to_string();
    pubsub.publish(REQUESTS, body.as_bytes(), &[("request_id", "their-request")]).await?;
    exhaust(&pubsub, "token-grant-requests-sub", kept).await?;

    stack.campaign.start().await?;
    stack.blockchain.start().await?;
    let letter = letters(&blockchain, "reason=exhausted", 1).await?.remove(0);
    assert_eq!((&letter["source"], &letter["request_id"]), (&json!("dead_letter_topic"), &json!("their-request")));
    let shown = blockchain.get(&format!("/dead-letters/{}", id(&letter)?)).await?;
    assert_eq!((&shown.body["payload"], &shown.body["payload_encoding"]), (&json!(body), &json!("text")));
    assert_supply(&stack, 0).await?;

    let redrive = json!({"all": true, "reason": "exhausted"});
    let first = blockchain.post("/dead-letters/redrive", &redrive).await?;
    assert_eq!((first.status, &first.body["redriven"]), (200, &json!([letter["id"]])));
    let again = blockchain.post(&format!("/dead-letters/{}/redrive", id(&letter)?), &json!({})).await?;
    assert_eq!((again.status, &again.body["state"]), (200, &json!("redriven")));
    stack.blockchain.restart().await?;
    until_paid(&stack, "carol", 7).await?;
    letters(&blockchain, "state=open", 0).await?;
    stack.stop().await
}

async fn until_paid(stack: &Stack, user: &str, tokens: u64) -> Result<()> {
    let wallet = stack.chain.wallet_of(user).await?;
    until(SOON, "the tokens", async || {
        stack.chain.balance_of(wallet).await.is_ok_and(|balance| balance == base_units(tokens))
    })
    .await?;
    assert_supply(stack, tokens).await
}

async fn kill_9_while_dead_letters_arrive_keeps_each_once(builder: Builder) -> Result<()> {
    const LETTERS: usize = 400;
    let stack = builder.start().await?;
    let (pubsub, blockchain) = (stack.pubsub(), stack.blockchain_client());
    for number in 0..LETTERS {
        pubsub.publish(REQUESTS, format!("not json {number}").as_bytes(), &[]).await?;
        // In the middle of the stream, with some committed and not yet acknowledged.
        if number % 100 == 50 {
            stack.blockchain.restart().await?;
        }
    }
    let dead = letters(&blockchain, "reason=malformed", LETTERS).await?;
    let ids: std::collections::BTreeSet<_> = dead.iter().map(|letter| letter["message_id"].to_string()).collect();
    assert_eq!(ids.len(), LETTERS);
    assert!(dead.iter().all(|letter| letter["attempts"] == 1));
    stack.stop().await
}
