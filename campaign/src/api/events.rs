//! The ledger as it is: of one grant, of one campaign, of everything.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use shared::http::fields::{Fields, Limit};
use shared::http::{Error, Problem};
use shared::ledger::{Entry, Stream};
use utoipa::{IntoParams, ToSchema};

use super::campaigns::{self, parse_campaign_id};
use super::export::{self, Format};
use super::grant::{not_found, parse_request_id};
use crate::store::Store;

/// The columns of a file of entries.
const COLUMNS: &[&str] = &["sequence", "at", "stream", "subject", "kind", "schema_version", "cause", "data", "seal"];

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
pub(super) struct Query {
    /// Only entries numbered above this: `next_after` of the page before.
    after: Option<u64>,
    /// At most so many entries.
    #[param(minimum = 1, maximum = 500, default = 500)]
    limit: Option<u16>,
    /// `json` for a page; `ndjson` or `csv` for everything after `after`, as a file.
    format: Option<String>,
}

/// A page of the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Entries {
    /// In the order in which it happened.
    events: Vec<Entry>,
    /// Ask for the next page with this as `after`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_after: Option<u64>,
}

/// What is asked for.
struct Asked {
    after: u64,
    limit: u16,
    format: Format,
}

fn read(uri: &Uri) -> Result<Asked, Problem> {
    let mut fields = Fields::from_query(uri)?;
    let after = fields.optional_number::<u64>("after").unwrap_or(0);
    let Limit(limit) = fields.optional_number("limit").unwrap_or(Limit(500));
    let format = fields.optional("format").unwrap_or_default();
    fields.finish()?;
    Ok(Asked { after: after.min(i64::MAX.cast_unsigned()), limit, format })
}

/// Show the ledger: what happened to all grants and campaigns, in order.
///
/// Each entry is sealed by a hash over itself and the seal before it. Whoever keeps the last seal can tell later whether
/// anything before it was changed.
#[utoipa::path(
    get,
    path = "/events",
    operation_id = "events",
    tag = "ledger",
    params(Query),
    responses(
        (status = 200, description = "A page of the ledger, or all of it as a file.", body = Entries),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn all(State(store): State<Store>, uri: Uri) -> Result<Response, Error> {
    let asked = read(&uri)?;
    if asked.format == Format::Json {
        return Ok(page(store.entries_after(asked.after, asked.limit + 1).await?, asked.limit).into_response());
    }
    Ok(export::stream(asked.format, COLUMNS, asked.after, move |after| {
        let store = store.clone();
        async move {
            let entries = store.entries_after(after, export::PAGE).await?;
            let next = entries.last().map(|entry| entry.sequence);
            Ok((entries, next))
        }
    }))
}

/// Show what happened to a grant, in order.
#[utoipa::path(
    get,
    path = "/grants/{request_id}/events",
    operation_id = "grantEvents",
    tag = "ledger",
    params(("request_id" = String, Path, description = "The grant's `request_id`."), Query),
    responses(
        (status = 200, description = "What happened, or all of it as a file.", body = Entries),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such grant.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn of_grant(
    State(store): State<Store>,
    request_id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Error> {
    let request_id = parse_request_id(request_id)?;
    let asked = read(&uri)?;
    if store.grant(&request_id).await?.is_none() {
        return Err(not_found(&request_id).into());
    }
    of(store, Stream::Grant, request_id.to_string(), asked).await
}

/// Show what happened to a campaign's settings, in order: what, when, by whom and why.
#[utoipa::path(
    get,
    path = "/campaigns/{campaign_id}/events",
    operation_id = "campaignEvents",
    tag = "ledger",
    params(("campaign_id" = String, Path, description = "The campaign's name for programs."), Query),
    responses(
        (status = 200, description = "What happened, or all of it as a file.", body = Entries),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such campaign.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn of_campaign(
    State(store): State<Store>,
    campaign_id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Error> {
    let campaign_id = parse_campaign_id(campaign_id)?;
    let asked = read(&uri)?;
    if store.campaign(&campaign_id).await?.is_none() {
        return Err(campaigns::not_found().into());
    }
    of(store, Stream::Campaign, campaign_id.to_string(), asked).await
}

async fn of(store: Store, stream: Stream, subject: String, asked: Asked) -> Result<Response, Error> {
    let Asked { after, limit, format } = asked;
    if format == Format::Json {
        return Ok(page(store.entries_of(stream, &subject, after, limit + 1).await?, limit).into_response());
    }
    Ok(export::stream(format, COLUMNS, after, move |after| {
        let (store, subject) = (store.clone(), subject.clone());
        async move {
            let entries = store.entries_of(stream, &subject, after, export::PAGE).await?;
            let next = entries.last().map(|entry| entry.sequence);
            Ok((entries, next))
        }
    }))
}

/// A page of what was read: one more than asked for tells whether there is another.
fn page(mut events: Vec<Entry>, limit: u16) -> Json<Entries> {
    let more = events.len() > usize::from(limit);
    events.truncate(limit.into());
    let next_after = events.last().filter(|_| more).map(|last| last.sequence);
    Json(Entries { events, next_after })
}
