//! The ledger as an audit reads it, page by page, and the one thing that an audit changes in it by itself.

use chrono::{DateTime, Utc};
use shared::clock::from_micros;
use shared::db;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{Store, keys, payment, payment_columns};
use crate::audit::Claim;
use crate::domain::{GrantId, Payment};

/// A payment of the ledger, and what the ledger says became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerPayment {
    /// The payment.
    pub payment: Payment,
    /// What became of it.
    pub claim: Claim,
    /// Since when.
    pub since: DateTime<Utc>,
}

impl Store {
    /// Up to `limit` payments of the ledger, in the order of their ids, behind one.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn ledger_after(&self, after: Option<GrantId>, limit: u16) -> db::Result<Vec<LedgerPayment>> {
        let rows = sqlx::query(concat!(
            "-- store::ledger_after\n select ",
            payment_columns!(),
            ", p.state, p.transaction_hash, p.block_number, p.received_at, p.finished_at, t.state as transaction_state
               from payment p left join chain_transaction t on t.id = p.transaction_id
               where p.grant_id > $1 order by p.grant_id limit $2"
        ))
        .bind(after.map(|id| id.to_string()).unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(self.database.reader())
        .await?;
        rows.iter()
            .map(|row| {
                let since = match row.try_get::<Option<i64>, _>("finished_at")? {
                    Some(finished_at) => finished_at,
                    None => row.try_get("received_at")?,
                };
                Ok(LedgerPayment { payment: payment(row)?, claim: claim(row)?, since: from_micros(since) })
            })
            .collect()
    }

    /// The block that holds, as far as the ledger knows, the payment `number` places behind the first one from `block` on.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn block_of_payment(&self, block: u64, number: u32) -> db::Result<Option<u64>> {
        let row = sqlx::query(
            "-- store::block_of_payment
             select block_number from payment where block_number >= $1 order by block_number limit 1 offset $2",
        )
        .bind(block.cast_signed())
        .bind(i64::from(number))
        .fetch_optional(self.database.reader())
        .await?;
        row.map(|row| db::unsigned(&row, "block_number")).transpose()
    }

    /// Puts payments back into the queue that have failed, or are assigned to a transaction which has ended without saying
    /// what became of them. Only for those that the chain has paid: whatever takes them from the queue completes them.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn requeue(&self, payments: &[Payment]) -> db::Result<()> {
        let mut tx = self.database.begin("audit_requeue").await?;
        let keys = keys(payments);
        sqlx::query(
            "-- store::count_failed_back
             update tally set failed_grants = failed_grants - (select count(*) from payment
                 where request_id in (select value->>0 from jsonb_each($1)) and state = 'failed')",
        )
        .bind(&keys)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "-- store::requeue
             update payment set state = 'queued', transaction_id = null, error_code = null, error_message = null,
                                finished_at = null
             where request_id in (select value->>0 from jsonb_each($1))
               and (state = 'failed'
                    or state = 'assigned' and not exists (select 1 from chain_transaction t
                                                          where t.id = payment.transaction_id and t.state = 'pending'))",
        )
        .bind(keys)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }
}

fn claim(row: &AnyRow) -> db::Result<Claim> {
    Ok(match row.try_get::<&str, _>("state")? {
        "completed" => Claim::Paid {
            transaction_hash: db::parse_option(row, "transaction_hash")?,
            block_number: row.try_get::<Option<i64>, _>("block_number")?.map(i64::cast_unsigned),
        },
        "failed" => Claim::Failed,
        "assigned" if row.try_get::<Option<String>, _>("transaction_state")?.as_deref() == Some("pending") => {
            Claim::UnderWay
        }
        _ => Claim::Waiting,
    })
}
