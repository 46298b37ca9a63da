//! `GET /transactions`: which transactions paid which campaigns' grants.

use std::str::FromStr;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::clock::from_micros;
use shared::http::fields::{Fields, Limit, Time};
use shared::http::{Error, Problem};
use shared::id::CampaignId;
use utoipa::{IntoParams, ToSchema};

use super::export::{self, Format};
use crate::store::{Store, TransactionPage, TransactionShare, TransactionState};

/// The columns of a file of transactions.
const COLUMNS: &[&str] = &[
    "transaction_hash",
    "campaign_id",
    "state",
    "grants",
    "completed",
    "tokens",
    "gas_used",
    "gas_price",
    "block_number",
    "first_seen_at",
    "last_seen_at",
];

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
pub(super) struct Query {
    /// Only of this campaign.
    campaign_id: Option<String>,
    /// Only those that are `submitted`, `confirmed`, `completed` or `replaced`.
    state: Option<TransactionState>,
    /// Only those first heard of at this time or later, UTC.
    from: Option<DateTime<Utc>>,
    /// Only those first heard of before this time, UTC.
    until: Option<DateTime<Utc>>,
    /// At most so many, newest first.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// `json` for a page; `ndjson` or `csv` for everything that matches, as a file.
    format: Option<String>,
}

/// A page of transactions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Transactions {
    /// Newest first, each campaign's part by itself.
    transactions: Vec<TransactionShare>,
    /// Ask for the next page with this as `cursor`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// List transactions, each campaign's part by itself.
///
/// `GET /grants?transaction_hash=` lists the grants in one.
#[utoipa::path(
    get,
    path = "/transactions",
    operation_id = "transactions",
    tag = "views",
    params(Query),
    responses(
        (status = 200, description = "A page of transactions, or all that match as a file.", body = Transactions),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(State(store): State<Store>, uri: Uri) -> Result<Response, Error> {
    let mut fields = Fields::from_query(&uri)?;
    let mut asked = TransactionPage {
        campaign_id: fields.optional("campaign_id"),
        state: fields.optional("state"),
        from: fields.optional::<Time>("from").map(|Time(from)| from),
        until: fields.optional::<Time>("until").map(|Time(until)| until),
        after: fields.optional::<Cursor>("cursor").map(|Cursor(place)| place),
        limit: fields.optional_number("limit").unwrap_or(Limit(50)).0,
    };
    let format = fields.optional("format").unwrap_or_default();
    fields.finish()?;
    if format != Format::Json {
        asked.limit = export::PAGE;
        let first = asked.after.take();
        return Ok(export::stream(format, COLUMNS, first, move |after| {
            let (store, page) = (store.clone(), TransactionPage { after, ..asked.clone() });
            async move {
                let shares = store.transactions(&page).await?;
                let next = shares.last().map(|last| Some(place(last)));
                Ok((shares, next))
            }
        }));
    }
    // One more than asked for tells whether there is another page.
    let limit = asked.limit;
    asked.limit += 1;
    let mut transactions = store.transactions(&asked).await?;
    let more = transactions.len() > usize::from(limit);
    transactions.truncate(limit.into());
    let next_cursor = transactions.last().filter(|_| more).map(|last| Cursor(place(last)).to_string());
    Ok(Json(Transactions { transactions, next_cursor }).into_response())
}

fn place(share: &TransactionShare) -> (DateTime<Utc>, String, CampaignId) {
    (share.first_seen_at, share.transaction_hash.clone(), share.campaign_id.clone())
}

/// The place of the last transaction of a page.
struct Cursor((DateTime<Utc>, String, CampaignId));

impl std::fmt::Display for Cursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (at, hash, campaign_id) = &self.0;
        write!(f, "{}.{hash}.{campaign_id}", at.timestamp_micros())
    }
}

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (at, rest) = text.split_once('.')?;
            // PostgreSQL has no place for control characters in a text.
            let (hash, campaign_id) = rest.split_once('.').filter(|(hash, _)| !hash.contains(char::is_control))?;
            Some(Self((from_micros(at.parse().ok()?), hash.to_owned(), campaign_id.parse().ok()?)))
        };
        parse().ok_or("must be the next_cursor of an earlier answer")
    }
}
