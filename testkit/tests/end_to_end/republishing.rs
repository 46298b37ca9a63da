//! Grants whose result does not come: published again as often as is allowed, then shown to an operator, and never lost.

use anyhow::Result;
use serde_json::json;
use testkit::stack::Builder;
use testkit::{Stack, on_both_databases, until};

use crate::harness::{SOON, assert_paid_exactly_once, builder, request_grants};

on_both_databases! {
    |kind| builder(kind);
    a_late_result_clears_the_need_for_attention,
    grants_that_need_attention_are_set_going_again_and_paid_once,
}

/// A grant without a result is published again after a second, and needs attention two seconds later.
fn impatient(builder: Builder) -> Builder {
    builder.campaign_env("REPUBLISH_AFTER_SECONDS", "1").campaign_env("REPUBLISH_LIMIT", "1")
}

async fn until_needing_attention(stack: &Stack, grants: u64) -> Result<()> {
    until(SOON, &format!("{grants} grants that need attention"), async || {
        stack.campaign_client().get("/needs-attention").await.is_ok_and(|answer| answer.body["total"] == grants)
    })
    .await
}

async fn a_late_result_clears_the_need_for_attention(builder: Builder) -> Result<()> {
    let stack = impatient(builder).start().await?;
    stack.blockchain.terminate(SOON).await?;
    let ids = request_grants(&stack, "summer", 3).await?;
    until_needing_attention(&stack, 3).await?;
    let shown = stack.campaign_client().get(&format!("/grants/{}", ids[0])).await?;
    assert!(shown.body["needs_attention_since"].is_string(), "{}", shown.body);
    let events = shown.body["events"].as_array().unwrap();
    assert_eq!(events.last().unwrap()["kind"], "NeedsAttention", "{}", shown.body);
    assert!(stack.campaign.logged()?.contains("POST /needs-attention/republish"));

    // The requests are still with the broker.
    stack.blockchain.start().await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    until_needing_attention(&stack, 0).await?;
    stack.stop().await
}

async fn grants_that_need_attention_are_set_going_again_and_paid_once(builder: Builder) -> Result<()> {
    let stack = impatient(builder).start().await?;
    stack.blockchain.terminate(SOON).await?;
    let ids = request_grants(&stack, "summer", 3).await?;
    until_needing_attention(&stack, 3).await?;
    // The broker loses what it had: each request, twice.
    stack.pubsub().delete("subscriptions", "token-grant-requests-sub").await?;
    stack.blockchain.start().await?;

    let campaign = stack.campaign_client();
    let one = campaign.post(&format!("/grants/{}/republish", ids[0]), &json!({})).await?;
    assert_eq!((one.status, &one.body["retry_count"]), (200, &json!(2)), "{}", one.body);
    stack.final_grant(&ids[0], SOON).await?;
    until_needing_attention(&stack, 2).await?;
    let all = campaign.post("/needs-attention/republish", &json!({})).await?;
    assert_eq!((all.status, &all.body["republished"]), (200, &json!(2)));
    assert_paid_exactly_once(&stack, &ids).await?;
    until_needing_attention(&stack, 0).await?;
    stack.stop().await
}
