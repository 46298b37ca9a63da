//! `/grants/{request_id}`: one grant and its history, now and at an earlier time; and its cancellation.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::http::fields::{Fields, Remark, Time};
use shared::http::{Error, FieldError, Problem};
use shared::id::{InvalidId, RequestId};
use shared::ledger::{Entry, Stream};
use utoipa::{IntoParams, ToSchema};

use super::Trace;
use crate::domain::{self, Grant};
use crate::operator::{Operator, Order};
use crate::store::{Cancellation, Store};

/// A grant and what happened to it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GrantHistory {
    #[serde(flatten)]
    grant: Grant,
    /// What happened, in order: the first 500 entries of it.
    events: Vec<Entry>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
struct Query {
    /// As it stood at this time, UTC.
    at: Option<DateTime<Utc>>,
}

/// Show one grant with its history, as it is or as it was at an earlier time.
#[utoipa::path(
    get,
    path = "/grants/{request_id}",
    operation_id = "grant",
    tag = "grants",
    params(("request_id" = String, Path, description = "The grant's `request_id`."), Query),
    responses(
        (status = 200, description = "The grant.", body = GrantHistory),
        (status = 400, description = "That can be no request id.", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such grant, or there was none at that time.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(
    State(store): State<Store>,
    request_id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Json<GrantHistory>, Error> {
    let request_id = parse_request_id(request_id)?;
    let mut fields = Fields::from_query(&uri)?;
    let at = fields.optional::<Time>("at").map(|Time(at)| at);
    fields.finish()?;
    let grant = match at {
        None => store.grant(&request_id).await?,
        Some(at) => store.grant_at(&request_id, at).await?,
    };
    let grant = grant.ok_or_else(|| not_found(&request_id))?;
    let mut events = store.entries_of(Stream::Grant, request_id.as_str(), 0, 500).await?;
    events.retain(|entry| at.is_none_or(|at| entry.at <= at));
    Ok(Json(GrantHistory { grant, events }))
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
struct Wish {
    /// Who does not want it any more, for the ledger.
    changed_by: Option<String>,
    /// Why, for the ledger.
    reason: Option<String>,
}

/// Cancel a grant that is not in a transaction yet.
///
/// The blockchain service, which knows, is asked: the grant ends as `cancelled`, or is paid all the same if it was too
/// late. The same request again changes nothing.
#[utoipa::path(
    delete,
    path = "/grants/{request_id}",
    operation_id = "cancelGrant",
    tag = "grants",
    params(("request_id" = String, Path, description = "The grant's `request_id`."), Wish),
    responses(
        (status = 200, description = "It is cancelled.", body = Grant),
        (status = 202, description = "Its cancellation is asked for.", body = Grant),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such grant.", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "It is in a transaction, or has ended.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same request again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn cancel(
    State(operator): State<Operator>,
    Trace(trace): Trace,
    request_id: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Error> {
    let request_id = parse_request_id(request_id)?;
    let mut fields = Fields::from_query(&uri)?;
    let by = fields.optional("changed_by");
    let reason = fields.optional::<Remark>("reason").map(|Remark(reason)| reason);
    fields.finish()?;
    match operator.cancel(&request_id, Order { by, reason, trace }).await? {
        None => Err(not_found(&request_id).into()),
        Some(Cancellation::Asked(grant)) => {
            let is_done = grant.state == domain::State::Cancelled;
            let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
            Ok((status, Json(grant)).into_response())
        }
        Some(Cancellation::TooLate(grant)) => {
            let kind = "urn:problem-type:too-late-to-cancel";
            let problem = Problem::new(StatusCode::CONFLICT, kind, "It is too late to cancel the grant")
                .detail(format!("the grant is {}", grant.state.as_str()));
            Err(Problem { request_id: Some(request_id.to_string()), ..problem }.into())
        }
    }
}

/// The request id in a path.
pub(super) fn parse_request_id(path: Result<Path<String>, PathRejection>) -> Result<RequestId, Problem> {
    let invalid = |rule| Problem::invalid_request(vec![FieldError { field: "request_id".into(), rule }]);
    let Path(request_id) = path.map_err(|error| invalid(error.body_text()))?;
    request_id.parse().map_err(|error: InvalidId| invalid(error.to_string()))
}

pub(super) fn not_found(request_id: &RequestId) -> Problem {
    let problem =
        Problem::new(StatusCode::NOT_FOUND, "urn:problem-type:grant-not-found", "There is no grant of this id");
    Problem { request_id: Some(request_id.to_string()), ..problem }
}
