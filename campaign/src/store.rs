//! The campaign service's tables: the only module with SQL of grants and campaigns.
//!
//! The ledger is the truth. Whatever happens is an entry of it, and the tables that people read, and the messages that
//! announce it, are committed in the same transaction.

mod accept;
mod adopt;
mod campaigns;
mod claims;
mod history;
mod jobs;
mod ledger;
mod projection;
mod queries;
mod rebuild;
mod recent;
mod republish;
mod results;
mod statistics;
mod tell;

pub use accept::Policy;
pub use campaigns::{Change, KillSwitch};
pub use claims::{Claim, ClaimRoot, DueTree};
pub use jobs::{Job, Rejection};
pub use queries::{GrantFilter, Holding, Page, Totals};
pub use rebuild::{Difference, Rebuilt};
use recent::Memory;
pub use republish::{Cancellation, Open, Republished, WhichGrants};
pub use results::{Applied, Report};
use secrecy::SecretString;
use shared::db::{self, Database};
use shared::id::Issuer;
use shared::random;
use sqlx::Row;
use sqlx::any::AnyRow;
pub use statistics::{Statistics, TransactionPage, TransactionShare, TransactionState};

use crate::domain::{Grant, GrantRequest};

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// The store; clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    database: Database,
    issuer: Issuer,
    memory: Memory,
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
        let store = Self { database, issuer, memory: Memory::default() };
        store.adopt_what_was_before_the_ledger().await?;
        Ok(store)
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
         g.user_grant_number, g.terms, g.transaction_hash, g.block_number, g.error_code, g.error_message,
         g.retry_count, g.round_began, g.traceparent, g.requested_at, g.updated_at, g.completed_at, g.progressed_at,
         g.cancel_requested_at, g.publish_again_at, g.needs_attention_since"
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
        terms: db::corrupt("terms", serde_json::from_str(&row.try_get::<String, _>("terms")?))?,
        token_type: shared::event::TokenType::Erc20,
        user_grant_number: db::unsigned(row, "user_grant_number")?,
        state: db::parse(row, "state")?,
        transaction_hash: row.try_get("transaction_hash")?,
        block_number: row.try_get::<Option<i64>, _>("block_number")?.map(i64::cast_unsigned),
        error_code: row.try_get("error_code")?,
        error_message: row.try_get("error_message")?,
        retry_count: db::corrupt("retry_count", u32::try_from(row.try_get::<i64, _>("retry_count")?))?,
        round_began: db::corrupt("round_began", u32::try_from(row.try_get::<i64, _>("round_began")?))?,
        needs_attention_since: time("needs_attention_since")?,
        cancel_requested_at: time("cancel_requested_at")?,
        publish_again_at: time("publish_again_at")?,
        progressed_at: time("progressed_at")?,
        trace: db::parse_option(row, "traceparent")?,
        requested_at: db::time(row, "requested_at")?,
        updated_at: db::time(row, "updated_at")?,
        completed_at: time("completed_at")?,
    })
}
