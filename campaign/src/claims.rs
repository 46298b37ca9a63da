//! Campaigns whose grants are claimed: makes the Merkle trees, asks for their roots to be published, and proves a claim.
//!
//! A tree has all leaves of its campaign up to an entry of the ledger. Leaves are only ever added, so whoever makes it, and
//! whenever, makes the same one; it is kept in memory for as long as it is asked for. A campaign's next tree is made when
//! the root of the last one is on chain, so no more are made than the chain takes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::primitives::B256;
use chrono::TimeDelta;
use shared::clock::Clock;
use shared::db;
use shared::id::CampaignId;
use shared::worker::{Progress, Worker};
use tokio::sync::Notify;

use crate::merkle::Tree;
use crate::store::{ClaimRoot, Store};

/// How many trees are kept: 64 bytes a leaf of each.
const KEPT: usize = 4;

/// Why there is no tree.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The leaves could not be read, or the tree not be recorded.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// The leaves are not those that the published root was made of.
    #[error("the leaves of {campaign_id} up to {up_to} do not have the published root {root}: run `campaign rebuild`")]
    Changed {
        /// Whose leaves.
        campaign_id: CampaignId,
        /// Up to this entry of the ledger.
        up_to: u64,
        /// What is on chain.
        root: B256,
    },
}

/// The trees of claims; clones share them.
#[derive(Debug, Clone)]
pub struct Trees {
    store: Store,
    /// Those that were asked for last, the latest first.
    kept: Arc<Mutex<VecDeque<Arc<Tree>>>>,
    /// Held while a tree is made: memory holds the leaves of one at a time.
    making: Arc<tokio::sync::Mutex<()>>,
}

impl Trees {
    /// Trees of the leaves in this store.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, kept: Arc::default(), making: Arc::default() }
    }

    /// The tree with this root.
    ///
    /// # Errors
    ///
    /// When the leaves cannot be read, or are not those of this root.
    pub async fn with_root(&self, campaign_id: &CampaignId, published: &ClaimRoot) -> Result<Arc<Tree>, Error> {
        let ClaimRoot { root, up_to, .. } = *published;
        if let Some(tree) = self.find(root) {
            return Ok(tree);
        }
        let _making = self.making.lock().await;
        if let Some(tree) = self.find(root) {
            return Ok(tree);
        }
        let Some(tree) = self.make(campaign_id, up_to).await?.filter(|tree| tree.root() == root) else {
            let error = Error::Changed { campaign_id: campaign_id.clone(), up_to, root };
            tracing::error!(%error);
            return Err(error);
        };
        Ok(self.keep(tree))
    }

    /// A new tree, of a campaign's leaves up to an entry of the ledger; none without leaves.
    async fn of_leaves_up_to(&self, campaign_id: &CampaignId, up_to: u64) -> db::Result<Option<Arc<Tree>>> {
        let _making = self.making.lock().await;
        Ok(self.make(campaign_id, up_to).await?.map(|tree| self.keep(tree)))
    }

    async fn make(&self, campaign_id: &CampaignId, up_to: u64) -> db::Result<Option<Tree>> {
        let leaves = self.store.leaf_hashes(campaign_id, up_to).await?;
        Ok(tokio::task::spawn_blocking(|| Tree::of(leaves)).await.expect("making a tree does not panic"))
    }

    fn keep(&self, tree: Tree) -> Arc<Tree> {
        let (mut kept, tree) = (self.kept(), Arc::new(tree));
        kept.truncate(KEPT - 1);
        kept.push_front(Arc::clone(&tree));
        tree
    }

    fn find(&self, root: B256) -> Option<Arc<Tree>> {
        let mut kept = self.kept();
        let place = kept.iter().position(|tree| tree.root() == root)?;
        let tree = kept.remove(place)?;
        kept.push_front(Arc::clone(&tree));
        Some(tree)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Tree>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the next tree of each campaign that needs one.
#[derive(Debug)]
pub struct RootMaker {
    store: Store,
    trees: Trees,
    clock: Clock,
    every: TimeDelta,
    outbox_ready: Arc<Notify>,
}

impl RootMaker {
    /// Makes a tree of a campaign at most this often.
    #[must_use]
    pub fn new(store: Store, trees: Trees, clock: Clock, every: Duration, outbox_ready: Arc<Notify>) -> Self {
        let every = TimeDelta::from_std(every).unwrap_or(TimeDelta::MAX);
        Self { store, trees, clock, every, outbox_ready }
    }
}

impl Worker for RootMaker {
    type Error = db::Error;

    async fn run_once(&self) -> db::Result<Progress> {
        for due in self.store.due_trees(self.clock.now(), self.every).await? {
            let Some(tree) = self.trees.of_leaves_up_to(&due.campaign_id, due.up_to).await? else { continue };
            let (root, leaves) = (tree.root(), tree.leaves());
            if self.store.make_root(&due, leaves as u64, root, self.clock.now()).await? {
                tracing::info!(campaign_id = %due.campaign_id, %root, leaves, "tree of claims made");
                self.outbox_ready.notify_one();
            }
        }
        Ok(Progress::Idle)
    }
}
