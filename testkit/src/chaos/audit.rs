//! Holds what clients were answered against what is on the chain, and names each difference.
//!
//! Nothing that the services keep for themselves is used: the books are the clients' own, payments are the distributor's
//! events, and balances the token's. Pure, so that every verdict can be tested.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, U256};
use serde::Serialize;

use crate::chain::Payment;

/// A grant that a client was promised, and what the service says of it in the end.
#[derive(Clone, Debug)]
pub struct Promised {
    /// Its id.
    pub request_id: String,
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
    /// It is in this state, which is not final.
    Open(String),
    /// There is no such grant.
    Unknown,
    /// The client was never answered, so there may be such a grant.
    Unanswered,
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
    /// The differences, one by one.
    pub differences: Vec<String>,
}

impl Verdict {
    /// Whether each of the four is zero.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.lost == 0 && self.paid_twice == 0 && self.wrong_amount == 0 && self.stuck == 0
    }

    /// Judges.
    ///
    /// A payment belongs to the promise of its recipient and amount: no recipient is promised the same amount twice.
    #[must_use]
    pub fn of(promised: &[Promised], chain: &OnChain) -> Self {
        let mut verdict = Self::default();
        let mut paid: BTreeMap<(Address, U256), Vec<&Payment>> = BTreeMap::new();
        for payment in &chain.payments {
            paid.entry((payment.to, payment.amount)).or_default().push(payment);
        }
        let mut owed: BTreeMap<Address, U256> = BTreeMap::new();
        for promise in promised {
            let payments = paid.remove(&(promise.recipient, promise.amount)).unwrap_or_default();
            verdict.judge(promise, &payments);
            if !payments.is_empty() {
                *owed.entry(promise.recipient).or_default() += promise.amount;
            }
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
        verdict
    }

    fn judge(&mut self, promise: &Promised, payments: &[&Payment]) {
        let Promised { request_id, recipient, amount, end } = promise;
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

    fn differs(&mut self, difference: String) {
        self.differences.push(difference);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSACTION: B256 = B256::repeat_byte(9);

    fn promise(to: u8, amount: u64, end: End) -> Promised {
        Promised {
            request_id: format!("{to}-{amount}"),
            recipient: Address::repeat_byte(to),
            amount: U256::from(amount),
            end,
        }
    }

    fn payment(to: u8, amount: u64) -> Payment {
        Payment {
            id: U256::ZERO,
            to: Address::repeat_byte(to),
            amount: U256::from(amount),
            transaction_hash: TRANSACTION,
            block_number: 1,
        }
    }

    /// A chain on which just these payments were made.
    fn chain(payments: &[(u8, u64)], accounts: &[u8]) -> OnChain {
        let sum = |to: u8| payments.iter().filter(|one| one.0 == to).map(|one| U256::from(one.1)).sum();
        OnChain {
            payments: payments.iter().map(|(to, amount)| payment(*to, *amount)).collect(),
            balances: accounts.iter().map(|to| (Address::repeat_byte(*to), sum(*to))).collect(),
            supply: payments.iter().map(|one| U256::from(one.1)).sum(),
        }
    }

    fn completed() -> End {
        End::Completed(Some(TRANSACTION))
    }

    #[test]
    fn what_is_promised_and_paid_once_is_good() {
        let promised = [promise(1, 10, completed()), promise(1, 20, completed()), promise(2, 10, completed())];
        let verdict = Verdict::of(&promised, &chain(&[(1, 10), (2, 10), (1, 20)], &[1, 2]));
        assert_eq!(verdict, Verdict { completed: 3, ..Verdict::default() });
        assert!(verdict.is_good());
    }

    #[test]
    fn a_failure_without_a_payment_is_no_difference() {
        let verdict = Verdict::of(&[promise(1, 10, End::Failed("capped".into()))], &chain(&[], &[1]));
        assert!(verdict.is_good());
        assert_eq!(verdict.failed, BTreeMap::from([("capped".to_owned(), 1)]));
    }

    #[test]
    fn each_difference_is_counted_as_what_it_is() {
        let of = |end: End, payments: &[(u8, u64)]| {
            let verdict = Verdict::of(&[promise(1, 10, end)], &chain(payments, &[1]));
            assert!(!verdict.differences.is_empty());
            [verdict.lost, verdict.paid_twice, verdict.wrong_amount, verdict.stuck]
        };
        assert_eq!(of(completed(), &[]), [1, 0, 0, 0]);
        assert_eq!(of(End::Unknown, &[]), [1, 0, 0, 0]);
        assert_eq!(of(completed(), &[(1, 10), (1, 10)]), [0, 1, 0, 0]);
        assert_eq!(of(completed(), &[(1, 10), (2, 10)]), [0, 0, 1, 0]);
        assert_eq!(of(End::Completed(None), &[(1, 10)]), [0, 0, 1, 0]);
        assert_eq!(of(End::Failed("no".into()), &[(1, 10)]), [0, 0, 1, 0]);
        assert_eq!(of(End::Open("submitted".into()), &[(1, 10)]), [0, 0, 0, 1]);
        assert_eq!(of(End::Unanswered, &[]), [0, 0, 0, 1]);
        assert_eq!(of(End::Unanswered, &[(1, 10)]), [0, 0, 0, 1]);
        // The right grant went to the right account with a wrong amount.
        assert_eq!(of(completed(), &[(1, 11)]), [1, 0, 1, 0]);
    }

    #[test]
    fn tokens_from_nowhere_are_a_difference() {
        let mut chain = chain(&[(1, 10)], &[1]);
        chain.supply += U256::ONE;
        chain.balances.insert(Address::repeat_byte(1), U256::from(11));
        let verdict = Verdict::of(&[promise(1, 10, completed())], &chain);
        assert_eq!(verdict.wrong_amount, 2);
    }
}
