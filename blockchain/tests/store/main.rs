//! The blockchain store on both databases: a grant is queued once, bound to one nonce with the bytes that may be sent,
//! and ended once; each step commits the message that announces it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use blockchain::chain::Refusal;
use blockchain::domain::{Demand, Ending, Failure, GrantId, Paid, Payment};
use blockchain::fees::Fees;
use blockchain::signer::Signed;
use blockchain::store::{
    Ended, Lane, LaneId, NewTransaction, Queue, Reopened, Settlement, Store, SwitchSource, Taken, Tally, Verdict,
};
use blockchain::transaction::{BlockId, End, Pending, Purpose};
use chrono::{DateTime, TimeDelta, Utc};
use shared::clock::from_micros;
use shared::event::{GrantsSubmitted, ResultEvent, Terms};
use shared::outbox::{self, Waiting};
use shared::pubsub::Topic;
use shared::telemetry::TraceParent;
use sqlx::Row as _;
use testkit::{Place, on_both_databases};
use tokio::task::JoinSet;

mod claims;
mod demands;

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
    a_lane_goes_on_from_the_chain_or_from_the_store_whichever_is_ahead,
    an_assigned_batch_keeps_nonce_bytes_and_hash,
    of_two_transactions_for_one_nonce_one_wins,
    a_payment_is_assigned_once,
    a_refused_assignment_changes_nothing,
    assignments_at_the_same_time_take_each_nonce_and_each_payment_once,
    pending_transactions_stand_in_the_order_of_their_nonces,
    lanes_are_apart,
    a_lane_has_one_owner_until_its_time_is_over,
    a_lane_is_free_at_once_when_its_owner_gives_it_back,
    an_owner_whose_time_is_over_commits_nothing,
    a_replacement_stands_beside_the_attempts_before_it,
    the_block_of_a_transaction_is_remembered_and_forgotten,
    a_transaction_that_the_chain_has_lost_is_open_again_with_its_payments,
    a_nonce_that_nobody_knows_is_filled,
    the_time_of_sending_is_remembered,
    a_settled_transaction_ends_its_payments_and_announces_them,
    a_payment_that_goes_back_waits_until_its_time,
    a_transaction_settled_twice_counts_once,
    a_payment_refused_outside_a_transaction_ends_once,
    a_payment_in_a_transaction_is_not_ended_without_it,
    a_refusal_in_odd_words_is_stored_and_announced,
    reopening_keeps_everything,
}

/// Opens the store, as one more process would.
async fn open(place: &Place) -> Store {
    Store::open(&place.url().into()).await.unwrap()
}

const LANE: LaneId = LaneId { chain_id: 31_337, signer: Address::repeat_byte(0x51) };
/// The lane as its first owner holds it.
const HELD: Lane = Lane { id: LANE, fence: 1 };

fn at(seconds: i64) -> DateTime<Utc> {
    from_micros((1_700_000_000 + seconds) * 1_000_000)
}

fn payment(number: u64) -> Payment {
    Payment {
        request_id: format!("request-{number:03}").parse().unwrap(),
        grant_id: GrantId(U256::from(7) << 64 | U256::from(number)),
        user_id: format!("user-{number} ü").parse().unwrap(),
        campaign_id: "summer".parse().unwrap(),
        recipient: Address::with_last_byte(u8::try_from(number + 1).unwrap()).try_into().unwrap(),
        token_amount: 100.try_into().unwrap(),
        requested_at: at(-1) + TimeDelta::microseconds(1),
        trace: Some(TraceParent::new()),
        terms: Terms::default(),
    }
}

fn payments(numbers: std::ops::Range<u64>) -> Vec<Payment> {
    numbers.map(payment).collect()
}

/// That all of them be paid.
fn demands(payments: &[Payment]) -> Vec<Demand> {
    payments.iter().cloned().map(Demand::Pay).collect()
}

/// What was received: queued, repeated, refused.
async fn receive(store: &Store, payments: &[Payment], now: DateTime<Utc>) -> [usize; 3] {
    let received = store.receive(&demands(payments), 18, now).await.unwrap();
    [received.queued, received.repeated, received.refused]
}

/// How many transactions are open, and how many grants are in them.
async fn in_flight(store: &Store) -> (u64, u64) {
    let in_flight = store.in_flight().await.unwrap();
    (in_flight.transactions, in_flight.grants)
}

/// Which grants are in the queue, in its order.
async fn queued(store: &Store, now: DateTime<Utc>) -> Vec<Payment> {
    queued_since(store, 1000, now).await.into_iter().map(|(payment, _)| payment).collect()
}

