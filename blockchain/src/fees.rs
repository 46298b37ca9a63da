//! What a transaction may cost (EIP-1559). Pure arithmetic, in wei.

/// The fees of a transaction, in wei for a unit of gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fees {
    /// The most that is paid in all.
    pub max_fee_per_gas: u64,
    /// The most of it that goes to the block's producer.
    pub max_priority_fee_per_gas: u64,
}

/// The chain asks for more than we are willing to pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the chain asks {asked_wei} wei a gas, above the ceiling of {ceiling_wei} (MAX_FEE_GWEI); grants wait")]
pub struct TooExpensive {
    /// What the chain asks for.
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
    }
}
