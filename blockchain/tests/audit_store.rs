//! What an audit keeps in the blockchain store, on both databases: events are read once, an interrupted reading goes on
//! where it was, and pages neither lose a row nor show one twice.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, U256};
use blockchain::audit::{ChainPayment, Claim};
use blockchain::domain::{Demand, Ending, Failure, GrantId, Paid, Payment};
use blockchain::store::{Cursor, Settlement, Source, Span, Store, Verdict};
use chrono::{DateTime, Utc};
use shared::clock::from_micros;
use shared::event::Terms;
use shared::id::Issuer;
use testkit::{Place, on_both_databases};

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    events_are_recorded_with_the_cursor_once,
    of_two_readers_one_moves_the_cursor,
    another_source_or_an_earlier_beginning_is_read_from_the_start,
    stepping_back_forgets_what_came_after,
    what_a_node_left_out_is_added_once,
    an_id_paid_twice_is_two_rows,
    pages_of_events_show_each_once_and_say_which_are_known,
    pages_of_the_ledger_show_each_payment_once,
    strangers_are_those_whom_the_ledger_does_not_know,
    payments_that_the_chain_has_paid_after_all_are_queued_again,
}

async fn open(place: &Place) -> Store {
    Store::open(&place.url().into()).await.unwrap()
}

const SOURCE: Source = Source { chain_id: 31_337, distributor: Address::repeat_byte(0xd1), first_block: 3 };
const START: Cursor = Cursor { next_block: 3, block_hash: None };
const ISSUER: u64 = 0xfedc_ba98_7654_3210;

fn at(seconds: i64) -> DateTime<Utc> {
    from_micros((1_700_000_000 + seconds) * 1_000_000)
}

fn id(number: u64) -> GrantId {
    GrantId::dense(Issuer::new(ISSUER), number)
}

fn event(number: u64, block: u64, log: u64) -> ChainPayment {
    ChainPayment {
        grant_id: id(number),
        recipient: Address::with_last_byte(u8::try_from(number % 250 + 1).unwrap()),
        // More than 64 bits.
        amount: U256::from(u64::MAX) * U256::from(1000),
        transaction_hash: B256::with_last_byte(u8::try_from(block % 250).unwrap()),
        block_number: block,
        block_hash: hash(block),
        log_index: log,
        seen_at: at(i64::try_from(block).unwrap()),
    }
}

fn hash(block: u64) -> B256 {
    B256::from(U256::from(block) << 200)
}

fn cursor(block: u64) -> Cursor {
    Cursor { next_block: block + 1, block_hash: Some(hash(block)) }
}

fn payment(number: u64) -> Payment {
    Payment {
        request_id: format!("request-{number:03}").parse().unwrap(),
        grant_id: id(number),
        user_id: "alice".parse().unwrap(),
        campaign_id: "summer".parse().unwrap(),
        recipient: Address::with_last_byte(u8::try_from(number % 250 + 1).unwrap()).try_into().unwrap(),
        token_amount: 100.try_into().unwrap(),
        requested_at: at(0),
        trace: None,
        terms: Terms::default(),
    }
}

fn demands(payments: &[Payment]) -> Vec<Demand> {
    payments.iter().cloned().map(Demand::Pay).collect()
}

async fn read(store: &Store, events: &[ChainPayment], to: u64) {
    let from = store.chain_cursor(&SOURCE).await.unwrap();
    assert!(store.record_chain(from, events, cursor(to)).await.unwrap());
}

async fn of(store: &Store, numbers: &[u64], next_block: u64) -> Vec<ChainPayment> {
    let ids: Vec<_> = numbers.iter().copied().map(id).collect();
    store.chain_payments_of(&ids, next_block).await.unwrap()
}

async fn events_are_recorded_with_the_cursor_once(place: Place) {
    let store = open(&place).await;
    assert_eq!(store.chain_cursor(&SOURCE).await.unwrap(), START);
    let events = [event(1, 5, 0), event(2, 5, 1), event(u64::MAX, 7, 0)];
    read(&store, &events, 9).await;
    assert_eq!(store.chain_cursor(&SOURCE).await.unwrap(), cursor(9));
    assert_eq!(of(&store, &[1, 2, 3, u64::MAX], 10).await, events);
    assert_eq!(of(&store, &[1, 2, 3, u64::MAX], 7).await, events[..2], "only blocks below the horizon");
    assert!(!store.record_chain(START, &events, cursor(9)).await.unwrap(), "a chunk is recorded once");
    read(&store, &[], 20).await;
    assert_eq!(store.chain_cursor(&SOURCE).await.unwrap(), cursor(20));
}

