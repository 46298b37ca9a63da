//! What happens in one world, decided before it begins: settings, hazards, and a list of actions.
//!
//! Each action carries a number of its own that decides everything in it. So a plan can be cut short, or lose an action in
//! the middle, and the others still do what they did: that is how a story gets short.

use std::time::Duration;

use blockchain::finality::Finality;
use blockchain::transaction::Patience;
use chrono::TimeDelta;

use crate::chain::Weather;
use crate::client::CAMPAIGNS;
use crate::dice::Dice;
use crate::network::Trouble;
use crate::services::Settings;

/// What may happen in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Clients ask for grants: new ones, the same again, something else under the same key.
    Ask,
    /// The campaign service publishes its outbox.
    CampaignRelay,
    /// The blockchain service publishes its outbox.
    BlockchainRelay,
    /// Requests are delivered to the blockchain service.
    DeliverRequests,
    /// Results are delivered to the campaign service.
    DeliverResults,
    /// Queued grants become a transaction.
    Submit,
    /// Transactions are followed.
    Confirm,
    /// The lane's lease is taken or renewed.
    Lease,
    /// Missing nonces are looked for.
    Gaps,
    /// Overdue grants are published again.
    Republish,
    /// Ledger and chain are compared.
    Audit,
    /// An operator sends dead letters again.
    Redrive,
    /// An operator sets grants going again that need attention.
    SetGoing,
    /// Somebody orders something: that a grant be cancelled, other settings for a campaign, that nothing be paid for a
    /// moment; or sends many requests in one upload.
    Operate,
    /// Topics are put in place.
    Keep,
    /// A block is mined.
    Mine,
    /// Nothing but time passes.
    Wait,
    /// The campaign service is killed between two steps.
    KillCampaign,
    /// The blockchain service is killed between two steps.
    KillBlockchain,
    /// The newest blocks are replaced.
    Reorg,
    /// Blocks are replaced that were final.
    DeepReorg,
    /// The nodes forget transactions that wait.
    DropPool,
    /// Gas becomes dear, or cheap again.
    Fee,
    /// The signer runs out of ether, or gets some.
    Funds,
    /// The distributor or the token is paused, or goes on.
    Pause,
    /// The distributor gets a daily cap, or loses it.
    Cap,
    /// The broker forgets everything.
    Amnesia,
    /// A message is published again that was published before.
    Repeat,
    /// Something is published that is no message of ours.
    Garbage,
    /// A foreign publisher asks for a grant.
    Foreign,
    /// Somebody else sends a transaction from the signer's account.
    Intruder,
    /// The clock of a service jumps.
    Jump,
    /// The blockchain service's database is backed up.
    Backup,
    /// The blockchain service's database is replaced by the backup.
    Restore,
}

/// One turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// What happens.
    pub kind: Kind,
    /// Decides everything in it.
    pub salt: u64,
}

/// What goes wrong within steps, and how often in thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hazards {
    /// At the chain's endpoint.
    pub weather: Weather,
    /// On the way to the broker.
    pub trouble: Trouble,
    /// A step ends by the death of its service.
    pub death: u16,
    /// A step of the blockchain service stands still for many turns.
    pub pause: u16,
    /// A turn of the blockchain service is one of a second process on the same database.
    pub second: u16,
}

/// A world's course.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What decided it.
    pub seed: u64,
    /// How the services are configured.
    pub settings: Settings,
    /// What goes wrong within steps.
    pub hazards: Hazards,
    /// How many blocks must hold or follow a block that no reorg takes away any more.
    pub finality: u64,
    /// How far the clocks of campaign and blockchain service are off at the start, in seconds.
    pub skew_seconds: [i64; 2],
    /// The most requests that clients send at the same time.
    pub burst: u64,
    /// Whole tokens that each of the campaigns may pay; `None` for as many as you like.
    pub budgets: [Option<u64>; CAMPAIGNS.len()],
    /// Whether the grants of the last campaign are claimed.
    pub claims: bool,
    /// After how many turns the databases are looked at, besides after each crash.
    pub look_every: u64,
    /// What happens, in order.
    pub actions: Vec<Action>,
}

impl Plan {
    /// The course that this number decides. Each world has some of the hazards, not all: what is common to all worlds
    /// would hide what only shows in its absence.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let finality = dice.between(1, 6);
        let settings = settings(finality, &mut dice);
        // So many grants each in a transaction of their own would take all the time that there is.
        let burst = if settings.batch_grants < 50 { 12 } else { [80, 140, 240, 300][dice.place(4)] };
        let hazards = Hazards::new(&mut dice);
        let weights = weights(&mut dice);
        let skew = |dice: &mut Dice| if dice.happens(300) { dice.below(7200).cast_signed() - 3600 } else { 0 };
        let skew_seconds = [skew(&mut dice), skew(&mut dice)];
        let actions: Vec<_> = (0..dice.between(60, 220)).map(|_| action(&weights, &mut dice)).collect();
        let budgets = budgets(&actions, burst, &mut dice);
        // A claim that was final and is gone has to be made again by whoever made it, who has no reason to.
        let is_final = weights.iter().all(|(kind, _)| *kind != Kind::DeepReorg);
        let claims = dice.happens(400) && is_final;
        Self { seed, settings, hazards, finality, skew_seconds, burst, budgets, claims, look_every: 40, actions }
    }

    /// The same with fewer grants, for tests.
    #[must_use]
    pub fn small(seed: u64) -> Self {
        let plan = Self::new(seed);
        let burst = plan.burst.min(8);
        let budgets = plan.budgets.map(|budget| Some(budget? * burst / plan.burst));
        Self { burst, budgets, look_every: 20, ..plan }
    }
}

