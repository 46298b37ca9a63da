//! The HTTP interface of dead letters, the same on both services: list, inspect, redrive, discard.

use std::str::FromStr;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRef, Path, Request, State as Shared};
use axum::http::{StatusCode, Uri};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{DeadLetter, DeadLetters, Filter, LetterId, Page, Reason, Selection, State};
use crate::http::fields::{Fields, Limit};
use crate::http::{Error, FieldError, MAX_BODY_BYTES, Problem};
use crate::pubsub::Topic;

/// The routes, for a router whose state holds the dead letters.
pub fn routes<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    DeadLetters: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(inspect))
        .routes(routes!(redrive_one))
        .routes(routes!(redrive_many))
        .routes(routes!(discard))
}

#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "describes the parameters that Fields reads")]
struct ListQuery {
    /// Only those in this state.
    state: Option<State>,
    /// Only those that are here for this reason.
    reason: Option<Reason>,
    /// Only those of this topic.
    #[param(example = "token-grant-requests")]
    topic: Option<String>,
    /// At most so many, newest first.
    #[param(minimum = 1, maximum = 500, default = 50)]
    limit: Option<u16>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Dead letters, without their bodies.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetterList {
    /// Newest first.
    dead_letters: Vec<DeadLetter>,
    /// Ask for the next page with this as `cursor`; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// List the messages that could not be handled or published.
#[utoipa::path(
    get,
    path = "/dead-letters",
    operation_id = "deadLetters",
    tag = "dead letters",
    params(ListQuery),
    responses(
        (status = 200, description = "Dead letters, newest first.", body = DeadLetterList),
        (status = 400, description = "A parameter breaks a rule.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn list(Shared(letters): Shared<DeadLetters>, uri: Uri) -> Result<Json<DeadLetterList>, Error> {
    let mut fields = Fields::from_query(&uri)?;
    let filter =
        Filter { state: fields.optional("state"), reason: fields.optional("reason"), topic: topic(&mut fields) };
    let limit = fields.optional_number("limit").unwrap_or(Limit(50)).0;
    let cursor = fields.optional::<Cursor>("cursor");
    fields.finish()?;

    // One more than asked for tells whether there is another page.
    let page = Page { limit: limit + 1, before: cursor.map(|cursor| cursor.0) };
    let mut dead_letters = letters.list(filter, page).await?;
    let more = dead_letters.len() > usize::from(limit);
    dead_letters.truncate(limit.into());
    let next_cursor = dead_letters.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Json(DeadLetterList { dead_letters, next_cursor }))
}

fn topic(fields: &mut Fields) -> Option<Topic> {
    fields.optional::<TopicName>("topic").map(|name| name.0)
}

struct TopicName(Topic);

impl FromStr for TopicName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let [requests, results] = Topic::LIVE.map(Topic::name);
        match text.parse() {
            Ok(topic) if Topic::LIVE.contains(&topic) => Ok(Self(topic)),
            _ => Err(format!("must be {requests} or {results}")),
        }
    }
}

struct Cursor(LetterId);

impl FromStr for Cursor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "must be the next_cursor of an earlier answer")
    }
}

/// A dead letter with what is kept of its body.
#[derive(Debug, Serialize, ToSchema)]
struct DeadLetterWithBody {
    #[serde(flatten)]
    letter: DeadLetter,
    /// The body, or its beginning, as `payload_encoding` says.
    payload: String,
    /// How `payload` is written.
    payload_encoding: Encoding,
}

/// How bytes are written in JSON.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    /// As they are: they are UTF-8.
    Text,
    /// In base64 (RFC 4648), with padding.
    Base64,
}

