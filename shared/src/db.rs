//! A service's own database: SQLite (embedded, the default) or PostgreSQL, chosen by the URL.
//!
//! One SQL text serves both. Rows go in and out in bulk as one JSON parameter: `jsonb_each($1)` gives one row `value` for
//! each element of a JSON array, natively on SQLite and by a function that [`Database::open`] adds on PostgreSQL.
//! Times are stored as microseconds since the Unix epoch.

mod rows;
mod sole;
mod wake;
mod writes;

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::migrate::Migrator;
use sqlx::{Any, AnyConnection, AnyPool, Connection as _, Executor, Row, Transaction};

pub use self::rows::{keys, row, rows, sql};
pub use self::sole::{SoleProcess, sole_process};
pub use self::wake::listen;
pub use self::writes::Writes;
use crate::fail_point;

/// Why the database did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL names no database that we know.
    #[error("the database URL must begin with sqlite:// or postgres://")]
    UnknownScheme,
    /// The database refused, or could not be reached.
    #[error("database: {0}")]
    Sqlx(#[from] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("database migration: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// The folder of the SQLite file, or the file that one process locks, cannot be made.
    #[error("{path} cannot be created: {source}")]
    Create {
        /// Which.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// SQLite is for one process, and another one has this file.
    #[error(
        "another process uses {file}, and SQLite is for one: stop that process, or set DATABASE_URL to \
         postgres://user:password@host/database, which any number of them may share"
    )]
    InUse {
        /// The file.
        file: String,
    },
    /// There is no such file of SQLite.
    #[error("there is no database at DATABASE_URL: {file} does not exist")]
    Missing {
        /// The file.
        file: String,
    },
    /// A stored value breaks a rule of its type: the database was changed by another program.
    #[error("the stored {column} is not valid: {reason}")]
    Corrupt {
        /// The column.
        column: &'static str,
        /// The rule it breaks.
        reason: String,
    },
}

impl Error {
    /// Whether the database is away for now, so that trying again later may succeed.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        let (Self::Sqlx(error) | Self::Migrate(sqlx::migrate::MigrateError::Execute(error))) = self else {
            return false;
        };
        match error {
            // A server that hangs up before its first byte, as proxies without a server behind them do, is a protocol
            // error to sqlx.
            sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
            // PostgreSQL: admin_shutdown, crash_shutdown, and cannot_connect_now, while it stops or starts;
            // too_many_connections.
            sqlx::Error::Database(error) => {
                matches!(error.code().as_deref(), Some("57P01" | "57P02" | "57P03" | "53300"))
            }
            _ => false,
        }
    }

    /// Whether the rows themselves were refused, so that trying the same again cannot succeed.
    #[must_use]
    pub fn is_data(&self) -> bool {
        let Self::Sqlx(sqlx::Error::Database(error)) = self else { return false };
        match error.code().as_deref() {
            // PostgreSQL: class 22 data exception, 23 integrity constraint violation.
            Some(code) if code.len() == 5 => code.starts_with("22") || code.starts_with("23"),
            // SQLite: 19 constraint, 20 mismatch, 18 too big; extended codes keep the primary one in the low byte.
            Some(code) => code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 18..=20)),
            None => false,
        }
    }
}

/// The result of a database operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A transaction on either database; dropped without a commit, it is rolled back.
#[derive(Debug)]
pub struct Tx {
    inner: Transaction<'static, Any>,
    writes: Writes,
    dialect: Dialect,
    step: &'static str,
}

impl Tx {
    /// What is written just before the commit: nothing else that this transaction does sees it.
    pub fn writes(&mut self) -> &mut Writes {
        &mut self.writes
    }

    /// Makes what the transaction did durable.
    ///
    /// # Errors
    ///
    /// When nothing was committed, or, where the connection was lost meanwhile, the database did not say.
    pub async fn commit(mut self) -> Result<()> {
        self.writes.finish(&mut self.inner, self.dialect).await?;
        fail_point::reach(&format!("{}:commit", self.step)).await;
        self.inner.commit().await?;
        fail_point::reach(&format!("{}:committed", self.step)).await;
        Ok(())
    }

    /// Undoes what the transaction did, and lets go of what it has locked before this returns. Dropping it does so too, a
    /// little later.
    ///
    /// # Errors
    ///
    /// When the database did not say so; it is undone all the same.
    pub async fn roll_back(self) -> Result<()> {
        Ok(self.inner.rollback().await?)
    }
}

