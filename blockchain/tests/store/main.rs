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
mod lanes;
mod receiving;
mod settling;
mod transactions;

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

/// The stored payment, whose trace was drawn at random.
async fn payment_with_trace_of(store: &Store, number: u64) -> Payment {
    let expected = payment(number);
    let stored = queued(store, at(1000)).await.into_iter().find(|one| one.request_id == expected.request_id).unwrap();
    Payment { trace: stored.trace, ..expected }
}

fn ids(numbers: std::ops::Range<u64>) -> Vec<GrantId> {
    payments(numbers).into_iter().map(|payment| payment.grant_id).collect()
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
