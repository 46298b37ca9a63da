//! Grants in one upload, and queues of them: what fills a store, and what keeps the chain's side busy.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Deserialize;
use tokio::time::sleep;

use crate::{
    records::Records,
    template::{self, CAMPAIGN},
    world::World,
};

/// Lines of one upload.
const UPLOAD: u64 = 5_000;

/// Time between two looks.
const LOOK: Duration = Duration::from_millis(50);

impl World {
    /// Asks for so many grants, in uploads of a few thousand, while never more than `open` are under way.
    pub(crate) async fn upload(&mut self, grants: u64, open: u64) -> Result<()> {
        let wallets = self.settings.wallets;
        let records = self.records();
        let end = self.next + grants;
        while self.next < end {
            let until = end.min(self.next + UPLOAD);
            let lines = until - self.next;
            while (self.granted + lines).saturating_sub(self.completed().await?) > open {
                sleep(LOOK).await;
                self.alive()?;
            }
            let lines: Vec<_> = (self.next..until).map(|number| template::line_of(number, number % wallets)).collect();
            self.granted += records.upload(lines.join("\n")).await?;
            self.next = until;
        }
        Ok(())
    }

    /// Grants of the benchmark's campaign that are completed: its tokens spent.
    pub(crate) async fn completed(&self) -> Result<u64> {
        #[derive(Deserialize)]
        struct Campaign {
            spent: u64,
        }
        Ok(self.records().json::<Campaign>(&format!("/campaigns/{CAMPAIGN}")).await?.spent)
    }

    /// Waits until all grants that were accepted are completed.
    pub(crate) async fn quiet(&self, patience: Duration) -> Result<()> {
        let began = Instant::now();
        loop {
            let completed = self.completed().await?;
            if completed >= self.granted {
                return Ok(());
            }
            if began.elapsed() > patience {
                bail!("{} of {} grants are not completed after {patience:?}", self.granted - completed, self.granted);
            }
            self.alive()?;
            sleep(LOOK).await;
        }
    }

    /// Stops the blockchain service's payments, or lets them go on.
    pub(crate) async fn hold(&self, engaged: bool) -> Result<()> {
        Records::of(self.stack.blockchain.url()).switch(&format!("/kill-switch?engaged={engaged}")).await
    }

    /// Waits until so many grants are queued at the blockchain service.
    pub(crate) async fn queued(&self, grants: u64, patience: Duration) -> Result<()> {
        #[derive(Deserialize)]
        struct Stats {
            queue: Queue,
        }
        #[derive(Deserialize)]
        struct Queue {
            grants: u64,
        }
        let (began, records) = (Instant::now(), Records::of(self.stack.blockchain.url()));
        loop {
            let queue = records.json::<Stats>("/stats").await?.queue.grants;
            if queue >= grants {
                return Ok(());
            }
            if began.elapsed() > patience {
                bail!("only {queue} of {grants} grants are queued after {patience:?}");
            }
            self.alive()?;
            sleep(LOOK).await;
        }
    }

    fn alive(&self) -> Result<()> {
        self.stack.unexpected_end().map_or(Ok(()), Err)
    }
}
