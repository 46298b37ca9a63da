//! Ctrl-C and its relatives.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask this program to end. From the moment it exists they no longer end it by themselves.
pub(crate) struct Interrupt {
    int: Signal,
    term: Signal,
    hang_up: Signal,
}

impl Interrupt {
    /// Takes the signals over.
    pub(crate) fn new() -> Result<Self> {
        let take = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            int: take(SignalKind::interrupt())?,
            term: take(SignalKind::terminate())?,
            hang_up: take(SignalKind::hangup())?,
        })
    }

    /// The next of them.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
