//! What must be true: at every turn what is cheap to see, and everything at the end.
//!
//! The rules are those of `docs/ARCHITECTURE.md`. They look at the databases, at the chain and at what clients were told,
//! never at what a component says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use alloy::primitives::{Address, B256, U256};
use shared::db::Database;
use shared::event::GrantRequested;
use shared::pubsub::{Message, Topic};

use crate::chain::contracts::{self, DECIMALS};
use crate::chain::{Paid, Simulated, State, Transaction};
use crate::client::Clients;
use crate::network::Network;
use crate::services::signer;

/// A rule that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A client is answered what its request deserves.
    Answer,
    /// What a client was told is in the database.
    Durable,
    /// A grant's state never moves backwards.
    Forward,
    /// A committed change has its message in the outbox, or the broker has taken it.
    Announced,
    /// A message is acknowledged after its effect is committed.
    Acknowledged,
    /// Nothing is broadcast that is not in `attempt`.
    Persisted,
    /// A payment is in one transaction at a time, and in none after it was paid.
    OneNonce,
    /// Whoever commits to a lane holds its lease.
    Lane,
    /// A payment is called completed when it is final.
    Final,
    /// Every accepted grant ends.
    Stuck,
    /// A grant is completed exactly if it was paid.
    Completed,
    /// Nothing is paid twice.
    PaidOnce,
    /// Nothing is paid that nobody was granted.
    Granted,
    /// The right account holds the right amount.
    Amount,
    /// A campaign promises no more than its budget, and counts as spent what was paid.
    Budget,
    /// Both ledgers and the chain agree.
    Ledger,
    /// The auditor names what differs, and nothing else.
    Audited,
    /// A step fails in a way that nothing explains.
    Broken,
}

/// A rule that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// How.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.what)
    }
}

/// A broken rule.
pub(crate) fn violation(rule: Rule, what: impl Into<String>) -> Violation {
    Violation { rule, what: what.into() }
}

pub(crate) type Verdict = Result<(), Violation>;

/// What was seen so far, to be compared with what is seen next.
#[derive(Debug, Default)]
pub struct Witness {
    /// The state of each grant.
    states: BTreeMap<String, String>,
    /// The nonces under which each grant was broadcast.
    nonces: BTreeMap<U256, BTreeSet<u64>>,
    /// What was first broadcast under each nonce.
    carried: BTreeMap<u64, Arc<Transaction>>,
    /// Every nonce that was broadcast is below this.
    sent_below: u64,
    /// Every nonce that was broadcast before blocks were replaced that had been final is below this.
    lost_below: u64,
    /// The payments that were seen completed, and final.
    completed: BTreeSet<String>,
    /// Grants that a foreign publisher has asked for, by request id.
    pub(crate) foreign: BTreeMap<String, Foreign>,
    /// Whether blocks were ever replaced that had been final: then a payment may have been made in another transaction
    /// than was told.
    pub(crate) finality_lost: bool,
    /// Whether the blockchain service's database was ever replaced by an older one.
    pub(crate) restored: bool,
}

/// A grant that a foreign publisher has asked for.
#[derive(Debug, Clone)]
pub(crate) struct Foreign {
    pub(crate) message: Message,
    pub(crate) id: U256,
    pub(crate) recipient: Address,
    pub(crate) tokens: u64,
}

/// Runs a query that gives one text, and splits it into lines of words.
pub(crate) async fn lines(database: &Database, query: &'static str) -> Result<Vec<Vec<String>>, Violation> {
    let text: Option<String> = sqlx::query_scalar(query)
        .fetch_one(database.reader())
        .await
        .map_err(|error| violation(Rule::Broken, format!("a check's query failed: {error}")))?;
    let text = text.unwrap_or_default();
    Ok(text.lines().map(|line| line.split(' ').map(ToOwned::to_owned).collect()).collect())
}

fn number(text: &str) -> Result<u64, Violation> {
    text.parse().map_err(|_| violation(Rule::Broken, format!("{text} is no number")))
}

/// Whose messages wait to be published.
macro_rules! waiting {
    () => {
        "with waiting as (
             select m.value->>1 as request_id from outbox o, json_each(o.messages) m where m.value->>1 is not null
             union all select request_id from outbox where request_id is not null) "
    };
}

