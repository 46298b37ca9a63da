//! How the statements that tests run find their rows: none may read more of a table the longer its past is.
//!
//! A statement that takes the wrong index answers as it should, and as fast, while a test's tables are short. So SQLite is
//! asked how it would run each statement of the services that a test has run, when the [`Place`](crate::Place) of that test
//! goes away. SQLite alone, since it decides by the schema; PostgreSQL decides by how much is in the tables.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use anyhow::{Result, ensure};
use sqlx::{Connection as _, Row as _, SqliteConnection};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context as Layered, Layer, SubscriberExt as _};

/// What reads more than the row of a whole key: each step of a statement, as SQLite tells it, under what bounds it.
const BOUNDED: &str = include_str!("plans/bounded.txt");

/// The statements that were run, each with whether it was found to be bounded.
static STATEMENTS: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());

fn statements() -> MutexGuard<'static, BTreeMap<String, bool>> {
    STATEMENTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes from now on which statements this process runs.
pub(crate) fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let statements = Statements.with_filter(Targets::new().with_target("sqlx::query", Level::DEBUG));
        let subscriber = tracing_subscriber::registry().with(statements);
        tracing::subscriber::set_global_default(subscriber).expect("tests have no subscriber of their own");
    });
}

/// Asks the database in this file about the statements of all tests so far, where it has their tables.
///
/// # Errors
///
/// When one of them reads more the longer the past is: now, and each time that it is judged again.
pub(crate) fn judge(url: &str) -> Result<()> {
    let unknown: Vec<_> =
        statements().iter().filter(|(_, bounded)| !**bounded).map(|(statement, _)| statement.clone()).collect();
    let url = url.to_owned();
    let judging = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(judge_all(&url, unknown))
    });
    judging.join().expect("it does not panic")
}

async fn judge_all(url: &str, unknown: Vec<String>) -> Result<()> {
    let mut connection = SqliteConnection::connect(url).await?;
    let mut growing = Vec::new();
    for statement in unknown {
        let query = format!("explain query plan {statement}");
        let plan = match sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&mut connection).await {
            Ok(plan) => plan,
            // SQLITE_ERROR: those in PostgreSQL's words, and those of a service with other tables.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("1") => continue,
            Err(error) => return Err(error.into()),
        };
        let name = name_of(&statement).unwrap_or_default();
        let steps: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
        let before = growing.len();
        for step in &steps {
            if !is_of_few_rows(&mut connection, step, &steps).await? && !is_listed(name, step) {
                growing.push(format!("{name}: {step}"));
            }
        }
        if growing.len() == before {
            statements().insert(statement, true);
        }
    }
    ensure!(
        growing.is_empty(),
        "statements that this or another test has run read more the longer the past is:\n{}\n\
         give each an index, or enter it in testkit/src/plans/bounded.txt under what bounds it",
        growing.join("\n")
    );
    Ok(())
}

/// Whether a step reads the row of a whole key, or what the statement itself brings.
async fn is_of_few_rows(connection: &mut SqliteConnection, step: &str, plan: &[String]) -> Result<bool> {
    let Some(("SCAN" | "SEARCH", what)) = step.split_once(' ') else { return Ok(true) };
    let table = what.split(' ').next().unwrap_or_default();
    let is_of_statement =
        |step: &String| [format!("CO-ROUTINE {table}"), format!("MATERIALIZE {table}")].contains(step);
    if what.contains(" VIRTUAL TABLE ") || what == "CONSTANT ROW" || plan.iter().any(is_of_statement) {
        return Ok(true);
    }
    let Some((by, condition)) = what.split_once(" (") else { return Ok(false) };
    if condition.starts_with("rowid=?)") {
        return Ok(true);
    }
    let sql = "select count(*) from sqlite_master t join pragma_index_list(t.name) i join pragma_index_info(i.name)
               where t.type = 'table' and i.name = $1 and i.\"unique\"";
    let columns: i64 = sqlx::query_scalar(sql).bind(by.rsplit(' ').next()).fetch_one(connection).await?;
    let terms = condition.split(')').next().unwrap_or_default().split(" AND ");
    let equal = terms.filter(|term| term.ends_with("=?")).count();
    Ok(equal > 0 && equal == usize::try_from(columns)?)
}

fn is_listed(name: &str, step: &str) -> bool {
    BOUNDED.lines().any(|line| line.split_once(": ") == Some((name, step)))
}

/// Its name, with which a statement of the services begins: `-- store::name`. Those of a test itself have none.
fn name_of(statement: &str) -> Option<&str> {
    statement.lines().next()?.strip_prefix("-- ").filter(|name| name.contains("::"))
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
        let mut statements = statements();
        for statement in value.trim().split(";\n").filter(|statement| name_of(statement).is_some()) {
            statements.entry(statement.to_owned()).or_default();
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
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
    #[should_panic(expected = "plans::scan: SCAN scanned")]
    async fn all_of_a_table_may_not() {
        run("scanned", "scan\n select nonce from scanned where state = 'pending'").await;
    }

    #[tokio::test]
    #[should_panic(expected = "plans::least: SEARCH least")]
    async fn all_of_a_table_for_its_least_may_not() {
        run("least", "least\n select min(state) from least").await;
    }

    #[tokio::test]
    #[should_panic(expected = "plans::part: SEARCH part USING INDEX sqlite_autoindex_part_1 (chain=?)")]
    async fn all_that_share_a_part_of_the_key_may_not() {
        run("part", "part\n select nonce from part where state = 'pending' and chain = 1").await;
    }

    #[tokio::test]
    #[should_panic(expected = "plans::range: SEARCH range USING INDEX sqlite_autoindex_range_1 (chain>?)")]
    async fn all_above_a_key_may_not() {
        run("range", "range\n select nonce from range where state = 'pending' and chain > 1").await;
    }
}
