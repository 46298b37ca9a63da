//! The campaign store on both databases: what is accepted is kept once, numbered without gaps and announced in the same
//! transaction; results move grants forward only.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use campaign::domain::{Arrival, Decision, Grant, Patience, State};
use campaign::store::{Page, Republished, Store, Totals, WhichGrants};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::clock::from_micros;
use shared::event::{GrantCompleted, GrantFailed, GrantsSubmitted, RequestEvent, ResultEvent};
use shared::id::RequestId;
use sqlx::Row as _;
use support::{arrival, open, request, row_counts};
use testkit::{Place, on_both_databases};
use tokio::task::JoinSet;

const AFTER: Duration = Duration::from_mins(1);

/// That of an operator who never wants to be asked.
const PATIENCE: Patience = Patience { first_wait: AFTER, limit: 10_000 };

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
    a_completed_grant_shows_transaction_block_and_time,
    a_failed_grant_shows_why,
    one_progress_message_moves_all_of_its_grants,
    results_of_one_batch_are_applied_in_their_order,
    a_late_result_is_recorded_and_moves_nothing,
    a_payment_reported_after_a_failure_counts,
    a_repeated_result_changes_nothing,
    results_of_unknown_grants_are_counted_and_leave_the_others_alone,
    texts_of_other_programs_come_back_as_they_were,
    a_nul_character_in_a_text_is_replaced,
    results_applied_at_the_same_time_all_count,
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
    open_grants_are_counted_until_they_are_final,
    totals_add_up_by_state_and_campaign,
    pages_go_from_the_newest_to_the_oldest_without_gaps,
    events_are_told_in_the_order_in_which_they_happened,
}

fn at(seconds: i64) -> DateTime<Utc> {
    from_micros((1_700_000_000 + seconds) * 1_000_000)
}

async fn accept_all(store: &Store, arrivals: &[Arrival]) -> Vec<Decision> {
    store.accept(arrivals, at(0), AFTER).await.unwrap()
}

async fn accept(store: &Store, arrival: Arrival) -> Decision {
    let mut decisions = accept_all(store, &[arrival]).await;
    assert_eq!(decisions.len(), 1);
    decisions.remove(0)
}

/// A grant that did not exist.
async fn grant(store: &Store, user: &str, campaign: &str, tokens: i64) -> Grant {
    let Decision::New(grant) = accept(store, arrival(request(user, campaign, tokens), None)).await else {
        panic!("{user} has a grant of {campaign} already")
    };
    grant
}

async fn stored(store: &Store, grant: &Grant) -> Grant {
    store.grant(&grant.request_id).await.unwrap().unwrap()
}

async fn kinds(store: &Store, grant: &Grant) -> Vec<String> {
    store.events_of(&grant.request_id).await.unwrap().into_iter().map(|event| event.kind).collect()
}

fn submitted(grants: &[&Grant], hash: &str) -> ResultEvent {
    ResultEvent::Submitted(GrantsSubmitted {
        request_ids: grants.iter().map(|grant| grant.request_id.clone()).collect(),
        transaction_hash: hash.to_owned(),
        processed_at: at(5),
    })
}

fn completed(grant: &Grant, hash: &str) -> ResultEvent {
    ResultEvent::Completed(GrantCompleted {
        user_id: grant.request.user_id.clone(),
        campaign_id: grant.request.campaign_id.clone(),
        request_id: grant.request_id.clone(),
        transaction_hash: hash.to_owned(),
        timestamp: grant.requested_at,
        processed_at: at(6),
        wallet_address: None,
        block_number: Some(17),
        gas_used: Some(26_000),
    })
}

fn failed(grant: &Grant, code: &str, message: &str) -> ResultEvent {
    ResultEvent::Failed(GrantFailed {
        user_id: grant.request.user_id.clone(),
        campaign_id: grant.request.campaign_id.clone(),
        request_id: grant.request_id.clone(),
        error_message: message.to_owned(),
        timestamp: grant.requested_at,
        processed_at: at(6),
        error_code: Some(code.to_owned()),
    })
}

/// Applies results; the grants that moved, and how many results belong to none.
async fn apply(store: &Store, results: &[ResultEvent], now: DateTime<Utc>) -> (Vec<Grant>, usize) {
    let applied = store.apply(&results.iter().collect::<Vec<_>>(), now).await.unwrap();
    (applied.moved, applied.unknown)
}

