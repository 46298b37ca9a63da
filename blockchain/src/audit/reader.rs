//! Reads the distributor's events of final blocks into the store, once: a chunk of blocks a step, each in one
//! transaction with the cursor, so that whoever is interrupted goes on where it was.
//!
//! A chunk has few enough payments for memory, as far as the ledger knows. Chunks are halved when a node refuses the range or the size of its answer, or does not answer in time, and grow again.
//! Where the chain is no longer the one that was read, the reader steps back to the last block that still is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alloy::primitives::B256;
use shared::clock::Clock;
use shared::db;

use super::ChainPayment;
use crate::chain::{self, Block, Chain, LogEntry};
use crate::contract::payments_between;
use crate::finality::{self, Finality};
use crate::store::{Cursor, Source, Store};

/// With more events in an answer the next chunk is half as long; with fewer than a quarter of it, twice as long.
const MANY_EVENTS: u32 = 2000;

/// How many blocks the first chunk has: little is known of them yet.
const FIRST_BLOCKS: u64 = 8;

/// Why a step failed; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] chain::Error),
    /// The node does not know a block that was read before, or that should be final: it is behind, or on another chain.
    #[error("the node does not know block {0}: it is behind, or this is another chain than the one that was read")]
    Behind(u64),
    /// The node's answer is not one to its question.
    #[error("the node's answer about the events of blocks {from} to {to} is not valid")]
    Malformed {
        /// From this block.
        from: u64,
        /// To this one.
        to: u64,
    },
}

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// There may be more to read.
    More,
    /// All final blocks have been read.
    UpTo {
        /// The first block that was not read.
        next_block: u64,
    },
}

/// The reader.
#[derive(Debug)]
pub struct Reader {
    /// Where events are kept.
    pub store: Store,
    /// The chain.
    pub chain: Arc<dyn Chain>,
    /// Time.
    pub clock: Clock,
    /// Whose events.
    pub source: Source,
    /// From when on a block is final.
    pub finality: Finality,
    /// How many blocks a chunk has.
    pub chunk: Chunk,
}

/// How many blocks a chunk has.
#[derive(Debug)]
pub struct Chunk {
    max_blocks: u64,
    blocks: AtomicU64,
}

impl Chunk {
    /// At most so many, and fewer at first.
    #[must_use]
    pub fn new(max_blocks: u64) -> Self {
        Self { max_blocks, blocks: AtomicU64::new(max_blocks.min(FIRST_BLOCKS)) }
    }

    fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    fn set(&self, blocks: u64) {
        self.blocks.store(blocks.clamp(1, self.max_blocks), Ordering::Relaxed);
    }

    fn adapt(&self, events: usize) {
        let blocks = self.blocks();
        match events {
            events if events > MANY_EVENTS as usize => self.set(blocks / 2),
            events if events < MANY_EVENTS as usize / 4 => self.set(blocks.saturating_mul(2)),
            _ => {}
        }
    }
}

impl Reader {
    /// Reads one chunk, or steps back once.
    ///
    /// # Errors
    ///
    /// When the node or the store does not do its part.
    pub async fn read_once(&self) -> Result<Reading, Error> {
        // The hash of a chunk's last block is to vouch for its events: one node tells both.
        let node = self.chain.one_node();
        let head = node.head().await?;
        let cursor = self.store.chain_cursor(&self.source).await?;
        if let Some(hash) = cursor.block_hash
            && !is_block_of(&*node, cursor.next_block - 1, hash).await?
        {
            self.step_back(&*node, cursor).await?;
            return Ok(Reading::More);
        }
        let from = cursor.next_block;
        let Some(last) = finality::last_block(self.finality, &*node, head).await?.filter(|last| *last >= from) else {
            return Ok(Reading::UpTo { next_block: from });
        };
        let to = last.min(from.saturating_add(self.chunk.blocks() - 1));
        let crowded = self.store.block_of_payment(from, MANY_EVENTS).await?;
        let to = crowded.map_or(to, |block| to.min(block.max(from + 1) - 1));
        let logs = match node.logs(&payments_between(self.source.distributor, from, to)).await {
            Ok(logs) => logs,
            Err(error) => {
                // Half of its blocks.
                self.chunk.set((to - from).div_ceil(2));
                if to == from || error.is_unreachable() {
                    return Err(error.into());
                }
                tracing::debug!(from, to, %error, "node refuses the range, half of it is tried");
                return Ok(Reading::More);
            }
        };
        let paid = self.payments(&logs, from, to)?;
        let Block { hash, .. } = block(&*node, to).await?;
        if paid.iter().any(|payment| payment.block_number == to && payment.block_hash != hash) {
            // The block was replaced between the two questions.
            return Ok(Reading::More);
        }
        let next = Cursor { next_block: to + 1, block_hash: Some(hash) };
        if self.store.record_chain(cursor, &paid, next).await? {
            tracing::debug!(from, to, payments = paid.len(), "events read");
            self.chunk.adapt(paid.len());
        }
        Ok(Reading::More)
    }

