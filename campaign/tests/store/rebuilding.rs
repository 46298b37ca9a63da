//! Every table that people read can be worked out of the ledger again: what was changed by hand is found, and repaired.

use campaign::store::{Difference, Open};
use shared::db;
use shared::event::GrantsConfirmed;
use shared::id::CampaignId;
use shared::ledger::Cause;
use testkit::ledger;

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    every_table_that_was_changed_by_hand_is_found_and_repaired,
    what_is_replaced_is_not_remembered_as_it_was,
    a_table_that_is_as_the_ledger_says_is_left_alone,
    all_tables_can_be_lost,
    an_event_that_was_changed_is_found,
    a_ledger_whose_end_was_cut_off_is_found,
    an_event_that_nobody_can_read_changes_nothing,
    services_go_on_while_tables_are_rebuilt,
    a_comparison_does_not_wait_for_who_holds_the_ledger,
    times_finer_than_what_is_kept_make_no_difference,
    a_long_ledger_with_everything_in_it_is_rebuilt_exactly,
    a_store_of_the_version_before_counts_what_can_be_claimed,
}

/// Something in every table.
async fn live(store: &Store) {
    let campaign: CampaignId = "listed".parse().unwrap();
    let cause = || Cause::by("carol".parse().unwrap());
    let decide = |_: Option<&campaign::domain::campaign::Campaign>| {
        let mut spec = campaign::domain::campaign::Spec::of_first_use(&campaign);
        spec.eligibility = "block_list".parse().unwrap();
        spec.listed_users = ["eve", "mallory"].map(|user| user.parse().unwrap()).into();
        Ok::<_, ()>(spec)
    };
    store.change_campaign(&campaign, cause(), None, at(0), decide).await.unwrap().unwrap();
    let mut grants = Vec::new();
    for (number, user) in ["alice", "bob", "carol", "dave"].into_iter().enumerate() {
        let key = format!("order-{number}");
        let decision = accept(store, arrival(request(user, "summer", 10), Some(&key))).await;
        let Decision::New(grant) = decision else { panic!("new") };
        grants.push(grant);
    }
    accept(store, arrival(request("alice", "summer", 10), Some("order-again"))).await;
    let listed = grant(store, "alice", "listed", 10).await;
    let all: Vec<_> = grants.iter().collect();
    apply(store, &[submitted(&all, "0xaa")], at(1)).await;
    let confirmed = ResultEvent::Confirmed(GrantsConfirmed {
        request_ids: grants.iter().map(|grant| grant.request_id.clone()).collect(),
        transaction_hash: "0xaa".to_owned(),
        block_number: 17,
        block_hash: "0xbb".to_owned(),
        processed_at: at(5),
    });
    apply(store, &[confirmed, submitted(&all[3..], "0xcc")], at(60)).await;
    apply(store, &[completed(&grants[0], "0xaa"), failed(&grants[1], "x", "y")], at(61)).await;
    apply(store, &[completed(&grants[2], "0xaa")], at(125)).await;
    store.switch(true, cause(), Some("a leaked key".to_owned()), at(130)).await.unwrap();
    store.cancel(&listed.request_id, None, &cause(), at(131)).await.unwrap();
}

async fn what_is_replaced_is_not_remembered_as_it_was(place: Place) {
    let store = open(&place).await;
    let alice = grant(&store, "alice", "summer", 10).await;
    change(&store, "update token_grant set token_amount = 11").await;
    // Another process, which remembers what it has read.
    let other = open(&place).await;
    apply(&other, &[submitted(&[&alice], "0xaa")], at(1)).await;
    assert!(store.rebuild(true).await.unwrap().swapped);
    let (moved, _) = apply(&other, &[completed(&alice, "0xaa")], at(2)).await;
    assert_eq!(moved[0].request.token_amount.whole_tokens(), 10);
    assert_eq!(store.rebuild(false).await.unwrap().differences, []);
}

