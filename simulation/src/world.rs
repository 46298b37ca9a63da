//! One world: both services, the broker and the chain, moved one turn at a time.

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;

use alloy::primitives::U256;
use anyhow::{Result, anyhow};
use blockchain::audit::auditor::Auditor;
use blockchain::audit::reader::Reading;
use blockchain::chain::Chain;
use campaign::store::WhichGrants;
use chrono::{DateTime, TimeDelta, Utc};
use shared::clock::Clock;
use shared::dead_letter::{DeadLetters, Filter, Page, Selection};
use shared::event::{GrantRequested, RequestEvent, TokenType};
use shared::pubsub::{Delivery, Message, Topic};
use shared::worker::{Progress, Worker};
use shared::{fail_point, random};

use crate::bug::Bug;
use crate::chain::contracts::DECIMALS;
use crate::chain::{GENESIS, GWEI, Node, Simulated, Weather};
use crate::check::{self, Rule, Verdict, Violation, Witness, violation};
use crate::client::{CAMPAIGNS, Clients};
use crate::dice::Dice;
use crate::fuse::{End, Fate, Fuse, Resume};
use crate::network::{Network, Trouble};
use crate::plan::{Action, Hazards, Kind, Plan};
use crate::services::{Blockchain, Campaign, File, Settings, auditor, signer};

/// The files of one world.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) campaign: File,
    pub(crate) blockchain: File,
    pub(crate) backup: File,
}

impl Files {
    pub(crate) fn within(folder: &Path) -> Self {
        let [campaign, blockchain, backup] =
            ["campaign.db", "blockchain.db", "backup.db"].map(|name| File::new(folder.join(name)));
        Self { campaign, blockchain, backup }
    }

    pub(crate) fn remove(&self) {
        [&self.campaign, &self.blockchain, &self.backup].into_iter().for_each(File::remove);
    }
}

/// What happened in a world, counted.
#[derive(Debug, Clone, Default)]
pub struct Count {
    /// Grants that were accepted, foreign ones included.
    pub grants: u64,
    /// Services that died.
    pub crashes: u64,
    /// Turns that were taken.
    pub turns: u64,
    /// Blocks that were taken away again.
    pub reorged: u64,
    /// How often each point of a step was reached.
    pub points: BTreeMap<String, u64>,
    /// How often each kind of thing happened.
    pub kinds: BTreeMap<String, u64>,
}

pub(crate) struct World {
    pub(crate) settings: Settings,
    pub(crate) hazards: Hazards,
    pub(crate) bug: Option<Bug>,
    burst: u64,
    look_every: u64,
    pub(crate) clocks: [Clock; 2],
    pub(crate) chain: Simulated,
    pub(crate) network: Network,
    node: Node,
    fuse: Fuse,
    files: Files,
    pub(crate) campaign: Option<Campaign>,
    /// The blockchain service, and a second process of it now and then, on the same database.
    pub(crate) blockchain: [Option<Process>; 2],
    pub(crate) clients: Clients,
    pub(crate) witness: Witness,
    pub(crate) count: Count,
    pub(crate) log: Vec<String>,
    foreigners: u64,
}

/// A process of the blockchain service.
pub(crate) enum Process {
    /// It can take a step.
    Running(Box<Blockchain>),
    /// It stands still in the middle of one.
    Paused(Paused),
}

pub(crate) struct Paused {
    name: &'static str,
    step: Step,
    resume: Resume,
    store: blockchain::store::Store,
}

/// A step under way, which gives its process back.
type Step = Pin<Box<dyn Future<Output = (Box<Blockchain>, String)>>>;

/// Why a turn could not be taken.
pub(crate) enum Stop {
    /// A rule is broken.
    Violation(Violation),
    /// The simulation itself cannot go on.
    Failure(anyhow::Error),
}

impl From<Violation> for Stop {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self::Failure(error)
    }
}