    /// Reads a block again that was read before, and adds what a node had left out; returns how much that was.
    ///
    /// # Errors
    ///
    /// When the node or the store does not do its part.
    pub async fn read_again(&self, block: u64) -> Result<u64, Error> {
        let logs = self.chain.logs(&payments_between(self.source.distributor, block, block)).await?;
        let missed = self.store.record_missed(&self.payments(&logs, block, block)?).await?;
        if missed > 0 {
            tracing::warn!(block, missed, "a node had left out events of a block");
        }
        Ok(missed)
    }

    /// Reads a chunk of blocks without keeping anything: from one on, and not beyond `last`. Returns the first block that was
    /// not read, too.
    pub(crate) async fn look(&self, node: &dyn Chain, from: u64, last: u64) -> Result<(Vec<ChainPayment>, u64), Error> {
        let to = last.min(from.saturating_add(self.chunk.blocks() - 1));
        let logs = match node.logs(&payments_between(self.source.distributor, from, to)).await {
            Ok(logs) => logs,
            Err(error) => {
                self.chunk.set((to - from).div_ceil(2));
                return Err(error.into());
            }
        };
        let payments = self.payments(&logs, from, to)?;
        self.chunk.adapt(payments.len());
        Ok((payments, to + 1))
    }

    fn payments(&self, logs: &[LogEntry], from: u64, to: u64) -> Result<Vec<ChainPayment>, Error> {
        let now = self.clock.now();
        let payments: Option<Vec<_>> = logs.iter().map(|entry| ChainPayment::read(entry, now)).collect();
        let payments = payments.map(|payments| payments.concat());
        let are_meant = logs
            .iter()
            .all(|entry| entry.log.address == self.source.distributor && (from..=to).contains(&entry.block_number));
        payments.filter(|_| are_meant).ok_or(Error::Malformed { from, to })
    }

    /// Forgets what was read behind the newest payment whose block is still the chain's: a block's hash stands for all
    /// that came before it.
    async fn step_back(&self, node: &dyn Chain, cursor: Cursor) -> Result<(), Error> {
        let mut below = cursor.next_block;
        let to = loop {
            match self.store.recorded_block_below(below).await? {
                None => break Cursor { next_block: self.source.first_block, block_hash: None },
                Some((number, hash)) if is_block_of(node, number, hash).await? => {
                    break Cursor { next_block: number + 1, block_hash: Some(hash) };
                }
                Some((number, _)) => below = number,
            }
        };
        if self.store.step_back(cursor, to).await? {
            let (from, to) = (cursor.next_block, to.next_block);
            tracing::warn!(from, to, "final blocks were replaced, their events are read again");
        }
        Ok(())
    }
}

async fn block(node: &dyn Chain, number: u64) -> Result<Block, Error> {
    node.block(number.into()).await?.ok_or(Error::Behind(number))
}

async fn is_block_of(node: &dyn Chain, number: u64, hash: B256) -> Result<bool, Error> {
    Ok(block(node, number).await?.hash == hash)
}
