//! Grants that are claimed, and the roots by which they are.

use alloy::primitives::address;
use blockchain::audit::ChainPayment;
use blockchain::store::{ClaimRoot, Cursor, Publication, Source};
use shared::event::{ClaimRootChanged, ClaimRootPublished};

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    a_grant_to_be_claimed_is_never_queued_and_answered_each_time,
    a_grant_that_can_be_claimed_is_cancelled,
    a_claim_that_the_chain_has_seen_completes_its_grant_once,
    a_claim_of_another_amount_or_for_another_completes_nothing,
    the_newest_root_is_published_and_announced,
    a_root_whose_transaction_came_to_nothing_is_published_by_another,
    a_root_that_the_chain_has_lost_is_published_again,
    a_root_is_assigned_once,
    a_root_that_is_not_taken_holds_up_no_other,
}

const DISTRIBUTOR: Address = address!("0xe7f1725e7734ce288f8367e1bb143e90bb3f0512");

fn amount() -> U256 {
    "100000000000000000000".parse().unwrap()
}

fn claim(payment: &Payment) -> Demand {
    Demand::Claim(payment.clone())
}

/// What a demand came to: queued, claimable, repeated, refused.
async fn demand(store: &Store, demand: Demand, now: DateTime<Utc>) -> [usize; 4] {
    let received = store.receive(&[demand], 18, now).await.unwrap();
    [received.queued, received.claimable, received.repeated, received.refused]
}

async fn a_grant_to_be_claimed_is_never_queued_and_answered_each_time(place: Place) {
    let (store, payment) = (open(&place).await, payment(0));
    assert_eq!(demand(&store, claim(&payment), at(0)).await, [0, 1, 0, 0]);
    assert_eq!(published(&store).await, [payment.claimable(18, at(0))]);
    assert_eq!(queued(&store, at(9)).await, []);
    assert_eq!(demand(&store, claim(&payment), at(5)).await, [0, 0, 1, 0]);
    assert_eq!(published(&store).await, [payment.claimable(18, at(5))]);
    // Who has forgotten that cannot have it minted, and is told again.
    assert_eq!(demand(&store, Demand::Pay(payment.clone()), at(6)).await, [0, 0, 1, 0]);
    assert_eq!((published(&store).await, queued(&store, at(9)).await), (vec![payment.claimable(18, at(6))], vec![]));
    // Nor is one claimed that is being minted.
    let minted = super::payment(1);
    receive(&store, std::slice::from_ref(&minted), at(0)).await;
    published(&store).await;
    assert_eq!(demand(&store, claim(&minted), at(7)).await, [0, 0, 1, 0]);
    assert_eq!(published(&store).await, []);
}

async fn a_grant_that_can_be_claimed_is_cancelled(place: Place) {
    let (store, payment) = (open(&place).await, payment(0));
    demand(&store, claim(&payment), at(0)).await;
    published(&store).await;
    let cancelled = payment.result(&Ending::Failed(Failure::cancelled()), at(1));
    assert_eq!(demand(&store, Demand::Cancel(payment.clone()), at(1)).await, [0, 0, 1, 0]);
    assert_eq!(published(&store).await, std::slice::from_ref(&cancelled));
    assert_eq!(tally(&store).await, [0, 0, 1]);
    assert_eq!(demand(&store, claim(&payment), at(2)).await, [0, 0, 1, 0]);
    assert_eq!(published(&store).await, [cancelled]);
    // One whose cancellation comes first can never be claimed.
    let early = super::payment(1);
    demand(&store, Demand::Cancel(early.clone()), at(2)).await;
    assert_eq!(demand(&store, claim(&early), at(3)).await, [0, 0, 1, 0]);
    let cancelled = early.result(&Ending::Failed(Failure::cancelled()), at(2));
    assert_eq!(published(&store).await, [cancelled.clone(), cancelled]);
}

/// What the chain says that it has paid, in block 5.
async fn seen(store: &Store, paid: &[ChainPayment]) {
    let source = Source { chain_id: 31_337, distributor: DISTRIBUTOR, first_block: 0 };
    let from = store.chain_cursor(&source).await.unwrap();
    let to = Cursor { next_block: 6, block_hash: Some(B256::repeat_byte(5)) };
    assert!(store.record_chain(from, paid, to).await.unwrap());
}

fn on_chain(payment: &Payment, log_index: u64) -> ChainPayment {
    ChainPayment {
        grant_id: payment.grant_id,
        recipient: payment.recipient.address(),
        amount: amount(),
        transaction_hash: B256::repeat_byte(7),
        block_number: 5,
        block_hash: B256::repeat_byte(5),
        log_index,
        seen_at: at(8),
    }
}

