//! A payment is bound to one nonce, with the bytes that may be sent, and what is seen of them is remembered.

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    an_assigned_batch_keeps_nonce_bytes_and_hash,
    of_two_transactions_for_one_nonce_one_wins,
    a_payment_is_assigned_once,
    a_refused_assignment_changes_nothing,
    assignments_at_the_same_time_take_each_nonce_and_each_payment_once,
    pending_transactions_stand_in_the_order_of_their_nonces,
    a_replacement_stands_beside_the_attempts_before_it,
    the_block_of_a_transaction_is_remembered_and_forgotten,
    a_transaction_that_the_chain_has_lost_is_open_again_with_its_payments,
    a_nonce_that_nobody_knows_is_filled,
    the_time_of_sending_is_remembered,
}

async fn an_assigned_batch_keeps_nonce_bytes_and_hash(place: Place) {
    let (store, payments) = with_queued(&place, 0..3).await;
    let signed = signed("a");
    let id = assign(&store, 0, &signed, &payments[..2]).await.unwrap();

    assert_eq!(store.raw(signed.hash).await.unwrap(), signed.raw);
    let pending = store.pending(LANE).await.unwrap();
    assert_eq!(pending.len(), 1);
    assert_eq!((&pending[0].id, pending[0].nonce), (&id, 0));
    assert_eq!((pending[0].attempts.len(), pending[0].attempts[0].hash), (1, signed.hash));
    assert_eq!(pending[0].attempts[0].sent_at, None, "committed, not sent");

    let mut carried = store.payments_in(&id).await.unwrap();
    carried.sort_by_key(|payment| payment.grant_id);
    assert_eq!(carried, payments[..2]);
    assert_eq!(queued(&store, at(10)).await, payments[2..]);
    assert_eq!((store.next_nonce(LANE).await.unwrap(), in_flight(&store).await), (1, (1, 2)));
    assert_eq!(store.open_transactions(LANE).await.unwrap(), 1);
    assert_eq!(store.unmined(LANE.chain_id).await.unwrap(), (1, 2));
    assert_eq!(store.unmined(LANE.chain_id + 1).await.unwrap(), (0, 0), "of another chain");
    let progress = GrantsSubmitted {
        request_ids: payments[..2].iter().map(|payment| payment.request_id.clone()).collect(),
        transaction_hash: signed.hash.to_string(),
        processed_at: at(10),
    };
    assert_eq!(published(&store).await, [ResultEvent::Submitted(progress)], "one message for the whole transaction");
}

async fn of_two_transactions_for_one_nonce_one_wins(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    let other = open(&place).await;
    let (a, b) = (signed("a"), signed("b"));
    let outcomes = tokio::join!(assign(&store, 0, &a, &payments[..1]), assign(&other, 0, &b, &payments[1..]));
    let (winner, loser) = match outcomes {
        (Some(_), None) => (a, b),
        (None, Some(_)) => (b, a),
        both => panic!("{both:?}"),
    };
    assert_eq!(store.pending(LANE).await.unwrap()[0].attempts[0].hash, winner.hash);
    assert!(store.raw(loser.hash).await.is_err(), "bytes that are not committed are never sent");
    assert_eq!((queued(&store, at(10)).await.len(), store.next_nonce(LANE).await.unwrap()), (1, 1));
    assert_eq!(published(&store).await.len(), 1);
}

async fn a_payment_is_assigned_once(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    assign(&store, 0, &signed("a"), &payments[..1]).await.unwrap();
    assert_eq!(assign(&store, 1, &signed("b"), &payments).await, None, "one of the two is in a transaction");
    assert_eq!(assign(&store, 1, &signed("b"), &[payments[1].clone(), payment(9)]).await, None, "unknown payment");
    assert!(assign(&store, 1, &signed("b"), &payments[1..]).await.is_some());
}

async fn a_refused_assignment_changes_nothing(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    for nonce in [1, 7] {
        assert_eq!(assign(&store, nonce, &signed("a"), &payments).await, None);
    }
    assert_eq!(assign(&store, 0, &signed("a"), &[payments[0].clone(), payment(9)]).await, None);
    assert_eq!(queued(&store, at(10)).await, payments);
    assert_eq!((store.next_nonce(LANE).await.unwrap(), in_flight(&store).await), (0, (0, 0)));
    assert_eq!((store.pending(LANE).await.unwrap(), published(&store).await), (vec![], vec![]));
    assert!(store.raw(signed("a").hash).await.is_err());
}

