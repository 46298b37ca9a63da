//! Processes: they start, take steps, stand still in the middle of one, die in the middle of one, and leave a database.

use std::pin::{Pin, pin};

use alloy::primitives::U256;
use anyhow::anyhow;
use shared::pubsub::Topic;

use super::{Stop, World, plant};
use crate::bug::Bug;
use crate::chain::{GWEI, Weather};
use crate::check;
use crate::dice::Dice;
use crate::fuse::{End, Fate, Resume};
use crate::network::Trouble;
use crate::plan::Hazards;
use crate::services::{Blockchain, Campaign, signer};

/// A process of the blockchain service.
pub(crate) enum Process {
    /// It can take a step.
    Running(Box<Blockchain>),
    /// It stands still in the middle of one.
    Paused(Paused),
}

impl Process {
    /// Its tables.
    pub(crate) fn store(&self) -> &blockchain::store::Store {
        match self {
            Self::Running(service) => &service.store,
            Self::Paused(paused) => &paused.store,
        }
    }
}

pub(crate) struct Paused {
    name: &'static str,
    step: Step,
    resume: Resume,
    store: blockchain::store::Store,
}

/// What only the holder of a lane commits.
const LANE_COMMITS: &[&str] =
    &["assign:committed", "fill:committed", "mined:committed", "reopen:committed", "replace:committed"];

/// A step under way, which gives its process back.
type Step = Pin<Box<dyn Future<Output = (Box<Blockchain>, String)>>>;

impl World {
    /// What the next step meets.
    fn set_hazards(&mut self, dice: &mut Dice) {
        let Hazards { weather, trouble, death, .. } = self.hazards;
        self.node.set_weather(weather, Dice::new(dice.number()));
        self.network.set_trouble(trouble, Dice::new(dice.number()));
        let dies = dice.happens(death);
        self.fuse.light(dies.then(|| (Fate::Death, dice.below(8))));
    }

    /// From now on nothing goes wrong.
    pub(crate) fn end_hazards(&mut self) {
        self.hazards = Hazards::default();
        self.node.set_weather(Weather::default(), Dice::new(0));
        self.network.set_trouble(Trouble::default(), Dice::new(0));
        let mut state = self.chain.state();
        state.fund(signer());
        state.pause(false);
        state.pause_token(false);
        state.cap_days(U256::ZERO);
        if let Some(claimed) = self.clients.claims().next() {
            // What is minted fails above a cap. A claim waits, for as long as it takes.
            state.cap_campaign(&claimed.campaign, U256::ZERO);
        }
        state.base_fee = GWEI;
    }

    /// A step of the campaign service, which is started where it is dead.
    pub(crate) async fn campaign_step(
        &mut self,
        name: &str,
        dice: &mut Dice,
        step: impl AsyncFnOnce(&mut Campaign) -> String,
    ) -> Result<(), Stop> {
        self.set_hazards(dice);
        if self.campaign.is_none() {
            let open = Campaign::open(&self.files.campaign, &self.network, &self.clocks[0], self.settings);
            let end = self.fuse.step(pin!(open)).await;
            match end {
                End::Done(Ok(service)) => {
                    self.campaign = Some(service);
                    self.note("campaign service started");
                }
                End::Done(Err(error)) => return Err(anyhow!("the campaign service does not start: {error:#}").into()),
                End::Died(point) | End::Paused(point, _) => {
                    self.count.crashes += 1;
                    self.note(format!("campaign service died at {point} while it started"));
                }
            }
            return Ok(());
        }
        let Some(service) = &mut self.campaign else { return Ok(()) };
        let end = self.fuse.step(pin!(step(service))).await;
        let acknowledged = self.network.take_acknowledged();
        match end {
            End::Done(line) => {
                let store = service.store.clone();
                self.note(format!("{name}: {line}"));
                self.witness.see_budgets(store.database(), &self.clients).await?;
            }
            End::Died(point) | End::Paused(point, _) => {
                let store = service.store.clone();
                check::acknowledged(&acknowledged, Topic::Results, store.database()).await?;
                self.bury_campaign(&format!("died at {point} in {name}")).await?;
            }
        }
        Ok(())
    }

