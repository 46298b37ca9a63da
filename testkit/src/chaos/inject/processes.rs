//! Faults of the services' processes.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::Result;

use super::{World, hold};
use crate::service::Which;

/// How long other faults of a service wait for it to come to a point of death.
const REACHED_WITHIN: Duration = Duration::from_millis(2_500);

/// How long a service may take to end when it is asked to; its own deadline is 10 s.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// The signal that asks a process to end.
const SIGTERM: i32 = 15;

impl World {
    /// A point that is not reached soon stays armed: the supervisor sees the death, whenever it comes.
    pub(super) async fn kill_at(&self, which: Which, point: &'static str, after: u32) -> Result<u32> {
        let _held = self.hold(which).await;
        let service = self.service(which);
        service.kill9().await?;
        self.arm(which, point, after);
        self.start_again(which)?;
        if service.ended(REACHED_WITHIN).await.is_ok() {
            self.bury(which).await;
        }
        // Deaths are counted when they come.
        Ok(0)
    }

    /// Lets a service die at no point any more; returns how many faults that took.
    pub(in crate::chaos) async fn call_off(&self, which: Which) -> Result<u32> {
        let _held = self.hold(which).await;
        if !self.disarm(which) {
            return Ok(0);
        }
        self.service(which).kill9().await?;
        self.start_again(which)?;
        Ok(1)
    }

    pub(super) async fn kill(&self, which: Which, down: Duration) -> Result<u32> {
        let _held = self.hold(which).await;
        self.service(which).kill9().await?;
        hold(down).await;
        self.start_again(which)?;
        Ok(1)
    }

    pub(super) async fn kill_both(&self, down: Duration) -> Result<u32> {
        let (_campaign, _blockchain) = (self.hold(Which::Campaign).await, self.hold(Which::Blockchain).await);
        let (campaign, blockchain) = (self.service(Which::Campaign), self.service(Which::Blockchain));
        tokio::try_join!(campaign.kill9(), blockchain.kill9())?;
        hold(down).await;
        self.start_again(Which::Campaign)?;
        self.start_again(Which::Blockchain)?;
        Ok(1)
    }

    pub(super) async fn freeze(&self, which: Which, time: Duration) -> Result<u32> {
        let _held = self.hold(which).await;
        self.service(which).pause();
        hold(time).await;
        self.service(which).resume();
        Ok(1)
    }

    pub(super) async fn terminate(&self, which: Which) -> Result<u32> {
        let _held = self.hold(which).await;
        let service = self.service(which);
        match service.terminate(ENDS_WITHIN).await {
            // The signal itself ends it as long as it has not begun to listen for it.
            Ok(status) if status.success() || status.signal() == Some(SIGTERM) => self.start_again(which)?,
            Ok(_) => self.bury(which).await,
            Err(error) => {
                self.found(format!("{which} was asked to end, and did not: {error:#}"));
                service.kill9().await?;
                self.start_again(which)?;
            }
        }
        Ok(1)
    }

    pub(super) async fn run_twin(&self, time: Duration, killed: bool) -> Result<u32> {
        self.twin.spawn()?;
        hold(time).await;
        if !killed && self.twin.terminate(ENDS_WITHIN).await.is_err() {
            self.found("the second blockchain service was asked to end, and did not");
        }
        self.twin.kill9().await?;
        Ok(1)
    }
}
