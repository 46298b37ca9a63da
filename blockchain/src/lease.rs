//! The right to use a lane: one process at a time has it, for a few seconds, and renews it.
//!
//! The right has a number, the fence, which grows with each new owner. Whatever an owner commits is committed only while
//! its fence is the lane's: a process that was frozen and wakes up after its time changes nothing. What it may still send
//! are bytes that were committed under its fence, which its successor knows and sends as well.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use shared::clock::Clock;
use shared::db;
use shared::worker::{Progress, Worker};
use tokio::sync::Notify;

use crate::chain::{self, At};
use crate::sender::Sender;
use crate::store::Lane;

/// The lease of one lane as this process knows it; clones share it.
#[derive(Debug, Clone)]
pub struct Lease {
    held: Arc<Mutex<Option<Held>>>,
    clock: Clock,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    lane: Lane,
    until: DateTime<Utc>,
}

impl Lease {
    /// A lease that is not held yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { held: Arc::default(), clock }
    }

    /// The lane, while this process may use it.
    #[must_use]
    pub fn lane(&self) -> Option<Lane> {
        self.held().filter(|held| self.clock.now() < held.until).map(|held| held.lane)
    }

    fn held(&self) -> Option<Held> {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, held: Option<Held>) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = held;
    }
}

/// Why the lease could not be taken or renewed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The chain failed.
    #[error(transparent)]
    Chain(#[from] chain::Error),
}

/// Takes the lease when it is free, and renews it.
#[derive(Debug)]
pub struct Holder {
    /// Who sends, and what that takes.
    pub sender: Sender,
    /// This process, told from every other.
    pub owner: String,
    /// For how long a lease is taken.
    pub duration: TimeDelta,
    /// Notified when the lane can be used.
    pub taken: Arc<Notify>,
}

impl Worker for Holder {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        let (now, is_held) = (self.sender.clock.now(), self.sender.lane().is_some());
        let until = now + self.duration;
        // Should what follows fail, the lease runs out all the same.
        let gauge = metrics::gauge!("lane_held", "signer" => self.sender.id.signer());
        gauge.set(u8::from(is_held));
        let Some(lane) = self.sender.store.lease(self.sender.id, &self.owner, now, until).await? else {
            if self.sender.lease.held().is_some() {
                tracing::warn!(signer = %self.sender.id.signer, "another process has taken the lane, standing by");
                self.sender.lease.set(None);
            }
            gauge.set(0);
            return Ok(Progress::Idle);
        };
        if self.sender.lease.held().is_none_or(|held| held.lane != lane) {
            // The lane is new to us: where the chain is ahead of the database (an old backup), the chain is right.
            let pending_nonce = self.sender.chain.nonce(self.sender.id.signer, At::Pending).await?;
            let Some(next_nonce) = self.sender.store.raise_nonce(lane, pending_nonce).await? else {
                return Ok(Progress::Idle);
            };
            tracing::info!(signer = %self.sender.id.signer, fence = lane.fence, next_nonce, pending_nonce, "lane taken");
        }
        self.sender.lease.set(Some(Held { lane, until }));
        gauge.set(1);
        self.taken.notify_one();
        Ok(Progress::Idle)
    }
}

impl Holder {
    /// Gives the lease back, so that another process need not wait until it runs out.
    ///
    /// # Errors
    ///
    /// When the database is away.
    pub async fn release(&self) -> db::Result<()> {
        let Some(held) = self.sender.lease.held() else { return Ok(()) };
        self.sender.lease.set(None);
        self.sender.store.release(held.lane).await
    }
}