async fn every_table_that_was_changed_by_hand_is_found_and_repaired(place: Place) {
    let store = open(&place).await;
    live(&store).await;
    for (table, statement, missing, unknown) in [
        ("token_grant", "update token_grant set state = 'completed' where user_id = 'bob'", 1, 1),
        ("token_grant", "update token_grant set token_amount = 1000000", 5, 5),
        ("token_grant", "update token_grant set updated_at = updated_at + 1 where user_id = 'dave'", 1, 1),
        ("token_grant", "delete from token_grant where user_id = 'carol'", 1, 0),
        ("idempotency_key", "delete from idempotency_key where idempotency_key = 'order-1'", 1, 0),
        ("idempotency_key", "insert into idempotency_key values ('forged', 'nobodys')", 0, 1),
        ("campaign", "update campaign set spent = 0 where campaign_id = 'summer'", 1, 1),
        ("campaign", "update campaign set spec = '{}', state = 'ended'", 2, 2),
        ("campaign", "delete from campaign", 2, 0),
        ("listed_user", "delete from listed_user where user_id = 'eve'", 1, 0),
        ("listed_user", "insert into listed_user values ('summer', 'alice')", 0, 1),
        ("campaign_latency", "update campaign_latency set grants = grants + 1", 2, 2),
        ("campaign_minute", "delete from campaign_minute where completed > 0", 2, 0),
        ("campaign_transaction", "update campaign_transaction set block_number = 18 where block_number = 17", 1, 1),
        ("campaign_transaction", "delete from campaign_transaction", 2, 0),
        ("kill_switch", "update kill_switch set engaged = 0", 1, 1),
        ("kill_switch", "delete from kill_switch", 1, 0),
    ] {
        change(&store, statement).await;
        let difference = Difference { table, missing, unknown };
        for _ in 0..2 {
            let found = store.rebuild(false).await.unwrap();
            assert_eq!((found.swapped, found.broken_seal), (false, None), "{statement}");
            assert_eq!(found.differences, std::slice::from_ref(&difference), "{statement}");
        }
        let repaired = store.rebuild(true).await.unwrap();
        assert_eq!((repaired.swapped, repaired.differences), (true, vec![difference]), "{statement}");
        let sound = store.rebuild(true).await.unwrap();
        assert_eq!((sound.swapped, sound.differences), (false, vec![]), "{statement}");
    }
}

async fn a_table_that_is_as_the_ledger_says_is_left_alone(place: Place) {
    let store = open(&place).await;
    let empty = store.rebuild(true).await.unwrap();
    assert_eq!((empty.entries, empty.broken_seal, empty.differences, empty.swapped), (0, None, vec![], false));
    live(&store).await;
    let rebuilt = store.rebuild(true).await.unwrap();
    let entries = store.entries_after(0, 500).await.unwrap();
    assert_eq!((rebuilt.entries, rebuilt.broken_seal), (entries.len() as u64, None));
    assert_eq!((rebuilt.differences, rebuilt.swapped), (vec![], false));
}

async fn all_tables_can_be_lost(place: Place) {
    let store = open(&place).await;
    live(&store).await;
    let page = || Page { limit: 10, before: None };
    let alice = "alice".parse().unwrap();
    let before = (
        store.grants_of(&alice, None, page()).await.unwrap(),
        store.campaigns(None, None, 10).await.unwrap(),
        store.kill_switch().await.unwrap(),
        row_counts(&store).await,
    );
    let tables = [
        "delete from token_grant",
        "delete from idempotency_key",
        "delete from campaign",
        "delete from listed_user",
        "delete from campaign_latency",
        "delete from campaign_minute",
        "delete from campaign_transaction",
        "delete from kill_switch",
    ];
    for table in tables {
        change(&store, table).await;
    }
    let repaired = store.rebuild(true).await.unwrap();
    let names: Vec<_> = repaired.differences.iter().map(|difference| difference.table).collect();
    assert_eq!(names.len(), tables.len());
    for (table, name) in tables.iter().zip(names) {
        assert!(table.ends_with(name), "{table} {name}");
    }
    let after = (
        store.grants_of(&alice, None, page()).await.unwrap(),
        store.campaigns(None, None, 10).await.unwrap(),
        store.kill_switch().await.unwrap(),
        row_counts(&store).await,
    );
    assert_eq!(after, before);
    // The service goes on where it was: who was granted is not granted again, and the numbers go on.
    let repeat = accept(&store, arrival(request("alice", "summer", 10), Some("order-0"))).await;
    assert!(matches!(repeat, Decision::Repeat(_)), "{repeat:?}");
    store.switch(false, Cause::by("carol".parse().unwrap()), None, at(200)).await.unwrap();
    assert_eq!(grant(&store, "zoe", "summer", 1).await.grant_index, 5);
    assert_eq!(store.rebuild(false).await.unwrap().differences, []);
}

