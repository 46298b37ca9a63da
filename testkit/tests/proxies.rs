//! The proxies of the fault campaign: honest until told otherwise, and then as unreliable as they promise.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use testkit::{
    Anvil, Lie, Postgres, PostgresProxy, RpcProxy, RunDir,
    anvil::{ADMIN, STRANGER},
    chain::rpc,
    ports,
    rpc_proxy::Liar,
};

/// A chain that makes a block for each transaction asked for, behind a proxy.
struct Bench {
    _folder: RunDir,
    anvil: Anvil,
    proxy: RpcProxy,
}

impl Bench {
    async fn new() -> Result<Self> {
        let folder = RunDir::temporary()?;
        let state = folder.path().join("state.json");
        let anvil = Anvil::start_from(folder.log("anvil"), ports::free()?, &state).await?;
        let proxy = RpcProxy::start(&anvil.url(), 2).await?;
        Ok(Self { _folder: folder, anvil, proxy })
    }

    /// A call through the proxy, as its first node.
    async fn call(&self, method: &str, parameters: Value) -> Result<Value> {
        rpc(&self.proxy.urls()[0], method, parameters).await
    }

    /// A call past the proxy.
    async fn direct(&self, method: &str, parameters: Value) -> Result<Value> {
        rpc(&self.anvil.url(), method, parameters).await
    }

    /// A signed transaction, which nobody has sent.
    async fn signed(&self, nonce: u64) -> Result<Value> {
        let transaction = json!([{
            "from": ADMIN.address, "to": STRANGER.address, "value": "0x1", "nonce": format!("{nonce:#x}"),
            "gas": "0x5208", "maxFeePerGas": "0x77359400", "maxPriorityFeePerGas": "0x1", "chainId": "0x7a69",
        }]);
        self.direct("eth_signTransaction", transaction).await
    }

    async fn pending_nonce(&self) -> Result<Value> {
        self.direct("eth_getTransactionCount", json!([ADMIN.address, "pending"])).await
    }
}

#[tokio::test]
async fn without_a_lie_everything_passes() -> Result<()> {
    let bench = Bench::new().await?;
    let raw = bench.signed(0).await?;
    let hash = bench.call("eth_sendRawTransaction", json!([raw])).await?;
    bench.call("evm_mine", json!([])).await?;
    assert_eq!(bench.call("eth_blockNumber", json!([])).await?, "0x1");
    assert_eq!(bench.call("eth_getTransactionReceipt", json!([hash])).await?["status"], "0x1");
    Ok(())
}

#[tokio::test]
async fn a_lie_is_told_so_many_times_and_only_of_what_it_concerns() -> Result<()> {
    let bench = Bench::new().await?;
    bench.direct("anvil_mine", json!(["0x10"])).await?;
    let armed = bench.proxy.arm(Lie::OldBlock { behind: 3 }, 2, Liar::One);
    assert_eq!(bench.call("eth_chainId", json!([])).await?, "0x7a69");
    assert_eq!(bench.call("eth_blockNumber", json!([])).await?, "0xd");
    let block = bench.call("eth_getBlockByNumber", json!(["latest", false])).await?;
    assert_eq!(block["number"], "0xd");
    assert_eq!(bench.call("eth_blockNumber", json!([])).await?, "0x10");
    assert_eq!(bench.proxy.disarm(armed), 2);
    Ok(())
}

#[tokio::test]
async fn one_node_lies_alone_or_all_of_them_do() -> Result<()> {
    let bench = Bench::new().await?;
    let asked = async || {
        let mut failed = [false; 2];
        for (at, url) in bench.proxy.urls().iter().enumerate() {
            failed[at] = rpc(url, "eth_blockNumber", json!([])).await.is_err();
        }
        failed
    };
    let armed = bench.proxy.arm(Lie::RateLimited, 10, Liar::One);
    assert_eq!([asked().await, asked().await], [[true, false]; 2]);
    assert_eq!(bench.proxy.disarm(armed), 2);
    let armed = bench.proxy.arm(Lie::RateLimited, 10, Liar::All);
    assert_eq!(asked().await, [true, true]);
    bench.proxy.disarm(armed);
    assert_eq!(asked().await, [false, false]);
    Ok(())
}

