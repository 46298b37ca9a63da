//! A request without a result is published again, and in the end given to an operator.

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    only_what_is_overdue_is_published_again_each_time_later,
    the_wait_for_a_result_is_an_hour_at_most,
    what_still_waits_to_be_published_is_not_queued_again,
    final_grants_are_never_published_again,
    one_step_publishes_no_more_again_than_its_limit,
    two_replicas_publish_an_overdue_grant_again_once,
    a_grant_without_a_result_needs_attention_in_the_end,
    a_late_result_clears_the_need_for_attention,
    a_grant_that_needs_attention_is_set_going_again_once,
    replicas_that_set_all_grants_going_do_so_once,
}

async fn only_what_is_overdue_is_published_again_each_time_later(place: Place) {
    let store = open(&place).await;
    let early = grant(&store, "alice", "summer", 100).await;
    store.accept(&[arrival(request("bob", "summer", 100), None)], at(30), POLICY).await.unwrap();
    publish_all(&store).await;
    assert_eq!(republish(&store, at(59), 500).await, 0);
    assert_eq!(row_counts(&store).await[3], 0);

    assert_eq!(republish(&store, at(60), 500).await, 1);
    let now = stored(&store, &early).await;
    assert_eq!(now, Grant { retry_count: 1, publish_again_at: Some(at(180)), ..early.clone() });
    let messages = outbox(&store).await;
    let expected = RequestEvent::Requested(now.to_message(store.issuer()));
    assert_eq!(messages, [("token-grant-requests".to_owned(), expected.clone(), expected.attributes(early.trace))]);
    let events = entries(&store, &early).await;
    assert_eq!(
        (events[1].kind.as_str(), data(&events[1])),
        ("Retried", json!({"retry_count": 1, "publish_again_at": at(180)}))
    );

    // The first wait was a minute, the next is two, then four.
    for (now, retry_count) in [(179, 1), (180, 2), (419, 2), (420, 3)] {
        publish_all(&store).await;
        republish(&store, at(now), 500).await;
        assert_eq!(stored(&store, &early).await.retry_count, retry_count, "after {now} s");
    }
}

async fn the_wait_for_a_result_is_an_hour_at_most(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    for day in 1..40 {
        publish_all(&store).await;
        assert_eq!(republish(&store, at(day * 86_400), 500).await, 1);
    }
    publish_all(&store).await;
    let last = 39 * 86_400;
    assert_eq!(republish(&store, at(last + 3599), 500).await, 0);
    assert_eq!(republish(&store, at(last + 3600), 500).await, 1);
    assert_eq!(stored(&store, &grant).await.retry_count, 40);
}

async fn what_still_waits_to_be_published_is_not_queued_again(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    assert_eq!(republish(&store, at(100_000), 500).await, 0);
    assert_eq!((row_counts(&store).await[3], stored(&store, &grant).await.retry_count), (1, 0));
    publish_all(&store).await;
    assert_eq!(republish(&store, at(100_000), 500).await, 1);
}

async fn final_grants_are_never_published_again(place: Place) {
    let store = open(&place).await;
    let [alice, bob, carol] = [
        grant(&store, "alice", "summer", 1).await,
        grant(&store, "bob", "summer", 1).await,
        grant(&store, "carol", "summer", 1).await,
    ];
    apply(&store, &[completed(&alice, "0xaa"), failed(&bob, "x", "y"), submitted(&[&carol], "0xbb")], at(6)).await;
    publish_all(&store).await;
    assert_eq!(republish(&store, at(100_000), 500).await, 1);
    let (_, RequestEvent::Requested(message), _) = &outbox(&store).await[0] else { panic!("requested") };
    assert_eq!(message.request_id, carol.request_id);
}

async fn one_step_publishes_no_more_again_than_its_limit(place: Place) {
    let store = open(&place).await;
    let users: Vec<_> = (0..5).map(|user| arrival(request(&format!("user-{user}"), "summer", 1), None)).collect();
    accept_all(&store, &users).await;
    publish_all(&store).await;
    let mut steps = Vec::new();
    for _ in 0..4 {
        steps.push(republish(&store, at(60), 2).await);
    }
    assert_eq!(steps, [2, 2, 1, 0]);
}

async fn two_replicas_publish_an_overdue_grant_again_once(place: Place) {
    let store = open(&place).await;
    let users: Vec<_> = (0..200).map(|user| arrival(request(&format!("user-{user}"), "summer", 1), None)).collect();
    accept_all(&store, &users).await;
    publish_all(&store).await;
    let mut running = JoinSet::new();
    for _ in 0..4 {
        let store = open(&place).await;
        running.spawn(async move { republish(&store, at(60), 500).await });
    }
    assert_eq!(running.join_all().await.into_iter().sum::<usize>(), 200);
    assert_eq!(row_counts(&store).await[3], 200);
}

/// That of an operator who wants to know soon.
const IMPATIENCE: Patience = Patience { first_wait: POLICY.republish_after, limit: 2 };

