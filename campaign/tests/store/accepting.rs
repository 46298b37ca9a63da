//! What is accepted is kept once, numbered without gaps and announced in the same transaction.

use campaign::domain::GrantRequest;

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    a_new_request_is_committed_with_its_event_and_its_message,
    a_repeat_by_nature_or_by_key_is_the_grant_as_it_stands,
    a_key_of_another_request_is_refused_and_nothing_is_stored,
    another_amount_or_wallet_for_the_same_user_is_refused,
    every_key_that_named_a_grant_is_remembered,
    duplicates_within_one_batch_are_one_grant,
    a_closed_database_refuses_and_keeps_nothing,
    a_transaction_that_breaks_leaves_nothing_behind,
    numbers_are_dense_and_repeats_use_none_up,
    writers_at_the_same_time_never_grant_twice_nor_number_twice,
    one_key_used_at_the_same_time_stands_for_one_grant,
    reopening_keeps_issuer_numbers_keys_and_grants,
    ids_in_any_script_come_back_unchanged,
}

async fn a_new_request_is_committed_with_its_event_and_its_message(place: Place) {
    let store = open(&place).await;
    let mut asked = arrival(request("alice", "summer", 7), None);
    asked.wallet_address = Some("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed".parse().unwrap());
    let Decision::New(grant) = accept(&store, asked.clone()).await else { panic!("new") };

    assert_eq!(grant.request, GrantRequest { wallet_address: asked.wallet_address, ..request("alice", "summer", 7) });
    assert_eq!((grant.state, grant.grant_index, grant.retry_count), (State::Requested, 0, 0));
    assert_eq!((grant.requested_at, grant.updated_at, grant.completed_at), (at(0), at(0), None));
    assert_eq!(stored(&store, &grant).await, grant);

    let events = entries(&store, &grant).await;
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].kind.as_str(), events[0].at), ("TokenGrantRequested", at(0)));
    assert_eq!(data(&events[0])["user_id"], "alice");

    let messages = outbox(&store).await;
    assert_eq!(messages.len(), 1);
    let (topic, message, attributes) = &messages[0];
    let expected = RequestEvent::Requested(grant.to_message(store.issuer()));
    assert_eq!((topic.as_str(), message), ("token-grant-requests", &expected));
    assert_eq!(*attributes, expected.attributes(Some(asked.trace)));
}

async fn a_repeat_by_nature_or_by_key_is_the_grant_as_it_stands(place: Place) {
    let store = open(&place).await;
    let asked = || request("alice", "summer", 100);
    let Decision::New(grant) = accept(&store, arrival(asked(), Some("order-1"))).await else { panic!("new") };
    let before = row_counts(&store).await;

    assert_eq!(accept(&store, arrival(asked(), None)).await, Decision::Repeat(grant.clone()));
    assert_eq!(accept(&store, arrival(asked(), Some("order-1"))).await, Decision::Repeat(grant.clone()));
    assert_eq!(row_counts(&store).await, before, "a repeat stores nothing");

    apply(&store, &[completed(&grant, "0xaa")], at(9)).await;
    let Decision::Repeat(repeat) = accept(&store, arrival(asked(), Some("order-1"))).await else { panic!("repeat") };
    assert_eq!(repeat.state, State::Completed);
    assert_eq!(repeat, stored(&store, &grant).await);
}

async fn a_key_of_another_request_is_refused_and_nothing_is_stored(place: Place) {
    let store = open(&place).await;
    let first = arrival(request("alice", "summer", 100), Some("order-1"));
    let Decision::New(grant) = accept(&store, first).await else { panic!("new") };
    let before = row_counts(&store).await;

    let earlier = grant.request_id;
    for other in [request("bob", "summer", 100), request("alice", "winter", 100), request("alice", "summer", 101)] {
        let refused = accept(&store, arrival(other, Some("order-1"))).await;
        assert_eq!(refused, Decision::KeyReused { earlier: earlier.clone() });
    }
    assert_eq!(row_counts(&store).await, before);
    let free = accept(&store, arrival(request("bob", "summer", 100), None)).await;
    assert!(matches!(free, Decision::New(_)), "{free:?}");
}