#[tokio::test]
async fn calls_fail_in_every_way_a_connection_can() -> Result<()> {
    let bench = Bench::new().await?;
    let lies = [
        Lie::Reset { delivered: false },
        Lie::Reset { delivered: true },
        Lie::RateLimited,
        Lie::ServerError { status: 503 },
        Lie::Truncated { promised: false },
        Lie::Truncated { promised: true },
    ];
    for lie in lies {
        let armed = bench.proxy.arm(lie, 1, Liar::All);
        bench.call("eth_blockNumber", json!([])).await.unwrap_err();
        assert_eq!(bench.proxy.disarm(armed), 1, "{lie:?}");
        bench.call("eth_blockNumber", json!([])).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_transaction_may_arrive_though_the_answer_says_otherwise_or_nothing() -> Result<()> {
    let bench = Bench::new().await?;
    let mut nonce = 0;
    let lies: [fn(bool) -> Lie; 4] = [
        |delivered| Lie::AlreadyKnown { delivered },
        |delivered| Lie::NonceTooLow { delivered },
        |delivered| Lie::Underpriced { delivered },
        |delivered| Lie::Reset { delivered },
    ];
    for lie in lies {
        for delivered in [false, true] {
            let raw = bench.signed(nonce).await?;
            let armed = bench.proxy.arm(lie(delivered), 1, Liar::All);
            bench.call("eth_sendRawTransaction", json!([raw])).await.unwrap_err();
            assert_eq!(bench.proxy.disarm(armed), 1);
            nonce += u64::from(delivered);
            assert_eq!(bench.pending_nonce().await?, format!("{nonce:#x}"));
        }
    }

    let raw = bench.signed(nonce).await?;
    let _ = bench.proxy.arm(Lie::Withheld { milliseconds: 200 }, 1, Liar::All);
    let asked = Instant::now();
    bench.call("eth_sendRawTransaction", json!([raw])).await.unwrap_err();
    assert!(asked.elapsed() >= Duration::from_millis(200));
    assert_eq!(bench.pending_nonce().await?, format!("{:#x}", nonce + 1));
    Ok(())
}

#[tokio::test]
async fn a_node_that_lags_knows_less() -> Result<()> {
    let bench = Bench::new().await?;
    let raw = bench.signed(0).await?;
    let hash = bench.call("eth_sendRawTransaction", json!([raw])).await?;
    bench.direct("evm_mine", json!([])).await?;
    let _ = bench.proxy.arm(Lie::NoReceipt, 1, Liar::All);
    let _ = bench.proxy.arm(Lie::OldNonce { behind: 5 }, 1, Liar::All);
    assert!(bench.call("eth_getTransactionReceipt", json!([hash])).await?.is_null());
    assert!(bench.call("eth_getTransactionReceipt", json!([hash])).await?.is_object());
    let nonce = json!([ADMIN.address, "latest"]);
    assert_eq!(bench.call("eth_getTransactionCount", nonce.clone()).await?, "0x0");
    assert_eq!(bench.call("eth_getTransactionCount", nonce).await?, "0x1");
    Ok(())
}

#[tokio::test]
async fn a_commit_is_cut_before_or_after_it_is_durable() -> Result<()> {
    let server = Postgres::shared().await?;
    let address = server.address()?;
    let direct = server.create_database("cut").await?;
    let proxy = PostgresProxy::start(&address).await?;
    let through = direct.replacen(&address, &format!("127.0.0.1:{}", proxy.port()), 1);

    let insert = async |number: i32| {
        let mut connection = PgConnection::connect(&through).await?;
        let mut tx = connection.begin().await?;
        sqlx::query("insert into number values ($1)").bind(number).execute(&mut *tx).await?;
        tx.commit().await
    };
    let mut witness = PgConnection::connect(&direct).await?;
    sqlx::query("create table number (value integer)").execute(&mut witness).await?;

    insert(1).await?;
    proxy.cut_commits(1, false);
    insert(2).await.unwrap_err();
    proxy.cut_commits(1, true);
    insert(3).await.unwrap_err();
    assert_eq!(proxy.spare_commits(), 2);
    insert(4).await?;
    let kept: Vec<i32> = sqlx::query_scalar("select value from number order by value").fetch_all(&mut witness).await?;
    assert_eq!(kept, [1, 3, 4]);
    Ok(())
}
