//! A store from before the ledger becomes the ledger's first entries, and nothing of it is lost or otherwise.

use std::collections::BTreeMap;

use shared::db::Database;
use shared::ledger::Seal;
use sqlx::migrate::Migrator;

use super::*;

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    what_was_stored_before_the_ledger_is_as_it_was,
    what_was_granted_before_the_ledger_is_granted_once,
    a_long_history_is_adopted_whole,
}

static MIGRATIONS: Migrator = sqlx::migrate!();

/// A database as the program before the ledger left it.
async fn before_the_ledger(place: &Place) -> Database {
    let before = MIGRATIONS.iter().filter(|migration| migration.version <= 3).cloned().collect();
    Database::open(&place.url().into(), &Migrator::with_migrations(before)).await.unwrap()
}

async fn run(database: &Database, statements: &str) {
    let mut tx = database.begin("test").await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned())).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// Rows as text.
async fn rows(database: &Database, table: &str, columns: &str) -> Vec<String> {
    let columns: Vec<_> =
        columns.split_whitespace().map(|column| format!("coalesce(cast({column} as text), '-')")).collect();
    let sql = format!("select {} as line from {table} order by 1", columns.join(" || ' ' || "));
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(database.reader()).await.unwrap()
}

/// All that a grant's row had before the ledger.
const GRANT: &str = "request_id grant_index user_id campaign_id wallet_address token_amount state transaction_hash \
                     block_number error_code error_message retry_count round_began traceparent requested_at updated_at \
                     completed_at publish_again_at needs_attention_since";

/// The number of the first entry whose seal does not fit.
fn broken_seal(entries: &[Entry]) -> Option<u64> {
    let mut seal = Seal::NONE;
    entries.iter().zip(1..).find_map(|(entry, number)| {
        let fits = entry.sequence == number && entry.seal == entry.seal_after(seal);
        seal = entry.seal;
        (!fits).then_some(number)
    })
}

async fn what_was_stored_before_the_ledger_is_as_it_was(place: Place) {
    let old = before_the_ledger(&place).await;
    run(&old, include_str!("old.sql")).await;
    let grants = rows(&old, "token_grant", GRANT).await;
    let keys = rows(&old, "idempotency_key", "idempotency_key request_id").await;
    let outbox = rows(&old, "outbox", "id topic request_id data attributes created_at dead_letter_id").await;
    old.close().await;

    let store = open(&place).await;
    let new = store.database();
    assert_eq!(rows(new, "token_grant", GRANT).await, grants);
    assert_eq!(rows(new, "idempotency_key", "idempotency_key request_id").await, keys);
    assert_eq!(rows(new, "outbox", "id topic request_id data attributes created_at dead_letter_id").await, outbox);
    assert_eq!(store.issuer().number(), 42);
    assert_eq!(rows(new, "deployment", "next_grant_index sequence").await, ["8 32"]);

    let entries = store.entries_after(0, 500).await.unwrap();
    assert_eq!((entries.len(), broken_seal(&entries)), (25 + 4 + 3, None));
    let mut histories: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for entry in &entries {
        assert_eq!((entry.schema_version, entry.cause.actor.as_str()), (1, "campaign"));
        histories.entry(&entry.subject).or_default().push(format!("{} {}", entry.kind, entry.at.timestamp() % 1000));
    }
    let histories: Vec<_> =
        histories.iter().map(|(subject, events)| format!("{subject}: {}", events.join(", "))).collect();
    let expected = [
        "g-failed: requested 3, failed 6",
        "g-late: requested 4, failed 500, completed 600, key_added 602",
        "g-paid: requested 2, completed 5, failed 602, key_added 602, key_added 602",
        "g-redriven: requested 4, published_again 185, needs_attention 300, published_again 310, published_again 320",
        "g-redriven-and-retried: requested 4, published_again 65, published_again 601",
        "g-sent: requested 1, submitted 30, published_again 61, submitted 63",
        "g-stuck: requested 4, published_again 64, published_again 184, needs_attention 424",
        "g-waits: requested 0, key_added 602",
        "summer: campaign_created 0",
        "winter: campaign_created 3",
        "été '26: campaign_created 4",
    ];
    assert_eq!(histories, expected);

    // The statistics of before are there as well.
    let mut campaigns = store.campaigns(None, None, 10).await.unwrap();
    campaigns.sort_by_key(|campaign| campaign.campaign_id.as_str() != "summer");
    let (summer, winter) = (&campaigns[0], campaigns.iter().find(|c| c.campaign_id.as_str() == "winter").unwrap());
    assert_eq!((summer.tally.grants, summer.tally.reserved, summer.tally.spent), (3, 107, 5));
    assert_eq!((summer.tally.gas_used, summer.tally.mint_micros), (26_000, 3_000_000));
    assert_eq!((winter.tally.grants, winter.tally.failed, winter.tally.reserved), (4, 1, 202));
    assert_eq!((summer.spec.max_grants_per_user, summer.spec.budget), (Some(1), None));

    let rebuilt = store.rebuild(false).await.unwrap();
    assert_eq!((rebuilt.entries, rebuilt.broken_seal, rebuilt.differences), (32, None, vec![]));

    // It is done once.
    store.database().close().await;
    let again = open(&place).await;
    assert_eq!(again.entries_after(0, 500).await.unwrap().len(), 32);
    assert_eq!(rows(again.database(), "token_grant", GRANT).await, grants);
}

