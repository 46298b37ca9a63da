//! Two processes on one PostgreSQL database and one signer: one of them sends at a time, whatever happens to it. And
//! one process with several signers: each is a lane of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use testkit::stack::Builder;
use testkit::{Database, Service, Stack, anvil, on_both_databases, ports, until, until_some};

use super::history::{attempts, events};
use super::{impatient, nonce};
use crate::harness::{SOON, assert_paid_exactly_once, lanes_held, request_grants, until_stat};

on_both_databases! {
    |kind| shared_by_two(crate::harness::builder(kind)).signers(3);
    a_process_with_several_signers_uses_all_of_them_and_pays_each_grant_once,
}

const GRANTS: usize = 200;

/// Three lanes share the queue.
async fn a_process_with_several_signers_uses_all_of_them_and_pays_each_grant_once(builder: Builder) -> Result<()> {
    let stack = builder.blockchain_env("MAX_IN_FLIGHT", "2").start().await?;
    let ids = request_grants(&stack, "summer", GRANTS).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    for account in [anvil::SUBMITTER].iter().chain(&anvil::FURTHER_SUBMITTERS[..2]) {
        assert_ne!(
            stack.chain.transactions_of(account.address.parse()?).await?,
            0,
            "{} has sent nothing",
            account.address
        );
    }
    stack.stop().await
}

/// Many transactions, and messages that a process has taken with it are soon there again.
fn shared_by_two(builder: Builder) -> Builder {
    impatient(builder).blockchain_env("BATCH_MAX_GRANTS", "10").campaign_env("REPUBLISH_AFTER_SECONDS", "5")
}

/// Starts a second process beside the stack's own, which holds the lane by then.
async fn second_process(stack: &Stack) -> Result<Service> {
    until_holds(&stack.blockchain, true).await?;
    let second = stack.blockchain.twin(ports::free()?, stack.run_dir().log("blockchain-second"));
    second.start().await?;
    until_holds(&second, false).await?;
    Ok(second)
}

/// Whether a process says that it may send; nothing where it does not answer.
async fn holds(service: &Service) -> Option<bool> {
    lanes_held(service).await.map(|lanes| !lanes.is_empty())
}

async fn until_holds(service: &Service, expected: bool) -> Result<()> {
    until(SOON, &format!("lane_held to be {expected}"), async || holds(service).await == Some(expected)).await
}

/// Each nonce was taken for one payload, and the chain has used exactly these nonces.
async fn assert_one_line_of_nonces(stack: &Stack) -> Result<()> {
    let attempts = attempts(stack).await?;
    let nonces: BTreeSet<u64> = attempts.iter().map(|attempt| attempt.nonce).collect();
    assert_eq!(nonces.len(), attempts.len(), "nothing was replaced, so nothing has two payloads: {attempts:?}");
    assert_eq!(nonces.last().map(|last| last + 1), Some(nonce(stack, "latest").await?));
    let chain: BTreeSet<String> =
        stack.chain.payments().await?.iter().map(|payment| payment.transaction_hash.to_string()).collect();
    assert_eq!(chain, attempts.into_iter().map(|attempt| attempt.hash).collect());
    let unexpected: Vec<_> = events(stack)
        .await?
        .into_iter()
        .filter(|event| !["made", "mined", "succeeded"].contains(&event.kind.as_str()))
        .collect();
    assert_eq!(unexpected, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_sends_and_the_other_takes_over_when_it_is_killed() -> Result<()> {
    let builder = shared_by_two(crate::harness::builder(Database::Postgres));
    let stack = builder.blockchain_env("LANE_LEASE_SECONDS", "2").start().await?;
    let second = second_process(&stack).await?;
    let ids = request_grants(&stack, "summer", GRANTS).await?;
    until_stat(&stack, "/minted/grants", |grants| grants >= 1).await?;
    stack.blockchain.kill9().await?;
    let killed = std::time::Instant::now();
    until_holds(&second, true).await?;
    assert!(killed.elapsed() < Duration::from_secs(6), "it took {:?}", killed.elapsed());
    assert_paid_exactly_once(&stack, &ids).await?;
    assert_one_line_of_nonces(&stack).await?;
    second.stop().await?;
    stack.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_wakes_up_after_its_lease_changes_nothing() {
    let builder = shared_by_two(crate::harness::builder(Database::Postgres));
    let stack = builder.blockchain_env("LANE_LEASE_SECONDS", "2").start().await.unwrap();
    let second = second_process(&stack).await.unwrap();
    let mut ids = Vec::new();
    for campaign in ["spring", "summer", "autumn", "winter"] {
        ids.extend(request_grants(&stack, campaign, GRANTS / 4).await.unwrap());
        let [owner, standby] = owner_and_standby(&stack.blockchain, &second).await.unwrap();
        let (taken, moved) = (times(standby, TAKEN), times(owner, TAKEN) + times(owner, LOST));
        owner.pause();
        until(SOON, "the other to take the lane", async || times(standby, TAKEN) > taken).await.unwrap();
        owner.resume();
        // It stands by, or, should the other be slow to renew, takes the lane as a new owner.
        let noticed = async || times(owner, TAKEN) + times(owner, LOST) > moved;
        until(SOON, "the former owner to notice", noticed).await.unwrap();
    }
    assert_paid_exactly_once(&stack, &ids).await.unwrap();
    assert_one_line_of_nonces(&stack).await.unwrap();
    second.stop().await.unwrap();
    stack.stop().await.unwrap();
}

/// The one that may send, and the other.
async fn owner_and_standby<'a>(first: &'a Service, second: &'a Service) -> Result<[&'a Service; 2]> {
    until_some(SOON, "one to hold the lane", async || match (holds(first).await?, holds(second).await?) {
        (true, false) => Some([first, second]),
        (false, true) => Some([second, first]),
        _ => None,
    })
    .await
}

const TAKEN: &str = "lane taken";
const LOST: &str = "another process has taken the lane, standing by";

/// How often a process has logged this.
fn times(service: &Service, said: &str) -> usize {
    service.logged().unwrap_or_default().matches(said).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stops_gives_its_lane_back() -> Result<()> {
    let builder = shared_by_two(crate::harness::builder(Database::Postgres));
    // Long enough for a lease that is not given back to show.
    let stack = builder.blockchain_env("LANE_LEASE_SECONDS", "30").start().await?;
    let second = second_process(&stack).await?;
    let ids = request_grants(&stack, "summer", GRANTS).await?;
    assert!(stack.blockchain.terminate(SOON).await?.success());
    let stopped = std::time::Instant::now();
    until_holds(&second, true).await?;
    assert!(stopped.elapsed() < Duration::from_secs(15), "it took {:?}", stopped.elapsed());
    assert_paid_exactly_once(&stack, &ids).await?;
    assert_one_line_of_nonces(&stack).await?;
    second.stop().await?;
    stack.stop().await
}
