//! Several nodes of one chain, and chains that have finality of their own.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use testkit::{Anvil, Database, Stack, anvil, ports, until};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::history::until_event;
use super::{impatient, request_without_blocks};
use crate::harness::{SOON, assert_paid_exactly_once, builder, request_grants, until_stat};

/// Another way to a node, until it is dropped.
struct Way {
    port: u16,
    task: AbortHandle,
}

impl Way {
    async fn to(stack: &Stack) -> Result<Self> {
        Self::at(ports::free()?, stack).await
    }

    async fn at(port: u16, stack: &Stack) -> Result<Self> {
        let node = stack.anvil.url().replace("http://", "");
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut caller, _)) = listener.accept().await {
                let node = node.clone();
                connections.spawn(async move {
                    let mut node = TcpStream::connect(node).await?;
                    copy_bidirectional(&mut caller, &mut node).await
                });
            }
        });
        Ok(Self { port, task: task.abort_handle() })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn prepared() -> Result<Stack> {
    impatient(builder(Database::Sqlite)).blockchain_env("BATCH_MAX_GRANTS", "10").without_services().start().await
}

/// Which chain a chain that is not ours says to be.
const OTHER_CHAIN: u64 = 5;

async fn other_chain(stack: &Stack, port: u16) -> Result<Anvil> {
    let other = Anvil::start(stack.run_dir().log("other-chain"), port, Duration::from_millis(200)).await?;
    testkit::chain::rpc(&other.url(), "anvil_setChainId", json!([OTHER_CHAIN])).await?;
    Ok(other)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_stands_in_for_one_that_dies() {
    let stack = prepared().await.unwrap();
    let way = Way::to(&stack).await.unwrap();
    // The first is dead from the start, the second dies under way.
    let dead = format!("http://127.0.0.1:{}", ports::free().unwrap());
    stack.blockchain.set("RPC_URL", &format!("{dead},{},{}", way.url(), stack.anvil.url()));
    stack.campaign.start().await.unwrap();
    stack.blockchain.start().await.unwrap();
    let ids = request_grants(&stack, "summer", 200).await.unwrap();
    until_stat(&stack, "/minted/grants", |grants| grants >= 1).await.unwrap();
    drop(way);
    assert_paid_exactly_once(&stack, &ids).await.unwrap();
    stack.blockchain.ready(SOON).await.unwrap();
    let metrics = reqwest::get(format!("{}/metrics", stack.blockchain.url())).await.unwrap().text().await.unwrap();
    let failovers = metrics.lines().find_map(|line| line.strip_prefix("rpc_failovers_total "));
    assert!(failovers.is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count >= 2)), "{metrics}");
    stack.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_chain_is_refused_at_the_start() {
    let stack = prepared().await.unwrap();
    let other = other_chain(&stack, ports::free().unwrap()).await.unwrap();
    stack.blockchain.set("RPC_URL", &format!("{},{}", stack.anvil.url(), other.url()));
    stack.blockchain.spawn().unwrap();
    assert!(!stack.blockchain.ended(SOON).await.unwrap().success());
    let log = stack.blockchain.logged().unwrap();
    assert!(log.contains("RPC_URL: the node at 127.0.0.1 serves chain 5, another one 31337"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_chain_that_comes_later_is_not_used() {
    let stack = prepared().await.unwrap();
    let (way, port) = (Way::to(&stack).await.unwrap(), ports::free().unwrap());
    stack.blockchain.set("RPC_URL", &format!("{},http://127.0.0.1:{port}", way.url()));
    stack.campaign.start().await.unwrap();
    stack.blockchain.start().await.unwrap();
    let ids = request_grants(&stack, "summer", 100).await.unwrap();
    until_stat(&stack, "/minted/grants", |grants| grants >= 1).await.unwrap();
    let _other = other_chain(&stack, port).await.unwrap();
    let first = way.port;
    drop(way);
    until(SOON, "the service to say so", async || {
        stack.blockchain.logged().is_ok_and(|log| log.contains("serves chain 5"))
    })
    .await
    .unwrap();
    let _way = Way::at(first, &stack).await.unwrap();
    assert_paid_exactly_once(&stack, &ids).await.unwrap();
    stack.blockchain.ready(SOON).await.unwrap();
    stack.stop().await.unwrap();
}

/// A payment is final when so many blocks follow its own, and not before.
async fn final_when_so_many_follow(finality: &str, blocks_behind: u64) -> Result<()> {
    let stack = impatient(builder(Database::Sqlite)).blockchain_env("CONFIRMATIONS", finality).start().await?;
    let ids = request_without_blocks(&stack, "summer", 5).await?;
    stack.chain.mine(blocks_behind).await?;
    until_event(&stack, "mined", 1).await?;
    until_stat(&stack, "/minted/grants", |grants| grants == 0).await?;
    stack.chain.mine(1).await?;
    assert_paid_exactly_once(&stack, &ids).await?;
    stack.blockchain.ready(SOON).await?;
    stack.stop().await
}

// anvil calls a block safe when an epoch follows it, and finalized when two do.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_reported_when_the_chain_calls_its_block_safe() {
    final_when_so_many_follow("safe", anvil::EPOCH_SLOTS).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_reported_when_the_chain_calls_its_block_finalized() {
    final_when_so_many_follow("finalized", 2 * anvil::EPOCH_SLOTS).await.unwrap();
}

// anvil keeps 64 states here, as most nodes keep few.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_is_reported_at_a_depth_of_which_the_node_keeps_no_state() {
    final_when_so_many_follow("100", 99).await.unwrap();
}