fn word<E: std::fmt::Display>(result: Result<Progress, E>) -> String {
    match result {
        Ok(Progress::Worked) => "worked".to_owned(),
        Ok(Progress::Idle) => "idle".to_owned(),
        Err(error) => format!("failed: {error}"),
    }
}

impl World {
    pub(crate) fn new(plan: &Plan, bug: Option<Bug>, files: Files) -> Self {
        let fuse = Fuse::default();
        let start = DateTime::from_timestamp(GENESIS.cast_signed(), 0).unwrap_or_default();
        let clocks = plan.skew_seconds.map(|skew| Clock::manual(start + TimeDelta::seconds(skew)));
        let chain = Simulated::new(plan.finality, signer());
        if matches!(bug, Some(Bug::ForgetfulDistributor | Bug::PaidTwiceAndNotAudited)) {
            chain.state().make_forgetful();
        }
        let burning = fuse.clone();
        fail_point::decide(move |point| burning.burns(point));
        fail_point::switch(bug.and_then(Bug::switch).map(ToOwned::to_owned));
        Self {
            settings: plan.settings,
            hazards: plan.hazards,
            bug,
            burst: plan.burst,
            look_every: plan.look_every,
            network: Network::new(fuse.clone(), clocks[0].clone()),
            clocks,
            node: Node::new(chain.clone(), fuse.clone()),
            chain,
            fuse,
            files,
            campaign: None,
            blockchain: [None, None],
            clients: Clients::default(),
            witness: Witness::default(),
            count: Count::default(),
            log: vec![],
            foreigners: 0,
        }
    }

    /// Both clocks and the chain's go on.
    pub(crate) fn pass_time(&mut self, millis: u64) {
        for clock in &self.clocks {
            clock.advance(TimeDelta::milliseconds(millis.cast_signed()));
        }
        self.chain.state().now += millis.div_ceil(1000);
    }

    pub(crate) fn note(&mut self, line: impl AsRef<str>) {
        let at = |clock: &Clock| -> DateTime<Utc> { clock.now() };
        let [campaign, blockchain] = [at(&self.clocks[0]), at(&self.clocks[1])].map(|at| at.format("%T%.3f"));
        let line = format!("{:4} {campaign} {blockchain} {}", self.count.turns, line.as_ref());
        self.log.push(line);
    }

