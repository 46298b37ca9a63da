//! A ledger of any length with everything in it that can happen, and damage to what follows from it.
//!
//! The campaign service's own code writes every entry, in batches as in service: it accepts, publishes over a broker in
//! memory, records what the blockchain service would report, and does what operators do. Only time is made up: a minute
//! passes in each round.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy::primitives::keccak256;
use anyhow::{Result, bail};
use campaign::{
    domain::{
        Grant, Patience,
        admission::{Arrival, Decision},
        campaign::{CampaignState, Spec},
    },
    store::{Policy, Report, Store, WhichGrants},
};
use chrono::TimeDelta;
use shared::{
    clock::{Clock, from_micros},
    event::{
        ClaimRootPublished, GrantClaimable, GrantCompleted, GrantFailed, GrantsConfirmed, GrantsReverted,
        GrantsStarted, GrantsSubmitted, PaymentMode, ResultEvent,
    },
    id::{CampaignId, GrantId, RequestId},
    ledger::Cause,
    outbox::Relay,
    pubsub::{Bus as _, Local},
    telemetry::TraceParent,
    worker::{Progress, Worker as _},
};
use sqlx::Row as _;

/// Grants that are accepted in a round; some 3,000 events follow from them.
const GRANTS: usize = 500;

/// How many of them come again under another key.
const REPEATED: usize = 20;

/// Campaigns that they belong to.
const CAMPAIGNS: usize = 8;

/// How long a round takes; also the time until a request without a result is published again.
const ROUND: Duration = Duration::from_mins(1);

/// Which of them has its grants claimed.
const CLAIMED: usize = 7;

const POLICY: Policy = Policy { republish_after: ROUND, auto_create: false };

const PATIENCE: Patience = Patience { first_wait: ROUND, limit: 1 };

/// Writes entries until there are at least so many; tells how many there are after each round. Returns how many there
/// are of each kind.
///
/// # Errors
/// When the database refuses, or the store decides otherwise than it should.
pub async fn fill(store: &Store, events: u64, mut progress: impl FnMut(u64)) -> Result<BTreeMap<String, u64>> {
    let clock = Clock::manual(from_micros(1_800_000_000_000_000));
    let bus = Local::new(clock.clone());
    let relay = Relay::new(store.database().clone(), Arc::new(bus.clone()), clock.clone()).telling(store.clone());
    let filler = Filler { store, clock, bus, relay };
    for number in 0.. {
        filler.round(number).await?;
        let written = count(store, "select coalesce(max(sequence), 0) as many from event").await?;
        progress(written);
        if written >= events {
            break;
        }
    }
    kinds(store).await
}

/// How many entries there are of each kind.
async fn kinds(store: &Store) -> Result<BTreeMap<String, u64>> {
    let rows = sqlx::query("select kind, count(*) as many from event group by kind")
        .fetch_all(store.database().reader())
        .await?;
    rows.iter().map(|row| Ok((row.try_get("kind")?, row.try_get::<i64, _>("many")?.cast_unsigned()))).collect()
}

async fn count(store: &Store, query: &'static str) -> Result<u64> {
    let row = sqlx::query(query).fetch_one(store.database().reader()).await?;
    Ok(row.try_get::<i64, _>("many")?.cast_unsigned())
}

struct Filler<'a> {
    store: &'a Store,
    clock: Clock,
    bus: Local,
    relay: Relay<Store>,
}

