//! Grants that were published again as often as is allowed and have no result: list them, set them going again.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde::Serialize;
use shared::http::fields::{Fields, Limit};
use shared::http::{Error, Problem};
use utoipa::{IntoParams, ToSchema};

use super::grant::{not_found, parse_request_id};
use super::status::Cursor;
use crate::domain::Grant;
use crate::republisher::Republisher;
use crate::store::{Page, Store, WhichGrants};

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
struct Query {
    /// At most so many grants, newest first.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Grants that need attention.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NeedsAttention {
    /// How many there are, on whichever page.
    total: u64,
    /// Newest first.
    grants: Vec<Grant>,
    /// Ask for the next page with this as `cursor`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// List the grants that need attention.
///
/// Their requests were published as often as is allowed, and no result came. They may still be paid.
#[utoipa::path(
    get,
    path = "/needs-attention",
    operation_id = "needsAttention",
    tag = "grants",
    params(Query),
    responses(
        (status = 200, description = "The grants, newest first.", body = NeedsAttention),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(State(store): State<Store>, uri: Uri) -> Result<Json<NeedsAttention>, Error> {
    let mut fields = Fields::from_query(&uri)?;
    let limit = fields.optional_number("limit").unwrap_or(Limit(50)).0;
    let cursor = fields.optional::<Cursor>("cursor");
    fields.finish()?;

    // One more than asked for tells whether there is another page.
    let page = Page { limit: limit + 1, before: cursor.map(|cursor| cursor.0) };
    let mut grants = store.needing_attention(page).await?;
    let more = grants.len() > usize::from(limit);
    grants.truncate(limit.into());
    let next_cursor = grants.last().filter(|_| more).map(|last| last.grant_index.to_string());
    let total = store.open_grants().await?.needing_attention;
    Ok(Json(NeedsAttention { total, grants, next_cursor }))
}

/// Set a grant that needs attention going again.
///
/// Its request is published again, and as often as is allowed until there is a result. A grant that does not need
/// attention is left alone: the answer is the grant as it stands.
#[utoipa::path(
    post,
    path = "/grants/{request_id}/republish",
    operation_id = "republishGrant",
    tag = "grants",
    params(("request_id" = String, Path, description = "The grant's `request_id`.")),
    responses(
        (status = 200, description = "The grant as it stands now.", body = Grant),
        (status = 400, description = "That can be no request id.", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such grant.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same request again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn republish_one(
    State(store): State<Store>,
    State(republisher): State<Arc<Republisher>>,
    request_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Grant>, Error> {
    let request_id = parse_request_id(request_id)?;
    republisher.set_going(WhichGrants::One(&request_id)).await?;
    Ok(Json(store.grant(&request_id).await?.ok_or_else(|| not_found(&request_id))?))
}

/// What was set going again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Republished {
    /// How many grants were set going again by this call.
    republished: usize,
    /// How many still need attention: send the same request again for the next 500.
    remaining: u64,
}

/// Set all grants that need attention going again, up to 500 with one request.
#[utoipa::path(
    post,
    path = "/needs-attention/republish",
    operation_id = "republishAll",
    tag = "grants",
    responses(
        (status = 200, description = "How many were set going again.", body = Republished),
        (status = 400, description = "The request cannot be read.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same request again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn republish_all(
    State(store): State<Store>,
    State(republisher): State<Arc<Republisher>>,
    uri: Uri,
) -> Result<Json<Republished>, Error> {
    Fields::from_query(&uri)?.finish()?;
    let grants = republisher.set_going(WhichGrants::All).await?;
    let remaining = store.open_grants().await?.needing_attention;
    Ok(Json(Republished { republished: grants, remaining }))
}