const GRANTS: &str = concat!(
    waiting!(),
    "select group_concat(request_id || ' ' || state || ' ' || grant_index || ' ' || user_id || ' ' ||
         campaign_id || ' ' || token_amount || ' ' || coalesce(transaction_hash, '-') || ' ' ||
         (retry_count = 0 and completed_at is null and request_id not in (select request_id from waiting)), char(10))
     from (select * from token_grant order by grant_index)"
);

const PAYMENTS: &str = concat!(
    waiting!(),
    "select group_concat(request_id || ' ' || state || ' ' || grant_id || ' ' ||
         coalesce(transaction_hash, '-') || ' ' || coalesce(block_number, -1) || ' ' ||
         (request_id not in (select request_id from waiting)), char(10))
     from (select * from payment order by request_id)"
);

const TALLIES: &str = "select group_concat(campaign_id || ' ' || reserved || ' ' || spent, char(10)) from campaign";

/// Grants that were paid after they had ended without a payment.
const PAID_AFTER_ALL: &str = "select group_concat(campaign_id || ' ' || token_amount, char(10)) from token_grant g \
     where state = 'completed' and exists (select 1 from event e where e.stream = 'grant' \
     and e.subject = g.request_id and e.kind in ('Failed', 'Expired', 'Cancelled'))";

const ATTEMPTS: &str = "select group_concat(a.hash || ' ' || t.nonce, char(10)) \
     from attempt a join chain_transaction t on t.id = a.transaction_id";

impl Witness {
    /// What clients were told is there, states only move forward, and every grant that waits was announced.
    pub(crate) async fn see_campaign(&mut self, database: &Database, clients: &Clients, network: &Network) -> Verdict {
        let grants = lines(database, GRANTS).await?;
        let mut stored = BTreeSet::new();
        for grant in &grants {
            let [request_id, state, .., gone] = &grant[..] else {
                return Err(violation(Rule::Broken, format!("a grant reads {grant:?}")));
            };
            stored.insert(request_id);
            // A reorg takes a confirmed one back to submitted.
            let ranks = [
                &["requested"][..],
                &["started"],
                &["submitted", "confirmed", "claimable"],
                &["failed", "cancelled"],
                &["completed"],
            ];
            let rank = |state: &str| ranks.iter().position(|states| states.contains(&state));
            let before = self.states.insert(request_id.clone(), state.clone());
            if let Some(before) = before
                && rank(&before) > rank(state)
            {
                return Err(violation(Rule::Forward, format!("grant {request_id} went from {before} to {state}")));
            }
            if gone == "1" && !network.has_taken(Topic::Requests, request_id) {
                return Err(violation(Rule::Announced, format!("no message asks for grant {request_id}")));
            }
        }
        for wish in clients.wishes() {
            if let Some(request_id) = &wish.request_id
                && !stored.contains(request_id)
            {
                return Err(violation(Rule::Durable, format!("grant {request_id}, which was accepted, is not stored")));
            }
        }
        self.see_budgets(database, clients).await
    }

    /// No campaign has promised and paid more than its budget.
    pub(crate) async fn see_budgets(&self, database: &Database, clients: &Clients) -> Verdict {
        for (campaign, Tally { reserved, spent }) in tallies(database).await? {
            let Some(budget) = clients.budget_of(&campaign) else { continue };
            let promised = reserved + spent;
            if promised > budget && promised > budget + self.paid_after_all(&campaign, database).await? {
                let what = format!("{campaign} has a budget of {budget}, and {reserved} reserved and {spent} spent");
                return Err(violation(Rule::Budget, what));
            }
        }
        Ok(())
    }

    /// Whole tokens whose budget went to others before they were paid all the same. That takes a blockchain service that
    /// has forgotten how a grant ended, or a chain that has.
    async fn paid_after_all(&self, campaign: &str, database: &Database) -> Result<u64, Violation> {
        if !self.restored && !self.finality_lost {
            return Ok(0);
        }
        let grants = lines(database, PAID_AFTER_ALL).await?;
        grants.iter().filter(|grant| grant[0] == campaign).map(|grant| number(&grant[1])).sum()
    }

