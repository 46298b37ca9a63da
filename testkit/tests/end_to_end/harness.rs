//! What the tests share: load, and the one check that every test ends with.

use std::collections::BTreeSet;
use std::time::Duration;

use alloy::primitives::{Address, Bytes};
use alloy::sol_types::SolCall;
use anyhow::{Context as _, Result};
use futures::future::try_join_all;
use serde_json::{Value, json};
use sqlx::{AnyConnection, Connection as _};
use testkit::stack::Builder;
use testkit::{Database, Grant, GrantRequest, Service, Stack, base_units, until, until_some};

/// Enough for anything that ends by itself.
pub(crate) const SOON: Duration = Duration::from_mins(1);

/// A stack with databases of this kind.
pub(crate) fn builder(database: Database) -> Builder {
    Stack::builder().database(database)
}

/// Requests one grant for each of `users` users of a campaign, all at once; returns their ids.
pub(crate) async fn request_grants(stack: &Stack, campaign: &str, users: usize) -> Result<Vec<String>> {
    let client = stack.campaign_client();
    let requests = (0..users).map(|user| {
        let (client, request) = (client.clone(), GrantRequest::new(format!("user-{user}"), campaign));
        async move { client.request(&request).await?.request_id() }
    });
    try_join_all(requests).await
}

/// Waits until all the grants are final; returns them.
pub(crate) async fn await_final(stack: &Stack, request_ids: &[String]) -> Result<Vec<Grant>> {
    try_join_all(request_ids.iter().map(|request_id| stack.final_grant(request_id, SOON))).await
}

/// Every grant is completed, nothing was paid twice, and the supply on chain is what the ledger says.
pub(crate) async fn assert_paid_exactly_once(stack: &Stack, request_ids: &[String]) -> Result<()> {
    let grants = await_final(stack, request_ids).await?;
    for grant in &grants {
        assert!(grant.is_completed(), "{grant:?}");
    }
    assert_supply(stack, grants.iter().map(|grant| grant.token_amount).sum()).await
}

/// So many whole tokens exist, and no id was paid twice.
pub(crate) async fn assert_supply(stack: &Stack, whole_tokens: u64) -> Result<()> {
    assert_eq!(stack.chain.total_supply().await?, base_units(whole_tokens));
    assert_eq!(stack.chain.ids_paid_twice().await?, 0);
    Ok(())
}

/// The database that a service was told of.
pub(crate) async fn database(service: &Service) -> Result<AnyConnection> {
    sqlx::any::install_default_drivers();
    let program = service.program();
    Ok(AnyConnection::connect(program.variable("DATABASE_URL").context("it has a database")?).await?)
}

/// The signers of the lanes that a process says it holds; nothing where it does not answer, or does not know yet.
pub(crate) async fn lanes_held(service: &Service) -> Option<BTreeSet<String>> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().ok()?;
    let metrics = client.get(format!("{}/metrics", service.url())).send().await.ok()?.text().await.ok()?;
    let lanes: Vec<_> = metrics.lines().filter_map(|line| line.strip_prefix("lane_held{signer=\"")).collect();
    let held = lanes.iter().filter_map(|lane| Some(lane.strip_suffix("\"} 1")?.to_owned())).collect();
    (!lanes.is_empty()).then_some(held)
}

/// Calls a contract from one of anvil's accounts, and waits until the call is mined; returns the receipt.
pub(crate) async fn transact<C: SolCall>(stack: &Stack, from: &str, to: Address, call: &C) -> Result<Value> {
    let data = Bytes::from(call.abi_encode());
    let transaction = json!([{ "from": from, "to": to, "data": data, "gas": "0x60000" }]);
    let hash = stack.chain.rpc("eth_sendTransaction", transaction).await?;
    until_some(SOON, "a receipt", async || {
        let receipt = stack.chain.rpc("eth_getTransactionReceipt", json!([hash])).await.ok()?;
        receipt.is_object().then_some(receipt)
    })
    .await
}

/// Waits until a number in the blockchain service's `/stats` satisfies the condition.
pub(crate) async fn until_stat(stack: &Stack, pointer: &str, holds: impl Fn(u64) -> bool) -> Result<()> {
    until(SOON, &format!("{pointer} in /stats"), async || {
        let stats = stack.blockchain_client().stats().await.ok();
        stats.and_then(|stats| stats.pointer(pointer)?.as_u64()).is_some_and(&holds)
    })
    .await
}
