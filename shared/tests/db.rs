//! The database layer on both databases: rows travel as one JSON parameter, and errors are what we take them for.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::db::{self, Database, Dialect, Error};
use sqlx::Row as _;
use sqlx::migrate::Migrator;
use support::{change, open};
use testkit::{Place, Postgres, on_both_databases};

on_both_databases! {
    |kind| Place::new(kind).await.unwrap();
    rows_go_in_and_come_out_as_they_were,
    rows_that_break_a_constraint_are_data_errors,
    a_transaction_without_a_commit_leaves_nothing,
    what_is_written_at_the_end_is_there_with_the_commit_or_not_at_all,
    a_stored_value_that_breaks_its_type_is_named,
    a_closed_database_is_neither_data_nor_away,
    a_database_that_is_newer_than_the_program_is_refused,
    opening_again_keeps_what_is_there,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Line {
    id: i64,
    text: Option<String>,
    number: Option<i64>,
}

const TABLE: &str = "create table line (
    id bigint constraint line_pkey primary key,
    text text,
    number bigint constraint line_number_positive check (number > 0)
)";

async fn insert(database: &Database, lines: &[Line]) -> db::Result<()> {
    let mut tx = database.begin("test").await?;
    sqlx::query(
        "insert into line (id, text, number)
         select cast(value->>'id' as bigint), value->>'text', cast(value->>'number' as bigint) from jsonb_each($1)",
    )
    .bind(db::rows(lines))
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

async fn lines(database: &Database) -> Vec<Line> {
    let rows = sqlx::query("select id, text, number from line order by id").fetch_all(database.reader()).await.unwrap();
    rows.iter().map(|row| Line { id: row.get("id"), text: row.get("text"), number: row.get("number") }).collect()
}

async fn with_table(place: &Place) -> Database {
    let database = open(place).await;
    change(&database, TABLE).await;
    database
}

fn line(id: i64, text: &str) -> Line {
    Line { id, text: Some(text.to_owned()), number: Some(id) }
}

async fn rows_go_in_and_come_out_as_they_were(place: Place) {
    let database = with_table(&place).await;
    insert(&database, &[]).await.unwrap();
    let mut all = vec![
        line(1, ""),
        line(2, "it's \"quoted\" \\ {\"json\": [1]} \\u0000"),
        line(3, "line\r\nline\ttab\u{1}\u{7f}"),
        line(4, "ünï プレイヤー 🎮 \u{202e}\u{ffff}"),
        line(i64::MAX, "1e3"),
        Line { id: 6, text: None, number: None },
    ];
    insert(&database, &all).await.unwrap();
    all.sort_by_key(|line| line.id);
    assert_eq!(lines(&database).await, all);

    insert(&database, &[line(7, "a\0b")]).await.unwrap();
    assert_eq!(lines(&database).await[5].text.as_deref(), Some("a\u{fffd}b"), "PostgreSQL cannot store a NUL");

    // As a list of keys, and many rows at once.
    let many: Vec<_> = (100..5100).map(|id| line(id, "x")).collect();
    insert(&database, &many).await.unwrap();
    let found: i64 = sqlx::query_scalar(
        "select count(*) from line where id in (select cast(value->>'id' as bigint) from jsonb_each($1))",
    )
    .bind(db::rows(&many[..700]))
    .fetch_one(database.reader())
    .await
    .unwrap();
    assert_eq!(found, 700);
}

async fn rows_that_break_a_constraint_are_data_errors(place: Place) {
    let database = with_table(&place).await;
    insert(&database, &[line(1, "one")]).await.unwrap();
    let negative = Line { number: Some(-1), ..line(3, "three") };
    for refused in [line(1, "again"), negative] {
        let error = insert(&database, &[line(2, "two"), refused]).await.unwrap_err();
        assert!(error.is_data() && !error.is_unreachable(), "{error:?}");
    }
    assert_eq!(lines(&database).await, [line(1, "one")], "the other rows of the transaction are gone with it");
    let unknown = sqlx::query("select 1 from no_such_table").execute(database.reader()).await.unwrap_err();
    assert!(!Error::from(unknown).is_data(), "an error of the program, not of the rows");
}

async fn a_transaction_without_a_commit_leaves_nothing(place: Place) {
    let database = with_table(&place).await;
    let mut tx = database.begin("test").await.unwrap();
    sqlx::query("insert into line (id) values (1)").execute(&mut *tx).await.unwrap();
    drop(tx);
    insert(&database, &[line(2, "two")]).await.unwrap();
    assert_eq!(lines(&database).await, [line(2, "two")]);
}

async fn what_is_written_at_the_end_is_there_with_the_commit_or_not_at_all(place: Place) {
    const ADD: &str = "-- add
        insert into line (id, text, number) select cast(value->>0 as bigint), value->>1, 1 from jsonb_each($1)";
    const COUNT: &str = "insert into counted (name, lines)
        select value->>0, cast(value->>1 as bigint) from jsonb_each($1) where true
        on conflict (name) do update set lines = counted.lines + excluded.lines";
    const REFER: &str = "insert into reference (line) select cast(value->>0 as bigint) from jsonb_each($1)";
    const CHANGE: &str = "update line set text = changed.text
        from (select cast(value->>0 as bigint) as id, value->>1 as text from jsonb_each($1)) changed
        where line.id = changed.id";
    let database = with_table(&place).await;
    change(&database, "create table counted (name text constraint counted_pkey primary key, lines bigint not null)")
        .await;
    change(&database, "create table reference (line bigint not null constraint reference_fkey references line (id))")
        .await;
    let counted =
        async || -> i64 { sqlx::query_scalar("select lines from counted").fetch_one(database.reader()).await.unwrap() };
    for (id, error) in [(1, false), (2, false), (2, true)] {
        let mut tx = database.begin("test").await.unwrap();
        tx.writes().add(COUNT, &[("all", 2)]);
        tx.writes().add(ADD, &[(id, "a"), (id + 10, "it's $1")]);
        tx.writes().add(ADD, &[(id + 20, "once more")]);
        tx.writes().add(REFER, &[[id], [id + 20]]);
        tx.writes().change(CHANGE, &[(id - 1, "changed"), (id, "not yet there")]);
        tx.writes().change(CHANGE, &[(id - 1, "changed again")]);
        assert_eq!(tx.commit().await.is_err_and(|error| error.is_data()), error);
    }
    let mut expected = [1, 2].map(|id| [(id, "a"), (id + 10, "it's $1"), (id + 20, "once more")]).concat();
    expected.sort_unstable();
    expected[0].1 = "changed again";
    let expected: Vec<_> = expected.into_iter().map(|(id, text)| Line { number: Some(1), ..line(id, text) }).collect();
    assert_eq!(lines(&database).await, expected);
    assert_eq!(counted().await, 4, "nothing of the third is there");

    let mut tx = database.begin("test").await.unwrap();
    tx.writes().add(ADD, &[(3, "never")]);
    drop(tx);
    assert_eq!(lines(&database).await, expected);
}

async fn a_stored_value_that_breaks_its_type_is_named(place: Place) {
    let database = with_table(&place).await;
    change(&database, "insert into line (id, text) values (-5, 'no address')").await;
    let row = sqlx::query("select id, text from line").fetch_one(database.reader()).await.unwrap();
    let corrupt = db::parse::<shared::id::WalletAddress>(&row, "text").unwrap_err();
    assert!(matches!(corrupt, Error::Corrupt { column: "text", .. }), "{corrupt:?}");
    let corrupt = db::unsigned(&row, "id").unwrap_err();
    assert!(matches!(corrupt, Error::Corrupt { column: "id", .. }), "{corrupt:?}");
    assert!(!corrupt.is_data() && !corrupt.is_unreachable());
}

async fn a_closed_database_is_neither_data_nor_away(place: Place) {
    let database = open(&place).await;
    database.close().await;
    let error = database.begin("test").await.unwrap_err();
    assert!(!error.is_data() && !error.is_unreachable(), "{error:?}");
}

async fn a_database_that_is_newer_than_the_program_is_refused(place: Place) {
    open(&place).await.close().await;
    let error = refused(place.url()).await;
    assert!(matches!(error, Error::Migrate(_)) && !error.is_unreachable(), "{error:?}");
}

async fn opening_again_keeps_what_is_there(place: Place) {
    let database = with_table(&place).await;
    insert(&database, &[line(1, "one")]).await.unwrap();
    let (second, dialect) = (open(&place).await, database.dialect());
    database.close().await;
    assert_eq!((lines(&second).await, second.dialect()), (vec![line(1, "one")], dialect));
}

async fn refused(url: &str) -> Error {
    Database::open(&url.into(), &Migrator::DEFAULT).await.unwrap_err()
}

#[tokio::test]
async fn replicas_that_start_together_on_an_empty_database_all_open_it() {
    let place = Place::postgres().await.unwrap();
    let opened = tokio::join!(open(&place), open(&place), open(&place), open(&place));
    assert_eq!(opened.3.dialect(), Dialect::Postgres);
}

#[tokio::test]
async fn a_url_of_no_kind_that_we_know_is_refused() {
    for url in ["", "alice.db", "mysql://localhost/db", "/tmp/alice.db", "http://localhost"] {
        assert!(matches!(refused(url).await, Error::UnknownScheme), "{url}");
    }
}

#[tokio::test]
async fn a_sqlite_path_that_cannot_be_used_fails_at_once_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    std::fs::write(folder.path().join("text"), "no database, but a text that is longer than a page header ".repeat(20))
        .unwrap();

    let error = refused(&format!("sqlite://{path}/text/below/a.db")).await;
    assert!(matches!(&error, Error::Create { path, .. } if path.ends_with("text/below")), "{error:?}");
    for url in [format!("sqlite://{path}"), format!("sqlite://{path}/text")] {
        let error = refused(&url).await;
        assert!(!error.is_unreachable() && !error.is_data(), "{url}: {error:?}");
        let words = error.to_string();
        assert!(words.contains("unable to open") || words.contains("not a database"), "{url}: {words}");
    }
}

