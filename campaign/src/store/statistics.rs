//! What is counted of campaigns and transactions: kept up to date with each change, cheap to read.

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db;
use shared::id::CampaignId;
use sqlx::Row;
use utoipa::ToSchema;

use super::Store;
use crate::domain::campaign::Campaign;
use crate::latency::{Bucket, quantile};

/// What has become of a campaign.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Statistics {
    /// Which one.
    #[schema(value_type = String)]
    pub campaign_id: CampaignId,
    /// Grants that were accepted.
    pub requested: u64,
    /// Grants under way.
    pub pending: u64,
    /// Grants that were paid.
    pub completed: u64,
    /// Grants that will not be paid: failed, expired, cancelled.
    pub failed: u64,
    /// Users that ever had a grant.
    pub distinct_users: u64,
    /// Whole tokens that all grants together may pay; absent for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// Whole tokens of grants under way.
    pub reserved: u64,
    /// Whole tokens that were paid.
    pub spent: u64,
    /// Whole tokens that may still be promised; absent for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_left: Option<u64>,
    /// Grants that were accepted in the last full minute.
    pub requested_last_minute: u64,
    /// Grants that were paid in the last full minute.
    pub completed_last_minute: u64,
    /// Grants that were paid, per minute, over the last hour.
    pub completed_per_minute: f64,
    /// From request to completion, on average; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_seconds_to_mint: Option<f64>,
    /// 99 of 100 grants took no longer, within 3 %; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_seconds_to_mint: Option<f64>,
    /// Gas that the payments took.
    pub gas_used: u64,
    /// What it cost, in wei: decimal digits, since it may have more than 64 bits.
    #[schema(value_type = String, pattern = "^[0-9]+$")]
    pub fee_wei: String,
    /// What a paid grant cost, in wei, rounded down; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_wei_per_grant: Option<String>,
    /// When anything last happened to one of its grants, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_activity: Option<DateTime<Utc>>,
}

/// Where a campaign's part of a transaction stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransactionState {
    /// It was sent.
    Submitted,
    /// It is in a block that is not final yet.
    Confirmed,
    /// All of its grants have ended, and it has paid at least one.
    Completed,
    /// None of its grants is in it any more: another transaction took its place, or they failed.
    Replaced,
}

impl TransactionState {
    /// The word that is shown, and asked for.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Confirmed => "confirmed",
            Self::Completed => "completed",
            Self::Replaced => "replaced",
        }
    }
}

impl std::str::FromStr for TransactionState {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Submitted, Self::Confirmed, Self::Completed, Self::Replaced]
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or("must be submitted, confirmed, completed or replaced")
    }
}

/// A campaign's part of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TransactionShare {
    /// The transaction.
    #[schema(pattern = "^0x[0-9a-f]{64}$")]
    pub transaction_hash: String,
    /// The campaign.
    #[schema(value_type = String)]
    pub campaign_id: CampaignId,
    /// Where it stands.
    pub state: TransactionState,
    /// How many of the campaign's grants are in it; those that failed are not.
    pub grants: u64,
    /// How many of them it has paid.
    pub completed: u64,
    /// Whole tokens of the grants in it.
    pub tokens: u64,
    /// Gas of those it has paid.
    pub gas_used: u64,
    /// What a unit of gas cost, in wei, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gas_price: Option<u64>,
    /// Its block, once it is in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_number: Option<u64>,
    /// When it was first heard of, UTC.
    pub first_seen_at: DateTime<Utc>,
    /// When it was last heard of, UTC.
    pub last_seen_at: DateTime<Utc>,
}

/// Which transactions to list, newest first.
#[derive(Debug, Clone, Default)]
pub struct TransactionPage {
    /// Only of this campaign.
    pub campaign_id: Option<CampaignId>,
    /// Only those that stand there.
    pub state: Option<TransactionState>,
    /// Only those first heard of at this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Only those first heard of before this time.
    pub until: Option<DateTime<Utc>>,
    /// Only those behind this place: time, transaction and campaign.
    pub after: Option<(DateTime<Utc>, String, CampaignId)>,
    /// At most so many.
    pub limit: u16,
}