impl Filler<'_> {
    async fn round(&self, number: usize) -> Result<()> {
        if number.is_multiple_of(5) {
            self.campaigns(number).await?;
        }
        let grants = self.accept(number).await?;
        self.publish().await?;
        let (claimed, grants): (Vec<_>, Vec<_>) =
            grants.into_iter().partition(|grant| grant.terms.mode == PaymentMode::Claim);
        self.claim(&claimed, number).await?;
        // Here and below a few are left behind as they are, so that there are some in each state.
        let (_, started) = grants.split_at(4);
        self.report(&[self.started(started)]).await?;

        let (cancelled, rest) = started.split_at(3);
        for grant in cancelled {
            let reason = Some("a mistake".to_owned());
            self.store.cancel(&grant.request_id, reason, &by_operator()?, self.clock.now()).await?;
        }
        self.publish().await?;
        let (expired, rest) = rest.split_at(5);
        let ends = cancelled.iter().map(|grant| self.failed(grant, "cancelled"));
        let ends: Vec<_> = ends.chain(expired.iter().map(|grant| self.failed(grant, "expired"))).collect();
        self.report(&ends).await?;

        let (_, submitted) = rest.split_at(2);
        for (half, grants) in submitted.chunks(submitted.len().div_ceil(2)).enumerate() {
            self.mine(grants, Transaction { round: number, half, attempt: 0 }).await?;
        }
        self.late(number).await
    }

    /// Makes the campaigns, or gives them other settings; the kill switch is tried out.
    async fn campaigns(&self, number: usize) -> Result<()> {
        for at in 0..CAMPAIGNS {
            let campaign = campaign(at)?;
            let spec = Spec {
                name: format!("Campaign {at}, season {number}"),
                budget: Some(1_000_000_000_000),
                // The first one pays a user once, the others as often as they are asked.
                max_grants_per_user: (at == 0).then_some(1),
                mode: if at == CLAIMED { PaymentMode::Claim } else { PaymentMode::Mint },
                eligibility: "block_list".parse().map_err(anyhow::Error::msg)?,
                listed_users: (0..10).map(|user| format!("banned-{at}-{user}").parse()).collect::<Result<_, _>>()?,
                state: CampaignState::Active,
                ..Spec::of_first_use(&campaign)
            };
            let decide = |_: Option<&_>| Ok::<_, std::convert::Infallible>(spec);
            let Ok(_) = self.store.change_campaign(&campaign, by_operator()?, None, self.clock.now(), decide).await?;
        }
        for engaged in [true, false] {
            self.store.switch(engaged, by_operator()?, Some("a drill".to_owned()), self.clock.now()).await?;
        }
        Ok(())
    }

    async fn accept(&self, number: usize) -> Result<Vec<Grant>> {
        let now = self.clock.now();
        let mut arrivals = Vec::with_capacity(GRANTS);
        for at in 0..GRANTS {
            let (place, first) = (number * GRANTS + at, at % CAMPAIGNS == 0);
            let user = if first { format!("player-{place}") } else { format!("player-{}", place % 20_000) };
            arrivals.push(Arrival {
                user_id: user.parse()?,
                campaign_id: campaign(at % CAMPAIGNS)?,
                wallet_address: at.is_multiple_of(3).then(|| format!("0x{:040x}", place + 1).parse()).transpose()?,
                token_amount: Some(i64::try_from(at % 50 + 1)?.try_into()?),
                expires_at: (at.is_multiple_of(10) && at % CAMPAIGNS != CLAIMED).then(|| now + TimeDelta::days(1)),
                key: (!at.is_multiple_of(5)).then(|| format!("order-{place}").parse()).transpose()?,
                trace: TraceParent::new(),
            });
        }
        let mut grants = Vec::with_capacity(GRANTS);
        for decision in self.store.accept(&arrivals, now, POLICY).await? {
            let Decision::New(grant) = decision else { bail!("not a new grant: {decision:?}") };
            grants.push(grant);
        }
        // Those of the first campaign come again, under another name.
        let repeated = arrivals.into_iter().step_by(CAMPAIGNS).take(REPEATED);
        let again = |arrival: Arrival| -> Result<Arrival> {
            let key = format!("again-{}", arrival.user_id).parse()?;
            Ok(Arrival { key: Some(key), ..arrival })
        };
        let repeated = repeated.map(again).collect::<Result<Vec<_>>>()?;
        self.store.accept(&repeated, now, POLICY).await?;
        Ok(grants)
    }

    /// Publishes what waits. Nobody receives it: what comes of it is made up here.
    async fn publish(&self) -> Result<()> {
        self.bus.forget();
        self.bus.ensure(true).await?;
        while self.relay.run_once().await? != Progress::Idle {}
        Ok(())
    }

    /// Lets a transaction with these grants be sent and mined, now and then another after a reorg; most are paid.
    async fn mine(&self, grants: &[Grant], transaction: Transaction) -> Result<()> {
        self.report(&[self.submitted(grants, transaction)]).await?;
        let (_, mined) = grants.split_at(1);
        self.report(&[self.confirmed(mined, transaction)]).await?;
        let mut last = transaction;
        if transaction.half == 0 && transaction.round.is_multiple_of(5) {
            last.attempt = 1;
            self.report(&[self.reverted(mined, transaction), self.submitted(mined, last)]).await?;
            self.report(&[self.confirmed(mined, last)]).await?;
        }
        let (_, ended) = mined.split_at(1);
        let (failed, paid) = ended.split_at(8);
        let ends = failed.iter().map(|grant| self.failed(grant, "rejected_by_token"));
        let ends: Vec<_> = ends.chain(paid.iter().map(|grant| self.completed(grant, last))).collect();
        self.report(&ends).await
    }

    /// Lets grants be claimable and the root of their campaign's tree be published; half of them are claimed.
    async fn claim(&self, grants: &[Grant], number: usize) -> Result<()> {
        let (_, claimable) = grants.split_at(1);
        let told: Result<Vec<_>> = claimable.iter().map(|grant| self.claimable(grant)).collect();
        self.report(&told?).await?;
        for due in self.store.due_trees(self.clock.now(), TimeDelta::zero()).await? {
            let root = keccak256(number.to_be_bytes());
            self.store.make_root(&due, 1 + number as u64, root, self.clock.now()).await?;
        }
        self.publish().await?;
        let published = self.roots_published().await?;
        self.report(&published).await?;
        let transaction = Transaction { round: number, half: 1, attempt: 1 };
        let claimed = claimable.iter().step_by(2).map(|grant| self.completed(grant, transaction));
        self.report(&claimed.collect::<Vec<_>>()).await
    }

    /// What the blockchain service would say of the roots that it was asked to publish.
    async fn roots_published(&self) -> Result<Vec<ResultEvent>> {
        let rows = sqlx::query("select campaign_id, number, root from claim_root where published_at is null")
            .fetch_all(self.store.database().reader())
            .await?;
        rows.iter()
            .map(|row| {
                Ok(ResultEvent::ClaimRootPublished(ClaimRootPublished {
                    campaign_id: row.try_get::<String, _>("campaign_id")?.parse()?,
                    root: row.try_get("root")?,
                    number: row.try_get::<i64, _>("number")?.cast_unsigned(),
                    chain_id: 31_337,
                    distributor: format!("0x{:040x}", 7).parse()?,
                    transaction_hash: format!("0xbb{:062x}", 7),
                    block_number: 7,
                    processed_at: self.clock.now(),
                }))
            })
            .collect()
    }

    fn claimable(&self, grant: &Grant) -> Result<ResultEvent> {
        Ok(ResultEvent::Claimable(GrantClaimable {
            user_id: grant.request.user_id.clone(),
            campaign_id: grant.request.campaign_id.clone(),
            request_id: grant.request_id.clone(),
            grant_id: GrantId::dense(self.store.issuer(), grant.grant_index),
            wallet_address: format!("0x{:040x}", grant.grant_index + 1).parse()?,
            amount: format!("{}000000000000000000", grant.request.token_amount.whole_tokens()).parse()?,
            timestamp: grant.requested_at,
            processed_at: self.clock.now(),
        }))
    }

    /// Lets the round end: requests without a result are published again, those for which that did not help wait for an
    /// operator, who sets some of them going.
    async fn late(&self, number: usize) -> Result<()> {
        self.clock.advance(TimeDelta::from_std(ROUND)?);
        let now = self.clock.now();
        self.store.republish(now, PATIENCE, 10).await?;
        if number.is_multiple_of(3) {
            self.store.set_going(WhichGrants::All, now, PATIENCE, 5).await?;
        }
        self.publish().await
    }

    async fn report(&self, events: &[ResultEvent]) -> Result<()> {
        let number = self.clock.now().timestamp().to_string();
        let reports: Vec<_> =
            events.iter().map(|event| Report { event, message_id: Some(&number), trace: None }).collect();
        self.clock.advance(TimeDelta::milliseconds(137));
        let applied = self.store.apply(&reports, self.clock.now()).await?;
        if applied.unknown > 0 {
            bail!("{} results belong to no grant", applied.unknown);
        }
        Ok(())
    }

    fn started(&self, grants: &[Grant]) -> ResultEvent {
        ResultEvent::Started(GrantsStarted { request_ids: ids(grants), processed_at: self.clock.now() })
    }

    fn submitted(&self, grants: &[Grant], transaction: Transaction) -> ResultEvent {
        ResultEvent::Submitted(GrantsSubmitted {
            request_ids: ids(grants),
            transaction_hash: transaction.hash(),
            processed_at: self.clock.now(),
        })
    }

    fn confirmed(&self, grants: &[Grant], transaction: Transaction) -> ResultEvent {
        ResultEvent::Confirmed(GrantsConfirmed {
            request_ids: ids(grants),
            transaction_hash: transaction.hash(),
            block_number: transaction.block_number(),
            block_hash: format!("0x{:064x}", transaction.block_number()),
            processed_at: self.clock.now(),
        })
    }

    fn reverted(&self, grants: &[Grant], transaction: Transaction) -> ResultEvent {
        ResultEvent::Reverted(GrantsReverted {
            request_ids: ids(grants),
            transaction_hash: transaction.hash(),
            processed_at: self.clock.now(),
        })
    }

    fn completed(&self, grant: &Grant, transaction: Transaction) -> ResultEvent {
        ResultEvent::Completed(GrantCompleted {
            user_id: grant.request.user_id.clone(),
            campaign_id: grant.request.campaign_id.clone(),
            request_id: grant.request_id.clone(),
            transaction_hash: transaction.hash(),
            timestamp: grant.requested_at,
            processed_at: self.clock.now(),
            wallet_address: grant.request.wallet_address,
            block_number: Some(transaction.block_number()),
            gas_used: Some(26_000),
            gas_price: Some(3_000_000_000),
        })
    }

    fn failed(&self, grant: &Grant, code: &str) -> ResultEvent {
        ResultEvent::Failed(GrantFailed {
            user_id: grant.request.user_id.clone(),
            campaign_id: grant.request.campaign_id.clone(),
            request_id: grant.request_id.clone(),
            error_message: format!("it is {code}"),
            timestamp: grant.requested_at,
            processed_at: self.clock.now(),
            error_code: Some(code.to_owned()),
        })
    }
}

