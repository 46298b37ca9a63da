//! One measured load: put on, waited for, and read out of what the services, the chain and the kernel tell.
//!
//! **Completed** is what anybody sees at the campaign service: its campaign's spent tokens are asked for all the while, and
//! the grant that is the k-th by `completed_at` was seen completed when the sum first reached k. So each grant is measured, at
//! the price of one small request every few milliseconds. **In a block** is when the bench first saw a block number as high
//! as the grant's. Both are seen late by up to the time between two looks, never early.

mod reading;
mod stages;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Result, ensure};
use serde::Serialize;
use testkit::Which;
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use self::{reading::Reading, stages::Stage};
use crate::{
    arrivals::{Phase, Schedule},
    load::{Epoch, Load, Pace, Sent},
    metrics::{Added, Metrics},
    processes::{Processes, Usages},
    records::Transaction,
    settings::Settings,
    spread::{Spread, float},
    template,
    watch::{Curve, Watch},
    world::World,
};

/// Time for connections to open before the first request is due.
const LEAD: Duration = Duration::from_millis(300);

/// How long an answer may take after the last request was due.
const ANSWER: Duration = Duration::from_secs(20);

/// Time between two looks at what is completed. A look costs the campaign service some 0.2 ms of processor time, counted
/// with that of its grants.
const COMPLETED_LOOK: Duration = Duration::from_millis(25);

/// Time between two looks at the newest block.
const BLOCK_LOOK: Duration = Duration::from_millis(10);

/// Time between two looks at memory.
const MEMORY_LOOK: Duration = Duration::from_secs(1);

/// Grants whose history is read, at most.
const HISTORIES: usize = 1000;

/// What is to be put on.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) phases: Vec<Phase>,
    /// Requests that are due earlier, in seconds, count in no latency and in no rate.
    pub(crate) warm_up: f64,
    /// Whether grants' histories are read too.
    pub(crate) stages: bool,
}

impl Plan {
    pub(crate) fn steady(rate: f64, warm_up: f64, seconds: f64) -> Self {
        Self { phases: vec![Phase::new(rate, warm_up + seconds)], warm_up, stages: true }
    }

    fn seconds(&self) -> f64 {
        self.phases.iter().map(|phase| phase.seconds).sum()
    }
}

/// What was measured. Times are in seconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    /// Requests a second, as they were meant to be, at first.
    pub(crate) rate_per_second: f64,
    /// Requests a second, as the schedule had them, over the whole load.
    pub(crate) offered_per_second: f64,
    pub(crate) requests: usize,
    pub(crate) accepted: usize,
    /// Requests that were not accepted, by status; 0 for those that were not answered.
    pub(crate) errors: BTreeMap<u16, usize>,
    /// Grants that were completed in the end.
    pub(crate) completed: usize,
    /// Grants that were accepted, and were not completed in time.
    pub(crate) lost: usize,
    /// Grants that were completed each second while the load was on.
    pub(crate) completed_per_second: f64,
    /// Whether completions kept up with requests, without an error.
    pub(crate) is_sustained: bool,
    /// From the time at which a request was due to its answer.
    pub(crate) to_answer: Option<Spread>,
    /// From there to a block.
    pub(crate) to_block: Option<Spread>,
    /// From there to `completed`, as seen from outside.
    pub(crate) to_completed: Option<Spread>,
    /// From there to `completed_at`, as the service tells.
    pub(crate) to_completed_at: Option<Spread>,
    pub(crate) stages: Vec<Stage>,
    /// CPU time for each completed grant, in milliseconds.
    pub(crate) cpu_ms_per_grant: BTreeMap<String, f64>,
    pub(crate) memory: Usages,
    pub(crate) chain: OnChain,
    /// What the services' own histograms say of this load.
    pub(crate) histograms: BTreeMap<String, BTreeMap<String, Added>>,
    pub(crate) generator: Generator,
    pub(crate) seconds: Vec<Second>,
    pub(crate) resident_mb: Vec<(f64, BTreeMap<String, f64>)>,
}