async fn of_two_readers_one_moves_the_cursor(place: Place) {
    let store = open(&place).await;
    store.chain_cursor(&SOURCE).await.unwrap();
    let chunk = [event(1, 5, 0)];
    let (one, other) =
        tokio::join!(store.record_chain(START, &chunk, cursor(9)), store.record_chain(START, &chunk, cursor(6)));
    assert!(one.unwrap() ^ other.unwrap());
    assert_eq!(of(&store, &[1], 100).await, chunk);
}

async fn another_source_or_an_earlier_beginning_is_read_from_the_start(place: Place) {
    let store = open(&place).await;
    for other in [
        Source { chain_id: 1, ..SOURCE },
        Source { distributor: Address::repeat_byte(0xd2), ..SOURCE },
        Source { first_block: 2, ..SOURCE },
    ] {
        store.forget_chain(&SOURCE).await.unwrap();
        read(&store, &[event(1, 5, 0)], 9).await;
        let start = Cursor { next_block: other.first_block, block_hash: None };
        assert_eq!(store.chain_cursor(&other).await.unwrap(), start);
        assert_eq!(of(&store, &[1], 100).await, []);
    }
    store.forget_chain(&SOURCE).await.unwrap();
    read(&store, &[event(1, 5, 0)], 9).await;
    let later = Source { first_block: 4, ..SOURCE };
    assert_eq!(store.chain_cursor(&later).await.unwrap(), cursor(9), "more was read than is asked for");
}

async fn stepping_back_forgets_what_came_after(place: Place) {
    let store = open(&place).await;
    read(&store, &[event(1, 5, 0), event(2, 7, 0), event(3, 7, 1)], 9).await;
    assert_eq!(store.recorded_block_below(10).await.unwrap(), Some((7, hash(7))));
    assert_eq!(store.recorded_block_below(7).await.unwrap(), Some((5, hash(5))));
    assert_eq!(store.recorded_block_below(5).await.unwrap(), None);
    assert!(!store.step_back(cursor(8), cursor(5)).await.unwrap(), "somebody else has moved it");
    assert!(store.step_back(cursor(9), cursor(5)).await.unwrap());
    assert_eq!(of(&store, &[1, 2, 3], 100).await, [event(1, 5, 0)]);
    assert_eq!(store.chain_cursor(&SOURCE).await.unwrap(), cursor(5));
    assert!(store.step_back(cursor(5), START).await.unwrap());
    assert_eq!((store.chain_cursor(&SOURCE).await.unwrap(), of(&store, &[1], 100).await), (START, vec![]));
}

async fn what_a_node_left_out_is_added_once(place: Place) {
    let store = open(&place).await;
    read(&store, &[event(1, 5, 0)], 9).await;
    let block = [event(1, 5, 0), event(2, 5, 1)];
    assert_eq!(store.record_missed(&block).await.unwrap(), 1);
    assert_eq!(store.record_missed(&block).await.unwrap(), 0);
    assert_eq!(of(&store, &[1, 2], 100).await, block);
}

async fn an_id_paid_twice_is_two_rows(place: Place) {
    let store = open(&place).await;
    let twice = [event(1, 5, 0), event(1, 5, 1), event(1, 6, 0)];
    read(&store, &twice, 9).await;
    assert_eq!(of(&store, &[1], 100).await, twice);
}

async fn pages_of_events_show_each_once_and_say_which_are_known(place: Place) {
    let store = open(&place).await;
    store.receive(&demands(&[payment(2), payment(4)]), 18, at(0)).await.unwrap();
    let events: Vec<_> = (0..7).map(|number| event(number, 5 + number / 3, number % 3)).collect();
    read(&store, &events, 9).await;
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let page = store.chain_payments_after(after, 7, 2).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some((last.block_number, last.log_index));
        seen.extend(page);
    }
    let known = |event: &ChainPayment| [id(2), id(4)].contains(&event.grant_id);
    let expected: Vec<_> = events[..6].iter().map(|event| (event.clone(), known(event))).collect();
    assert_eq!(seen, expected);
}

