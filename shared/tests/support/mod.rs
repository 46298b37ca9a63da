//! Databases with the campaign service's schema: of a test's own, on SQLite and on PostgreSQL.

use secrecy::SecretString;
use shared::db::{self, Database};
use sqlx::migrate::Migrator;
use tempfile::TempDir;

static MIGRATIONS: Migrator = sqlx::migrate!("../campaign/migrations");

/// Runs each of these tests, functions of a [`Place`], on both databases.
macro_rules! on_both_databases {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::support::Place::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test]
            async fn $test() {
                super::$test(super::support::Place::postgres().await).await;
            })*
        }
    };
}
pub(crate) use on_both_databases;

/// Where an empty database is, for as long as this value lives.
pub(crate) struct Place {
    url: SecretString,
    _folder: Option<TempDir>,
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}/new/folder/shared.db", folder.path().display()).into();
        Self { url, _folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Self {
        let server = testkit::Postgres::shared().await.unwrap();
        Self { url: server.create_database("shared").await.unwrap().into(), _folder: None }
    }

    /// Opens the database, as one more process would.
    pub(crate) async fn open(&self) -> Database {
        self.open_with(&MIGRATIONS).await.unwrap()
    }

    /// Opens the database with another program's schema.
    pub(crate) async fn open_with(&self, migrations: &Migrator) -> db::Result<Database> {
        Database::open(&self.url, migrations).await
    }
}

/// Runs one statement in a transaction of its own.
pub(crate) async fn change(database: &Database, statement: &'static str) {
    let mut tx = database.begin().await.unwrap();
    sqlx::query(statement).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}