/// The first of them, each with the time since when it waits.
async fn queued_since(store: &Store, limit: usize, now: DateTime<Utc>) -> Vec<(Payment, DateTime<Utc>)> {
    let mut taken = store.take_queued(limit, now).await.unwrap();
    let payments = std::mem::take(&mut taken.payments);
    taken.give_back().await.unwrap();
    payments
}

fn signed(seed: &str) -> Signed {
    // Every byte value, so that nothing is lost to an encoding.
    let raw: Bytes = (0..=255).chain(seed.bytes()).collect::<Vec<u8>>().into();
    Signed { hash: keccak256(&raw), raw }
}

fn transaction<'a>(nonce: u64, signed: &'a Signed, payments: &'a [Payment]) -> NewTransaction<'a> {
    let fees = Fees { max_fee_per_gas: 2_000_000_000, max_priority_fee_per_gas: 1_000_000_000 };
    let publication = None;
    NewTransaction { nonce, signed, purpose: Purpose::Pay, gas_limit: 16_000_000, fees, payments, publication }
}

async fn assign(store: &Store, nonce: u64, signed: &Signed, payments: &[Payment]) -> Option<String> {
    store.assign(None, HELD, &transaction(nonce, signed, payments), at(10)).await.unwrap()
}

/// Takes a lane for the first time, or as the same owner again, on a chain that has this nonce; returns its next nonce.
async fn open_lane(store: &Store, id: LaneId, chain_nonce: u64) -> u64 {
    let lane = store.lease(id, "owner", at(0), at(5)).await.unwrap().unwrap();
    assert_eq!(lane.fence, 1);
    store.raise_nonce(lane, chain_nonce).await.unwrap().unwrap()
}

fn paid(hash: B256) -> Ending {
    Ending::Completed(Paid { transaction_hash: hash, block_number: 12, gas_used: Some(26_000), gas_price: Some(3) })
}

fn refused(message: &str) -> Ending {
    Ending::Failed(Failure::new("rejected_by_token", message))
}

fn settlement(transaction: Option<&str>, verdicts: Vec<(Payment, Verdict)>) -> Settlement {
    let ended = |id: &str| Ended { lane: HELD, id: id.to_owned(), end: End::Succeeded, mined: None };
    Settlement { transaction: transaction.map(ended), verdicts }
}

/// A store with one open lane and these payments queued.
async fn with_queued(place: &Place, numbers: std::ops::Range<u64>) -> (Store, Vec<Payment>) {
    let (store, payments) = (open(place).await, payments(numbers));
    open_lane(&store, LANE, 0).await;
    receive(&store, &payments, at(0)).await;
    (store, payments)
}

/// Takes all messages out of the outbox, but for those that say that requests were taken in.
async fn published(store: &Store) -> Vec<ResultEvent> {
    let is_news = |event: &ResultEvent| !matches!(event, ResultEvent::Started(_));
    all_published(store).await.into_iter().filter(is_news).collect()
}

/// Takes all messages out of the outbox, as the relay would; each with its attributes checked.
async fn all_published(store: &Store) -> Vec<ResultEvent> {
    let waiting = outbox::waiting(store.database(), i64::MAX).await.unwrap();
    sqlx::query("delete from outbox").execute(store.database().writer()).await.unwrap();
    let read = |waiting: &Waiting| {
        assert_eq!(waiting.topic, Topic::Results);
        let body: serde_json::Value = serde_json::from_slice(&waiting.message.data).unwrap();
        for name in ["event_type", "user_id", "campaign_id", "request_id"] {
            let attribute = waiting.message.attributes.get(name).map(String::as_str);
            assert_eq!(attribute, body.get(name).and_then(|value| value.as_str()), "{name} of {body}");
        }
        serde_json::from_value(body).unwrap()
    };
    waiting.iter().map(read).collect()
}

