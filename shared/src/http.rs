//! The HTTP side that both services share: serving, probes, metrics, and errors as `application/problem+json`.
//!
//! Every error a client sees is a [`Problem`] (RFC 9457) with a stable `type`. What went wrong inside is logged, never
//! sent.

pub mod fields;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::ToSchema;

use crate::db;
use crate::health::Health;

/// The most bytes that the body of a request may have.
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long requests that are under way at shutdown may go on.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request may take, the arrival of its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The end of the paths that take uploads of any length: they see for themselves that one does not take for ever.
const UPLOAD: &str = "/bulk";

/// An error as clients see it (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// Names the kind of error; it never changes.
    #[serde(rename = "type")]
    #[schema(example = "urn:problem-type:invalid-request")]
    pub kind: &'static str,
    /// The kind of error in words.
    #[schema(example = "The request is not valid")]
    pub title: &'static str,
    /// The HTTP status code.
    #[schema(example = 400)]
    pub status: u16,
    /// What is wrong with this request, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The fields that break a rule.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The grant that stands in the way, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

/// A field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field's name, as the client wrote it.
    #[schema(example = "token_amount")]
    #[schema(value_type = String)]
    pub field: Cow<'static, str>,
    /// The rule.
    #[schema(example = "must be a whole number of tokens from 1 to 1000000000")]
    pub rule: String,
}

impl Problem {
    /// A problem of this kind and status, without detail.
    #[must_use]
    pub fn new(status: StatusCode, kind: &'static str, title: &'static str) -> Self {
        Self { kind, title, status: status.as_u16(), detail: None, errors: Vec::new(), request_id: None }
    }

    /// What is wrong with this request, in words.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// The fields are there but break these rules.
    #[must_use]
    pub fn invalid_request(errors: Vec<FieldError>) -> Self {
        Self { errors, ..Self::malformed(StatusCode::BAD_REQUEST) }
    }

    /// The request cannot be read.
    #[must_use]
    pub fn malformed(status: StatusCode) -> Self {
        Self::new(status, "urn:problem-type:invalid-request", "The request is not valid")
    }

    /// Something broke on our side. The body is always the same.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "urn:problem-type:internal", "Something went wrong on our side")
    }

    /// We cannot do it now; the same request may succeed soon.
    #[must_use]
    pub fn unavailable() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "urn:problem-type:unavailable",
            "The service cannot take the request now; send the same request again",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// Why a handler cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request breaks a rule.
    #[error("{0:?}")]
    Problem(Problem),
    /// The store failed.
    #[error(transparent)]
    Database(#[from] db::Error),
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Database(error @ db::Error::Corrupt { .. }) => {
                tracing::error!(%error, "request failed");
                Problem::internal().into_response()
            }
            Self::Database(error) => {
                tracing::error!(%error, "request failed");
                Problem::unavailable().into_response()
            }
        }
    }
}

/// Answers to `/livez`, `/readyz` and `/metrics`, and to every request that no route takes; limits, counts and times all.
pub fn with_common_routes(routes: Router, health: Health, metrics: PrometheusHandle) -> Router {
    let common = Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz).with_state(health))
        .route("/metrics", get(render_metrics).with_state(metrics));
    routes
        .merge(common)
        .fallback(async || {
            Problem::new(StatusCode::NOT_FOUND, "urn:problem-type:not-found", "There is nothing at this path")
        })
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "urn:problem-type:method-not-allowed",
                "This path does not take this method; the Allow header names those it takes",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
        .layer(middleware::from_fn(measure))
}

async fn readyz(State(health): State<Health>) -> Response {
    let status = if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health.states())).into_response()
}

async fn render_metrics(State(metrics): State<PrometheusHandle>) -> String {
    metrics.render()
}

async fn measure(request: Request, next: Next) -> Response {
    let start = Instant::now();
    // A method is any word that a client makes up; a label is not.
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    };
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let response = if route.ends_with(UPLOAD) {
        next.run(request).await
    } else {
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
        answer.unwrap_or_else(|_| Problem::unavailable().into_response())
    };
    let status = response.status().as_u16().to_string();
    metrics::counter!("http_requests_total", "method" => method, "route" => route.clone(), "status" => status)
        .increment(1);
    metrics::histogram!("http_request_duration_seconds", "method" => method, "route" => route)
        .record(start.elapsed().as_secs_f64());
    response
}

/// Listens on `address`.
///
/// # Errors
///
/// When the address is taken or not ours.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on LISTEN_ADDRESS {address}"))
}

/// What a server answers with: routes that can be replaced while it serves, so that the probes of a service answer from
/// its first moment on.
#[derive(Debug)]
pub struct Routes(watch::Sender<Router>);

impl Routes {
    /// Answers with these routes until they are [replaced](Self::replace).
    #[must_use]
    pub fn new(routes: Router) -> Self {
        Self(watch::Sender::new(routes))
    }

    /// Answers every request from now on with these routes.
    pub fn replace(self, routes: Router) {
        drop(self.0.send_replace(routes));
    }

    /// Serves until `shutdown`, then finishes the requests that are under way, within a few seconds.
    ///
    /// # Errors
    ///
    /// When the listener fails.
    pub fn serve(
        &self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
        let routes = self.0.subscribe();
        let current = service_fn(move |request: Request| {
            let routes = routes.borrow().clone();
            routes.oneshot(request)
        });
        let server = axum::serve(listener, Router::new().fallback_service(current));
        let cut = shutdown.clone();
        let server = server.with_graceful_shutdown(shutdown.cancelled_owned()).into_future();
        async move {
            tokio::select! {
                ended = server => Ok(ended?),
                // A client that has sent half a request need not be waited for.
                () = async { cut.cancelled().await; tokio::time::sleep(DRAIN_TIMEOUT).await } => Ok(()),
            }
        }
    }
}