/// Publishes everything again, as often as is allowed; returns what is given up by the last step.
async fn give_up(store: &Store, now: DateTime<Utc>) -> Vec<RequestId> {
    for _ in 0..IMPATIENCE.limit {
        publish_all(store).await;
        store.republish(now, Patience { first_wait: Duration::ZERO, ..IMPATIENCE }, 500).await.unwrap();
    }
    publish_all(store).await;
    store.republish(now, IMPATIENCE, 500).await.unwrap().given_up
}

async fn a_grant_without_a_result_needs_attention_in_the_end(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    // After one minute, two and four.
    for (now, published) in [(60, 1), (179, 0), (180, 1), (419, 0)] {
        publish_all(&store).await;
        let republished = store.republish(at(now), IMPATIENCE, 500).await.unwrap();
        assert_eq!((republished.published, republished.given_up.len()), (published, 0), "after {now} s");
    }
    publish_all(&store).await;
    let republished = store.republish(at(420), IMPATIENCE, 500).await.unwrap();
    assert_eq!((republished.published, republished.given_up), (0, vec![grant.request_id.clone()]));

    let now = stored(&store, &grant).await;
    assert_eq!((now.state, now.retry_count, now.needs_attention_since), (State::Requested, 2, Some(at(420))));
    assert_eq!(kinds(&store, &grant).await, ["TokenGrantRequested", "Retried", "Retried", "NeedsAttention"]);
    let open = store.open_grants().await.unwrap();
    assert_eq!((open.grants, open.oldest, open.needing_attention), (1, Some(at(0)), 1));
    assert_eq!(store.needing_attention(Page { limit: 10, before: None }).await.unwrap(), [now]);
    // From now on it is left alone.
    assert_eq!(store.republish(at(10_000_000), IMPATIENCE, 500).await.unwrap(), Republished::default());
    assert_eq!(outbox(&store).await, []);
}

async fn a_late_result_clears_the_need_for_attention(place: Place) {
    let store = open(&place).await;
    let [alice, bob, carol] = [
        grant(&store, "alice", "summer", 1).await,
        grant(&store, "bob", "summer", 1).await,
        grant(&store, "carol", "summer", 1).await,
    ];
    assert_eq!(give_up(&store, at(60)).await.len(), 3);
    // Progress is no result.
    apply(&store, &[submitted(&[&carol], "0xcc")], at(70)).await;
    assert_eq!(store.open_grants().await.unwrap().needing_attention, 3);
    apply(&store, &[completed(&alice, "0xaa"), failed(&bob, "x", "y")], at(80)).await;
    for (grant, needs_attention_since) in [(&alice, None), (&bob, None), (&carol, Some(at(60)))] {
        assert_eq!(stored(&store, grant).await.needs_attention_since, needs_attention_since);
    }
    let open = store.open_grants().await.unwrap();
    assert_eq!((open.grants, open.needing_attention), (1, 1));
    assert_eq!(kinds(&store, &alice).await.last().unwrap(), "Completed");
}

async fn a_grant_that_needs_attention_is_set_going_again_once(place: Place) {
    let store = open(&place).await;
    let [alice, bob] = [grant(&store, "alice", "summer", 1).await, grant(&store, "bob", "summer", 1).await];
    let set_going = async |grant: &Grant| {
        store.set_going(WhichGrants::One(&grant.request_id), at(1000), IMPATIENCE, 500).await.unwrap()
    };
    assert_eq!(set_going(&alice).await, 0, "it does not need attention");
    give_up(&store, at(60)).await;
    assert_eq!((set_going(&alice).await, set_going(&alice).await), (1, 0));

    let now = stored(&store, &alice).await;
    assert_eq!((now.retry_count, now.needs_attention_since), (3, None));
    let (_, message, _) = outbox(&store).await.remove(0);
    assert_eq!(message, RequestEvent::Requested(now.to_message(store.issuer())));
    assert_eq!(stored(&store, &bob).await.needs_attention_since, Some(at(60)));
    assert_eq!(store.open_grants().await.unwrap().needing_attention, 1);
    // The new round is as long as the first.
    for (seconds, published, given_up) in [(1059, 0, 0), (1060, 1, 0), (1180, 1, 0), (1420, 0, 1)] {
        publish_all(&store).await;
        let republished = store.republish(at(seconds), IMPATIENCE, 500).await.unwrap();
        assert_eq!((republished.published, republished.given_up.len()), (published, given_up), "after {seconds} s");
    }
    assert_eq!(stored(&store, &alice).await.retry_count, 5);
}

async fn replicas_that_set_all_grants_going_do_so_once(place: Place) {
    let store = open(&place).await;
    let users: Vec<_> = (0..50).map(|user| arrival(request(&format!("user-{user}"), "summer", 1), None)).collect();
    accept_all(&store, &users).await;
    give_up(&store, at(60)).await;
    let mut running = JoinSet::new();
    for _ in 0..4 {
        let store = open(&place).await;
        running.spawn(async move { store.set_going(WhichGrants::All, at(70), IMPATIENCE, 20).await.unwrap() });
    }
    assert_eq!(running.join_all().await.into_iter().sum::<usize>(), 50);
    assert_eq!(row_counts(&store).await[3], 50);
}
