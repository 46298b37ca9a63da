//! What a message may demand of a grant besides that it be paid, and on which terms.

use shared::event::{GrantsConfirmed, GrantsReverted, GrantsStarted};
use shared::finality::Finality;

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    requests_that_are_new_are_announced_once,
    a_grant_in_the_queue_is_cancelled,
    a_grant_in_a_transaction_is_not_cancelled,
    a_grant_that_is_cancelled_before_it_arrives_is_never_queued,
    a_grant_that_cannot_be_paid_fails_at_once,
    a_grant_that_is_in_no_transaction_in_time_expires,
    urgent_grants_come_first,
    a_transaction_is_final_when_its_grants_say,
    the_owners_of_grants_are_told_of_blocks_and_reorgs,
    payments_are_stopped_and_let_go_by_whoever_stopped_them,
}

fn failure(payment: &Payment, failure: Failure, now: DateTime<Utc>) -> ResultEvent {
    payment.result(&Ending::Failed(failure), now)
}

async fn demand(store: &Store, demand: Demand, now: DateTime<Utc>) -> [usize; 3] {
    let received = store.receive(&[demand], 18, now).await.unwrap();
    [received.queued, received.repeated, received.refused]
}

async fn requests_that_are_new_are_announced_once(place: Place) {
    let store = open(&place).await;
    let payments = payments(0..3);
    receive(&store, &payments[..2], at(0)).await;
    receive(&store, &payments, at(1)).await;
    let started = |numbers: &[usize], now| {
        let request_ids = numbers.iter().map(|number| payments[*number].request_id.clone()).collect();
        ResultEvent::Started(GrantsStarted { request_ids, processed_at: at(now) })
    };
    assert_eq!(all_published(&store).await, [started(&[0, 1], 0), started(&[2], 1)]);
}

async fn a_grant_in_the_queue_is_cancelled(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    assert_eq!(demand(&store, Demand::Cancel(payments[0].clone()), at(5)).await, [0, 1, 0]);
    assert_eq!(queued(&store, at(9)).await, payments[1..]);
    assert_eq!(published(&store).await, [failure(&payments[0], Failure::cancelled(), at(5))]);
    assert_eq!(tally(&store).await, [0, 0, 1]);
    // Asked again, by whichever message, it is answered as the first time.
    for again in [Demand::Cancel(payments[0].clone()), Demand::Pay(payments[0].clone())] {
        demand(&store, again, at(7)).await;
        assert_eq!(published(&store).await, [failure(&payments[0], Failure::cancelled(), at(5))]);
    }
    assert_eq!(tally(&store).await, [0, 0, 1]);
}

async fn a_grant_in_a_transaction_is_not_cancelled(place: Place) {
    let (store, payments) = with_queued(&place, 0..1).await;
    let a = signed("a");
    let id = assign(&store, 0, &a, &payments).await.unwrap();
    published(&store).await;
    assert_eq!(demand(&store, Demand::Cancel(payments[0].clone()), at(20)).await, [0, 1, 0]);
    assert_eq!(published(&store).await, []);
    let verdicts = vec![(payments[0].clone(), Verdict::Ended(paid(a.hash)))];
    assert!(store.settle(&settlement(Some(&id), verdicts), at(30)).await.unwrap());
    assert_eq!(tally(&store).await, [1, 100, 0]);
    published(&store).await;
    demand(&store, Demand::Cancel(payments[0].clone()), at(40)).await;
    assert_eq!(published(&store).await, [payments[0].result(&paid(a.hash), at(30))]);
}

async fn a_grant_that_is_cancelled_before_it_arrives_is_never_queued(place: Place) {
    let store = open(&place).await;
    let payment = payment(0);
    assert_eq!(demand(&store, Demand::Cancel(payment.clone()), at(5)).await, [0, 0, 1]);
    assert_eq!(demand(&store, Demand::Pay(payment.clone()), at(6)).await, [0, 1, 0]);
    assert_eq!(queued(&store, at(9)).await, []);
    let cancelled = failure(&payment, Failure::cancelled(), at(5));
    assert_eq!(published(&store).await, [cancelled.clone(), cancelled]);
    assert_eq!(tally(&store).await, [0, 0, 1]);

    // Both in one batch, in either order.
    let [first, second] = [super::payment(1), super::payment(2)];
    let both = [
        Demand::Pay(first.clone()),
        Demand::Cancel(first.clone()),
        Demand::Cancel(second.clone()),
        Demand::Pay(second.clone()),
    ];
    store.receive(&both, 18, at(7)).await.unwrap();
    assert_eq!(queued(&store, at(9)).await, []);
    assert_eq!(tally(&store).await, [0, 0, 3]);
}

