//! What to do next about a transaction whose fate is open: one decision, from what is stored and what was seen. No I/O, no
//! clock.
//!
//! "No receipt" never means "not mined". A receipt counts when its block is final and still on the chain; a transaction
//! is given up only when its nonce is used up in a final block by something that is none of its attempts.

use std::str::FromStr;

use alloy::primitives::B256;
use chrono::{DateTime, TimeDelta, Utc};
use shared::fail_point;

use crate::chain::{Receipt, Refusal};
use crate::fees::Fees;
use crate::finality::Finality;

/// A transaction that was, or may have been, sent, and whose fate is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Our name for it.
    pub id: String,
    /// Its place in the lane.
    pub nonce: u64,
    /// When it was committed.
    pub created_at: DateTime<Utc>,
    /// Since when it is not on the chain: when it was committed, or when the chain lost it.
    pub open_since: DateTime<Utc>,
    /// The block that held it when we looked last, if one did.
    pub mined_in: Option<BlockId>,
    /// When its block counts as final; `None` for the service's own setting.
    pub finality: Option<Finality>,
    /// Its signed bytes, the newest last: any of them may be mined, and only one can be.
    pub attempts: Vec<Attempt>,
}

/// A block, told from others of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockId {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
}

/// Signed bytes of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Their hash.
    pub hash: B256,
    /// What they are for.
    pub purpose: Purpose,
    /// What they offer for gas.
    pub fees: Fees,
    /// When they were committed.
    pub created_at: DateTime<Utc>,
    /// When they were last given to a node that answered.
    pub sent_at: Option<DateTime<Utc>>,
    /// Why the node did not take them then; `None` if it did.
    pub refusal: Option<Refusal>,
}

/// What an attempt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To pay what the transaction carries, or to publish its root.
    Pay,
    /// To use up the nonce without paying anybody, so that the payments can go elsewhere and the lane goes on.
    Cancel,
}

impl Purpose {
    /// As it is stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pay => "pay",
            Self::Cancel => "cancel",
        }
    }
}

impl FromStr for Purpose {
    type Err = UnknownPurpose;

    fn from_str(text: &str) -> Result<Self, UnknownPurpose> {
        [Self::Pay, Self::Cancel].into_iter().find(|purpose| purpose.as_str() == text).ok_or(UnknownPurpose)
    }
}

/// The text is no purpose of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `pay` or `cancel`")]
pub struct UnknownPurpose;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// After it was last sent, until the same bytes are sent again.
    pub resend_after: TimeDelta,
    /// After the newest attempt was made, until another one offers more for gas.
    pub replace_after: TimeDelta,
    /// After the transaction was made, or the chain lost it, until it is cancelled.
    pub cancel_after: TimeDelta,
}

/// What one node showed of the lane, the nonces before the receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// The nonce that the chain takes next.
    pub mined_nonce: u64,
    /// The same as of the last final block, where there is one and a node was asked.
    pub final_nonce: Option<u64>,
    /// The number of the last final block, where there is one.
    pub final_block: Option<u64>,
    /// Whether there is a block that was not there when we looked last.
    pub new_block: bool,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing for now.
    Wait,
    /// It is in a block that is not final yet: to be remembered.
    Mined(BlockId),
    /// The block that held it is gone: to be remembered, and the bytes go out again.
    FellBack,
    /// The same bytes go out again.
    SendAgain,
    /// Other bytes take their place at the same nonce.
    Replace(Purpose),
    /// It is in a final block: what it did decides.
    Settle,
    /// Its nonce is used up in a final block by a transaction that we do not know: its payments go elsewhere.
    GiveUp,
}