/// What the transactions were like.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct OnChain {
    pub(crate) transactions: usize,
    pub(crate) blocks: usize,
    pub(crate) grants_per_transaction: f64,
    pub(crate) largest_transaction: u64,
    pub(crate) gas_per_grant: f64,
}

/// What the load generator was like.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Generator {
    pub(crate) cpu_us_per_request: f64,
    /// The most requests that waited for a connection.
    pub(crate) longest_queue: usize,
}

/// One second of the load, by the time at which requests were due.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Second {
    pub(crate) at: usize,
    pub(crate) requests: usize,
    pub(crate) accepted: usize,
    /// Grants that were completed in this second.
    pub(crate) completed: u64,
    /// Of the requests of this second, from due to completed.
    pub(crate) to_completed_p50: Option<f64>,
    pub(crate) to_completed_p99: Option<f64>,
}

impl Measured {
    /// CPU time of both services for each grant, in milliseconds.
    pub(crate) fn cpu_ms_of_services(&self) -> f64 {
        ["campaign", "blockchain"].iter().filter_map(|name| self.cpu_ms_per_grant.get(*name)).sum()
    }

    /// Requests that were refused or not answered, and grants that were lost.
    pub(crate) fn error_count(&self) -> usize {
        self.errors.values().sum::<usize>() + self.lost
    }
}

impl World {
    /// Puts a load on, and measures it until its last grant is completed, or has been waited for long enough.
    pub(crate) async fn measure(&mut self, plan: &Plan) -> Result<Measured> {
        let targets = self.targets()?;
        let processes = self.processes().await?;
        let before = self.snapshot().await?;
        let epoch = Epoch::after(LEAD);
        let completed = Watch::completed(targets[0], COMPLETED_LOOK, epoch);
        let blocks = Watch::blocks(self.node()?, BLOCK_LOOK, epoch);
        sleep(LEAD / 2).await;
        let base = completed.last();
        ensure!(base >= self.granted, "{} grants of an earlier load are not completed", self.granted - base);

        let (stop, stopped) = oneshot::channel();
        let memory = tokio::spawn(watch_memory(processes, epoch, stopped));
        let first = self.next;
        let Settings { connections, wallets, .. } = self.settings;
        let load = Load { targets, connections, first, wallets, epoch, patience: ANSWER };
        let schedule = Schedule::new(plan.phases.clone(), self.settings.arrivals, self.settings.seed);
        let sent = load.run(Pace::Scheduled(schedule.into())).await?;
        self.next += sent.requests.len() as u64;
        self.granted += sent.accepted().count() as u64;
        let expected = base + sent.accepted().count() as u64;
        let deadline = Instant::now() + self.settings.patience();
        while completed.last() < expected && Instant::now() < deadline {
            if let Some(error) = self.stack.unexpected_end() {
                return Err(error);
            }
            sleep(COMPLETED_LOOK).await;
        }
        drop(stop);
        let resident_mb = memory.await?;
        let after = self.snapshot().await?;
        let (completed, blocks) = (completed.curve(), blocks.curve());
        let grants = self.read_grants(epoch, first, base, &sent, (&completed, &blocks)).await?;
        let stages = if plan.stages { self.stages(epoch, &grants, plan.warm_up).await? } else { Vec::new() };
        let chain = self.on_chain(&grants).await?;
        let reading =
            Reading { plan, sent: &sent, grants: &grants, completed: &completed, before: &before, after: &after };
        Ok(reading.measured(stages, chain, resident_mb))
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        let usages = self.processes().await?.usages();
        let (campaign, blockchain) = tokio::try_join!(self.metrics(Which::Campaign), self.metrics(Which::Blockchain))?;
        Ok(Snapshot { usages, campaign, blockchain })
    }

