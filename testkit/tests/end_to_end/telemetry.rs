//! What operators read: logs that correlate, and metrics.

use anyhow::Result;
use serde_json::Value;
use testkit::stack::Builder;
use testkit::{on_both_databases, until};

use crate::harness::{SOON, await_final, builder};

on_both_databases! {
    |kind| builder(kind);
    one_trace_id_runs_through_the_logs_of_both_services,
    metrics_count_what_happened,
}

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";

async fn one_trace_id_runs_through_the_logs_of_both_services(builder: Builder) -> Result<()> {
    let stack = builder.campaign_env("LOG_FORMAT", "json").blockchain_env("LOG_FORMAT", "json").start().await?;
    let answer = reqwest::Client::new()
        .post(format!("{}/token-request?user_id=alice&campaign_id=summer", stack.campaign.url()))
        .header("traceparent", format!("00-{TRACE_ID}-b7ad6b7169203331-01"))
        .send()
        .await?;
    let request_id = answer.json::<Value>().await?["request_id"].as_str().unwrap().to_owned();
    await_final(&stack, std::slice::from_ref(&request_id)).await?;
    for (service, message) in [(&stack.campaign, "grant completed"), (&stack.blockchain, "grant paid")] {
        until(SOON, message, async || {
            let log = service.logged().unwrap_or_default();
            let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
            lines.any(|line| {
                line["message"] == message && line["request_id"] == *request_id && line["trace_id"] == TRACE_ID
            })
        })
        .await?;
    }
    stack.stop().await
}

async fn metrics_count_what_happened(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let ids = crate::harness::request_grants(&stack, "summer", 3).await?;
    await_final(&stack, &ids).await?;
    let metrics = async |url: String| anyhow::Ok(reqwest::get(format!("{url}/metrics")).await?.text().await?);
    let campaign = metrics(stack.campaign.url()).await?;
    for line in [
        r#"grant_requests_total{outcome="accepted"} 3"#,
        r#"grant_transitions_total{state="completed"} 3"#,
        r#"http_requests_total{method="POST",route="/token-request",status="202"} 3"#,
        "grant_result_seconds_bucket",
        "outbox_oldest_seconds",
        "open_grants",
    ] {
        assert!(campaign.contains(line), "{line} is not in\n{campaign}");
    }
    let blockchain = metrics(stack.blockchain.url()).await?;
    for line in [
        r#"grants_total{state="completed"} 3"#,
        r#"transactions_total{state="succeeded"}"#,
        r#"messages_received_total{topic="token-grant-requests"} 3"#,
        "transaction_grants_bucket",
        "request_to_final_seconds_bucket",
        "queued_grants",
    ] {
        assert!(blockchain.contains(line), "{line} is not in\n{blockchain}");
    }
    stack.stop().await
}