async fn a_claim_that_the_chain_has_seen_completes_its_grant_once(place: Place) {
    let (store, payments) = (open(&place).await, payments(0..3));
    for payment in &payments {
        demand(&store, claim(payment), at(0)).await;
    }
    published(&store).await;
    assert_eq!(store.claimed(18, 0, 10).await.unwrap(), []);
    // The third one twice, which the contract rules out.
    let twice = [on_chain(&payments[2], 1), on_chain(&payments[2], 2)];
    seen(&store, &[vec![on_chain(&payments[0], 0)], twice.to_vec()].concat()).await;
    let paid = Paid { transaction_hash: B256::repeat_byte(7), block_number: 5, gas_used: None, gas_price: None };
    let claimed = store.claimed(18, 0, 10).await.unwrap();
    let expected: Vec<_> = [0, 2].map(|number: usize| (payments[number].request_id.clone(), paid)).into();
    assert_eq!(claimed.iter().map(|(payment, paid)| (payment.request_id.clone(), *paid)).collect::<Vec<_>>(), expected);
    assert_eq!(store.claimed(18, 0, 1).await.unwrap().len(), 1);
    assert_eq!(store.claimed(18, 5, 10).await.unwrap().len(), 2);
    assert_eq!(store.claimed(18, 6, 10).await.unwrap(), [], "that was looked at before");

    let completed = |(payment, paid): (Payment, Paid)| (payment, Verdict::Ended(Ending::Completed(paid)));
    let verdicts: Vec<_> = claimed.into_iter().map(completed).collect();
    for _ in 0..2 {
        store.settle(&settlement(None, verdicts.clone()), at(9)).await.unwrap();
        assert_eq!(tally(&store).await, [2, 200, 0]);
    }
    assert_eq!(store.claimed(18, 0, 10).await.unwrap(), []);
    let result = |number: usize| payments[number].result(&Ending::Completed(paid), at(9));
    assert_eq!(published(&store).await, [result(0), result(2)]);
    assert_eq!(demand(&store, claim(&payments[0]), at(11)).await, [0, 0, 1, 0]);
    assert_eq!(published(&store).await, [result(0)]);
}

async fn a_claim_of_another_amount_or_for_another_completes_nothing(place: Place) {
    let (store, payments) = (open(&place).await, payments(0..2));
    for payment in &payments {
        demand(&store, claim(payment), at(0)).await;
    }
    let less = ChainPayment { amount: U256::from(100), ..on_chain(&payments[0], 0) };
    let elsewhere = ChainPayment { recipient: Address::repeat_byte(0xee), ..on_chain(&payments[1], 1) };
    seen(&store, &[less, elsewhere]).await;
    assert_eq!(store.claimed(18, 0, 10).await.unwrap(), []);
}

fn wanted(campaign: &str, number: u64) -> ClaimRootChanged {
    let root = B256::with_last_byte(u8::try_from(number).unwrap()).to_string();
    ClaimRootChanged { campaign_id: campaign.parse().unwrap(), root, number, timestamp: at(0) }
}

fn root(campaign: &str, number: u64) -> ClaimRoot {
    let root = B256::with_last_byte(u8::try_from(number).unwrap());
    ClaimRoot { campaign_id: campaign.parse().unwrap(), number, root }
}

fn told(campaign: &str, number: u64, second: i64) -> ResultEvent {
    ResultEvent::ClaimRootPublished(ClaimRootPublished {
        campaign_id: campaign.parse().unwrap(),
        root: root(campaign, number).root.to_string(),
        number,
        chain_id: 31_337,
        distributor: DISTRIBUTOR.try_into().unwrap(),
        transaction_hash: B256::repeat_byte(9).to_string(),
        block_number: 12,
        processed_at: at(second),
    })
}

/// A store with an open lane, that is asked to publish these roots of campaigns.
async fn with_wanted(place: &Place, roots: &[(&str, u64)]) -> Store {
    let store = open(place).await;
    open_lane(&store, LANE, 0).await;
    for (campaign, number) in roots {
        store.want_claim_root(&wanted(campaign, *number), at(0)).await.unwrap();
    }
    store
}

/// Binds a root to a nonce; the transaction's name.
async fn publish(store: &Store, nonce: u64, root: &ClaimRoot) -> Option<String> {
    let signed = signed(&format!("{nonce} {}", root.number));
    let publication = Some(Publication { root, distributor: DISTRIBUTOR });
    let transaction = NewTransaction { publication, ..transaction(nonce, &signed, &[]) };
    store.assign(None, HELD, &transaction, at(1)).await.unwrap()
}

/// Ends a transaction so.
async fn settle(store: &Store, id: &str, end: End, second: i64) {
    let mined = (end == End::Succeeded).then(|| (B256::repeat_byte(9), 12));
    let transaction = Some(Ended { lane: HELD, id: id.to_owned(), end, mined });
    assert!(store.settle(&Settlement { transaction, verdicts: vec![] }, at(second)).await.unwrap());
}

