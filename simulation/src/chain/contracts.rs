//! The rules of `contracts/src`: the distributor, its token and the wallet factory, written a second time.
//!
//! Nothing here comes from the service: calls are decoded and events encoded by the letter of the ABI, so that a mistake
//! in the service's own encoding shows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use alloy::primitives::{Address, B256, Bytes, Log, U256, keccak256};

/// Where the distributor is.
pub const DISTRIBUTOR: Address = Address::repeat_byte(0xd1);
/// Where the token is.
pub const TOKEN: Address = Address::repeat_byte(0x70);
/// Who claims for players: anybody may.
pub const CLAIMER: Address = Address::repeat_byte(0xc1);
/// Where the wallet factory is.
pub const FACTORY: Address = Address::repeat_byte(0xfa);
/// The decimals of the token.
pub const DECIMALS: u8 = 18;
/// Recipients whose address begins so are refused by the token.
pub const REFUSED: [u8; 2] = [0x0b, 0xad];
/// The most gas that a transaction may have (EIP-7825).
pub const MAX_GAS: u64 = 16_777_216;
/// What every mint gets (`MINT_GAS`), as a call that passes on 63/64 needs it, and the cost of reaching the token.
const GAS_BEFORE_MINT: u64 = 200_000 * 64 / 63 + 5_000;

/// The hash of a wallet's creation code.
#[must_use]
pub fn wallet_code_hash() -> B256 {
    B256::repeat_byte(0xcc)
}

/// The account that a user without a wallet is paid at.
#[must_use]
pub fn wallet_of(user_id: &str) -> Address {
    FACTORY.create2(keccak256(user_id), wallet_code_hash())
}

macro_rules! hashes {
    ($($name:ident = $text:literal;)*) => {
        $(static $name: LazyLock<B256> = LazyLock::new(|| keccak256($text));)*
    };
}
hashes! {
    PAY = "pay(bytes)";
    CLAIM = "claim(bytes32,uint256,address,uint256,bytes32[])";
    SET_CLAIM_ROOT = "setClaimRoot(bytes32,bytes32)";
    CLAIM_ROOT_SET = "ClaimRootSet(bytes32,bytes32)";
    CLAIMS_CLOSED = "ClaimsClosed(bytes32)";
    INVALID_CLAIM_PROOF = "InvalidClaimProof()";
    GRANT_ALREADY_PAID = "GrantAlreadyPaid(uint256)";
    MINT_REVERTED = "MintReverted()";
    HAS_ROLE = "hasRole(bytes32,address)";
    TOKEN_VIEW = "token()";
    DECIMALS_VIEW = "decimals()";
    CODE_HASH = "WALLET_CODE_HASH()";
    WALLET_OF = "walletOf(bytes32)";
    IS_PAID = "isPaid(uint256)";
    SUBMITTER_ROLE = "SUBMITTER_ROLE";
    MINTER_ROLE = "MINTER_ROLE";
    GRANT_PAID = "GrantPaid(uint256,address,uint256)";
    GRANT_SKIPPED = "GrantSkipped(uint256)";
    GRANT_REJECTED = "GrantRejected(uint256,address,uint256,bytes)";
    TRANSFER = "Transfer(address,address,uint256)";
    MALFORMED_BATCH = "MalformedBatch()";
    NOT_ENOUGH_GAS = "NotEnoughGas()";
    ENFORCED_PAUSE = "EnforcedPause()";
    DAILY_CAP_EXCEEDED = "DailyCapExceeded(uint256,uint256)";
    CAMPAIGN_CAP_EXCEEDED = "CampaignCapExceeded(bytes32,uint256)";
    UNAUTHORIZED = "AccessControlUnauthorizedAccount(address,bytes32)";
}

/// A selector with its words.
fn encode(hash: &B256, words: &[B256]) -> Vec<u8> {
    let words = words.iter().flatten().copied();
    hash[..4].iter().copied().chain(words).collect()
}

