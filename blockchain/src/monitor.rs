//! Looks at the chain and the queue every few seconds, for `/stats`, `/health` and the gauges of `/metrics`.

use std::sync::{Arc, Mutex, PoisonError};

use alloy::primitives::utils::format_ether;
use alloy::primitives::{Address, U256};
use chrono::{DateTime, Utc};
use futures::future::try_join_all;
use shared::clock::Clock;
use shared::db;
use shared::health::Dependency;
use shared::worker::{Progress, Worker};

use crate::chain::{self, Chain};
use crate::store::Store;

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] chain::Error),
    /// Transactions cannot be paid for.
    #[error("the signer has no funds to pay gas with; send some to {0}")]
    NoFunds(Address),
}

/// What was seen of the chain last.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// The newest block.
    pub block_number: u64,
    /// The signer that holds the least.
    pub signer: Address,
    /// What it holds, in wei.
    pub signer_balance: U256,
}

/// The monitor.
#[derive(Debug)]
pub struct Monitor {
    store: Store,
    chain: Arc<dyn Chain>,
    signers: Vec<Address>,
    clock: Clock,
    database: Dependency,
    seen: Mutex<Seen>,
}

impl Monitor {
    /// A monitor of this chain and queue, which reports on `database` too.
    #[must_use]
    pub fn new(store: Store, chain: Arc<dyn Chain>, signers: Vec<Address>, clock: Clock, database: Dependency) -> Self {
        Self { store, chain, signers, clock, database, seen: Mutex::default() }
    }

    async fn measure_queue(&self) -> db::Result<()> {
        let (queue, in_flight) = tokio::try_join!(self.store.queue(), self.store.in_flight())?;
        let now = self.clock.now();
        let age = |since: Option<DateTime<Utc>>| since.map_or(0.0, |since| (now - since).as_seconds_f64());
        metrics::gauge!("queued_grants").set(count(queue.grants));
        metrics::gauge!("queued_grants_oldest_seconds").set(age(queue.oldest));
        metrics::gauge!("in_flight_transactions").set(count(in_flight.transactions));
        metrics::gauge!("in_flight_transactions_oldest_seconds").set(age(in_flight.oldest));
        Ok(())
    }

    /// What was seen last.
    #[must_use]
    pub fn seen(&self) -> Seen {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker for Monitor {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        match self.measure_queue().await {
            Ok(()) => self.database.up(),
            Err(error) => self.database.down(&error),
        }
        let head = self.chain.head().await?;
        let balances = self.signers.iter().map(async |signer| Ok((self.chain.balance(*signer).await?, *signer)));
        let balances: Vec<_> = try_join_all(balances).await.map_err(|error: chain::Error| error)?;
        for (balance, signer) in &balances {
            metrics::gauge!("signer_balance_ether", "signer" => signer.to_string())
                .set(format_ether(*balance).parse().unwrap_or(0.0));
        }
        let (signer_balance, signer) = balances.into_iter().min().unwrap_or_default();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) =
            Seen { block_number: head.number, signer, signer_balance };
        metrics::gauge!("chain_block_number").set(count(head.number));
        if signer_balance.is_zero() {
            return Err(Error::NoFunds(signer));
        }
        Ok(Progress::Idle)
    }
}

fn count(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
