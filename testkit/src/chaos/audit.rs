//! Holds what clients were answered against what is on the chain, and names each difference.
//!
//! Nothing that the services keep for themselves is used: the books are the clients' own, payments are the distributor's
//! events, and balances the token's. Pure, so that every verdict can be tested.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, U256};
use serde::Serialize;

use crate::{
    chain::{Payment, base_units},
    client::Grant,
};

/// What clients and services say in the end.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// What clients asked for, and what they were answered.
    pub promised: Vec<Promised>,
    /// The campaigns that were asked for it.
    pub campaigns: Vec<Campaign>,
    /// Whether the blockchain service's database was replaced by an older copy: it may have forgotten a cancellation, and
    /// paid what others have the budget of.
    pub restored: bool,
}

/// A campaign, in whole tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Campaign {
    /// Its name.
    pub name: String,
    /// What it may pay; `None` for as much as is asked for.
    pub budget: Option<u64>,
    /// The most that it said it had reserved and spent together, whenever it was asked.
    pub most: u64,
    /// What it says it has reserved in the end.
    pub reserved: u64,
    /// What it says it has spent in the end.
    pub spent: u64,
}

/// A grant that a client was promised, and what the service says of it in the end.
#[derive(Clone, Debug)]
pub struct Promised {
    /// Its id.
    pub request_id: String,
    /// For which campaign.
    pub campaign: String,
    /// Whether somebody has asked for its cancellation.
    pub is_unwanted: bool,
    /// Who is to be paid.
    pub recipient: Address,
    /// How much, in base units.
    pub amount: U256,
    /// How it ended.
    pub end: End,
}

/// What a service says of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was paid in this transaction.
    Completed(Option<B256>),
    /// It will not be paid, for this reason.
    Failed(String),
    /// It will not be paid, since somebody did not want it any more.
    Cancelled,
    /// It is in this state, which is not final.
    Open(String),
    /// There is no such grant.
    Unknown,
    /// The client was never answered, so there may be such a grant.
    Unanswered,
    /// There never was such a grant: the campaign's budget did not allow it.
    Refused,
}

impl End {
    /// What a service says that was asked for a grant.
    #[must_use]
    pub fn of(grant: Option<Grant>) -> Self {
        match grant {
            None => Self::Unknown,
            Some(grant) if grant.is_completed() => {
                Self::Completed(grant.transaction_hash.and_then(|hash| hash.parse().ok()))
            }
            Some(grant) if grant.state == "cancelled" => Self::Cancelled,
            Some(Grant { state, more, .. }) if matches!(&*state, "failed" | "expired") => {
                let said = |field: &str| more.get(field).and_then(|value| value.as_str().map(str::to_owned));
                Self::Failed(said("error_code").or_else(|| said("error_message")).unwrap_or_default())
            }
            Some(grant) => Self::Open(grant.state),
        }
    }
}

/// What is on the chain.
#[derive(Clone, Debug, Default)]
pub struct OnChain {
    /// Every payment that the distributor has made.
    pub payments: Vec<Payment>,
    /// The balances of those who were promised something.
    pub balances: BTreeMap<Address, U256>,
    /// All tokens there are.
    pub supply: U256,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Grants that the service says are paid.
    pub completed: usize,
    /// Grants that ended without a payment, by reason.
    pub failed: BTreeMap<String, usize>,
    /// Grants that the service has forgotten, or calls completed though nothing was paid.
    pub lost: usize,
    /// Payments beyond the one that was promised.
    pub paid_twice: usize,
    /// Payments that nobody was promised in this way, and balances that are not what was promised.
    pub wrong_amount: usize,
    /// Grants that never ended.
    pub stuck: usize,
    /// Requests that were refused, since a budget had run out.
    pub refused: usize,
    /// Campaigns that have refused some.
    pub exhausted: usize,
    /// Campaigns that had promised, or that were paid, more than their budget.
    pub over_budget: usize,
    /// Campaigns that say they have spent something else than was paid for them, or that have something reserved in the end.
    pub miscounted: usize,
    /// The differences, one by one.
    pub differences: Vec<String>,
}