async fn an_event_that_was_changed_is_found(place: Place) {
    let store = open(&place).await;
    live(&store).await;
    for (statement, undo, broken) in [
        (
            "update event set actor = 'karol' where sequence = 1",
            "update event set actor = 'carol' where sequence = 1",
            1,
        ),
        ("update event set at = at + 1 where sequence = 7", "update event set at = at - 1 where sequence = 7", 7),
        (
            "update event set message_id = '9' where sequence = 5",
            "update event set message_id = null where sequence = 5",
            5,
        ),
        (
            "update event set data = replace(data, '\"token_amount\":10', '\"token_amount\":11') where sequence = 4",
            "update event set data = replace(data, '\"token_amount\":11', '\"token_amount\":10') where sequence = 4",
            4,
        ),
        (
            "update event set sequence = 1000 where sequence = (select max(sequence) from event)",
            "update event set sequence = (select max(sequence) + 1 from event where sequence < 1000) where sequence = 1000",
            1000,
        ),
    ] {
        change(&store, statement).await;
        let found = store.rebuild(false).await.unwrap();
        assert_eq!(found.broken_seal, Some(broken), "{statement}");
        change(&store, undo).await;
        assert_eq!(store.rebuild(false).await.unwrap().broken_seal, None, "{undo}");
    }
    // One that is gone: another key of a grant.
    let gone: i64 = sqlx::query_scalar("select sequence from event where kind = 'KeyAdded'")
        .fetch_one(store.database().reader())
        .await
        .unwrap();
    change(&store, "delete from event where kind = 'KeyAdded'").await;
    let found = store.rebuild(false).await.unwrap();
    assert_eq!(found.broken_seal, Some(gone.cast_unsigned() + 1));
    assert_eq!(found.differences, [Difference { table: "idempotency_key", missing: 0, unknown: 1 }]);
}

async fn a_ledger_whose_end_was_cut_off_is_found(place: Place) {
    let store = open(&place).await;
    live(&store).await;
    let entries = store.rebuild(false).await.unwrap().entries;
    change(&store, "delete from event where sequence = (select max(sequence) from event)").await;
    let found = store.rebuild(true).await.unwrap();
    assert_eq!((found.entries, found.broken_seal, found.swapped), (entries - 1, Some(entries), false));
}

async fn an_event_that_nobody_can_read_changes_nothing(place: Place) {
    let store = open(&place).await;
    live(&store).await;
    change(&store, "delete from kill_switch").await;
    let before = row_counts(&store).await;
    for statement in [
        "update event set data = '{}' where sequence = 3",
        "update event set kind = 'Unheard', data = '{\"retry_count\":1}' where sequence = 3",
        "update event set schema_version = 99 where sequence = 3",
    ] {
        change(&store, statement).await;
        let error = store.rebuild(true).await.unwrap_err();
        assert!(matches!(error, shared::db::Error::Corrupt { .. }), "{statement}: {error}");
        assert_eq!(row_counts(&store).await, before);
        assert!(!store.kill_switch().await.unwrap().engaged, "it is as lost as before");
    }
    // What broke off keeps nobody from writing. Who remembers the switch that was deleted by hand would stop, as all builds
    // for tests do where the tables are not what they remember.
    grant(&open(&place).await, "zoe", "winter", 1).await;
}

async fn services_go_on_while_tables_are_rebuilt(place: Place) {
    let store = open(&place).await;
    let mut running = JoinSet::new();
    for writer in 0..2 {
        let store = open(&place).await;
        running.spawn(async move {
            for batch in 0..20 {
                let name = |user| format!("user-{writer}-{batch}-{user}");
                let arrivals: Vec<_> =
                    (0..20).map(|user| arrival(request(&name(user), "summer", 1), Some(&name(user)))).collect();
                let decisions = accept_all(&store, &arrivals).await;
                let results: Vec<_> = news(&decisions).into_iter().map(|grant| completed(grant, "0xaa")).collect();
                apply(&store, &results, at(9)).await;
            }
        });
    }
    for swap in [true, false].into_iter().cycle() {
        if running.is_empty() {
            break;
        }
        let rebuilt = store.rebuild(swap).await.unwrap();
        assert_eq!((rebuilt.broken_seal, rebuilt.differences), (None, vec![]), "after {} entries", rebuilt.entries);
        while running.try_join_next().is_some() {}
    }
    let rebuilt = store.rebuild(true).await.unwrap();
    assert_eq!((rebuilt.entries, rebuilt.differences), (1601, vec![]));
}

async fn a_comparison_does_not_wait_for_who_holds_the_ledger(place: Place) {
    let store = open(&place).await;
    live(&store).await;
    let other = open(&place).await;
    let mut holder = other.database().begin("test").await.unwrap();
    sqlx::query("update deployment set sequence = sequence").execute(&mut *holder).await.unwrap();
    let rebuilt = tokio::time::timeout(Duration::from_secs(5), store.rebuild(false)).await.unwrap().unwrap();
    assert_eq!((rebuilt.broken_seal, rebuilt.differences), (None, vec![]));
    holder.commit().await.unwrap();
}

