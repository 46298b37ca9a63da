//! What is read is what was written, page by page and in its order.

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    open_grants_are_counted_until_they_are_final,
    totals_add_up_by_state_and_campaign,
    pages_go_from_the_newest_to_the_oldest_without_gaps,
    events_are_told_in_the_order_in_which_they_happened,
}

async fn open_grants_are_counted_until_they_are_final(place: Place) {
    let store = open(&place).await;
    let open = async || {
        let open = store.open_grants().await.unwrap();
        (open.grants, open.oldest)
    };
    assert_eq!(open().await, (0, None));
    let alice = grant(&store, "alice", "summer", 1).await;
    store.accept(&[arrival(request("bob", "summer", 1), None)], at(3), POLICY).await.unwrap();
    assert_eq!(open().await, (2, Some(at(0))));
    apply(&store, &[submitted(&[&alice], "0xaa")], at(5)).await;
    assert_eq!(open().await, (2, Some(at(0))));
    apply(&store, &[completed(&alice, "0xaa")], at(6)).await;
    assert_eq!(open().await, (1, Some(at(3))));
}

async fn totals_add_up_by_state_and_campaign(place: Place) {
    let store = open(&place).await;
    let user = "alice".parse().unwrap();
    assert_eq!(store.totals_of(&user, None).await.unwrap(), Totals::default());
    let [spring, summer, autumn, winter] = [
        grant(&store, "alice", "spring", 1).await,
        grant(&store, "alice", "summer", 20).await,
        grant(&store, "alice", "autumn", 300).await,
        grant(&store, "alice", "winter", 1_000_000_000).await,
    ];
    grant(&store, "bob", "summer", 5).await;
    let results = [completed(&winter, "0xaa"), failed(&autumn, "x", "y"), submitted(&[&summer], "0xbb")];
    apply(&store, &results, at(6)).await;

    let all = store.totals_of(&user, None).await.unwrap();
    let expected = Totals {
        grants: 4,
        tokens: 1_000_000_321,
        tokens_completed: 1_000_000_000,
        tokens_pending: 21,
        tokens_failed: 300,
    };
    assert_eq!(all, expected);
    let one = store.totals_of(&user, Some(&spring.request.campaign_id)).await.unwrap();
    assert_eq!(one, Totals { grants: 1, tokens: 1, tokens_pending: 1, ..Totals::default() });
}

async fn pages_go_from_the_newest_to_the_oldest_without_gaps(place: Place) {
    let store = open(&place).await;
    let mine: Vec<_> = (0..7).map(|campaign| arrival(request("alice", &format!("c-{campaign}"), 1), None)).collect();
    let others: Vec<_> = (0..7).map(|campaign| arrival(request("bob", &format!("c-{campaign}"), 1), None)).collect();
    let mixed: Vec<_> = mine.into_iter().zip(others).flat_map(|(mine, other)| [mine, other]).collect();
    accept_all(&store, &mixed).await;

    let user = "alice".parse().unwrap();
    let (mut before, mut pages) = (None, Vec::new());
    loop {
        let page = store.grants_of(&user, None, Page { limit: 3, before }).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.grant_index);
        pages.push(page.iter().map(|grant| grant.request.campaign_id.to_string()).collect::<Vec<_>>());
    }
    assert_eq!(pages, [vec!["c-6", "c-5", "c-4"], vec!["c-3", "c-2", "c-1"], vec!["c-0"]]);

    let campaign = "c-2".parse().unwrap();
    let page = Page { limit: 3, before: Some(u64::MAX) };
    assert_eq!(store.grants_of(&user, Some(&campaign), page).await.unwrap().len(), 1);
    assert!(store.grants_of(&"nobody".parse().unwrap(), None, page).await.unwrap().is_empty());
    assert!(store.grant(&"no-such-grant".parse::<RequestId>().unwrap()).await.unwrap().is_none());
}

async fn events_are_told_in_the_order_in_which_they_happened(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    publish_all(&store).await;
    let mut now = at(0);
    let mut tick = || {
        now += TimeDelta::minutes(10);
        now
    };
    republish(&store, tick(), 500).await;
    for result in [
        submitted(&[&grant], "0xaa"),
        submitted(&[&grant], "0xbb"),
        failed(&grant, "x", "y"),
        completed(&grant, "0xbb"),
    ] {
        apply(&store, &[result], tick()).await;
    }
    let events = entries(&store, &grant).await;
    let told: Vec<_> = events.iter().map(|event| (event.kind.as_str(), (event.at - at(0)).num_minutes())).collect();
    let expected = [
        ("TokenGrantRequested", 0),
        ("Retried", 10),
        ("BlockchainTxSubmitted", 20),
        ("BlockchainTxSubmitted", 30),
        ("Failed", 40),
        ("Completed", 50),
    ];
    assert_eq!(told, expected);
    assert_eq!(data(&events[3]), json!({"transaction_hash": "0xbb", "processed_at": at(5)}));
    assert!(events.iter().all(|event| data(event).is_object()));
}
