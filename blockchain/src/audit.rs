//! Ledger against chain: what a ledger says of a grant, what the distributor has paid under its id, and every way in
//! which the two can differ.
//!
//! This file is the rule, and pure; the modules below read the chain, read the ledgers, go through them page by page,
//! and tell what they found. Not every event names a campaign, so campaigns are not compared.

pub mod auditor;
pub mod campaign;
pub mod command;
pub mod periodic;
pub mod reader;
pub mod report;
pub mod seals;

use std::fmt;

use alloy::primitives::{Address, B256, U256};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use shared::id::RequestId;

use crate::chain::LogEntry;
use crate::contract::{Payout, payouts};
use crate::domain::GrantId;

/// A payment, as an event of the distributor in a final block tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainPayment {
    /// Under which id.
    pub grant_id: GrantId,
    /// Who was paid.
    pub recipient: Address,
    /// How much, in base units.
    pub amount: U256,
    /// By which transaction.
    pub transaction_hash: B256,
    /// In which block.
    pub block_number: u64,
    /// The block's hash.
    pub block_hash: B256,
    /// Its place in the block, and no other's: that of its event; above 32 bits, how many payments the event tells of
    /// before it.
    pub log_index: u64,
    /// When it was read.
    pub seen_at: DateTime<Utc>,
}

impl ChainPayment {
    /// What an event of the distributor's says, of one payment or of many; `None` if it is another event.
    #[must_use]
    pub fn read(entry: &LogEntry, seen_at: DateTime<Utc>) -> Option<Vec<Self>> {
        let payment = |(place, Payout { id, recipient, amount }): (u64, Payout)| Self {
            grant_id: id,
            recipient,
            amount,
            transaction_hash: entry.transaction_hash,
            block_number: entry.block_number,
            block_hash: entry.block_hash,
            log_index: place << 32 | entry.log_index,
            seen_at,
        };
        payouts(&entry.log).map(|payouts| (0..).zip(payouts).map(payment).collect())
    }
}

/// A grant, as a ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The grant.
    pub request_id: RequestId,
    /// Its id on chain.
    pub grant_id: GrantId,
    /// Who is to be paid.
    pub recipient: Address,
    /// How much, in base units.
    pub amount: U256,
    /// What the ledger says became of it.
    pub claim: Claim,
    /// Since when it says so.
    pub since: DateTime<Utc>,
}

/// What a ledger says became of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nothing yet, and nothing is under way that could tell: only a payment to come will.
    Waiting,
    /// It is under way, and its result will come.
    UnderWay,
    /// It was paid.
    Paid {
        /// By this transaction, where the ledger can say.
        transaction_hash: Option<B256>,
        /// In this block, where the ledger can say.
        block_number: Option<u64>,
    },
    /// It will not be paid.
    Failed,
}

impl Claim {
    /// The block in which it was paid, where the ledger can say.
    #[must_use]
    pub fn block_number(self) -> Option<u64> {
        match self {
            Self::Paid { block_number, .. } => block_number,
            Self::Waiting | Self::UnderWay | Self::Failed => None,
        }
    }

    /// The claim in a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::UnderWay => "under_way",
            Self::Paid { .. } => "completed",
            Self::Failed => "failed",
        }
    }
}

/// Which ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ledger {
    /// The payments of the blockchain service.
    Blockchain,
    /// The grants of the campaign service: what players were promised.
    Campaign,
}

impl Ledger {
    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Blockchain => "blockchain",
            Self::Campaign => "campaign",
        }
    }
}

