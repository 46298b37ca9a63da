//! `/kill-switch`: stops all payments at once, and lets them go on.

use axum::Json;
use axum::extract::{Request, State};
use shared::http::fields::{Fields, Remark};
use shared::http::{Error, MAX_BODY_BYTES, Problem};
use utoipa::{IntoParams, ToSchema};

use super::Trace;
use crate::operator::{Operator, Order};
use crate::store::{KillSwitch, Store};

#[derive(ToSchema, IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the fields that Fields reads")]
pub(super) struct Wish {
    /// Whether payments are to be stopped.
    engaged: bool,
    /// Who does it, for the ledger.
    changed_by: Option<String>,
    /// Why, for the ledger.
    reason: Option<String>,
}

/// Show whether all payments are stopped.
#[utoipa::path(
    get,
    path = "/kill-switch",
    operation_id = "killSwitch",
    tag = "operations",
    responses(
        (status = 200, description = "How the switch stands.", body = KillSwitch),
        (status = 400, description = "The request cannot be read.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn get(State(store): State<Store>) -> Result<Json<KillSwitch>, Error> {
    Ok(Json(store.kill_switch().await?))
}

/// Stop all payments, or let them go on.
///
/// While it is engaged, requests are refused with 503, and the blockchain service, which is told by a message, begins no
/// transaction. What is in a transaction already may still be paid.
#[utoipa::path(
    put,
    path = "/kill-switch",
    operation_id = "setKillSwitch",
    tag = "operations",
    params(Wish),
    request_body(content = Wish, description = "The same fields as in the query string, in place of it."),
    responses(
        (status = 200, description = "How the switch stands now.", body = KillSwitch),
        (status = 400, description = "A field breaks a rule.", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is over 64 KiB.", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON.", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same request again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn put(
    State(operator): State<Operator>,
    Trace(trace): Trace,
    request: Request,
) -> Result<Json<KillSwitch>, Error> {
    let mut fields = Fields::from_request(request, MAX_BODY_BYTES).await?;
    let engaged = fields.required_flag("engaged");
    let by = fields.optional("changed_by");
    let reason = fields.optional::<Remark>("reason").map(|Remark(reason)| reason);
    fields.finish()?;
    Ok(Json(operator.switch(engaged, Order { by, reason, trace }).await?))
}