impl Pending {
    /// What is to be done about it. `receipt` is one of its attempts', where a node had one, and its block is still on the
    /// chain.
    #[must_use]
    pub fn next_step(&self, sight: &Sight, receipt: Option<&Receipt>, patience: &Patience, now: DateTime<Utc>) -> Step {
        if let Some(receipt) = receipt {
            let block = BlockId { number: receipt.block_number, hash: receipt.block_hash };
            let is_final = sight.final_block.is_some_and(|number| block.number <= number);
            return if is_final || fail_point::switched("settled_before_final") {
                Step::Settle
            } else if self.mined_in == Some(block) {
                Step::Wait
            } else {
                Step::Mined(block)
            };
        }
        if fail_point::switched("no_receipt_means_not_mined") && self.is_overdue(patience.resend_after, now) {
            return Step::GiveUp;
        }
        if self.mined_in.is_some() {
            return Step::FellBack;
        }
        if sight.mined_nonce > self.nonce {
            // Something is mined with this nonce. If it is one of ours, the node has not got to telling us.
            let for_ever = sight.final_nonce.is_some_and(|nonce| nonce > self.nonce);
            return if for_ever && self.is_overdue(patience.resend_after, now) { Step::GiveUp } else { Step::Wait };
        }
        let Some(newest) = self.attempts.last() else { return Step::Wait };
        let tried_since = newest.created_at.max(self.open_since);
        let waits_since = |since: DateTime<Utc>, patience: TimeDelta| now - since >= patience;
        // Only the transaction that the chain takes next can be helped: those behind it wait for it. What a node has taken
        // cannot be helped while no blocks are made, nor what lacks ether, nor a cancellation that a node takes for
        // invalid: they would only get dearer.
        let is_next = sight.mined_nonce == self.nonce;
        let would_only_get_dearer = match newest.refusal {
            None => newest.sent_at.is_some() && !sight.new_block,
            Some(Refusal::InsufficientFunds) => true,
            Some(Refusal::Invalid) => newest.purpose == Purpose::Cancel,
            Some(_) => false,
        };
        let can_be_helped = is_next && !would_only_get_dearer;
        if can_be_helped && newest.purpose == Purpose::Pay {
            // One that no node has taken yet has its time from its own beginning on: the nodes may have been away.
            let since = if newest.sent_at.is_some() { self.open_since } else { tried_since };
            if newest.refusal == Some(Refusal::Invalid) || waits_since(since, patience.cancel_after) {
                return Step::Replace(Purpose::Cancel);
            }
        }
        if newest.sent_at.is_none() {
            return Step::SendAgain;
        }
        let too_cheap = matches!(newest.refusal, Some(Refusal::Underpriced | Refusal::ReplacementUnderpriced));
        let replace_after = if too_cheap { patience.resend_after } else { patience.replace_after };
        if can_be_helped && waits_since(tried_since, replace_after) {
            return Step::Replace(newest.purpose);
        }
        let was_early = is_next && newest.refusal == Some(Refusal::NonceTooHigh);
        if was_early || self.is_overdue(patience.resend_after, now) { Step::SendAgain } else { Step::Wait }
    }

    /// The fees that the next attempt must outbid: those of the newest one that a node may have.
    #[must_use]
    pub fn fees_to_outbid(&self) -> Option<Fees> {
        let may_be_there = |attempt: &&Attempt| attempt.refusal != Some(Refusal::Invalid);
        self.attempts.iter().rev().find(may_be_there).map(|attempt| attempt.fees)
    }

    /// Whether it was not sent, or so long ago.
    #[must_use]
    pub fn is_overdue(&self, resend_after: TimeDelta, now: DateTime<Utc>) -> bool {
        let sent_at = self.attempts.last().and_then(|attempt| attempt.sent_at);
        sent_at.is_none_or(|sent_at| now - sent_at >= resend_after)
    }

    /// Whether it is in no block that we know of, and overdue.
    #[must_use]
    pub fn is_unseen_for(&self, resend_after: TimeDelta, now: DateTime<Utc>) -> bool {
        self.mined_in.is_none() && self.is_overdue(resend_after, now)
    }

    /// The attempt with this hash.
    #[must_use]
    pub fn attempt(&self, hash: B256) -> Option<&Attempt> {
        self.attempts.iter().find(|attempt| attempt.hash == hash)
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Mined with success: each payment has its outcome.
    Succeeded,
    /// Mined and reverted: nobody was paid, the nonce is used up.
    Reverted,
    /// An attempt that cancels it was mined instead: nobody was paid.
    Cancelled,
    /// Its nonce was used up by a transaction that we do not know: nobody was paid.
    GivenUp,
}

impl End {
    /// As it is stored, counted and logged.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Reverted => "reverted",
            Self::Cancelled => "cancelled",
            Self::GivenUp => "given_up",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared::clock::from_micros;

    use super::*;

    const PATIENCE: Patience = Patience {
        resend_after: TimeDelta::seconds(10),
        replace_after: TimeDelta::seconds(60),
        cancel_after: TimeDelta::seconds(600),
    };

    fn at(seconds: i64) -> DateTime<Utc> {
        from_micros(seconds * 1_000_000)
    }

    fn attempt(number: u8, created_at: i64, sent_at: Option<i64>) -> Attempt {
        Attempt {
            hash: B256::repeat_byte(number),
            purpose: Purpose::Pay,
            fees: Fees { max_fee_per_gas: 100, max_priority_fee_per_gas: 10 },
            created_at: at(created_at),
            sent_at: sent_at.map(at),
            refusal: None,
        }
    }

    /// Made and sent at second 0, with nonce 5.
    fn pending() -> Pending {
        let attempts = vec![attempt(1, 0, Some(0))];
        Pending {
            id: "t".into(),
            nonce: 5,
            created_at: at(0),
            open_since: at(0),
            mined_in: None,
            finality: None,
            attempts,
        }
    }

