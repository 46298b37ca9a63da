//! A whole stack, on either database: a grant is minted once, whatever is killed on the way.
//!
//! The services must be built: `cargo build --workspace`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::time::Duration;

use testkit::{Database, Grant, GrantRequest, Stack, base_units, until};

const SOON: Duration = Duration::from_mins(1);

async fn stack(database: Database) -> Stack {
    let builder = Stack::builder().database(database).own_emulator();
    builder.campaign_env("REPUBLISH_AFTER_SECONDS", "1").start().await.unwrap()
}

/// Requests so many grants and returns their ids.
async fn request(stack: &Stack, campaign: &str, count: usize) -> Vec<String> {
    let client = stack.campaign_client();
    let mut ids = Vec::new();
    for number in 0..count {
        let answer = client.request(&GrantRequest::new(format!("user-{number}"), campaign)).await.unwrap();
        ids.push(answer.request_id().unwrap());
    }
    ids
}

/// Waits for these grants and checks that each was minted, and nothing besides.
async fn all_minted(stack: &Stack, ids: &[String], minted_before: usize) -> Vec<Grant> {
    let mut grants = Vec::new();
    for id in ids {
        let grant = stack.final_grant(id, SOON).await.unwrap();
        assert!(grant.is_completed(), "{grant:?}");
        grants.push(grant);
    }
    let minted = u64::try_from(minted_before + ids.len()).unwrap();
    assert_eq!(stack.chain.total_supply().await.unwrap(), base_units(100 * minted));
    assert_eq!(stack.chain.ids_paid_twice().await.unwrap(), 0);
    assert_eq!(stack.chain.payments().await.unwrap().len(), minted_before + ids.len());
    grants
}

async fn minted_to_the_wallet_of_the_user(database: Database) {
    let stack = stack(database).await;
    let ids = request(&stack, "summer", 3).await;
    let grants = all_minted(&stack, &ids, 0).await;
    let wallet = stack.chain.wallet_of("user-0").await.unwrap();
    assert_eq!(stack.chain.balance_of(wallet).await.unwrap(), base_units(100));
    let listed = stack.campaign_client().grants_of("user-0").await.unwrap();
    assert_eq!(listed[0].transaction_hash, grants[0].transaction_hash);
    assert!(stack.unexpected_end().is_none());
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn a_grant_is_minted_to_the_wallet_of_the_user_on_sqlite() {
    minted_to_the_wallet_of_the_user(Database::Sqlite).await;
}

#[tokio::test]
async fn a_grant_is_minted_to_the_wallet_of_the_user_on_postgres() {
    minted_to_the_wallet_of_the_user(Database::Postgres).await;
}

async fn minted_once_through_kills(database: Database) {
    let stack = stack(database).await;

    let first = request(&stack, "blockchain-dies", 20).await;
    stack.blockchain.restart().await.unwrap();
    all_minted(&stack, &first, 0).await;

    let second = request(&stack, "campaign-dies", 20).await;
    stack.campaign.restart().await.unwrap();
    all_minted(&stack, &second, 20).await;

    stack.blockchain.pause();
    let third = request(&stack, "emulator-forgets", 20).await;
    stack.emulator().restart().await.unwrap();
    stack.blockchain.resume();
    all_minted(&stack, &third, 40).await;

    assert!(stack.unexpected_end().is_none());
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn grants_are_minted_once_whatever_is_killed_on_sqlite() {
    minted_once_through_kills(Database::Sqlite).await;
}

#[tokio::test]
async fn grants_are_minted_once_whatever_is_killed_on_postgres() {
    minted_once_through_kills(Database::Postgres).await;
}

#[tokio::test]
async fn services_drain_on_sigterm_and_wait_for_what_is_away() {
    let stack = stack(Database::Sqlite).await;
    assert!(stack.campaign.terminate(SOON).await.unwrap().success());
    assert!(stack.blockchain.terminate(SOON).await.unwrap().success());

    stack.emulator().stop().await.unwrap();
    stack.campaign.spawn().unwrap();
    stack.campaign.unready(SOON).await.unwrap();
    stack.emulator().launch().await.unwrap();
    stack.campaign.ready(SOON).await.unwrap();
    stack.blockchain.start().await.unwrap();
    let topics = || async { stack.pubsub().topics().await.is_ok_and(|topics| topics.len() >= 4) };
    until(SOON, "the topics", topics).await.unwrap();
    let ids = request(&stack, "after-all", 1).await;
    all_minted(&stack, &ids, 0).await;
}
