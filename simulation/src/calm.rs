//! Quiet: faults end, time goes on, and everything has to come to its end.

use axum::body::Body;
use axum::http::Request;
use campaign::store::WhichGrants;
use shared::pubsub::Topic;
use shared::random;
use shared::worker::{Progress, Worker};

use crate::bug::Bug;
use crate::check::{Rule, lines, violation};
use crate::dice::Dice;
use crate::world::{Process, Stop, World};

/// The most rounds that may pass without any progress. A round is a few blocks, and from 2 seconds to an hour.
const ROUNDS: u64 = 60;

/// The most rounds in all.
const ROUNDS_IN_ALL: u64 = 2000;

/// How many blocks are mined in a round: as many as make the first of them final.
const BLOCKS: u64 = 7;

/// The most steps that one component takes in a round.
const STEPS: usize = 50;

/// What is still under way in both databases; nothing where both lists are empty.
const OPEN_GRANTS: &str = "select (select count(*) from token_grant where completed_at is null) || ' ' || \
                           (select count(*) from outbox)";
const OPEN_PAYMENTS: &str = "select (select count(*) from payment where state not in ('completed', 'failed')) || ' ' || \
                             (select count(*) from chain_transaction where state = 'pending') || ' ' || \
                             (select count(*) from outbox)";

impl World {
    /// Lets everything come to its end.
    pub(crate) async fn calm(&mut self, seed: u64) -> Result<(), Stop> {
        self.note("faults end");
        self.end_hazards();
        self.bury_blockchain(1, "killed for good").await?;
        if let Some(Process::Paused(paused)) =
            self.blockchain[0].take_if(|process| matches!(process, Process::Paused(_)))
        {
            self.resume(0, paused).await?;
        }
        let mut dice = Dice::new(seed);
        let release = Request::put("/kill-switch?engaged=false").body(Body::empty()).expect("it is a request");
        self.order(vec![release], &mut dice).await?;
        let mut before = vec![];
        let (mut pause, mut without_progress) = (2000, 0);
        for _ in 0..ROUNDS_IN_ALL {
            self.count.turns += 1;
            random::seed(dice.number());
            self.pass_time(pause);
            let open = self.round(&mut dice).await?;
            if open.iter().flatten().all(|count| count == "0") && self.is_served() {
                self.note("everything is at rest");
                return Ok(self.check_at_rest().await?);
            }
            // What waits for a time waits longer and longer; so do we.
            (pause, without_progress) =
                if open == before { ((pause * 2).min(3_600_000), without_progress + 1) } else { (2000, 0) };
            if without_progress > ROUNDS {
                break;
            }
            before = open;
        }
        let what =
            format!("nothing moves any more; open grants and outbox, payments, transactions and outbox: {before:?}");
        Err(violation(Rule::Stuck, what).into())
    }

    /// Whether all clients have what they wanted, foreign publishers included.
    fn is_served(&self) -> bool {
        let state = self.chain.state();
        let paid = state.payments();
        let is_paid = |id| paid.iter().any(|paid| paid.id == id);
        let waiting = [Topic::Requests, Topic::Results].iter().map(|topic| self.network.waiting(*topic)).sum::<usize>();
        waiting == 0
            && self.clients.all_answered()
            && self
                .witness
                .foreign
                .iter()
                .all(|(request_id, foreign)| is_paid(foreign.id) || self.network.has_taken(Topic::Results, request_id))
    }

    async fn round(&mut self, dice: &mut Dice) -> Result<Vec<Vec<String>>, Stop> {
        if self.campaign.is_none() {
            self.campaign_step("start", dice, async |_| String::new()).await?;
        }
        if self.blockchain[0].is_none() {
            self.start_blockchain(0).await?;
        }
        if let (Some(campaign), Some(Process::Running(blockchain))) = (&self.campaign, &self.blockchain[0]) {
            let _ = campaign.keeper.run_once().await;
            let _ = blockchain.keeper.run_once().await;
        }
        if !self.clients.all_answered() {
            let burst = self.clients.ask_again(dice);
            self.send(burst, dice).await?;
        }
        for foreign in self.witness.foreign.values() {
            self.network.insert(Topic::Requests, vec![foreign.message.clone()]).await;
        }
        let publishes_again = self.bug != Some(Bug::NoRepublishing);
        self.campaign_step("campaign", dice, async |service| {
            let set_going = service.republisher.set_going(WhichGrants::All).await.unwrap_or_default();
            let republisher = if publishes_again { worked(&service.republisher).await } else { String::new() };
            let trees = worked(&service.root_maker).await;
            format!(
                "{set_going} set going, republisher {republisher}trees {trees}relay {}",
                worked(&service.relay).await
            )
        })
        .await?;
        while self.network.waiting(Topic::Requests) > 0 && self.blockchain[0].is_some() {
            self.hand_over(Topic::Requests, 500, None, dice).await?;
        }
        self.blockchain_step("blockchain", dice, async |service| {
            let lease = worked(&service.holder).await;
            let gaps = worked(&service.gaps).await;
            format!("{lease}{gaps}submitter {}", worked(&service.submitter).await)
        })
        .await?;
        self.claim(dice).await?;
        for _ in 0..BLOCKS {
            self.chain.state().mine(|| true);
        }
        let has_claims = self.clients.claims().next().is_some();
        self.blockchain_step("blockchain", dice, async move |service| {
            let confirmer = worked(&service.confirmer).await;
            // It is the one who sees claims.
            let auditor = if has_claims { worked(&service.auditor).await } else { String::new() };
            format!("confirmer {confirmer}auditor {auditor}relay {}", worked(&service.relay).await)
        })
        .await?;
        while self.network.waiting(Topic::Results) > 0 && self.campaign.is_some() {
            self.hand_over(Topic::Results, 500, None, dice).await?;
        }
        let mut open = vec![];
        if let (Some(campaign), Some(blockchain)) = (&self.campaign, self.blockchain_database()) {
            open.extend(lines(campaign.store.database(), OPEN_GRANTS).await?);
            open.extend(lines(&blockchain, OPEN_PAYMENTS).await?);
        }
        if open.is_empty() {
            open.push(vec!["a service is down".to_owned()]);
        }
        Ok(open)
    }
}

/// Takes a component's steps while there is work, and says what came of it.
async fn worked<W: Worker>(worker: &W) -> String {
    for steps in 0..STEPS {
        match worker.run_once().await {
            Ok(Progress::Worked(_) | Progress::Unhurried) => {}
            Ok(Progress::Idle) => return format!("{steps}, "),
            Err(error) => return format!("{steps} and failed: {error}, "),
        }
    }
    format!("{STEPS}, ")
}
