//! The HTTP interface, one endpoint a file. The OpenAPI document is made from the same code.

mod bulk;
mod campaigns;
mod claims;
mod events;
mod export;
mod grant;
mod grants;
mod kill_switch;
mod needs_attention;
mod status;
mod token_request;
mod transactions;
mod user;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, FromRef, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{any, get};
use axum::{Json, Router};
pub use bulk::Loader;
use shared::clock::Clock;
use shared::dead_letter::{self, DeadLetters};
use shared::http::Problem;
use shared::telemetry::{TRACEPARENT, TraceParent};
use tracing::Instrument;
use utoipa::OpenApi;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Required, ResponseBuilder};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::acceptor::Acceptor;
use crate::claims::Trees;
use crate::operator::Operator;
use crate::republisher::Republisher;
use crate::store::Store;

#[derive(OpenApi)]
#[openapi(info(
    title = "Campaign rewards",
    description = "Pays campaign rewards in ERC-20 tokens, each exactly once. A request that was answered with 202 or 200 \
                   is durable. Errors are application/problem+json (RFC 9457) with a stable `type`.",
    license(name = "MIT", identifier = "MIT")
))]
struct Document;

/// What handlers need; clones share it.
#[derive(Debug, Clone)]
struct Context {
    store: Store,
    acceptor: Acceptor,
    letters: DeadLetters,
    republisher: Arc<Republisher>,
    operator: Operator,
    loader: Loader,
    trees: Trees,
    clock: Clock,
}

impl FromRef<Context> for Trees {
    fn from_ref(context: &Context) -> Self {
        context.trees.clone()
    }
}

impl FromRef<Context> for Loader {
    fn from_ref(context: &Context) -> Self {
        context.loader.clone()
    }
}

impl FromRef<Context> for Operator {
    fn from_ref(context: &Context) -> Self {
        context.operator.clone()
    }
}

impl FromRef<Context> for Clock {
    fn from_ref(context: &Context) -> Self {
        context.clock.clone()
    }
}

impl FromRef<Context> for Store {
    fn from_ref(context: &Context) -> Self {
        context.store.clone()
    }
}

impl FromRef<Context> for Acceptor {
    fn from_ref(context: &Context) -> Self {
        context.acceptor.clone()
    }
}

impl FromRef<Context> for DeadLetters {
    fn from_ref(context: &Context) -> Self {
        context.letters.clone()
    }
}

impl FromRef<Context> for Arc<Republisher> {
    fn from_ref(context: &Context) -> Self {
        Self::clone(&context.republisher)
    }
}

/// The routes of the campaign service.
pub fn routes(
    store: Store,
    acceptor: Acceptor,
    letters: DeadLetters,
    republisher: Arc<Republisher>,
    operator: Operator,
    loader: Loader,
    trees: Trees,
) -> Router {
    let (router, mut document) = documented().split_for_parts();
    complete(&mut document);
    router
        .with_state(Context {
            clock: loader.clock.clone(),
            store,
            acceptor,
            letters,
            republisher,
            operator,
            loader,
            trees,
        })
        .layer(middleware::from_fn(trace))
        .route("/openapi.json", get(async move || Json(document)))
}

/// The routes of the service while it waits for its database: whatever is asked cannot be answered yet, and nobody is
/// told that it does not exist.
pub fn starting_routes() -> Router {
    Router::new().route("/{*path}", any(async || Problem::unavailable()))
}

fn documented() -> OpenApiRouter<Context> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(token_request::handle))
        .routes(routes!(status::handle))
        .routes(routes!(grant::handle, grant::cancel))
        .routes(routes!(events::of_grant))
        .routes(routes!(grants::handle))
        .routes(routes!(needs_attention::list))
        .routes(routes!(needs_attention::republish_one))
        .routes(routes!(needs_attention::republish_all))
        .routes(routes!(user::handle))
        .routes(routes!(transactions::handle))
        .routes(routes!(campaigns::list))
        .routes(routes!(campaigns::statistics))
        .routes(routes!(events::of_campaign))
        .routes(routes!(events::all))
        .routes(routes!(claims::handle))
        .routes(routes!(kill_switch::get, kill_switch::put))
        .merge(dead_letter::api::routes())
        .routes(routes!(bulk::job))
        .merge(
            // It is never in memory as a whole.
            OpenApiRouter::new().routes(routes!(bulk::upload)).layer(DefaultBodyLimit::disable()),
        )
        .merge(
            // A list of ten thousand users is long.
            OpenApiRouter::new()
                .routes(routes!(campaigns::get, campaigns::put, campaigns::patch))
                .layer(DefaultBodyLimit::max(campaigns::MAX_BODY_BYTES)),
        )
}

/// Adds what is the same for every operation: the errors that are made outside the handlers, and that a body may be left
/// out where the query string can take its place.
fn complete(document: &mut utoipa::openapi::OpenApi) {
    let problem = |description: &str| {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        ResponseBuilder::new().description(description).content("application/problem+json", content).build()
    };
    let operations = document.paths.paths.values_mut().flat_map(|path| {
        [&mut path.get, &mut path.post, &mut path.put, &mut path.patch, &mut path.delete].map(Option::as_mut)
    });
    for operation in operations.flatten() {
        let responses = &mut operation.responses.responses;
        let method = problem("The path does not take this method; the `Allow` header names those it takes.");
        responses.insert("405".to_owned(), method.into());
        responses.insert("500".to_owned(), problem("Something went wrong on our side.").into());
        if let Some(RefOr::T(body)) = operation.request_body.as_mut() {
            body.required = Some(Required::False);
        }
    }
}

/// The trace of a request: the caller's, or a new one.
#[derive(Debug, Clone, Copy)]
struct Trace(TraceParent);

async fn trace(mut request: Request, next: Next) -> Response {
    let trace = request
        .headers()
        .get(TRACEPARENT)
        .and_then(|header| header.to_str().ok()?.parse().ok())
        .unwrap_or_else(TraceParent::new);
    request.extensions_mut().insert(Trace(trace));
    let span = tracing::info_span!("http", trace_id = trace.trace_id());
    next.run(request).instrument(span).await
}

impl<S: Send + Sync> FromRequestParts<S> for Trace {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Ok(*parts.extensions.get().expect("every documented route is traced"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_describes_its_errors_and_every_field_itself() {
        let mut document = documented().split_for_parts().1;
        complete(&mut document);
        let document = serde_json::to_value(document).unwrap();
        assert_eq!(document["openapi"], "3.1.0");
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let name = format!("{method} {path}");
                assert!(operation["summary"].is_string(), "{name} has no summary");
                let responses = operation["responses"].as_object().unwrap();
                assert!(responses.keys().any(|status| status.starts_with('4')), "{name} lists no client error");
                assert!(responses.contains_key("503"), "{name} does not say that it can be unavailable");
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    assert!(parameter["description"].is_string(), "{name}: {} has no description", parameter["name"]);
                }
            }
        }
        for (schema, definition) in document["components"]["schemas"].as_object().unwrap() {
            for part in definition["allOf"].as_array().cloned().unwrap_or_else(|| vec![definition.clone()]) {
                for (field, property) in part["properties"].as_object().into_iter().flatten() {
                    let described = property["description"].is_string() || property["$ref"].is_string();
                    assert!(described, "{schema}.{field} has no description");
                }
            }
        }
    }
}