impl Store {
    /// What has become of a campaign.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn statistics(&self, campaign: &Campaign, now: DateTime<Utc>) -> db::Result<Statistics> {
        let campaign_id = &campaign.campaign_id;
        let minute = now.timestamp().div_euclid(60);
        let minutes = sqlx::query(
            "-- store::campaign_minutes
             select minute, requested, completed from campaign_minute
             where campaign_id = $1 and minute >= $2 and minute < $3",
        )
        .bind(campaign_id.as_str())
        .bind(minute - 60)
        .bind(minute)
        .fetch_all(self.database.reader())
        .await?;
        let (mut last, mut completed) = ([0, 0], 0);
        for row in &minutes {
            let counts = [db::unsigned(row, "requested")?, db::unsigned(row, "completed")?];
            completed += counts[1];
            if row.try_get::<i64, _>("minute")? == minute - 1 {
                last = counts;
            }
        }
        let latencies = sqlx::query(
            "-- store::campaign_latencies
             select bucket, grants from campaign_latency where campaign_id = $1 order by bucket",
        )
        .bind(campaign_id.as_str())
        .fetch_all(self.database.reader())
        .await?;
        let mut counts = Vec::with_capacity(latencies.len());
        for row in &latencies {
            let bucket = db::corrupt("bucket", u16::try_from(row.try_get::<i64, _>("bucket")?))?;
            counts.push((Bucket::numbered(bucket), db::unsigned(row, "grants")?));
        }
        let minted: u64 = counts.iter().map(|(_, grants)| grants).sum();
        let tally = &campaign.tally;
        #[expect(clippy::cast_precision_loss, reason = "a mean need not be exact")]
        let (mean, per_minute) = (tally.mint_micros as f64 / 1e6 / minted as f64, completed as f64 / 60.0);
        Ok(Statistics {
            campaign_id: campaign_id.clone(),
            requested: tally.grants,
            pending: tally.grants.saturating_sub(tally.completed + tally.failed),
            completed: tally.completed,
            failed: tally.failed,
            distinct_users: tally.users,
            budget: campaign.spec.budget,
            reserved: tally.reserved,
            spent: tally.spent,
            budget_left: campaign.budget_left(),
            requested_last_minute: last[0],
            completed_last_minute: last[1],
            completed_per_minute: per_minute,
            mean_seconds_to_mint: (minted > 0).then_some(mean),
            p99_seconds_to_mint: quantile(&counts, 0.99).map(|duration| duration.as_secs_f64()),
            gas_used: tally.gas_used,
            fee_wei: tally.fee.to_string(),
            fee_wei_per_grant: tally.fee.checked_div(u128::from(tally.completed)).map(|fee| fee.to_string()),
            last_activity: tally.last_activity,
        })
    }

    /// Campaigns' parts of transactions, newest first.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn transactions(&self, page: &TransactionPage) -> db::Result<Vec<TransactionShare>> {
        macro_rules! state {
            () => {
                "case when t.grants = 0 then 'replaced'
                      when t.completed = t.grants then 'completed'
                      when t.block_number is not null then 'confirmed'
                      else 'submitted' end"
            };
        }
        // Each has the index that serves it, as in `grants_after`.
        macro_rules! transactions {
            ($condition:literal) => {
                concat!(
                    "-- store::transactions
                     select t.transaction_hash, t.campaign_id, ",
                    state!(),
                    " as state, t.grants, t.completed, t.tokens, t.gas_used, t.gas_price, t.block_number,
                      t.first_seen_at, t.last_seen_at
                      from campaign_transaction t
                      where ",
                    $condition,
                    " and ($2 = '' or ",
                    state!(),
                    " = $2) and t.first_seen_at >= $3 and t.first_seen_at < $4
                        and (t.first_seen_at < $5 or t.first_seen_at = $5 and (t.transaction_hash < $6
                             or t.transaction_hash = $6 and t.campaign_id < $7))
                      order by t.first_seen_at desc, t.transaction_hash desc, t.campaign_id desc limit $8"
                )
            };
        }
        let sql = match page.campaign_id {
            Some(_) => transactions!("t.campaign_id = $1"),
            None => transactions!("$1 = ''"),
        };
        let micros = |at: Option<DateTime<Utc>>, or: i64| at.map_or(or, |at| at.timestamp_micros());
        let (at, hash, campaign) = match &page.after {
            Some((at, hash, campaign)) => (at.timestamp_micros(), hash.as_str(), campaign.as_str()),
            None => (i64::MAX, "", ""),
        };
        let rows = sqlx::query(sql)
            .bind(page.campaign_id.as_ref().map_or("", CampaignId::as_str))
            .bind(page.state.map_or("", TransactionState::as_str))
            .bind(micros(page.from, i64::MIN))
            .bind(micros(page.until, i64::MAX))
            .bind(at)
            .bind(hash)
            .bind(campaign)
            .bind(i64::from(page.limit))
            .fetch_all(self.database.reader())
            .await?;
        rows.iter()
            .map(|row| {
                let state: String = row.try_get("state")?;
                Ok(TransactionShare {
                    transaction_hash: row.try_get("transaction_hash")?,
                    campaign_id: db::parse(row, "campaign_id")?,
                    state: db::corrupt("state", state.parse())?,
                    grants: db::unsigned(row, "grants")?,
                    completed: db::unsigned(row, "completed")?,
                    tokens: db::unsigned(row, "tokens")?,
                    gas_used: db::unsigned(row, "gas_used")?,
                    gas_price: row.try_get::<Option<i64>, _>("gas_price")?.map(i64::cast_unsigned),
                    block_number: row.try_get::<Option<i64>, _>("block_number")?.map(i64::cast_unsigned),
                    first_seen_at: db::time(row, "first_seen_at")?,
                    last_seen_at: db::time(row, "last_seen_at")?,
                })
            })
            .collect()
    }
}
