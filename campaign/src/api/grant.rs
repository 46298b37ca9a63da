//! `GET /grants/{request_id}`: one grant and its history.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use shared::http::{Error, FieldError, Problem};
use shared::id::{InvalidId, RequestId};
use utoipa::ToSchema;

use crate::domain::Grant;
use crate::store::{GrantEvent, Store};

/// A grant and what happened to it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GrantHistory {
    #[serde(flatten)]
    grant: Grant,
    /// What happened, in order.
    events: Vec<GrantEvent>,
}

/// Show one grant with its history.
#[utoipa::path(
    get,
    path = "/grants/{request_id}",
    operation_id = "grant",
    tag = "grants",
    params(("request_id" = String, Path, description = "The grant's `request_id`.")),
    responses(
        (status = 200, description = "The grant.", body = GrantHistory),
        (status = 400, description = "That can be no request id.", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such grant.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(
    State(store): State<Store>,
    request_id: Result<Path<String>, PathRejection>,
) -> Result<Json<GrantHistory>, Error> {
    let request_id = parse_request_id(request_id)?;
    let grant = store.grant(&request_id).await?.ok_or_else(|| not_found(&request_id))?;
    let events = store.events_of(&request_id).await?;
    Ok(Json(GrantHistory { grant, events }))
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
