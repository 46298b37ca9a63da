//! Makes the blocks of a chain that makes none by itself, so that a test can stop them, rush them and set their price.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::AbortHandle,
    time::{MissedTickBehavior, interval},
};

use crate::chain::Chain;

/// Whoever makes the blocks. Dropping it stops them.
#[derive(Debug)]
pub struct Miner {
    chain: Chain,
    orders: Arc<Orders>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Orders {
    stopped: AtomicBool,
    /// 0: as the chain has it.
    base_fee_gwei: AtomicU64,
}

impl Miner {
    /// Makes a block each `block_time`. While the chain is away it tries on.
    #[must_use]
    pub fn start(chain: Chain, block_time: Duration) -> Self {
        let orders = Arc::new(Orders::default());
        let task = tokio::spawn(mine(chain.clone(), Arc::clone(&orders), block_time)).abort_handle();
        Self { chain, orders, task }
    }

    /// Makes no more blocks.
    pub fn stop(&self) {
        self.orders.stopped.store(true, Ordering::Relaxed);
    }

    /// Makes blocks again, the first `rush` of them at once.
    ///
    /// # Errors
    /// When the chain does not answer; blocks are made all the same.
    pub async fn go_on(&self, rush: u64) -> anyhow::Result<()> {
        self.orders.stopped.store(false, Ordering::Relaxed);
        self.chain.mine(rush).await
    }

    /// What a unit of gas costs at least from the next block on, in gwei; without a number, what the chain makes of the
    /// last one's.
    pub fn set_base_fee(&self, gwei: Option<u64>) {
        self.orders.base_fee_gwei.store(gwei.unwrap_or(0), Ordering::Relaxed);
    }
}

impl Drop for Miner {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn mine(chain: Chain, orders: Arc<Orders>, block_time: Duration) {
    let mut tick = interval(block_time);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !orders.stopped.load(Ordering::Relaxed) {
            let base_fee = orders.base_fee_gwei.load(Ordering::Relaxed);
            // A chain that is away has no blocks; the next tick tries again.
            let _ = chain.mine_one((base_fee > 0).then_some(base_fee)).await;
        }
    }
}
