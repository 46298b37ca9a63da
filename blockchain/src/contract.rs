//! The contracts as this service sees them: what it sends, and what it reads out of a receipt.

use std::collections::HashMap;

use alloy::primitives::{Address, B256, Bytes, Log, U256, keccak256};
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
    /// Enough gas for every payment to a recipient who has no tokens yet.
    pub gas_limit: u64,
}

/// The gas of a transaction before its first group: 21,000, the contract's entry, the day's sum, and the 200,000 that
/// the distributor keeps ready for a mint (it uses few of them).
const GAS_BASE: u64 = 350_000;

/// The gas that a group adds: its header in the calldata, and its campaign's sum, read and written.
const GAS_PER_GROUP: u64 = 30_000;

/// The gas that a word of the bitmap adds: read and written for the first time.
const GAS_PER_WORD: u64 = 23_000;

/// The gas that publishing a root takes at most: 21,000, the signer's role, two words of storage and an event.
pub const GAS_OF_CLAIM_ROOT: u64 = 150_000;

/// The most gas that a transaction may have (EIP-7825).
pub const MAX_TRANSACTION_GAS: u64 = 16_777_216;

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
        let mut gas_limit = GAS_BASE;
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
            gas_limit += GAS_PER_GROUP + words * GAS_PER_WORD + group.len() as u64 * gas_per_grant;
        }
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
    use GrantDistributor::{GrantDistributorEvents as Events, GrantPaid, GrantRejected, GrantSkipped};
    let mut outcomes = HashMap::new();
    for log in logs.iter().filter(|log| log.address == distributor) {
        let Ok(event) = <Events as alloy::sol_types::SolEventInterface>::decode_log(log) else { continue };
        match event.data {
            Events::GrantPaid(GrantPaid { id, .. }) => outcomes.insert(GrantId(id), Outcome::Paid),
            Events::GrantSkipped(GrantSkipped { id }) => outcomes.insert(GrantId(id), Outcome::Skipped),
            Events::GrantRejected(GrantRejected { id, reason, .. }) => outcomes.insert(GrantId(id), rejection(&reason)),
            _ => None,
        };
    }
    outcomes
}

/// Finds the events of the payments of some grants, from block `from` on. The distributor makes at most one for each.
#[must_use]
pub fn payments_of(ids: &[GrantId], distributor: Address, from: u64) -> Filter {
    let signature = GrantDistributor::GrantPaid::SIGNATURE_HASH;
    let ids: Vec<_> = ids.iter().map(|id| B256::from(id.0)).collect();
    Filter::new().address(distributor).event_signature(signature).topic1(ids).from_block(from)
}

/// Finds the events of all payments in the blocks from one to another, both included.
#[must_use]
pub fn payments_between(distributor: Address, from: u64, to: u64) -> Filter {
    let signature = GrantDistributor::GrantPaid::SIGNATURE_HASH;
    Filter::new().address(distributor).event_signature(signature).from_block(from).to_block(to)
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
        Ok(Errors::NotEnoughGas(_)) => wait("a mint costs more gas than GAS_PER_GRANT allows for"),
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
    fn as_many_payments_as_fit_the_gas_of_a_transaction_are_packed() {
        let payments: Vec<_> = (0..2000).map(|id| payment("a", id)).collect();
        let (count, batch) = Batch::fill(&payments, 18, 30_000);
        assert!(batch.gas_limit <= MAX_TRANSACTION_GAS);
        assert!(count >= 450, "{count}");
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
