//! What a transaction may cost (EIP-1559). Pure arithmetic, in wei.

/// The fees of a transaction, in wei for a unit of gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// The most that is paid in all.
    pub max_fee_per_gas: u64,
    /// The most of it that goes to the block's producer.
    pub max_priority_fee_per_gas: u64,
}

/// More is asked for than we are willing to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chain asks {asked_wei} wei a gas, above the ceiling of {ceiling_wei} (MAX_FEE_GWEI); grants wait")]
pub struct TooExpensive {
    /// What is asked for.
    pub asked_wei: u64,
    /// What we are willing to pay.
    pub ceiling_wei: u64,
}

impl Fees {
    /// The fees to offer for an estimate that leaves room for the base fee to double: never more than the ceiling.
    ///
    /// # Errors
    ///
    /// [`TooExpensive`] when the current base fee with its tip is above the ceiling already.
    pub fn offer(base_fee: u64, priority_fee: u64, ceiling_wei: u64) -> Result<Self, TooExpensive> {
        let asked_wei = base_fee.saturating_add(priority_fee);
        if asked_wei > ceiling_wei {
            return Err(TooExpensive { asked_wei, ceiling_wei });
        }
        let roomy = base_fee.saturating_mul(2).saturating_add(priority_fee);
        Ok(Self { max_fee_per_gas: roomy.min(ceiling_wei), max_priority_fee_per_gas: priority_fee })
    }

    /// The fees of a transaction that replaces one of these fees at the same nonce: an eighth more of both, which satisfies
    /// every node (geth asks for 10 %), or what the chain asks for, whichever is more.
    ///
    /// # Errors
    ///
    /// [`TooExpensive`] when that is above the ceiling.
    pub fn replaced_by(self, offer: Self, ceiling_wei: u64) -> Result<Self, TooExpensive> {
        let eighth_more = |wei: u64| wei.saturating_add(wei.div_ceil(8)).max(wei.saturating_add(1));
        let asked_wei = eighth_more(self.max_fee_per_gas).max(offer.max_fee_per_gas);
        if asked_wei > ceiling_wei {
            return Err(TooExpensive { asked_wei, ceiling_wei });
        }
        let tip = eighth_more(self.max_priority_fee_per_gas).max(offer.max_priority_fee_per_gas);
        Ok(Self { max_fee_per_gas: asked_wei, max_priority_fee_per_gas: tip.min(asked_wei) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_offer_covers_what_is_asked_and_stays_below_the_ceiling(base: u64, tip: u64, ceiling: u64) {
            match Fees::offer(base, tip, ceiling) {
                Ok(fees) => {
                    prop_assert!(fees.max_fee_per_gas <= ceiling);
                    prop_assert!(fees.max_fee_per_gas >= base.saturating_add(tip));
                    prop_assert!(fees.max_priority_fee_per_gas <= fees.max_fee_per_gas);
                }
                Err(error) => prop_assert!(error.asked_wei > ceiling),
            }
        }

        #[test]
        fn a_replacement_pays_an_eighth_more_of_both_and_stays_below_the_ceiling(
            fee in 0..u64::from(u32::MAX), tip in 0..u64::from(u32::MAX), base in 0..u64::from(u32::MAX), ceiling: u64
        ) {
            let before = Fees { max_fee_per_gas: fee.max(tip), max_priority_fee_per_gas: tip };
            let offer = Fees::offer(base, 1, u64::MAX).unwrap();
            match before.replaced_by(offer, ceiling) {
                Ok(after) => {
                    prop_assert!(after.max_fee_per_gas <= ceiling);
                    prop_assert!(after.max_fee_per_gas * 8 >= before.max_fee_per_gas * 9);
                    prop_assert!(after.max_priority_fee_per_gas * 8 >= before.max_priority_fee_per_gas * 9);
                    prop_assert!(after.max_fee_per_gas >= offer.max_fee_per_gas);
                    prop_assert!(after.max_priority_fee_per_gas <= after.max_fee_per_gas);
                }
                Err(error) => prop_assert!(error.asked_wei > ceiling),
            }
        }
    }
}
