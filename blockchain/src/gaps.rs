//! Repairs the line of nonces: what the chain has lost is sent again, what somebody else has used is skipped.
//!
//! A lane's nonces below its next one are all mined or of open transactions, or a reorg deeper than the finality setting,
//! or a chain that was restored from an older copy, has taken transactions away. Nothing behind such a gap can be mined, so
//! its transactions are opened again: the same bytes, at the same nonces.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use shared::db;
use shared::worker::{Progress, Worker};

use crate::chain::{self, At};
use crate::fees::{Fees, TooExpensive};
use crate::sender::Sender;
use crate::signer;
use crate::store::{Lane, NewTransaction, Reopened};
use crate::transaction::Purpose;

/// Why a look failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] chain::Error),
    /// The key's holder refuses.
    #[error(transparent)]
    Signer(#[from] signer::Error),
    /// The chain is too expensive for now.
    #[error(transparent)]
    TooExpensive(#[from] TooExpensive),
}

/// Looks for gaps in the lane's nonces.
#[derive(Debug)]
pub struct GapRepairer {
    /// Who sends, and what that takes.
    pub sender: Sender,
    /// How long a gap must be there: a node may be behind for a while.
    pub patience: TimeDelta,
    /// The most that is offered for a unit of gas, in wei.
    pub max_fee_per_gas: u64,
    /// Where the gap begins that was seen, and since when.
    pub seen: Mutex<Option<(u64, DateTime<Utc>)>>,
}

/// How far ahead of the chain nonces are repaired: what is opened again is looked after until it is mined.
const WINDOW: u64 = 64;

impl Worker for GapRepairer {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        let Some(lane) = self.sender.lane() else { return Ok(Progress::Idle) };
        let mined = self.sender.chain.nonce(lane.id.signer, At::Latest).await?;
        // In this order: a transaction that is made meanwhile is beyond what is looked at.
        let next = self.sender.store.next_nonce(lane.id).await?;
        let open = self.sender.store.open_nonces(lane.id).await?;
        if mined > next {
            tracing::warn!(signer = %lane.id.signer, mined, next, "somebody else sends from the signer, nonces are skipped");
            self.sender.store.raise_nonce(lane, mined).await?;
        }
        let missing_from = |from: u64| (from..next).find(|nonce| !open.contains(nonce));
        let mut missing = missing_from(mined);
        let Some(since) = self.lasts(missing) else { return Ok(Progress::Idle) };
        while let Some(nonce) = missing.filter(|nonce| *nonce < mined + WINDOW) {
            self.repair(lane, nonce).await?;
            missing = missing_from(nonce + 1);
        }
        // What is missing behind the window has been missing for as long.
        *self.seen() = missing.map(|nonce| (nonce, since));
        self.sender.sent.notify_one();
        Ok(Progress::Idle)
    }
}

impl GapRepairer {
    /// Since when the gap that begins there has been seen, if that is long enough.
    fn lasts(&self, gap: Option<u64>) -> Option<DateTime<Utc>> {
        let now = self.sender.clock.now();
        let mut seen = self.seen();
        *seen = gap.map(|gap| (gap, seen.filter(|(at, _)| *at == gap).map_or(now, |(_, since)| since)));
        seen.map(|(_, since)| since).filter(|since| now - *since >= self.patience)
    }

    fn seen(&self) -> MutexGuard<'_, Option<(u64, DateTime<Utc>)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn repair(&self, lane: Lane, nonce: u64) -> Result<(), Error> {
        match self.sender.store.reopen(lane, nonce, self.sender.clock.now()).await? {
            Reopened::Transaction { id, payments } => {
                metrics::counter!("transactions_reopened_total").increment(1);
                tracing::error!(
                    nonce,
                    transaction = id,
                    payments,
                    "the chain has lost a transaction that was final, it goes out again"
                );
            }
            Reopened::Nothing => {}
            // An older copy of the database was restored: what the nonce was taken for is forgotten.
            Reopened::Unknown => {
                let (base_fee, tip) = self.sender.chain.asked_fees().await?;
                let fees = Fees::offer(base_fee, tip, self.max_fee_per_gas)?;
                let unsigned = signer::Unsigned::cancel(lane.id, nonce, fees);
                let gas_limit = unsigned.gas_limit;
                let signed = self.sender.signer.sign(unsigned)?;
                let filler = NewTransaction {
                    nonce,
                    signed: &signed,
                    purpose: Purpose::Cancel,
                    gas_limit,
                    fees,
                    payments: &[],
                    publication: None,
                };
                if self.sender.store.fill(lane, &filler, self.sender.clock.now()).await? {
                    tracing::warn!(nonce, transaction_hash = %signed.hash, "nobody knows what the nonce was taken for, it is used up");
                }
            }
        }
        Ok(())
    }
}
