//! A request is queued once, and a repeat is answered as the first time.

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    a_new_request_is_queued_and_not_answered_yet,
    a_repeat_is_not_queued_again,
    a_request_twice_in_one_batch_is_queued_once,
    a_repeat_of_a_completed_grant_is_answered_as_the_first_time,
    a_repeat_of_a_failed_grant_is_answered_as_the_first_time,
    a_grant_id_that_another_grant_has_is_refused,
    receivers_at_the_same_time_queue_each_grant_once,
    the_longest_waiting_come_first_and_no_more_than_asked_for,
}

async fn a_new_request_is_queued_and_not_answered_yet(place: Place) {
    let store = open(&place).await;
    let payments = payments(0..3);
    assert_eq!(receive(&store, &payments, at(0)).await, [3, 0, 0]);
    assert_eq!(queued(&store, at(0)).await, payments);
    assert_eq!(store.queue().await.unwrap(), Queue { grants: 3, oldest: Some(at(0)) });
    assert_eq!(published(&store).await, []);
    assert_eq!(receive(&store, &[], at(0)).await, [0, 0, 0]);
}

async fn a_repeat_is_not_queued_again(place: Place) {
    let (store, payments) = with_queued(&place, 0..3).await;
    assert_eq!(receive(&store, &payments, at(1)).await, [0, 3, 0]);
    // Among new ones too, and with other contents: the first message counts.
    let changed = Payment { token_amount: 999.try_into().unwrap(), ..payments[0].clone() };
    assert_eq!(receive(&store, &[changed, payment(3)], at(2)).await, [1, 1, 0]);
    assert_eq!(queued(&store, at(2)).await, [&payments[..], &[payment_with_trace_of(&store, 3).await]].concat());
    assert_eq!(published(&store).await, [], "what has not ended is not answered");
}

async fn a_request_twice_in_one_batch_is_queued_once(place: Place) {
    let store = open(&place).await;
    let one = payment(0);
    assert_eq!(receive(&store, &[one.clone(), one.clone(), one.clone()], at(0)).await, [1, 2, 0]);
    assert_eq!(queued(&store, at(0)).await, [one]);
}

async fn a_repeat_of_a_completed_grant_is_answered_as_the_first_time(place: Place) {
    let (store, payments) = with_queued(&place, 0..1).await;
    let signed = signed("a");
    let id = assign(&store, 0, &signed, &payments).await.unwrap();
    published(&store).await;
    let ended = settlement(Some(&id), vec![(payments[0].clone(), Verdict::Ended(paid(signed.hash)))]);
    store.settle(&ended, at(20)).await.unwrap();
    let first = published(&store).await;
    assert_eq!(first, [payments[0].result(&paid(signed.hash), at(20))]);

    let again = Payment { user_id: "somebody else".parse().unwrap(), ..payments[0].clone() };
    assert_eq!(receive(&store, &[again, payments[0].clone()], at(500)).await, [0, 2, 0]);
    assert_eq!(published(&store).await, [&first[..], &first].concat(), "same hash, same times, same user");
    assert_eq!(tally(&store).await, [1, 100, 0]);
}

async fn a_repeat_of_a_failed_grant_is_answered_as_the_first_time(place: Place) {
    let (store, payments) = with_queued(&place, 0..1).await;
    let ended = settlement(None, vec![(payments[0].clone(), Verdict::Ended(refused("no")))]);
    store.settle(&ended, at(20)).await.unwrap();
    let first = published(&store).await;
    assert_eq!(first, [payments[0].result(&refused("no"), at(20))]);
    assert_eq!(receive(&store, &payments, at(500)).await, [0, 1, 0]);
    assert_eq!(published(&store).await, first);
}

async fn a_grant_id_that_another_grant_has_is_refused(place: Place) {
    let (store, payments) = with_queued(&place, 0..1).await;
    let thief = Payment { grant_id: payments[0].grant_id, ..payment(1) };
    let (first, second) = (payment(2), Payment { grant_id: payment(2).grant_id, ..payment(3) });
    let batch = [thief.clone(), first.clone(), second.clone()];
    assert_eq!(receive(&store, &batch, at(5)).await, [1, 0, 2]);

    let failure = Failure::new("grant_id_taken", "another grant has this issuer and grant_index");
    let expected = [thief, second].map(|payment| payment.result(&Ending::Failed(failure.clone()), at(5)));
    assert_eq!(published(&store).await, expected);
    assert_eq!(queued(&store, at(5)).await, [payments[0].clone(), first]);
}

async fn receivers_at_the_same_time_queue_each_grant_once(place: Place) {
    let all = payments(0..60);
    let mut running = JoinSet::new();
    for receiver in 0..4 {
        let (store, mut mine) = (open(&place).await, all.clone());
        mine.rotate_left(receiver * 15);
        if receiver % 2 == 1 {
            mine.reverse();
        }
        running.spawn(async move {
            let mut queued = 0;
            for batch in mine.chunks(8) {
                // Two transactions that wait for each other: one is told to try again, as the inbox does.
                queued += loop {
                    match store.receive(&demands(batch), 18, at(0)).await {
                        Ok(received) => break received.queued,
                        Err(error) => assert!(!error.is_data(), "{error}"),
                    }
                };
            }
            queued
        });
    }
    assert_eq!(running.join_all().await.into_iter().sum::<usize>(), 60);
    assert_eq!(queued(&open(&place).await, at(0)).await, all);
}

async fn the_longest_waiting_come_first_and_no_more_than_asked_for(place: Place) {
    let store = open(&place).await;
    receive(&store, &[payment(5), payment(3)], at(10)).await;
    receive(&store, &[payment(9), payment(1)], at(0)).await;
    let numbers = async |limit: usize, now| -> Vec<String> {
        queued_since(&store, limit, now).await.into_iter().map(|(payment, _)| payment.request_id.to_string()).collect()
    };
    assert_eq!(numbers(10, at(10)).await, ["request-001", "request-009", "request-003", "request-005"]);
    assert_eq!(numbers(3, at(10)).await, ["request-001", "request-009", "request-003"]);
    assert_eq!(numbers(10, at(9)).await, ["request-001", "request-009"]);
    let since: Vec<_> = queued_since(&store, 3, at(10)).await.into_iter().map(|(_, since)| since).collect();
    assert_eq!(since, [at(0), at(0), at(10)]);
}
