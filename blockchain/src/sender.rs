//! Who sends from a lane: the account, the chain that it sends to, the store that knows what it has sent, and the right to
//! send. Whatever is sent was committed before.

use std::sync::Arc;

use alloy::primitives::{Address, B256};
use shared::clock::Clock;
use shared::{db, fail_point};
use tokio::sync::Notify;

use crate::chain::{self, Chain, Refusal};
use crate::lease::Lease;
use crate::signer::Signer;
use crate::store::{Lane, LaneId, Store};

/// Why the bytes may not be on their way. They are sent again later in any case.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The chain failed, or the node refuses the bytes.
    #[error("transaction {hash}: {source}")]
    Chain {
        /// The bytes' hash.
        hash: B256,
        /// What was answered.
        source: chain::Error,
    },
    /// The signer cannot pay.
    #[error("the signer {0} has not enough funds to pay gas with; transactions wait, send some to it")]
    NoFunds(Address),
}

/// The sender of one lane; clones share everything.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Which lane.
    pub id: LaneId,
    /// Payments and transactions.
    pub store: Store,
    /// Where they are sent to.
    pub chain: Arc<dyn Chain>,
    /// Who signs and pays for gas.
    pub signer: Signer,
    /// Time.
    pub clock: Clock,
    /// The right to send.
    pub lease: Lease,
    /// Notified when there is something to follow: what was sent, or is open again.
    pub sent: Arc<Notify>,
}

impl Sender {
    /// The lane, while this process may use it.
    #[must_use]
    pub fn lane(&self) -> Option<Lane> {
        self.lease.lane()
    }

    /// Sends an attempt of this lane, unless the lease was lost meanwhile: then its new owner does.
    ///
    /// # Errors
    ///
    /// When the bytes may not be on their way. Nothing follows from that: only receipts tell.
    pub async fn send(&self, lane: Lane, hash: B256) -> Result<(), Error> {
        let raw = self.store.raw(hash).await?;
        if self.lane() != Some(lane) {
            return Ok(());
        }
        let answer = self.chain.send(&raw).await;
        fail_point::reach("sender:sent").await;
        let Err(source) = answer else { return Ok(self.store.mark_sent(hash, None, self.clock.now()).await?) };
        match source.refusal() {
            // As good as sent, or for the receipts to tell.
            Some(Refusal::Known | Refusal::NonceTooLow) => {
                Ok(self.store.mark_sent(hash, None, self.clock.now()).await?)
            }
            // Not an answer about these bytes: soon, or elsewhere, it may go well.
            Some(Refusal::Busy) | None => Err(Error::Chain { hash, source }),
            Some(refusal) => {
                self.store.mark_sent(hash, Some(refusal), self.clock.now()).await?;
                Err(match refusal {
                    Refusal::InsufficientFunds => Error::NoFunds(lane.id.signer),
                    _ => Error::Chain { hash, source },
                })
            }
        }
    }
}
