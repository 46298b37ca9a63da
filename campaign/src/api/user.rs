//! `GET /users/{user_id}`: a user's tokens, by state and token.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::http::{Error, FieldError, Problem};
use shared::id::{InvalidId, UserId};
use utoipa::ToSchema;

use crate::store::{Holding, Store};

/// A user's tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserTokens {
    /// Whose.
    #[schema(value_type = String)]
    user_id: UserId,
    /// By token and state; empty for a user whom nobody has seen.
    holdings: Vec<Holding>,
    /// When anything last happened to one of the user's grants, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_activity: Option<DateTime<Utc>>,
}

/// Show a user's tokens, by state and token.
#[utoipa::path(
    get,
    path = "/users/{user_id}",
    operation_id = "user",
    tag = "views",
    params(("user_id" = String, Path, description = "The studio's name for the player.")),
    responses(
        (status = 200, description = "The user's tokens.", body = UserTokens),
        (status = 400, description = "That can be no user's name.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(
    State(store): State<Store>,
    user_id: Result<Path<String>, PathRejection>,
) -> Result<Json<UserTokens>, Error> {
    let invalid = |rule| Problem::invalid_request(vec![FieldError { field: "user_id".into(), rule }]);
    let Path(user_id) = user_id.map_err(|error| invalid(error.body_text()))?;
    let user_id: UserId = user_id.parse().map_err(|error: InvalidId| invalid(error.to_string()))?;
    let holdings = store.holdings_of(&user_id).await?;
    let last_activity = holdings.iter().map(|holding| holding.last_activity).max();
    Ok(Json(UserTokens { user_id, holdings, last_activity }))
}
