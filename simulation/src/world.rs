//! One world: both services, the broker and the chain, moved one turn at a time.

mod nature;
mod players;
mod processes;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use blockchain::audit::auditor::Auditor;
use blockchain::audit::reader::Reading;
use blockchain::chain::Chain;
use campaign::store::WhichGrants;
use chrono::{DateTime, TimeDelta, Utc};
use shared::clock::Clock;
use shared::dead_letter::{DeadLetters, Filter, Page, Selection, State};
use shared::event::{GrantRequested, RequestEvent, Terms, TokenType};
use shared::pubsub::{Delivery, Message, Topic};
use shared::worker::{Progress, Worker};
use shared::{fail_point, random};

pub(crate) use self::processes::Process;
use crate::bug::Bug;
use crate::chain::{GENESIS, Node, Simulated};
use crate::check::{self, Rule, Verdict, Violation, Witness, violation};
use crate::client::{CAMPAIGNS, Clients, Heard};
use crate::dice::Dice;
use crate::fuse::Fuse;
use crate::network::Network;
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
    /// Answers that a campaign's budget does not allow a grant.
    pub refused: u64,
    /// Claims that players have sent.
    pub claims: u64,
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
    /// What the processes call themselves when they take a lane.
    owners: [String; 2],
    pub(crate) clients: Clients,
    pub(crate) witness: Witness,
    pub(crate) count: Count,
    pub(crate) log: Vec<String>,
    foreigners: u64,
}

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
        Ok(Progress::Worked(_) | Progress::Unhurried) => "worked".to_owned(),
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
            owners: [String::new(), String::new()],
            clients: Clients::new(plan.budgets, plan.claims),
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
            Kind::Operate => self.operate(&mut dice).await?,
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
            Kind::Mine => self.mine(&mut dice).await?,
            Kind::Wait
            | Kind::Reorg
            | Kind::DeepReorg
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

    /// Makes the campaigns that have budgets, before anything goes wrong.
    pub(crate) async fn make_campaigns(&mut self, seed: u64) -> Result<(), Stop> {
        random::seed(seed);
        let mut dice = Dice::new(seed);
        let hazards = std::mem::take(&mut self.hazards);
        self.campaign_step("start", &mut dice, async |_| String::new()).await?;
        let campaigns = self.clients.campaigns();
        let mut is_made = true;
        self.campaign_step("campaigns", &mut dice, async |service| {
            let answers = service.serve(campaigns).await;
            is_made = answers.iter().all(|answer| answer.status == StatusCode::CREATED);
            format!("{} made", answers.len())
        })
        .await?;
        self.hazards = hazards;
        if is_made { Ok(()) } else { Err(violation(Rule::Answer, "a campaign was not made").into()) }
    }

    async fn ask(&mut self, dice: &mut Dice) -> Result<(), Stop> {
        let burst = self.clients.ask(dice, self.burst);
        self.send(burst, dice).await
    }

    async fn operate(&mut self, dice: &mut Dice) -> Result<(), Stop> {
        let orders = self.clients.order(dice);
        self.order(orders, dice).await
    }

    /// Sends orders, one after the other.
    pub(crate) async fn order(&mut self, orders: Vec<Request<Body>>, dice: &mut Dice) -> Result<(), Stop> {
        self.campaign_step("orders", dice, async |service| {
            let mut told = Vec::with_capacity(orders.len());
            for order in orders {
                let what = format!("{} {}", order.method(), order.uri());
                told.extend(service.serve(vec![order]).await.iter().map(|answer| format!("{what}: {}", answer.status)));
            }
            told.join(", ")
        })
        .await
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
            let Heard { granted, refused } = self.clients.hear(&attempts, &answers)?;
            self.count.grants += granted;
            self.count.refused += refused;
            self.note(format!("clients: {granted} new grants of {count} requests, {refused} above a budget"));
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
        let request = GrantRequested {
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
            terms: Terms::default(),
        };
        let event = RequestEvent::Requested(request.clone());
        let data = serde_json::to_vec(&event).expect("it is a plain struct");
        let message = Message { data: data.into(), attributes: event.attributes(None) };
        let (request_id, foreign) = check::foreign(&request, message.clone());
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
            let store = process.store().clone();
            drop(process);
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
        let filter = Filter { state: Some(State::Open), ..Filter::default() };
        let open = letters.list(filter, Page { limit: 1, before: None }).await.unwrap_or_default();
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
