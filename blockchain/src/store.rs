//! The blockchain service's tables: the only module with SQL of payments and transactions.
//!
//! Three transactions carry a payment through: [`Store::receive`] queues it, [`Store::assign`] binds it to a nonce
//! together with the signed bytes, [`Store::settle`] ends it. Each commits the messages that announce it.

mod audit;
mod chain_payments;
mod claims;
mod kill_switch;
mod lane;
mod progress;
mod receive;
mod seen_ledger;
mod settle;
mod stats;
mod transactions;

pub use audit::LedgerPayment;
pub use chain_payments::{Cursor, Place, Source, Span};
pub use claims::{ClaimRoot, Publication};
pub use kill_switch::{KillSwitch, SwitchSource};
pub use lane::{Lane, LaneId};
pub use receive::Received;
use secrecy::SecretString;
pub use seen_ledger::SeenLedger;
pub use settle::{Ended, Settlement, Verdict};
use shared::db::{self, Database};
use shared::event::Terms;
use shared::id::WalletAddress;
use sqlx::Row;
use sqlx::any::AnyRow;
pub use stats::{InFlight, Queue, Tally};
pub use transactions::{NewTransaction, Reopened, Taken};

use crate::domain::Payment;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// What wakes the submitters of all processes: there are payments to send.
pub const QUEUE_CHANNEL: &str = "payment_queue";

/// The store; clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens the store, bringing its schema up to date.
    ///
    /// # Errors
    ///
    /// When the database cannot be reached or read.
    pub async fn open(url: &SecretString) -> db::Result<Self> {
        Ok(Self { database: Database::open(url, &MIGRATIONS).await? })
    }

    /// The database below, for the outbox.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }
}

/// The columns that [`payment`] reads, from a table or alias `p`.
macro_rules! payment_columns {
    () => {
        "p.request_id, p.grant_id, p.user_id, p.campaign_id, p.recipient, p.token_amount, p.traceparent,
         p.requested_at, p.priority, p.expires_at, p.finality"
    };
}
use payment_columns;

fn payment(row: &AnyRow) -> db::Result<Payment> {
    Ok(Payment {
        request_id: db::parse(row, "request_id")?,
        grant_id: db::parse(row, "grant_id")?,
        user_id: db::parse(row, "user_id")?,
        campaign_id: db::parse(row, "campaign_id")?,
        recipient: db::parse::<WalletAddress>(row, "recipient")?,
        token_amount: db::corrupt("token_amount", row.try_get::<i64, _>("token_amount")?.try_into())?,
        requested_at: db::time(row, "requested_at")?,
        trace: db::parse_option(row, "traceparent")?,
        terms: Terms {
            priority: db::corrupt("priority", row.try_get::<i64, _>("priority")?.try_into())?,
            expires_at: row.try_get::<Option<i64>, _>("expires_at")?.map(shared::clock::from_micros),
            finality: db::parse_option(row, "finality")?,
            ..Terms::default()
        },
    })
}

fn keys<'a>(payments: impl IntoIterator<Item = &'a Payment>) -> String {
    db::keys(payments.into_iter().map(|payment| &payment.request_id))
}
