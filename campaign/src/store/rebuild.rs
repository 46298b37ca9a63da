//! Works all tables out from the ledger once more, into fresh ones; compares, and swaps where they differ.
//!
//! The fresh tables are temporary tables of the same names, which hide the real ones from this connection alone: so the
//! very statements that keep the real ones up to date fill them, in both databases. Services may go on meanwhile: what is
//! compared is the ledger and the tables as they were at one moment. Only to swap, the ledger is locked for the last part.

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::db::{self, Dialect, Writes};
use sqlx::{AnyConnection, Connection as _, Row};

use super::projection::{Projection, TABLES};
use super::{Store, history, ledger};

/// The most entries that are applied at a time.
const BATCH: i64 = 5000;

/// What a rebuild came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rebuilt {
    /// How many entries the ledger has.
    pub entries: u64,
    /// The entry whose seal does not fit, if there is one: the first that was changed, or that follows a gap.
    pub broken_seal: Option<u64>,
    /// The tables that were not what the ledger says.
    pub differences: Vec<Difference>,
    /// Whether they were replaced.
    pub swapped: bool,
    /// How long it took, in milliseconds.
    pub milliseconds: u128,
}

/// A table that was not what the ledger says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Which one.
    pub table: &'static str,
    /// Rows that the ledger asks for and the table did not have.
    pub missing: u64,
    /// Rows that the table had and the ledger does not know.
    pub unknown: u64,
}

impl Store {
    /// Rebuilds all tables that are worked out from the ledger; with `swap`, those that differ are replaced, unless a seal
    /// of the ledger is broken.
    ///
    /// # Errors
    ///
    /// When nothing was replaced: the database refused, or an entry of the ledger cannot be read.
    pub async fn rebuild(&self, swap: bool) -> db::Result<Rebuilt> {
        let start = Instant::now();
        let mut connection = self.database.writer().acquire().await?.detach();
        let dialect = self.database.dialect();
        let schema = create_fresh_tables(&mut connection, dialect).await?;
        if dialect == Dialect::Postgres {
            // Tables of any size are compared in one statement.
            sqlx::raw_sql("set statement_timeout = 0").execute(&mut connection).await?;
        }
        let mut reading = Reading::default();
        // As far as the ledger goes when this begins.
        while reading.advance(&mut connection, dialect).await? {}

        let begin = match dialect {
            Dialect::Sqlite if swap => "begin immediate",
            Dialect::Sqlite => "begin",
            Dialect::Postgres if swap => "begin",
            Dialect::Postgres => "begin isolation level repeatable read",
        };
        sqlx::query(begin).execute(&mut connection).await?;
        let head = if swap { ledger::lock(&mut connection).await? } else { ledger::head(&mut connection).await? };
        while reading.advance(&mut connection, dialect).await? {}
        if (reading.sequence, reading.seal) != (head.sequence, head.seal) {
            // The end was cut off.
            reading.broken_seal = reading.broken_seal.or(Some(reading.sequence + 1));
        }
        // What a changed ledger says is not to be believed.
        let swap = swap && reading.broken_seal.is_none();
        let mut differences = Vec::new();
        for table in TABLES {
            let difference = schema.compare(&mut connection, table).await?;
            if difference.missing + difference.unknown > 0 {
                if swap {
                    schema.swap(&mut connection, table).await?;
                }
                differences.push(difference);
            }
        }
        let swapped = swap && !differences.is_empty();
        if swapped {
            // Whoever remembers rows finds another head, and reads them again.
            sqlx::query("-- rebuild::advance\n update deployment set at = at + 1").execute(&mut connection).await?;
        }
        sqlx::query("commit").execute(&mut connection).await?;
        connection.close().await?;
        Ok(Rebuilt {
            entries: reading.sequence,
            broken_seal: reading.broken_seal,
            swapped,
            differences,
            milliseconds: Duration::as_millis(&start.elapsed()),
        })
    }
}

/// How far the ledger was read.
#[derive(Debug, Default)]
struct Reading {
    sequence: u64,
    seal: shared::ledger::Seal,
    broken_seal: Option<u64>,
}

impl Reading {
    /// Applies the next entries; says whether there were any.
    async fn advance(&mut self, connection: &mut AnyConnection, dialect: Dialect) -> db::Result<bool> {
        let entries = history::entries_after(connection, self.sequence, BATCH).await?;
        if entries.is_empty() {
            return Ok(false);
        }
        for entry in &entries {
            if entry.sequence != self.sequence + 1 || entry.seal != entry.seal_after(self.seal) {
                self.broken_seal = self.broken_seal.or(Some(entry.sequence));
            }
            (self.sequence, self.seal) = (entry.sequence, entry.seal);
        }
        let mut projection = Projection::default();
        projection.load(connection, &entries).await?;
        for entry in &entries {
            projection.apply(entry)?;
        }
        let mut writes = Writes::default();
        projection.save(&mut writes);
        writes.run(connection, dialect).await?;
        Ok(true)
    }
}

/// The names of the schemas that hold the real tables and the fresh ones.
struct Schemas {
    real: String,
    fresh: &'static str,
}

async fn create_fresh_tables(connection: &mut AnyConnection, dialect: Dialect) -> db::Result<Schemas> {
    match dialect {
        Dialect::Sqlite => {
            for table in TABLES {
                let rows = sqlx::query(
                    "-- rebuild::definitions
                     select sql from main.sqlite_master where tbl_name = $1 and sql is not null order by type desc",
                )
                .bind(table)
                .fetch_all(&mut *connection)
                .await?;
                for row in &rows {
                    let sql: String = row.try_get("sql")?;
                    let sql = sql.replacen("CREATE TABLE ", "create temporary table ", 1).replacen(
                        "CREATE INDEX ",
                        "create index temp.",
                        1,
                    );
                    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await?;
                }
            }
            Ok(Schemas { real: "main".to_owned(), fresh: "temp" })
        }
        Dialect::Postgres => {
            let row = sqlx::query("-- rebuild::schema\n select current_schema()::text as name");
            let real: String = row.fetch_one(&mut *connection).await?.try_get("name")?;
            for table in TABLES {
                let sql = format!("create temporary table {table} (like {real}.{table} including all)");
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await?;
            }
            Ok(Schemas { real, fresh: "pg_temp" })
        }
    }
}

impl Schemas {
    async fn compare(&self, connection: &mut AnyConnection, table: &'static str) -> db::Result<Difference> {
        let Self { real, fresh } = self;
        let sql = format!(
            "select (select count(*) from (select * from {fresh}.{table} except select * from {real}.{table}) m) as missing,
                    (select count(*) from (select * from {real}.{table} except select * from {fresh}.{table}) u) as unknown"
        );
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(connection).await?;
        Ok(Difference { table, missing: db::unsigned(&row, "missing")?, unknown: db::unsigned(&row, "unknown")? })
    }

    async fn swap(&self, connection: &mut AnyConnection, table: &str) -> db::Result<()> {
        let Self { real, fresh } = self;
        for sql in
            [format!("delete from {real}.{table}"), format!("insert into {real}.{table} select * from {fresh}.{table}")]
        {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *connection).await?;
        }
        Ok(())
    }
}
