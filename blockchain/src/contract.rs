//! The contracts as this service sees them: what it sends, and what it reads out of a receipt.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use alloy::primitives::{Address, Bytes, Log, U256, keccak256};
use alloy::rpc::types::Filter;
use alloy::sol;
use alloy::sol_types::{SolEvent, SolInterface};

use shared::id::TokenAmount;

use crate::domain::{Failure, GrantId, Outcome, Payment};

sol!(
    #[derive(Debug)]
    GrantDistributor,
    concat!(env!("CARGO_MANIFEST_DIR"), "/../contracts/artifacts/GrantDistributor.json")
);
sol!(
    #[derive(Debug)]
    GrantToken,
    concat!(env!("CARGO_MANIFEST_DIR"), "/../contracts/artifacts/GrantToken.json")
);
sol!(
    #[derive(Debug)]
    WalletFactory,
    concat!(env!("CARGO_MANIFEST_DIR"), "/../contracts/artifacts/WalletFactory.json")
);

/// Payments packed as the distributor's `pay` takes them, and what they will cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// `batch := group+`, see `contracts/src/GrantDistributor.sol`.
    pub packed: Bytes,
    /// Enough gas for every payment to a recipient who has no tokens yet, and, as far as a transaction may have it, for one
    /// among them that cannot be paid.
    pub gas_limit: u64,
}

/// The gas of a transaction before its first group: 21,000, the contract's entry, the day's sum, and what the distributor
/// wants to be left before it mints, beyond what a mint uses: `MINT_GAS`, or `MINT_BATCH_BASE_GAS` and some of each
/// grant's `MINT_BATCH_GAS`.
const GAS_BASE: u64 = 400_000;

/// The gas that a group adds: its header in the calldata, its campaign's sum, read and written, its event, and a mint that
/// begins anew.
const GAS_PER_GROUP: u64 = 30_000;

/// The gas that a word of the bitmap adds: read and written for the first time, and a mint that begins anew.
const GAS_PER_WORD: u64 = 26_000;

/// `MINT_BATCH_GRANTS`: so many grants are minted together. If one of them cannot be, their gas is spent in vain before
/// they are minted one by one.
const MINTED_TOGETHER: usize = 64;

/// What a grant costs at most where the token mints many together, as `GrantToken` does: 25,500 to a fresh recipient, and
/// more zeros in the calldata are fewer.
const GAS_PER_GRANT_TOGETHER: u64 = 26_000;

/// What a grant costs at most in other tokens that do little more than to mint, and with distributors that announce each
/// payment by itself.
const GAS_PER_GRANT_ALONE: u64 = 30_000;

/// The gas that publishing a root takes at most: 21,000, the signer's role, two words of storage and an event.
pub const GAS_OF_CLAIM_ROOT: u64 = 150_000;

/// The most gas that a transaction may have (EIP-7825).
pub const MAX_TRANSACTION_GAS: u64 = 16_777_216;

/// How many grants there is room for, of so much gas, beside transactions of so many grants.
#[must_use]
pub fn room_for(gas: u64, transactions: u64, grants: u64, gas_per_grant: u64) -> usize {
    let taken = (transactions + 1) * GAS_BASE + grants * gas_per_grant;
    usize::try_from(gas.saturating_sub(taken) / gas_per_grant).unwrap_or(usize::MAX)
}

