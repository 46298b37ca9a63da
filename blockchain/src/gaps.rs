//! Repairs the line of nonces: what the chain has lost is sent again, what somebody else has used is skipped.
//!
//! A lane's nonces below its next one are all taken, and those below its oldest open transaction are all mined, or a reorg
//! deeper than the finality setting, or a chain that was restored from an older copy, has taken transactions away. Nothing
//! behind such a gap can be mined, so its transactions are opened again: the same bytes, at the same nonces.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use shared::db;
use shared::worker::{Progress, Worker};
use tokio::sync::Notify;

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
    /// Notified when there is something to send.
    pub reopened: Arc<Notify>,
}

/// The most nonces that one step repairs.
const BATCH: u64 = 16;

impl Worker for GapRepairer {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        let Some(lane) = self.sender.lane() else { return Ok(Progress::Idle) };
        let mined = self.sender.chain.nonce(lane.id.signer, At::Latest).await?;
        let (oldest_open, next) = self.sender.store.open_nonces(lane.id).await?;
        if mined > next {
            tracing::warn!(signer = %lane.id.signer, mined, next, "somebody else sends from the signer, nonces are skipped");
            self.sender.store.raise_nonce(lane, mined).await?;
        }
        let lasts = self.lasts((mined < oldest_open).then_some(mined));
        if !lasts {
            return Ok(Progress::Idle);
        }
        for nonce in (mined..oldest_open).take(usize::try_from(BATCH).unwrap_or(usize::MAX)) {
            self.repair(lane, nonce).await?;
        }
        self.reopened.notify_one();
        Ok(Progress::Worked)
    }
}

impl GapRepairer {
    /// Whether the gap that was seen has been there for long enough.
    fn lasts(&self, gap: Option<u64>) -> bool {
        let now = self.sender.clock.now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let since = seen.filter(|(at, _)| Some(*at) == gap).map_or(now, |(_, since)| since);
        *seen = gap.map(|gap| (gap, since));
        gap.is_some() && now - since >= self.patience
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
                let filler =
                    NewTransaction { nonce, signed: &signed, purpose: Purpose::Cancel, gas_limit, fees, payments: &[] };
                if self.sender.store.fill(lane, &filler, self.sender.clock.now()).await? {
                    tracing::warn!(nonce, transaction_hash = %signed.hash, "nobody knows what the nonce was taken for, it is used up");
                }
            }
        }
        Ok(())
    }
}
