//! Transactions that survive: too cheap, dropped, reorganized, unpaid for, never mined. Each grant is paid once all the
//! same, and what happened is in the transactions' history.

mod history;
mod nodes;
mod nonces;
mod owners;

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::U256;
use anyhow::Result;
use serde_json::json;
use testkit::stack::Builder;
use testkit::{Stack, anvil, on_both_databases, until};

use self::history::{Attempt, attempts, events, until_event};
use crate::harness::{SOON, assert_paid_exactly_once, assert_supply, request_grants, until_stat};
use crate::outages::until_unhealthy;

on_both_databases! {
    |kind| impatient(crate::harness::builder(kind));
    a_transaction_that_is_too_cheap_is_replaced_by_one_that_pays_an_eighth_more,
    above_the_ceiling_transactions_wait_until_fees_fall,
    a_transaction_that_the_mempool_has_dropped_is_sent_again,
    a_reorganized_transaction_falls_back_and_nothing_is_reported_before_it_is_final,
    grants_wait_while_the_signer_cannot_pay,
    a_transaction_that_is_never_mined_is_cancelled_and_its_grants_are_paid_by_another,
    a_batch_that_no_block_can_hold_is_halved,
    a_block_has_no_more_of_our_gas_than_it_may,
}

/// A service that does not wait long, and that puts grants which are requested together into one transaction.
fn impatient(builder: Builder) -> Builder {
    builder.blockchain_env("RESEND_AFTER_SECONDS", "1").blockchain_env("BATCH_LINGER_MS", "1000")
}

/// Requests grants while no blocks are made, and waits until the node has the transaction that is to pay them.
async fn request_without_blocks(stack: &Stack, campaign: &str, grants: usize) -> Result<Vec<String>> {
    stack.chain.mine_every(0).await?;
    let ids = request_grants(stack, campaign, grants).await?;
    until_stat(stack, "/in_flight/grants", |in_flight| in_flight == grants as u64).await?;
    until_in_mempool(stack).await?;
    Ok(ids)
}

/// Waits until a transaction of the signer waits in the mempool.
async fn until_in_mempool(stack: &Stack) -> Result<()> {
    until(SOON, "a transaction in the mempool", async || {
        let (pending, latest) = tokio::join!(nonce(stack, "pending"), nonce(stack, "latest"));
        pending.is_ok_and(|pending| latest.is_ok_and(|latest| pending > latest))
    })
    .await
}

/// How many transactions of the signer there are at a place.
async fn nonce(stack: &Stack, at: &str) -> Result<u64> {
    let count = stack.chain.rpc("eth_getTransactionCount", json!([anvil::SUBMITTER.address, at])).await?;
    let count: U256 = serde_json::from_value(count)?;
    Ok(count.to())
}

/// Sets what the next block asks for a unit of gas.
async fn next_base_fee(stack: &Stack, gwei: u64) -> Result<()> {
    let wei = format!("{:#x}", gwei * 1_000_000_000);
    stack.chain.rpc("anvil_setNextBlockBaseFeePerGas", json!([wei])).await.map(drop)
}

async fn set_block_gas(stack: &Stack, gas: u64) -> Result<()> {
    stack.chain.rpc("evm_setBlockGasLimit", json!([format!("{gas:#x}")])).await.map(drop)
}

async fn set_balance(stack: &Stack, wei: u128) -> Result<()> {
    let balance = json!([anvil::SUBMITTER.address, format!("{wei:#x}")]);
    stack.chain.rpc("anvil_setBalance", balance).await.map(drop)
}

const ETHER: u128 = 1_000_000_000_000_000_000;