    /// A step of the blockchain service, which is started where it is dead.
    pub(crate) async fn blockchain_step(
        &mut self,
        name: &'static str,
        dice: &mut Dice,
        step: impl AsyncFnOnce(&mut Blockchain) -> String + 'static,
    ) -> Result<(), Stop> {
        self.set_hazards(dice);
        let mut which = usize::from(dice.happens(self.hazards.second));
        if dice.happens(self.hazards.pause) {
            self.fuse.light(Some((Fate::Pause, dice.below(3))));
        }
        let goes_on = dice.below(8) == 0;
        if self.hazards.second > 0 && !goes_on && matches!(self.blockchain[which], Some(Process::Paused(_))) {
            // The other one works while this one stands still, often for longer than its lease.
            which = 1 - which;
            self.pass_time(dice.between(1, 10_000));
        }
        match self.blockchain[which].take() {
            None => self.start_blockchain(which).await,
            Some(Process::Paused(paused)) if !goes_on => {
                self.blockchain[which] = Some(Process::Paused(paused));
                Ok(())
            }
            Some(Process::Paused(paused)) => self.resume(which, paused).await,
            Some(Process::Running(mut service)) => {
                let store = service.store.clone();
                let step: Step = Box::pin(async move {
                    let line = step(&mut service).await;
                    (service, line)
                });
                self.advance(which, name, step, store).await
            }
        }
    }

    pub(crate) async fn start_blockchain(&mut self, which: usize) -> Result<(), Stop> {
        let (file, clock) = (&self.files.blockchain, &self.clocks[1]);
        let open = Blockchain::open(file, &self.network, &self.node, clock, self.settings);
        let end = self.fuse.step(pin!(open)).await;
        match end {
            End::Done(Ok(service)) => {
                self.owners[which].clone_from(&service.holder.owner);
                self.blockchain[which] = Some(Process::Running(Box::new(service)));
                self.note(format!("blockchain service {which} started"));
            }
            End::Done(Err(error)) => self.note(format!("blockchain service {which} does not start: {error:#}")),
            End::Died(point) | End::Paused(point, _) => {
                self.count.crashes += 1;
                self.note(format!("blockchain service {which} died at {point} while it started"));
            }
        }
        Ok(())
    }

    pub(crate) async fn resume(&mut self, which: usize, paused: Paused) -> Result<(), Stop> {
        let Paused { name, step, resume, store } = paused;
        self.note(format!("blockchain service {which} goes on in {name}"));
        // Nobody waits where the step was about to end anyway.
        let _ = resume.send(());
        self.advance(which, name, step, store).await
    }

    async fn advance(
        &mut self,
        which: usize,
        name: &'static str,
        mut step: Step,
        store: blockchain::store::Store,
    ) -> Result<(), Stop> {
        let committed = self.fuse.times(LANE_COMMITS);
        let end = self.fuse.step(step.as_mut()).await;
        if self.fuse.times(LANE_COMMITS) > committed {
            check::owned(&self.owners[which], store.database()).await?;
        }
        let sent = self.chain.state().take_sent();
        self.witness.see_sent(&sent, store.database(), &self.chain).await?;
        let acknowledged = self.network.take_acknowledged();
        match end {
            End::Done((service, line)) => {
                if name == "submitter" && line.contains("failed: transaction") {
                    plant(service.store.database(), self.bug.map_or(&[][..], Bug::after_error)).await;
                }
                self.blockchain[which] = Some(Process::Running(service));
                self.note(format!("{name} {which}: {line}"));
            }
            End::Died(point) => {
                drop(step);
                check::acknowledged(&acknowledged, Topic::Requests, store.database()).await?;
                self.died(which, &format!("died at {point} in {name}"), store).await?;
            }
            End::Paused(point, resume) => {
                self.note(format!("blockchain service {which} stands still at {point} in {name}"));
                self.blockchain[which] = Some(Process::Paused(Paused { name, step, resume, store }));
            }
        }
        Ok(())
    }

    /// The campaign service is dead: what it left behind is looked at, and its connections are closed.
    pub(crate) async fn bury_campaign(&mut self, how: &str) -> Result<(), Stop> {
        let Some(service) = self.campaign.take() else { return Ok(()) };
        self.note(format!("campaign service {how}"));
        self.count.crashes += 1;
        let store = service.store.clone();
        drop(service);
        let seen = self.witness.see_campaign(store.database(), &self.clients, &self.network).await;
        store.database().close().await;
        Ok(seen?)
    }

    /// The same for a process of the blockchain service.
    pub(crate) async fn bury_blockchain(&mut self, which: usize, how: &str) -> Result<(), Stop> {
        let Some(process) = self.blockchain[which].take() else { return Ok(()) };
        let store = process.store().clone();
        drop(process);
        self.died(which, how, store).await
    }

    async fn died(&mut self, which: usize, how: &str, store: blockchain::store::Store) -> Result<(), Stop> {
        self.note(format!("blockchain service {which} {how}"));
        self.count.crashes += 1;
        let seen = self.witness.see_blockchain(store.database(), &self.network, &self.chain).await;
        store.database().close().await;
        Ok(seen?)
    }

    /// The database of the blockchain service, where a process of it runs.
    pub(crate) fn blockchain_database(&self) -> Option<shared::db::Database> {
        self.blockchain.iter().flatten().next().map(|process| process.store().database().clone())
    }
}
