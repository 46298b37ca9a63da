//! Every kind of difference is found, and nothing else.

use proptest::prelude::*;
use shared::clock::from_micros;

use super::*;

const HORIZON_BLOCK: u64 = 100;

fn at(seconds: i64) -> DateTime<Utc> {
    from_micros(seconds * 1_000_000)
}

/// Ten minutes of patience, an hour after the epoch.
fn horizon() -> Horizon {
    Horizon { next_block: HORIZON_BLOCK, now: at(3600), grace: TimeDelta::minutes(10) }
}

fn hash(number: u8) -> B256 {
    B256::repeat_byte(number)
}

fn entry(claim: Claim) -> Entry {
    Entry {
        request_id: "r".parse().unwrap(),
        grant_id: GrantId(U256::from(7)),
        recipient: Address::repeat_byte(1),
        amount: U256::from(100),
        claim,
        since: at(3500),
    }
}

fn claimed(number: u8, block_number: u64) -> Claim {
    Claim::Paid { transaction_hash: Some(hash(number)), block_number: Some(block_number) }
}

/// The payment that the entry asks for.
fn payment(transaction: u8) -> ChainPayment {
    ChainPayment {
        grant_id: GrantId(U256::from(7)),
        recipient: Address::repeat_byte(1),
        amount: U256::from(100),
        transaction_hash: hash(transaction),
        block_number: 50,
        block_hash: hash(0xb0),
        log_index: transaction.into(),
        seen_at: at(3500),
    }
}

fn kinds(entry: &Entry, paid: &[ChainPayment]) -> Vec<Kind> {
    match compare(entry, paid, &horizon()) {
        Verdict::Differs(differences) => differences.into_iter().map(|(kind, _)| kind).collect(),
        Verdict::Agreed | Verdict::OnItsWay => Vec::new(),
    }
}

#[test]
fn a_payment_as_promised_agrees() {
    assert_eq!(compare(&entry(claimed(1, 50)), &[payment(1)], &horizon()), Verdict::Agreed);
    let without_details = Claim::Paid { transaction_hash: None, block_number: None };
    assert_eq!(compare(&entry(without_details), &[payment(1)], &horizon()), Verdict::Agreed);
    for open in [Claim::Waiting, Claim::UnderWay, Claim::Failed] {
        assert_eq!(compare(&entry(open), &[], &horizon()), Verdict::Agreed);
    }
}

#[test]
fn what_is_in_flight_is_no_difference() {
    assert_eq!(compare(&entry(Claim::UnderWay), &[payment(1)], &horizon()), Verdict::OnItsWay);
    assert_eq!(compare(&entry(claimed(1, HORIZON_BLOCK)), &[], &horizon()), Verdict::OnItsWay);
}

#[test]
fn what_is_on_its_way_for_too_long_differs() {
    let long_ago = ChainPayment { seen_at: at(1000), ..payment(1) };
    assert_eq!(kinds(&entry(Claim::UnderWay), &[long_ago]), [Kind::ResultOverdue]);
    for nowhere in [claimed(1, u64::MAX), Claim::Paid { transaction_hash: None, block_number: None }] {
        assert_eq!(kinds(&Entry { since: at(1000), ..entry(nowhere) }, &[]), [Kind::MissingPayment]);
    }
}