    /// Every payment that ended was announced, and every one that is completed was paid in a final block.
    pub(crate) async fn see_blockchain(
        &mut self,
        database: &Database,
        network: &Network,
        chain: &Simulated,
    ) -> Verdict {
        for payment in lines(database, PAYMENTS).await? {
            let [request_id, state, id, hash, block, gone] = &payment[..] else {
                return Err(violation(Rule::Broken, format!("a payment reads {payment:?}")));
            };
            if state == "completed"
                && !self.finality_lost
                && self.completed.insert(format!("{request_id} {hash} {block}"))
            {
                let final_block = hash.parse().ok().and_then(|hash| chain.state().final_block_of(hash));
                if final_block.map(|number| number.to_string()).as_ref() != Some(block) {
                    let what = format!(
                        "payment {request_id} of {id} is completed by {hash} in block {block}; final is {final_block:?}"
                    );
                    return Err(violation(Rule::Final, what));
                }
            }
            let ended = state == "completed" || state == "failed";
            if ended && gone == "1" && !network.has_taken(Topic::Results, request_id) {
                return Err(violation(Rule::Announced, format!("no message tells how payment {request_id} ended")));
            }
        }
        Ok(())
    }

    /// What was broadcast is in `attempt`, and each of its payments in no other transaction.
    pub(crate) async fn see_sent(
        &mut self,
        sent: &[Arc<Transaction>],
        database: &Database,
        chain: &Simulated,
    ) -> Verdict {
        if sent.is_empty() {
            return Ok(());
        }
        let attempts: BTreeMap<_, _> =
            lines(database, ATTEMPTS).await?.into_iter().map(|line| (line[0].clone(), line[1].clone())).collect();
        for transaction in sent {
            let Transaction { hash, nonce, .. } = **transaction;
            if attempts.get(&hash.to_string()) != Some(&nonce.to_string()) {
                let what = format!("{hash} with nonce {nonce} was broadcast and is not in `attempt`");
                return Err(violation(Rule::Persisted, what));
            }
            self.sent_below = self.sent_below.max(nonce + 1);
            let first = self.carried.entry(nonce).or_insert_with(|| Arc::clone(transaction));
            if !transaction.ids.is_empty() && !first.ids.is_empty() && first.ids != transaction.ids {
                let what = format!("nonce {nonce} was broadcast in {} and {hash}, which pay other grants", first.hash);
                return Err(violation(Rule::OneNonce, what));
            }
            let state = chain.state();
            for id in &transaction.ids {
                let nonces = self.nonces.entry(*id).or_default();
                let may_pay = |other: &&u64| {
                    // What a lost transaction had sent back to the queue is in it and in another one: the distributor pays
                    // once.
                    let may_be_lost = nonce.min(**other) < self.lost_below;
                    **other != nonce && !may_be_lost && !is_free_of(&state, **other, *id)
                };
                if let Some(other) = nonces.iter().find(may_pay) {
                    let what = format!("grant {id:#x} was broadcast with nonce {nonce}, and nonce {other} may pay it");
                    return Err(violation(Rule::OneNonce, what));
                }
                nonces.insert(nonce);
            }
        }
        Ok(())
    }

    /// What was final is gone: what was broadcast before goes out again.
    pub(crate) fn lose_finality(&mut self) {
        self.lost_below = self.sent_below;
        self.nonces.clear();
        self.carried.clear();
        self.finality_lost = true;
    }

    /// The blockchain service's database is an older one from now on: it cannot know what it has broadcast.
    pub(crate) fn restore(&mut self) {
        self.nonces.clear();
        self.carried.clear();
        self.restored = true;
    }
}

/// Whether the transaction of this nonce is mined, and did not pay the grant.
fn is_free_of(state: &State, nonce: u64, id: U256) -> bool {
    state.mined_at(signer(), nonce).is_some_and(|transaction| !state.paid_by(transaction.hash, id))
}

