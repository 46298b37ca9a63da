//! `GET /grants`: the whole ledger, page by page, for whoever compares it with the chain.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;
use shared::http::fields::{Fields, Limit};
use shared::http::{Error, Problem};
use shared::id::Issuer;
use utoipa::{IntoParams, ToSchema};

use crate::domain::Grant;
use crate::store::Store;

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
struct Query {
    /// Only grants numbered above this: `next_after` of the page before.
    after: Option<u64>,
    /// At most so many grants.
    #[param(minimum = 1, maximum = 500, default = 500)]
    limit: Option<u16>,
}

/// A page of the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ledger {
    /// Whose numbering this is, 16 hexadecimal digits: `issuer << 64 | grant_index` is a grant's id on chain.
    #[schema(value_type = String, pattern = "^[0-9a-f]{16}$", example = "77c4068fe5ad4ab5")]
    issuer: Issuer,
    /// In the order of `grant_index`.
    grants: Vec<NumberedGrant>,
    /// Ask for the next page with this as `after`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_after: Option<u64>,
}

/// A grant and its number.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NumberedGrant {
    /// The grant's number. Numbers are never used twice, and a grant that is accepted later has a higher one.
    grant_index: u64,
    #[serde(flatten)]
    grant: Grant,
}

/// List all grants, in the order in which they were accepted.
#[utoipa::path(
    get,
    path = "/grants",
    operation_id = "ledger",
    tag = "grants",
    params(Query),
    responses(
        (status = 200, description = "A page of the ledger.", body = Ledger),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(State(store): State<Store>, uri: Uri) -> Result<Json<Ledger>, Error> {
    let mut fields = Fields::from_query(&uri)?;
    let after = fields.optional_number::<u64>("after");
    let Limit(limit) = fields.optional_number("limit").unwrap_or(Limit(500));
    fields.finish()?;

    // One more than asked for tells whether there is another page.
    let mut grants = store.grants_after(after, limit + 1).await?;
    let more = grants.len() > usize::from(limit);
    grants.truncate(limit.into());
    let next_after = grants.last().filter(|_| more).map(|last| last.grant_index);
    let grants = grants.into_iter().map(|grant| NumberedGrant { grant_index: grant.grant_index, grant }).collect();
    Ok(Json(Ledger { issuer: store.issuer(), grants, next_after }))
}