fn word(number: impl TryInto<u64>) -> B256 {
    B256::from(U256::from(number.try_into().unwrap_or(u64::MAX)))
}

/// The event that a grant was paid, for those who look for it.
#[must_use]
pub fn grant_paid() -> B256 {
    *GRANT_PAID
}

/// One item of a packed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// `keccak256` of the campaign's name.
    pub campaign: B256,
    /// The grant's id on chain.
    pub id: U256,
    /// Who is to be paid.
    pub to: Address,
    /// How much, in base units.
    pub amount: U256,
}

/// A call of `claim`.
#[must_use]
pub fn claim(item: &Item, proof: &[B256]) -> Bytes {
    let words = [item.campaign, item.id.into(), item.to.into_word(), item.amount.into(), word(0xa0_u64)];
    let length = word(proof.len());
    encode(&CLAIM, &[&words[..], &[length], proof].concat()).into()
}

/// What a call of `claim` asks for, and its proof; `None` where it is none.
fn claimed(call: &[u8]) -> Option<(Item, Vec<B256>)> {
    let arguments = call.strip_prefix(&CLAIM[..4])?;
    let argument = |at: usize| arguments.get(at * 32..(at + 1) * 32).map(B256::from_slice);
    let item = Item {
        campaign: argument(0)?,
        id: argument(1)?.into(),
        to: Address::from_word(argument(2)?),
        amount: argument(3)?.into(),
    };
    let length = usize::try_from(U256::from_be_bytes(argument(5)?.0)).ok()?;
    (6..6 + length).map(argument).collect::<Option<_>>().map(|proof| (item, proof))
}

/// Where a proof leads from an item.
fn reached(item: &Item, proof: &[B256]) -> B256 {
    let leaf: Vec<u8> = [B256::from(item.id), item.to.into_word(), B256::from(item.amount)].concat();
    proof
        .iter()
        .fold(keccak256(keccak256(leaf)), |node, sibling| keccak256([node.min(*sibling), node.max(*sibling)].concat()))
}

/// The batch that a call of `pay` carries; `None` for another call, and for one that does not follow the format.
#[must_use]
pub fn batch(call: &[u8]) -> Option<Vec<Item>> {
    let arguments = call.strip_prefix(&PAY[..4])?;
    let length = |at: usize| usize::try_from(U256::from_be_slice(arguments.get(at..at + 32)?)).ok();
    let at = length(0)?;
    let mut packed = arguments.get(at + 32..)?.get(..length(at)?)?;
    let mut items = Vec::new();
    while !packed.is_empty() {
        let (header, rest) = packed.split_at_checked(58)?;
        let count = usize::from(u16::from_be_bytes([header[56], header[57]]));
        if count == 0 {
            return None;
        }
        let (group, rest) = rest.split_at_checked(count * 40)?;
        for item in group.chunks_exact(40) {
            let id = U256::from_be_slice(&header[32..56]) << 64 | U256::from_be_slice(&item[..8]);
            let (to, amount) = (Address::from_slice(&item[8..28]), U256::from_be_slice(&item[28..]));
            items.push(Item { campaign: B256::from_slice(&header[..32]), id, to, amount });
        }
        packed = rest;
    }
    (!items.is_empty()).then_some(items)
}

/// What is stored on chain.
#[derive(Debug, Default)]
pub(super) struct Contracts {
    /// Who may submit batches.
    pub(super) submitter: Address,
    pub(super) paused: bool,
    pub(super) token_paused: bool,
    /// 0 for none.
    pub(super) daily_cap: U256,
    pub(super) campaign_caps: BTreeMap<B256, U256>,
    /// A fault of the contract's own: no paid bit is ever seen.
    pub(super) forgetful: bool,
    /// Each campaign's root, and the one before it.
    roots: BTreeMap<B256, [B256; 2]>,
    paid: BTreeSet<U256>,
    campaign_paid: BTreeMap<B256, U256>,
    paid_on_day: BTreeMap<u64, U256>,
    balances: BTreeMap<Address, U256>,
}

