//! How the statements that tests run find their rows: none may read more of a table the longer its past is.
//!
//! A statement that takes the wrong index answers as it should, and as fast, while a test's tables are short. So SQLite is
//! asked how it would run each statement of the services that a test has run, when the [`Place`](crate::Place) of that test
//! goes away. SQLite alone, since it decides by the schema; PostgreSQL decides by how much is in the tables.

use std::collections::BTreeMap;
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Result, ensure};
use sqlx::{Connection as _, Row as _, SqliteConnection};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context as Layered, Layer, SubscriberExt as _};

/// Ways to read more than the row of a whole key, as SQLite calls them, with what bounds them.
const BOUNDED: &[(&str, &[&str])] = &[
    (
        "a table of few rows",
        &[
            "SCAN campaign",
            "SCAN chain_cursor",
            "SCAN dead_letter",
            "SCAN deployment",
            "SCAN kill_switch",
            "SCAN main.sqlite_master",
            "SCAN tally",
        ],
    ),
    ("rows that go away when they are done", &["SCAN outbox", "SCAN old_event", "SCAN old_key"]),
    (
        "an index of rows that are open",
        &[
            "INDEX campaign_with_claims",
            "INDEX chain_transaction_pending",
            "INDEX claim_root_unpublished",
            "INDEX claim_root_wanted",
            "INDEX dead_letter_open",
            "INDEX payment_expiring",
            "INDEX payment_queue",
            "INDEX token_grant_needs_attention",
            "INDEX token_grant_open",
            "INDEX token_grant_waiting",
        ],
    ),
    (
        "a page, by its limit",
        &[
            "campaign_1 (campaign_id>?)",
            "campaign_transaction_by_time (first_seen_at>? AND first_seen_at<?)",
            "chain_payment_1 ((block_number,log_index)>(?,?) AND block_number<?)",
            "chain_payment_1 (block_number<?)",
            "chain_payment_1 (block_number>?)",
            "claim_leaf_by_wallet (campaign_id=? AND wallet_address=? AND sequence>?)",
            "event_1 (sequence>?)",
            "event_by_subject (stream=? AND subject=? AND sequence>?)",
            "payment_2 (grant_id>?)",
            "payment_by_block (block_number>?)",
            "token_grant_2 (grant_index>?)",
            "token_grant_by_campaign (campaign_id=? AND grant_index>?)",
            "token_grant_by_transaction (transaction_hash=? AND grant_index>?)",
            "token_grant_by_user (user_id=? AND grant_index<?)",
        ],
    ),
    (
        "what one transaction or grant has",
        &[
            "attempt_by_transaction (transaction_id=?)",
            "chain_payment_by_grant (grant_id=?)",
            "chain_transaction_event_by_transaction (transaction_id=?)",
            "claim_root_by_transaction (transaction_id=?)",
            "event_by_subject (stream=? AND subject=?)",
            "payment_by_transaction (transaction_id=?)",
        ],
    ),
    ("grants of one player", &["token_grant_3 (campaign_id=? AND user_id=?)", "token_grant_by_user (user_id=?)"]),
    (
        "what one campaign has, read to make its list, its tree or its statistics",
        &[
            "campaign_latency_1 (campaign_id=?)",
            "campaign_minute_1 (campaign_id=? AND minute>? AND minute<?)",
            "claim_leaf_by_campaign (campaign_id=? AND sequence<?)",
            "listed_user_1 (campaign_id=?)",
        ],
    ),
    (
        "trees of one campaign, of which the older are removed",
        &[
            "claim_root_1 (campaign_id=?)",
            "claim_root_1 (campaign_id=? AND number<?)",
            "claim_root_1 (campaign_id=? AND number>?)",
        ],
    ),
    ("lines of one upload", &["job_rejection_1 (job_id=?)"]),
];

/// The statements that were run, each with whether its plan was looked at.
static STATEMENTS: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());

/// Notes from now on which statements this process runs.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let statements = Statements.with_filter(Targets::new().with_target("sqlx::query", Level::DEBUG));
        let subscriber = tracing_subscriber::registry().with(statements);
        tracing::subscriber::set_global_default(subscriber).expect("tests have no subscriber of their own");
    });
}

/// Asks the database at this URL about the statements that no other was asked about and whose tables it has.
pub(crate) fn judge(url: &str) -> Result<()> {
    let new: Vec<_> = {
        let statements = STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner);
        statements.iter().filter(|(_, judged)| !**judged).map(|(statement, _)| statement.clone()).collect()
    };
    let url = url.to_owned();
    let judging = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(judge_all(&url, &new))
    });
    judging.join().expect("it does not panic")
}