async fn a_transaction_that_is_too_cheap_is_replaced_by_one_that_pays_an_eighth_more(builder: Builder) -> Result<()> {
    let stack = builder.blockchain_env("REPLACE_AFTER_SECONDS", "1").start().await?;
    let ids = request_without_blocks(&stack, "summer", 5).await?;
    next_base_fee(&stack, 50).await?;
    stack.chain.mine_every(1).await?;
    assert_paid_exactly_once(&stack, &ids).await?;

    let attempts = attempts(&stack).await?;
    let replaced: Vec<_> =
        attempts.windows(2).filter(|pair| pair[0].nonce == pair[1].nonce).map(|pair| (&pair[0], &pair[1])).collect();
    assert!(!replaced.is_empty(), "{attempts:?}");
    for (before, after) in replaced {
        assert!(after.max_fee_wei * 8 >= before.max_fee_wei * 9, "{attempts:?}");
        assert!(after.priority_fee_wei * 8 >= before.priority_fee_wei * 9, "{attempts:?}");
        assert_eq!((&before.purpose[..], &after.purpose[..]), ("pay", "pay"));
    }
    assert_eq!(events(&stack).await?.iter().filter(|event| event.kind == "succeeded").count(), 1);
    stack.stop().await
}

async fn above_the_ceiling_transactions_wait_until_fees_fall(builder: Builder) -> Result<()> {
    let stack =
        builder.blockchain_env("REPLACE_AFTER_SECONDS", "1").blockchain_env("MAX_FEE_GWEI", "20").start().await?;
    let mut ids = request_without_blocks(&stack, "summer", 5).await?;
    // It falls by an eighth with each block: for long enough it is too high.
    next_base_fee(&stack, 1000).await?;
    stack.chain.mine_every(1).await?;
    until_unhealthy(&stack, "confirming", "above the ceiling").await?;
    // New grants wait as well.
    ids.extend(request_grants(&stack, "autumn", 5).await?);
    until_unhealthy(&stack, "submitting", "above the ceiling").await?;
    assert_supply(&stack, 0).await?;
    assert!(attempts(&stack).await?.iter().all(|attempt| attempt.max_fee_wei <= 20_000_000_000));

    next_base_fee(&stack, 1).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.blockchain.ready(SOON).await?;
    stack.stop().await
}

async fn a_transaction_that_the_mempool_has_dropped_is_sent_again(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    let ids = request_without_blocks(&stack, "summer", 5).await?;
    stack.chain.drop_pending().await?;
    // Nothing but the service can bring it back.
    until_in_mempool(&stack).await?;
    stack.chain.mine_every(1).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    assert_eq!(attempts(&stack).await?.len(), 1, "the same bytes");
    stack.stop().await
}

async fn a_reorganized_transaction_falls_back_and_nothing_is_reported_before_it_is_final(
    builder: Builder,
) -> Result<()> {
    let stack = builder.blockchain_env("CONFIRMATIONS", "4").start().await?;
    let ids = request_without_blocks(&stack, "summer", 5).await?;
    for depth in 1..=3 {
        stack.chain.mine(depth).await?;
        until_event(&stack, "mined", usize::try_from(depth)?).await?;
        stack.chain.reorg(depth).await?;
        // Empty: what was in the mempool came with the blocks that are gone.
        stack.chain.drop_pending().await?;
        stack.chain.mine(1).await?;
        until_event(&stack, "fell_back", usize::try_from(depth)?).await?;
        assert_supply(&stack, 0).await?;
        for id in &ids {
            let grant = stack.campaign_client().grant(id).await?.unwrap();
            assert!(!grant.is_final(), "{grant:?}");
        }
        until_in_mempool(&stack).await?;
    }
    stack.chain.mine(3).await?;
    until_event(&stack, "mined", 4).await?;
    until_stat(&stack, "/minted/grants", |grants| grants == 0).await?;
    stack.chain.mine(1).await?;
    assert_paid_exactly_once(&stack, &ids).await?;

    let told: Vec<_> = events(&stack).await?.into_iter().map(|event| event.kind).collect();
    let fell_back = ["mined", "fell_back"].repeat(3);
    assert_eq!(told, [&["made"], &fell_back[..], &["mined", "succeeded"]].concat());
    stack.stop().await
}

