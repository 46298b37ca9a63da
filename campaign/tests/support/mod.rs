//! A database of its own for each test: SQLite in a temporary folder, or one of the test server's PostgreSQL databases.

use campaign::domain::{Arrival, GrantRequest};
use campaign::store::Store;
use secrecy::SecretString;
use shared::telemetry::TraceParent;
use tempfile::TempDir;

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
        let url = format!("sqlite://{}/data/campaign.db", folder.path().display()).into();
        Self { url, _folder: Some(folder) }
    }

    pub(crate) async fn postgres() -> Self {
        let server = testkit::Postgres::shared().await.unwrap();
        Self { url: server.create_database("campaign").await.unwrap().into(), _folder: None }
    }

    /// Opens the store, as one more process would.
    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }
}

/// What a studio asks for, where nothing else matters.
pub(crate) fn request(user: &str, campaign: &str, tokens: i64) -> GrantRequest {
    GrantRequest {
        user_id: user.parse().unwrap(),
        campaign_id: campaign.parse().unwrap(),
        wallet_address: None,
        token_amount: tokens.try_into().unwrap(),
    }
}

/// The same as it arrives, under a key or none.
pub(crate) fn arrival(request: GrantRequest, key: Option<&str>) -> Arrival {
    Arrival { request, key: key.map(|key| key.parse().unwrap()), trace: TraceParent::new() }
}

/// How many rows the tables have that an accepted request writes to.
pub(crate) async fn row_counts(store: &Store) -> [i64; 4] {
    let count = async |query: &'static str| -> i64 {
        sqlx::query_scalar(query).fetch_one(store.database().reader()).await.unwrap()
    };
    [
        count("select count(*) from token_grant").await,
        count("select count(*) from grant_event").await,
        count("select count(*) from idempotency_key").await,
        count("select count(*) from outbox").await,
    ]
}