#[tokio::test]
async fn a_server_that_nobody_listens_at_is_away() {
    let port = testkit::ports::free().unwrap();
    let start = Instant::now();
    let error = refused(&format!("postgres://postgres@127.0.0.1:{port}/nothing")).await;
    assert!(error.is_unreachable() && !error.is_data(), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(30), "after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_server_that_hangs_up_at_once_is_away() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            // The question whether it speaks TLS.
            let _ = client.unwrap().read_exact(&mut [0; 8]);
        }
    });
    let error = refused(&format!("postgres://postgres@127.0.0.1:{port}/nothing")).await;
    assert!(error.is_unreachable() && !error.is_data(), "{error:?}");
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_a_mistake_and_not_away() {
    let url = testkit::Postgres::shared().await.unwrap().create_database("shared").await.unwrap();
    let error = refused(&format!("{url}_not")).await;
    assert!(!error.is_unreachable() && !error.is_data(), "{error:?}");
}

#[tokio::test]
async fn a_server_that_ends_the_connection_is_away() {
    let place = Place::postgres().await.unwrap();
    let database = open(&place).await;
    let mut tx = database.begin("test").await.unwrap();
    let pid: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
    // What every connection is told when the server is stopped.
    let ended: bool =
        sqlx::query_scalar("select pg_terminate_backend($1)").bind(pid).fetch_one(database.reader()).await.unwrap();
    assert!(ended);
    let error = Error::from(sqlx::query("select 1").execute(&mut *tx).await.unwrap_err());
    assert!(error.is_unreachable(), "{error:?}");
    drop(tx);
    database.begin("test").await.unwrap();
}