    fn receipt(number: u64, hash: u8) -> Receipt {
        Receipt {
            transaction_hash: B256::repeat_byte(1),
            block_number: number,
            block_hash: B256::repeat_byte(hash),
            succeeded: true,
            gas_used: 21_000,
            gas_price: 7,
            logs: vec![],
        }
    }

    /// The chain takes nonce 5 next; block 7 is final.
    const NEXT: Sight = Sight { mined_nonce: 5, final_nonce: Some(5), final_block: Some(7), new_block: true };

    #[test]
    fn a_receipt_counts_when_its_block_is_final() {
        let mined = |pending: &Pending, number| pending.next_step(&NEXT, Some(&receipt(number, 9)), &PATIENCE, at(1));
        let block = |number| BlockId { number, hash: B256::repeat_byte(9) };
        assert_eq!(mined(&pending(), 7), Step::Settle);
        assert_eq!(mined(&pending(), 8), Step::Mined(block(8)));
        let remembered = Pending { mined_in: Some(block(8)), ..pending() };
        assert_eq!(mined(&remembered, 8), Step::Wait);
        let elsewhere = Pending { mined_in: Some(BlockId { hash: B256::repeat_byte(3), ..block(8) }), ..pending() };
        assert_eq!(mined(&elsewhere, 8), Step::Mined(block(8)));
        let nothing_final = Sight { final_block: None, final_nonce: None, ..NEXT };
        assert_eq!(pending().next_step(&nothing_final, Some(&receipt(0, 9)), &PATIENCE, at(1)), Step::Mined(block(0)));
    }

    #[test]
    fn bytes_whose_block_is_gone_go_out_again() {
        let fallen = Pending { mined_in: Some(BlockId { number: 8, hash: B256::repeat_byte(9) }), ..pending() };
        assert_eq!(fallen.next_step(&NEXT, None, &PATIENCE, at(1)), Step::FellBack);
    }

    #[test]
    fn without_a_receipt_bytes_go_out_again_then_dearer_then_cancel() {
        let step = |pending: &Pending, second| pending.next_step(&NEXT, None, &PATIENCE, at(second));
        assert_eq!(step(&pending(), 9), Step::Wait);
        assert_eq!(step(&pending(), 10), Step::SendAgain);
        assert_eq!(step(&pending(), 60), Step::Replace(Purpose::Pay));
        let replaced = Pending { attempts: vec![attempt(1, 0, Some(50)), attempt(2, 60, None)], ..pending() };
        assert_eq!(step(&replaced, 61), Step::SendAgain, "it was never sent");
        assert_eq!(step(&replaced, 600), Step::SendAgain, "nor is there anything to replace");
        let sent = Pending { attempts: vec![attempt(1, 0, Some(50)), attempt(2, 590, Some(590))], ..pending() };
        assert_eq!(step(&sent, 600), Step::Replace(Purpose::Cancel));
        let mut cancelling = sent;
        cancelling.attempts.push(Attempt { purpose: Purpose::Cancel, ..attempt(3, 600, Some(600)) });
        assert_eq!(step(&cancelling, 605), Step::Wait);
        assert_eq!(step(&cancelling, 660), Step::Replace(Purpose::Cancel), "it has to pay more as well");
    }

    #[test]
    fn while_no_blocks_are_made_only_what_was_refused_gets_dearer() {
        let halted = Sight { new_block: false, ..NEXT };
        assert_eq!(pending().next_step(&halted, None, &PATIENCE, at(60)), Step::SendAgain);
        assert_eq!(pending().next_step(&halted, None, &PATIENCE, at(600)), Step::SendAgain);
        let mut refused = pending();
        refused.attempts[0].refusal = Some(Refusal::Underpriced);
        assert_eq!(refused.next_step(&halted, None, &PATIENCE, at(10)), Step::Replace(Purpose::Pay));
    }

    #[test]
    fn what_lacks_ether_waits_for_it_and_gets_no_dearer() {
        let mut unpaid = pending();
        unpaid.attempts[0].refusal = Some(Refusal::InsufficientFunds);
        for second in [10, 60, 600, 6_000] {
            assert_eq!(unpaid.next_step(&NEXT, None, &PATIENCE, at(second)), Step::SendAgain);
        }
    }

    #[test]
    fn a_cancellation_that_a_node_takes_for_invalid_is_tried_again_as_it_is() {
        let mut cancelling = pending();
        cancelling.attempts[0] =
            Attempt { purpose: Purpose::Cancel, refusal: Some(Refusal::Invalid), ..attempt(1, 0, Some(0)) };
        for second in [10, 60, 600] {
            assert_eq!(cancelling.next_step(&NEXT, None, &PATIENCE, at(second)), Step::SendAgain);
        }
    }

