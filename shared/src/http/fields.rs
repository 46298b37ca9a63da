//! The fields of a request, from its query string or its JSON body, checked all at once.
//!
//! Each field is parsed by its own type. A field that nobody asked for is refused too: a misspelt `wallet_address` must
//! not pay somebody else.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use axum::extract::{FromRequest, Query, Request};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::Value;
use serde_json::error::Category;

use super::{FieldError, Problem};
use crate::clock;
use crate::members::Members;

/// The fields that are still to be read, and the rules that were broken so far.
#[derive(Debug, Default)]
pub struct Fields {
    values: BTreeMap<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    /// The fields of the query string.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn from_query(uri: &Uri) -> Result<Self, Problem> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|error| Problem::malformed(StatusCode::BAD_REQUEST).detail(error.to_string()))?;
        let mut fields = Self::default();
        for (name, text) in pairs {
            // What percent-encodes no character was decoded to this one, and would be another's id.
            if text.contains(char::REPLACEMENT_CHARACTER) {
                fields.error(name.clone(), "must be UTF-8, without U+FFFD");
            }
            fields.insert(name, Value::String(text));
        }
        Ok(fields)
    }

    /// The fields of the query string or of the body, a JSON object of at most so many bytes (what the route allows); not
    /// of both.
    ///
    /// # Errors
    ///
    /// When they cannot be read, or stand in both.
    pub async fn from_request(request: Request, max_body_bytes: usize) -> Result<Self, Problem> {
        let query = Self::from_query(request.uri())?;
        let is_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
        let body = Bytes::from_request(request, &()).await.map_err(|rejection| {
            Problem::malformed(rejection.status())
                .detail(format!("the body must be at most {max_body_bytes} bytes and arrive complete"))
        })?;
        if body.is_empty() {
            return Ok(query);
        }
        if !is_json {
            return Err(Problem::malformed(StatusCode::UNSUPPORTED_MEDIA_TYPE)
                .detail("a body must be JSON, with the header Content-Type: application/json"));
        }
        let fields = Self::from_object(&body)?;
        if !query.values.is_empty() {
            return Err(Problem::malformed(StatusCode::BAD_REQUEST)
                .detail("give the fields in the query string or in the body, not in both"));
        }
        Ok(fields)
    }

    /// The fields of a JSON object.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn from_object(text: &[u8]) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::malformed(StatusCode::BAD_REQUEST).detail(detail);
        let Members(members) = serde_json::from_slice(text).map_err(|error| match error.classify() {
            Category::Data => bad("the body must be a JSON object".to_owned()),
            _ => bad(format!("the body is not JSON: {error}")),
        })?;
        let mut fields = Self::default();
        for (name, value) in members {
            fields.insert(name, value);
        }
        Ok(fields)
    }

    /// Fields that are texts.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut fields = Self::default();
        for (name, text) in pairs {
            fields.insert(name, Value::String(text));
        }
        fields
    }

    /// Takes a header as a field of the same name; the query string or the body may give it too, as `alias`.
    pub fn add_header(&mut self, headers: &HeaderMap, name: &'static str, alias: &str) {
        if let Some(value) = self.values.remove(alias) {
            self.insert(name.to_owned(), value);
        }
        for value in headers.get_all(name) {
            match value.to_str() {
                Ok(text) => self.insert(name.to_owned(), Value::String(text.to_owned())),
                Err(_) => self.error(name, "must be visible ASCII"),
            }
        }
    }

    /// Notes a field that is missing, and says whether it is there.
    pub fn require(&mut self, name: &'static str) -> bool {
        let is_there = !matches!(self.values.get(name), None | Some(Value::Null));
        if !is_there {
            self.values.remove(name);
            self.error(name, "is missing");
        }
        is_there
    }

    /// A field of text that must be there.
    pub fn required<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Option<T> {
        if self.require(name) { self.optional(name) } else { None }
    }

    /// A field of text that may be left out. JSON's `null` leaves it out too.
    pub fn optional<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Option<T> {
        match self.values.remove(name)? {
            Value::Null => None,
            Value::String(text) => self.parse(name, &text),
            _ => {
                self.error(name, "must be text");
                None
            }
        }
    }

    /// A number that may be left out: JSON's, or the text of one.
    pub fn optional_number<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Option<T> {
        if let Some(Value::Number(number)) = self.values.get(name) {
            let text = number.to_string();
            self.values.insert(name.to_owned(), Value::String(text));
        }
        self.optional(name)
    }

    /// A field that can be given, taken away by `null`, or not be mentioned: text, or a number.
    pub fn nullable<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Nullable<T> {
        if matches!(self.values.get(name), Some(Value::Null)) {
            self.values.remove(name);
            return Nullable::Null;
        }
        self.optional_number(name).map_or(Nullable::Absent, Nullable::Value)
    }

    fn parse<T: FromStr<Err: Display>>(&mut self, name: &'static str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.error(name, error.to_string());
                None
            }
        }
    }

    /// A list of texts that may be left out; each of them by the parser of its type.
    pub fn optional_list<T: FromStr<Err: Display>>(&mut self, name: &'static str) -> Option<Vec<T>> {
        let Value::Array(values) = self.values.remove(name).filter(|value| !value.is_null())? else {
            self.error(name, "must be a list of texts");
            return None;
        };
        let mut list = Vec::with_capacity(values.len());
        for (position, value) in values.iter().enumerate() {
            match value.as_str().map(str::parse::<T>) {
                Some(Ok(value)) => list.push(value),
                Some(Err(error)) => self.error(format!("{name}[{position}]"), error.to_string()),
                None => self.error(format!("{name}[{position}]"), "must be text"),
            }
        }
        Some(list)
    }

    /// `true` or `false`, and `false` where it is left out: JSON's, or the text of one.
    pub fn flag(&mut self, name: &'static str) -> bool {
        match self.values.remove(name) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => value,
            Some(Value::String(text)) if text == "true" || text == "false" => text == "true",
            Some(_) => {
                self.error(name, "must be true or false");
                false
            }
        }
    }

    /// `true` or `false`, which must be there.
    pub fn required_flag(&mut self, name: &'static str) -> bool {
        self.require(name) && self.flag(name)
    }

    /// Refuses the request if any rule was broken, or any field is left over.
    ///
    /// # Errors
    ///
    /// All the rules that were broken, each with its field.
    pub fn finish(mut self) -> Result<(), Problem> {
        for name in std::mem::take(&mut self.values).into_keys() {
            self.error(name, "is not a field of this request");
        }
        if self.errors.is_empty() { Ok(()) } else { Err(Problem::invalid_request(self.errors)) }
    }

    fn insert(&mut self, name: String, value: Value) {
        if self.values.insert(name.clone(), value).is_some() {
            self.error(name, "is given more than once");
        }
    }

    /// Notes that a field breaks a rule.
    pub fn error(&mut self, field: impl Into<Cow<'static, str>>, rule: impl Into<String>) {
        self.errors.push(FieldError { field: field.into(), rule: rule.into() });
    }
}

