//! Looks at the chain and the queue every few seconds, for `/stats`, `/health` and the gauges of `/metrics`.

use std::sync::{Arc, Mutex, PoisonError};

use alloy::primitives::utils::format_ether;
use alloy::primitives::{Address, U256};
use chrono::{DateTime, Utc};
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
    /// The signer's balance in wei.
    pub signer_balance: U256,
}

/// The monitor.
#[derive(Debug)]
pub struct Monitor {
    store: Store,
    chain: Arc<dyn Chain>,
    signer: Address,
    clock: Clock,
    database: Dependency,
    seen: Mutex<Seen>,
}

impl Monitor {
    /// A monitor of this chain and queue, which reports on `database` too.
    #[must_use]
    pub fn new(store: Store, chain: Arc<dyn Chain>, signer: Address, clock: Clock, database: Dependency) -> Self {
        Self { store, chain, signer, clock, database, seen: Mutex::default() }
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
        let (head, signer_balance) = tokio::try_join!(self.chain.head(), self.chain.balance(self.signer))?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { block_number: head.number, signer_balance };
        metrics::gauge!("chain_block_number").set(count(head.number));
        metrics::gauge!("signer_balance_ether").set(format_ether(signer_balance).parse().unwrap_or(0.0));
        if signer_balance.is_zero() {
            return Err(Error::NoFunds(self.signer));
        }
        Ok(Progress::Idle)
    }
}

fn count(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