/// What waits to be published: topic, request and attributes of each message.
async fn outbox(store: &Store) -> Vec<(String, RequestEvent, BTreeMap<String, String>)> {
    let rows = sqlx::query("select topic, data, attributes from outbox order by id")
        .fetch_all(store.database().reader())
        .await
        .unwrap();
    let read = |row: &sqlx::any::AnyRow| {
        let (data, attributes): (String, String) = (row.get("data"), row.get("attributes"));
        (row.get("topic"), serde_json::from_str(&data).unwrap(), serde_json::from_str(&attributes).unwrap())
    };
    rows.iter().map(read).collect()
}

async fn change(store: &Store, statement: &'static str) {
    let mut tx = store.database().begin("test").await.unwrap();
    sqlx::query(statement).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// As if the relay had published everything.
async fn publish_all(store: &Store) {
    change(store, "delete from outbox").await;
}

async fn a_new_request_is_committed_with_its_event_and_its_message(place: Place) {
    let store = open(&place).await;
    let mut asked = arrival(request("alice", "summer", 7), None);
    asked.request.wallet_address = Some("0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed".parse().unwrap());
    let Decision::New(grant) = accept(&store, asked.clone()).await else { panic!("new") };

    assert_eq!(grant.request, asked.request);
    assert_eq!((grant.state, grant.grant_index, grant.retry_count), (State::Requested, 0, 0));
    assert_eq!((grant.requested_at, grant.updated_at, grant.completed_at), (at(0), at(0), None));
    assert_eq!(stored(&store, &grant).await, grant);

    let events = store.events_of(&grant.request_id).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].kind.as_str(), events[0].at), ("requested", at(0)));
    assert_eq!(events[0].data, json!(asked.request));

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
    assert_eq!(row_counts(&store).await, [2, 2, 1, 2]);
}

async fn a_closed_database_refuses_and_keeps_nothing(place: Place) {
    let store = open(&place).await;
    store.database().close().await;
    store.accept(&[arrival(request("alice", "summer", 100), Some("k"))], at(0), AFTER).await.unwrap_err();

    let store = open(&place).await;
    assert_eq!(row_counts(&store).await, [0, 0, 0, 0]);
    assert_eq!(grant(&store, "alice", "summer", 200).await.grant_index, 0);
}

