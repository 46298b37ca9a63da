//! Topics with schemas: everybody's messages pass, in either encoding, and what no message may be is refused at once.

use anyhow::Result;
use serde_json::{Value, json};
use testkit::stack::Builder;
use testkit::{base_units, on_both_databases, until};

use crate::harness::{SOON, assert_paid_exactly_once, builder, request_grants, until_stat};

on_both_databases! {
    |kind| builder(kind);
    grants_are_paid_over_topics_with_schemas_ours_and_those_of_strangers,
    one_service_with_schemas_and_one_without_pay_over_the_same_topics,
}

const REQUESTS: &str = "token-grant-requests";
const RESULTS: &str = "token-grant-results";

async fn until_attached(stack: &testkit::Stack) -> Result<()> {
    for topic in [REQUESTS, RESULTS] {
        until(SOON, &format!("the schema of {topic}"), async || {
            let topic = stack.pubsub().describe("topics", topic).await.ok().flatten();
            topic.is_some_and(|topic| topic["schemaSettings"]["schema"].is_string())
        })
        .await?;
    }
    Ok(())
}

fn founding(request_id: &str) -> Value {
    json!({
        "event_type": "token.grant.requested", "user_id": request_id, "campaign_id": "their-campaign", "token_amount": 7,
        "token_type": "ERC20", "request_id": request_id, "timestamp": "2026-01-02T03:04:05Z", "retry_count": 0,
    })
}

/// The same as an Avro encoder writes it by the newest revision.
fn encoded(request_id: &str) -> Value {
    json!({
        "event_type": "token.grant.requested", "timestamp": "2026-01-02T03:04:05Z", "user_id": {"string": request_id},
        "campaign_id": {"string": "their-campaign"}, "token_amount": {"long": 7}, "token_type": {"string": "ERC20"},
        "request_id": {"string": request_id}, "retry_count": {"long": 0}, "wallet_address": null, "issuer": null,
        "grant_index": null,
    })
}

async fn grants_are_paid_over_topics_with_schemas_ours_and_those_of_strangers(builder: Builder) -> Result<()> {
    let builder = builder.campaign_env("PUBSUB_SCHEMAS", "true").blockchain_env("PUBSUB_SCHEMAS", "true");
    let stack = builder.start().await?;
    until_attached(&stack).await?;
    let ids = request_grants(&stack, "summer", 10).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let paid = stack.chain.total_supply().await?;

    let pubsub = stack.pubsub();
    for message in [founding("plain"), encoded("avro")] {
        pubsub.publish(REQUESTS, message.to_string().as_bytes(), &[]).await?;
    }
    until_stat(&stack, "/minted/grants", |grants| grants == 12).await?;
    assert_eq!(stack.chain.total_supply().await?, paid + base_units(14));
    for topic in [REQUESTS, RESULTS] {
        let refused = pubsub.publish(topic, b"{}", &[]).await;
        assert!(refused.unwrap_err().to_string().contains("INVALID_ARGUMENT"));
    }
    stack.stop().await
}

async fn one_service_with_schemas_and_one_without_pay_over_the_same_topics(builder: Builder) -> Result<()> {
    let stack = builder.blockchain_env("PUBSUB_SCHEMAS", "true").start().await?;
    until_attached(&stack).await?;
    let ids = request_grants(&stack, "summer", 3).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}