async fn assignments_at_the_same_time_take_each_nonce_and_each_payment_once(place: Place) {
    let (store, _) = with_queued(&place, 0..40).await;
    let mut running = JoinSet::new();
    for process in 0..4 {
        let store = open(&place).await;
        running.spawn(async move {
            let mut won = 0;
            loop {
                let Taken { payments, lock } = store.take_queued(3, at(10)).await.unwrap();
                let batch: Vec<_> = payments.into_iter().map(|(payment, _)| payment).collect();
                if batch.is_empty() {
                    return won;
                }
                let nonce = store.next_nonce(LANE).await.unwrap();
                let signed = signed(&format!("{process}-{nonce}-{won}"));
                let transaction = transaction(nonce, &signed, &batch);
                won += usize::from(store.assign(lock, HELD, &transaction, at(10)).await.unwrap().is_some());
            }
        });
    }
    let won: usize = running.join_all().await.into_iter().sum();
    let pending = store.pending(LANE).await.unwrap();
    let nonces: Vec<_> = pending.iter().map(|transaction| transaction.nonce).collect();
    assert_eq!(nonces, (0..won as u64).collect::<Vec<_>>());
    let mut carried = Vec::new();
    for transaction in &pending {
        assert_eq!(transaction.attempts.len(), 1);
        carried.extend(store.payments_in(&transaction.id).await.unwrap());
    }
    carried.sort_by_key(|payment| payment.grant_id);
    assert_eq!(carried.iter().map(|one| one.grant_id).collect::<Vec<_>>(), ids(0..40));
}

async fn pending_transactions_stand_in_the_order_of_their_nonces(place: Place) {
    let (store, payments) = with_queued(&place, 0..12).await;
    open_lane(&store, LANE, 95).await;
    for (nonce, payment) in (95..107).zip(&payments) {
        assign(&store, nonce, &signed(&nonce.to_string()), std::slice::from_ref(payment)).await.unwrap();
    }
    let nonces = async || -> Vec<u64> { store.pending(LANE).await.unwrap().iter().map(|one| one.nonce).collect() };
    assert_eq!(nonces().await, (95..107).collect::<Vec<_>>(), "as numbers, not as text");

    let second = store.pending(LANE).await.unwrap().swap_remove(1);
    store.settle(&settlement(Some(&second.id), vec![]), at(20)).await.unwrap();
    assert_eq!(nonces().await, [&[95][..], &(97..107).collect::<Vec<_>>()].concat());
}

async fn a_replacement_stands_beside_the_attempts_before_it(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    let (a, b, c) = (signed("a"), signed("b"), signed("c"));
    let id = assign(&store, 0, &a, &payments).await.unwrap();
    published(&store).await;
    assert!(store.replace(HELD, &id, &transaction(0, &b, &payments), at(20)).await.unwrap());
    let ResultEvent::Submitted(told) = published(&store).await.remove(0) else { panic!("progress is told") };
    assert_eq!((told.transaction_hash, told.request_ids.len()), (b.hash.to_string(), 2));
    let cancel = NewTransaction { purpose: Purpose::Cancel, ..transaction(0, &c, &payments) };
    assert!(store.replace(HELD, &id, &cancel, at(20)).await.unwrap());
    assert_eq!(published(&store).await, []);

    let attempts = only_pending(&store).await.attempts;
    assert_eq!(attempts.iter().map(|one| one.hash).collect::<Vec<_>>(), [a.hash, b.hash, c.hash]);
    assert_eq!(attempts[2].purpose, Purpose::Cancel);
    store.mark_sent(c.hash, Some(Refusal::ReplacementUnderpriced), at(21)).await.unwrap();
    assert_eq!(only_pending(&store).await.attempts[2].refusal, Some(Refusal::ReplacementUnderpriced));
    assert_eq!(store.next_nonce(LANE).await.unwrap(), 1, "one nonce for all");
    assert_eq!(history(&store, &id).await, ["made", "replaced", "cancelling"]);

    store.settle(&settlement(Some(&id), vec![]), at(30)).await.unwrap();
    assert!(!store.replace(HELD, &id, &transaction(0, &signed("d"), &payments), at(40)).await.unwrap(), "it has ended");
}