/// A transaction that a round sends: one for each half of its grants, and another where a reorg took the first.
#[derive(Clone, Copy)]
struct Transaction {
    round: usize,
    half: usize,
    attempt: usize,
}

impl Transaction {
    fn block_number(self) -> u64 {
        (self.round * 4 + self.half * 2 + self.attempt) as u64
    }

    fn hash(self) -> String {
        format!("0xaa{:062x}", self.block_number())
    }
}

fn campaign(at: usize) -> Result<CampaignId> {
    Ok(format!("campaign-{at}").parse()?)
}

fn by_operator() -> Result<Cause> {
    Ok(Cause::by("carol".parse()?))
}

fn ids(grants: &[Grant]) -> Vec<RequestId> {
    grants.iter().map(|grant| grant.request_id.clone()).collect()
}

/// A change of one row by hand, of which exactly this is to be found.
#[derive(Clone, Copy, Debug)]
pub struct Damage {
    /// The table.
    pub table: &'static str,
    /// What is done to it.
    pub statement: &'static str,
    /// Rows that are missing then.
    pub missing: u64,
    /// Rows that nobody knows then.
    pub unknown: u64,
}

/// Rows changed, taken away and added.
pub const DAMAGES: [Damage; 4] = [
    Damage {
        table: "token_grant",
        statement: "update token_grant set state = 'completed'
                    where grant_index = (select max(grant_index) from token_grant where state = 'failed')",
        missing: 1,
        unknown: 1,
    },
    Damage {
        table: "idempotency_key",
        statement: "insert into idempotency_key (idempotency_key, request_id) values ('forged', 'nobodys')",
        missing: 0,
        unknown: 1,
    },
    Damage {
        table: "campaign",
        statement: "update campaign set spent = spent - 1 where campaign_id = 'campaign-3'",
        missing: 1,
        unknown: 1,
    },
    Damage {
        table: "campaign_minute",
        statement: "delete from campaign_minute where campaign_id = 'campaign-5'
                      and minute = (select min(minute) from campaign_minute where campaign_id = 'campaign-5')",
        missing: 1,
        unknown: 0,
    },
];

