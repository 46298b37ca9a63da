//! What travels on the topics: repeated, reordered, malformed, and from strangers.

use anyhow::Result;
use serde_json::{Value, json};
use testkit::pubsub::Message;
use testkit::stack::Builder;
use testkit::{Pubsub, base_units, on_both_databases, until_some};

use crate::harness::{SOON, assert_paid_exactly_once, assert_supply, builder, request_grants, until_stat};

on_both_databases! {
    |kind| builder(kind);
    repeated_and_reordered_messages_pay_once,
    a_foreign_minimal_message_is_paid,
    a_lost_blockchain_database_pays_nobody_twice,
    a_grant_whose_id_was_paid_to_somebody_else_fails,
}

const REQUESTS: &str = "token-grant-requests";
const RESULTS: &str = "token-grant-results";

/// Takes messages off a subscription of the test's own until there are `count`.
async fn collect(pubsub: &Pubsub, subscription: &str, count: usize) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let more = until_some(SOON, &format!("messages of {subscription}"), async || {
            pubsub.pull(subscription, 1000).await.ok().filter(|messages| !messages.is_empty())
        })
        .await?;
        pubsub.acknowledge(subscription, &more).await?;
        messages.extend(more);
    }
    Ok(messages)
}

async fn publish_again(pubsub: &Pubsub, topic: &str, message: &Message) -> Result<()> {
    let attributes: Vec<_> = message.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    pubsub.publish(topic, &message.data, &attributes).await?;
    Ok(())
}

async fn repeated_and_reordered_messages_pay_once(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let pubsub = stack.pubsub();
    pubsub.create_subscription(REQUESTS, "our-requests").await?;
    pubsub.create_subscription(RESULTS, "our-results").await?;
    let ids = request_grants(&stack, "summer", 20).await?;
    let requests = collect(&pubsub, "our-requests", 20).await?;
    // While they are under way, and in the wrong order, and twice more.
    for message in requests.iter().rev().chain(&requests) {
        publish_again(&pubsub, REQUESTS, message).await?;
    }
    assert_paid_exactly_once(&stack, &ids).await?;

    // 20 results, and a progress message for each transaction.
    let transactions = stack.chain.transactions_of(testkit::anvil::SUBMITTER.address.parse()?).await?;
    let results = collect(&pubsub, "our-results", 20 + usize::try_from(transactions)?).await?;
    // Once more, the latest first: a progress message after the end moves nothing.
    for message in results.iter().rev() {
        publish_again(&pubsub, RESULTS, message).await?;
    }
    // A request whose grant has ended is answered again.
    publish_again(&pubsub, REQUESTS, &requests[0]).await?;
    let answers = collect(&pubsub, "our-results", results.len() + 1).await?;
    let request_id = &requests[0].attributes["request_id"];
    let answered = |message: &&Message| message.attributes.get("request_id") == Some(request_id);
    assert!(answers.iter().filter(answered).count() >= 2);
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

async fn a_foreign_minimal_message_is_paid(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let pubsub = stack.pubsub();
    pubsub.create_subscription(RESULTS, "our-results").await?;
    let foreign = json!({
        "event_type": "token.grant.requested", "user_id": "carol", "campaign_id": "their-campaign", "token_amount": 7,
        "token_type": "ERC20", "request_id": "their-request", "timestamp": "2026-01-02T03:04:05Z", "retry_count": 0,
    });
    for _ in 0..2 {
        pubsub.publish(REQUESTS, foreign.to_string().as_bytes(), &[]).await?;
    }
    let completed = until_some(SOON, "the result", async || {
        let messages = pubsub.pull("our-results", 100).await.ok()?;
        messages.into_iter().find(|message| message.attributes["event_type"] == "token.grant.completed")
    })
    .await?;
    let result: Value = completed.json()?;
    assert_eq!(result["request_id"], "their-request");
    assert_eq!(result["timestamp"], "2026-01-02T03:04:05Z");
    assert!(result["transaction_hash"].as_str().is_some_and(|hash| hash.len() == 66));
    let wallet = stack.chain.wallet_of("carol").await?;
    assert_eq!(stack.chain.balance_of(wallet).await?, base_units(7));
    assert_supply(&stack, 7).await?;
    stack.stop().await
}

/// The last line of defence: the contract knows what it has paid, even when the service has forgotten.
async fn a_lost_blockchain_database_pays_nobody_twice(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let pubsub = stack.pubsub();
    pubsub.create_subscription(REQUESTS, "our-requests").await?;
    let ids = request_grants(&stack, "summer", 10).await?;
    let requests = collect(&pubsub, "our-requests", 10).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let paid = stack.chain.payments().await?;

    stack.blockchain.stop().await?;
    let fresh = stack.run_dir().path().join("restored.db");
    stack.blockchain.set("DATABASE_URL", &format!("sqlite://{}", fresh.display()));
    stack.blockchain.start().await?;
    for message in &requests {
        publish_again(&pubsub, REQUESTS, message).await?;
    }
    until_stat(&stack, "/minted/grants", |grants| grants == 10).await?;
    assert_eq!(stack.chain.payments().await?.len(), paid.len());
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

/// Both databases lost, and the numbering begun again: an id that was paid is not taken for the payment of another grant.
async fn a_grant_whose_id_was_paid_to_somebody_else_fails(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let pubsub = stack.pubsub();
    pubsub.create_subscription(REQUESTS, "our-requests").await?;
    pubsub.create_subscription(RESULTS, "our-results").await?;
    let ids = request_grants(&stack, "summer", 1).await?;
    let request = collect(&pubsub, "our-requests", 1).await?.remove(0).json()?;
    assert_paid_exactly_once(&stack, &ids).await?;

    stack.blockchain.stop().await?;
    let fresh = stack.run_dir().path().join("restored.db");
    stack.blockchain.set("DATABASE_URL", &format!("sqlite://{}", fresh.display()));
    stack.blockchain.start().await?;
    let mut other = request.clone();
    (other["user_id"], other["request_id"]) = (json!("mallory"), json!("another-grant"));
    pubsub.publish(REQUESTS, other.to_string().as_bytes(), &[]).await?;
    let failed = until_some(SOON, "the result", || async {
        let messages = pubsub.pull("our-results", 100).await.ok()?;
        messages.into_iter().find(|message| message.attributes["event_type"] == "token.grant.failed")
    })
    .await?;
    let result: Value = failed.json()?;
    assert_eq!((&result["request_id"], &result["error_code"]), (&json!("another-grant"), &json!("grant_id_taken")));
    assert_supply(&stack, 100).await?;
    stack.stop().await
}