async fn another_amount_or_wallet_for_the_same_user_is_refused(place: Place) {
    let store = open(&place).await;
    let earlier = grant(&store, "alice", "summer", 100).await.request_id;
    let before = row_counts(&store).await;

    let mut elsewhere = request("alice", "summer", 100);
    elsewhere.wallet_address = Some("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed".parse().unwrap());
    for other in [request("alice", "summer", 101), elsewhere] {
        let refused = accept(&store, arrival(other, Some("order-1"))).await;
        assert_eq!(refused, Decision::AlreadyGranted { earlier: earlier.clone() });
    }
    assert_eq!(row_counts(&store).await, before);
    let key_is_free = accept(&store, arrival(request("bob", "summer", 100), Some("order-1"))).await;
    assert!(matches!(key_is_free, Decision::New(_)), "{key_is_free:?}");
}

async fn every_key_that_named_a_grant_is_remembered(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    let repeat = accept(&store, arrival(request("alice", "summer", 100), Some("second"))).await;
    assert_eq!(repeat, Decision::Repeat(grant.clone()));
    let other = accept(&store, arrival(request("bob", "summer", 100), Some("second"))).await;
    assert_eq!(other, Decision::KeyReused { earlier: grant.request_id });
}

async fn duplicates_within_one_batch_are_one_grant(place: Place) {
    let store = open(&place).await;
    let alice = || request("alice", "summer", 100);
    let decisions = accept_all(
        &store,
        &[
            arrival(alice(), None),
            arrival(alice(), None),
            arrival(alice(), Some("k")),
            arrival(request("bob", "summer", 100), Some("k")),
            arrival(request("alice", "summer", 101), None),
            arrival(request("bob", "summer", 100), None),
        ],
    )
    .await;
    let Decision::New(first) = &decisions[0] else { panic!("new") };
    let earlier = first.request_id.clone();
    assert_eq!(
        decisions[1..5],
        [
            Decision::Repeat(first.clone()),
            Decision::Repeat(first.clone()),
            Decision::KeyReused { earlier: earlier.clone() },
            Decision::AlreadyGranted { earlier },
        ]
    );
    let Decision::New(second) = &decisions[5] else { panic!("new") };
    assert_eq!((first.grant_index, second.grant_index), (0, 1));
    assert_eq!(row_counts(&store).await, [2, 3, 1, 2]);
}

async fn a_closed_database_refuses_and_keeps_nothing(place: Place) {
    let store = open(&place).await;
    store.database().close().await;
    store.accept(&[arrival(request("alice", "summer", 100), Some("k"))], at(0), POLICY).await.unwrap_err();

    let store = open(&place).await;
    assert_eq!(row_counts(&store).await, [0, 0, 0, 0]);
    assert_eq!(grant(&store, "alice", "summer", 200).await.grant_index, 0);
}

async fn a_transaction_that_breaks_leaves_nothing_behind(place: Place) {
    let store = open(&place).await;
    change(&store, "alter table outbox rename to outbox_away").await;
    let asked = || arrival(request("alice", "summer", 100), Some("k"));
    let error = store.accept(&[asked()], at(0), POLICY).await.unwrap_err();
    assert!(!error.is_data() && !error.is_unreachable(), "{error}");

    change(&store, "alter table outbox_away rename to outbox").await;
    assert_eq!(row_counts(&store).await, [0, 0, 0, 0]);
    let Decision::New(grant) = accept(&store, asked()).await else { panic!("new") };
    assert_eq!(grant.grant_index, 0);
    assert_eq!(row_counts(&store).await, [1, 1, 1, 1]);
}

async fn numbers_are_dense_and_repeats_use_none_up(place: Place) {
    let store = open(&place).await;
    let mut indexes = Vec::new();
    for batch in 0..5 {
        // Each batch repeats half of the one before, and has a request that is refused.
        let users =
            (batch * 5..batch * 5 + 10).map(|user| arrival(request(&format!("user-{user}"), "summer", 1), None));
        let refused = arrival(request(&format!("user-{}", batch * 5), "summer", 2), None);
        for decision in accept_all(&store, &users.chain([refused]).collect::<Vec<_>>()).await {
            if let Decision::New(grant) = decision {
                indexes.push(grant.grant_index);
            }
        }
    }
    assert_eq!(indexes, (0..30).collect::<Vec<_>>());
}