#[test]
fn every_kind_has_its_sign() {
    let paid = || entry(claimed(1, 50));
    let to_another = ChainPayment { recipient: Address::repeat_byte(2), ..payment(1) };
    let of_another_amount = ChainPayment { amount: U256::from(101), ..payment(1) };
    let wrong_in_both = ChainPayment { amount: U256::from(101), ..to_another.clone() };
    for (entry, paid, expected) in [
        (paid(), vec![], vec![Kind::MissingPayment]),
        (paid(), vec![to_another.clone()], vec![Kind::WrongRecipient]),
        (paid(), vec![of_another_amount.clone()], vec![Kind::WrongAmount]),
        (paid(), vec![wrong_in_both.clone()], vec![Kind::WrongRecipient, Kind::WrongAmount]),
        (paid(), vec![payment(2)], vec![Kind::WrongTransaction]),
        (paid(), vec![payment(2), payment(1)], vec![Kind::PaidTwice]),
        (paid(), vec![payment(1), payment(1), payment(2)], vec![Kind::PaidTwice, Kind::PaidTwice]),
        (entry(Claim::Failed), vec![payment(1)], vec![Kind::PaidThoughFailed]),
        (entry(Claim::Failed), vec![to_another.clone()], vec![Kind::UnknownPayment]),
        (entry(Claim::Waiting), vec![payment(1)], vec![Kind::ResultLost]),
        (entry(Claim::Waiting), vec![to_another], vec![Kind::WrongRecipient]),
        (entry(Claim::UnderWay), vec![of_another_amount], vec![Kind::WrongAmount]),
    ] {
        assert_eq!(kinds(&entry, &paid), expected, "{entry:?} {paid:?}");
    }
}

#[test]
fn every_kind_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(names.len(), Kind::ALL.len());
    for kind in Kind::ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
    }
}

fn claims() -> impl Strategy<Value = Claim> {
    prop_oneof![
        Just(Claim::Waiting),
        Just(Claim::UnderWay),
        Just(Claim::Failed),
        (proptest::option::of(1_u8..4), proptest::option::of(0_u64..200)).prop_map(|(transaction, block_number)| {
            Claim::Paid { transaction_hash: transaction.map(hash), block_number }
        }),
    ]
}

fn payments() -> impl Strategy<Value = Vec<ChainPayment>> {
    let one =
        (1_u8..4, 1_u8..3, 100_u8..102, 0_i64..3600).prop_map(|(transaction, to, amount, seen_at)| ChainPayment {
            recipient: Address::repeat_byte(to),
            amount: U256::from(amount),
            seen_at: at(seen_at),
            ..payment(transaction)
        });
    proptest::collection::vec(one, 0..4)
}

proptest! {
    /// Each kind is told from what it means, by another way than [`compare`] takes.
    #[test]
    fn nothing_is_missed_and_nothing_made_up(claim in claims(), paid in payments(), since in 0_i64..3600) {
        let entry = Entry { since: at(since), ..entry(claim) };
        let found = kinds(&entry, &paid);
        let has = |kind| found.contains(&kind);
        let as_promised = |p: &&ChainPayment| p.recipient == entry.recipient && p.amount == entry.amount;
        let says_paid = matches!(claim, Claim::Paid { .. });

        // Whatever was paid too often, or to the wrong account, or wrongly at all, shows.
        prop_assert_eq!(found.iter().filter(|kind| **kind == Kind::PaidTwice).count(), paid.len().saturating_sub(1));
        prop_assert!(paid.iter().all(|p| as_promised(&p)) || !found.is_empty());
        prop_assert!(!has(Kind::MissingPayment) || paid.is_empty());
        if has(Kind::MissingPayment) { prop_assert!(says_paid); }
        if has(Kind::PaidThoughFailed) { prop_assert!(claim == Claim::Failed && paid.iter().any(|p| as_promised(&p))); }
        if has(Kind::ResultLost) { prop_assert!(claim == Claim::Waiting && as_promised(&&paid[0])); }
        if has(Kind::ResultOverdue) { prop_assert!(claim == Claim::UnderWay && paid[0].seen_at < at(3000)); }

        // One payment as promised, by the transaction that is named, is all that a ledger may call completed.
        if says_paid && found.is_empty() && compare(&entry, &paid, &horizon()) == Verdict::Agreed {
            prop_assert_eq!(paid.len(), 1);
            let Claim::Paid { transaction_hash, .. } = claim else { unreachable!() };
            prop_assert!(as_promised(&&paid[0]) && transaction_hash.is_none_or(|hash| hash == paid[0].transaction_hash));
        }
        // A grant that was paid, and of which the ledger neither says so nor expects to hear, is never passed over.
        if matches!(claim, Claim::Waiting | Claim::Failed) { prop_assert_eq!(found.is_empty(), paid.is_empty()); }
    }
}
