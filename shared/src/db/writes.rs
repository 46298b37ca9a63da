//! What a transaction writes at its end, all at once.

use std::iter;

use serde::Serialize;
use sqlx::{AnyConnection, AssertSqlSafe, Executor};

use super::{Dialect, Result, rows};

/// Statements that wait to be sent together, since each that is sent by itself is waited for: to SQLite in one call, to
/// PostgreSQL the [additions](Self::add) as one statement.
///
/// Each takes its rows from `jsonb_each($1)`, has no other parameter, and is not run without rows.
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
    /// A statement that looks for rows that there are. Changes are run in their order, before what is added.
    pub fn change<T: Serialize>(&mut self, statement: &'static str, rows: &[T]) {
        self.changes.extend(Write::new(statement, rows));
    }

    /// A statement that looks for no rows but by their whole keys, and needs nothing that another addition writes, which it
    /// does not see. Where it is there already, the rows join its rows.
    pub fn add<T: Serialize>(&mut self, statement: &'static str, rows: &[T]) {
        let Some(write) = Write::new(statement, rows) else { return };
        match self.additions.iter_mut().find(|other| other.statement == statement) {
            Some(other) => other.join(&write),
            None => self.additions.push(write),
        }
    }

    /// Runs all of them.
    ///
    /// # Errors
    ///
    /// When the database refuses.
    pub async fn run(self, connection: &mut AnyConnection, dialect: Dialect) -> Result<()> {
        self.send(connection, dialect, false).await
    }

    /// Runs all of them, as the last that a transaction does.
    pub(super) async fn finish(self, connection: &mut AnyConnection, dialect: Dialect) -> Result<()> {
        self.send(connection, dialect, true).await
    }

    async fn send(self, connection: &mut AnyConnection, dialect: Dialect, is_last: bool) -> Result<()> {
        let Self { changes, additions } = self;
        if dialect == Dialect::Sqlite {
            return send(connection, in_turn, [changes, additions].into_iter().flatten().collect()).await;
        }
        for change in changes {
            send(connection, in_turn, vec![change]).await?;
        }
        if is_last && additions.len() > 1 {
            // They have but one plan, and to make it takes as long as to run it.
            connection.execute("set local plan_cache_mode = force_generic_plan").await?;
        }
        send(connection, as_one_statement, additions).await
    }
}

impl Write {
    fn new<T: Serialize>(statement: &'static str, rows: &[T]) -> Option<Self> {
        (!rows.is_empty()).then(|| Self { statement, rows: self::rows(rows) })
    }

    /// Takes the other's rows too: both are arrays that are not empty.
    fn join(&mut self, other: &Self) {
        self.rows.pop();
        self.rows.push(',');
        self.rows.push_str(&other.rows[1..]);
    }
}

/// Sends them as the one text that `compose` makes of them, each with a parameter of its own.
async fn send(connection: &mut AnyConnection, compose: fn(&[String]) -> String, writes: Vec<Write>) -> Result<()> {
    if writes.is_empty() {
        return Ok(());
    }
    let statements: Vec<_> = iter::zip(1.., &writes)
        .map(|(number, write): (usize, _)| write.statement.replace("$1", &format!("${number}")))
        .collect();
    let query = sqlx::query(AssertSqlSafe(compose(&statements)));
    writes.into_iter().fold(query, |query, write| query.bind(write.rows)).execute(connection).await?;
    Ok(())
}

/// One after the other, which SQLite's driver takes in one call.
fn in_turn(statements: &[String]) -> String {
    statements.join(";\n")
}

/// As parts of one statement, which is all that PostgreSQL's protocol takes with parameters.
fn as_one_statement(statements: &[String]) -> String {
    let parts = iter::zip(1.., statements).map(|(number, statement): (usize, _)| format!("w{number} as ({statement})"));
    format!("with {} select 1", parts.collect::<Vec<_>>().join(",\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_one_statement_join_and_a_statement_without_rows_is_left_out() {
        let mut writes = Writes::default();
        writes.add("a", &[[1], [2]]);
        writes.add("b", &[[0_u8; 0]; 0]);
        writes.add("c", &[["]"]]);
        writes.add("a", &[[3]]);
        let added: Vec<_> = writes.additions.iter().map(|write| (write.statement, &*write.rows)).collect();
        assert_eq!(added, [("a", "[[1],[2],[3]]"), ("c", r#"[["]"]]"#)]);
    }
}