/// A field that can be given, taken away, or not be mentioned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Nullable<T> {
    /// It is not mentioned.
    #[default]
    Absent,
    /// It is taken away.
    Null,
    /// It is given.
    Value(T),
}

impl<T> Nullable<T> {
    /// What it makes of what was there before.
    pub fn over(self, before: Option<T>) -> Option<T> {
        match self {
            Self::Absent => before,
            Self::Null => None,
            Self::Value(value) => Some(value),
        }
    }

    /// The same, of another type.
    pub fn map<U>(self, to: impl FnOnce(T) -> U) -> Nullable<U> {
        match self {
            Self::Absent => Nullable::Absent,
            Self::Null => Nullable::Null,
            Self::Value(value) => Nullable::Value(to(value)),
        }
    }
}

/// A time, as RFC 3339 writes it.
#[derive(Debug, Clone, Copy)]
pub struct Time(pub DateTime<Utc>);

impl FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let time = DateTime::parse_from_rfc3339(text)
            .map_err(|_| "must be a time as RFC 3339 has it, such as 2026-12-24T18:00:00Z")?;
        // The stores keep microseconds.
        Ok(Self(clock::from_micros(time.timestamp_micros())))
    }
}

/// A text for people: 1 to 1,000 bytes.
#[derive(Debug, Clone)]
pub struct Remark(pub String);

impl FromStr for Remark {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = !text.trim().is_empty() && text.len() <= 1000 && !text.contains('\0');
        fits.then(|| Self(text.to_owned())).ok_or("must be text of 1 to 1000 bytes")
    }
}

/// How many elements a page has at most: 1 to 500.
#[derive(Debug, Clone, Copy)]
pub struct Limit(pub u16);

impl FromStr for Limit {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            Ok(limit @ 1..=500) => Ok(Self(limit)),
            _ => Err("must be a number from 1 to 500"),
        }
    }
}