/// Accepts from several processes at once; the decisions of all.
async fn accept_at_once(place: &Place, writers: usize, batches: impl Fn(usize) -> Vec<Vec<Arrival>>) -> Vec<Decision> {
    let mut running = JoinSet::new();
    for writer in 0..writers {
        let (store, batches) = (open(place).await, batches(writer));
        running.spawn(async move {
            let mut decisions = Vec::new();
            for batch in batches {
                decisions.extend(accept_all(&store, &batch).await);
            }
            decisions
        });
    }
    running.join_all().await.into_iter().flatten().collect()
}

async fn writers_at_the_same_time_never_grant_twice_nor_number_twice(place: Place) {
    const USERS: usize = 60;
    // Everybody asks for everybody, each in an order of their own.
    let batches = |writer: usize| {
        let user = |place: usize| format!("user-{}", (place * 7 + writer * 13) % USERS);
        let arrivals: Vec<_> = (0..USERS).map(|place| arrival(request(&user(place), "summer", 100), None)).collect();
        arrivals.chunks(9).map(<[_]>::to_vec).collect()
    };
    let decisions = accept_at_once(&place, 4, batches).await;
    assert_eq!(decisions.len(), 4 * USERS);

    let new = news(&decisions);
    let by_user: BTreeMap<_, _> = new.iter().map(|grant| (grant.request.user_id.clone(), *grant)).collect();
    assert_eq!((new.len(), by_user.len()), (USERS, USERS), "one grant for each user");
    let indexes: BTreeSet<_> = new.iter().map(|grant| grant.grant_index).collect();
    assert_eq!(indexes, (0..USERS as u64).collect());
    for decision in &decisions {
        let (Decision::New(grant) | Decision::Repeat(grant)) = decision else { panic!("{decision:?}") };
        assert_eq!(grant, by_user[&grant.request.user_id], "every answer names the same grant");
    }
    assert_eq!(row_counts(&open(&place).await).await, [60, 60, 0, 60]);
}

async fn one_key_used_at_the_same_time_stands_for_one_grant(place: Place) {
    let batches = |writer: usize| vec![vec![arrival(request(&format!("user-{writer}"), "summer", 100), Some("k"))]];
    let decisions = accept_at_once(&place, 4, batches).await;
    let new = news(&decisions);
    assert_eq!(new.len(), 1);
    let earlier = &new[0].request_id;
    let refused = Decision::KeyReused { earlier: earlier.clone() };
    assert_eq!(decisions.iter().filter(|decision| **decision == refused).count(), 3);
}

async fn reopening_keeps_issuer_numbers_keys_and_grants(place: Place) {
    let store = open(&place).await;
    let issuer = store.issuer();
    let Decision::New(first) = accept(&store, arrival(request("alice", "summer", 100), Some("k"))).await else {
        panic!("new")
    };
    store.database().close().await;

    let store = open(&place).await;
    assert_eq!(store.issuer(), issuer);
    assert_eq!(stored(&store, &first).await, first);
    assert_eq!(grant(&store, "bob", "summer", 100).await.grant_index, 1);
    let reused = accept(&store, arrival(request("carol", "summer", 100), Some("k"))).await;
    assert_eq!(reused, Decision::KeyReused { earlier: first.request_id });
}

async fn ids_in_any_script_come_back_unchanged(place: Place) {
    let store = open(&place).await;
    let (user, campaign, key) = ("プレイヤー 7 / \"ünï\\code\" 🎮", "été '26; --", "ключ-$1");
    let Decision::New(grant) = accept(&store, arrival(request(user, campaign, 100), Some(key))).await else {
        panic!("new")
    };
    assert_eq!(stored(&store, &grant).await.request, request(user, campaign, 100));
    let repeat = accept(&store, arrival(request(user, campaign, 100), Some(key))).await;
    assert_eq!(repeat, Decision::Repeat(grant.clone()));
    let page = Page { limit: 10, before: None };
    let listed = store.grants_of(&grant.request.user_id, Some(&grant.request.campaign_id), page).await.unwrap();
    assert_eq!(listed, std::slice::from_ref(&grant));
    let (_, RequestEvent::Requested(message), attributes) = &outbox(&store).await[0] else { panic!("requested") };
    assert_eq!((message.user_id.as_str(), attributes["campaign_id"].as_str()), (user, campaign));

    // What looks alike and is not the same text is another user.
    let composed = accept(&store, arrival(request("\u{e9}", "c", 1), None)).await;
    let decomposed = accept(&store, arrival(request("e\u{301}", "c", 1), None)).await;
    assert_eq!(news(&[composed, decomposed]).len(), 2);
}