/// Show one dead letter with its body.
#[utoipa::path(
    get,
    path = "/dead-letters/{id}",
    operation_id = "deadLetter",
    tag = "dead letters",
    params(("id" = String, Path, description = "The dead letter's `id`.")),
    responses(
        (status = 200, description = "The dead letter.", body = DeadLetterWithBody),
        (status = 400, description = "That can be no id.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such dead letter.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; ask again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn inspect(
    Shared(letters): Shared<DeadLetters>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<DeadLetterWithBody>, Error> {
    let letter = find(&letters, id).await?;
    let bytes = letters.payload(letter.id).await?.unwrap_or_default();
    let text = std::str::from_utf8(&bytes).map(str::to_owned);
    let (payload, payload_encoding) = match text {
        Ok(text) => (text, Encoding::Text),
        // A character that was cut in two does not make a text of another kind.
        Err(error) if letter.payload_truncated && error.error_len().is_none() => {
            (String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned(), Encoding::Text)
        }
        Err(_) => (BASE64_STANDARD.encode(&bytes), Encoding::Base64),
    };
    Ok(Json(DeadLetterWithBody { letter, payload, payload_encoding }))
}

async fn find(letters: &DeadLetters, id: Result<Path<String>, PathRejection>) -> Result<DeadLetter, Error> {
    let invalid = |rule| Problem::invalid_request(vec![FieldError { field: "id".into(), rule }]);
    let Path(id) = id.map_err(|error| invalid(error.body_text()))?;
    let id: LetterId = id.parse().map_err(|error: super::InvalidLetterId| invalid(error.to_string()))?;
    Ok(letters.find(id).await?.ok_or_else(not_found)?)
}

fn not_found() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "urn:problem-type:dead-letter-not-found",
        "There is no dead letter of this id on this service",
    )
    .detail("GET /dead-letters lists them; the other service has its own")
}

fn conflict(kind: &'static str, title: &'static str, detail: &str) -> Error {
    Problem::new(StatusCode::CONFLICT, kind, title).detail(detail).into()
}