/// How ledger and chain can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Paid on chain, and no grant of the ledger explains it.
    UnknownPayment,
    /// Completed in the ledger, and not paid on chain.
    MissingPayment,
    /// Paid to another account.
    WrongRecipient,
    /// Paid another amount.
    WrongAmount,
    /// Paid as it should be, by another transaction than the ledger names.
    WrongTransaction,
    /// Paid once more.
    PaidTwice,
    /// Paid as it should be, and failed in the ledger.
    PaidThoughFailed,
    /// Paid as it should be, and the ledger never heard of it: this can be repaired.
    ResultLost,
    /// Paid as it should be, and the ledger has been waiting for the result for too long.
    ResultOverdue,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::UnknownPayment,
        Self::MissingPayment,
        Self::WrongRecipient,
        Self::WrongAmount,
        Self::WrongTransaction,
        Self::PaidTwice,
        Self::PaidThoughFailed,
        Self::ResultLost,
        Self::ResultOverdue,
    ];

    /// The kind in a word, as JSON and metrics have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownPayment => "unknown_payment",
            Self::MissingPayment => "missing_payment",
            Self::WrongRecipient => "wrong_recipient",
            Self::WrongAmount => "wrong_amount",
            Self::WrongTransaction => "wrong_transaction",
            Self::PaidTwice => "paid_twice",
            Self::PaidThoughFailed => "paid_though_failed",
            Self::ResultLost => "result_lost",
            Self::ResultOverdue => "result_overdue",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How far the chain has been read, and how long a result may take.
#[derive(Debug, Clone, Copy)]
pub struct Horizon {
    /// Every block below this has been read.
    pub next_block: u64,
    /// When the comparison began.
    pub now: DateTime<Utc>,
    /// How long something may be on its way: a result to a ledger, or a payment into a final block.
    pub grace: TimeDelta,
}

impl Horizon {
    fn is_overdue(&self, since: DateTime<Utc>) -> bool {
        self.now - since > self.grace
    }
}

/// What came out for one grant.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Ledger and chain say the same.
    Agreed,
    /// They do not yet, and nothing is wrong with that.
    OnItsWay,
    /// They differ; each difference with the payment that shows it, where there is one.
    Differs(Vec<(Kind, Option<&'a ChainPayment>)>),
}

/// Holds a grant against all that was paid under its id, in the order of the chain.
#[must_use]
pub fn compare<'a>(entry: &Entry, paid: &'a [ChainPayment], horizon: &Horizon) -> Verdict<'a> {
    let claimed = match entry.claim {
        Claim::Paid { transaction_hash, .. } => transaction_hash,
        _ => None,
    };
    let named = paid.iter().position(|payment| Some(payment.transaction_hash) == claimed);
    let Some(payment) = paid.get(named.unwrap_or(0)) else {
        return match entry.claim {
            Claim::Paid { block_number, .. }
                if block_number.is_some_and(|block| block < horizon.next_block) || horizon.is_overdue(entry.since) =>
            {
                Verdict::Differs(vec![(Kind::MissingPayment, None)])
            }
            Claim::Paid { .. } => Verdict::OnItsWay,
            Claim::Waiting | Claim::UnderWay | Claim::Failed => Verdict::Agreed,
        };
    };
    let mut differences = Vec::new();
    let mut on_its_way = false;
    let (recipient, amount) = (payment.recipient == entry.recipient, payment.amount == entry.amount);
    match entry.claim {
        // The ledger says that its grant was not paid, and it was not: what was paid under its id is somebody else's.
        Claim::Failed if !(recipient && amount) => differences.push(Kind::UnknownPayment),
        _ if !(recipient && amount) => {
            differences.extend((!recipient).then_some(Kind::WrongRecipient));
            differences.extend((!amount).then_some(Kind::WrongAmount));
        }
        Claim::Failed => differences.push(Kind::PaidThoughFailed),
        Claim::Waiting => differences.push(Kind::ResultLost),
        Claim::UnderWay if horizon.is_overdue(payment.seen_at) => differences.push(Kind::ResultOverdue),
        Claim::UnderWay => on_its_way = true,
        Claim::Paid { transaction_hash: Some(_), .. } if named.is_none() => differences.push(Kind::WrongTransaction),
        Claim::Paid { .. } => {}
    }
    let others = paid.iter().filter(|other| !std::ptr::eq(*other, payment));
    let differences: Vec<_> = differences
        .into_iter()
        .map(|kind| (kind, Some(payment)))
        .chain(others.map(|other| (Kind::PaidTwice, Some(other))))
        .collect();
    match (differences.is_empty(), on_its_way) {
        (false, _) => Verdict::Differs(differences),
        (true, true) => Verdict::OnItsWay,
        (true, false) => Verdict::Agreed,
    }
}

#[cfg(test)]
mod tests;