    /// Takes a turn.
    pub(crate) async fn turn(&mut self, action: Action) -> Result<(), Stop> {
        let Action { kind, salt } = action;
        random::seed(salt);
        let mut dice = Dice::new(salt);
        self.count.turns += 1;
        *self.count.kinds.entry(format!("{kind:?}")).or_default() += 1;
        let millis = dice.between(1, 1500);
        self.pass_time(millis);
        match kind {
            Kind::Ask => self.ask(&mut dice).await?,
            Kind::CampaignRelay => {
                self.campaign_step("campaign relay", &mut dice, async |service| word(service.relay.run_once().await))
                    .await?;
            }
            Kind::BlockchainRelay => {
                let step = async |service: &mut Blockchain| word(service.relay.run_once().await);
                self.blockchain_step("blockchain relay", &mut dice, step).await?;
            }
            Kind::DeliverRequests | Kind::DeliverResults => self.deliver(kind, &mut dice).await?,
            Kind::Submit => {
                let step = async |service: &mut Blockchain| word(service.submitter.run_once().await);
                self.blockchain_step("submitter", &mut dice, step).await?;
            }
            Kind::Confirm => {
                let step = async |service: &mut Blockchain| word(service.confirmer.run_once().await);
                self.blockchain_step("confirmer", &mut dice, step).await?;
            }
            Kind::Lease => {
                let step = async |service: &mut Blockchain| word(service.holder.run_once().await);
                self.blockchain_step("lease", &mut dice, step).await?;
            }
            Kind::Gaps => {
                let step = async |service: &mut Blockchain| word(service.gaps.run_once().await);
                self.blockchain_step("gaps", &mut dice, step).await?;
            }
            Kind::Audit => {
                let step = async |service: &mut Blockchain| word(service.auditor.run_once().await);
                self.blockchain_step("auditor", &mut dice, step).await?;
            }
            Kind::Redrive if dice.below(2) == 0 => {
                let choice = dice.number();
                let step = async move |service: &mut Blockchain| redrive(&service.letters, choice).await;
                self.blockchain_step("redrive", &mut dice, step).await?;
            }
            Kind::Redrive => {
                let choice = dice.number();
                let step = async move |service: &mut Campaign| redrive(&service.letters, choice).await;
                self.campaign_step("redrive", &mut dice, step).await?;
            }
            Kind::SetGoing => {
                let step = async |service: &mut Campaign| match service.republisher.set_going(WhichGrants::All).await {
                    Ok(grants) => format!("{grants} grants"),
                    Err(error) => format!("failed: {error}"),
                };
                self.campaign_step("set going", &mut dice, step).await?;
            }
            Kind::Republish if self.bug == Some(Bug::NoRepublishing) => {}
            Kind::Republish => {
                let step = async |service: &mut Campaign| word(service.republisher.run_once().await);
                self.campaign_step("republisher", &mut dice, step).await?;
            }
            Kind::Keep => {
                self.campaign_step("campaign keeper", &mut dice, async |service| word(service.keeper.run_once().await))
                    .await?;
                let step = async |service: &mut Blockchain| word(service.keeper.run_once().await);
                self.blockchain_step("blockchain keeper", &mut dice, step).await?;
            }
            Kind::KillCampaign => self.bury_campaign("killed").await?,
            Kind::KillBlockchain => self.bury_blockchain(dice.place(2), "killed").await?,
            Kind::Repeat => {
                let topic = [Topic::Requests, Topic::Results][dice.place(2)];
                if self.network.repeat(topic, &mut dice).await {
                    self.note(format!("a message of {topic} is published again"));
                }
            }
            Kind::Garbage => self.garbage(&mut dice).await,
            Kind::Foreign => self.foreign(&mut dice).await,
            Kind::Backup => self.back_up()?,
            Kind::Restore => self.restore().await?,
            Kind::Mine
            | Kind::Wait
            | Kind::Reorg
            | Kind::DropPool
            | Kind::Fee
            | Kind::Funds
            | Kind::Pause
            | Kind::Cap
            | Kind::Amnesia
            | Kind::Intruder
            | Kind::Jump => self.nature(kind, &mut dice),
        }
        if self.count.turns.is_multiple_of(self.look_every) {
            self.look().await?;
        }
        Ok(())
    }