/// How to undo what a transaction stored.
#[derive(Debug)]
pub(super) enum Undo {
    Paid(U256),
    Campaign(B256, U256),
    Day(u64, U256),
    Balance(Address, U256),
    Root(B256, [B256; 2]),
}

/// What a call did.
#[derive(Debug)]
pub(super) struct Effect {
    pub(super) gas_used: u64,
    /// What the contracts told; or why it was reverted.
    pub(super) outcome: Result<Vec<Log>, Bytes>,
    /// Nothing where it was reverted.
    pub(super) undo: Vec<Undo>,
}

impl Contracts {
    pub(super) fn new(submitter: Address) -> Self {
        Self { submitter, ..Self::default() }
    }

    /// What an account holds of the token, in base units.
    pub(super) fn balances(&self) -> &BTreeMap<Address, U256> {
        &self.balances
    }

    /// The answer of a view; `None` where there is no such view.
    pub(super) fn view(&self, to: Address, call: &[u8]) -> Option<Bytes> {
        let (selector, arguments) = call.split_at_checked(4)?;
        let argument = |at: usize| arguments.get(at * 32..(at + 1) * 32).map(B256::from_slice);
        let is = |hash: &B256| selector == &hash[..4];
        let answer = match to {
            DISTRIBUTOR if is(&TOKEN_VIEW) => TOKEN.into_word(),
            DISTRIBUTOR if is(&IS_PAID) => word(u64::from(self.paid.contains(&argument(0)?.into()))),
            DISTRIBUTOR if is(&HAS_ROLE) => {
                word(u64::from(argument(0)? == *SUBMITTER_ROLE && argument(1)? == self.submitter.into_word()))
            }
            TOKEN if is(&DECIMALS_VIEW) => word(DECIMALS),
            TOKEN if is(&HAS_ROLE) => {
                word(u64::from(argument(0)? == *MINTER_ROLE && argument(1)? == DISTRIBUTOR.into_word()))
            }
            FACTORY if is(&CODE_HASH) => wallet_code_hash(),
            FACTORY if is(&WALLET_OF) => FACTORY.create2(argument(0)?, wallet_code_hash()).into_word(),
            _ => return None,
        };
        Some(answer.0.into())
    }

    /// Runs a transaction's call.
    pub(super) fn run(&mut self, from: Address, to: Address, data: &[u8], gas_limit: u64, timestamp: u64) -> Effect {
        let (zeros, others) = data.iter().fold((0, 0), |(zeros, others), byte| match byte {
            0 => (zeros + 1, others),
            _ => (zeros, others + 1),
        });
        let mut run = Run { contracts: self, gas_used: 21_000 + zeros * 4 + others * 16, logs: vec![], undo: vec![] };
        let outcome = match to {
            DISTRIBUTOR if data.starts_with(&SET_CLAIM_ROOT[..4]) => run.set_claim_root(from, data),
            DISTRIBUTOR if data.starts_with(&CLAIM[..4]) => run.claim(data, timestamp),
            DISTRIBUTOR => run.pay(from, data, gas_limit, timestamp),
            _ => Ok(()),
        };
        let Run { gas_used, logs, undo, .. } = run;
        match outcome {
            Ok(()) => Effect { gas_used, outcome: Ok(logs), undo },
            Err(reason) => {
                self.undo(undo);
                Effect { gas_used: gas_used.min(gas_limit), outcome: Err(reason.into()), undo: vec![] }
            }
        }
    }

    pub(super) fn undo(&mut self, undo: Vec<Undo>) {
        for undo in undo.into_iter().rev() {
            match undo {
                Undo::Paid(id) => drop(self.paid.remove(&id)),
                Undo::Campaign(campaign, before) => drop(self.campaign_paid.insert(campaign, before)),
                Undo::Day(day, before) => drop(self.paid_on_day.insert(day, before)),
                Undo::Balance(account, before) => drop(self.balances.insert(account, before)),
                Undo::Root(campaign, before) => drop(self.roots.insert(campaign, before)),
            }
        }
    }
}

