//! One seed from start to end: a stack, load and faults at the same time, the wait for quiet, the audit.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use alloy::primitives::Address;
use anyhow::{Context as _, Result};
use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    audit::{Campaign, Claims, End, OnChain, Promised, Verdict},
    books::{Books, Ledger},
    fault::Fault,
    kind::Kind,
    load::{Load, Wanted},
    schedule::{Lane, Planned, Schedule},
    treasury::Treasury,
    world::{Notes, World},
};
use crate::{
    anvil::Anvil,
    chain::{Chain, Contracts, base_units},
    client::CampaignClient,
    emulator::Emulator,
    miner::Miner,
    paths::{RunDir, workspace_binary},
    ports,
    service::Which,
    stack::{Database, builder::deploy},
    wait::until_some,
};

/// Questions under way at once.
const CONCURRENT: usize = 16;

/// Grants that are asked for in one round.
const ROUND: usize = 400;

/// Time between two rounds, under load and after it.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Logs of seeds that took longer than this to recover are kept.
const SLOW_SECONDS: f64 = 20.0;

/// How long a stack may take to start.
const START_TIMEOUT: Duration = Duration::from_mins(2);

/// How long after the end of all grants a service may take to record what a restored database had forgotten.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the audit may ask a service for a grant.
const ASK_TIMEOUT: Duration = Duration::from_secs(20);

/// What all seeds of a run share.
#[derive(Debug)]
pub struct Venue {
    /// The broker, which faults restart. Each seed has a project of its own.
    pub emulator: &'static Emulator,
    /// The contracts in `chain_state`.
    pub contracts: Contracts,
    /// A chain with the contracts, which each seed begins with.
    pub chain_state: PathBuf,
    /// The programs of the services.
    pub campaign_program: &'static str,
    /// The same.
    pub blockchain_program: &'static str,
    /// Where seeds keep logs and databases.
    pub folder: PathBuf,
    /// Layers of protection that are taken away, to see that they are missed.
    pub without: Vec<String>,
    /// Requests a second.
    pub rate: u32,
    /// How long after the last fault grants may take until they count as stuck.
    pub patience: Duration,
}

impl Venue {
    /// Starts the broker and deploys the contracts, into `folder`.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn open(folder: PathBuf, rate: u32, patience: Duration) -> Result<Self> {
        let run_dir = RunDir::at(&folder)?;
        // Faults kill it, so it is never somebody else's. It lives as long as this process, and its watchdog ends it.
        let start = Emulator::start_own(run_dir.log("emulator"), ports::free()?, None);
        let chain_state = folder.join("chain.json");
        let contracts = async {
            let _ = std::fs::remove_file(&chain_state);
            let anvil = Anvil::start_from(run_dir.log("anvil"), ports::free()?, &chain_state).await?;
            let nowhere = Contracts { token: Address::ZERO, distributor: Address::ZERO, wallet_factory: Address::ZERO };
            let _miner = Miner::start(Chain::new(&anvil.url(), nowhere)?, Duration::from_millis(50));
            let contracts = deploy(workspace_binary("blockchain")?, &anvil.url(), &run_dir).await?;
            anvil.stop().await?;
            anyhow::Ok(contracts)
        };
        let (emulator, contracts) = tokio::try_join!(start, contracts)?;
        Ok(Self {
            emulator: Box::leak(Box::new(emulator)),
            contracts,
            chain_state,
            campaign_program: "campaign-failpoints",
            blockchain_program: "blockchain-failpoints",
            folder,
            without: Vec::new(),
            rate,
            patience,
        })
    }

    /// Runs one seed.
    ///
    /// # Errors
    /// When the stack does not start, cannot be healed, or cannot be audited: no verdict on the services.
    pub async fn run(&self, schedule: &Schedule, length: Duration, tell: impl Fn(Status)) -> Result<Outcome> {
        let began = Instant::now();
        let folder = self.folder.join(format!("seed-{}", schedule.seed));
        let _ = std::fs::remove_dir_all(&folder);
        let run_dir = RunDir::at(&folder)?;
        let world = timeout(START_TIMEOUT, World::start(self, schedule, run_dir));
        let world = world.await.context("the stack took too long to start")??;
        let load = Load { seed: schedule.seed, rate: self.rate, length, deadline: self.patience };
        let watched = Watched::new(load);
        let client = world.client().waiting(Duration::from_secs(3));
        watched.treasury.make_campaigns(&client).await?;
        let outcome = tokio::select! {
            outcome = watched.run(&world, schedule, load, self.patience) => outcome?,
            () = world.supervise() => unreachable!("a supervisor never ends"),
            () = world.operate() => unreachable!("nor does an operator"),
            () = watched.treasury.watch(&client) => unreachable!("there is always something to look at"),
            () = watched.tell(&tell) => unreachable!("nor does who tells"),
        };
        world.stop().await?;
        let outcome = Outcome { took_seconds: began.elapsed().as_secs_f64(), ..outcome };
        drop(world);
        let slow = outcome.recovery_seconds.is_none_or(|seconds| seconds > SLOW_SECONDS);
        if outcome.is_good() && !slow && std::env::var_os("TESTKIT_KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&folder);
        }
        Ok(outcome)
    }
}