async fn a_grant_that_cannot_be_paid_fails_at_once(place: Place) {
    let store = open(&place).await;
    let payment = payment(0);
    let reason = Failure::new("wrong_chain", "it is to be paid elsewhere");
    assert_eq!(demand(&store, Demand::Impossible(payment.clone(), reason.clone()), at(5)).await, [0, 0, 1]);
    assert_eq!(published(&store).await, [failure(&payment, reason.clone(), at(5))]);
    assert_eq!(demand(&store, Demand::Pay(payment.clone()), at(6)).await, [0, 1, 0]);
    assert_eq!(published(&store).await, [failure(&payment, reason, at(5))], "what it was told first counts");
    assert_eq!(queued(&store, at(9)).await, []);
}

async fn a_grant_that_is_in_no_transaction_in_time_expires(place: Place) {
    let store = open(&place).await;
    let until = |number, expires_at| {
        let payment = payment(number);
        Payment { terms: Terms { expires_at, ..Terms::default() }, ..payment }
    };
    let all = [until(0, Some(at(30))), until(1, Some(at(20))), until(2, None), until(3, Some(at(20)))];
    receive(&store, &all, at(0)).await;
    open_lane(&store, LANE, 0).await;
    assert!(assign(&store, 0, &signed("a"), &all[3..]).await.is_some());
    assert_eq!(store.expired(10, at(19)).await.unwrap(), []);
    assert_eq!(store.expired(10, at(20)).await.unwrap(), all[1..2], "what is in a transaction may be paid any time");
    assert_eq!(store.expired(10, at(99)).await.unwrap(), [all[1].clone(), all[0].clone()]);
    assert_eq!(store.expired(1, at(99)).await.unwrap().len(), 1);
}

async fn urgent_grants_come_first(place: Place) {
    let store = open(&place).await;
    let with = |number: u64, priority: i64| {
        let terms = Terms { priority: priority.try_into().unwrap(), ..Terms::default() };
        Payment { terms, ..payment(number) }
    };
    receive(&store, &[with(0, 0), with(1, 5)], at(0)).await;
    receive(&store, &[with(2, 9), with(3, 5)], at(1)).await;
    let order: Vec<_> = queued(&store, at(2)).await.iter().map(|payment| payment.request_id.to_string()).collect();
    assert_eq!(order, ["request-002", "request-001", "request-003", "request-000"]);
}

async fn a_transaction_is_final_when_its_grants_say(place: Place) {
    let store = open(&place).await;
    let terms = Terms { finality: Some(Finality::Finalized), ..Terms::default() };
    let payments = [Payment { terms, ..payment(0) }];
    receive(&store, &payments, at(0)).await;
    open_lane(&store, LANE, 0).await;
    assign(&store, 0, &signed("a"), &payments).await.unwrap();
    assert_eq!(only_pending(&store).await.finality, Some(Finality::Finalized));
}

async fn the_owners_of_grants_are_told_of_blocks_and_reorgs(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    let a = signed("a");
    assign(&store, 0, &a, &payments).await.unwrap();
    published(&store).await;
    let pending = only_pending(&store).await;
    store.mined(HELD, &pending, &pending.attempts[0], Some(block(3)), at(20)).await.unwrap();
    let pending = only_pending(&store).await;
    store.mined(HELD, &pending, &pending.attempts[0], None, at(21)).await.unwrap();
    let request_ids: Vec<_> = payments.iter().map(|payment| payment.request_id.clone()).collect();
    let expected = [
        ResultEvent::Confirmed(GrantsConfirmed {
            request_ids: request_ids.clone(),
            transaction_hash: a.hash.to_string(),
            block_number: 3,
            block_hash: block(3).hash.to_string(),
            processed_at: at(20),
        }),
        ResultEvent::Reverted(GrantsReverted {
            request_ids,
            transaction_hash: a.hash.to_string(),
            processed_at: at(21),
        }),
    ];
    assert_eq!(published(&store).await, expected);
}

async fn payments_are_stopped_and_let_go_by_whoever_stopped_them(place: Place) {
    let store = open(&place).await;
    let stopped = async || {
        let switch = store.kill_switch().await.unwrap();
        (switch.by_campaign_since, switch.by_operator_since)
    };
    assert_eq!(stopped().await, (None, None));
    store.switch(SwitchSource::Campaign, true, Some(7), at(1)).await.unwrap();
    assert_eq!(stopped().await, (Some(at(1)), None));
    // What comes late changes nothing, and neither does a repeat.
    store.switch(SwitchSource::Campaign, false, Some(6), at(2)).await.unwrap();
    store.switch(SwitchSource::Campaign, true, Some(7), at(3)).await.unwrap();
    assert_eq!(stopped().await, (Some(at(1)), None));
    store.switch(SwitchSource::Operator, true, None, at(4)).await.unwrap();
    store.switch(SwitchSource::Campaign, false, Some(9), at(5)).await.unwrap();
    assert_eq!(stopped().await, (None, Some(at(4))));
    assert!(store.kill_switch().await.unwrap().is_engaged());
    store.switch(SwitchSource::Operator, false, None, at(6)).await.unwrap();
    assert!(!store.kill_switch().await.unwrap().is_engaged());
}
