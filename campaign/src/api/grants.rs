//! `GET /grants`: all grants, page by page or as a file, for whoever compares them with the chain.

use std::str::FromStr;

use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use axum::{Json, extract};
use serde::Serialize;
use shared::http::fields::{Fields, Limit};
use shared::http::{Error, Problem};
use shared::id::Issuer;
use utoipa::{IntoParams, ToSchema};

use super::export::{self, Format};
use crate::domain::{Grant, State};
use crate::store::{GrantFilter, Store};

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
struct Query {
    /// Only grants numbered above this: `next_after` of the page before.
    after: Option<u64>,
    /// At most so many grants.
    #[param(minimum = 1, maximum = 500, default = 500)]
    limit: Option<u16>,
    /// Only of this campaign.
    campaign_id: Option<String>,
    /// Only of this transaction.
    transaction_hash: Option<String>,
    /// Only those in this state.
    state: Option<State>,
    /// `json` for a page; `ndjson` or `csv` for everything that matches, as a file.
    format: Option<String>,
}

/// The columns of a file of grants.
const COLUMNS: &[&str] = &[
    "grant_index",
    "request_id",
    "user_id",
    "campaign_id",
    "wallet_address",
    "token_amount",
    "token_type",
    "state",
    "transaction_hash",
    "block_number",
    "error_code",
    "error_message",
    "retry_count",
    "requested_at",
    "updated_at",
    "completed_at",
];

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
        (status = 200, description = "A page of the ledger, or all that match as a file.", body = Ledger),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(extract::State(store): extract::State<Store>, uri: Uri) -> Result<Response, Error> {
    let mut fields = Fields::from_query(&uri)?;
    let after = fields.optional_number::<u64>("after");
    let Limit(limit) = fields.optional_number("limit").unwrap_or(Limit(500));
    let filter = GrantFilter {
        campaign_id: fields.optional("campaign_id"),
        transaction_hash: fields.optional::<Hash>("transaction_hash").map(|Hash(hash)| hash),
        state: fields.optional("state"),
    };
    let format = fields.optional("format").unwrap_or_default();
    fields.finish()?;
    if format != Format::Json {
        return Ok(export::stream(format, COLUMNS, after, move |after| {
            let (store, filter) = (store.clone(), filter.clone());
            async move {
                let grants = store.grants_after(&filter, after, export::PAGE).await?;
                let next = grants.last().map(|grant| Some(grant.grant_index));
                Ok((grants.into_iter().map(NumberedGrant::from).collect(), next))
            }
        }));
    }
    // One more than asked for tells whether there is another page.
    let mut grants = store.grants_after(&filter, after, limit + 1).await?;
    let more = grants.len() > usize::from(limit);
    grants.truncate(limit.into());
    let next_after = grants.last().filter(|_| more).map(|last| last.grant_index);
    let grants = grants.into_iter().map(NumberedGrant::from).collect();
    Ok(Json(Ledger { issuer: store.issuer(), grants, next_after }).into_response())
}

impl From<Grant> for NumberedGrant {
    fn from(grant: Grant) -> Self {
        Self { grant_index: grant.grant_index, grant }
    }
}

/// The hash of a transaction.
struct Hash(String);

impl FromStr for Hash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix("0x").unwrap_or_default();
        let is_hash = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hash.then(|| Self(text.to_ascii_lowercase())).ok_or("must be 0x and 64 hexadecimal digits")
    }
}
