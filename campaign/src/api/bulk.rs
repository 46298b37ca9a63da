//! `POST /token-requests/bulk` and `GET /jobs/{job_id}`: many requests in one upload.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt as _;
use shared::clock::Clock;
use shared::db;
use shared::http::fields::Fields;
use shared::http::{Error, Problem};
use tokio::sync::Notify;
use utoipa::IntoParams;

use super::Trace;
use super::token_request::{IDEMPOTENCY_KEY, problem_of};
use crate::bulk::{Decoder, Defaults, Format, Line};
use crate::store::{Job, Policy, Store};

/// The most lines that one transaction decides.
const BATCH: usize = 500;

/// How long the next bytes of an upload may take.
const SILENCE: Duration = Duration::from_secs(15);

/// Decides the lines of uploads; clones share the store.
#[derive(Debug, Clone)]
pub struct Loader {
    /// Where grants are kept.
    pub store: Store,
    /// Time.
    pub clock: Clock,
    /// How requests are accepted.
    pub policy: Policy,
    /// Notified when there is something to publish.
    pub outbox_ready: Arc<Notify>,
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
struct Query {
    /// For lines that name no campaign.
    #[param(min_length = 1, max_length = 128, example = "summer")]
    campaign_id: Option<String>,
    /// For lines that name no amount, whole tokens; without it, what the campaign pays.
    #[param(minimum = 1, maximum = 1_000_000_000)]
    token_amount: Option<u64>,
}

/// Ask for tokens to be paid to many users.
///
/// The body has any number of lines: JSON objects (`application/x-ndjson`) or CSV with a header (`text/csv`), with the
/// fields of `POST /token-request`. Each line is decided by itself, as a request alone would be; what is wrong with one is
/// told with its number, and the others are accepted all the same.
///
/// Send the same upload again as often as you like: nobody is paid twice. A line with an `idempotency_key` is known by it;
/// one without is known by what it says, within uploads of the same `Idempotency-Key`.
#[utoipa::path(
    post,
    path = "/token-requests/bulk",
    operation_id = "requestTokensInBulk",
    tag = "grants",
    params(
        Query,
        ("Idempotency-Key" = Option<String>, Header, description = "Your own name for this upload. The same lines under \
            another name are other requests."),
    ),
    request_body(content = String, content_type = "application/x-ndjson", description = "Lines of JSON, or of CSV as \
        text/csv; a line has at most 64 KiB."),
    responses(
        (status = 202, description = "Every line was decided.", body = Job,
            headers(("Location" = String, description = "Where to ask for the job."))),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 408, description = "The upload broke off; send it again.", body = Problem,
            content_type = "application/problem+json"),
        (status = 415, description = "The body is neither application/x-ndjson nor text/csv.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same upload again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn upload(
    State(loader): State<Loader>,
    Trace(trace): Trace,
    request: Request,
) -> Result<Response, Error> {
    let (parts, body) = request.into_parts();
    let mut fields = Fields::from_query(&parts.uri)?;
    fields.add_header(&parts.headers, IDEMPOTENCY_KEY, "idempotency_key");
    let defaults = Defaults {
        campaign_id: fields.optional("campaign_id"),
        token_amount: fields.optional_number("token_amount"),
        key: fields.optional(IDEMPOTENCY_KEY),
    };
    fields.finish()?;
    let format = format_of(&parts.headers)?;

    let job = loader.store.begin_job(format, loader.clock.now()).await?;
    let outcome = loader.load(&job, Decoder::new(format, defaults, trace), body).await;
    let reason = match &outcome {
        Ok(()) => None,
        Err(Broken::Upload(reason)) => Some(*reason),
        Err(Broken::Store(_)) => Some("the database did not take its lines"),
    };
    let ended = loader.store.end_job(&job, reason, loader.clock.now()).await;
    match outcome {
        Err(Broken::Store(error)) => return Err(error.into()),
        Err(Broken::Upload(reason)) => {
            let kind = "urn:problem-type:upload-broken-off";
            let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, kind, "The upload broke off");
            return Err(problem.detail(format!("{reason}; send it again: see /jobs/{job}")).into());
        }
        Ok(()) => ended?,
    }
    let report = loader.store.job(&job, loader.clock.now()).await?.ok_or_else(not_found)?;
    let location = HeaderValue::try_from(format!("/jobs/{job}")).expect("our own job ids are UUIDs");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(report)).into_response())
}

/// Why an upload was not decided to its end.
enum Broken {
    Upload(&'static str),
    Store(db::Error),
}

impl Loader {
    async fn load(&self, job: &str, mut decoder: Decoder, body: Body) -> Result<(), Broken> {
        let mut chunks = body.into_data_stream();
        let mut waiting = Vec::with_capacity(BATCH);
        loop {
            let next = tokio::time::timeout(SILENCE, chunks.next()).await;
            let chunk = match next.map_err(|_| Broken::Upload("nothing came for 15 s"))? {
                None => break,
                Some(Err(_)) => return Err(Broken::Upload("the connection was lost")),
                Some(Ok(chunk)) => chunk,
            };
            for line in decoder.feed(&chunk) {
                waiting.push(line);
                if waiting.len() == BATCH {
                    self.decide(job, std::mem::replace(&mut waiting, Vec::with_capacity(BATCH))).await?;
                }
            }
        }
        waiting.extend(decoder.finish());
        if waiting.is_empty() { Ok(()) } else { self.decide(job, waiting).await }
    }

    async fn decide(&self, job: &str, lines: Vec<Line>) -> Result<(), Broken> {
        let told = |decision: &_| {
            let problem = problem_of(decision)?;
            Some((problem.kind, problem.detail.unwrap_or_else(|| problem.title.to_owned())))
        };
        let accepted = self.store.load(job, lines, self.clock.now(), self.policy, told).await.map_err(Broken::Store)?;
        if accepted > 0 {
            metrics::counter!("grant_requests_total", "outcome" => "accepted").increment(accepted as u64);
            self.outbox_ready.notify_one();
        }
        Ok(())
    }
}

fn format_of(headers: &HeaderMap) -> Result<Format, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_str() {
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Ok(Format::Ndjson),
        "text/csv" => Ok(Format::Csv),
        _ => Err(Problem::malformed(StatusCode::UNSUPPORTED_MEDIA_TYPE).detail(
            "send lines of JSON as application/x-ndjson, or CSV as text/csv: the header Content-Type says which",
        )),
    }
}

/// Show an upload: how many of its lines were accepted, repeated and rejected, and why.
#[utoipa::path(
    get,
    path = "/jobs/{job_id}",
    operation_id = "job",
    tag = "grants",
    params(("job_id" = String, Path, description = "The job's `job_id`.")),
    responses(
        (status = 200, description = "The job.", body = Job),
        (status = 404, description = "There is no such job.", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn job(
    State(loader): State<Loader>,
    job_id: Result<Path<String>, PathRejection>,
) -> Result<Json<Job>, Error> {
    let Path(job_id) = job_id.map_err(|_| not_found())?;
    Ok(Json(loader.store.job(&job_id, loader.clock.now()).await?.ok_or_else(not_found)?))
}

fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "urn:problem-type:job-not-found", "There is no job of this id")
}