    #[test]
    fn bytes_that_no_node_takes_are_cancelled_in_the_end() {
        let unsent = Pending { attempts: vec![attempt(1, 0, None)], ..pending() };
        assert_eq!(unsent.next_step(&NEXT, None, &PATIENCE, at(599)), Step::SendAgain);
        assert_eq!(unsent.next_step(&NEXT, None, &PATIENCE, at(600)), Step::Replace(Purpose::Cancel));
    }

    #[test]
    fn a_transaction_that_the_chain_has_lost_has_all_its_time_again() {
        let lost = Pending { open_since: at(5_000), ..pending() };
        let step = |second| lost.next_step(&NEXT, None, &PATIENCE, at(second));
        assert_eq!(step(5_001), Step::SendAgain);
        assert_eq!(step(5_060), Step::Replace(Purpose::Pay));
        assert_eq!(step(5_600), Step::Replace(Purpose::Cancel));
    }

    #[test]
    fn what_no_node_has_need_not_be_outbid() {
        let mut pending = pending();
        let dearer = Fees { max_fee_per_gas: 200, max_priority_fee_per_gas: 20 };
        pending.attempts.push(Attempt { fees: dearer, ..attempt(2, 1, Some(1)) });
        assert_eq!(pending.fees_to_outbid(), Some(dearer));
        pending.attempts[1].refusal = Some(Refusal::Invalid);
        assert_eq!(pending.fees_to_outbid(), Some(pending.attempts[0].fees));
        pending.attempts[0].refusal = Some(Refusal::Invalid);
        assert_eq!(pending.fees_to_outbid(), None);
    }

    #[test]
    fn a_transaction_behind_another_is_sent_again_and_never_replaced() {
        let behind = Sight { mined_nonce: 4, final_nonce: Some(4), ..NEXT };
        assert_eq!(pending().next_step(&behind, None, &PATIENCE, at(1_000)), Step::SendAgain);
    }

    #[test]
    fn a_nonce_that_is_used_up_is_given_up_only_when_that_is_final() {
        let used = Sight { mined_nonce: 6, final_nonce: Some(5), ..NEXT };
        assert_eq!(pending().next_step(&used, None, &PATIENCE, at(1_000)), Step::Wait);
        let for_ever = Sight { mined_nonce: 6, final_nonce: Some(6), ..NEXT };
        assert_eq!(pending().next_step(&for_ever, None, &PATIENCE, at(9)), Step::Wait, "the node may be behind");
        assert_eq!(pending().next_step(&for_ever, None, &PATIENCE, at(10)), Step::GiveUp);
        assert_eq!(pending().next_step(&for_ever, Some(&receipt(7, 9)), &PATIENCE, at(10)), Step::Settle);
    }

    #[test]
    fn what_a_node_refuses_decides_what_is_tried_next() {
        let refused = |refusal| {
            let mut pending = pending();
            pending.attempts[0].refusal = Some(refusal);
            (pending.next_step(&NEXT, None, &PATIENCE, at(9)), pending.next_step(&NEXT, None, &PATIENCE, at(10)))
        };
        assert_eq!(refused(Refusal::Underpriced), (Step::Wait, Step::Replace(Purpose::Pay)));
        assert_eq!(refused(Refusal::ReplacementUnderpriced), (Step::Wait, Step::Replace(Purpose::Pay)));
        assert_eq!(refused(Refusal::Invalid).0, Step::Replace(Purpose::Cancel));
        assert_eq!(refused(Refusal::InsufficientFunds), (Step::Wait, Step::SendAgain));
        assert_eq!(refused(Refusal::NonceTooHigh).0, Step::SendAgain, "it is the next one by now");
        assert_eq!(refused(Refusal::Unknown), (Step::Wait, Step::SendAgain));
    }

    proptest! {
        #[test]
        fn nothing_but_a_final_block_ends_a_transaction(
            mined_nonce in 0..10_u64, final_nonce in 0..10_u64, final_block in 0..10_u64, in_block: Option<u8>, second in 0..2_000_i64
        ) {
            let sight = Sight { mined_nonce, final_nonce: Some(final_nonce), final_block: Some(final_block), new_block: true };
            let receipt = in_block.map(|number| receipt((number % 10).into(), 9));
            match pending().next_step(&sight, receipt.as_ref(), &PATIENCE, at(second)) {
                Step::Settle => prop_assert!(receipt.is_some_and(|receipt| receipt.block_number <= final_block)),
                Step::GiveUp => prop_assert!(receipt.is_none() && final_nonce > 5),
                Step::Replace(_) => prop_assert!(receipt.is_none() && mined_nonce == 5),
                _ => {}
            }
        }
    }
}