impl Deref for Tx {
    type Target = AnyConnection;

    fn deref(&self) -> &AnyConnection {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut AnyConnection {
        &mut self.inner
    }
}

/// Which of the two it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite, in a file of this machine.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

/// An open database; clones share its connections.
#[derive(Debug, Clone)]
pub struct Database {
    read: AnyPool,
    write: AnyPool,
    dialect: Dialect,
}

impl Database {
    /// Opens the database (a missing SQLite file is created) and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// When it cannot be reached or read, or is newer than this program.
    pub async fn open(url: &SecretString, migrations: &Migrator) -> Result<Self> {
        sqlx::any::install_default_drivers();
        let database = if sqlite_file(url).is_some() {
            Self::open_sqlite(url).await?
        } else if ["postgres:", "postgresql:"].iter().any(|scheme| url.expose_secret().starts_with(scheme)) {
            Self::open_postgres(url.expose_secret()).await?
        } else {
            return Err(Error::UnknownScheme);
        };
        migrations.run(&database.write).await?;
        Ok(database)
    }

    async fn open_sqlite(url: &SecretString) -> Result<Self> {
        let file = Path::new(sqlite_file(url).unwrap_or_default());
        let url = url.expose_secret();
        create_folder_of(file).await?;
        let separator = if url.contains('?') { '&' } else { '?' };
        let options = AnyConnectOptions::from_str(&format!("{url}{separator}mode=rwc"))?;
        // One connection writes, since SQLite has one writer anyway: waiting in line beats SQLITE_BUSY. A committed
        // transaction survives power loss: WAL with synchronous=FULL.
        let pool = |connections| pool_of(connections, SQLITE_PRAGMAS).idle_timeout(None).max_lifetime(None);
        // A pool tries again whatever fails here, and in the end says no more than that it took too long: the first
        // connection is made by hand and says why.
        let mut first = AnyConnection::connect_with(&options).await?;
        first.execute(SQLITE_PRAGMAS).await?;
        first.close().await?;
        let write = pool(1).connect_with(options.clone()).await?;
        let read = pool(4).connect_with(options).await?;
        Ok(Self { read, write, dialect: Dialect::Sqlite })
    }

    async fn open_postgres(url: &str) -> Result<Self> {
        let pool = pool_of(16, POSTGRES_SETTINGS).connect(url).await?;
        let mut tx = pool.begin().await?;
        // Two replicas that start together must not replace the function at the same time.
        tx.execute("select pg_advisory_xact_lock(7238105)").await?;
        tx.execute(
            "create or replace function jsonb_each(elements text) returns table (value jsonb) language sql immutable rows 50 \
             as 'select jsonb_array_elements(elements::jsonb)'",
        )
        .await?;
        tx.commit().await?;
        Ok(Self { read: pool.clone(), write: pool, dialect: Dialect::Postgres })
    }

    /// Which database this is.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Connections for queries that change nothing.
    #[must_use]
    pub fn reader(&self) -> &AnyPool {
        &self.read
    }

    /// Connections that may write, for the few statements that belong to no transaction.
    #[must_use]
    pub fn writer(&self) -> &AnyPool {
        &self.write
    }

    /// Begins a transaction that may write: the durable step of this name. It has two fail points, `{step}:commit` just
    /// before its commit and `{step}:committed` just after it.
    ///
    /// # Errors
    ///
    /// When the database cannot be reached, or is locked for too long.
    pub async fn begin(&self, step: &'static str) -> Result<Tx> {
        let inner = match self.dialect {
            Dialect::Sqlite => match self.write.begin_with(BEGIN).await {
                // SQLite rolls back by itself when the disk is full, and sqlx goes on counting that transaction: the
                // connection is of no use any more.
                Err(sqlx::Error::InvalidSavePointStatement) => {
                    self.write.acquire().await?.close().await?;
                    self.write.begin_with(BEGIN).await?
                }
                begun => begun?,
            },
            Dialect::Postgres => self.write.begin().await?,
        };
        Ok(Tx { inner, writes: Writes::default(), dialect: self.dialect, step })
    }

    /// The same, for a transaction that locks rows while something slow is done outside of the database, so that no other
    /// process takes them meanwhile. `None` on SQLite, which has one process, and whose one writer must not wait.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    pub async fn begin_taking(&self, step: &'static str) -> Result<Option<Tx>> {
        match self.dialect {
            Dialect::Sqlite => Ok(None),
            Dialect::Postgres => self.begin(step).await.map(Some),
        }
    }

