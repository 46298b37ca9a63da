//! What a transaction writes at its end, all at once.

use std::iter;

use serde::Serialize;
use sqlx::{AnyConnection, AssertSqlSafe, Executor};

use super::{POSTGRES, Result, rows};

/// Statements that are run at the end, each with its rows: as few times as the database allows, since each time is waited
/// for. Each takes its rows from `jsonb_each($1)` and has no other parameter; without rows it is not run.
#[derive(Debug, Default)]
pub struct Writes {
    changes: Vec<Write>,
    additions: Vec<Write>,
}

#[derive(Debug)]
struct Write {
    statement: &'static str,
    rows: String,
}

impl Writes {
    /// Changes or removes rows that there are. Changes come before what is [added](Self::add), in their order.
    pub fn change<T: Serialize>(&mut self, statement: &'static str, rows: &[T]) {
        self.changes.extend(Write::new(statement, rows));
    }

    /// Adds rows, or adds to those of the same keys, and looks for no others. No such statement sees what another one adds,
    /// and no two may change the same row: PostgreSQL would make one of the changes only.
    ///
    /// # Panics
    ///
    /// In builds for tests, if a statement that may update rows is there already.
    pub fn add<T: Serialize>(&mut self, statement: &'static str, rows: &[T]) {
        let is_there = || self.additions.iter().any(|other| other.statement == statement);
        debug_assert!(!(statement.contains("update ") && is_there()), "both may change one row: {statement}");
        self.additions.extend(Write::new(statement, rows));
    }

    /// Runs all of them.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub async fn run(self, connection: &mut AnyConnection) -> Result<()> {
        let Self { changes, additions } = self;
        if connection.backend_name() != POSTGRES {
            return run(connection, in_turn, [changes, additions].into_iter().flatten().collect()).await;
        }
        for change in changes {
            run(connection, in_turn, vec![change]).await?;
        }
        if !additions.is_empty() {
            // Statements that look for no rows have but one plan, and to make it takes as long as to run it.
            connection.execute("select set_config('plan_cache_mode', 'force_generic_plan', true)").await?;
        }
        run(connection, at_once, additions).await
    }
}

impl Write {
    fn new<T: Serialize>(statement: &'static str, rows: &[T]) -> Option<Self> {
        (!rows.is_empty()).then(|| Self { statement, rows: self::rows(rows) })
    }
}

/// Runs them as the one text that `join` makes of them, each with a parameter of its own.
async fn run(connection: &mut AnyConnection, join: fn(&[String]) -> String, writes: Vec<Write>) -> Result<()> {
    if writes.is_empty() {
        return Ok(());
    }
    let statements: Vec<_> = iter::zip(1.., &writes)
        .map(|(number, write): (usize, _)| write.statement.replace("$1", &format!("${number}")))
        .collect();
    let query = sqlx::query(AssertSqlSafe(join(&statements)));
    writes.into_iter().fold(query, |query, write| query.bind(write.rows)).execute(connection).await?;
    Ok(())
}

/// One after the other, in one call of SQLite's thread.
fn in_turn(statements: &[String]) -> String {
    statements.join(";\n")
}

/// As parts of one statement, which is all that PostgreSQL's protocol takes with parameters.
fn at_once(statements: &[String]) -> String {
    let parts = iter::zip(1.., statements).map(|(number, statement): (usize, _)| format!("w{number} as ({statement})"));
    format!("with {} select 1", parts.collect::<Vec<_>>().join(",\n"))
}