    /// The grants of a load, in the order in which they were completed; those that were not come last.
    async fn read_grants(
        &mut self,
        epoch: Epoch,
        first: u64,
        base: u64,
        sent: &Sent,
        (completed, blocks): (&Curve, &Curve),
    ) -> Result<Vec<Seen>> {
        let mut due = vec![None; sent.requests.len()];
        for request in sent.accepted() {
            due[usize::try_from(request.number - first)?] = Some(request.due);
        }
        let stride = sent.requests.len().div_ceil(HISTORIES).max(1) as u64;
        let mut newest = self.newest;
        let mut seen = self
            .records()
            .grants(self.newest, |grant| {
                newest = newest.max(Some(grant.index));
                let number = template::number_of(&grant.user_id)?.checked_sub(first)?;
                let due = *due.get(usize::try_from(number).ok()?)?;
                let completed_at = grant.completed_at.filter(|_| grant.state == "completed");
                Some(Seen {
                    request_id: number.is_multiple_of(stride).then_some(grant.request_id),
                    due: due?.as_secs_f64(),
                    completed_at: completed_at.map(|at| epoch.seconds_at(at)),
                    shown: None,
                    block_number: grant.block_number,
                    mined: grant.block_number.and_then(|number| blocks.reached(number)).map(|at| at.as_secs_f64()),
                })
            })
            .await?;
        self.newest = newest;
        seen.sort_by(|a, b| a.completed_at.unwrap_or(f64::MAX).total_cmp(&b.completed_at.unwrap_or(f64::MAX)));
        for (place, grant) in (base + 1..).zip(&mut seen).filter(|(_, grant)| grant.completed_at.is_some()) {
            grant.shown = completed.reached(place).map(|at| at.as_secs_f64());
        }
        Ok(seen)
    }

    async fn on_chain(&self, grants: &[Seen]) -> Result<OnChain> {
        let blocks: BTreeSet<_> = grants.iter().filter_map(|grant| grant.block_number).collect();
        let Some(from) = blocks.first() else { return Ok(OnChain::default()) };
        let transactions = self.records().transactions().await?;
        let transactions: Vec<_> =
            transactions.iter().filter(|transaction| transaction.block_number >= Some(*from)).collect();
        let sum = |of: fn(&Transaction) -> u64| transactions.iter().map(|transaction| of(transaction)).sum::<u64>();
        let paid = float(sum(|transaction| transaction.completed)).max(1.0);
        Ok(OnChain {
            transactions: transactions.len(),
            blocks: blocks.len(),
            grants_per_transaction: paid / float(transactions.len()).max(1.0),
            largest_transaction: transactions.iter().map(|transaction| transaction.grants).max().unwrap_or(0),
            gas_per_grant: float(sum(|transaction| transaction.gas_used)) / paid,
        })
    }
}

/// What kernel and services say at one moment.
#[derive(Debug)]
struct Snapshot {
    usages: Usages,
    campaign: Metrics,
    blockchain: Metrics,
}

/// A grant that was accepted. Times are in seconds since the epoch.
#[derive(Debug)]
struct Seen {
    /// Of those whose history may be read.
    request_id: Option<String>,
    due: f64,
    completed_at: Option<f64>,
    shown: Option<f64>,
    block_number: Option<u64>,
    mined: Option<f64>,
}

/// Resident megabytes by name, each second.
type Memory = Vec<(f64, BTreeMap<String, f64>)>;

/// Looks until it is stopped, and tells what it has seen.
async fn watch_memory(processes: Processes, epoch: Epoch, mut stopped: oneshot::Receiver<()>) -> Memory {
    let mut seen = Memory::new();
    while timeout(MEMORY_LOOK, &mut stopped).await.is_err() {
        let resident = processes.usages().into_iter().map(|(name, usage)| (name, usage.resident_mb)).collect();
        seen.push((epoch.elapsed().as_secs_f64(), resident));
    }
    seen
}
