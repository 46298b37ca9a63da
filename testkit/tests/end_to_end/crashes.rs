//! Processes that are killed, and processes that are asked to stop, with grants under way.

use std::time::Duration;

use anyhow::Result;
use testkit::on_both_databases;
use testkit::stack::Builder;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{assert_paid_exactly_once, builder, request_grants, until_stat};

on_both_databases! {
    |kind| builder(kind);
    grants_survive_kill_9_of_the_blockchain_service,
    grants_survive_kill_9_of_the_campaign_service,
    a_transaction_that_was_committed_and_never_sent_is_sent_after_a_restart,
    sigterm_drains_both_services_and_loses_nothing,
    a_client_that_sends_half_a_request_does_not_spoil_a_shutdown,
}

const GRANTS: usize = 300;

async fn grants_survive_kill_9_of_the_blockchain_service(builder: Builder) -> Result<()> {
    // Small batches, so that several transactions are under way at each kill.
    let stack = builder.blockchain_env("BATCH_MAX_GRANTS", "20").start().await?;
    let ids = request_grants(&stack, "summer", GRANTS).await?;
    for minted in [1, 60, 120] {
        until_stat(&stack, "/minted/grants", |grants| grants >= minted).await?;
        stack.blockchain.restart().await?;
    }
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

async fn grants_survive_kill_9_of_the_campaign_service(builder: Builder) -> Result<()> {
    let stack = builder.campaign_env("REPUBLISH_AFTER_SECONDS", "2").start().await?;
    let ids = request_grants(&stack, "summer", GRANTS).await?;
    stack.campaign.restart().await?;
    until_stat(&stack, "/minted/grants", |grants| grants >= 1).await?;
    stack.campaign.restart().await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    // What was answered before the kill is known after it.
    let repeated = request_grants(&stack, "summer", GRANTS).await?;
    assert_eq!(repeated, ids);
    stack.stop().await
}

async fn a_transaction_that_was_committed_and_never_sent_is_sent_after_a_restart(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    stack.chain.mine_every(0).await?;
    let ids = request_grants(&stack, "summer", 3).await?;
    until_stat(&stack, "/in_flight/grants", |grants| grants == 3).await?;
    stack.blockchain.kill9().await?;
    // The node forgets what it was sent: only the service still has the bytes.
    stack.chain.drop_pending().await?;
    stack.blockchain.set("RESEND_AFTER_SECONDS", "1");
    stack.chain.mine_every(1).await?;
    stack.blockchain.start().await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

async fn sigterm_drains_both_services_and_loses_nothing(builder: Builder) -> Result<()> {
    let stack = builder.blockchain_env("BATCH_MAX_GRANTS", "20").start().await?;
    let ids = request_grants(&stack, "summer", GRANTS).await?;
    let deadline = Duration::from_secs(20);
    let (campaign, blockchain) = tokio::join!(stack.campaign.terminate(deadline), stack.blockchain.terminate(deadline));
    assert!(campaign?.success() && blockchain?.success());
    assert!(stack.campaign.logged()?.contains("stopped"));
    stack.campaign.start().await?;
    stack.blockchain.start().await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

async fn a_client_that_sends_half_a_request_does_not_spoil_a_shutdown(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let mut connections = Vec::new();
    for half in ["GET /livez HTTP/1.1\r\nHo", "POST /token-request HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"]
    {
        let address = stack.campaign.url().replace("http://", "");
        let mut connection = tokio::net::TcpStream::connect(address).await?;
        connection.write_all(half.as_bytes()).await?;
        connections.push(connection);
    }
    let ids = request_grants(&stack, "summer", 20).await?;
    assert!(stack.campaign.terminate(Duration::from_secs(15)).await?.success());
    stack.campaign.start().await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}
