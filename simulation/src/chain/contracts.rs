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
/// The most grants that are minted together (`MINT_BATCH_GRANTS`).
const TOGETHER: usize = 64;

/// What must be left before so many grants are minted: their gas (`MINT_GAS`, or `MINT_BATCH_GAS` for each and
/// `MINT_BATCH_BASE_GAS` once), as a call that passes on 63/64 needs it, and the cost of reaching the token.
fn gas_before_minting(count: usize) -> u64 {
    let gas = if count == 1 { 200_000 } else { 100_000 + 26_000 * count as u64 };
    gas * 64 / 63 + 5_000
}

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
    MINTS_BATCHES = "mintsBatches()";
    SUBMITTER_ROLE = "SUBMITTER_ROLE";
    MINTER_ROLE = "MINTER_ROLE";
    GRANT_PAID = "GrantPaid(uint256,address,uint256)";
    GRANTS_PAID = "GrantsPaid(bytes32,uint192,bytes)";
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

/// The payments that an event of the distributor tells of, for those who look for them: id, recipient and amount of each.
#[must_use]
pub fn payments(log: &Log) -> Vec<(U256, Address, U256)> {
    let data = &log.data.data[..];
    match log.topics() {
        _ if log.address != DISTRIBUTOR => vec![],
        [event, id, to] if *event == *GRANT_PAID => {
            vec![((*id).into(), Address::from_word(*to), U256::from_be_slice(data))]
        }
        [event, _, prefix] if *event == *GRANTS_PAID => {
            let length: usize = U256::from_be_slice(&data[32..64]).to();
            let items = data[64..64 + length].chunks_exact(ITEM);
            items.map(|item| read(U256::from_be_bytes(prefix.0) << 64, item)).collect()
        }
        _ => vec![],
    }
}

/// The bytes of an item.
const ITEM: usize = 40;

