//! What is done to one stack and when: everything follows from the seed, before anything begins.

use std::{fmt, time::Duration};

use blockchain::finality::Finality;
use rand::{
    RngExt as _, SeedableRng as _,
    rngs::Xoshiro256PlusPlus,
    seq::{IndexedRandom as _, SliceRandom as _},
};

use super::{
    fault::{Deleted, Fault},
    kind::{Kind, Selection},
};
use crate::{
    anvil::EPOCH_SLOTS,
    rpc_proxy::{Liar, Lie},
    service::Which,
    stack::Database,
};

/// The steps that every grant goes through, or that are taken all the time: services die at them when it is due. At the
/// points of all other steps they die when they come there.
const ORDINARY_STEPS: [&str; 12] = [
    "accept",
    "apply",
    "assign",
    "audit_read",
    "inbox",
    "lease",
    "mark_sent",
    "mined",
    "receive",
    "relay",
    "sender",
    "settle",
];

fn is_ordinary(point: &str) -> bool {
    point.split(':').next().is_some_and(|step| ORDINARY_STEPS.contains(&step))
}

/// The least deep reorg that could take a final payment away. Reorgs are less deep.
fn depth(finality: Finality) -> u64 {
    match finality {
        Finality::Blocks(blocks) => blocks,
        Finality::Safe => EPOCH_SLOTS,
        Finality::Finalized => 2 * EPOCH_SLOTS,
    }
}

/// What a seed is made into a schedule with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The kinds of faults.
    pub selection: Selection,
    /// How long load and faults last.
    pub length: Duration,
    /// The database of all seeds; without one, even seeds are on `SQLite` and odd ones on `PostgreSQL`.
    pub database: Option<Database>,
    /// The fail points of the campaign service.
    pub campaign_points: &'static [&'static str],
    /// The fail points of the blockchain service.
    pub blockchain_points: &'static [&'static str],
}

impl Plan {
    fn points(&self, which: Which) -> &'static [&'static str] {
        match which {
            Which::Campaign => self.campaign_points,
            Which::Blockchain => self.blockchain_points,
        }
    }
}

/// Faults of one lane happen one after the other; lanes go on at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The campaign service's process.
    Campaign,
    /// The blockchain service's process.
    Blockchain,
    /// The broker.
    Bus,
    /// The chain.
    Chain,
    /// The answers of the node.
    Rpc,
    /// The databases.
    Database,
    /// What people order.
    Operators,
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Campaign, Self::Blockchain, Self::Bus, Self::Chain, Self::Rpc, Self::Database, Self::Operators];

    /// Milliseconds between two faults. Processes get some time to do something that can be disturbed.
    fn gap(self) -> std::ops::Range<u64> {
        match self {
            Self::Campaign | Self::Blockchain => 500..3_500,
            Self::Bus | Self::Chain | Self::Rpc | Self::Database => 200..2_000,
            // Nothing is granted meanwhile.
            Self::Operators => 3_000..8_000,
        }
    }

    /// Whether faults of this kind happen in it.
    fn has(self, kind: Kind) -> bool {
        match kind {
            Kind::KillAtFailPoint | Kind::Kill | Kind::Freeze | Kind::Terminate => {
                matches!(self, Self::Campaign | Self::Blockchain)
            }
            Kind::KillBoth | Kind::TwinProcess => self == Self::Blockchain,
            Kind::RestartEmulator | Kind::RepeatMessages | Kind::HostileMessages | Kind::DeleteTopics => {
                self == Self::Bus
            }
            Kind::RestartChain | Kind::Reorg | Kind::StopBlocks | Kind::BaseFeeSpike | Kind::DropMempool => {
                self == Self::Chain
            }
            Kind::RpcTimeout
            | Kind::RpcReset
            | Kind::RpcRateLimit
            | Kind::RpcServerError
            | Kind::RpcTruncated
            | Kind::RpcOldBlock
            | Kind::RpcOldNonce
            | Kind::RpcNoReceipt
            | Kind::RpcAlreadyKnown
            | Kind::RpcNonceTooLow
            | Kind::RpcUnderpriced => self == Self::Rpc,
            Kind::CutCommit
            | Kind::EndSessions
            | Kind::RestartPostgres
            | Kind::LockTables
            | Kind::FillDisk
            | Kind::RestoreDatabase => self == Self::Database,
            Kind::KillSwitch => self == Self::Operators,
            // From the start to the end of a seed.
            Kind::ClocksApart => false,
        }
    }
}