impl Batch {
    /// Packs payments, whole tokens of 10^`decimals` base units, into groups of one campaign and one id prefix, in the
    /// order of their ids. `gas_per_grant` is what one mint of the token costs at most.
    ///
    /// # Panics
    ///
    /// If an amount does not fit 96 bits, which [`max_decimals`] rules out at start.
    #[must_use]
    pub fn pack(payments: &[Payment], decimals: u8, gas_per_grant: u64) -> Self {
        let mut items: Vec<_> = payments
            .iter()
            .map(|payment| {
                let amount = base_units(payment.token_amount, decimals);
                (keccak256(payment.campaign_id.as_str()), payment.grant_id, payment.recipient.address(), amount)
            })
            .collect();
        items.sort_unstable();

        let mut packed = Vec::with_capacity(items.len() * 40 + 58);
        let mut gas = GAS_BASE;
        for group in items.chunk_by(|a, b| a.0 == b.0 && a.1.0 >> 64 == b.1.0 >> 64) {
            let (campaign, first, ..) = group[0];
            packed.extend(campaign);
            packed.extend(&first.0.to_be_bytes::<32>()[..24]);
            packed.extend(u16::try_from(group.len()).expect("a batch has far fewer payments").to_be_bytes());
            for (_, id, recipient, amount) in group {
                packed.extend(&id.0.to_be_bytes::<32>()[24..]);
                packed.extend(recipient);
                let amount = amount.to_be_bytes::<32>();
                assert!(amount[..20].iter().all(|byte| *byte == 0), "an amount has at most 96 bits");
                packed.extend(&amount[20..]);
            }
            let words = group.chunk_by(|a, b| a.1.0 >> 8 == b.1.0 >> 8).count() as u64;
            gas += GAS_PER_GROUP + words * GAS_PER_WORD + group.len() as u64 * gas_per_grant;
        }
        let in_vain = if items.len() > 1 { items.len().min(MINTED_TOGETHER) as u64 * gas_per_grant } else { 0 };
        let gas_limit = gas.max(MAX_TRANSACTION_GAS.min(gas + in_vain));
        Self { packed: packed.into(), gas_limit }
    }

    /// Packs as many of the first payments as fit the gas that a transaction may have; returns how many.
    #[must_use]
    pub fn fill(payments: &[Payment], decimals: u8, gas_per_grant: u64) -> (usize, Self) {
        let mut count = payments.len();
        loop {
            let batch = Self::pack(&payments[..count], decimals, gas_per_grant);
            if batch.gas_limit <= MAX_TRANSACTION_GAS || count <= 1 {
                return (count, batch);
            }
            count = count * 9 / 10;
        }
    }
}

/// Whole tokens in the base units of a token with so many decimals.
#[must_use]
pub fn base_units(amount: TokenAmount, decimals: u8) -> U256 {
    U256::from(amount.whole_tokens()) * U256::from(10).pow(U256::from(decimals))
}

/// The most decimals that a token may have for the largest amount to fit the 96 bits of the packed format.
#[must_use]
pub fn max_decimals() -> u8 {
    let largest = U256::from(TokenAmount::MAX);
    (0..=30).rev().find(|decimals| (largest * U256::from(10).pow(U256::from(*decimals))).bit_len() <= 96).unwrap_or(0)
}

/// What the distributor's events of one transaction say of each grant.
#[must_use]
pub fn outcomes(logs: &[Log], distributor: Address) -> HashMap<GrantId, Outcome> {
    use GrantDistributor::{GrantDistributorEvents as Events, GrantRejected, GrantSkipped};
    let mut outcomes = HashMap::new();
    for log in logs.iter().filter(|log| log.address == distributor) {
        for Payout { id, .. } in payouts(log).unwrap_or_default() {
            tell(&mut outcomes, id, Outcome::Paid);
        }
        let Ok(event) = <Events as alloy::sol_types::SolEventInterface>::decode_log(log) else { continue };
        match event.data {
            Events::GrantSkipped(GrantSkipped { id }) => tell(&mut outcomes, GrantId(id), Outcome::Skipped),
            Events::GrantRejected(GrantRejected { id, reason, .. }) => {
                tell(&mut outcomes, GrantId(id), rejection(&reason));
            }
            _ => {}
        }
    }
    outcomes
}

/// Two grants of a batch may have the same id, after a restored numbering. If one of them was paid, both count as skipped:
/// the payment shows whose it was.
fn tell(outcomes: &mut HashMap<GrantId, Outcome>, id: GrantId, outcome: Outcome) {
    let is_settled = |outcome: &Outcome| matches!(outcome, Outcome::Paid | Outcome::Skipped);
    match outcomes.entry(id) {
        Entry::Vacant(unknown) => drop(unknown.insert(outcome)),
        Entry::Occupied(mut known) if is_settled(known.get()) || is_settled(&outcome) => {
            known.insert(Outcome::Skipped);
        }
        Entry::Occupied(mut known) => drop(known.insert(outcome)),
    }
}

/// A payment, as an event of the distributor tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payout {
    /// Under which id.
    pub id: GrantId,
    /// Who was paid.
    pub recipient: Address,
    /// How much, in base units.
    pub amount: U256,
}