    /// What neither service does.
    fn nature(&mut self, kind: Kind, dice: &mut Dice) {
        let chain = self.chain.clone();
        let mut state = chain.state();
        let line = match kind {
            Kind::Mine => {
                let full = dice.below(4) != 0;
                let held = state.mine(|| full || dice.below(2) == 0);
                format!("block {} with {held} transactions, {} wait", state.head().number, state.pool_size())
            }
            Kind::Reorg => {
                let (depth, back) = (dice.between(1, 6), dice.below(4));
                let mut again = dice.clone();
                let depth =
                    state.reorg(depth, || back < 2 || (back == 2 && dice.below(2) == 0), || again.below(3) != 0);
                self.count.reorged += depth;
                format!("reorg of {depth} blocks, the head is {} now, {} wait", state.head().number, state.pool_size())
            }
            Kind::DropPool => {
                let all = dice.below(2) == 0;
                format!("{} transactions are forgotten", state.drop_pool(|| !all && dice.below(2) == 0))
            }
            Kind::Fee => {
                state.base_fee = [GWEI, GWEI, 3 * GWEI, 40 * GWEI, 600 * GWEI][dice.place(5)];
                format!("the base fee is {} gwei", state.base_fee / GWEI)
            }
            Kind::Funds if dice.below(2) == 0 => {
                state.drain(signer());
                "the signer's ether is gone".to_owned()
            }
            Kind::Funds => {
                state.fund(signer());
                "the signer gets ether".to_owned()
            }
            Kind::Pause => {
                let paused = dice.below(2) == 0;
                if dice.below(2) == 0 {
                    state.pause(paused)
                } else {
                    state.pause_token(paused)
                }
                format!("distributor or token: paused is {paused}")
            }
            Kind::Cap => {
                let tokens = [0, 500, 5000, 50_000][dice.place(4)];
                let cap = U256::from(tokens) * U256::from(10).pow(U256::from(DECIMALS));
                if dice.below(2) == 0 {
                    state.cap_days(cap);
                    format!("a day may pay {tokens} tokens")
                } else {
                    let campaign = CAMPAIGNS[dice.place(CAMPAIGNS.len())];
                    state.cap_campaign(campaign, cap);
                    format!("{campaign} may pay {tokens} tokens")
                }
            }
            Kind::Amnesia => {
                self.network.forget();
                "the broker forgets everything".to_owned()
            }
            Kind::Intruder => {
                let nonce = state.intrude(signer(), dice.below(4) == 0);
                format!("somebody else uses nonce {nonce} of the signer")
            }
            Kind::Jump => {
                let seconds = dice.below(7200).cast_signed() - 3600;
                self.clocks[dice.place(2)].advance(TimeDelta::seconds(seconds));
                format!("a clock jumps by {seconds} s")
            }
            _ => {
                drop(state);
                self.pass_time(dice.between(1000, 120_000));
                return self.note("time passes");
            }
        };
        drop(state);
        self.note(line);
    }

    async fn ask(&mut self, dice: &mut Dice) -> Result<(), Stop> {
        let burst = self.clients.ask(dice, self.burst);
        self.send(burst, dice).await
    }

    /// Sends requests, all at the same time, and takes the answers in.
    pub(crate) async fn send(&mut self, burst: crate::client::Burst, dice: &mut Dice) -> Result<(), Stop> {
        let crate::client::Burst { attempts, requests } = burst;
        let count = requests.len();
        let mut answers = None;
        self.campaign_step("api", dice, async |service| {
            let heard = service.serve(requests).await;
            let line = format!("{} of {count} requests answered", heard.len());
            answers = Some(heard);
            line
        })
        .await?;
        if let Some(answers) = answers {
            let new = self.clients.hear(&attempts, &answers)?;
            self.count.grants += new as u64;
            self.note(format!("clients: {new} new grants of {count} requests"));
        }
        Ok(())
    }

    async fn deliver(&mut self, kind: Kind, dice: &mut Dice) -> Result<(), Stop> {
        let topic = if kind == Kind::DeliverRequests { Topic::Requests } else { Topic::Results };
        let waiting = self.network.waiting(topic);
        if waiting == 0 {
            return Ok(());
        }
        let count = if dice.below(3) == 0 { 1 + dice.place(waiting) } else { waiting };
        let order = Dice::new(dice.number());
        self.hand_over(topic, count.min(500), Some(order), dice).await
    }

    /// Delivers up to so many of the messages that wait.
    pub(crate) async fn hand_over(
        &mut self,
        topic: Topic,
        count: usize,
        order: Option<Dice>,
        dice: &mut Dice,
    ) -> Result<(), Stop> {
        let network = self.network.clone();
        let early = self.bug == Some(Bug::AckBeforeCommit);
        let deliver = move || {
            let deliveries = network.deliveries(topic, count, order);
            if !early {
                return deliveries;
            }
            let acknowledge = |delivery: Delivery| {
                let (message, id, at) = (delivery.message.clone(), delivery.message_id.clone(), delivery.published_at);
                delivery.ack();
                Delivery::new(message, id, at, || {})
            };
            deliveries.into_iter().map(acknowledge).collect()
        };
        if topic == Topic::Requests {
            let forgotten = self.bug.map_or(&[][..], Bug::before_delivery);
            self.blockchain_step("requests", dice, async move |service| {
                plant(service.store.database(), forgotten).await;
                let deliveries = deliver();
                let line = format!("{} messages taken in", deliveries.len());
                service.receive(deliveries).await;
                line
            })
            .await
        } else {
            self.campaign_step("results", dice, async |service| {
                let deliveries = deliver();
                let line = format!("{} messages taken in", deliveries.len());
                service.receive(deliveries).await;
                line
            })
            .await
        }
    }