#[tokio::test]
async fn connections_to_a_server_have_their_settings() {
    let place = Place::postgres().await.unwrap();
    let database = open(&place).await;
    for (name, expected) in [
        ("statement_timeout", "30s"),
        ("lock_timeout", "10s"),
        ("idle_in_transaction_session_timeout", "30s"),
        ("plan_cache_mode", "force_custom_plan"),
        ("max_parallel_workers_per_gather", "0"),
        ("backend_flush_after", "256kB"),
    ] {
        let sql = "select current_setting($1)";
        let value: String = sqlx::query_scalar(sql).bind(name).fetch_one(database.reader()).await.unwrap();
        assert_eq!(value, expected, "{name}");
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_while_nobody_uses_it_is_no_loss_a_second_later() {
    let place = Place::postgres().await.unwrap();
    let database = open(&place).await;
    let read = async || sqlx::query("select 1").execute(database.reader()).await.map_err(Error::from);
    let name: String =
        sqlx::query_scalar("select cast(current_database() as text)").fetch_one(database.reader()).await.unwrap();
    let end_sessions = async || Postgres::shared().await.unwrap().end_sessions(&name).await.unwrap();
    read().await.unwrap();
    assert!(end_sessions().await > 0);
    // It was used a moment ago: who uses it next may find out.
    let mut failed = 0;
    while let Err(error) = read().await {
        assert!(error.is_unreachable(), "{error:?}");
        failed += 1;
        assert!(failed <= 16, "each connection is lost once");
    }
    assert!(end_sessions().await > 0);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    read().await.unwrap();
}

/// As on a full disk, which cannot be had everywhere: SQLite ends the transaction itself.
#[tokio::test]
async fn a_transaction_that_sqlite_rolls_back_itself_spoils_no_later_one() {
    let place = Place::sqlite().unwrap();
    let database = with_table(&place).await;
    let line = [Line { id: 1, text: None, number: None }];
    insert(&database, &line).await.unwrap();
    let mut tx = database.begin("test").await.unwrap();
    let twice = sqlx::query("insert or rollback into line (id) values (1)").execute(&mut *tx).await;
    assert!(twice.is_err());
    drop(tx);
    insert(&database, &[Line { id: 2, ..line[0].clone() }]).await.unwrap();
    assert_eq!(lines(&database).await.len(), 2);
}
