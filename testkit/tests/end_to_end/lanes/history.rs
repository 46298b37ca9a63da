//! What the blockchain service's database says of its transactions, as an operator would look it up.

use anyhow::Result;
use sqlx::any::AnyRow;
use sqlx::{Connection as _, Row as _};
use testkit::{Stack, until};

use crate::harness::{SOON, database};

/// A line of a transaction's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// Whose.
    pub(super) nonce: u64,
    /// What happened.
    pub(super) kind: String,
}

/// Signed bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) nonce: u64,
    pub(super) hash: String,
    pub(super) purpose: String,
    pub(super) max_fee_wei: u64,
    pub(super) priority_fee_wei: u64,
}

/// Everything that happened to transactions, in order.
pub(super) async fn events(stack: &Stack) -> Result<Vec<Event>> {
    let rows = select(
        stack,
        "select t.nonce, e.kind from chain_transaction_event e join chain_transaction t on t.id = e.transaction_id \
         order by e.id",
    )
    .await?;
    let event = |row: &AnyRow| Ok(Event { nonce: number(row, "nonce")?, kind: row.try_get("kind")? });
    rows.iter().map(event).collect()
}

/// Everything that was ever signed, in the order of nonces and of time.
pub(super) async fn attempts(stack: &Stack) -> Result<Vec<Attempt>> {
    let rows = select(
        stack,
        "select t.nonce, a.hash, a.purpose, a.max_fee_per_gas_wei, a.max_priority_fee_per_gas_wei \
         from attempt a join chain_transaction t on t.id = a.transaction_id order by t.nonce, a.sequence",
    )
    .await?;
    let attempt = |row: &AnyRow| {
        Ok(Attempt {
            nonce: number(row, "nonce")?,
            hash: row.try_get("hash")?,
            purpose: row.try_get("purpose")?,
            max_fee_wei: number(row, "max_fee_per_gas_wei")?,
            priority_fee_wei: number(row, "max_priority_fee_per_gas_wei")?,
        })
    };
    rows.iter().map(attempt).collect()
}

/// Waits until so many events of a kind are recorded.
pub(super) async fn until_event(stack: &Stack, kind: &str, count: usize) -> Result<()> {
    until(SOON, &format!("{count} times {kind} in the history"), async || {
        events(stack).await.is_ok_and(|events| events.iter().filter(|event| event.kind == kind).count() >= count)
    })
    .await
}

async fn select(stack: &Stack, query: &'static str) -> Result<Vec<AnyRow>> {
    let mut connection = database(&stack.blockchain).await?;
    let rows = sqlx::query(query).fetch_all(&mut connection).await?;
    connection.close().await?;
    Ok(rows)
}

fn number(row: &AnyRow, column: &str) -> Result<u64> {
    Ok(row.try_get::<i64, _>(column)?.try_into()?)
}