/// The lane is this process's, which has just committed to it.
pub(crate) async fn owned(owner: &str, database: &Database) -> Verdict {
    let owners = lines(database, "select group_concat(coalesce(owner, '-'), char(10)) from lane").await?;
    let holds = owners.iter().flatten().all(|other| other == owner);
    let what = || format!("process {owner} has committed to the lane, which is {owners:?}'s");
    if holds { Ok(()) } else { Err(violation(Rule::Lane, what())) }
}

/// What was acknowledged has its effect in the database.
pub(crate) async fn acknowledged(messages: &[(Topic, Message)], topic: Topic, database: &Database) -> Verdict {
    let query = match topic {
        Topic::Requests => "select group_concat(request_id, char(10)) from payment",
        _ => "select group_concat(request_id, char(10)) from token_grant where completed_at is not null",
    };
    let stored: BTreeSet<_> = lines(database, query).await?.into_iter().map(|line| line[0].clone()).collect();
    for (_, message) in messages.iter().filter(|(of, _)| *of == topic) {
        let Some(request_id) = message.attributes.get("request_id") else { continue };
        if message.attributes["event_type"] == "token.grant.claimable" {
            // It ends nothing.
            continue;
        }
        if !stored.contains(request_id) {
            let what = format!("the message of {request_id} on {topic} was acknowledged and its effect is not stored");
            return Err(violation(Rule::Acknowledged, what));
        }
    }
    Ok(())
}

/// Everything, when nothing moves any more.
pub(crate) async fn at_rest(
    witness: &Witness,
    campaign: (&Database, u64),
    blockchain: &Database,
    clients: &Clients,
    chain: &Simulated,
) -> Verdict {
    let mut payments: BTreeMap<U256, Vec<Paid>> = BTreeMap::new();
    let mut expected_balances: BTreeMap<Address, U256> = BTreeMap::new();
    let mut minted: BTreeMap<String, U256> = BTreeMap::new();
    for paid in chain.state().payments() {
        payments.entry(paid.id).or_default().push(paid);
    }
    if let Some((id, twice)) = payments.iter().find(|(_, paid)| paid.len() > 1) {
        return Err(violation(Rule::PaidOnce, format!("grant {id:#x} was paid {} times", twice.len())));
    }
    let mut paid: BTreeMap<U256, Paid> = payments.into_iter().map(|(id, mut all)| (id, all.remove(0))).collect();

    let (campaign, issuer) = campaign;
    let in_blockchain = stored_payments(blockchain).await?;
    for grant in lines(campaign, GRANTS).await? {
        let [request_id, state, index, user, campaign_id, tokens, hash, _] = &grant[..] else {
            return Err(violation(Rule::Broken, format!("a grant reads {grant:?}")));
        };
        let Some(wish) = clients.wish_of(request_id) else {
            return Err(violation(Rule::Granted, format!("grant {request_id} was never asked for")));
        };
        if (&wish.user, &wish.campaign, &wish.tokens.to_string()) != (user, campaign_id, tokens) {
            return Err(violation(Rule::Amount, format!("grant {request_id} is not what was asked for: {grant:?}")));
        }
        let index = U256::from_str_radix(index, 10).unwrap_or(U256::MAX);
        let id = U256::from(issuer) << 64 | index;
        let told = in_blockchain.get(request_id);
        // To the blockchain service, it failed because it was cancelled.
        let state = if state == "cancelled" { "failed" } else { state };
        if told.is_some_and(|told| told.0 != *state) || (told.is_none() && !witness.restored) {
            let what = format!("grant {request_id} is {state}, and its payment {told:?}");
            return Err(violation(Rule::Ledger, what));
        }
        match (state, paid.remove(&id)) {
            ("failed", None) => {}
            ("completed", Some(paid)) => {
                let hash = (!witness.finality_lost).then_some(hash.as_str());
                check_payment(&paid, request_id, wish.recipient(), wish.tokens, hash)?;
                *expected_balances.entry(paid.to).or_default() += paid.amount;
                *minted.entry(campaign_id.clone()).or_default() += paid.amount;
            }
            (state, paid) => {
                let what = format!("grant {request_id} is {state}, and the chain has {paid:?}");
                return Err(violation(Rule::Completed, what));
            }
        }
    }
    for (request_id, foreign) in &witness.foreign {
        let state = in_blockchain.get(request_id).map(|(state, _)| state.as_str());
        match (state, paid.remove(&foreign.id)) {
            (Some("completed") | None, Some(paid)) => {
                check_payment(&paid, request_id, foreign.recipient, foreign.tokens, None)?;
                *expected_balances.entry(paid.to).or_default() += paid.amount;
            }
            (Some("failed"), None) => {}
            (state, paid) => {
                let what = format!("foreign grant {request_id} is {state:?}, and the chain has {paid:?}");
                return Err(violation(Rule::Completed, what));
            }
        }
    }
    if let Some((id, paid)) = paid.into_iter().next() {
        return Err(violation(Rule::Granted, format!("{id:#x} was paid and nobody was granted it: {paid:?}")));
    }
    for (campaign, tally) in tallies(campaign).await? {
        let minted = minted.remove(&campaign).unwrap_or_default();
        if tally.reserved != 0 || base_units(tally.spent) != minted {
            let what = format!("{campaign} was at rest with {tally:?}, and {minted} was minted for it");
            return Err(violation(Rule::Budget, what));
        }
    }
    let state = chain.state();
    let balances: BTreeMap<_, _> = state.balances().iter().filter(|(_, amount)| !amount.is_zero()).collect();
    if balances != expected_balances.iter().collect() {
        return Err(violation(Rule::Amount, "accounts hold something else than what was granted"));
    }
    Ok(())
}

