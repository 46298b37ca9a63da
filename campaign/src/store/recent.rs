//! What was written last, so that it need not be read again.
//!
//! Grants and campaigns change only together with the ledger's head, and no head comes twice: its seal is over all that was
//! written. So what a transaction leaves here is true for the next one that finds the head as it was left, whoever wrote in
//! between, and whether or not the commit came about. Where the head is another one, all of it is forgotten.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use shared::id::{CampaignId, RequestId};

use super::ledger::Head;
use crate::domain::Grant;
use crate::domain::campaign::Campaign;

/// The most rows of one kind. When there are more, only those of the last transaction are kept.
const MOST: usize = 10_000;

/// What a process remembers; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory(Arc<Mutex<Option<(Head, Recent)>>>);

impl Memory {
    /// Takes what is true at this head.
    pub(super) fn take(&self, head: Head) -> Recent {
        let left = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        left.filter(|(at, _)| *at == head).map(|(_, recent)| recent).unwrap_or_default()
    }

    /// Leaves what is true at this head.
    pub(super) fn leave(&self, head: Head, recent: Recent) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((head, recent));
    }
}

/// Grants and campaigns as the database has them.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pub(super) grants: Kept<RequestId, Grant>,
    pub(super) campaigns: Kept<CampaignId, Campaign>,
}

/// Rows of one kind.
#[derive(Debug)]
pub(super) struct Kept<K, V>(HashMap<K, V>);

impl<K: Clone + Eq + Hash + Ord, V> Kept<K, V> {
    /// Takes those that are known, in the order of their keys; and says which are not.
    pub(super) fn take<'a>(&mut self, keys: BTreeSet<&'a K>) -> (Vec<V>, Vec<&'a K>) {
        let mut known = Vec::with_capacity(keys.len());
        let unknown = keys.into_iter().filter(|key| match self.0.remove(key) {
            Some(row) => {
                known.push(row);
                false
            }
            None => true,
        });
        let unknown = unknown.collect();
        (known, unknown)
    }

    pub(super) fn keep(&mut self, rows: impl Iterator<Item = (K, V)>) {
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.extend(rows);
    }
}

impl<K, V> Default for Kept<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}
