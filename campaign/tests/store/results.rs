//! Results move grants forward only, whatever order they come in, and none of them is forgotten.

use campaign::domain::campaign::Refusal;
use shared::ledger::Cause;

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
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
    what_another_process_wrote_meanwhile_is_read,
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

    let events = entries(&store, &grant).await;
    assert_eq!(events[1].kind, "Completed");
    let told = ["transaction_hash", "block_number", "gas_used"].map(|name| data(&events[1])[name].clone());
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
    let events = entries(&store, &grant).await;
    assert_eq!((events[1].kind.as_str(), &data(&events[1])["error_code"]), ("Failed", &json!("campaign_cap_exceeded")));
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
    assert_eq!(
        kinds(&store, &grant).await,
        ["TokenGrantRequested", "BlockchainTxSubmitted", "BlockchainTxSubmitted", "Completed"]
    );
}

async fn a_late_result_is_recorded_and_moves_nothing(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 100).await;
    apply(&store, &[completed(&grant, "0xaa")], at(6)).await;
    let before = stored(&store, &grant).await;

    let (moved, _) = apply(&store, &[submitted(&[&grant], "0xbb"), failed(&grant, "x", "y")], at(7)).await;
    assert!(moved.is_empty());
    assert_eq!(stored(&store, &grant).await, before);
    assert_eq!(kinds(&store, &grant).await, ["TokenGrantRequested", "Completed", "BlockchainTxSubmitted", "Failed"]);
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
    assert!(entries(&store, &stranger).await.is_empty());
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
        let events = entries(&store, &grant).await;
        assert_eq!(data(&events[1])["error_message"], **text);
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
        assert_eq!(kinds(&store, grant).await.iter().filter(|kind| *kind == "Completed").count(), 1);
    }
}

async fn what_another_process_wrote_meanwhile_is_read(place: Place) {
    let (store, other) = (open(&place).await, open(&place).await);
    let [alice, bob] = [grant(&store, "alice", "summer", 1).await, grant(&store, "bob", "summer", 2).await];
    apply(&store, &[submitted(&[&alice, &bob], "0xaa")], at(1)).await;
    apply(&other, &[submitted(&[&bob], "0xbb")], at(2)).await;
    let (moved, _) = apply(&store, &[completed(&alice, "0xaa")], at(3)).await;
    assert_eq!(moved.len(), 1);
    assert_eq!(stored(&store, &bob).await.transaction_hash.as_deref(), Some("0xbb"));
    apply(&other, &[completed(&bob, "0xbb")], at(4)).await;
    // Both have left a head behind that is not the ledger's any more, or is.
    let carol = grant(&store, "carol", "summer", 4).await;
    apply(&other, &[failed(&carol, "x", "y")], at(5)).await;
    let campaign = store.campaign(&carol.request.campaign_id).await.unwrap().unwrap();
    assert_eq!((campaign.tally.grants, campaign.tally.spent, campaign.tally.reserved), (3, 3, 0));
    for engaged in [true, false] {
        other.switch(engaged, Cause::by("carol".parse().unwrap()), None, at(6)).await.unwrap();
        let decision = accept(&store, arrival(request("dave", "summer", 1), None)).await;
        let is_stopped = matches!(decision, Decision::Refused(Refusal::Stopped));
        assert_eq!(is_stopped, engaged, "{decision:?}");
    }
}