    async fn garbage(&mut self, dice: &mut Dice) {
        let topic = [Topic::Requests, Topic::Results][dice.place(2)];
        let data = match dice.below(3) {
            0 => "not JSON".to_owned(),
            1 => r#"{"event_type":"token.grant.requested","user_id":""}"#.to_owned(),
            _ => r#"{"event_type":"token.grant.cancelled"}"#.to_owned(),
        };
        let message = Message { data: data.into(), attributes: BTreeMap::new() };
        self.network.insert(topic, vec![message]).await;
        self.note(format!("garbage on {topic}"));
    }

    async fn foreign(&mut self, dice: &mut Dice) {
        self.foreigners += 1;
        let number = self.foreigners;
        let event = RequestEvent::Requested(GrantRequested {
            user_id: format!("foreigner-{number}").parse().expect("it is a user id"),
            campaign_id: CAMPAIGNS[dice.place(CAMPAIGNS.len())].parse().expect("it is a campaign id"),
            token_amount: (1 + dice.below(1000).cast_signed()).try_into().expect("it is an amount"),
            token_type: TokenType::Erc20,
            request_id: format!("foreign-{number}").parse().expect("it is a request id"),
            timestamp: self.clocks[0].now(),
            retry_count: 0,
            wallet_address: None,
            issuer: None,
            grant_index: None,
        });
        let data = serde_json::to_vec(&event).expect("it is a plain struct");
        let message = Message { data: data.into(), attributes: event.attributes(None) };
        let (request_id, foreign) = check::foreign(&event, message.clone());
        self.witness.foreign.insert(request_id, foreign);
        self.count.grants += 1;
        self.network.insert(Topic::Requests, vec![message]).await;
        self.note(format!("a foreign publisher asks for grant foreign-{number}"));
    }

    fn back_up(&mut self) -> Result<(), Stop> {
        if self.files.blockchain.exists() {
            self.files.blockchain.copy_to(&self.files.backup)?;
            self.note("the blockchain service's database is backed up");
        }
        Ok(())
    }

