//! Faults of the chain itself.

use std::time::Duration;

use anyhow::Result;

use super::{World, hold};
use crate::wait::until;

/// How long a chain may take until it is as long as a reorg needs.
const REORG_WITHIN: Duration = Duration::from_secs(5);

impl World {
    pub(super) async fn restart_chain(&self, down: Duration) -> Result<u32> {
        self.anvil.stop().await?;
        hold(down).await;
        self.anvil.launch().await?;
        Ok(1)
    }

    /// After a restart the chain has no old states, and cannot reorg before it has some.
    pub(super) async fn reorg(&self, depth: u64) -> Result<u32> {
        let done = until(REORG_WITHIN, "a reorg", async || self.chain.reorg(depth).await.is_ok()).await;
        Ok(u32::from(done.is_ok()))
    }

    pub(super) async fn stop_blocks(&self, time: Duration, rush: u64) -> Result<u32> {
        self.miner.stop();
        hold(time).await;
        self.miner.go_on(rush).await?;
        Ok(1)
    }

    pub(super) async fn spike_base_fee(&self, gwei: u64, time: Duration) -> u32 {
        self.miner.set_base_fee(Some(gwei));
        hold(time).await;
        self.miner.set_base_fee(Some(1));
        1
    }

    pub(super) async fn drop_mempool(&self) -> Result<u32> {
        self.chain.drop_pending().await?;
        Ok(1)
    }
}
