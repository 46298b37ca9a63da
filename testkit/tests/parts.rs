//! Each part starts, answers and forgets as its real self does.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use testkit::{Anvil, Emulator, Postgres, RunDir, chain::rpc, ports, until, until_some};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn the_emulator_delivers_and_comes_back_empty() {
    let folder = RunDir::temporary().unwrap();
    let emulator = Emulator::start_own(folder.log("emulator"), ports::free().unwrap(), None).await.unwrap();
    let pubsub = emulator.project("some-project");
    pubsub.create_topic("news").await.unwrap();
    pubsub.create_topic("news").await.unwrap();
    pubsub.create_subscription("news", "reader").await.unwrap();
    pubsub.publish("news", br#"{"a":1}"#, &[("event_type", "x")]).await.unwrap();
    let messages = until_some(SOON, "the message", || async {
        pubsub.pull("reader", 10).await.ok().filter(|messages| !messages.is_empty())
    })
    .await
    .unwrap();
    assert_eq!(messages[0].json().unwrap(), json!({"a": 1}));
    assert_eq!(messages[0].attributes["event_type"], "x");
    pubsub.acknowledge("reader", &messages).await.unwrap();

    emulator.restart().await.unwrap();
    assert_eq!(pubsub.topics().await.unwrap(), Vec::<String>::new());
    assert!(emulator.unexpected_end().is_none());
}

#[tokio::test]
async fn the_shared_emulator_is_one_and_projects_are_apart() {
    let (one, other) = tokio::try_join!(Emulator::shared(), Emulator::shared()).unwrap();
    assert_eq!(one.host(), other.host());
    let [left, right] = ["left-project", "right-project"].map(|project| one.project(project));
    left.create_topic("topic").await.unwrap();
    assert_eq!(left.topics().await.unwrap(), ["topic"]);
    assert!(right.describe("topics", "topic").await.unwrap().is_none());
}

#[tokio::test]
async fn the_chain_mines_by_the_clock_and_keeps_old_receipts_and_logs() {
    let folder = RunDir::temporary().unwrap();
    let anvil = Anvil::start(folder.log("anvil"), ports::free().unwrap(), Duration::from_millis(100)).await.unwrap();
    let url = anvil.url();
    // Init code that logs once and leaves no contract.
    let transaction = json!([{"from": testkit::anvil::STRANGER.address, "data": "0x60006000a000", "gas": "0x30000"}]);
    let hash = rpc(&url, "eth_sendTransaction", transaction).await.unwrap();
    let receipt = || async { rpc(&url, "eth_getTransactionReceipt", json!([hash])).await.unwrap() };
    until(SOON, "a block", || async { receipt().await.is_object() }).await.unwrap();

    rpc(&url, "anvil_mine", json!(["0x100"])).await.unwrap();
    rpc(&url, "anvil_reorg", json!([3, []])).await.unwrap();
    assert_eq!(receipt().await["status"], "0x1");
    let logs = rpc(&url, "eth_getLogs", json!([{"fromBlock": "0x0", "toBlock": "latest"}])).await.unwrap();
    assert_eq!(logs.as_array().unwrap().len(), 1);

    anvil.kill9().await.unwrap();
    anvil.launch().await.unwrap();
    assert!(receipt().await.is_null(), "a new chain is empty");
}

#[tokio::test]
async fn each_database_is_new_and_commits_are_durable() {
    let server = Postgres::shared().await.unwrap();
    let (one, other) =
        (server.create_database("orders").await.unwrap(), server.create_database("orders").await.unwrap());
    assert_ne!(one, other);
    let mut connection = PgConnection::connect(&one).await.unwrap();
    let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&mut connection).await.unwrap();
    assert_eq!(fsync, "on");
    connection.close().await.unwrap();
    assert!(server.create_database("no; way").await.is_err());
}