/// A fault and when it is due, counted from the start of the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When.
    pub at: Duration,
    /// After which others.
    pub lane: Lane,
    /// What.
    pub fault: Fault,
}

/// Everything that is done to one stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What it follows from.
    pub seed: u64,
    /// Where the services keep their data.
    pub database: Database,
    /// When a payment is final.
    pub finality: Finality,
    /// The fault that lasts from start to end, if there is one: [`Fault::ClocksApart`].
    pub clocks: Option<Fault>,
    /// Points at which a service dies once, whenever it comes there.
    pub ambushes: Vec<(Which, &'static str)>,
    /// The others, by time.
    pub faults: Vec<Planned>,
}

impl Schedule {
    /// The schedule of a seed.
    #[must_use]
    pub fn of(seed: u64, plan: &Plan) -> Self {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let database = plan.database.unwrap_or(match seed % 2 {
            0 => Database::Sqlite,
            _ => Database::Postgres,
        });
        let possible: Vec<Kind> = plan.selection.kinds().filter(|kind| kind.exists_on(database)).collect();

        let finality =
            pick([Finality::Blocks(6), Finality::Blocks(6), Finality::Safe, Finality::Finalized], &mut random);

        let only_clocks = possible == [Kind::ClocksApart];
        let apart = possible.contains(&Kind::ClocksApart) && (random.random_ratio(1, 3) || only_clocks);
        let clocks = apart.then(|| draw(Kind::ClocksApart, Which::Campaign, finality, &mut random));

        let mut ambushes = Vec::new();
        if possible.contains(&Kind::KillAtFailPoint) {
            for which in [Which::Campaign, Which::Blockchain] {
                let points = plan.points(which).iter().filter(|point| !is_ordinary(point));
                ambushes.extend(points.filter(|_| random.random()).map(|point| (which, *point)));
            }
        }

        let length = u64::try_from(plan.length.as_millis()).unwrap_or(u64::MAX);
        // Where everything fails all the time, little happens that could be disturbed: every other seed leaves some alone.
        let mut lanes: Vec<Lane> =
            Lane::ALL.into_iter().filter(|lane| possible.iter().any(|kind| lane.has(*kind))).collect();
        if random.random() {
            lanes.shuffle(&mut random);
            lanes.truncate(random.random_range(2..=4));
        }
        let mut faults = Vec::new();
        for lane in lanes {
            let which = if lane == Lane::Campaign { Which::Campaign } else { Which::Blockchain };
            let points = plan.points(which).iter().filter(|point| is_ordinary(point)).copied().collect::<Vec<_>>();
            let kinds: Vec<Kind> = possible
                .iter()
                .copied()
                .filter(|kind| lane.has(*kind) && (*kind != Kind::KillAtFailPoint || !points.is_empty()))
                .collect();
            // Seeds that follow one another go on in the list, so that a campaign comes to all points.
            let mut point = usize::try_from(seed % 1_000_003).unwrap_or_default() * 3;
            let mut at = random.random_range(300..2_000);
            while at < length {
                let Ok(kind) = kinds.choose_weighted(&mut random, |kind| kind.weight()) else { break };
                let fault = if *kind == Kind::KillAtFailPoint {
                    point += 1;
                    let after = pick([0, 0, 0, 1, 2, 5, 12], &mut random);
                    Fault::KillAtFailPoint { service: which, point: points[point % points.len()], after }
                } else {
                    draw(*kind, which, finality, &mut random)
                };
                let end = at + fault.expected();
                // What would last longer than the load, and be all that the seed waits for, is begun earlier or not.
                if end > length && at > 2_000 {
                    at += 500;
                    continue;
                }
                faults.push(Planned { at: Duration::from_millis(at), lane, fault });
                at = end + random.random_range(lane.gap());
            }
        }
        faults.sort_by_key(|planned| (planned.at, planned.lane));
        Self { seed, database, finality, clocks, ambushes, faults }
    }
}

fn pick<T: Copy, const N: usize>(list: [T; N], random: &mut Xoshiro256PlusPlus) -> T {
    list[random.random_range(0..N)]
}

