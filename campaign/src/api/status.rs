//! `GET /status`: where a user's grants stand.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::http::fields::{Fields, Limit, Time};
use shared::http::{Error, Problem};
use shared::id::{CampaignId, UserId};
use utoipa::{IntoParams, ToSchema};

use crate::domain::Grant;
use crate::store::{Page, Store, Totals};

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
struct Query {
    /// Whose grants.
    #[param(min_length = 1, max_length = 128, example = "alice")]
    user_id: String,
    /// Only those of this campaign.
    #[param(min_length = 1, max_length = 128, example = "summer")]
    campaign_id: Option<String>,
    /// At most so many grants, newest first.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// As they stood at this time, UTC.
    at: Option<DateTime<Utc>>,
}

/// Where a user's grants stand.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Status {
    /// Whose grants.
    #[schema(value_type = String)]
    user_id: UserId,
    /// Over all grants that match, on whichever page.
    totals: Totals,
    /// Newest first.
    grants: Vec<Grant>,
    /// Ask for the next page with this as `cursor`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Show where a user's grants stand, or stood at an earlier time.
///
/// A user whom nobody has seen has an empty list.
#[utoipa::path(
    get,
    path = "/status",
    operation_id = "userStatus",
    tag = "grants",
    params(Query),
    responses(
        (status = 200, description = "The user's grants, newest first, and their tokens.", body = Status),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(State(store): State<Store>, uri: Uri) -> Result<Json<Status>, Error> {
    let mut fields = Fields::from_query(&uri)?;
    let user_id = fields.required::<UserId>("user_id");
    let campaign_id = fields.optional::<CampaignId>("campaign_id");
    let limit = fields.optional_number("limit").unwrap_or(Limit(50));
    let cursor = fields.optional::<Cursor>("cursor");
    let at = fields.optional::<Time>("at").map(|Time(at)| at);
    fields.finish()?;
    let Some(user_id) = user_id else { return Err(Problem::malformed(StatusCode::BAD_REQUEST).into()) };

    // One more than asked for tells whether there is another page.
    let page = Page { limit: limit.0 + 1, before: cursor.map(|cursor| cursor.0) };
    let campaign = campaign_id.as_ref();
    let (mut grants, totals) = match at {
        None => (store.grants_of(&user_id, campaign, page).await?, store.totals_of(&user_id, campaign).await?),
        Some(at) => store.status_at(&user_id, campaign, page, at).await?,
    };
    let more = grants.len() > usize::from(limit.0);
    grants.truncate(limit.0.into());
    let next_cursor = grants.last().filter(|_| more).map(|last| last.grant_index.to_string());
    Ok(Json(Status { user_id, totals, grants, next_cursor }))
}

/// `grant_index` of the last grant of a page.
pub(super) struct Cursor(pub(super) u64);

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "must be the next_cursor of an earlier answer")
    }
}
