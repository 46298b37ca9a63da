//! What the services depend on goes away, refuses, and comes back.

use std::time::Duration;

use alloy::sol_types::SolCall;
use anyhow::{Context as _, Result};
use blockchain::contract::{GrantDistributor, GrantToken};
use testkit::stack::Builder;
use testkit::{Stack, anvil, base_units, on_both_databases, until, until_some};

use crate::harness::{SOON, assert_paid_exactly_once, assert_supply, builder, request_grants, transact, until_stat};

on_both_databases! {
    |kind| builder(kind);
    grants_survive_an_emulator_that_restarts_empty,
    services_that_start_before_the_emulator_wait_for_it,
    a_blockchain_service_that_starts_before_the_chain_waits_for_it,
    grants_wait_while_the_chain_is_away,
    grants_wait_while_the_distributor_is_paused,
    grants_wait_while_the_token_is_paused,
    a_daily_cap_smaller_than_a_batch_pays_what_fits,
}

/// Calls a contract as its admin and waits until the call is mined.
pub(crate) async fn as_admin<C: SolCall>(stack: &Stack, call: &C) -> Result<()> {
    call_contract(stack, stack.chain.contracts().distributor, call).await
}

async fn call_contract<C: SolCall>(stack: &Stack, to: alloy::primitives::Address, call: &C) -> Result<()> {
    let receipt = transact(stack, anvil::ADMIN.address, to, call).await?;
    anyhow::ensure!(receipt["status"] == "0x1", "the admin's call reverted");
    Ok(())
}

/// Waits until a dependency of the blockchain service is down for this reason.
pub(crate) async fn until_unhealthy(stack: &Stack, dependency: &str, reason: &str) -> Result<()> {
    until(SOON, &format!("{dependency} to be down: {reason}"), async || {
        let Ok(health) = stack.blockchain_client().health().await else { return false };
        let said = health.body["dependencies"][dependency]["reason"].as_str().unwrap_or_default().to_owned();
        health.status == 503 && said.contains(reason)
    })
    .await
}

async fn grants_survive_an_emulator_that_restarts_empty(builder: Builder) -> Result<()> {
    let stack = builder
        .own_emulator()
        .campaign_env("REPUBLISH_AFTER_SECONDS", "2")
        .blockchain_env("BATCH_MAX_GRANTS", "20")
        .start()
        .await?;
    let ids = request_grants(&stack, "summer", 200).await?;
    stack.emulator().restart().await?;
    until_stat(&stack, "/minted/grants", |grants| grants >= 1).await?;
    stack.emulator().restart().await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.campaign.ready(SOON).await?;
    stack.blockchain.ready(SOON).await?;
    stack.stop().await
}

async fn services_that_start_before_the_emulator_wait_for_it(builder: Builder) -> Result<()> {
    let stack = builder.own_emulator().without_services().start().await?;
    stack.emulator().stop().await?;
    stack.campaign.spawn()?;
    stack.blockchain.spawn()?;
    stack.campaign.unready(SOON).await?;
    stack.blockchain.unready(SOON).await?;
    // Requests are accepted all the same: they wait in the outbox.
    until(SOON, "the campaign service", async || stack.campaign.answers("/livez").await).await?;
    let ids =
        until_some(SOON, "requests to be accepted", async || request_grants(&stack, "summer", 5).await.ok()).await?;
    stack.emulator().launch().await?;
    stack.campaign.ready(SOON).await?;
    stack.blockchain.ready(SOON).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

async fn a_blockchain_service_that_starts_before_the_chain_waits_for_it(builder: Builder) -> Result<()> {
    let stack = builder.without_services().start().await?;
    stack.anvil.pause();
    stack.campaign.start().await?;
    stack.blockchain.spawn()?;
    until_unhealthy(&stack, "chain", "does not answer").await?;
    let ids = request_grants(&stack, "summer", 5).await?;
    stack.anvil.resume();
    stack.blockchain.ready(SOON).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

async fn grants_wait_while_the_chain_is_away(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    stack.anvil.pause();
    let ids = request_grants(&stack, "summer", 5).await?;
    until_unhealthy(&stack, "chain", "does not answer").await?;
    stack.anvil.resume();
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.blockchain.ready(SOON).await?;
    stack.stop().await
}

async fn grants_wait_while_the_distributor_is_paused(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let (status, told) = pausing(&stack, "pause", anvil::STRANGER).await?;
    assert!(status == 1 && told.contains("does not hold PAUSER_ROLE"), "{status}: {told}");
    assert_eq!(pausing(&stack, "unpause", anvil::ADMIN).await?.0, 0, "it was not paused");
    for _ in 0..2 {
        let (status, told) = pausing(&stack, "pause", anvil::ADMIN).await?;
        assert!(status == 0 && told.contains(r#""paused":true"#), "{status}: {told}");
    }
    let ids = request_grants(&stack, "summer", 5).await?;
    until_unhealthy(&stack, "submitting", "the distributor is paused").await?;
    assert_supply(&stack, 0).await?;
    let (status, told) = pausing(&stack, "unpause", anvil::ADMIN).await?;
    assert!(status == 0 && told.contains(r#""paused":false"#), "{status}: {told}");
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

/// Runs `blockchain pause` or `blockchain unpause` with the key of an account; its exit status, and all that it said.
async fn pausing(stack: &Stack, command: &str, account: anvil::Account) -> Result<(i32, String)> {
    let log = stack.run_dir().log(command);
    let output = log.with_extension("out");
    let program = stack.blockchain.program().log_to(&log).output(&output).env("PAUSER_KEY", account.key).arg(command);
    let status = program.spawn()?.wait(SOON).await?;
    let told = std::fs::read_to_string(output)? + &std::fs::read_to_string(log)?;
    assert!(!told.contains(account.key.trim_start_matches("0x")), "the key was told");
    Ok((status.code().context("it was killed")?, told))
}

/// A paused token refuses each grant; none of them may end as failed for that.
async fn grants_wait_while_the_token_is_paused(builder: Builder) -> Result<()> {
    let stack = builder.block_time(Duration::from_millis(200)).blockchain_env("POSTPONE_SECONDS", "1").start().await?;
    let token = stack.chain.contracts().token;
    call_contract(&stack, token, &GrantToken::pauseCall {}).await?;
    let ids = request_grants(&stack, "summer", 5).await?;
    until(SOON, "grants to be postponed", async || {
        stack.blockchain.logged().is_ok_and(|log| log.contains("the token is paused"))
    })
    .await?;
    assert_supply(&stack, 0).await?;
    call_contract(&stack, token, &GrantToken::unpauseCall {}).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}

async fn a_daily_cap_smaller_than_a_batch_pays_what_fits(builder: Builder) -> Result<()> {
    let stack = builder.blockchain_env("POSTPONE_SECONDS", "1").start().await?;
    as_admin(&stack, &GrantDistributor::setDailyCapCall { cap: base_units(250) }).await?;
    let ids = request_grants(&stack, "summer", 5).await?;
    until_stat(&stack, "/minted/grants", |grants| grants == 2).await?;
    until_unhealthy(&stack, "submitting", "daily cap").await?;
    assert_supply(&stack, 200).await?;
    as_admin(&stack, &GrantDistributor::setDailyCapCall { cap: base_units(0) }).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.stop().await
}