/// A call that is running.
struct Run<'a> {
    contracts: &'a mut Contracts,
    gas_used: u64,
    logs: Vec<Log>,
    undo: Vec<Undo>,
}

impl Run<'_> {
    fn pay(&mut self, from: Address, data: &[u8], gas_limit: u64, timestamp: u64) -> Result<(), Vec<u8>> {
        self.gas_used += 30_000;
        if !data.starts_with(&PAY[..4]) {
            return Err(vec![]);
        }
        if from != self.contracts.submitter {
            return Err(encode(&UNAUTHORIZED, &[from.into_word(), *SUBMITTER_ROLE]));
        }
        if self.contracts.paused {
            return Err(encode(&ENFORCED_PAUSE, &[]));
        }
        let items = batch(data).ok_or_else(|| encode(&MALFORMED_BATCH, &[]))?;
        let mut total = U256::ZERO;
        let mut before: Option<Item> = None;
        for item in items {
            if before.is_none_or(|before| before.campaign != item.campaign) {
                self.gas_used += 24_000;
            }
            if before.is_none_or(|before| before.id >> 8 != item.id >> 8) {
                self.gas_used += 22_100;
            }
            before = Some(item);
            total += self.pay_one(item, gas_limit)?;
        }
        self.spend_day(total, timestamp)
    }

    fn spend_day(&mut self, total: U256, timestamp: u64) -> Result<(), Vec<u8>> {
        let day = timestamp / 86_400;
        let spent = self.contracts.paid_on_day.get(&day).copied().unwrap_or_default();
        let cap = self.contracts.daily_cap;
        if !total.is_zero() && !cap.is_zero() && spent + total > cap {
            return Err(encode(&DAILY_CAP_EXCEEDED, &[word(day), cap.into()]));
        }
        self.contracts.paid_on_day.insert(day, spent + total);
        self.undo.push(Undo::Day(day, spent));
        Ok(())
    }

    fn set_claim_root(&mut self, from: Address, data: &[u8]) -> Result<(), Vec<u8>> {
        self.gas_used += 30_000;
        if from != self.contracts.submitter {
            return Err(encode(&UNAUTHORIZED, &[from.into_word(), *SUBMITTER_ROLE]));
        }
        let arguments = data.get(4..68).ok_or_else(Vec::new)?;
        let (campaign, root) = (B256::from_slice(&arguments[..32]), B256::from_slice(&arguments[32..]));
        let before = self.contracts.roots.get(&campaign).copied().unwrap_or_default();
        if root != before[0] {
            let previous = if root.is_zero() { B256::ZERO } else { before[0] };
            self.contracts.roots.insert(campaign, [root, previous]);
            self.undo.push(Undo::Root(campaign, before));
        }
        self.tell(DISTRIBUTOR, vec![*CLAIM_ROOT_SET, campaign], root.to_vec());
        Ok(())
    }

    fn claim(&mut self, data: &[u8], timestamp: u64) -> Result<(), Vec<u8>> {
        self.gas_used += 60_000;
        if self.contracts.paused {
            return Err(encode(&ENFORCED_PAUSE, &[]));
        }
        let (item, proof) = claimed(data).ok_or_else(Vec::new)?;
        let Item { campaign, id, to, amount } = item;
        if self.contracts.paid.contains(&id) && !self.contracts.forgetful {
            return Err(encode(&GRANT_ALREADY_PAID, &[id.into()]));
        }
        let roots = self.contracts.roots.get(&campaign).copied().unwrap_or_default();
        if roots[0].is_zero() {
            return Err(encode(&CLAIMS_CLOSED, &[campaign]));
        }
        if !roots.contains(&reached(&item, &proof)) {
            return Err(encode(&INVALID_CLAIM_PROOF, &[]));
        }
        let paid = self.contracts.campaign_paid.get(&campaign).copied().unwrap_or_default();
        let cap = self.contracts.campaign_caps.get(&campaign).copied().unwrap_or_default();
        if !cap.is_zero() && paid + amount > cap {
            return Err(encode(&CAMPAIGN_CAP_EXCEEDED, &[campaign, cap.into()]));
        }
        self.spend_day(amount, timestamp)?;
        if to[..2] == REFUSED {
            return Err(encode(&MINT_REVERTED, &[]));
        }
        if self.contracts.token_paused {
            return Err(encode(&ENFORCED_PAUSE, &[]));
        }
        self.mint(item, paid);
        Ok(())
    }

    /// Creates the tokens of a grant, whose campaign has paid so much before.
    fn mint(&mut self, item: Item, paid: U256) {
        let Item { campaign, id, to, amount } = item;
        let holds = self.contracts.balances.get(&to).copied();
        self.gas_used += if holds.is_some_and(|holds| !holds.is_zero()) { 9_000 } else { 26_000 };
        self.contracts.balances.insert(to, holds.unwrap_or_default() + amount);
        self.undo.push(Undo::Balance(to, holds.unwrap_or_default()));
        self.tell(TOKEN, vec![*TRANSFER, B256::ZERO, to.into_word()], B256::from(amount).to_vec());
        self.contracts.campaign_paid.insert(campaign, paid + amount);
        self.undo.push(Undo::Campaign(campaign, paid));
        if self.contracts.paid.insert(id) {
            self.undo.push(Undo::Paid(id));
        }
        self.tell(DISTRIBUTOR, vec![*GRANT_PAID, id.into(), to.into_word()], B256::from(amount).to_vec());
    }

    /// What was minted.
    fn pay_one(&mut self, item: Item, gas_limit: u64) -> Result<U256, Vec<u8>> {
        let Item { campaign, id, to, amount } = item;
        if self.contracts.paid.contains(&id) && !self.contracts.forgetful {
            self.gas_used += 1_800;
            self.tell(DISTRIBUTOR, vec![*GRANT_SKIPPED, id.into()], vec![]);
            return Ok(U256::ZERO);
        }
        let paid = self.contracts.campaign_paid.get(&campaign).copied().unwrap_or_default();
        let cap = self.contracts.campaign_caps.get(&campaign).copied().unwrap_or_default();
        if !cap.is_zero() && paid + amount > cap {
            self.reject(item, encode(&CAMPAIGN_CAP_EXCEEDED, &[campaign, cap.into()]));
            return Ok(U256::ZERO);
        }
        if gas_limit < self.gas_used + GAS_BEFORE_MINT {
            return Err(encode(&NOT_ENOUGH_GAS, &[]));
        }
        if to[..2] == REFUSED {
            self.reject(item, vec![]);
            return Ok(U256::ZERO);
        }
        if self.contracts.token_paused {
            self.reject(item, encode(&ENFORCED_PAUSE, &[]));
            return Ok(U256::ZERO);
        }
        self.mint(item, paid);
        Ok(amount)
    }

    fn reject(&mut self, item: Item, reason: Vec<u8>) {
        self.gas_used += 12_000;
        let mut data = B256::from(item.amount).to_vec();
        data.extend(word(0x40_u64));
        data.extend(word(reason.len()));
        let padding = reason.len().next_multiple_of(32) - reason.len();
        data.extend(reason);
        data.extend(std::iter::repeat_n(0, padding));
        self.tell(DISTRIBUTOR, vec![*GRANT_REJECTED, item.id.into(), item.to.into_word()], data);
    }

    fn tell(&mut self, address: Address, topics: Vec<B256>, data: Vec<u8>) {
        self.logs.push(Log::new_unchecked(address, topics, data.into()));
    }
}
