//! What people ask about grants.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use shared::db;
use shared::id::{CampaignId, RequestId, UserId};
use sqlx::Row;
use utoipa::ToSchema;

use super::{Store, grant, grant_columns};
use crate::domain::{Grant, State};

/// Which part of a user's grants to list, newest first.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// At most so many.
    pub limit: u16,
    /// Only those numbered below this.
    pub before: Option<u64>,
}

impl Page {
    /// The number that every grant of the page is below.
    fn below(self) -> i64 {
        self.before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX))
    }
}

/// A user's tokens, added up over all the grants that match.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Totals {
    /// How many grants there are.
    pub grants: u64,
    /// Whole tokens of all grants.
    pub tokens: u64,
    /// Whole tokens that are on chain.
    pub tokens_completed: u64,
    /// Whole tokens on their way.
    pub tokens_pending: u64,
    /// Whole tokens of failed grants.
    pub tokens_failed: u64,
}

/// A line of a grant's history.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct GrantEvent {
    /// What happened: `requested`, `submitted`, `completed`, `failed`, `published_again` or
    /// `needs_attention`.
    #[schema(example = "completed")]
    pub kind: String,
    /// When, UTC.
    pub at: DateTime<Utc>,
    /// The details, by name.
    #[schema(value_type = Object)]
    pub data: Value,
}

impl Store {
    /// A user's grants, newest first.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn grants_of(&self, user: &UserId, campaign: Option<&CampaignId>, page: Page) -> db::Result<Vec<Grant>> {
        let rows = sqlx::query(concat!(
            "-- store::grants_of\n select ",
            grant_columns!(),
            " from token_grant g where g.user_id = $1 and ($2 = '' or g.campaign_id = $2) and g.grant_index < $3
               order by g.grant_index desc limit $4"
        ))
        .bind(user.as_str())
        .bind(campaign.map_or("", CampaignId::as_str))
        .bind(page.below())
        .bind(i64::from(page.limit))
        .fetch_all(self.database().reader())
        .await?;
        rows.iter().map(grant).collect()
    }

    /// The grants that need attention, newest first.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn needing_attention(&self, page: Page) -> db::Result<Vec<Grant>> {
        let rows = sqlx::query(concat!(
            "-- store::needing_attention\n select ",
            grant_columns!(),
            " from token_grant g where g.needs_attention_since is not null and g.grant_index < $1
               order by g.grant_index desc limit $2"
        ))
        .bind(page.below())
        .bind(i64::from(page.limit))
        .fetch_all(self.database().reader())
        .await?;
        rows.iter().map(grant).collect()
    }

    /// Up to `limit` grants of all users, in the order of their numbers; only those numbered above `after`.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn grants_after(&self, after: Option<u64>, limit: u16) -> db::Result<Vec<Grant>> {
        let rows = sqlx::query(concat!(
            "-- store::grants_after\n select ",
            grant_columns!(),
            " from token_grant g where g.grant_index > $1 order by g.grant_index limit $2"
        ))
        .bind(after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX)))
        .bind(i64::from(limit))
        .fetch_all(self.database().reader())
        .await?;
        rows.iter().map(grant).collect()
    }

    /// A user's tokens.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn totals_of(&self, user: &UserId, campaign: Option<&CampaignId>) -> db::Result<Totals> {
        let rows = sqlx::query(
            "-- store::totals_of
             select state, count(*) as grants, cast(sum(token_amount) as bigint) as tokens from token_grant
             where user_id = $1 and ($2 = '' or campaign_id = $2) group by state",
        )
        .bind(user.as_str())
        .bind(campaign.map_or("", CampaignId::as_str))
        .fetch_all(self.database().reader())
        .await?;
        let mut totals = Totals::default();
        for row in &rows {
            let tokens = db::unsigned(row, "tokens")?;
            totals.grants += db::unsigned(row, "grants")?;
            totals.tokens += tokens;
            *match db::parse(row, "state")? {
                State::Completed => &mut totals.tokens_completed,
                State::Failed => &mut totals.tokens_failed,
                State::Requested | State::Submitted => &mut totals.tokens_pending,
            } += tokens;
        }
        Ok(totals)
    }

    /// One grant.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn grant(&self, request_id: &RequestId) -> db::Result<Option<Grant>> {
        let row = sqlx::query(concat!(
            "-- store::grant\n select ",
            grant_columns!(),
            " from token_grant g where g.request_id = $1"
        ))
        .bind(request_id.as_str())
        .fetch_optional(self.database().reader())
        .await?;
        row.as_ref().map(grant).transpose()
    }

    /// What happened to a grant, in order.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn events_of(&self, request_id: &RequestId) -> db::Result<Vec<GrantEvent>> {
        let rows = sqlx::query(
            "-- store::events_of\n select kind, at, data from grant_event where request_id = $1 order by id",
        )
        .bind(request_id.as_str())
        .fetch_all(self.database().reader())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(GrantEvent {
                    kind: row.try_get("kind")?,
                    at: db::time(row, "at")?,
                    data: db::corrupt("data", serde_json::from_str(&row.try_get::<String, _>("data")?))?,
                })
            })
            .collect()
    }
}
