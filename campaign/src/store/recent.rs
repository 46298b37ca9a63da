//! What was written last, so that it need not be read again.
//!
//! Grants, campaigns and the kill switch change only together with the ledger's head, and no head comes twice: its seal is
//! over all that was written. So what a transaction leaves here is true for the next one that finds the head as it was left,
//! whoever wrote in between, and whether or not the commit came about. Where the head is another one, all is forgotten.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use shared::id::{CampaignId, RequestId};

use super::ledger::Head;
use crate::domain::Grant;
use crate::domain::campaign::Campaign;

/// The most rows of one kind. When there are more, only those of the last transaction are kept.
const MOST: usize = 5_000;

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

/// What the database has, as far as it is known.
#[derive(Debug, Default)]
pub(super) struct Recent {
    pub(super) grants: Kept<RequestId, Grant>,
    pub(super) campaigns: Kept<CampaignId, Campaign>,
    /// Whether all payments are stopped.
    pub(super) stopped: Option<bool>,
}

/// Rows of one kind.
#[derive(Debug)]
pub(super) struct Kept<K, V>(HashMap<K, V>);

impl<K: Clone + Eq + Hash + Ord, V> Kept<K, V> {
    /// Takes those that are known; and says which are not.
    pub(super) fn take<'a>(&mut self, keys: BTreeSet<&'a K>) -> (BTreeMap<K, V>, Vec<&'a K>) {
        let (mut known, mut unknown) = (BTreeMap::new(), Vec::new());
        for key in keys {
            match self.0.remove_entry(key) {
                Some((key, row)) => _ = known.insert(key, row),
                None => unknown.push(key),
            }
        }
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

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use shared::ledger::Seal;

    use super::*;

    fn campaigns(ids: impl IntoIterator<Item = u64>) -> impl Iterator<Item = (CampaignId, Campaign)> {
        ids.into_iter().map(|id| {
            let id: CampaignId = format!("c-{id}").parse().unwrap();
            let spec = crate::domain::campaign::Spec::of_first_use(&id);
            (id.clone(), Campaign::new(id, spec, DateTime::UNIX_EPOCH))
        })
    }

    #[test]
    fn nothing_is_remembered_at_another_head() {
        let head = Head { next_grant_index: 1, sequence: 7, at: DateTime::UNIX_EPOCH, seal: Seal::NONE };
        let others = [
            Head { next_grant_index: 2, ..head },
            Head { sequence: 8, ..head },
            Head { at: head.at + TimeDelta::microseconds(1), ..head },
            Head { seal: "7".repeat(64).parse().unwrap(), ..head },
        ];
        let memory = Memory::default();
        let known = || {
            let mut recent = Recent::default();
            recent.campaigns.keep(campaigns([1]));
            recent
        };
        for other in others {
            memory.leave(head, known());
            assert_eq!(memory.take(other).campaigns.0.len(), 0, "{other:?}");
            assert_eq!(memory.take(head).campaigns.0.len(), 0, "what was not true once is forgotten");
        }
        memory.leave(head, known());
        assert_eq!(memory.clone().take(head).campaigns.0.len(), 1);
        assert_eq!(memory.take(head).campaigns.0.len(), 0, "it is taken once");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut kept = Kept::default();
        kept.keep(campaigns(0..MOST as u64));
        kept.keep(campaigns([1_000_000, 1_000_001]));
        let ids: Vec<CampaignId> = ["c-1", "c-1000000"].map(|id| id.parse().unwrap()).into();
        let (known, unknown) = kept.take(ids.iter().collect());
        assert_eq!((known.len(), unknown), (1, vec![&ids[0]]));
    }
}
