//! The campaign service's tables: the only module with SQL of grants.
//!
//! Everything that changes a grant commits its event and its outbox row in the same transaction.

mod accept;
mod queries;
mod republish;
mod results;

use chrono::{DateTime, Utc};
pub use queries::{GrantEvent, Page, Totals};
pub use republish::{Open, Republished, WhichGrants};
pub use results::Applied;
use secrecy::SecretString;
use serde::Serialize;
use shared::db::{self, Database, Tx};
use shared::id::{Issuer, RequestId};
use shared::random::{self, ascending_uuid};
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::domain::{Grant, GrantRequest};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// The store; clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    database: Database,
    issuer: Issuer,
}

impl Store {
    /// Opens the store, bringing its schema up to date and drawing its issuer where it is new.
    ///
    /// # Errors
    ///
    /// When the database cannot be reached or read.
    pub async fn open(url: &SecretString) -> db::Result<Self> {
        let database = Database::open(url, &MIGRATIONS).await?;
        let mut tx = database.begin("open").await?;
        sqlx::query(
            "-- store::draw_issuer
             insert into deployment (singleton, issuer, next_grant_index) values (1, $1, 0)
             on conflict (singleton) do nothing",
        )
        .bind(random::number().cast_signed())
        .execute(&mut *tx)
        .await?;
        let row = sqlx::query("-- store::issuer\n select issuer from deployment").fetch_one(&mut *tx).await?;
        tx.commit().await?;
        let issuer = Issuer::new(row.try_get::<i64, _>("issuer")?.cast_unsigned());
        Ok(Self { database, issuer })
    }

    /// The database below, for the outbox.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Whose numbering this store's grant indexes belong to.
    #[must_use]
    pub fn issuer(&self) -> Issuer {
        self.issuer
    }
}

/// The columns that [`grant`] reads, from a table or alias `g`.
macro_rules! grant_columns {
    () => {
        "g.request_id, g.grant_index, g.user_id, g.campaign_id, g.wallet_address, g.token_amount, g.state,
         g.transaction_hash, g.block_number, g.error_code, g.error_message, g.retry_count, g.round_began,
         g.needs_attention_since, g.traceparent, g.requested_at, g.updated_at, g.completed_at"
    };
}
use grant_columns;

fn grant(row: &AnyRow) -> db::Result<Grant> {
    let time = |column| Ok::<_, db::Error>(row.try_get::<Option<i64>, _>(column)?.map(shared::clock::from_micros));
    Ok(Grant {
        request_id: db::parse(row, "request_id")?,
        grant_index: db::unsigned(row, "grant_index")?,
        request: GrantRequest {
            user_id: db::parse(row, "user_id")?,
            campaign_id: db::parse(row, "campaign_id")?,
            wallet_address: db::parse_option(row, "wallet_address")?,
            token_amount: db::corrupt("token_amount", row.try_get::<i64, _>("token_amount")?.try_into())?,
        },
        token_type: shared::event::TokenType::Erc20,
        state: db::parse(row, "state")?,
        transaction_hash: row.try_get("transaction_hash")?,
        block_number: row.try_get::<Option<i64>, _>("block_number")?.map(i64::cast_unsigned),
        error_code: row.try_get("error_code")?,
        error_message: row.try_get("error_message")?,
        retry_count: db::corrupt("retry_count", u32::try_from(row.try_get::<i64, _>("retry_count")?))?,
        round_began: db::corrupt("round_began", u32::try_from(row.try_get::<i64, _>("round_began")?))?,
        needs_attention_since: time("needs_attention_since")?,
        trace: db::parse_option(row, "traceparent")?,
        requested_at: db::time(row, "requested_at")?,
        updated_at: db::time(row, "updated_at")?,
        completed_at: time("completed_at")?,
    })
}

/// One element of `json_each($1)` where a query needs request ids alone.
#[derive(Debug, Serialize)]
struct Key<'a> {
    request_id: &'a RequestId,
}

/// A line of a grant's history, about to be written.
#[derive(Debug, Serialize)]
struct NewEvent<'a> {
    id: String,
    request_id: &'a RequestId,
    kind: &'static str,
    at: i64,
    data: String,
}

impl<'a> NewEvent<'a> {
    fn new(request_id: &'a RequestId, kind: &'static str, at: DateTime<Utc>, data: &serde_json::Value) -> Self {
        Self { id: ascending_uuid(at).to_string(), request_id, kind, at: at.timestamp_micros(), data: data.to_string() }
    }
}

/// Adds lines to grants' histories; one that stands there already, to the letter, is not repeated.
async fn record(tx: &mut Tx, events: &[NewEvent<'_>]) -> db::Result<()> {
    sqlx::query(
        "-- store::record
         insert into grant_event (id, request_id, kind, at, data)
         select value->>'id', value->>'request_id', value->>'kind', cast(value->>'at' as bigint), value->>'data'
         from json_each($1)
         where not exists (select 1 from grant_event e where e.request_id = value->>'request_id'
                                                         and e.kind = value->>'kind' and e.data = value->>'data')",
    )
    .bind(db::rows(events))
    .execute(&mut **tx)
    .await?;
    Ok(())
}