/// Parameters for a fault of this kind.
fn draw(kind: Kind, lane: Which, finality: Finality, random: &mut Xoshiro256PlusPlus) -> Fault {
    let either = if random.random() { Which::Campaign } else { Which::Blockchain };
    let delivered = random.random();
    let times = random.random_range(1..=8);
    let liar = if random.random() { Liar::One } else { Liar::All };
    let rpc = |lie, times| Fault::Rpc { lie, times, milliseconds: 3_000, liar };
    match kind {
        Kind::KillAtFailPoint => unreachable!("fail points have names, which the caller knows"),
        Kind::Kill => Fault::Kill { service: lane, down: random.random_range(0..1_500) },
        Kind::KillBoth => Fault::KillBoth { down: random.random_range(0..1_500) },
        Kind::Freeze => Fault::Freeze { service: lane, milliseconds: random.random_range(6_000..11_500) },
        Kind::Terminate => Fault::Terminate { service: lane },
        Kind::TwinProcess => {
            Fault::TwinProcess { milliseconds: random.random_range(3_000..8_000), killed: random.random() }
        }
        Kind::RestartEmulator => Fault::RestartEmulator { down: random.random_range(0..1_000) },
        Kind::RepeatMessages => {
            Fault::RepeatMessages { messages: random.random_range(2..20), hours_late: random.random_range(1..48) }
        }
        Kind::HostileMessages => {
            Fault::HostileMessages { messages: random.random_range(2..12), salt: random.random_range(0..1_000_000) }
        }
        Kind::DeleteTopics => {
            let all = [
                Deleted::RequestsTopic,
                Deleted::ResultsTopic,
                Deleted::RequestsSubscription,
                Deleted::ResultsSubscription,
            ];
            Fault::DeleteTopics { what: pick(all, random) }
        }
        Kind::RestartChain => Fault::RestartChain { down: random.random_range(0..1_500) },
        Kind::Reorg => Fault::Reorg { depth: random.random_range(1..depth(finality)) },
        Kind::StopBlocks => {
            Fault::StopBlocks { milliseconds: random.random_range(1_000..5_000), rush: random.random_range(2..20) }
        }
        Kind::BaseFeeSpike => Fault::BaseFeeSpike {
            // Some below and some above the ceiling of 500.
            gwei: pick([3, 10, 60, 400, 900], random),
            milliseconds: random.random_range(1_000..5_000),
        },
        Kind::DropMempool => Fault::DropMempool,
        Kind::RpcTimeout => {
            // The last is longer than the service waits for an answer.
            let milliseconds = pick([500, 1_500, 3_000, 11_000], random);
            let lie = Lie::Withheld { milliseconds };
            Fault::Rpc { lie, times: times.min(2), milliseconds: milliseconds.max(3_000), liar }
        }
        Kind::RpcReset => rpc(Lie::Reset { delivered }, times),
        Kind::RpcRateLimit => rpc(Lie::RateLimited, times * 2),
        Kind::RpcServerError => {
            let status = pick([500, 502, 503, 504], random);
            rpc(Lie::ServerError { status }, times * 2)
        }
        Kind::RpcTruncated => rpc(Lie::Truncated { promised: delivered }, times),
        Kind::RpcOldBlock => rpc(Lie::OldBlock { behind: random.random_range(1..20) }, times * 2),
        Kind::RpcOldNonce => rpc(Lie::OldNonce { behind: random.random_range(1..10) }, times),
        Kind::RpcNoReceipt => rpc(Lie::NoReceipt, times * 2),
        Kind::RpcAlreadyKnown => rpc(Lie::AlreadyKnown { delivered }, times.min(4)),
        Kind::RpcNonceTooLow => rpc(Lie::NonceTooLow { delivered }, times.min(4)),
        Kind::RpcUnderpriced => rpc(Lie::Underpriced { delivered }, times.min(4)),
        Kind::CutCommit => Fault::CutCommit { service: either, durable: random.random(), times, milliseconds: 1_500 },
        Kind::EndSessions => Fault::EndSessions { service: either },
        Kind::RestartPostgres => Fault::RestartPostgres { down: random.random_range(0..1_500) },
        Kind::LockTables => {
            // The last is longer than the services wait for a lock: 5 s on SQLite, 10 s on PostgreSQL.
            let milliseconds = pick([1_000, 2_500, 11_000], random);
            Fault::LockTables { service: either, milliseconds }
        }
        Kind::FillDisk => Fault::FillDisk { service: either, milliseconds: random.random_range(1_000..4_000) },
        Kind::RestoreDatabase => Fault::RestoreDatabase { age: random.random_range(1_000..5_000) },
        Kind::KillSwitch => Fault::KillSwitch { milliseconds: random.random_range(300..1_500) },
        Kind::ClocksApart => Fault::ClocksApart { service: either, seconds: if delivered { 3_600 } else { -3_600 } },
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} on {:?}, final: {}", self.seed, self.database, self.finality)?;
        if let Some(clocks) = &self.clocks {
            write!(f, "\n   throughout  {clocks}")?;
        }
        for (service, point) in &self.ambushes {
            write!(f, "\n     whenever  {} {service} at {point}", Kind::KillAtFailPoint)?;
        }
        for Planned { at, lane, fault } in &self.faults {
            write!(f, "\n  {:>7.3} s {:<11} {fault}", at.as_secs_f64(), format!("{lane:?}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plan(selection: Selection) -> Plan {
        Plan {
            selection,
            length: Duration::from_secs(12),
            database: None,
            campaign_points: &["accept:commit", "accept:committed", "republish:commit"],
            blockchain_points: &["settle:commit", "settle:committed", "replace:commit", "replace:committed"],
        }
    }

    #[test]
    fn a_seed_always_has_the_same_schedule() {
        let plan = plan(Selection::all());
        for seed in 0..50 {
            assert_eq!(Schedule::of(seed, &plan), Schedule::of(seed, &plan));
        }
        assert_ne!(Schedule::of(2, &plan).faults, Schedule::of(4, &plan).faults);
    }

    #[test]
    fn databases_alternate_unless_told() {
        let both = plan(Selection::all());
        assert_eq!([1, 2, 3].map(|seed| Schedule::of(seed, &both).database as u8), [1, 0, 1]);
        let one = Plan { database: Some(Database::Sqlite), ..both };
        assert_eq!([1, 2, 3].map(|seed| Schedule::of(seed, &one).database as u8), [0, 0, 0]);
    }

    #[test]
    fn a_few_seeds_have_faults_of_every_kind_at_every_fail_point() {
        let plan = plan(Selection::all());
        let schedules: Vec<Schedule> = (0..40).map(|seed| Schedule::of(seed, &plan)).collect();
        let faults = || schedules.iter().flat_map(|schedule| schedule.faults.iter().map(|planned| &planned.fault));
        let mut kinds: BTreeSet<Kind> = faults().map(Fault::kind).collect();
        kinds.extend(schedules.iter().filter_map(|schedule| Some(schedule.clocks.as_ref()?.kind())));
        assert_eq!(kinds, Kind::ALL.iter().copied().collect());
        let due = faults()
            .filter_map(|fault| if let Fault::KillAtFailPoint { point, .. } = fault { Some(*point) } else { None });
        let due: BTreeSet<&str> = due.collect();
        assert_eq!(due.len(), 4);
        let whenever: BTreeSet<&str> =
            schedules.iter().flat_map(|schedule| schedule.ambushes.iter().map(|(_, point)| *point)).collect();
        assert_eq!(whenever.len(), 3);
    }

    #[test]
    fn half_of_the_seeds_have_faults_everywhere_and_the_others_somewhere() {
        let lanes = |seed| {
            let schedule = Schedule::of(seed, &plan(Selection::all()));
            schedule.faults.iter().map(|planned| planned.lane).collect::<BTreeSet<Lane>>().len()
        };
        let everywhere = (0..100).filter(|seed| lanes(*seed) == Lane::ALL.len()).count();
        assert!((30..70).contains(&everywhere), "{everywhere}");
        assert!((0..100).all(|seed| lanes(seed) >= 2));
    }

    #[test]
    fn a_kind_that_is_selected_alone_is_alone() {
        for kind in Kind::ALL {
            for seed in 0..4 {
                let schedule = Schedule::of(seed, &plan(Selection::only(*kind)));
                assert!(schedule.faults.iter().all(|planned| planned.fault.kind() == *kind), "{kind}");
                let faults = schedule.faults.len() + usize::from(schedule.clocks.is_some());
                assert_eq!(faults > 0, kind.exists_on(schedule.database), "{kind} with seed {seed}");
            }
        }
    }

    #[test]
    fn a_schedule_has_faults_of_its_database_alone() {
        for seed in 0..20 {
            let schedule = Schedule::of(seed, &plan(Selection::all()));
            assert!(schedule.faults.iter().all(|planned| planned.fault.kind().exists_on(schedule.database)));
        }
    }

    #[test]
    fn faults_of_a_lane_do_not_overlap_and_reorgs_stay_below_finality() {
        for seed in 0..50 {
            let schedule = Schedule::of(seed, &plan(Selection::all()));
            for lane in Lane::ALL {
                let mut free = Duration::ZERO;
                for planned in schedule.faults.iter().filter(|planned| planned.lane == lane) {
                    assert!(planned.at >= free);
                    free = planned.at + Duration::from_millis(planned.fault.expected());
                    if let Fault::Reorg { depth: reorged } = planned.fault {
                        assert!((1..depth(schedule.finality)).contains(&reorged));
                    }
                }
            }
        }
    }
}