impl Verdict {
    /// Whether nothing is lost, paid twice, wrong, stuck, above a budget or miscounted.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let Self { lost, paid_twice, wrong_amount, stuck, over_budget, miscounted, .. } = self;
        [lost, paid_twice, wrong_amount, stuck, over_budget, miscounted].into_iter().all(|count| *count == 0)
    }

    /// Judges.
    ///
    /// A payment belongs to the promise of its recipient and amount: no recipient is promised the same amount twice.
    #[must_use]
    pub fn of(claims: &Claims, chain: &OnChain) -> Self {
        let mut verdict = Self::default();
        let mut paid: BTreeMap<(Address, U256), Vec<&Payment>> = BTreeMap::new();
        for payment in &chain.payments {
            paid.entry((payment.to, payment.amount)).or_default().push(payment);
        }
        let mut owed: BTreeMap<Address, U256> = BTreeMap::new();
        let mut minted: BTreeMap<&str, Minted> = BTreeMap::new();
        for promise in &claims.promised {
            let payments = paid.remove(&(promise.recipient, promise.amount)).unwrap_or_default();
            verdict.judge(promise, &payments);
            if !payments.is_empty() {
                *owed.entry(promise.recipient).or_default() += promise.amount;
            }
            minted.entry(&promise.campaign).or_default().add(promise, &payments);
        }
        for payments in paid.values() {
            for payment in payments {
                verdict.wrong_amount += 1;
                verdict.differs(format!(
                    "nobody was promised {} for {}, which {} paid",
                    payment.amount, payment.to, payment.transaction_hash
                ));
            }
        }
        verdict.judge_balances(&owed, chain);
        for campaign in &claims.campaigns {
            verdict.judge_campaign(campaign, &minted.remove(&*campaign.name).unwrap_or_default(), claims.restored);
        }
        verdict
    }

    fn judge(&mut self, promise: &Promised, payments: &[&Payment]) {
        let Promised { request_id, recipient, amount, end, .. } = promise;
        if payments.len() > 1 {
            self.paid_twice += payments.len() - 1;
            let by: Vec<String> = payments.iter().map(|payment| payment.transaction_hash.to_string()).collect();
            self.differs(format!("{request_id} was paid {} times, by {}", payments.len(), by.join(", ")));
        }
        match end {
            End::Completed(hash) => {
                self.completed += 1;
                if payments.is_empty() {
                    self.lost += 1;
                    self.differs(format!("{request_id} is called completed, and {recipient} never got {amount}"));
                } else if !payments.iter().any(|payment| Some(payment.transaction_hash) == *hash) {
                    self.wrong_amount += 1;
                    let by = payments[0].transaction_hash;
                    self.differs(format!("{request_id} is called paid by {hash:?}, and was paid by {by}"));
                }
            }
            End::Failed(reason) => {
                *self.failed.entry(reason.clone()).or_default() += 1;
                if let Some(payment) = payments.first() {
                    self.wrong_amount += 1;
                    let by = payment.transaction_hash;
                    self.differs(format!("{request_id} is called failed ({reason}), and was paid by {by}"));
                }
            }
            End::Cancelled => {
                *self.failed.entry("cancelled".to_owned()).or_default() += 1;
                if !promise.is_unwanted {
                    self.lost += 1;
                    self.differs(format!("{request_id} is cancelled, and nobody has asked for that"));
                }
                if let Some(payment) = payments.first() {
                    self.wrong_amount += 1;
                    let by = payment.transaction_hash;
                    self.differs(format!("{request_id} is cancelled, and was paid by {by}"));
                }
            }
            End::Refused => {
                self.refused += 1;
                if let Some(payment) = payments.first() {
                    self.wrong_amount += 1;
                    let by = payment.transaction_hash;
                    self.differs(format!("{request_id} was refused, and was paid by {by}"));
                }
            }
            End::Open(state) => {
                self.stuck += 1;
                let paid = if payments.is_empty() { "not paid" } else { "paid" };
                self.differs(format!("{request_id} is still {state}, and {paid}"));
            }
            End::Unanswered => {
                self.stuck += 1;
                self.differs(format!("the request for {request_id} was never answered"));
            }
            End::Unknown => {
                self.lost += 1;
                self.differs(format!("{request_id} was accepted, and the service does not know it"));
            }
        }
    }

    fn judge_balances(&mut self, owed: &BTreeMap<Address, U256>, chain: &OnChain) {
        for (account, balance) in &chain.balances {
            let due = owed.get(account).copied().unwrap_or_default();
            if *balance > due {
                // What was paid twice is counted above; the balance only has to agree with it.
                let events: U256 = chain.payments.iter().filter(|one| one.to == *account).map(|one| one.amount).sum();
                if *balance == events {
                    continue;
                }
            }
            if *balance != due {
                self.wrong_amount += 1;
                self.differs(format!("{account} has {balance}, and was to have {due}"));
            }
        }
        let events: U256 = chain.payments.iter().map(|payment| payment.amount).sum();
        if events != chain.supply {
            self.wrong_amount += 1;
            self.differs(format!("the distributor paid {events}, and there are {}", chain.supply));
        }
    }

    fn judge_campaign(&mut self, campaign: &Campaign, minted: &Minted, restored: bool) {
        let Campaign { name, budget, most, reserved, spent } = campaign;
        self.exhausted += usize::from(minted.refused > 0);
        if let Some(budget) = *budget {
            let excused = if restored { minted.unwanted } else { U256::ZERO };
            let allowed = base_units(budget) + excused;
            if base_units(*most) > allowed || minted.paid > allowed {
                self.over_budget += 1;
                let paid = minted.paid / base_units(1);
                self.differs(format!(
                    "{name} may pay {budget}, had promised or paid {most}, and {paid} were paid for it"
                ));
            }
        }
        if *reserved != 0 || base_units(*spent) != minted.paid {
            self.miscounted += 1;
            let paid = minted.paid / base_units(1);
            self.differs(format!("{name} has reserved {reserved} and spent {spent}, and {paid} were paid for it"));
        }
    }

    fn differs(&mut self, difference: String) {
        self.differences.push(difference);
    }
}

/// What was paid for a campaign, in base units.
#[derive(Debug, Default)]
struct Minted {
    /// In all.
    paid: U256,
    /// For grants that somebody did not want any more.
    unwanted: U256,
    /// Requests that were refused.
    refused: usize,
}

impl Minted {
    fn add(&mut self, promise: &Promised, payments: &[&Payment]) {
        let paid = payments.iter().map(|payment| payment.amount).sum::<U256>();
        self.paid += paid;
        self.unwanted += if promise.is_unwanted { paid } else { U256::ZERO };
        self.refused += usize::from(promise.end == End::Refused);
    }
}

#[cfg(test)]
mod tests;