impl Damage {
    /// Does it.
    ///
    /// # Errors
    /// When the database refuses, or another number of rows than one was changed.
    pub async fn cause(&self, store: &Store) -> Result<()> {
        change(store, self.statement).await
    }
}

/// Changes the last payment in the ledger as if somebody else had reported it; returns the entry's number. The seals from
/// there on do not fit any more, until it is [mended](mend_seal).
///
/// # Errors
/// When the database refuses.
pub async fn break_seal(store: &Store) -> Result<u64> {
    let last = "update event set actor = 'mallory'
                where sequence = (select max(sequence) from event where kind = 'Completed')";
    change(store, last).await?;
    count(store, "select sequence as many from event where actor = 'mallory'").await
}

/// Puts back what [`break_seal`] has changed.
///
/// # Errors
/// When the database refuses.
pub async fn mend_seal(store: &Store) -> Result<()> {
    change(store, "update event set actor = 'blockchain' where actor = 'mallory'").await
}

async fn change(store: &Store, statement: &'static str) -> Result<()> {
    let mut tx = store.database().begin("damage").await?;
    let changed = sqlx::query(statement).execute(&mut *tx).await?.rows_affected();
    if changed != 1 {
        bail!("{changed} rows instead of one by {statement}");
    }
    Ok(tx.commit().await?)
}