fn base_units(tokens: u64) -> U256 {
    U256::from(tokens) * U256::from(10).pow(U256::from(DECIMALS))
}

fn check_payment(paid: &Paid, request_id: &str, to: Address, tokens: u64, hash: Option<&str>) -> Verdict {
    let amount = base_units(tokens);
    if (paid.to, paid.amount) != (to, amount) {
        let what = format!("grant {request_id} of {amount} to {to} was paid otherwise: {paid:?}");
        return Err(violation(Rule::Amount, what));
    }
    if let Some(hash) = hash.filter(|hash| paid.transaction_hash.to_string() != *hash) {
        let what = format!("grant {request_id} is said to be paid in {hash}, and was in {}", paid.transaction_hash);
        return Err(violation(Rule::Ledger, what));
    }
    Ok(())
}

/// What a campaign has promised and paid, as it counts itself, in whole tokens.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    reserved: u64,
    spent: u64,
}

async fn tallies(campaign: &Database) -> Result<BTreeMap<String, Tally>, Violation> {
    let campaigns = lines(campaign, TALLIES).await?;
    let tally = |line: Vec<String>| {
        let [campaign, reserved, spent] = &line[..] else {
            return Err(violation(Rule::Broken, format!("a campaign reads {line:?}")));
        };
        Ok((campaign.clone(), Tally { reserved: number(reserved)?, spent: number(spent)? }))
    };
    campaigns.into_iter().map(tally).collect()
}

/// The state and the transaction of each payment, by request.
async fn stored_payments(blockchain: &Database) -> Result<BTreeMap<String, (String, String)>, Violation> {
    let payments = lines(blockchain, PAYMENTS).await?;
    Ok(payments
        .into_iter()
        .map(|mut line| {
            let (hash, state) = (line.remove(3), line.remove(1));
            (line.remove(0), (state, hash))
        })
        .collect())
}

impl State {
    /// Whether this transaction, which is in a block, paid this grant.
    #[must_use]
    pub fn paid_by(&self, hash: B256, id: U256) -> bool {
        self.logs_of(hash).iter().flat_map(contracts::payments).any(|(paid, ..)| paid == id)
    }
}

/// The id on chain of a grant without a number of its own, and who is to be paid.
pub(crate) fn foreign(request: &GrantRequested, message: Message) -> (String, Foreign) {
    let hash = U256::from_be_bytes(alloy::primitives::keccak256(request.request_id.as_str()).0);
    let foreign = Foreign {
        message,
        id: hash | U256::ONE << 255,
        recipient: contracts::wallet_of(request.user_id.as_str()),
        tokens: request.token_amount.whole_tokens(),
    };
    (request.request_id.to_string(), foreign)
}