async fn tally(store: &Store) -> [u64; 3] {
    let Tally { completed_grants, completed_tokens, failed_grants } = store.tally().await.unwrap();
    [completed_grants, completed_tokens, failed_grants]
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

/// The stored payment, whose trace was drawn at random.
async fn payment_with_trace_of(store: &Store, number: u64) -> Payment {
    let expected = payment(number);
    let stored = queued(store, at(1000)).await.into_iter().find(|one| one.request_id == expected.request_id).unwrap();
    Payment { trace: stored.trace, ..expected }
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

async fn a_lane_goes_on_from_the_chain_or_from_the_store_whichever_is_ahead(place: Place) {
    let store = open(&place).await;
    assert!(store.next_nonce(LANE).await.is_err(), "the lane was never opened");
    assert_eq!(open_lane(&store, LANE, 3).await, 3);
    receive(&store, &payments(0..1), at(0)).await;
    assign(&store, 3, &signed("a"), &payments(0..1)).await.unwrap();
    assert_eq!(store.next_nonce(LANE).await.unwrap(), 4);
    assert_eq!(open_lane(&store, LANE, 3).await, 4, "sent and not mined yet: the nonce stays taken");
    assert_eq!(open_lane(&store, LANE, 0).await, 4);
    assert_eq!(open_lane(&store, LANE, 9).await, 9, "an old backup: the chain is right");
    assert_eq!(store.next_nonce(LANE).await.unwrap(), 9);
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

fn ids(numbers: std::ops::Range<u64>) -> Vec<GrantId> {
    payments(numbers).into_iter().map(|payment| payment.grant_id).collect()
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

async fn lanes_are_apart(place: Place) {
    let (store, payments) = with_queued(&place, 0..1).await;
    let others = [LaneId { chain_id: 1, ..LANE }, LaneId { signer: Address::repeat_byte(0x52), ..LANE }];
    for (other, nonce) in others.into_iter().zip([40, 50]) {
        assert_eq!(open_lane(&store, other, nonce).await, nonce);
    }
    assign(&store, 0, &signed("a"), &payments).await.unwrap();
    for (other, nonce) in others.into_iter().zip([40, 50]) {
        assert_eq!(store.next_nonce(other).await.unwrap(), nonce);
        assert_eq!(store.pending(other).await.unwrap(), []);
    }
}

async fn a_lane_has_one_owner_until_its_time_is_over(place: Place) {
    let store = open(&place).await;
    let lease = async |owner: &str, now: i64| store.lease(LANE, owner, at(now), at(now + 5)).await.unwrap();
    assert_eq!(lease("a", 0).await, Some(HELD));
    assert_eq!(lease("b", 4).await, None);
    assert_eq!(lease("a", 4).await, Some(HELD), "renewed");
    assert_eq!(lease("b", 8).await, None, "until second 9");
    assert_eq!(lease("b", 9).await, Some(Lane { fence: 2, ..HELD }));
    assert_eq!(lease("a", 10).await, None);
    assert_eq!(lease("b", 100).await, Some(Lane { fence: 2, ..HELD }), "nobody else took it");
}

async fn a_lane_is_free_at_once_when_its_owner_gives_it_back(place: Place) {
    let store = open(&place).await;
    let lease = async |owner: &str| store.lease(LANE, owner, at(0), at(5)).await.unwrap();
    lease("a").await.unwrap();
    store.release(HELD).await.unwrap();
    let b = lease("b").await.unwrap();
    assert_eq!(b.fence, 2);
    store.release(HELD).await.unwrap();
    assert_eq!(lease("c").await, None, "an old lease gives nothing back");
}

async fn an_owner_whose_time_is_over_commits_nothing(place: Place) {
    let (store, payments) = with_queued(&place, 0..2).await;
    let (a, b) = (signed("a"), signed("b"));
    let id = assign(&store, 0, &a, &payments[..1]).await.unwrap();
    let pending = store.pending(LANE).await.unwrap();
    let next = store.lease(LANE, "another", at(9), at(14)).await.unwrap().unwrap();

    assert_eq!(assign(&store, 1, &b, &payments[1..]).await, None);
    assert!(!store.replace(HELD, &id, &transaction(0, &b, &payments[..1]), at(10)).await.unwrap());
    assert!(!store.fill(HELD, &transaction(7, &b, &[]), at(10)).await.unwrap());
    store.mined(HELD, &pending[0], &pending[0].attempts[0], Some(block(3)), at(10)).await.unwrap();
    let verdicts = vec![(payments[0].clone(), Verdict::Ended(paid(a.hash)))];
    assert!(!store.settle(&settlement(Some(&id), verdicts), at(10)).await.unwrap());
    assert_eq!(store.raise_nonce(HELD, 50).await.unwrap(), None);
    assert_eq!(store.pending(LANE).await.unwrap(), pending);
    assert_eq!(queued(&store, at(10)).await, payments[1..]);
    assert_eq!(tally(&store).await, [0, 0, 0]);
    assert!(store.assign(None, next, &transaction(1, &b, &payments[1..]), at(10)).await.unwrap().is_some());
}

fn block(number: u64) -> BlockId {
    BlockId { number, hash: B256::with_last_byte(u8::try_from(number).unwrap()) }
}

async fn only_pending(store: &Store) -> Pending {
    let mut pending = store.pending(LANE).await.unwrap();
    assert_eq!(pending.len(), 1);
    pending.remove(0)
}

/// The kinds of the lines of a transaction's history.
async fn history(store: &Store, id: &str) -> Vec<String> {
    let sql = "select kind from chain_transaction_event where transaction_id = $1 order by id";
    let rows = sqlx::query(sql).bind(id).fetch_all(store.database().reader()).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
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
