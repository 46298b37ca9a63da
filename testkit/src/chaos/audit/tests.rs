use super::*;

const TRANSACTION: B256 = B256::repeat_byte(9);

fn promise(to: u8, amount: u64, end: End) -> Promised {
    Promised {
        request_id: format!("{to}-{amount}"),
        campaign: "summer".to_owned(),
        is_unwanted: false,
        recipient: Address::repeat_byte(to),
        amount: U256::from(amount),
        end,
    }
}

fn claims(promised: impl Into<Vec<Promised>>) -> Claims {
    Claims { promised: promised.into(), ..Claims::default() }
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
    let verdict = Verdict::of(&claims(promised), &chain(&[(1, 10), (2, 10), (1, 20)], &[1, 2]));
    assert_eq!(verdict, Verdict { completed: 3, ..Verdict::default() });
    assert!(verdict.is_good());
}

#[test]
fn a_failure_without_a_payment_is_no_difference() {
    let verdict = Verdict::of(&claims([promise(1, 10, End::Failed("capped".into()))]), &chain(&[], &[1]));
    assert!(verdict.is_good());
    assert_eq!(verdict.failed, BTreeMap::from([("capped".to_owned(), 1)]));
}

#[test]
fn each_difference_is_counted_as_what_it_is() {
    let of = |end: End, payments: &[(u8, u64)]| {
        let verdict = Verdict::of(&claims([promise(1, 10, end)]), &chain(payments, &[1]));
        assert!(!verdict.differences.is_empty());
        [verdict.lost, verdict.paid_twice, verdict.wrong_amount, verdict.stuck]
    };
    assert_eq!(of(completed(), &[]), [1, 0, 0, 0]);
    assert_eq!(of(End::Unknown, &[]), [1, 0, 0, 0]);
    assert_eq!(of(completed(), &[(1, 10), (1, 10)]), [0, 1, 0, 0]);
    assert_eq!(of(completed(), &[(1, 10), (2, 10)]), [0, 0, 1, 0]);
    assert_eq!(of(End::Completed(None), &[(1, 10)]), [0, 0, 1, 0]);
    assert_eq!(of(End::Failed("no".into()), &[(1, 10)]), [0, 0, 1, 0]);
    assert_eq!(of(End::Cancelled, &[]), [1, 0, 0, 0]);
    assert_eq!(of(End::Refused, &[(1, 10)]), [0, 0, 1, 0]);
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
    let verdict = Verdict::of(&claims([promise(1, 10, completed())]), &chain);
    assert_eq!(verdict.wrong_amount, 2);
}

#[test]
fn what_somebody_did_not_want_may_be_cancelled_or_paid() {
    let unwanted = |end| claims([Promised { is_unwanted: true, ..promise(1, 10, end) }]);
    let cancelled = Verdict::of(&unwanted(End::Cancelled), &chain(&[], &[1]));
    assert!(cancelled.is_good(), "{cancelled:?}");
    assert_eq!(cancelled.failed, BTreeMap::from([("cancelled".to_owned(), 1)]));
    assert!(Verdict::of(&unwanted(completed()), &chain(&[(1, 10)], &[1])).is_good());
    assert_eq!(Verdict::of(&unwanted(End::Cancelled), &chain(&[(1, 10)], &[1])).wrong_amount, 1);
}

/// What becomes of a campaign that has paid 3 tokens of 10 to somebody who wanted them and 4 to somebody who did not,
/// and has refused 5.
fn campaign(change: impl FnOnce(&mut Campaign), restored: bool) -> Verdict {
    let tokens = |amount: u64| base_units(amount);
    let mut promised = vec![promise(1, 3, completed()), promise(2, 4, completed()), promise(3, 5, End::Refused)];
    let mut chain = chain(&[(1, 3), (2, 4)], &[1, 2, 3]);
    promised[1].is_unwanted = true;
    let amounts = promised.iter_mut().map(|promise| &mut promise.amount);
    let paid = chain.payments.iter_mut().map(|payment| &mut payment.amount);
    for amount in amounts.chain(paid).chain(chain.balances.values_mut()) {
        *amount *= tokens(1);
    }
    chain.supply *= tokens(1);
    let mut campaign = Campaign { name: "summer".to_owned(), budget: Some(10), most: 9, reserved: 0, spent: 7 };
    change(&mut campaign);
    Verdict::of(&Claims { promised, campaigns: vec![campaign], restored }, &chain)
}

#[test]
fn a_campaign_within_its_budget_is_good() {
    let verdict = campaign(|_| (), false);
    assert_eq!(verdict, Verdict { completed: 2, refused: 1, exhausted: 1, ..Verdict::default() });
    assert!(campaign(|campaign| campaign.most = 10, false).is_good());
    assert!(campaign(|campaign| (campaign.budget, campaign.most) = (None, 1_000), false).is_good());
}

#[test]
fn a_campaign_that_promises_or_pays_more_than_its_budget_is_found() {
    let of = |change: fn(&mut Campaign), restored| {
        let verdict = campaign(change, restored);
        assert_eq!(verdict.is_good(), verdict.differences.is_empty());
        [verdict.over_budget, verdict.miscounted]
    };
    assert_eq!(of(|campaign| campaign.most = 11, false), [1, 0]);
    assert_eq!(of(|campaign| (campaign.budget, campaign.most) = (Some(6), 6), false), [1, 0], "7 were paid");
    // What was cancelled, forgotten and paid is excused, and no more than that.
    assert_eq!(of(|campaign| campaign.most = 14, true), [0, 0]);
    assert_eq!(of(|campaign| campaign.most = 15, true), [1, 0]);
}

#[test]
fn a_campaign_that_counts_otherwise_than_the_chain_is_found() {
    let of = |change: fn(&mut Campaign)| campaign(change, false).miscounted;
    assert_eq!(of(|campaign| campaign.spent = 6), 1);
    assert_eq!(of(|campaign| campaign.spent = 8), 1);
    assert_eq!(of(|campaign| campaign.reserved = 5), 1);
}

#[test]
fn a_campaign_of_which_nobody_knows_anything_has_spent_nothing() {
    let winter = |spent| Campaign { name: "winter".to_owned(), budget: None, most: spent, reserved: 0, spent };
    let of = |spent| Verdict::of(&Claims { campaigns: vec![winter(spent)], ..Claims::default() }, &chain(&[], &[]));
    assert!(of(0).is_good());
    assert_eq!(of(1).miscounted, 1);
}
