//! What an audit found: counted, listed up to a limit, told to people and to programs.

use std::collections::BTreeMap;
use std::fmt;

use alloy::primitives::utils::format_units;
use alloy::primitives::{Address, B256, U256};
use serde::Serialize;
use shared::id::RequestId;

use super::seals::{Broken, Sealed};
use super::{ChainPayment, Claim, Entry, Kind, Ledger, Verdict};
use crate::store::Source;

/// The most differences that are listed. All are counted.
pub const LISTED: usize = 1000;

/// The most differences that the text shows.
const SHOWN: usize = 20;

/// What an audit found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether ledgers and chain say the same.
    pub equal: bool,
    /// What was read of the chain.
    pub chain: Read,
    /// What was read of each ledger, and how it differs.
    pub ledgers: BTreeMap<Ledger, Compared>,
    /// What was read of the campaign service's ledger of events, where it was.
    pub sealed: Option<Sealed>,
    /// Differences of all ledgers, by kind.
    pub counts: BTreeMap<Kind, u64>,
    /// Payments whose lost result was recorded by this audit. They are no differences any more.
    pub repaired: u64,
    /// The first differences that were found, at most [`LISTED`].
    pub differences: Vec<Difference>,
    #[serde(skip)]
    decimals: u8,
}

/// What was read of the chain.
#[derive(Debug, Clone, Serialize)]
pub struct Read {
    /// The chain (EIP-155).
    pub chain_id: u64,
    /// Whose events.
    #[serde(serialize_with = "checksummed")]
    pub distributor: Address,
    /// The first block.
    pub first_block: u64,
    /// All blocks below this.
    pub next_block: u64,
    /// How many payments there are in them.
    pub payments: u64,
}

/// What was read of a ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// How many grants it has.
    pub grants: u64,
    /// How many of them it calls completed.
    pub completed: u64,
    /// How many are paid and wait for their result, or are reported and wait for a final block.
    pub on_their_way: u64,
    /// How it differs, by kind.
    pub differences: BTreeMap<Kind, u64>,
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Difference {
    /// Between the chain and this ledger.
    pub ledger: Ledger,
    /// How they differ.
    pub kind: Kind,
    /// The id on chain, 64 hexadecimal digits.
    pub grant_id: String,
    /// The grant, where the ledger has it.
    pub request_id: Option<RequestId>,
    /// What the ledger says, where it says anything.
    pub expected: Option<Expected>,
    /// What the chain says, where it says anything.
    pub found: Option<Found>,
}

/// What a ledger says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Expected {
    /// Who is to be paid.
    #[serde(serialize_with = "checksummed")]
    pub recipient: Address,
    /// How much, in base units, decimal.
    #[serde(serialize_with = "decimal")]
    pub amount: U256,
    /// What became of it: `waiting`, `under_way`, `completed` or `failed`.
    pub state: &'static str,
    /// The transaction that paid it, where the ledger names one.
    pub transaction_hash: Option<B256>,
    /// The transaction's block, where the ledger names one.
    pub block_number: Option<u64>,
}

/// What the chain says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Found {
    /// Who was paid.
    #[serde(serialize_with = "checksummed")]
    pub recipient: Address,
    /// How much, in base units, decimal.
    #[serde(serialize_with = "decimal")]
    pub amount: U256,
    /// By which transaction.
    pub transaction_hash: B256,
    /// In which block.
    pub block_number: u64,
}

fn checksummed<S: serde::Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

fn decimal<S: serde::Serializer>(amount: &U256, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(amount)
}

impl Report {
    /// The report of an audit that has found nothing yet.
    #[must_use]
    pub fn new(source: &Source, next_block: u64, decimals: u8) -> Self {
        Self {
            equal: true,
            chain: Read {
                chain_id: source.chain_id,
                distributor: source.distributor,
                first_block: source.first_block,
                next_block,
                payments: 0,
            },
            ledgers: BTreeMap::new(),
            sealed: None,
            counts: BTreeMap::new(),
            repaired: 0,
            differences: Vec::new(),
            decimals,
        }
    }

    /// How many differences there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// What was read of a ledger so far.
    pub fn ledger(&mut self, ledger: Ledger) -> &mut Compared {
        self.ledgers.entry(ledger).or_default()
    }

    /// Leaves a ledger out, and all that was found in it.
    pub fn leave_out(&mut self, ledger: Ledger) {
        for (kind, count) in self.ledgers.remove(&ledger).unwrap_or_default().differences {
            *self.counts.entry(kind).or_default() -= count;
        }
        self.counts.retain(|_, count| *count > 0);
        self.differences.retain(|difference| difference.ledger != ledger);
        self.sealed = None;
        self.equal = self.counts.is_empty();
    }

    /// Adds a grant of a ledger and what came out for it.
    pub fn add(&mut self, ledger: Ledger, entry: &Entry, verdict: &Verdict<'_>) {
        let compared = self.ledger(ledger);
        compared.grants += 1;
        compared.completed += u64::from(matches!(entry.claim, Claim::Paid { .. }));
        compared.on_their_way += u64::from(*verdict == Verdict::OnItsWay);
        if let Verdict::Differs(differences) = verdict {
            for (kind, payment) in differences {
                self.differ(ledger, *kind, Some(entry), *payment);
            }
        }
    }

