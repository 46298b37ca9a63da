//! What people ask about grants.

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db;
use shared::id::{CampaignId, RequestId, UserId, WalletAddress};
use utoipa::ToSchema;

use super::{Store, grant, grant_columns};
use crate::domain::{Grant, Standing, State};

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
    pub(super) fn below(self) -> i64 {
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
    /// Whole tokens of grants that will not be paid: failed, expired, cancelled.
    pub tokens_failed: u64,
}

impl Totals {
    /// Adds grants that are in this state.
    pub(super) fn add(&mut self, state: State, grants: u64, tokens: u64) {
        self.grants += grants;
        self.tokens += tokens;
        *match state.standing() {
            Standing::Paid => &mut self.tokens_completed,
            Standing::Unpaid => &mut self.tokens_failed,
            Standing::UnderWay => &mut self.tokens_pending,
        } += tokens;
    }
}

/// Which grants to list.
#[derive(Debug, Clone, Default)]
pub struct GrantFilter {
    /// Only of this campaign.
    pub campaign_id: Option<CampaignId>,
    /// Only of this transaction.
    pub transaction_hash: Option<String>,
    /// Only those in this state.
    pub state: Option<State>,
}

/// A user's tokens of one kind that stand at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Holding {
    /// The token; absent for the one that the blockchain service pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^0x[0-9a-fA-F]{40}$")]
    pub token: Option<WalletAddress>,
    /// Where they stand.
    pub state: State,
    /// In how many grants.
    pub grants: u64,
    /// Whole tokens.
    pub tokens: u64,
    /// When anything last happened to one of these grants, UTC.
    pub last_activity: DateTime<Utc>,
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

    /// Up to `limit` grants of all users that match, in the order of their numbers; only those numbered above `after`.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn grants_after(&self, filter: &GrantFilter, after: Option<u64>, limit: u16) -> db::Result<Vec<Grant>> {
        // Each has the index that serves it; a text with all of them would have none.
        macro_rules! grants_after {
            ($condition:literal) => {
                concat!(
                    "-- store::grants_after\n select ",
                    grant_columns!(),
                    " from token_grant g where ",
                    $condition,
                    " and g.grant_index > $2 and ($3 = '' or g.campaign_id = $3) and ($4 = '' or g.state = $4)
                      order by g.grant_index limit $5"
                )
            };
        }
        let campaign = filter.campaign_id.as_ref().map_or("", CampaignId::as_str);
        let (sql, key) = match (&filter.transaction_hash, campaign) {
            (Some(hash), _) => (grants_after!("g.transaction_hash = $1"), hash.as_str()),
            (None, "") => (grants_after!("$1 = ''"), ""),
            (None, campaign) => (grants_after!("g.campaign_id = $1"), campaign),
        };
        let rows = sqlx::query(sql)
            .bind(key)
            .bind(after.map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX)))
            .bind(campaign)
            .bind(filter.state.map_or("", State::as_str))
            .bind(i64::from(limit))
            .fetch_all(self.database().reader())
            .await?;
        rows.iter().map(grant).collect()
    }

    /// A user's tokens, by token and state.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn holdings_of(&self, user: &UserId) -> db::Result<Vec<Holding>> {
        let rows = sqlx::query(
            "-- store::holdings_of
             select token, state, count(*) as grants, cast(sum(token_amount) as bigint) as tokens,
                    max(updated_at) as last_activity
             from token_grant where user_id = $1 group by token, state order by coalesce(token, ''), state",
        )
        .bind(user.as_str())
        .fetch_all(self.database().reader())
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Holding {
                    token: db::parse_option(row, "token")?,
                    state: db::parse(row, "state")?,
                    grants: db::unsigned(row, "grants")?,
                    tokens: db::unsigned(row, "tokens")?,
                    last_activity: db::time(row, "last_activity")?,
                })
            })
            .collect()
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
            totals.add(db::parse(row, "state")?, db::unsigned(row, "grants")?, db::unsigned(row, "tokens")?);
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
}