/// Id, recipient and amount of an item, whose group has this prefix.
fn read(prefix: U256, item: &[u8]) -> (U256, Address, U256) {
    (prefix | U256::from_be_slice(&item[..8]), Address::from_slice(&item[8..28]), U256::from_be_slice(&item[28..]))
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

/// The groups of items that a call of `pay` carries, each of one campaign and one prefix; `None` for another call, and for
/// one that does not follow the format.
#[must_use]
pub fn batch(call: &[u8]) -> Option<Vec<Vec<Item>>> {
    let arguments = call.strip_prefix(&PAY[..4])?;
    let length = |at: usize| usize::try_from(U256::from_be_slice(arguments.get(at..at + 32)?)).ok();
    let at = length(0)?;
    let mut packed = arguments.get(at + 32..)?.get(..length(at)?)?;
    let mut groups = Vec::new();
    while !packed.is_empty() {
        let (header, rest) = packed.split_at_checked(58)?;
        let count = usize::from(u16::from_be_bytes([header[56], header[57]]));
        if count == 0 {
            return None;
        }
        let (group, rest) = rest.split_at_checked(count * ITEM)?;
        let (campaign, prefix) = (B256::from_slice(&header[..32]), U256::from_be_slice(&header[32..56]) << 64);
        let items = group.chunks_exact(ITEM).map(|item| {
            let (id, to, amount) = read(prefix, item);
            Item { campaign, id, to, amount }
        });
        groups.push(items.collect());
        packed = rest;
    }
    (!groups.is_empty()).then_some(groups)
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
            DISTRIBUTOR if is(&MINTS_BATCHES) => word(1_u64),
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
        let groups = batch(data).ok_or_else(|| encode(&MALFORMED_BATCH, &[]))?;
        let mut total = U256::ZERO;
        let mut before: Option<Item> = None;
        for group in groups {
            self.gas_used += 3_000;
            let mut paid = Vec::new();
            let mut items = &group[..];
            while let Some(item) = items.first().copied() {
                if before.is_none_or(|before| before.campaign != item.campaign) {
                    self.gas_used += 24_000;
                }
                if before.is_none_or(|before| before.id >> 8 != item.id >> 8) {
                    self.gas_used += 22_100;
                }
                before = Some(item);
                let count = self.payable(items);
                if count == 0 {
                    self.refuse(item);
                } else {
                    self.mint_all(&items[..count], gas_limit, &mut paid)?;
                }
                items = &items[count.max(1)..];
            }
            total += paid.iter().map(|item| item.amount).sum::<U256>();
            self.announce(&paid);
        }
        self.spend_day(total, timestamp)
    }

    /// How many of the first items can be minted together: in one word, none paid before, all within the campaign's cap.
    fn payable(&self, items: &[Item]) -> usize {
        let Contracts { paid, campaign_paid, campaign_caps, forgetful, .. } = &*self.contracts;
        let campaign = &items[0].campaign;
        let cap = campaign_caps.get(campaign).copied().unwrap_or_default();
        let mut sum = campaign_paid.get(campaign).copied().unwrap_or_default();
        let mut ids = BTreeSet::new();
        let can_be_paid = |item: &&Item| {
            sum += item.amount;
            let is_known = !ids.insert(item.id) || paid.contains(&item.id);
            item.id >> 8 == items[0].id >> 8 && (!is_known || *forgetful) && (cap.is_zero() || sum <= cap)
        };
        items.iter().take(TOGETHER).take_while(can_be_paid).count()
    }

    /// Mints what can be minted: all together, or, where the token does not take one of them, one by one.
    fn mint_all(&mut self, items: &[Item], gas_limit: u64, paid: &mut Vec<Item>) -> Result<(), Vec<u8>> {
        if items.len() > 1 {
            self.need(gas_before_minting(items.len()), gas_limit)?;
            let taken = items.iter().take_while(|item| self.refusal(item).is_none()).count();
            if taken < items.len() {
                // They are minted in vain.
                self.gas_used += 24_000 * taken as u64;
            }
            if taken == items.len() {
                for item in items {
                    self.mint(*item);
                }
                paid.extend(items);
                return Ok(());
            }
        }
        for item in items {
            self.need(gas_before_minting(1), gas_limit)?;
            match self.refusal(item) {
                None => {
                    self.gas_used += 1_500;
                    self.mint(*item);
                    paid.push(*item);
                }
                Some(reason) => self.reject(*item, reason),
            }
        }
        Ok(())
    }

    fn need(&self, gas: u64, gas_limit: u64) -> Result<(), Vec<u8>> {
        if gas_limit < self.gas_used + gas { Err(encode(&NOT_ENOUGH_GAS, &[])) } else { Ok(()) }
    }

    /// Why the token does not take a recipient.
    fn refusal(&self, item: &Item) -> Option<Vec<u8>> {
        if item.to[..2] == REFUSED {
            return Some(vec![]);
        }
        self.contracts.token_paused.then(|| encode(&ENFORCED_PAUSE, &[]))
    }

    /// Tells of an item that cannot be minted: it was paid before, or is over its campaign's cap.
    fn refuse(&mut self, item: Item) {
        if self.contracts.paid.contains(&item.id) && !self.contracts.forgetful {
            self.gas_used += 1_800;
            return self.tell(DISTRIBUTOR, vec![*GRANT_SKIPPED, item.id.into()], vec![]);
        }
        let cap = self.contracts.campaign_caps.get(&item.campaign).copied().unwrap_or_default();
        self.reject(item, encode(&CAMPAIGN_CAP_EXCEEDED, &[item.campaign, cap.into()]));
    }

    /// Tells what was paid of a group.
    fn announce(&mut self, paid: &[Item]) {
        if let [Item { id, to, amount, .. }] = paid {
            self.announce_one(*id, *to, *amount);
        } else if let Some(Item { campaign, id, .. }) = paid.first() {
            let mut data = [word(0x20_u64), word(paid.len() * ITEM)].concat();
            for Item { id, to, amount, .. } in paid {
                data.extend(&id.to_be_bytes::<32>()[24..]);
                data.extend(to);
                data.extend(&amount.to_be_bytes::<32>()[20..]);
            }
            data.resize(data.len().next_multiple_of(32), 0);
            let prefix: U256 = *id >> 64;
            self.tell(DISTRIBUTOR, vec![*GRANTS_PAID, *campaign, prefix.into()], data);
        }
    }

    fn announce_one(&mut self, id: U256, to: Address, amount: U256) {
        self.tell(DISTRIBUTOR, vec![*GRANT_PAID, id.into(), to.into_word()], B256::from(amount).to_vec());
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
        match self.refusal(&item) {
            None => {}
            Some(reason) if reason.is_empty() => return Err(encode(&MINT_REVERTED, &[])),
            Some(reason) => return Err(reason),
        }
        self.mint(item);
        self.announce_one(id, to, amount);
        Ok(())
    }

    /// Creates the tokens of a grant.
    fn mint(&mut self, item: Item) {
        let Item { campaign, id, to, amount } = item;
        let paid = self.contracts.campaign_paid.get(&campaign).copied().unwrap_or_default();
        let holds = self.contracts.balances.get(&to).copied();
        self.gas_used += if holds.is_some_and(|holds| !holds.is_zero()) { 8_300 } else { 25_400 };
        self.contracts.balances.insert(to, holds.unwrap_or_default() + amount);
        self.undo.push(Undo::Balance(to, holds.unwrap_or_default()));
        self.tell(TOKEN, vec![*TRANSFER, B256::ZERO, to.into_word()], B256::from(amount).to_vec());
        self.contracts.campaign_paid.insert(campaign, paid + amount);
        self.undo.push(Undo::Campaign(campaign, paid));
        if self.contracts.paid.insert(id) {
            self.undo.push(Undo::Paid(id));
        }
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
