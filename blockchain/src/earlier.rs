//! What the distributor has paid before, wherever on the chain that was: asked when it skips a grant, to complete the grant
//! with the payment that was made.
//!
//! One event tells of many payments, so none can be asked for by its id. The reader of the audit has kept them all up to
//! the last final block, and it always runs; what it has not read yet is read here, as much as an answer may hold. If that
//! is not all, or a node had left something out, nothing is found for now, and another look goes on from there.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::audit::ChainPayment;
use crate::audit::reader::{Chunk, Error, Reader};
use crate::chain::Chain;
use crate::deployment::Deployment;
use crate::domain::GrantId;
use crate::finality::Finality;
use crate::sender::Sender;
use crate::store::Source;

/// Looks for earlier payments.
#[derive(Debug)]
pub struct Earlier {
    reader: Reader,
    /// The most blocks that one look asks for.
    max_blocks: u64,
    /// From where on blocks are read again that were read before.
    again: AtomicU64,
}

impl Earlier {
    /// Looks for what the distributor of this deployment has paid; one look asks for so many blocks at most.
    #[must_use]
    pub fn new(sender: &Sender, deployment: &Deployment, finality: Finality, max_blocks: u64) -> Self {
        let Deployment { distributor, block: first_block, .. } = *deployment;
        let reader = Reader {
            store: sender.store.clone(),
            chain: Arc::clone(&sender.chain),
            clock: sender.clock.clone(),
            source: Source { chain_id: sender.id.chain_id, distributor, first_block },
            finality,
            chunk: Chunk::new(max_blocks),
        };
        Self::over(reader, max_blocks)
    }

    /// Looks with this reader.
    #[must_use]
    pub fn over(reader: Reader, max_blocks: u64) -> Self {
        Self { reader, max_blocks, again: AtomicU64::new(0) }
    }

    /// What was paid under these ids, as far as it is found now.
    ///
    /// # Errors
    ///
    /// When the node or the store does not do its part.
    pub async fn payments(&self, node: &dyn Chain, ids: &[GrantId]) -> Result<HashMap<GrantId, ChainPayment>, Error> {
        let mut found = HashMap::new();
        if ids.is_empty() {
            return Ok(found);
        }
        let next_block = self.reader.store.chain_cursor(&self.reader.source).await?.next_block;
        add(&mut found, ids, self.reader.store.chain_payments_of(ids, next_block).await?);

        let head = node.head().await?.number;
        let last = head.min(next_block.saturating_add(self.max_blocks - 1));
        let mut from = next_block;
        while found.len() < ids.len() && from <= last {
            let (payments, next) = self.reader.look(node, from, last).await?;
            add(&mut found, ids, payments);
            from = next;
        }
        if found.len() < ids.len() && last == head {
            self.look_again(node, next_block).await?;
        }
        Ok(found)
    }

    /// Reads some of the blocks again that were read before, and keeps what a node had left out.
    async fn look_again(&self, node: &dyn Chain, next_block: u64) -> Result<(), Error> {
        let first_block = self.reader.source.first_block;
        let from = self.again.load(Ordering::Relaxed);
        let from = if (first_block..next_block).contains(&from) { from } else { first_block };
        if from >= next_block {
            return Ok(());
        }
        let (payments, next) = self.reader.look(node, from, next_block - 1).await?;
        let missed = self.reader.store.record_missed(&payments).await?;
        if missed > 0 {
            tracing::warn!(from, to = next - 1, missed, "a node had left out events");
        }
        self.again.store(next, Ordering::Relaxed);
        Ok(())
    }
}

/// Keeps the first payment of each of the ids.
fn add(found: &mut HashMap<GrantId, ChainPayment>, ids: &[GrantId], payments: Vec<ChainPayment>) {
    for payment in payments {
        if ids.contains(&payment.grant_id) {
            found.entry(payment.grant_id).or_insert(payment);
        }
    }
}