/// Where a seed stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// Faults so far.
    pub faults: usize,
    /// Grants accepted so far.
    pub accepted: usize,
    /// Of these, known to be final.
    pub ended: usize,
}

/// What a seed has come to.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// `sqlite` or `postgres`.
    pub database: &'static str,
    /// Faults by kind: those that did happen.
    pub faults: BTreeMap<&'static str, usize>,
    /// Faults that were due and could not be done, such as a death at a point that was not reached.
    pub not_done: Vec<String>,
    /// What was to be done, and when.
    pub schedule: Vec<String>,
    /// Grants that clients were promised.
    pub accepted: usize,
    /// What became of them.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// The campaigns, as the service tells them.
    pub campaigns: Vec<Campaign>,
    /// How often the service has told what a campaign with a budget has promised.
    pub budget_looks: usize,
    /// Grants that clients did not want any more.
    pub unwanted: usize,
    /// Uploads of many requests.
    pub uploads: usize,
    /// How often the contract was given a grant that it had paid.
    pub skipped: usize,
    /// Attempts of clients that got no answer, or 503.
    pub retries: usize,
    /// From the last fault's healing, or the last request, to the last grant's end; none if there are grants without.
    pub recovery_seconds: Option<f64>,
    /// Differences that the product's own auditor has found, by ledger and kind.
    pub auditor: BTreeMap<String, usize>,
    /// Answers to clients that contradict each other, or refuse what cannot be refused.
    pub contradictions: Vec<String>,
    /// What services did that they should not, though no grant need have suffered.
    pub findings: Vec<String>,
    /// The fail points at which services died.
    pub points: BTreeSet<&'static str>,
    /// From start to end.
    pub took_seconds: f64,
}

impl Outcome {
    /// Whether nothing is lost, paid twice, wrong, stuck, above a budget or miscounted, no answer contradicts another, and the product's own auditor agrees.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let restored = self.faults.contains_key(Kind::RestoreDatabase.name());
        self.verdict.is_good()
            && self.contradictions.is_empty()
            && self.auditor.keys().all(|difference| is_expected(difference, restored))
    }
}

/// Whether this difference is as it should be: a database that was restored has forgotten payments.
fn is_expected(difference: &str, restored: bool) -> bool {
    restored && difference == "blockchain unknown_payment"
}

/// A seed under way.
#[derive(Debug)]
struct Watched {
    ledger: Ledger,
    treasury: Treasury,
    ended: AtomicUsize,
    injected: Mutex<Injected>,
}

/// What was done so far.
#[derive(Debug, Default)]
struct Injected {
    by_kind: BTreeMap<Kind, usize>,
    not_done: Vec<String>,
    healed: Option<Instant>,
}

impl Watched {
    fn new(load: Load) -> Self {
        let budgets = load.budgets();
        Self {
            ledger: Ledger::new(budgets.clone()),
            treasury: Treasury::new(budgets),
            ended: AtomicUsize::new(0),
            injected: Mutex::default(),
        }
    }