async fn what_was_granted_before_the_ledger_is_granted_once(place: Place) {
    let old = before_the_ledger(&place).await;
    run(&old, include_str!("old.sql")).await;
    old.close().await;
    let store = open(&place).await;

    let known = [
        (request("alice", "summer", 100), Some("order-1"), "g-waits"),
        (request("alice", "summer", 100), None, "g-waits"),
        (request("carol", "summer", 5), Some("order-3 again"), "g-paid"),
        (request("frank", "été '26", 1), Some("ключ"), "g-late"),
        (request("carol", "winter", 100), None, "g-failed"),
    ];
    for (asked, key, request_id) in known {
        let Decision::Repeat(grant) = accept(&store, arrival(asked, key)).await else { panic!("{request_id}") };
        assert_eq!(grant.request_id.as_str(), request_id);
    }
    let reused = accept(&store, arrival(request("zoe", "summer", 1), Some("order-3"))).await;
    assert_eq!(reused, Decision::KeyReused { earlier: "g-paid".parse().unwrap() });
    let other = accept(&store, arrival(request("bob", "summer", 8), None)).await;
    assert_eq!(other, Decision::AlreadyGranted { earlier: "g-sent".parse().unwrap() });
    assert_eq!(grant(&store, "zoe", "summer", 1).await.grant_index, 8, "the numbers go on");

    // What was under way goes on too, and nothing is due that was not before.
    let sent = store.grant(&"g-sent".parse().unwrap()).await.unwrap().unwrap();
    apply(&store, &[completed(&sent, "0xaa")], at(0)).await;
    assert_eq!(stored(&store, &sent).await.state, State::Completed);
    publish_all(&store).await;
    let due = store.republish(from_micros(1_600_000_600_000_000), PATIENCE, 500).await.unwrap();
    assert_eq!(due.published, 2, "g-waits and g-redriven; not g-redriven-and-retried");
    assert_eq!(store.needing_attention(Page { limit: 10, before: None }).await.unwrap().len(), 1);
}

async fn a_long_history_is_adopted_whole(place: Place) {
    const GRANTS: i64 = 2100;
    let old = before_the_ledger(&place).await;
    run(&old, "insert into deployment (singleton, issuer, next_grant_index) values (1, 42, 2100)").await;
    let mut tx = old.begin("test").await.unwrap();
    let numbers = shared::db::rows(&(0..GRANTS).map(|number| json!({ "n": number })).collect::<Vec<_>>());
    for sql in [
        "insert into token_grant (request_id, grant_index, user_id, campaign_id, token_amount, state, retry_count,
                                  requested_at, updated_at, completed_at, error_message)
         select 'g-' || (value->>'n'), cast(value->>'n' as bigint), 'user-' || (value->>'n'), 'summer', 1, 'failed', 0, 5, 6,
                6, 'no' from jsonb_each($1)",
        "insert into grant_event (id, request_id, kind, at, data)
         select 'a-' || (value->>'n'), 'g-' || (value->>'n'), 'requested', 5,
                '{\"campaign_id\":\"summer\",\"token_amount\":1,\"wallet_address\":null,\"user_id\":\"user-' || (value->>'n') || '\"}'
         from jsonb_each($1)",
        "insert into grant_event (id, request_id, kind, at, data)
         select 'b-' || (value->>'n'), 'g-' || (value->>'n'), 'failed', 6,
                '{\"error_code\":null,\"error_message\":\"no\",\"processed_at\":\"2020-01-01T00:00:00Z\"}' from jsonb_each($1)",
        "insert into idempotency_key (idempotency_key, request_id)
         select 'k-' || (value->>'n'), 'g-' || (value->>'n') from jsonb_each($1)",
    ] {
        sqlx::query(sql).bind(&numbers).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    let grants = rows(&old, "token_grant", GRANT).await;
    old.close().await;

    let store = open(&place).await;
    assert_eq!(rows(store.database(), "token_grant", GRANT).await, grants);
    assert_eq!(rows(store.database(), "idempotency_key", "idempotency_key").await.len(), 2100);
    let rebuilt = store.rebuild(false).await.unwrap();
    assert_eq!((rebuilt.entries, rebuilt.broken_seal, rebuilt.differences), (3 * 2100 + 1, None, vec![]));
}
