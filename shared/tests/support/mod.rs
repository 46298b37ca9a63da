//! Databases with the campaign service's schema.

use shared::db::Database;
use sqlx::migrate::Migrator;
use testkit::Place;

static MIGRATIONS: Migrator = sqlx::migrate!("../campaign/migrations");

/// Opens the database, as one more process would.
pub(crate) async fn open(place: &Place) -> Database {
    Database::open(&place.url().into(), &MIGRATIONS).await.unwrap()
}

/// Runs one statement in a transaction of its own.
pub(crate) async fn change(database: &Database, statement: &'static str) {
    let mut tx = database.begin("test").await.unwrap();
    sqlx::query(statement).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}
