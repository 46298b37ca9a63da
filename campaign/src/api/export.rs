//! Whole lists as files: newline-delimited JSON or CSV (RFC 4180), streamed a page at a time, in bounded memory.
//!
//! A file that breaks off because the database failed ends without the end of its last chunk, so that a client notices.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use shared::db;
use utoipa::ToSchema;

/// How many elements are read at a time.
pub(super) const PAGE: u16 = 500;

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ToSchema)]
#[schema(rename_all = "snake_case")]
pub(super) enum Format {
    /// A page, as a JSON object.
    #[default]
    Json,
    /// Everything that matches, one JSON object a line.
    Ndjson,
    /// Everything that matches, as comma-separated values with a header.
    Csv,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "ndjson" => Ok(Self::Ndjson),
            "csv" => Ok(Self::Csv),
            _ => Err("must be json, ndjson or csv"),
        }
    }
}

/// Everything, page by page: `next` reads the page at a cursor and says where the next one begins, if there is one. A file
/// of CSV has these columns: members of the elements.
pub(super) fn stream<T, C, F>(
    format: Format,
    columns: &'static [&'static str],
    first: C,
    next: impl Fn(C) -> F + Send + 'static,
) -> Response
where
    T: Serialize + Send + 'static,
    C: Send + 'static,
    F: Future<Output = db::Result<(Vec<T>, Option<C>)>> + Send + 'static,
{
    let head = if format == Format::Csv { row(columns.iter().copied()) } else { Bytes::new() };
    let pages = stream::try_unfold((Some(first), next, head), move |(cursor, next, mut head)| async move {
        let Some(cursor) = cursor else { return Ok(None) };
        let (elements, following) = next(cursor).await.inspect_err(|error| {
            tracing::error!(%error, "an export broke off");
        })?;
        let mut text = Vec::from(std::mem::take(&mut head));
        for element in &elements {
            // Never through a map of values, which would put the members of what is sealed in another order.
            let line = serde_json::to_string(element).map_err(std::io::Error::other)?;
            match format {
                Format::Csv => {
                    let members: BTreeMap<String, &RawValue> =
                        serde_json::from_str(&line).map_err(std::io::Error::other)?;
                    let cells = columns.iter().map(|column| members.get(*column).map_or_else(String::new, cell));
                    text.extend_from_slice(&row(cells));
                }
                Format::Json | Format::Ndjson => {
                    text.extend_from_slice(line.as_bytes());
                    text.push(b'\n');
                }
            }
        }
        Ok::<_, Failure>(Some((Bytes::from(text), (following, next, Bytes::new()))))
    });
    let kind = if format == Format::Csv { "text/csv; charset=utf-8; header=present" } else { "application/x-ndjson" };
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], Body::from_stream(pages)).into_response()
}

/// Why an export broke off.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Database(#[from] db::Error),
    #[error(transparent)]
    Form(#[from] std::io::Error),
}

fn row(cells: impl Iterator<Item = impl AsRef<[u8]>>) -> Bytes {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    writer.write_record(cells).expect("memory takes what is written");
    writer.into_inner().expect("memory takes what is written").into()
}

/// A member as it is shown in a cell: a text by itself, what is null as nothing, all else as JSON, to the letter.
fn cell(member: &&RawValue) -> String {
    match serde_json::from_str(member.get()) {
        Ok(Value::Null) => String::new(),
        // A spreadsheet takes what begins like this for a formula.
        Ok(Value::String(text)) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
        Ok(Value::String(text)) => text,
        _ => member.get().to_owned(),
    }
}