async fn the_newest_root_is_published_and_announced(place: Place) {
    let store = with_wanted(&place, &[("a", 3), ("a", 5), ("a", 4), ("b", 2)]).await;
    assert_eq!(store.next_claim_root(at(1)).await.unwrap(), Some(root("a", 5)));
    let a = publish(&store, 0, &root("a", 5)).await.unwrap();
    assert_eq!(store.next_claim_root(at(1)).await.unwrap(), Some(root("b", 2)), "the first is on its way");
    let b = publish(&store, 1, &root("b", 2)).await.unwrap();
    assert_eq!(store.next_claim_root(at(1)).await.unwrap(), None);
    assert_eq!(published(&store).await, [], "no grant is in these transactions");
    settle(&store, &a, End::Succeeded, 2).await;
    settle(&store, &b, End::Succeeded, 3).await;
    assert_eq!(published(&store).await, [told("a", 5, 2), told("b", 2, 3)]);
    // Who did not hear it asks again.
    store.want_claim_root(&wanted("a", 5), at(9)).await.unwrap();
    assert_eq!(published(&store).await, [told("a", 5, 2)]);
    // What comes late changes nothing.
    store.want_claim_root(&wanted("a", 4), at(9)).await.unwrap();
    assert_eq!((store.next_claim_root(at(99)).await.unwrap(), published(&store).await), (None, vec![]));
    store.want_claim_root(&wanted("a", 6), at(9)).await.unwrap();
    assert_eq!(store.next_claim_root(at(9)).await.unwrap(), Some(root("a", 6)));
}

async fn a_root_whose_transaction_came_to_nothing_is_published_by_another(place: Place) {
    for (nonce, end) in (0..).zip([End::Reverted, End::Cancelled, End::GivenUp]) {
        let number = nonce + 1;
        let store = with_wanted(&place, &[("a", number)]).await;
        let id = publish(&store, nonce, &root("a", number)).await.unwrap();
        settle(&store, &id, end, 2).await;
        assert_eq!(store.next_claim_root(at(2)).await.unwrap(), None, "not at once");
        assert_eq!(store.next_claim_root(at(12)).await.unwrap(), Some(root("a", number)));
        assert_eq!(published(&store).await, []);
    }
    // Unless there is a newer one.
    let store = with_wanted(&place, &[]).await;
    let id = publish(&store, 3, &root("a", 3)).await.unwrap();
    store.want_claim_root(&wanted("a", 4), at(3)).await.unwrap();
    settle(&store, &id, End::Cancelled, 4).await;
    assert_eq!(store.next_claim_root(at(99)).await.unwrap(), Some(root("a", 4)));
}

async fn a_root_that_the_chain_has_lost_is_published_again(place: Place) {
    let store = with_wanted(&place, &[("a", 1)]).await;
    let id = publish(&store, 0, &root("a", 1)).await.unwrap();
    settle(&store, &id, End::Succeeded, 2).await;
    published(&store).await;
    let reopened = store.reopen(HELD, 0, at(3)).await.unwrap();
    assert_eq!(reopened, Reopened::Transaction { id: id.clone(), payments: 0 });
    store.want_claim_root(&wanted("a", 1), at(4)).await.unwrap();
    assert_eq!((store.next_claim_root(at(99)).await.unwrap(), published(&store).await), (None, vec![]));
    settle(&store, &id, End::Succeeded, 5).await;
    assert_eq!(published(&store).await, [told("a", 1, 5)]);
}

async fn a_root_is_assigned_once(place: Place) {
    let store = with_wanted(&place, &[("a", 1)]).await;
    publish(&store, 0, &root("a", 1)).await.unwrap();
    assert_eq!(publish(&store, 1, &root("a", 1)).await, None);
    assert_eq!(publish(&store, 1, &root("b", 1)).await, None, "nobody wants it");
    assert_eq!(store.next_nonce(LANE).await.unwrap(), 1);
    assert_eq!(store.pending(LANE).await.unwrap().len(), 1);
}

async fn a_root_that_is_not_taken_holds_up_no_other(place: Place) {
    let store = with_wanted(&place, &[("a", 1), ("b", 2)]).await;
    store.postpone_claim_root(&root("a", 1), at(30)).await.unwrap();
    assert_eq!(store.next_claim_root(at(1)).await.unwrap(), Some(root("b", 2)));
    publish(&store, 0, &root("b", 2)).await.unwrap();
    assert_eq!(store.next_claim_root(at(29)).await.unwrap(), None);
    assert_eq!(store.next_claim_root(at(30)).await.unwrap(), Some(root("a", 1)));
    // One that is on its way is not waiting.
    publish(&store, 1, &root("a", 1)).await.unwrap();
    store.postpone_claim_root(&root("a", 1), at(90)).await.unwrap();
    assert_eq!(store.next_claim_root(at(99)).await.unwrap(), None);
}