/// Other publishers may know nanoseconds; what is read back from a table does not.
async fn times_finer_than_what_is_kept_make_no_difference(place: Place) {
    let store = open(&place).await;
    let grant = grant(&store, "alice", "summer", 10).await;
    let request_ids = vec![grant.request_id.clone()];
    let nanoseconds = |more| at(5) + TimeDelta::nanoseconds(more);
    let submitted = GrantsSubmitted {
        request_ids: request_ids.clone(),
        transaction_hash: "0xaa".to_owned(),
        processed_at: nanoseconds(900),
    };
    apply(&store, &[ResultEvent::Submitted(submitted)], at(6)).await;
    let confirmed = GrantsConfirmed {
        request_ids,
        transaction_hash: "0xaa".to_owned(),
        block_number: 17,
        block_hash: "0xbb".to_owned(),
        processed_at: nanoseconds(500),
    };
    apply(&store, &[ResultEvent::Confirmed(confirmed)], at(7)).await;
    assert_eq!(stored(&store, &grant).await.state, State::Confirmed);
    assert_eq!(store.rebuild(false).await.unwrap().differences, []);
}

/// `make rebuild-million` is the same with a million.
/// What campaigns have counted and indexes begin with is what the rows say.
async fn assert_open_grants_are_counted(store: &Store) {
    let row = sqlx::query(
        "select count(*) as grants, min(requested_at) as oldest, count(needs_attention_since) as needing_attention
         from token_grant where completed_at is null and state <> 'claimable'",
    )
    .fetch_one(store.database().reader())
    .await
    .unwrap();
    let [grants, needing_attention] = ["grants", "needing_attention"].map(|column| db::unsigned(&row, column).unwrap());
    assert!(needing_attention > 0 && needing_attention < grants);
    let expected = Open { grants, needing_attention, oldest: Some(db::time(&row, "oldest").unwrap()) };
    assert_eq!(store.open_grants().await.unwrap(), expected);
}

async fn a_store_of_the_version_before_counts_what_can_be_claimed(place: Place) {
    let store = open(&place).await;
    ledger::fill(&store, 20_000, |_| {}).await.unwrap();
    let as_before = "update token_grant set needs_attention_since = requested_at where state = 'claimable';
                     alter table campaign drop column claimable;
                     delete from _sqlx_migrations where version = 8;";
    sqlx::raw_sql(as_before).execute(store.database().writer()).await.unwrap();
    store.database().close().await;
    let store = open(&place).await;
    assert_open_grants_are_counted(&store).await;
    assert_eq!(store.rebuild(false).await.unwrap().differences, []);
}

async fn a_long_ledger_with_everything_in_it_is_rebuilt_exactly(place: Place) {
    let store = open(&place).await;
    let kinds = ledger::fill(&store, 20_000, |_| {}).await.unwrap();
    let expected = [
        "BlockchainTxSubmitted",
        "CampaignChanged",
        "CampaignCreated",
        "CancelRequested",
        "Cancelled",
        "ClaimRootMade",
        "ClaimRootPublished",
        "Claimable",
        "Completed",
        "Confirmed",
        "Expired",
        "Failed",
        "KeyAdded",
        "KillSwitchEngaged",
        "KillSwitchReleased",
        "NeedsAttention",
        "Published",
        "Redriven",
        "Retried",
        "Reverted",
        "Started",
        "TokenGrantRequested",
    ];
    assert_eq!(kinds.keys().collect::<Vec<_>>(), expected);
    let written = kinds.values().sum::<u64>();
    assert!(written >= 20_000, "{written}");
    let states: i64 = sqlx::query_scalar("select count(distinct state) from token_grant")
        .fetch_one(store.database().reader())
        .await
        .unwrap();
    assert_eq!(states, 9, "grants are left in each state");
    assert_open_grants_are_counted(&store).await;

    let expect = async |differences: &[Difference], broken_seal, swapped| {
        let rebuilt = store.rebuild(true).await.unwrap();
        assert_eq!(rebuilt.entries, written);
        assert_eq!((&*rebuilt.differences, rebuilt.broken_seal, rebuilt.swapped), (differences, broken_seal, swapped));
    };
    expect(&[], None, false).await;
    for damage in ledger::DAMAGES {
        damage.cause(&store).await.unwrap();
        let ledger::Damage { table, missing, unknown, .. } = damage;
        expect(&[Difference { table, missing, unknown }], None, true).await;
    }
    expect(&[], None, false).await;
    let broken = ledger::break_seal(&store).await.unwrap();
    expect(&[], Some(broken), false).await;
    ledger::mend_seal(&store).await.unwrap();
    expect(&[], None, false).await;
}