/// The payments that an event of the distributor tells of, in its order: one in a `GrantPaid`, many in a `GrantsPaid`.
/// `None` if it is another event, or none of the distributor's.
#[must_use]
pub fn payouts(log: &Log) -> Option<Vec<Payout>> {
    use GrantDistributor::{GrantPaid, GrantsPaid};
    match *log.topics().first()? {
        GrantPaid::SIGNATURE_HASH => {
            let GrantPaid { id, to, amount } = GrantPaid::decode_log(log).ok()?.data;
            Some(vec![Payout { id: GrantId(id), recipient: to, amount }])
        }
        GrantsPaid::SIGNATURE_HASH => {
            let GrantsPaid { prefix, items, .. } = GrantsPaid::decode_log(log).ok()?.data;
            let (items, rest) = items.as_chunks::<40>();
            rest.is_empty().then(|| items.iter().map(|item| payout(U256::from(prefix) << 64, item)).collect())
        }
        _ => None,
    }
}

/// Reads an item as batches have it.
fn payout(prefix: U256, item: &[u8; 40]) -> Payout {
    Payout {
        id: GrantId(prefix | U256::from_be_slice(&item[..8])),
        recipient: Address::from_slice(&item[8..28]),
        amount: U256::from_be_slice(&item[28..]),
    }
}

/// Finds the events of all payments in the blocks from one to another, both included. [`payouts`] reads them; one of many
/// payments cannot be asked for by an id.
#[must_use]
pub fn payments_between(distributor: Address, from: u64, to: u64) -> Filter {
    let signatures = vec![GrantDistributor::GrantPaid::SIGNATURE_HASH, GrantDistributor::GrantsPaid::SIGNATURE_HASH];
    Filter::new().address(distributor).event_signature(signatures).from_block(from).to_block(to)
}

/// What a grant costs at most, the distributor's part included, unless the operator knows better.
#[must_use]
pub fn gas_per_grant(mints_batches: bool) -> u64 {
    if mints_batches { GAS_PER_GRANT_TOGETHER } else { GAS_PER_GRANT_ALONE }
}

/// What a token's or the distributor's refusal of one grant means.
fn rejection(reason: &[u8]) -> Outcome {
    use GrantDistributor::GrantDistributorErrors as DistributorErrors;
    use GrantToken::GrantTokenErrors as TokenErrors;
    if let Ok(DistributorErrors::CampaignCapExceeded(_)) = DistributorErrors::abi_decode(reason) {
        return Outcome::Rejected(Failure::new("campaign_cap_exceeded", "the campaign's cap on chain is reached"));
    }
    match TokenErrors::abi_decode(reason) {
        Ok(TokenErrors::EnforcedPause(_)) => Outcome::Postponed("the token is paused".to_owned()),
        Ok(TokenErrors::AccessControlUnauthorizedAccount(_)) => {
            Outcome::Postponed("the distributor does not hold the token's MINTER_ROLE".to_owned())
        }
        Ok(TokenErrors::ERC20ExceededCap(_)) => {
            Outcome::Rejected(Failure::new("token_cap_exceeded", "the token's total supply would exceed its cap"))
        }
        Ok(TokenErrors::ERC20InvalidReceiver(_)) => {
            Outcome::Rejected(Failure::new("invalid_recipient", "the token does not accept this recipient"))
        }
        _ => Outcome::Rejected(Failure::new("rejected_by_token", revert_text(reason))),
    }
}

/// A revert in words: an `Error(string)`, a `Panic`, or its bytes.
#[must_use]
pub fn revert_text(data: &[u8]) -> String {
    alloy::sol_types::decode_revert_reason(data).unwrap_or_else(|| {
        if data.is_empty() { "reverted without a reason".to_owned() } else { Bytes::copy_from_slice(data).to_string() }
    })
}

/// Why a whole batch would revert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchRevert {
    /// A condition of the whole deployment, for an operator to lift; the batch waits.
    Wait(String),
    /// Something in the batch, or its size; a smaller one may pass.
    Split(String),
}

