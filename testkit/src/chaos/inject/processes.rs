//! Faults of the services' processes.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::Result;

use super::{World, hold};
use crate::chaos::fault::Which;

/// How long a service may take to come to a point of death.
const REACHED_WITHIN: Duration = Duration::from_secs(6);

/// How long a service may take to end when it is asked to; its own deadline is 10 s.
const ENDS_WITHIN: Duration = Duration::from_secs(20);

/// The signal that `abort` ends a process with, and the one that asks it to end.
const SIGABRT: i32 = 6;
const SIGTERM: i32 = 15;

impl World {
    pub(super) async fn kill_at(&self, which: Which, point: &str, after: u32) -> Result<u32> {
        let _held = self.hold(which).await;
        let service = self.service(which);
        service.kill9().await?;
        let action = if after == 0 { "return".to_owned() } else { format!("{after}*off->return") };
        service.set("FAILPOINTS", &format!("{point}={action}"));
        service.spawn()?;
        service.unset("FAILPOINTS");
        let end = service.ended(REACHED_WITHIN).await;
        if let Ok(status) = &end
            && status.signal() != Some(SIGABRT)
        {
            self.found(format!("{which} ended with {status} before it came to {point}"));
        }
        service.kill9().await?;
        service.spawn()?;
        Ok(u32::from(end.is_ok()))
    }

    pub(super) async fn kill(&self, which: Which, down: Duration) -> Result<u32> {
        let _held = self.hold(which).await;
        self.service(which).kill9().await?;
        hold(down).await;
        self.service(which).spawn()?;
        Ok(1)
    }

    pub(super) async fn kill_both(&self, down: Duration) -> Result<u32> {
        let (_campaign, _blockchain) = (self.hold(Which::Campaign).await, self.hold(Which::Blockchain).await);
        let (campaign, blockchain) = (self.service(Which::Campaign), self.service(Which::Blockchain));
        tokio::try_join!(campaign.kill9(), blockchain.kill9())?;
        hold(down).await;
        campaign.spawn()?;
        blockchain.spawn()?;
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
            Ok(status) if status.success() || status.signal() == Some(SIGTERM) => {}
            Ok(status) => self.found(format!("{which} was asked to end, and ended with {status}")),
            Err(error) => self.found(format!("{which} was asked to end, and did not: {error:#}")),
        }
        service.kill9().await?;
        service.spawn()?;
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