    async fn run(&self, world: &World, schedule: &Schedule, load: Load, patience: Duration) -> Result<Outcome> {
        let began = Instant::now();
        if let Some(clocks) = &schedule.clocks {
            self.note(clocks.kind(), 1);
        }
        let lanes = Lane::ALL.map(|lane| self.lane(world, schedule, lane, began));
        let client = world.client().waiting(Duration::from_secs(3));
        let requests = async {
            load.run(world.client(), &self.ledger).await;
            Ok(())
        };
        let everything = async { tokio::try_join!(try_join_all(lanes), requests) };
        let mut open = Open::default();
        tokio::select! {
            done = everything => done.map(drop)?,
            () = open.follow(self, &client) => unreachable!("there may always be more"),
        }

        let healed = self.injected.lock().unwrap_or_else(PoisonError::into_inner).healed;
        let restarted = world.notes().deaths.iter().map(|(_, restarted)| *restarted).max();
        let quiet_from = healed.into_iter().chain(restarted).fold(began + load.length, Instant::max);
        let _ = timeout(patience, open.until_none(self, &client)).await;
        let recovery_seconds = open.is_none().then(|| quiet_from.elapsed().as_secs_f64());
        let auditor = self.final_differences(world).await;
        self.audit(world, schedule, recovery_seconds, auditor).await
    }

    /// Carries out the faults of one lane, one after the other.
    async fn lane(&self, world: &World, schedule: &Schedule, lane: Lane, began: Instant) -> Result<()> {
        let planned = || schedule.faults.iter().filter(|planned| planned.lane == lane);
        for Planned { at, fault, .. } in planned() {
            sleep_until(began + *at).await;
            let times = world.carry_out(fault).await.with_context(|| format!("cannot carry out {fault}"))?;
            self.note(fault.kind(), times as usize);
            let mut injected = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
            match fault {
                // Noted when it comes true.
                Fault::KillAtFailPoint { .. } => {}
                _ if times == 0 => injected.not_done.push(fault.to_string()),
                _ => {}
            }
        }
        let which = match lane {
            Lane::Campaign => Which::Campaign,
            Lane::Blockchain => Which::Blockchain,
            _ => return Ok(()),
        };
        for Planned { fault, .. } in planned() {
            if let Fault::KillAtFailPoint { point, .. } = fault
                && world.is_armed(which, point)
            {
                self.injected.lock().unwrap_or_else(PoisonError::into_inner).not_done.push(fault.to_string());
            }
        }
        self.note(Kind::Kill, world.call_off(which).await? as usize);
        Ok(())
    }

    fn note(&self, kind: Kind, times: usize) {
        if times > 0 {
            let mut injected = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
            *injected.by_kind.entry(kind).or_default() += times;
            injected.healed = Some(Instant::now());
        }
    }

    fn has_done(&self, kind: Kind) -> bool {
        self.injected.lock().unwrap_or_else(PoisonError::into_inner).by_kind.contains_key(&kind)
    }

    async fn tell(&self, tell: &impl Fn(Status)) {
        loop {
            let faults = self.injected.lock().unwrap_or_else(PoisonError::into_inner).by_kind.values().sum();
            tell(Status { faults, accepted: self.ledger.accepted(), ended: self.ended.load(Ordering::Relaxed) });
            sleep(LOOK_EVERY).await;
        }
    }

    /// What the product's own auditor names in the end. A database that was restored may have forgotten transactions that
    /// were on their way, which are mined, read and recorded only after all grants have ended.
    async fn final_differences(&self, world: &World) -> BTreeMap<String, usize> {
        let restored = self.has_done(Kind::RestoreDatabase);
        let until = Instant::now() + REPAIR_TIMEOUT;
        loop {
            let differences = world.ask_auditor().await.unwrap_or_else(|error| {
                world.found(format!("{error:#}"));
                BTreeMap::from([("no answer".to_owned(), 1)])
            });
            if !restored || differences.keys().all(|kind| is_expected(kind, restored)) || Instant::now() > until {
                return differences;
            }
            sleep(FOLLOW_EVERY).await;
        }
    }

