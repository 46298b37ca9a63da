//! `POST /token-request`: asks for tokens to be paid.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use shared::http::fields::{Fields, Time};
use shared::http::{Error, MAX_BODY_BYTES, Problem};
use shared::id::RequestId;

use super::Trace;
use crate::acceptor::Acceptor;
use crate::domain::admission::{Arrival, Decision};
use crate::domain::campaign::Refusal;
use crate::domain::{Grant, GrantRequest};

/// The header that names a request.
pub(super) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// Ask for tokens to be paid.
///
/// The fields stand in the query string or in a JSON body, not in both; `user_id` and `campaign_id` are required. The
/// answer is durable: 202 for a new grant, 200 with the same
/// grant for a repeat, by `Idempotency-Key` or by user and campaign. After a 4xx nothing is
/// stored; after a 503 send the same request again.
#[utoipa::path(
    post,
    path = "/token-request",
    operation_id = "requestTokens",
    tag = "grants",
    params(
        GrantRequest,
        ("expires_at" = Option<String>, Query, format = DateTime, description = "Not after this, UTC: a grant that is in \
            no transaction by then ends as `expired`."),
        ("idempotency_key" = Option<String>, Query, description = "`Idempotency-Key`, where headers are hard to set."),
        ("Idempotency-Key" = Option<String>, Header, description = "Your own name for this request, 1 to 128 bytes. \
            Send the same request again under the same key as often as you like: it is one grant. Keys never expire."),
    ),
    request_body(content = GrantRequest, description = "The same fields as in the query string, in place of it."),
    responses(
        (status = 202, description = "A new grant, accepted.", body = Grant,
            headers(("Location" = String, description = "Where to ask for the grant."))),
        (status = 200, description = "A repeat: the grant that was accepted before.", body = Grant,
            headers(("Location" = String, description = "Where to ask for the grant."))),
        (status = 400, description = "A field breaks a rule, or the request cannot be read.", body = Problem,
            content_type = "application/problem+json"),
        (status = 403, description = "The campaign does not pay this user, or not at this time.", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such campaign, and its first use does not make it.", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "The user has a grant of this campaign already, with another amount or wallet, or as \
            many as a user may have; or the campaign is not active, or its budget does not allow it.",
            body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is over 64 KiB.", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON.", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The idempotency key belongs to a request that asked for something else.",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same request again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn handle(
    State(acceptor): State<Acceptor>,
    Trace(trace): Trace,
    request: Request,
) -> Result<Response, Error> {
    let headers = request.headers().clone();
    let mut fields = Fields::from_request(request, MAX_BODY_BYTES).await?;
    fields.add_header(&headers, IDEMPOTENCY_KEY, "idempotency_key");
    let user_id = fields.required("user_id");
    let campaign_id = fields.required("campaign_id");
    let wallet_address = fields.optional("wallet_address");
    let token_amount = fields.optional_number("token_amount");
    let expires_at = fields.optional::<Time>("expires_at").map(|Time(time)| time);
    let key = fields.optional(IDEMPOTENCY_KEY);
    fields.finish()?;
    let (Some(user_id), Some(campaign_id)) = (user_id, campaign_id) else {
        return Err(Problem::malformed(StatusCode::BAD_REQUEST).into());
    };
    let arrival = Arrival { user_id, campaign_id, wallet_address, token_amount, expires_at, key, trace };

    let decision = acceptor.accept(arrival).await.map_err(|error| Problem::unavailable().detail(error.to_string()))?;
    match (problem_of(&decision), decision) {
        (_, Decision::New(grant)) => Ok(answer(StatusCode::ACCEPTED, grant)),
        (_, Decision::Repeat(grant)) => Ok(answer(StatusCode::OK, grant)),
        (problem, _) => Err(problem.unwrap_or_else(Problem::internal).into()),
    }
}

/// What whoever asked is told, if there is no grant to show.
pub(super) fn problem_of(decision: &Decision) -> Option<Problem> {
    match decision {
        Decision::New(_) | Decision::Repeat(_) => None,
        Decision::KeyReused { earlier } => Some(key_reused(earlier)),
        Decision::AlreadyGranted { earlier } => Some(already_granted(earlier)),
        Decision::Refused(refusal) => Some(refused(*refusal)),
    }
}

fn answer(status: StatusCode, grant: Grant) -> Response {
    let location = HeaderValue::try_from(format!("/grants/{}", grant.request_id));
    let location = location.expect("our own request ids are UUIDs");
    (status, [(header::LOCATION, location)], Json(grant)).into_response()
}

fn key_reused(earlier: &RequestId) -> Problem {
    let problem = Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "urn:problem-type:idempotency-key-reused",
        "This idempotency key belongs to another request",
    )
    .detail("send the first request's fields again, or use a new key");
    Problem { request_id: Some(earlier.to_string()), ..problem }
}

/// Why a campaign grants nothing. Nothing was stored.
fn refused(refusal: Refusal) -> Problem {
    use StatusCode as Status;
    let (status, kind, title) = match refusal {
        Refusal::Stopped => (Status::SERVICE_UNAVAILABLE, "urn:problem-type:stopped", "All payments are stopped"),
        Refusal::UnknownCampaign => {
            (Status::NOT_FOUND, "urn:problem-type:campaign-not-found", "There is no such campaign")
        }
        Refusal::NotActive(_) => {
            (Status::CONFLICT, "urn:problem-type:campaign-not-active", "The campaign does not pay now")
        }
        Refusal::NotStarted { .. } => {
            (Status::FORBIDDEN, "urn:problem-type:campaign-not-started", "The campaign has not started")
        }
        Refusal::Over { .. } => (Status::FORBIDDEN, "urn:problem-type:campaign-over", "The campaign is over"),
        Refusal::ClaimsDoNotExpire => (
            Status::UNPROCESSABLE_ENTITY,
            "urn:problem-type:claims-do-not-expire",
            "The campaign's grants are claimed, and do not expire",
        ),
        Refusal::NotEligible => {
            (Status::FORBIDDEN, "urn:problem-type:not-eligible", "The campaign does not pay this user")
        }
        Refusal::UserLimit { .. } => (
            Status::CONFLICT,
            "urn:problem-type:user-limit-reached",
            "The user may have no more grants of this campaign",
        ),
        Refusal::Budget { .. } => {
            (Status::CONFLICT, "urn:problem-type:budget-exhausted", "The campaign's budget does not allow it")
        }
    };
    Problem::new(status, kind, title).detail(refusal.to_string())
}

fn already_granted(earlier: &RequestId) -> Problem {
    let problem = Problem::new(
        StatusCode::CONFLICT,
        "urn:problem-type:already-granted",
        "The user has a grant of this campaign already",
    )
    .detail("it has another amount or wallet, and a user is paid once per campaign");
    Problem { request_id: Some(earlier.to_string()), ..problem }
}
