//! A transaction ends once, and its payments with it.

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    a_settled_transaction_ends_its_payments_and_announces_them,
    a_payment_that_goes_back_waits_until_its_time,
    a_transaction_settled_twice_counts_once,
    a_payment_refused_outside_a_transaction_ends_once,
    a_payment_in_a_transaction_is_not_ended_without_it,
    a_refusal_in_odd_words_is_stored_and_announced,
    reopening_keeps_everything,
}

async fn a_settled_transaction_ends_its_payments_and_announces_them(place: Place) {
    let (store, payments) = with_queued(&place, 0..3).await;
    let signed = signed("a");
    let id = assign(&store, 0, &signed, &payments).await.unwrap();
    published(&store).await;
    let endings = [paid(signed.hash), refused("the cap is reached"), paid(signed.hash)];
    let verdicts = payments.iter().cloned().zip(endings.clone().map(Verdict::Ended)).collect();
    store.settle(&settlement(Some(&id), verdicts), at(20)).await.unwrap();

    let expected: Vec<_> = payments.iter().zip(&endings).map(|(payment, end)| payment.result(end, at(20))).collect();
    assert_eq!(published(&store).await, expected);
    assert_eq!(tally(&store).await, [2, 200, 1]);
    assert_eq!((in_flight(&store).await, store.queue().await.unwrap().grants), ((0, 0), 0));
    assert_eq!(store.pending(LANE).await.unwrap(), []);
    assert_eq!(store.payments_in(&id).await.unwrap(), []);
    assert_eq!(store.next_nonce(LANE).await.unwrap(), 1);
}

async fn a_payment_that_goes_back_waits_until_its_time(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    let first = signed("a");
    let id = assign(&store, 0, &first, &payments).await.unwrap();
    published(&store).await;
    let verdicts = vec![
        (payments[0].clone(), Verdict::Again { not_before: at(50) }),
        (payments[1].clone(), Verdict::Ended(paid(first.hash))),
    ];
    store.settle(&settlement(Some(&id), verdicts), at(20)).await.unwrap();
    assert_eq!(published(&store).await.len(), 1, "nothing is announced of what goes back");
    assert_eq!(queued(&store, at(49)).await, []);
    assert_eq!(queued(&store, at(50)).await, payments[..1]);
    assert_eq!(store.queue().await.unwrap(), Queue { grants: 1, oldest: Some(at(0)) }, "it has waited all the time");
    assert_eq!(receive(&store, &payments[..1], at(50)).await, [0, 1, 0]);
    assert_eq!(published(&store).await, []);

    // A second transaction carries it, and only it.
    let second = signed("b");
    let id = assign(&store, 1, &second, &payments[..1]).await.unwrap();
    assert_eq!(store.payments_in(&id).await.unwrap(), payments[..1]);
    let verdicts = vec![(payments[0].clone(), Verdict::Ended(paid(second.hash)))];
    store.settle(&settlement(Some(&id), verdicts), at(60)).await.unwrap();
    assert_eq!(tally(&store).await, [2, 200, 0]);
    let published = published(&store).await;
    assert_eq!(published[1..], [payments[0].result(&paid(second.hash), at(60))]);
}

async fn a_transaction_settled_twice_counts_once(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    let signed = signed("a");
    let id = assign(&store, 0, &signed, &payments).await.unwrap();
    published(&store).await;
    let verdicts = vec![
        (payments[0].clone(), Verdict::Ended(paid(signed.hash))),
        (payments[1].clone(), Verdict::Again { not_before: at(30) }),
    ];
    let ended = settlement(Some(&id), verdicts);
    let other = open(&place).await;
    let (one, two) = tokio::join!(store.settle(&ended, at(20)), other.settle(&ended, at(20)));
    one.unwrap();
    two.unwrap();
    assert_eq!((tally(&store).await, published(&store).await.len()), ([1, 100, 0], 1));

    // The payment that went back is in another transaction when a third process comes late.
    assign(&store, 1, &self::signed("b"), &payments[1..]).await.unwrap();
    published(&store).await;
    store.settle(&ended, at(40)).await.unwrap();
    assert_eq!((tally(&store).await, published(&store).await), ([1, 100, 0], vec![]));
    assert_eq!(queued(&store, at(1000)).await, [], "and it stays there");
}