async fn the_block_of_a_transaction_is_remembered_and_forgotten(place: Place) {
    let (store, payments) = with_queued(&place, 0..1).await;
    let id = assign(&store, 0, &signed("a"), &payments).await.unwrap();
    for at_last in [Some(block(3)), Some(block(4)), None] {
        let pending = only_pending(&store).await;
        store.mined(HELD, &pending, &pending.attempts[0], at_last, at(20)).await.unwrap();
        assert_eq!(only_pending(&store).await.mined_in, at_last);
    }
    assert_eq!(only_pending(&store).await.open_since, at(20), "since it fell back");
    assert_eq!(history(&store, &id).await, ["made", "mined", "fell_back", "mined", "fell_back"]);
}

async fn a_transaction_that_the_chain_has_lost_is_open_again_with_its_payments(place: Place) {
    let (store, payments) = with_queued(&place, 0..3).await;
    let a = signed("a");
    let id = assign(&store, 0, &a, &payments).await.unwrap();
    let endings = [Verdict::Ended(paid(a.hash)), Verdict::Ended(refused("no")), Verdict::Again { not_before: at(30) }];
    store
        .settle(&settlement(Some(&id), payments.iter().cloned().zip(endings.clone()).collect()), at(20))
        .await
        .unwrap();
    assert_eq!(tally(&store).await, [1, 100, 1]);
    published(&store).await;

    let reopened = store.reopen(HELD, 0, at(40)).await.unwrap();
    assert_eq!(reopened, Reopened::Transaction { id: id.clone(), payments: 2 });
    assert_eq!(store.reopen(HELD, 0, at(40)).await.unwrap(), Reopened::Nothing);
    assert_eq!(store.reopen(HELD, 1, at(40)).await.unwrap(), Reopened::Unknown);
    assert_eq!(tally(&store).await, [0, 0, 0]);
    assert_eq!(only_pending(&store).await.attempts[0].hash, a.hash);
    assert_eq!(store.payments_in(&id).await.unwrap().len(), 2);
    assert_eq!(store.open_nonces(LANE).await.unwrap(), [0].into());
    assert_eq!(only_pending(&store).await.open_since, at(40));

    let again = payments[..2].iter().cloned().zip(endings).collect();
    store.settle(&settlement(Some(&id), again), at(50)).await.unwrap();
    assert_eq!(tally(&store).await, [1, 100, 1]);
    assert_eq!(history(&store, &id).await, ["made", "succeeded", "reopened", "succeeded"]);
}

async fn a_nonce_that_nobody_knows_is_filled(place: Place) {
    let store = open(&place).await;
    assert_eq!(open_lane(&store, LANE, 9).await, 9);
    let (a, b) = (signed("a"), signed("b"));
    let filler = NewTransaction { purpose: Purpose::Cancel, ..transaction(7, &a, &[]) };
    assert!(store.fill(HELD, &filler, at(10)).await.unwrap());
    let twice = NewTransaction { signed: &b, ..filler };
    assert!(store.fill(HELD, &twice, at(10)).await.is_err(), "a nonce is taken once");
    assert_eq!(store.open_nonces(LANE).await.unwrap(), [7].into());
    assert_eq!(only_pending(&store).await.attempts[0].purpose, Purpose::Cancel);
}

async fn the_time_of_sending_is_remembered(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    let (a, b) = (signed("a"), signed("b"));
    assign(&store, 0, &a, &payments[..1]).await.unwrap();
    assign(&store, 1, &b, &payments[1..]).await.unwrap();
    store.mark_sent(a.hash, None, at(11)).await.unwrap();
    store.mark_sent(B256::ZERO, None, at(11)).await.unwrap();
    let sent = async || -> Vec<_> {
        store.pending(LANE).await.unwrap().iter().map(|transaction| transaction.attempts[0].sent_at).collect()
    };
    assert_eq!(sent().await, [Some(at(11)), None]);
    for hash in [a.hash, b.hash] {
        store.mark_sent(hash, None, at(12)).await.unwrap();
    }
    assert_eq!(sent().await, [Some(at(12)), Some(at(12))]);
}