async fn pages_of_the_ledger_show_each_payment_once(place: Place) {
    let store = open(&place).await;
    let sparse = |number: u64| Payment {
        request_id: format!("sparse-{number}").parse().unwrap(),
        grant_id: GrantId(U256::MAX - U256::from(number)),
        ..payment(number)
    };
    let payments: Vec<_> = (0..5).map(payment).chain((0..3).map(sparse)).collect();
    store.receive(&demands(&payments), 18, at(1)).await.unwrap();
    let paid = Paid { transaction_hash: hash(7), block_number: 7, gas_used: None, gas_price: None };
    let verdicts = vec![(payments[1].clone(), Verdict::Ended(Ending::Completed(paid)))];
    store.settle(&Settlement { transaction: None, verdicts }, at(2)).await.unwrap();

    let blocks = [(0, 0), (7, 0), (8, 0), (0, 1)];
    let found = blocks.map(async |(block, number)| store.block_of_payment(block, number).await.unwrap());
    assert_eq!(futures::future::join_all(found).await, [Some(7), Some(7), None, None]);

    let (mut after, mut seen) = (None, BTreeMap::new());
    loop {
        let page = store.ledger_after(after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.payment.grant_id);
        for row in page {
            assert!(seen.insert(row.payment.request_id.to_string(), (row.claim, row.since)).is_none());
        }
    }
    assert_eq!(seen.len(), payments.len());
    let claim = Claim::Paid { transaction_hash: Some(hash(7)), block_number: Some(7) };
    assert_eq!(seen["request-001"], (claim, at(2)));
    assert_eq!(seen["request-002"], (Claim::Waiting, at(1)));
}

async fn strangers_are_those_whom_the_ledger_does_not_know(place: Place) {
    let store = open(&place).await;
    let foreign = ChainPayment { grant_id: GrantId::dense(Issuer::new(ISSUER - 1), 2), ..event(2, 8, 0) };
    let sparse = ChainPayment { grant_id: GrantId(U256::MAX), ..event(2, 8, 1) };
    // A number that no ledger of ours can have: its 64 bits are negative where a column has a sign.
    let huge = event(u64::MAX, 8, 2);
    let events = [event(1, 5, 0), event(2, 5, 1), event(3, 5, 2), event(3, 6, 0), event(9, 6, 1)];
    read(&store, &[&events[..], &[foreign, sparse, huge.clone()]].concat(), 9).await;
    let strangers = async |after, last, known: &[GrantId], next_block| {
        let mut span = Span { issuer: Issuer::new(ISSUER), after, last, known };
        let mut all = Vec::new();
        loop {
            let page = store.strangers_of(&span, next_block, 1).await.unwrap();
            let Some(last) = page.last() else { return all };
            let number = last.grant_id.number().unwrap().1;
            span.after = Some((number, Some((last.block_number, last.log_index))));
            all.extend(page);
        }
    };
    let [one, two, three, three_again, nine] = &events;
    let everybody = [&huge, one, two, three, three_again, nine].map(Clone::clone);
    assert_eq!(strangers(None, None, &[], 10).await, everybody);
    assert_eq!(strangers(None, None, &[id(1), id(3), id(u64::MAX)], 10).await, [two.clone(), nine.clone()]);
    assert_eq!(strangers(Some((1, None)), Some(3), &[id(2)], 10).await, [three.clone(), three_again.clone()]);
    assert_eq!(strangers(Some((3, None)), None, &[], 6).await, [], "beyond the horizon");
}

async fn payments_that_the_chain_has_paid_after_all_are_queued_again(place: Place) {
    let store = open(&place).await;
    let payments: Vec<_> = (0..3).map(payment).collect();
    store.receive(&demands(&payments), 18, at(0)).await.unwrap();
    let cancelled = (payments[2].clone(), Verdict::Ended(Ending::Failed(Failure::cancelled())));
    store.settle(&Settlement { transaction: None, verdicts: vec![cancelled] }, at(0)).await.unwrap();
    // Nothing that we know leaves a payment like this; whatever does, must not lose it.
    let mut tx = store.database().begin("test").await.unwrap();
    for statement in [
        "insert into chain_transaction (id, chain_id, signer, nonce, state, grants, created_at)
         values ('ended', 1, '0x', 0, 'succeeded', 1, 0), ('open', 1, '0x', 1, 'pending', 1, 0)",
        "update payment set state = 'assigned', transaction_id = 'ended' where request_id = 'request-000'",
        "update payment set state = 'assigned', transaction_id = 'open' where request_id = 'request-001'",
    ] {
        sqlx::query(statement).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    let claims =
        async || -> Vec<_> { store.ledger_after(None, 10).await.unwrap().into_iter().map(|row| row.claim).collect() };
    let failed = async || store.tally().await.unwrap().failed_grants;
    assert_eq!((claims().await, failed().await), (vec![Claim::Waiting, Claim::UnderWay, Claim::Failed], 1));
    store.requeue(&payments).await.unwrap();
    assert_eq!((claims().await, failed().await), (vec![Claim::Waiting, Claim::UnderWay, Claim::Waiting], 0));
    let queued = store.take_queued(10, at(100)).await.unwrap().payments;
    let queued: Vec<_> = queued.into_iter().map(|(payment, _)| payment).collect();
    assert_eq!(queued, [payments[0].clone(), payments[2].clone()]);
}
