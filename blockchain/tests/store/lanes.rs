//! A lane has one owner, and its nonces go on from where the chain or the store is.

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    a_lane_goes_on_from_the_chain_or_from_the_store_whichever_is_ahead,
    lanes_are_apart,
    a_lane_has_one_owner_until_its_time_is_over,
    a_lane_is_free_at_once_when_its_owner_gives_it_back,
    an_owner_whose_time_is_over_commits_nothing,
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
