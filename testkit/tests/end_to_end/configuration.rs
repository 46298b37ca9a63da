//! A mistake in the configuration stops a service at start, with every problem in plain words.

use anyhow::Result;
use testkit::stack::Builder;
use testkit::{GrantRequest, Stack, anvil, ports, until_some};

use crate::harness::{SOON, builder};

async fn refuses_to_start(stack: &Stack, problems: &[&str]) -> Result<()> {
    stack.blockchain.spawn()?;
    let status = stack.blockchain.ended(SOON).await?;
    let log = stack.blockchain.logged()?;
    assert!(!status.success(), "{log}");
    for problem in problems {
        assert!(log.contains(problem), "{problem} is not in {log}");
    }
    Ok(())
}

fn prepared() -> Builder {
    builder(testkit::Database::Sqlite).without_services()
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_read_are_named_all_at_once() {
    let stack = prepared().start().await.unwrap();
    stack.blockchain.set("RPC_URL", "ftp://node");
    stack.blockchain.set("SIGNER_KEY", "hunter2");
    stack.blockchain.set("DISTRIBUTOR_ADDRESS", "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD");
    stack.blockchain.unset("WALLET_FACTORY_ADDRESS");
    refuses_to_start(&stack, &["RPC_URL must", "SIGNER_KEY must", "EIP-55", "WALLET_FACTORY_ADDRESS is not set"])
        .await
        .unwrap();
    assert!(!stack.blockchain.logged().unwrap().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_is_not_as_configured_is_described() {
    let stack = prepared().start().await.unwrap();
    stack.blockchain.set("CHAIN_ID", "1");
    stack.blockchain.set("SIGNER_KEY", anvil::STRANGER.key);
    stack.blockchain.set("WALLET_FACTORY_ADDRESS", anvil::ADMIN.address);
    let problems = [
        "CHAIN_ID is 1, the node at RPC_URL serves chain 31337",
        "SUBMITTER_ROLE",
        "WALLET_FACTORY_ADDRESS: there is no contract",
    ];
    refuses_to_start(&stack, &problems).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_opened_stops_the_service() {
    let stack = prepared().start().await.unwrap();
    for url in ["mysql://root@localhost/x", "sqlite:///proc/nowhere/blockchain.db"] {
        stack.blockchain.set("DATABASE_URL", url);
        refuses_to_start(&stack, &["DATABASE_URL"]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_one_sqlite_file_is_refused() {
    let stack = builder(testkit::Database::Sqlite).start().await.unwrap();
    for service in [&stack.campaign, &stack.blockchain] {
        let second = service.twin(ports::free().unwrap(), stack.run_dir().log("second"));
        second.spawn().unwrap();
        assert!(!second.ended(SOON).await.unwrap().success());
        let log = second.logged().unwrap();
        assert!(log.contains("another process uses") && log.contains("DATABASE_URL to postgres://"), "{log}");
    }
    stack.blockchain.kill9().await.unwrap();
    stack.blockchain.start().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_waits_for_its_chain_stops_when_told_to_and_keeps_the_url_to_itself() {
    let stack = prepared().start().await.unwrap();
    stack.blockchain.set("RPC_URL", "https://127.0.0.1:9/v1/secret-provider-key");
    stack.blockchain.spawn().unwrap();
    let health = until_some(SOON, "the chain to be down", || async {
        let health = stack.blockchain_client().health().await.ok()?;
        health.body["dependencies"]["chain"]["reason"].is_string().then_some(health)
    })
    .await
    .unwrap();
    assert_eq!(health.status, 503);
    let status = stack.blockchain.terminate(SOON).await.unwrap();
    assert!(status.success());
    for said in [health.body.to_string(), stack.blockchain.logged().unwrap()] {
        assert!(said.contains("refused") && !said.contains("secret-provider-key"), "{said}");
    }
}

/// A client would take 404 for the last word.
#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_service_that_waits_for_its_database_asks_clients_to_come_back() {
    let stack = prepared().start().await.unwrap();
    stack.campaign.set("DATABASE_URL", "postgres://nobody@127.0.0.1:9/nothing");
    stack.campaign.spawn().unwrap();
    let answer = until_some(SOON, "an answer", || async {
        stack.campaign_client().request(&GrantRequest::new("alice", "summer")).await.ok()
    })
    .await
    .unwrap();
    assert_eq!((answer.status, answer.body["type"].as_str()), (503, Some("urn:problem-type:unavailable")));
    assert!(stack.campaign.answers("/livez").await);
}
