//! Carries faults out: each is injected, held for its time and healed in one function, and says how many faults it came
//! to. What could not be done, such as a death at a point that was not reached, comes to none.

mod broker;
mod chain;
mod database;
mod processes;
mod rpc;

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep, sleep_until};

use super::{fault::Fault, world::World};

impl World {
    /// Carries one fault out, from its injection to its healing.
    ///
    /// # Errors
    /// When the stack could not be healed: no fault of the services.
    pub(super) async fn carry_out(&self, fault: &Fault) -> Result<u32> {
        match fault {
            Fault::KillAtFailPoint { service, point, after } => self.kill_at(*service, point, *after).await,
            Fault::Kill { service, down } => self.kill(*service, ms(*down)).await,
            Fault::KillBoth { down } => self.kill_both(ms(*down)).await,
            Fault::Freeze { service, milliseconds } => self.freeze(*service, ms(*milliseconds)).await,
            Fault::Terminate { service } => self.terminate(*service).await,
            Fault::TwinProcess { milliseconds, killed } => self.run_twin(ms(*milliseconds), *killed).await,
            Fault::RestartEmulator { down } => self.restart_emulator(ms(*down)).await,
            Fault::RepeatMessages { messages, hours_late } => self.repeat_messages(*messages, *hours_late).await,
            Fault::HostileMessages { messages, salt } => self.publish_hostile(*messages, *salt).await,
            Fault::DeleteTopics { what } => self.delete_topics(*what).await,
            Fault::RestartChain { down } => self.restart_chain(ms(*down)).await,
            Fault::Reorg { depth } => self.reorg(*depth).await,
            Fault::StopBlocks { milliseconds, rush } => self.stop_blocks(ms(*milliseconds), *rush).await,
            Fault::BaseFeeSpike { gwei, milliseconds } => Ok(self.spike_base_fee(*gwei, ms(*milliseconds)).await),
            Fault::DropMempool => self.drop_mempool().await,
            Fault::Rpc { lie, times, milliseconds, liar } => Ok(self.lie(*lie, *times, ms(*milliseconds), *liar).await),
            Fault::CutCommit { service, durable, times, milliseconds } => {
                Ok(self.cut_commits(*service, *durable, *times, ms(*milliseconds)).await)
            }
            Fault::EndSessions { service } => self.end_sessions(*service).await,
            Fault::RestartPostgres { down } => self.restart_postgres(ms(*down)).await,
            Fault::LockTables { service, milliseconds } => self.lock_tables(*service, ms(*milliseconds)).await,
            Fault::FillDisk { service, milliseconds } => self.fill_disk(*service, ms(*milliseconds)).await,
            Fault::RestoreDatabase { age } => self.restore_database(ms(*age)).await,
            Fault::KillSwitch { milliseconds } => self.stop_payments(ms(*milliseconds)).await,
            // Set when the services were started.
            Fault::ClocksApart { .. } => Ok(1),
        }
    }
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Waits for the time, or until there is nothing left to do.
async fn all_told(time: Duration, done: impl Fn() -> bool) {
    let end = Instant::now() + time;
    while Instant::now() < end && !done() {
        sleep_until(end.min(Instant::now() + ms(20))).await;
    }
}

/// Holds a fault.
async fn hold(time: Duration) {
    sleep(time).await;
}