async fn judge_all(url: &str, statements: &[String]) -> Result<()> {
    let mut connection = SqliteConnection::connect(url).await?;
    let mut growing = Vec::new();
    for statement in statements {
        let query = format!("explain query plan {statement}");
        // Those for PostgreSQL, and those of a service with other tables.
        let Ok(plan) = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&mut connection).await else { continue };
        STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner).insert(statement.clone(), true);
        let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        for step in &steps {
            if !is_bounded(&mut connection, step, &steps).await? {
                growing.push(format!("{}: {step}", statement.lines().next().unwrap_or_default()));
            }
        }
    }
    ensure!(
        growing.is_empty(),
        "these statements read more the longer the past is:\n{}\ngive them an index, or say in {} what bounds them",
        growing.join("\n"),
        file!()
    );
    Ok(())
}

/// Whether what this step reads does not grow.
async fn is_bounded(connection: &mut SqliteConnection, step: &str, plan: &[String]) -> Result<bool> {
    let Some((how @ ("SCAN" | "SEARCH"), what)) = step.split_once(' ') else { return Ok(true) };
    let is_known = |way: &&str| format!("{step} ").contains(&format!("{way} "));
    if BOUNDED.iter().flat_map(|(_, ways)| *ways).any(is_known) {
        return Ok(true);
    }
    let table = what.split(' ').next().unwrap_or_default();
    let is_of_statement =
        |step: &String| [format!("CO-ROUTINE {table}"), format!("MATERIALIZE {table}")].contains(step);
    if what.contains(" VIRTUAL TABLE ") || what == "CONSTANT ROW" || plan.iter().any(is_of_statement) {
        return Ok(true);
    }
    let Some((by, condition)) = what.split_once(" (") else {
        // A search without a condition finds the first or the last.
        return Ok(how == "SEARCH");
    };
    if condition == "rowid=?)" {
        return Ok(true);
    }
    let sql = "select count(*) from sqlite_master t join pragma_index_list(t.name) i join pragma_index_info(i.name)
               where t.type = 'table' and i.name = $1 and i.\"unique\"";
    let columns: i64 = sqlx::query_scalar(sql).bind(by.rsplit(' ').next()).fetch_one(connection).await?;
    let terms = condition.split(')').next().unwrap_or_default().split(" AND ");
    Ok(terms.filter(|term| term.ends_with("=?")).count() == usize::try_from(columns)?)
}

/// Takes the statements of the services from what sqlx logs.
struct Statements;

impl<S: Subscriber> Layer<S> for Statements {
    fn on_event(&self, event: &Event<'_>, _: Layered<'_, S>) {
        event.record(&mut Statement);
    }
}

struct Statement;

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() != "db.statement" {
            return;
        }
        // Several may be sent in one call, see `shared::db::Writes`.
        let mut statements = STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner);
        for statement in value.trim().split(";\n").filter(|statement| is_of_service(statement)) {
            statements.entry(statement.to_owned()).or_default();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// Whether it begins with its name, `-- store::name`, as those of a test itself do not.
fn is_of_service(statement: &str) -> bool {
    let name = statement.lines().next().and_then(|line| line.strip_prefix("-- "));
    name.is_some_and(|name| name.contains("::"))
}

#[cfg(test)]
mod tests {
    use shared::db::Database;
    use sqlx::migrate::Migrator;

    use crate::Place;

    /// Runs a statement on a place with a table of its own, and lets go of the place.
    async fn run(table: &str, statement: &str) {
        let place = Place::sqlite().unwrap();
        let database = Database::open(&place.url().into(), &Migrator::DEFAULT).await.unwrap();
        let table =
            format!("create table {table} (chain bigint, nonce bigint, state text, primary key (chain, nonce))");
        for sql in [table, format!("-- plans::{statement}")] {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(database.writer()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_whole_key_and_what_the_statement_itself_made_may_be_read() {
        let known = "select value->>0 as chain from jsonb_each('[[1]]')";
        run(
            "keyed",
            &format!("key\n select k.state from ({known} limit 1) n join keyed k on k.chain = n.chain and k.nonce = 2"),
        )
        .await;
    }

    #[tokio::test]
    #[should_panic(expected = "-- plans::scan: SCAN scanned")]
    async fn all_of_a_table_may_not() {
        run("scanned", "scan\n select nonce from scanned where state = 'pending'").await;
    }

    #[tokio::test]
    #[should_panic(expected = "-- plans::part: SEARCH part USING INDEX sqlite_autoindex_part_1 (chain=?)")]
    async fn all_that_share_a_part_of_the_key_may_not() {
        run("part", "part\n select nonce from part where state = 'pending' and chain = 1").await;
    }
}