    /// Adds a payment that no grant of a ledger explains.
    pub fn add_unknown(&mut self, ledger: Ledger, payment: &ChainPayment) {
        self.differ(ledger, Kind::UnknownPayment, None, Some(payment));
    }

    fn differ(&mut self, ledger: Ledger, kind: Kind, entry: Option<&Entry>, payment: Option<&ChainPayment>) {
        self.equal = false;
        *self.counts.entry(kind).or_default() += 1;
        *self.ledger(ledger).differences.entry(kind).or_default() += 1;
        let id = entry.map(|entry| entry.grant_id).or(payment.map(|payment| payment.grant_id));
        let Some(id) = id.filter(|_| self.differences.len() < LISTED) else { return };
        self.differences.push(Difference {
            ledger,
            kind,
            grant_id: id.to_string(),
            request_id: entry.map(|entry| entry.request_id.clone()),
            expected: entry.map(Expected::new),
            found: payment.map(Found::new),
        });
    }

    fn tokens(&self, amount: U256) -> String {
        let text = format_units(amount, self.decimals).unwrap_or_else(|_| amount.to_string());
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        text.to_owned()
    }
}

impl Expected {
    fn new(entry: &Entry) -> Self {
        let (transaction_hash, block_number) = match entry.claim {
            Claim::Paid { transaction_hash, block_number } => (transaction_hash, block_number),
            _ => (None, None),
        };
        Self {
            recipient: entry.recipient,
            amount: entry.amount,
            state: entry.claim.as_str(),
            transaction_hash,
            block_number,
        }
    }
}

impl Found {
    fn new(payment: &ChainPayment) -> Self {
        Self {
            recipient: payment.recipient,
            amount: payment.amount,
            transaction_hash: payment.transaction_hash,
            block_number: payment.block_number,
        }
    }
}

/// For people: a line for what was read of each side, then the differences.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Read { chain_id, distributor, first_block, next_block, payments } = &self.chain;
        let blocks = match next_block.checked_sub(1).filter(|last| last >= first_block) {
            Some(last) => format!("blocks {first_block} to {last}"),
            None => "no final block".to_owned(),
        };
        writeln!(f, "chain {chain_id}, distributor {distributor}, {blocks}: {payments} payments")?;
        for (ledger, Compared { grants, completed, on_their_way, .. }) in &self.ledgers {
            let name = ledger.as_str();
            writeln!(f, "ledger of {name}: {grants} grants, {completed} completed, {on_their_way} on their way")?;
        }
        if let Some(Sealed { entries, sequence, broken }) = &self.sealed {
            writeln!(f, "events of campaign: up to {sequence}, {entries} of them new")?;
            if let Some(Broken { sequence, reason }) = broken {
                writeln!(f, "\nTHE LEDGER OF EVENTS WAS CHANGED: entry {sequence}: {reason}")?;
            }
        }
        if self.repaired > 0 {
            writeln!(f, "repaired: {} payments whose result was lost", self.repaired)?;
        }
        if self.equal {
            return writeln!(f, "ledger and chain are equal");
        }
        if self.counts.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nledger and chain differ: {} differences", self.total())?;
        for (kind, count) in &self.counts {
            writeln!(f, "  {count:>8}  {kind}")?;
        }
        for difference in self.differences.iter().take(SHOWN) {
            writeln!(f)?;
            self.describe(f, difference)?;
        }
        let hidden = self.total().saturating_sub(self.differences.len().min(SHOWN) as u64);
        if hidden > 0 {
            writeln!(f, "\nand {hidden} more; --json lists the first {LISTED}")?;
        }
        Ok(())
    }
}

impl Report {
    fn describe(&self, f: &mut fmt::Formatter<'_>, difference: &Difference) -> fmt::Result {
        let Difference { ledger, kind, grant_id, request_id, expected, found } = difference;
        writeln!(f, "{kind} (ledger of {})", ledger.as_str())?;
        writeln!(f, "  grant id  {grant_id}")?;
        if let Some(request_id) = request_id {
            writeln!(f, "  request   {request_id}")?;
        }
        match expected {
            None => writeln!(f, "  expected  nothing")?,
            Some(Expected { recipient, amount, state, transaction_hash, block_number }) => {
                write!(f, "  expected  {} tokens to {recipient}, {state}", self.tokens(*amount))?;
                if let Some(hash) = transaction_hash {
                    write!(f, " in {hash}")?;
                }
                if let Some(number) = block_number {
                    write!(f, ", block {number}")?;
                }
                writeln!(f)?;
            }
        }
        match found {
            None => writeln!(f, "  found     nothing"),
            Some(Found { recipient, amount, transaction_hash, block_number }) => {
                let tokens = self.tokens(*amount);
                writeln!(f, "  found     {tokens} tokens to {recipient} in {transaction_hash}, block {block_number}")
            }
        }
    }
}