/// Send one dead letter again.
///
/// The message is committed to be published on its topic, as it was. Sent again before and not come back, it is left
/// alone: the answer is the same.
#[utoipa::path(
    post,
    path = "/dead-letters/{id}/redrive",
    operation_id = "redriveDeadLetter",
    tag = "dead letters",
    params(("id" = String, Path, description = "The dead letter's `id`.")),
    responses(
        (status = 200, description = "It is sent again, by this call or by an earlier one.", body = DeadLetter),
        (status = 400, description = "That can be no id.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such dead letter.", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "It was discarded, or only a part of it is kept.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same request again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn redrive_one(
    Shared(letters): Shared<DeadLetters>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<DeadLetter>, Error> {
    let id = find(&letters, id).await?.id;
    let redriven = letters.redrive(&Selection::These(vec![id])).await?;
    let letter = letters.find(id).await?.ok_or_else(not_found)?;
    // What this call has sent may have come back by now.
    if letter.state == State::Redriven || redriven.ids.contains(&id) {
        return Ok(Json(letter));
    }
    Err(if letter.is_whole() {
        conflict(
            "urn:problem-type:dead-letter-discarded",
            "The dead letter was discarded",
            "publish the message again by hand if it is needed after all",
        )
    } else {
        conflict(
            "urn:problem-type:dead-letter-truncated",
            "Only a part of the message is kept",
            "it was larger than 256 KiB (or had over 128 KiB of attributes); ask its publisher to send it again, \
             and discard it",
        )
    })
}

/// Which dead letters are to be sent again: those of `ids`, or `all` that match.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the fields that Fields reads")]
struct RedriveRequest {
    /// These, at most 500.
    ids: Option<Vec<String>>,
    /// All that are open, or those that match the other fields.
    all: Option<bool>,
    /// With `all`: only those that are here for this reason.
    #[schema(example = "exhausted")]
    reason: Option<String>,
    /// With `all`: only those of this topic.
    #[schema(example = "token-grant-requests")]
    topic: Option<String>,
}

/// What became of many dead letters.
#[derive(Debug, Serialize, ToSchema)]
struct RedriveReport {
    /// Those that were sent again by this call.
    #[schema(value_type = Vec<String>)]
    redriven: Vec<LetterId>,
    /// Those of `ids` that were not, and why.
    skipped: Vec<Skipped>,
    /// How many more match `all`: send the same request again for the next 500.
    remaining: u64,
}

/// A dead letter that was not sent again.
#[derive(Debug, Serialize, ToSchema)]
struct Skipped {
    /// Which.
    #[schema(value_type = String)]
    id: LetterId,
    /// Why not: `redriven` (before), `discarded`, `truncated` or `not_found`.
    #[schema(example = "redriven")]
    why: &'static str,
}

/// Send many dead letters again, up to 500 with one request.
///
/// Each is sent at most once, however often the request is repeated.
#[utoipa::path(
    post,
    path = "/dead-letters/redrive",
    operation_id = "redriveDeadLetters",
    tag = "dead letters",
    request_body(content = RedriveRequest, description = "`ids`, or `all`; in the query string only `all` and its filter."),
    responses(
        (status = 200, description = "What was sent again, and what was not.", body = RedriveReport),
        (status = 400, description = "A field breaks a rule, or the request cannot be read.", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is over 64 KiB.", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not JSON.", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same request again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn redrive_many(Shared(letters): Shared<DeadLetters>, request: Request) -> Result<Json<RedriveReport>, Error> {
    let selection = selection(request).await?;
    let redriven = letters.redrive(&selection).await?;
    let mut skipped = Vec::new();
    if let Selection::These(ids) = &selection {
        for id in ids.iter().filter(|id| !redriven.ids.contains(id)) {
            let why = match letters.find(*id).await? {
                None => "not_found",
                Some(letter) if !letter.is_whole() => "truncated",
                Some(letter) if letter.state == State::Discarded => "discarded",
                Some(_) => "redriven",
            };
            skipped.push(Skipped { id: *id, why });
        }
    }
    Ok(Json(RedriveReport { redriven: redriven.ids, skipped, remaining: redriven.remaining }))
}

async fn selection(request: Request) -> Result<Selection, Problem> {
    let mut fields = Fields::from_request(request, MAX_BODY_BYTES).await?;
    let all = fields.flag("all");
    let ids = fields.optional_list::<LetterId>("ids");
    let filter = Filter { state: None, reason: fields.optional("reason"), topic: topic(&mut fields) };
    let limit = usize::try_from(DeadLetters::REDRIVE_LIMIT).unwrap_or(usize::MAX);
    match &ids {
        Some(_) if all => fields.error("ids", "must be left out when all is true"),
        Some(ids) if ids.is_empty() || ids.len() > limit => fields.error("ids", format!("must be 1 to {limit} ids")),
        None if !all => fields.error("ids", "is missing; name the dead letters, or set all to true"),
        _ => {}
    }
    if !all && filter.reason.is_some() {
        fields.error("reason", "is a filter of all; it must be left out with ids");
    }
    if !all && filter.topic.is_some() {
        fields.error("topic", "is a filter of all; it must be left out with ids");
    }
    fields.finish()?;
    Ok(match ids {
        Some(mut ids) => {
            ids.sort_unstable();
            ids.dedup();
            Selection::These(ids)
        }
        None => Selection::All(filter),
    })
}

/// Decide that nothing is to be done about a dead letter.
///
/// It is marked, not deleted. Discarded before, it stays as it is: the answer is the same.
#[utoipa::path(
    post,
    path = "/dead-letters/{id}/discard",
    operation_id = "discardDeadLetter",
    tag = "dead letters",
    params(("id" = String, Path, description = "The dead letter's `id`.")),
    responses(
        (status = 200, description = "It is discarded, by this call or by an earlier one.", body = DeadLetter),
        (status = 400, description = "That can be no id.", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such dead letter.", body = Problem,
            content_type = "application/problem+json"),
        (status = 409, description = "It was sent again and has not come back.", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not now; send the same request again after `Retry-After` seconds.", body = Problem,
            content_type = "application/problem+json"),
    )
)]
async fn discard(
    Shared(letters): Shared<DeadLetters>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<DeadLetter>, Error> {
    let id = find(&letters, id).await?.id;
    letters.discard(id).await?;
    let letter = letters.find(id).await?.ok_or_else(not_found)?;
    if letter.state == State::Discarded {
        return Ok(Json(letter));
    }
    Err(conflict(
        "urn:problem-type:dead-letter-redriven",
        "The dead letter was sent again",
        "nothing is left to discard; if the message fails again, it is open again",
    ))
}