/// Reads the revert data of `pay`.
#[must_use]
pub fn batch_revert(data: &[u8]) -> BatchRevert {
    use GrantDistributor::GrantDistributorErrors as Errors;
    let wait = |reason: &str| BatchRevert::Wait(reason.to_owned());
    match Errors::abi_decode(data) {
        Ok(Errors::EnforcedPause(_)) => wait("the distributor is paused"),
        Ok(Errors::AccessControlUnauthorizedAccount(_)) => wait("the signer does not hold SUBMITTER_ROLE"),
        Ok(Errors::DailyCapExceeded(_)) => BatchRevert::Split("the distributor's daily cap is reached".to_owned()),
        Ok(Errors::NotEnoughGas(_)) => {
            BatchRevert::Split("its mints cost more gas than GAS_PER_GRANT allows for".to_owned())
        }
        Ok(Errors::MintReturnedFalse(_)) => BatchRevert::Split("the token answered a mint with `false`".to_owned()),
        _ => BatchRevert::Split(revert_text(data)),
    }
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolError;

    use shared::event::Terms;

    use super::*;

    fn payment(campaign: &str, id: u64) -> Payment {
        Payment {
            request_id: format!("r{id}").parse().unwrap(),
            grant_id: GrantId(U256::from(9) << 64 | U256::from(id)),
            user_id: "alice".parse().unwrap(),
            campaign_id: campaign.parse().unwrap(),
            recipient: alloy::primitives::Address::repeat_byte(0xab).try_into().unwrap(),
            token_amount: 5.try_into().unwrap(),
            requested_at: shared::clock::from_micros(0),
            trace: None,
            terms: Terms::default(),
        }
    }

    #[test]
    fn a_batch_is_grouped_by_campaign_in_the_order_of_ids() {
        let payments = [payment("a", 2), payment("b", 3), payment("a", 1)];
        let batch = Batch::pack(&payments, 18, 30_000);
        assert_eq!(batch.packed.len(), 2 * 58 + 3 * 40);
        let a = batch.packed.windows(32).position(|window| window == keccak256("a").as_slice()).unwrap();
        let group = &batch.packed[a..];
        assert_eq!(group[32..56], (U256::from(9) << 64_u32).to_be_bytes::<32>()[..24]);
        assert_eq!(group[56..58], [0, 2]);
        assert_eq!(group[58..66], 1_u64.to_be_bytes());
        assert_eq!(group[66..86], [0xab; 20]);
        assert_eq!(group[86..98], 5_000_000_000_000_000_000_u128.to_be_bytes()[4..]);
        assert_eq!(group[98..106], 2_u64.to_be_bytes());
    }

    #[test]
    fn what_waits_for_a_block_leaves_room_for_the_rest_of_its_gas() {
        let gas = 4 * GAS_BASE + 1_000 * 26_000;
        assert_eq!(room_for(gas, 3, 600, 26_000), 400);
        assert_eq!([room_for(gas, 3, 1_000, 26_000), room_for(gas, 9, 1_000, 26_000)], [0, 0]);
        for id in [1, 500] {
            let payments: Vec<_> = (0..id).map(|id| payment("a", id)).collect();
            let gas_limit = Batch::pack(&payments, 18, 26_000).gas_limit;
            let room = room_for(gas_limit, 0, 0, 26_000);
            assert!(room >= payments.len(), "a transaction of {id} grants has room in its own gas limit: {room}");
        }
    }

    #[test]
    fn as_many_payments_as_fit_the_gas_of_a_transaction_are_packed() {
        let payments: Vec<_> = (0..2000).map(|id| payment("a", id)).collect();
        let (count, batch) = Batch::fill(&payments, 18, 30_000);
        assert!(batch.gas_limit <= MAX_TRANSACTION_GAS);
        assert!(count >= 450, "{count}");
    }

    #[test]
    fn six_hundred_payments_fit_where_the_token_mints_many_together() {
        let payments: Vec<_> = (200..800).map(|id| payment("a", id)).collect();
        let (count, batch) = Batch::fill(&payments, 18, gas_per_grant(true));
        assert_eq!((count, batch.gas_limit), (600, MAX_TRANSACTION_GAS));
        let in_vain = 64 * gas_per_grant(true);
        let (_, batch) = Batch::fill(&payments[..500], 18, gas_per_grant(true));
        assert!(batch.gas_limit >= 500 * gas_per_grant(true) + in_vain, "one that cannot be paid is paid for");
    }

    fn logged(event: &impl SolEvent) -> Log {
        Log { address: Address::repeat_byte(0xd1), data: event.encode_log_data() }
    }

    fn told_together(prefix: u64, lows: &[u64]) -> Log {
        let item = |low: &u64| [&low.to_be_bytes()[..], &[0xab; 20], &[0; 10], &[1, 2]].concat();
        let items = lows.iter().flat_map(item).collect::<Vec<_>>().into();
        let prefix = alloy::primitives::aliases::U192::from(prefix);
        logged(&GrantDistributor::GrantsPaid { campaign: keccak256("a"), prefix, items })
    }

    #[test]
    fn an_event_tells_of_one_payment_or_of_many() {
        let dense = |low: u64| GrantId(U256::from(9) << 64 | U256::from(low));
        let recipient = Address::repeat_byte(0xab);
        let of = |low| Payout { id: dense(low), recipient, amount: U256::from(0x102) };
        assert_eq!(payouts(&told_together(9, &[3, u64::MAX])).unwrap(), [of(3), of(u64::MAX)]);
        assert_eq!(payouts(&told_together(9, &[])).unwrap(), []);
        let alone = GrantDistributor::GrantPaid { id: dense(3).0, to: recipient, amount: U256::from(0x102) };
        assert_eq!(payouts(&logged(&alone)).unwrap(), [of(3)]);
        assert_eq!(payouts(&logged(&GrantDistributor::GrantSkipped { id: dense(3).0 })), None);
        let cut = GrantDistributor::GrantsPaid {
            campaign: keccak256("a"),
            prefix: alloy::primitives::aliases::U192::from(9),
            items: vec![0; 39].into(),
        };
        assert_eq!(payouts(&logged(&cut)), None);
    }

    #[test]
    fn an_id_that_two_grants_of_a_batch_have_counts_as_skipped_if_one_was_paid() {
        let id = U256::from(9) << 64 | U256::ONE;
        let skipped = logged(&GrantDistributor::GrantSkipped { id });
        let rejected =
            GrantDistributor::GrantRejected { id, to: Address::ZERO, amount: U256::ONE, reason: vec![].into() };
        let rejected = logged(&rejected);
        let paid = told_together(9, &[1, 2]);
        let told = |logs: &[&Log]| {
            let logs: Vec<_> = logs.iter().copied().cloned().collect();
            outcomes(&logs, Address::repeat_byte(0xd1)).remove(&GrantId(id)).unwrap()
        };
        for logs in [[&skipped, &paid], [&paid, &skipped], [&rejected, &paid], [&paid, &rejected]] {
            assert_eq!(told(&logs), Outcome::Skipped);
        }
        assert_eq!(told(&[&paid]), Outcome::Paid);
        assert!(matches!(told(&[&rejected, &rejected]), Outcome::Rejected(_)));
    }

    #[test]
    fn the_largest_amount_fits_the_packed_format() {
        assert!(max_decimals() >= 18);
        let mut payment = payment("a", 1);
        payment.token_amount = i64::try_from(TokenAmount::MAX).unwrap().try_into().unwrap();
        let _ = Batch::pack(&[payment], max_decimals(), 30_000);
    }

    #[test]
    fn a_pause_postpones_and_a_cap_rejects() {
        let paused = GrantToken::EnforcedPause {}.abi_encode();
        assert!(matches!(rejection(&paused), Outcome::Postponed(_)));
        let cap = GrantDistributor::CampaignCapExceeded { campaign: keccak256("a"), cap: U256::ONE }.abi_encode();
        let Outcome::Rejected(failure) = rejection(&cap) else { panic!("rejected") };
        assert_eq!(failure.code, "campaign_cap_exceeded");
        let Outcome::Rejected(failure) = rejection(&[]) else { panic!("rejected") };
        assert_eq!(failure.code, "rejected_by_token");
        assert_eq!(
            batch_revert(&GrantDistributor::EnforcedPause {}.abi_encode()),
            BatchRevert::Wait("the distributor is paused".into())
        );
        assert!(matches!(batch_revert(&[1, 2, 3, 4]), BatchRevert::Split(_)));
    }
}