    async fn restore(&mut self) -> Result<(), Stop> {
        if self.files.backup.exists() {
            for process in 0..2 {
                self.bury_blockchain(process, "killed, for a restore").await?;
            }
            self.files.backup.copy_to(&self.files.blockchain)?;
            self.witness.restore();
            self.note("the blockchain service's database is the backup now");
        }
        Ok(())
    }

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
            End::Done(line) => self.note(format!("{name}: {line}")),
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
        let which = usize::from(dice.happens(self.hazards.second));
        if dice.happens(self.hazards.pause) {
            self.fuse.light(Some((Fate::Pause, dice.below(3))));
        }
        match self.blockchain[which].take() {
            None => self.start_blockchain(which).await,
            Some(Process::Paused(paused)) if dice.below(6) != 0 => {
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
        let end = self.fuse.step(step.as_mut()).await;
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
        let store = match self.blockchain[which].take() {
            None => return Ok(()),
            Some(Process::Running(service)) => service.store.clone(),
            Some(Process::Paused(paused)) => paused.store,
        };
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
        self.blockchain.iter().flatten().next().map(|process| match process {
            Process::Running(service) => service.store.database().clone(),
            Process::Paused(paused) => paused.store.database().clone(),
        })
    }

    /// Looks at both databases.
    pub(crate) async fn look(&mut self) -> Verdict {
        if let Some(service) = &self.campaign {
            self.witness.see_campaign(service.store.database(), &self.clients, &self.network).await?;
        }
        if let Some(database) = self.blockchain_database() {
            self.witness.see_blockchain(&database, &self.network, &self.chain).await?;
        }
        Ok(())
    }

    /// Ends the world.
    pub(crate) async fn end(&mut self) {
        if let Some(service) = self.campaign.take() {
            service.store.database().close().await;
        }
        for process in self.blockchain.iter_mut().filter_map(Option::take) {
            let store = match process {
                Process::Running(service) => service.store.clone(),
                Process::Paused(paused) => paused.store,
            };
            store.database().close().await;
        }
        self.count.points = self.fuse.reached();
        self.files.remove();
    }

    /// Everything is in order, now that nothing moves any more, and the auditor says so too.
    pub(crate) async fn check_at_rest(&mut self) -> Verdict {
        self.look().await?;
        let (Some(campaign), Some(Process::Running(blockchain))) = (&self.campaign, &self.blockchain[0]) else {
            return Err(violation(Rule::Stuck, "a service does not start"));
        };
        let ledger = (campaign.store.database(), campaign.store.issuer().number());
        let database = blockchain.store.database();
        let verdict = check::at_rest(&self.witness, ledger, database, &self.clients, &self.chain).await;
        let agrees = match self.bug {
            Some(Bug::PaidTwiceAndNotAudited) => true,
            _ => self.audit(blockchain).await?,
        };
        match verdict {
            // An old copy of the ledger does not know all that was paid, and the auditor rightly says so.
            Ok(()) if !agrees && !self.witness.restored => {
                Err(violation(Rule::Audited, "the auditor finds differences where there are none"))
            }
            Err(found) if found.rule == Rule::PaidOnce && agrees => {
                Err(violation(Rule::Audited, format!("the auditor does not notice that {}", found.what)))
            }
            verdict => verdict,
        }
    }

    /// Whether an audit from the first block on finds ledger and chain equal.
    async fn audit(&self, service: &Blockchain) -> Result<bool, Violation> {
        let chain: Arc<dyn Chain> = Arc::new(self.node.clone());
        let (deployment, clock) = (service.submitter.deployment, &self.clocks[1]);
        let auditor = Auditor { repair: false, ..auditor(&service.store, &chain, deployment, clock, self.settings) };
        let report = async {
            let next_block = loop {
                if let Reading::UpTo { next_block } = auditor.read_once().await? {
                    break next_block;
                }
            };
            let mut round = auditor.begin(next_block);
            while auditor.step(&mut round).await? {}
            Ok::<_, blockchain::audit::auditor::Error>(round.into_report())
        };
        Ok(report.await.map_err(|error| violation(Rule::Broken, format!("the audit fails: {error}")))?.equal)
    }
}

/// Changes a database as a service with a mistake would.
async fn plant(database: &shared::db::Database, statements: &[&'static str]) {
    if statements.is_empty() {
        return;
    }
    // A name of its own: nobody may die here.
    let Ok(mut tx) = database.begin("planted").await else { return };
    for statement in statements {
        if sqlx::query(*statement).execute(&mut *tx).await.is_err() {
            return;
        }
    }
    let _ = tx.commit().await;
}

/// An operator sends dead letters again, or discards one.
async fn redrive(letters: &DeadLetters, choice: u64) -> String {
    if choice.is_multiple_of(4) {
        let open = letters.list(Filter::default(), Page { limit: 1, before: None }).await.unwrap_or_default();
        let Some(letter) = open.first() else { return "no dead letters".to_owned() };
        return match letters.discard(letter.id).await {
            Ok(()) => "a dead letter is discarded".to_owned(),
            Err(error) => format!("failed: {error}"),
        };
    }
    match letters.redrive(&Selection::All(Filter::default())).await {
        Ok(redriven) => format!("{} dead letters sent again", redriven.ids.len()),
        Err(error) => format!("failed: {error}"),
    }
}