async fn grants_wait_while_the_signer_cannot_pay(builder: Builder) -> Result<()> {
    let stack = builder.start().await?;
    set_balance(&stack, 1_000_000_000).await?;
    let ids = request_grants(&stack, "summer", 5).await?;
    until_unhealthy(&stack, "submitting", "grants wait for funds").await?;
    assert!(attempts(&stack).await?.is_empty(), "nothing is taken a nonce for that cannot be paid");
    set_balance(&stack, ETHER).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.blockchain.ready(SOON).await?;

    // The funds go while a transaction is under way.
    let more = request_without_blocks(&stack, "autumn", 5).await?;
    set_balance(&stack, 1_000_000_000).await?;
    stack.chain.drop_pending().await?;
    until_unhealthy(&stack, "confirming", "has not enough funds").await?;
    set_balance(&stack, ETHER).await?;
    stack.chain.mine_every(1).await?;
    assert_paid_exactly_once(&stack, &[ids, more].concat()).await?;
    stack.blockchain.ready(SOON).await?;
    stack.stop().await
}

async fn a_transaction_that_is_never_mined_is_cancelled_and_its_grants_are_paid_by_another(
    builder: Builder,
) -> Result<()> {
    let stack = builder.blockchain_env("CANCEL_AFTER_SECONDS", "3").start().await?;
    let ids = request_without_blocks(&stack, "summer", 40).await?;
    // Blocks are too small for any payment, and large enough for what cancels it.
    set_block_gas(&stack, 300_000).await?;
    stack.chain.mine_every(1).await?;
    until_event(&stack, "cancelled", 1).await?;
    assert_supply(&stack, 0).await?;
    set_block_gas(&stack, 2_000_000_000).await?;
    assert_paid_exactly_once(&stack, &ids).await?;

    let attempts = attempts(&stack).await?;
    let purposes = |nonce: u64| -> Vec<&str> {
        attempts.iter().filter(|one| one.nonce == nonce).map(|one| one.purpose.as_str()).collect()
    };
    assert_eq!(purposes(0)[0], "pay");
    assert!(purposes(0)[1..].iter().all(|purpose| *purpose == "cancel") && purposes(0).len() >= 2);
    stack.stop().await
}

/// A node that takes the bytes of no full batch: they are cancelled, and smaller ones are tried.
async fn a_batch_that_no_block_can_hold_is_halved(builder: Builder) -> Result<()> {
    let stack = builder.blockchain_env("POSTPONE_SECONDS", "1").start().await?;
    set_block_gas(&stack, 1_000_000).await?;
    let ids = request_grants(&stack, "summer", 40).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    let sizes = attempts(&stack).await?;
    let taken: Vec<&Attempt> = sizes.iter().filter(|attempt| attempt.purpose == "pay").collect();
    assert!(taken.len() >= 4, "{taken:?}");
    stack.stop().await
}

async fn a_block_has_no_more_of_our_gas_than_it_may(builder: Builder) -> Result<()> {
    const MOST: u64 = 2_000_000;
    let builder = builder.blockchain_env("MAX_BLOCK_GAS", MOST.to_string()).blockchain_env("CONFIRMATIONS", "2");
    let stack = builder.start().await?;
    stack.chain.mine_every(0).await?;
    let ids = request_grants(&stack, "summer", 150).await?;
    until_stat(&stack, "/queue/grants", |queued| queued > 0).await?;
    until_in_mempool(&stack).await?;
    stack.chain.mine_every(1).await?;
    assert_paid_exactly_once(&stack, &ids).await?;

    let payments = stack.chain.payments().await?;
    let transactions: BTreeSet<_> = payments.iter().map(|paid| (paid.block_number, paid.transaction_hash)).collect();
    let mut of_blocks: BTreeMap<u64, u64> = BTreeMap::new();
    for (block, hash) in transactions {
        let receipt = stack.chain.rpc("eth_getTransactionReceipt", json!([hash])).await?;
        let gas: U256 = serde_json::from_value(receipt["gasUsed"].clone())?;
        *of_blocks.entry(block).or_default() += gas.to::<u64>();
    }
    assert!(of_blocks.values().all(|gas| *gas <= MOST), "{of_blocks:?}");
    assert!(of_blocks.len() >= 3, "150 grants fit no two such blocks: {of_blocks:?}");
    let full = of_blocks.values().filter(|gas| **gas > MOST / 2).count();
    assert!(full >= 2, "blocks are filled as far as they may be: {of_blocks:?}");
    stack.stop().await
}