    /// Closes all connections, which leaves one file behind on SQLite; waits a little for those in use.
    pub async fn close(&self) {
        let closed = futures::future::join(self.read.close(), self.write.close());
        if tokio::time::timeout(Duration::from_secs(2), closed).await.is_err() {
            tracing::warn!("database connections were still in use");
        }
    }
}

/// Refuses a file that does not exist, which opening would create.
///
/// # Errors
///
/// [`Error::Missing`].
pub fn ensure_exists(url: &SecretString) -> Result<()> {
    match sqlite_file(url) {
        Some(file) if !Path::new(file).exists() => Err(Error::Missing { file: file.to_owned() }),
        _ => Ok(()),
    }
}

/// The file of a SQLite database.
fn sqlite_file(url: &SecretString) -> Option<&str> {
    let path = url.expose_secret().strip_prefix("sqlite:")?.trim_start_matches("//");
    path.split('?').next()
}

async fn create_folder_of(file: &Path) -> Result<()> {
    let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    let failed = |source| Error::Create { path: folder.display().to_string(), source };
    tokio::fs::create_dir_all(folder).await.map_err(failed)
}

/// A deferred transaction that begins with a read could not wait for its turn to write.
const BEGIN: &str = "begin immediate";

const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that came back so short a while ago, when the pool last asked whether it is there, is not asked again: that
/// would be one more call to the database for each transaction and each read. One that is lost meanwhile fails its next user,
/// as it would have a little later.
const FRESH: Duration = Duration::from_secs(1);

/// So many connections at most, each with these settings, and asked whether it is there unless it is [`FRESH`].
fn pool_of(connections: u32, settings: &'static str) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _| Box::pin(async move { connection.execute(settings).await.map(drop) }))
        .test_before_acquire(false)
        .before_acquire(|connection, metadata| {
            Box::pin(async move {
                if metadata.idle_for >= FRESH {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
}

/// A process that hangs with a lock in its hand does not hang the others. Plans are made for tables as they are: one that
/// was made while a table was empty, and is kept, reads all of it for each batch later on. No statement takes more than
/// one core from the others, as counting the queue would when it is long. And pages that a connection writes to tables, to
/// make room in the server's buffers, go to the disk soon, where the server can be told so: else a checkpoint ends with all of
/// them at once, and commits wait for that.
const POSTGRES_SETTINGS: &str = "set statement_timeout = '30s'; set lock_timeout = '10s'; \
                                 set idle_in_transaction_session_timeout = '30s'; \
                                 set plan_cache_mode = force_custom_plan; set max_parallel_workers_per_gather = 0; \
                                 select set_config(name, '256kB', false) from pg_settings where name = 'backend_flush_after';";

const SQLITE_PRAGMAS: &str = "pragma busy_timeout = 5000; pragma journal_mode = wal; pragma synchronous = full; \
                              pragma foreign_keys = on;";

/// Reads a column through the parser of its type.
///
/// # Errors
///
/// [`Error::Corrupt`] when the stored text breaks a rule of the type.
pub fn parse<T>(row: &AnyRow, column: &'static str) -> Result<T>
where
    T: FromStr<Err: std::fmt::Display>,
{
    corrupt(column, row.try_get::<String, _>(column)?.parse())
}

/// The same for a column that may be null.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_option<T>(row: &AnyRow, column: &'static str) -> Result<Option<T>>
where
    T: FromStr<Err: std::fmt::Display>,
{
    row.try_get::<Option<String>, _>(column)?.map(|text| corrupt(column, text.parse())).transpose()
}

/// Reads a column of microseconds since the Unix epoch.
///
/// # Errors
///
/// When the row has no such column.
pub fn time(row: &AnyRow, column: &'static str) -> Result<chrono::DateTime<chrono::Utc>> {
    Ok(crate::clock::from_micros(row.try_get(column)?))
}

/// Reads a count or an amount, which is never negative.
///
/// # Errors
///
/// [`Error::Corrupt`] when it is.
pub fn unsigned(row: &AnyRow, column: &'static str) -> Result<u64> {
    corrupt(column, u64::try_from(row.try_get::<i64, _>(column)?))
}

/// Names the column whose stored value breaks a rule.
///
/// # Errors
///
/// [`Error::Corrupt`] in place of any error.
pub fn corrupt<T, E: std::fmt::Display>(column: &'static str, value: Result<T, E>) -> Result<T> {
    value.map_err(|error| Error::Corrupt { column, reason: error.to_string() })
}