fn settings(finality: u64, dice: &mut Dice) -> Settings {
    Settings {
        finality: match dice.below(8) {
            0 => Finality::Safe,
            1 => Finality::Finalized,
            _ => Finality::Blocks(finality),
        },
        batch_grants: [1, 5, 50, 200, 500, 500][dice.place(6)],
        in_flight: [1, 2, 4, 8][dice.place(4)],
        patience: Patience {
            resend_after: seconds(dice.between(1, 10)),
            replace_after: seconds(dice.between(10, 60)),
            cancel_after: seconds(dice.between(60, 300)),
        },
        lease: seconds(dice.between(10, 60)),
        campaign_patience: campaign::domain::Patience {
            first_wait: Duration::from_secs(dice.between(5, 60)),
            limit: [1, 2, 4, 8, 12][dice.place(5)],
        },
        audit_every: Duration::from_secs(dice.between(5, 120)),
    }
}

/// Most budgets run out sooner or later, and some do not.
fn budgets(actions: &[Action], burst: u64, dice: &mut Dice) -> [Option<u64>; CAMPAIGNS.len()] {
    let bursts = actions.iter().filter(|action| action.kind == Kind::Ask).count() as u64;
    // Half of the most requests, four of five for something new, 500 tokens each: about what is wanted of a campaign.
    let wanted = bursts * (burst + 1) * 200 / CAMPAIGNS.len() as u64;
    std::array::from_fn(|_| dice.happens(600).then(|| wanted * dice.between(5, 120) / 100))
}

impl Hazards {
    fn new(dice: &mut Dice) -> Self {
        let rivals = dice.happens(250);
        let mut sometimes = |often: u16| if dice.happens(500) { often } else { 0 };
        let hazards = Self {
            weather: Weather {
                silent: sometimes(60),
                taken_silently: sometimes(200),
                stale: sometimes(100),
                no_receipt: sometimes(150),
                orphan: sometimes(300),
                truncated: sometimes(100),
                wrong_words: sometimes(150),
                mined_meanwhile: sometimes(60),
                reorg_meanwhile: sometimes(20),
            },
            trouble: Trouble {
                silent: sometimes(150),
                taken_silently: sometimes(150),
                partial: sometimes(150),
                lost_acknowledgement: sometimes(50),
            },
            death: sometimes(80),
            pause: sometimes(20),
            second: sometimes(300),
        };
        if rivals { hazards.with_rivals() } else { hazards }
    }

    /// Two processes that often stand still, each for longer than its lease.
    #[must_use]
    pub fn with_rivals(self) -> Self {
        Self { pause: 300, second: 500, ..self }
    }
}

/// What happens in every world, with how much weight.
const STEPS: [(Kind, u64); 16] = [
    (Kind::Ask, 14),
    (Kind::CampaignRelay, 14),
    (Kind::BlockchainRelay, 12),
    (Kind::DeliverRequests, 14),
    (Kind::DeliverResults, 12),
    (Kind::Submit, 18),
    (Kind::Confirm, 18),
    (Kind::Lease, 12),
    (Kind::Gaps, 5),
    (Kind::Republish, 5),
    (Kind::Audit, 6),
    (Kind::Redrive, 3),
    (Kind::SetGoing, 1),
    (Kind::Keep, 2),
    (Kind::Mine, 20),
    (Kind::Wait, 5),
];

/// What happens in every other world.
const FAULTS: [(Kind, u64); 17] = [
    (Kind::Operate, 3),
    (Kind::KillCampaign, 2),
    (Kind::KillBlockchain, 2),
    (Kind::Reorg, 5),
    (Kind::DropPool, 3),
    (Kind::Fee, 3),
    (Kind::Funds, 2),
    (Kind::Pause, 2),
    (Kind::Cap, 2),
    (Kind::Amnesia, 1),
    (Kind::Repeat, 6),
    (Kind::Garbage, 2),
    (Kind::Foreign, 3),
    (Kind::Intruder, 1),
    (Kind::Jump, 3),
    (Kind::Backup, 2),
    (Kind::Restore, 2),
];

fn weights(dice: &mut Dice) -> Vec<(Kind, u64)> {
    let mut weights = STEPS.to_vec();
    weights.extend(FAULTS.into_iter().filter(|_| dice.happens(500)));
    if dice.happens(100) {
        // A final payment that is gone can be made again, unless its nonce or its campaign's cap is used up meanwhile: then
        // it stays completed and unpaid, which is for the auditor to say.
        weights.retain(|(kind, _)| !matches!(kind, Kind::Intruder | Kind::Cap));
        weights.push((Kind::DeepReorg, 1));
    }
    weights
}

fn action(weights: &[(Kind, u64)], dice: &mut Dice) -> Action {
    let mut left = dice.below(weights.iter().map(|(_, weight)| weight).sum());
    let mut kind = Kind::Wait;
    for (candidate, weight) in weights {
        if left < *weight {
            kind = *candidate;
            break;
        }
        left -= weight;
    }
    Action { kind, salt: dice.number() }
}

fn seconds(seconds: u64) -> TimeDelta {
    TimeDelta::seconds(seconds.cast_signed())
}