async fn a_payment_refused_outside_a_transaction_ends_once(place: Place) {
    let (store, payments) = with_queued(&place, 0..1).await;
    let ended = settlement(None, vec![(payments[0].clone(), Verdict::Ended(refused("reverts")))]);
    store.settle(&ended, at(20)).await.unwrap();
    store.settle(&ended, at(30)).await.unwrap();
    assert_eq!(published(&store).await, [payments[0].result(&refused("reverts"), at(20))]);
    assert_eq!(tally(&store).await, [0, 0, 1]);
    assert_eq!(queued(&store, at(1000)).await, []);
}

async fn a_payment_in_a_transaction_is_not_ended_without_it(place: Place) {
    let (store, payments) = with_queued(&place, 0..1).await;
    let id = assign(&store, 0, &signed("a"), &payments).await.unwrap();
    published(&store).await;
    let ended = settlement(None, vec![(payments[0].clone(), Verdict::Ended(refused("reverts")))]);
    store.settle(&ended, at(20)).await.unwrap();
    assert_eq!((tally(&store).await, published(&store).await), ([0, 0, 0], vec![]));
    assert_eq!(store.payments_in(&id).await.unwrap(), payments, "the transaction may be mined any moment");
}

async fn a_refusal_in_odd_words_is_stored_and_announced(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    let odd = ["it's \"quoted\" \\ 🎮\r\n\u{1b}[31m", "a NUL: \0"];
    let verdicts = payments.iter().cloned().zip(odd.map(|text| Verdict::Ended(refused(text)))).collect();
    store.settle(&settlement(None, verdicts), at(20)).await.unwrap();
    let first = published(&store).await;
    assert_eq!(first.len(), 2);
    assert_eq!(first[0], payments[0].result(&refused(odd[0]), at(20)));
    assert_eq!(tally(&store).await, [0, 0, 2]);
    receive(&store, &payments[..1], at(30)).await;
    assert_eq!(published(&store).await, first[..1]);
    assert_eq!(receive(&store, &payments[1..], at(30)).await, [0, 1, 0]);
    assert_eq!(published(&store).await, [payments[1].result(&refused("a NUL: \u{fffd}"), at(20))]);
}

async fn reopening_keeps_everything(place: Place) {
    let (store, payments) = with_queued(&place, 0..4).await;
    let (a, b) = (signed("a"), signed("b"));
    let ended = assign(&store, 0, &a, &payments[..1]).await.unwrap();
    assign(&store, 1, &b, &payments[1..3]).await.unwrap();
    store.mark_sent(b.hash, None, at(11)).await.unwrap();
    let verdicts = vec![(payments[0].clone(), Verdict::Ended(paid(a.hash)))];
    store.settle(&settlement(Some(&ended), verdicts), at(20)).await.unwrap();
    let before = (store.pending(LANE).await.unwrap(), store.queue().await.unwrap(), tally(&store).await);
    store.database().close().await;
    assert!(store.receive(&demands(&payments), 18, at(30)).await.is_err());

    let store = open(&place).await;
    assert_eq!((store.pending(LANE).await.unwrap(), store.queue().await.unwrap(), tally(&store).await), before);
    assert_eq!(open_lane(&store, LANE, 1).await, 2);
    assert_eq!(store.raw(b.hash).await.unwrap(), b.raw);
    assert_eq!(queued(&store, at(30)).await, payments[3..]);
    assert_eq!(published(&store).await.len(), 3, "two transactions sent, one grant completed");
    assert_eq!(receive(&store, &payments, at(30)).await, [0, 4, 0]);
    assert_eq!(published(&store).await, [payments[0].result(&paid(a.hash), at(20))]);
}