    async fn audit(
        &self,
        world: &World,
        schedule: &Schedule,
        recovery_seconds: Option<f64>,
        auditor: BTreeMap<String, usize>,
    ) -> Result<Outcome> {
        let Books { accepted, unwanted, unanswered, refused, contradictions, retries, uploads, .. } =
            self.ledger.books();
        let client = world.client();
        let (client, unwanted) = (&client, &unwanted);
        let recipient = async |wanted: &Wanted| match wanted.wallet {
            Some(wallet) => Ok(wallet),
            None => world.chain.wallet_of(&wanted.request.user_id).await,
        };
        let accepted = accepted.iter().map(|(request_id, wanted)| (request_id, wanted, None));
        let unanswered = unanswered.iter().map(|(asked, wanted)| (asked, wanted, Some(End::Unanswered)));
        let refused = refused.iter().map(|(asked, refused)| (asked, &refused.wanted, Some(End::Refused)));
        let promised: Vec<Promised> = stream::iter(accepted.chain(unanswered).chain(refused))
            .map(|(request_id, wanted, end)| async move {
                let end = match end {
                    Some(end) => end,
                    None => end_of(client, request_id).await?,
                };
                anyhow::Ok(Promised {
                    request_id: request_id.clone(),
                    campaign: wanted.request.campaign_id.clone(),
                    is_unwanted: unwanted.contains(request_id),
                    recipient: recipient(wanted).await?,
                    amount: base_units(wanted.amount),
                    end,
                })
            })
            .buffer_unordered(CONCURRENT)
            .try_collect()
            .await?;
        let accounts: BTreeSet<Address> = promised.iter().map(|promise| promise.recipient).collect();
        let balances = stream::iter(accounts)
            .map(|account| async move { anyhow::Ok((account, world.chain.balance_of(account).await?)) })
            .buffer_unordered(CONCURRENT)
            .try_collect()
            .await?;
        let chain =
            OnChain { payments: world.chain.payments().await?, balances, supply: world.chain.total_supply().await? };
        let campaigns = self.treasury.campaigns(client).await?;
        let claims = Claims { promised, campaigns, restored: self.has_done(Kind::RestoreDatabase) };
        let verdict = Verdict::of(&claims, &chain);

        let skipped = world.chain.skipped().await?;
        let Notes { findings, deaths, .. } = world.notes();
        self.note(Kind::KillAtFailPoint, deaths.len());
        let injected = self.injected.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Outcome {
            seed: schedule.seed,
            database: match schedule.database {
                Database::Sqlite => "sqlite",
                Database::Postgres => "postgres",
            },
            faults: injected.by_kind.iter().map(|(kind, times)| (kind.name(), *times)).collect(),
            not_done: injected.not_done.clone(),
            schedule: schedule.to_string().lines().map(|line| line.trim().to_owned()).collect(),
            accepted: self.ledger.accepted(),
            verdict,
            campaigns: claims.campaigns,
            budget_looks: self.treasury.looks(),
            unwanted: unwanted.len(),
            uploads,
            skipped,
            retries,
            recovery_seconds,
            auditor,
            contradictions,
            findings,
            points: deaths.into_iter().map(|(point, _)| point).collect(),
            took_seconds: 0.0,
        })
    }
}

/// What the service says of a grant, which it may take a while to say.
async fn end_of(client: &CampaignClient, request_id: &str) -> Result<End> {
    let what = format!("an answer about {request_id}");
    let grant = until_some(ASK_TIMEOUT, &what, || async { client.grant(request_id).await.ok() });
    Ok(End::of(grant.await?))
}

/// The grants that are not known to be final, those that were asked for longest ago first.
#[derive(Debug, Default)]
struct Open {
    waiting: VecDeque<String>,
    /// How many accepted grants were ever in here.
    known: usize,
}

impl Open {
    /// Asks for grants in turn, for ever.
    async fn follow(&mut self, watched: &Watched, client: &CampaignClient) {
        loop {
            self.look(watched, client).await;
            sleep(FOLLOW_EVERY).await;
        }
    }

    /// Asks until all are final.
    async fn until_none(&mut self, watched: &Watched, client: &CampaignClient) {
        loop {
            self.look(watched, client).await;
            if self.is_none() {
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn is_none(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Asks for some of them.
    async fn look(&mut self, watched: &Watched, client: &CampaignClient) {
        let accepted = watched.ledger.accepted_since(self.known);
        self.known += accepted.len();
        self.waiting.extend(accepted);
        let round: Vec<String> = self.waiting.iter().take(ROUND).cloned().collect();
        let asked: Vec<(String, bool)> = stream::iter(round)
            .map(|request_id| async move {
                let grant = client.grant(&request_id).await.ok().flatten();
                (request_id, grant.is_some_and(|grant| grant.is_final()))
            })
            .buffered(CONCURRENT)
            .collect()
            .await;
        // Only now, since whoever waits for this may have stopped waiting.
        self.waiting.drain(..asked.len());
        for (request_id, is_final) in asked {
            if is_final {
                watched.ended.fetch_add(1, Ordering::Relaxed);
            } else {
                self.waiting.push_back(request_id);
            }
        }
    }
}