async fn a_transaction_that_breaks_leaves_nothing_behind(place: Place) {
    let store = open(&place).await;
    change(&store, "alter table outbox rename to outbox_away").await;
    let asked = || arrival(request("alice", "summer", 100), Some("k"));
    let error = store.accept(&[asked()], at(0), AFTER).await.unwrap_err();
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

fn news(decisions: &[Decision]) -> Vec<&Grant> {
    decisions
        .iter()
        .filter_map(|decision| if let Decision::New(grant) = decision { Some(grant) } else { None })
        .collect()
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
    let (_, RequestEvent::Requested(message), attributes) = &outbox(&store).await[0];
    assert_eq!((message.user_id.as_str(), attributes["campaign_id"].as_str()), (user, campaign));

    // What looks alike and is not the same text is another user.
    let composed = accept(&store, arrival(request("\u{e9}", "c", 1), None)).await;
    let decomposed = accept(&store, arrival(request("e\u{301}", "c", 1), None)).await;
    assert_eq!(news(&[composed, decomposed]).len(), 2);
}

async fn a_completed_grant_shows_transaction_block_and_time(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    let applied = apply(&store, &[completed(&grant, "0xaa")], at(9)).await;
    let now = stored(&store, &grant).await;
    assert_eq!(applied, (vec![now.clone()], 0));
    assert_eq!(
        (now.state, now.transaction_hash.as_deref(), now.block_number),
        (State::Completed, Some("0xaa"), Some(17))
    );
    assert_eq!((now.completed_at, now.updated_at), (Some(at(9)), at(9)));

    let events = store.events_of(&grant.request_id).await.unwrap();
    assert_eq!(events[1].kind, "completed");
    let told = ["transaction_hash", "block_number", "gas_used"].map(|name| events[1].data[name].clone());
    assert_eq!(told, [json!("0xaa"), json!(17), json!(26_000)]);
}

async fn a_failed_grant_shows_why(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    apply(&store, &[failed(&grant, "campaign_cap_exceeded", "the cap is reached")], at(9)).await;
    let now = stored(&store, &grant).await;
    assert_eq!((now.state, now.completed_at), (State::Failed, Some(at(9))));
    assert_eq!(now.error_code.as_deref(), Some("campaign_cap_exceeded"));
    assert_eq!(now.error_message.as_deref(), Some("the cap is reached"));
    let events = store.events_of(&grant.request_id).await.unwrap();
    assert_eq!((events[1].kind.as_str(), &events[1].data["error_code"]), ("failed", &json!("campaign_cap_exceeded")));
}

async fn one_progress_message_moves_all_of_its_grants(place: Place) {
    let store = open(&place).await;
    let users: Vec<_> = (0..300).map(|user| arrival(request(&format!("user-{user}"), "summer", 1), None)).collect();
    let decisions = accept_all(&store, &users).await;
    let grants = news(&decisions);
    assert_eq!(apply(&store, &[submitted(&grants, "0xaa")], at(5)).await.0.len(), 300);
    for grant in grants {
        let now = stored(&store, grant).await;
        assert_eq!((now.state, now.transaction_hash.as_deref()), (State::Submitted, Some("0xaa")));
    }
}

async fn results_of_one_batch_are_applied_in_their_order(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    let results = [submitted(&[&grant], "0xaa"), submitted(&[&grant], "0xbb"), completed(&grant, "0xbb")];
    let (moved, _) = apply(&store, &results, at(9)).await;
    assert_eq!(moved.len(), 1, "one grant, however many results");
    assert_eq!(stored(&store, &grant).await.state, State::Completed);
    assert_eq!(kinds(&store, &grant).await, ["requested", "submitted", "submitted", "completed"]);
}

async fn a_late_result_is_recorded_and_moves_nothing(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    apply(&store, &[completed(&grant, "0xaa")], at(6)).await;
    let before = stored(&store, &grant).await;

    let (moved, _) = apply(&store, &[submitted(&[&grant], "0xbb"), failed(&grant, "x", "y")], at(7)).await;
    assert!(moved.is_empty());
    assert_eq!(stored(&store, &grant).await, before);
    assert_eq!(kinds(&store, &grant).await, ["requested", "completed", "submitted", "failed"]);
}

async fn a_payment_reported_after_a_failure_counts(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    apply(&store, &[failed(&grant, "x", "y")], at(6)).await;
    apply(&store, &[completed(&grant, "0xaa")], at(7)).await;
    let now = stored(&store, &grant).await;
    assert_eq!((now.state, now.completed_at), (State::Completed, Some(at(7))));
    assert_eq!((now.error_code, now.error_message), (None, None));
}

async fn a_repeated_result_changes_nothing(place: Place) {
    let store = open(&place).await;
    let (alice, bob) = (grant(&store, "alice", "summer", 1).await, grant(&store, "bob", "summer", 1).await);
    let results = [submitted(&[&alice, &bob], "0xaa"), completed(&alice, "0xaa"), failed(&bob, "x", "y")];
    apply(&store, &results, at(6)).await;
    let before = (stored(&store, &alice).await, stored(&store, &bob).await, row_counts(&store).await);

    assert!(apply(&store, &results[1..], at(7)).await.0.is_empty());
    assert!(apply(&store, &results[1..], at(8)).await.0.is_empty());
    assert_eq!((stored(&store, &alice).await, stored(&store, &bob).await, row_counts(&store).await), before);
}

async fn results_of_unknown_grants_are_counted_and_leave_the_others_alone(place: Place) {
    let store = open(&place).await;
    let known = grant(&store, "alice", "summer", 100).await;
    let stranger = Grant { request_id: "somebody-else-s".parse().unwrap(), ..known.clone() };
    let results = [completed(&stranger, "0xaa"), submitted(&[&stranger, &known], "0xbb")];
    assert_eq!(apply(&store, &results, at(6)).await, (vec![stored(&store, &known).await], 2));
    assert_eq!(stored(&store, &known).await.state, State::Submitted);
    assert!(store.grant(&stranger.request_id).await.unwrap().is_none());
    assert!(store.events_of(&stranger.request_id).await.unwrap().is_empty());
    assert_eq!(apply(&store, &results[..1], at(6)).await, (vec![], 1));
}

async fn texts_of_other_programs_come_back_as_they_were(place: Place) {
    let store = open(&place).await;
    let odd =
        ["", " ", "it's \"quoted\" \\ and \\u0000", "line\r\nline\ttab\u{7f}\u{1b}[31m", "🎮 \u{202e}ünï \u{ffff}"];
    for (number, text) in odd.iter().enumerate() {
        let grant = grant(&store, &format!("user-{number}"), "summer", 1).await;
        apply(&store, &[failed(&grant, text, text)], at(6)).await;
        let now = stored(&store, &grant).await;
        assert_eq!((now.error_code.as_deref(), now.error_message.as_deref()), (Some(*text), Some(*text)));
        let events = store.events_of(&grant.request_id).await.unwrap();
        assert_eq!(events[1].data["error_message"], **text);
    }
}

async fn a_nul_character_in_a_text_is_replaced(place: Place) {
    let store = open(&place).await;
    let (alice, bob) = (grant(&store, "alice", "summer", 1).await, grant(&store, "bob", "summer", 1).await);
    apply(&store, &[failed(&alice, "x", "no\0thing \\u0000"), completed(&bob, "0x\0")], at(6)).await;
    let now = stored(&store, &alice).await;
    assert_eq!((now.state, now.error_message.as_deref()), (State::Failed, Some("no\u{fffd}thing \\u0000")));
    let now = stored(&store, &bob).await;
    assert_eq!((now.state, now.transaction_hash.as_deref()), (State::Completed, Some("0x\u{fffd}")));
}

async fn results_applied_at_the_same_time_all_count(place: Place) {
    let store = open(&place).await;
    let users: Vec<_> = (0..40).map(|user| arrival(request(&format!("user-{user}"), "summer", 1), None)).collect();
    let decisions = accept_all(&store, &users).await;
    let grants = news(&decisions);
    let mut running = JoinSet::new();
    for consumer in 0..4 {
        let store = open(&place).await;
        // Every consumer is told everything, half of them backwards, as an eager broker may do.
        let mut results: Vec<_> = grants.iter().map(|grant| completed(grant, "0xaa")).collect();
        if consumer % 2 == 1 {
            results.reverse();
        }
        results.insert(0, submitted(&grants, "0xaa"));
        running.spawn(async move {
            let mut moved = 0;
            for batch in results.chunks(7) {
                moved += apply(&store, batch, at(6)).await.0.iter().filter(|grant| grant.state.is_final()).count();
            }
            moved
        });
    }
    assert_eq!(running.join_all().await.into_iter().sum::<usize>(), 40, "each grant is completed once");
    for grant in grants {
        assert_eq!(kinds(&store, grant).await.iter().filter(|kind| *kind == "completed").count(), 1);
    }
}

/// How many requests are queued to be published again.
async fn republish(store: &Store, now: DateTime<Utc>, limit: i64) -> usize {
    store.republish(now, PATIENCE, limit).await.unwrap().published
}

async fn only_what_is_overdue_is_published_again_each_time_later(place: Place) {
    let store = open(&place).await;
    let early = grant(&store, "alice", "summer", 100).await;
    store.accept(&[arrival(request("bob", "summer", 100), None)], at(30), AFTER).await.unwrap();
    publish_all(&store).await;
    assert_eq!(republish(&store, at(59), 500).await, 0);
    assert_eq!(row_counts(&store).await[3], 0);

    assert_eq!(republish(&store, at(60), 500).await, 1);
    let now = stored(&store, &early).await;
    assert_eq!(now, Grant { retry_count: 1, ..early.clone() });
    let messages = outbox(&store).await;
    let expected = RequestEvent::Requested(now.to_message(store.issuer()));
    assert_eq!(messages, [("token-grant-requests".to_owned(), expected.clone(), expected.attributes(early.trace))]);
    let events = store.events_of(&early.request_id).await.unwrap();
    assert_eq!((events[1].kind.as_str(), &events[1].data), ("published_again", &json!({"retry_count": 1})));

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
    let (_, RequestEvent::Requested(message), _) = &outbox(&store).await[0];
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
const IMPATIENCE: Patience = Patience { first_wait: AFTER, limit: 2 };

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
    assert_eq!(kinds(&store, &grant).await, ["requested", "published_again", "published_again", "needs_attention"]);
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
    assert_eq!(kinds(&store, &alice).await.last().unwrap(), "completed");
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

async fn open_grants_are_counted_until_they_are_final(place: Place) {
    let store = open(&place).await;
    let open = async || {
        let open = store.open_grants().await.unwrap();
        (open.grants, open.oldest)
    };
    assert_eq!(open().await, (0, None));
    let alice = grant(&store, "alice", "summer", 1).await;
    store.accept(&[arrival(request("bob", "summer", 1), None)], at(3), AFTER).await.unwrap();
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
    let events = store.events_of(&grant.request_id).await.unwrap();
    let told: Vec<_> = events.iter().map(|event| (event.kind.as_str(), (event.at - at(0)).num_minutes())).collect();
    let expected = [
        ("requested", 0),
        ("published_again", 10),
        ("submitted", 20),
        ("submitted", 30),
        ("failed", 40),
        ("completed", 50),
    ];
    assert_eq!(told, expected);
    assert_eq!(events[3].data, json!({"transaction_hash": "0xbb"}));
    assert!(events.iter().all(|event| matches!(event.data, Value::Object(_))));
}
