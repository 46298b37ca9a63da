//! A line of nonces that somebody else uses, that the chain has lost, or that the database has forgotten.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use testkit::stack::Builder;
use testkit::{Stack, anvil, on_both_databases, until};

use super::history::{attempts, events, until_event};
use super::{impatient, nonce, request_without_blocks};
use crate::harness::{SOON, assert_paid_exactly_once, request_grants};

on_both_databases! {
    |kind| impatient(crate::harness::builder(kind));
    a_transaction_whose_nonce_somebody_else_has_used_is_given_up_when_that_is_final,
    nonces_that_somebody_else_has_used_are_skipped,
    final_transactions_that_the_chain_has_lost_go_out_again,
    a_blockchain_database_of_yesterday_pays_nobody_twice_and_leaves_no_gap,
}

/// Sends a transaction that is not the service's from its signer to itself.
async fn use_nonce(stack: &Stack, nonce: u64) -> Result<()> {
    let signer = anvil::SUBMITTER.address;
    let transaction = json!([{
        "from": signer, "to": signer, "nonce": format!("{nonce:#x}"), "gas": "0x5208",
        "maxFeePerGas": "0x174876e800", "maxPriorityFeePerGas": "0x174876e800",
    }]);
    stack.chain.rpc("eth_sendTransaction", transaction).await.map(drop)
}

async fn a_transaction_whose_nonce_somebody_else_has_used_is_given_up_when_that_is_final(
    builder: Builder,
) -> Result<()> {
    let stack = builder.blockchain_env("CONFIRMATIONS", "3").start().await?;
    let ids = request_without_blocks(&stack, "summer", 5).await?;
    let taken = nonce(&stack, "latest").await?;
    stack.chain.drop_pending().await?;
    use_nonce(&stack, taken).await?;
    stack.chain.mine(2).await?;
    // The service sees it, and that a reorg may still undo it.
    until(SOON, "the service to notice", async || nonce(&stack, "latest").await.is_ok_and(|mined| mined > taken))
        .await?;
    assert!(events(&stack).await?.iter().all(|event| event.kind != "given_up"));
    stack.chain.mine_every(1).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let told: Vec<_> = events(&stack).await?.into_iter().map(|event| (event.nonce, event.kind)).collect();
    let expected = [(0, "made"), (0, "given_up"), (1, "made"), (1, "mined"), (1, "succeeded")];
    assert_eq!(told, expected.map(|(nonce, kind)| (nonce, kind.to_owned())));
    stack.stop().await
}

async fn nonces_that_somebody_else_has_used_are_skipped(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    use_nonce(&stack, 0).await?;
    until(SOON, "the nonce to be skipped", async || {
        stack.blockchain.logged().is_ok_and(|log| log.contains("somebody else sends from the signer"))
    })
    .await?;
    let first = request_grants(&stack, "spring", 5).await?;
    assert_paid_exactly_once(&stack, &first).await?;
    // The next but one: it waits in the mempool until ours is mined, and is behind it then.
    use_nonce(&stack, 3).await?;
    let second = request_grants(&stack, "summer", 5).await?;
    assert_paid_exactly_once(&stack, &[&first[..], &second].concat()).await?;
    let third = request_grants(&stack, "autumn", 5).await?;
    assert_paid_exactly_once(&stack, &[first, second, third].concat()).await?;
    stack.stop().await
}

/// The chain comes back from an older state: what the service has reported is not on it any more.
async fn final_transactions_that_the_chain_has_lost_go_out_again(builder: Builder) -> Result<()> {
    let stack = builder.blockchain_env("BATCH_MAX_GRANTS", "1").start().await?;
    let kept = request_grants(&stack, "spring", 3).await?;
    assert_paid_exactly_once(&stack, &kept).await?;
    let state = stack.chain.rpc("anvil_dumpState", json!([])).await?;
    let lost = request_grants(&stack, "summer", 40).await?;
    let before = [kept, lost].concat();
    assert_paid_exactly_once(&stack, &before).await?;
    let open = request_without_blocks(&stack, "autumn", 3).await?;

    // Frozen meanwhile, or it would see a chain that is empty.
    stack.blockchain.pause();
    stack.anvil.kill9().await?;
    stack.anvil.launch().await?;
    let loaded = stack.chain.rpc("anvil_loadState", json!([state])).await?;
    assert_eq!(loaded, Value::Bool(true));
    assert_eq!(nonce(&stack, "latest").await?, 3);
    stack.blockchain.resume();

    // What is open can be paid only when what was lost before it is there again.
    assert_paid_exactly_once(&stack, &[before.clone(), open].concat()).await?;
    until_event(&stack, "reopened", 40).await?;
    assert_eq!(attempts(&stack).await?.len(), 46, "the same bytes");
    crate::harness::until_stat(&stack, "/minted/grants", |grants| grants == 46).await?;
    stack.blockchain.ready(SOON).await?;
    stack.stop().await
}

async fn a_blockchain_database_of_yesterday_pays_nobody_twice_and_leaves_no_gap(builder: Builder) -> Result<()> {
    let stack = builder.campaign_env("REPUBLISH_AFTER_SECONDS", "2").start().await?;
    let known = request_grants(&stack, "spring", 5).await?;
    assert_paid_exactly_once(&stack, &known).await?;
    stack.blockchain.stop().await?;
    let copy = copy_of_database(&stack).await?;
    stack.blockchain.start().await?;
    let forgotten = request_grants(&stack, "summer", 5).await?;
    assert_paid_exactly_once(&stack, &[&known[..], &forgotten].concat()).await?;
    let first_open = nonce(&stack, "latest").await?;
    let open = request_without_blocks(&stack, "autumn", 5).await?;
    stack.blockchain.kill9().await?;

    stack.blockchain.set("DATABASE_URL", &copy);
    stack.blockchain.start().await?;
    // What it has forgotten leaves the mempool too: a nonce that nobody knows anything of.
    stack.chain.drop_pending().await?;
    stack.chain.mine_every(1).await?;
    assert_paid_exactly_once(&stack, &[known, forgotten, open].concat()).await?;
    let filled = attempts(&stack).await?.into_iter().find(|attempt| attempt.purpose == "cancel");
    assert_eq!(filled.map(|attempt| attempt.nonce), Some(first_open));
    stack.stop().await
}

/// Copies the stopped blockchain service's database; returns the copy's URL.
async fn copy_of_database(stack: &Stack) -> Result<String> {
    let program = stack.blockchain.program();
    let url = program.variable("DATABASE_URL").context("a stack sets DATABASE_URL")?;
    if let Some(file) = url.strip_prefix("sqlite://") {
        std::fs::copy(file, format!("{file}.copy"))?;
        return Ok(format!("{url}.copy"));
    }
    let original: PgConnectOptions = url.parse()?;
    let name = original.get_database().context("a URL names its database")?.to_owned();
    let mut connection = original.database("postgres").connect().await?;
    let copy = AssertSqlSafe(format!("create database {name}_copy template {name}"));
    sqlx::raw_sql(copy).execute(&mut connection).await?;
    connection.close().await?;
    Ok(url.replace(&*name, &format!("{name}_copy")))
}
