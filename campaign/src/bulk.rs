//! Many requests in one upload: lines of JSON or of CSV, of any number, read in bounded memory.
//!
//! What a chunk of the body holds is decoded as far as it goes; the rest waits for the next. A line that cannot be read is
//! one bad line, with its number and its reason, and those behind it are read all the same.

use std::fmt::Write as _;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use csv_core::{ReadRecordResult, Reader};
use sha2::{Digest as _, Sha256};
use shared::http::FieldError;
use shared::http::fields::{Fields, Time};
use shared::id::{CampaignId, IdempotencyKey, TokenAmount, UserId, WalletAddress};
use shared::telemetry::TraceParent;

use crate::domain::admission::Arrival;

/// The most bytes that a line may have.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// The most columns that a line of CSV may have.
const MAX_COLUMNS: usize = 64;

/// The form of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A JSON object a line.
    Ndjson,
    /// Comma-separated values (RFC 4180), the names of the fields in the first line.
    Csv,
}

impl Format {
    /// The word that is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
        }
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ndjson" => Ok(Self::Ndjson),
            "csv" => Ok(Self::Csv),
            _ => Err("must be ndjson or csv"),
        }
    }
}

/// What holds for every line that does not say otherwise.
#[derive(Debug, Clone, Default)]
pub struct Defaults {
    /// For which campaign.
    pub campaign_id: Option<CampaignId>,
    /// How much.
    pub token_amount: Option<TokenAmount>,
    /// The caller's name for the upload.
    pub key: Option<IdempotencyKey>,
}

/// A line, by its number in the upload, from 1.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its number.
    pub number: u64,
    /// What it asks for, or why that cannot be read.
    pub arrival: Result<Arrival, String>,
}

/// Decodes an upload, chunk by chunk.
pub struct Decoder {
    defaults: Defaults,
    trace: TraceParent,
    lines: Lines,
}

enum Lines {
    Ndjson(Ndjson),
    Csv(Box<Csv>),
}

impl Decoder {
    /// A decoder at the beginning of an upload.
    #[must_use]
    pub fn new(format: Format, defaults: Defaults, trace: TraceParent) -> Self {
        let lines = match format {
            Format::Ndjson => Lines::Ndjson(Ndjson::default()),
            Format::Csv => Lines::Csv(Box::new(Csv::new())),
        };
        Self { defaults, trace, lines }
    }

    /// The lines that end in this chunk.
    pub fn feed(&mut self, chunk: &[u8]) -> Vec<Line> {
        let fields = match &mut self.lines {
            Lines::Ndjson(lines) => lines.feed(chunk),
            Lines::Csv(lines) => lines.feed(chunk),
        };
        fields.into_iter().map(|(number, fields)| self.line(number, fields)).collect()
    }

    /// The last line, if it does not end in a line break.
    pub fn finish(&mut self) -> Option<Line> {
        let (number, fields) = match &mut self.lines {
            Lines::Ndjson(lines) => lines.finish(),
            Lines::Csv(lines) => lines.finish(),
        }?;
        Some(self.line(number, fields))
    }

    fn line(&self, number: u64, fields: Result<Fields, String>) -> Line {
        Line { number, arrival: fields.and_then(|fields| arrival(fields, &self.defaults, self.trace)) }
    }
}

fn arrival(mut fields: Fields, defaults: &Defaults, trace: TraceParent) -> Result<Arrival, String> {
    let user_id: Option<UserId> = fields.required("user_id");
    let campaign_id = match &defaults.campaign_id {
        Some(campaign_id) => Some(fields.optional("campaign_id").unwrap_or_else(|| campaign_id.clone())),
        None => fields.required("campaign_id"),
    };
    let wallet_address = fields.optional("wallet_address");
    let token_amount = fields.optional_number("token_amount").or(defaults.token_amount);
    let expires_at: Option<DateTime<Utc>> = fields.optional::<Time>("expires_at").map(|Time(time)| time);
    let key = fields.optional("idempotency_key");
    fields.finish().map_err(|problem| told(&problem.errors))?;
    let (Some(user_id), Some(campaign_id)) = (user_id, campaign_id) else { return Err("is incomplete".to_owned()) };
    let key = key.or_else(|| Some(own_key(&campaign_id, &user_id, wallet_address, token_amount, defaults)));
    Ok(Arrival { user_id, campaign_id, wallet_address, token_amount, expires_at, key, trace })
}

/// The key of a line that has none: the same line of the same upload is the same request, however often it comes.
fn own_key(
    campaign_id: &CampaignId,
    user_id: &UserId,
    wallet_address: Option<WalletAddress>,
    token_amount: Option<TokenAmount>,
    defaults: &Defaults,
) -> IdempotencyKey {
    let line = (&defaults.key, campaign_id, user_id, wallet_address, token_amount);
    let hash = Sha256::digest(serde_json::to_vec(&line).expect("it is plain text and a number"));
    let mut key = String::from("bulk-");
    for byte in &hash[..16] {
        let _ = write!(key, "{byte:02x}");
    }
    key.parse().expect("it is short text")
}

fn told(errors: &[FieldError]) -> String {
    errors.iter().map(|error| format!("{} {}", error.field, error.rule)).collect::<Vec<_>>().join("; ")
}

/// Lines of JSON.
#[derive(Default)]
struct Ndjson {
    number: u64,
    rest: Vec<u8>,
    is_too_long: bool,
}

type Decoded = (u64, Result<Fields, String>);

impl Ndjson {
    fn feed(&mut self, chunk: &[u8]) -> Vec<Decoded> {
        let mut lines = Vec::new();
        let mut parts = chunk.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            self.keep(part);
            if parts.peek().is_some() {
                lines.extend(self.finish());
            }
        }
        lines
    }

    fn keep(&mut self, part: &[u8]) {
        self.is_too_long |= self.rest.len() + part.len() > MAX_LINE_BYTES;
        if self.is_too_long {
            self.rest.clear();
        } else {
            self.rest.extend_from_slice(part);
        }
    }

    /// The line that has ended; nothing for an empty one.
    fn finish(&mut self) -> Option<Decoded> {
        self.number += 1;
        let is_too_long = std::mem::take(&mut self.is_too_long);
        let line = std::mem::take(&mut self.rest);
        if is_too_long {
            return Some((self.number, Err(format!("must be at most {MAX_LINE_BYTES} bytes"))));
        }
        let line = line.trim_ascii();
        let read = || Fields::from_object(line).map_err(|problem| problem.detail.unwrap_or_default());
        (!line.is_empty()).then(|| (self.number, read()))
    }
}

/// Lines of CSV.
struct Csv {
    reader: Reader,
    output: Vec<u8>,
    ends: [usize; MAX_COLUMNS],
    /// How much of `output` and of `ends` the line has filled.
    filled: (usize, usize),
    names: Option<Vec<String>>,
    /// Whether the line is longer than it may be, and is skipped.
    is_skipped: bool,
    /// How many line breaks were read.
    breaks: u64,
}

impl Csv {
    fn new() -> Self {
        Self {
            reader: Reader::new(),
            output: vec![0; MAX_LINE_BYTES],
            ends: [0; MAX_COLUMNS],
            filled: (0, 0),
            names: None,
            is_skipped: false,
            breaks: 0,
        }
    }

    fn feed(&mut self, mut chunk: &[u8]) -> Vec<Decoded> {
        let mut lines = Vec::new();
        // To the reader, an empty input is the end.
        while !chunk.is_empty() {
            let read;
            (read, chunk) = self.step(chunk);
            lines.extend(read);
        }
        lines
    }

    fn finish(&mut self) -> Option<Decoded> {
        if self.filled == (0, 0) && !self.is_skipped {
            return None;
        }
        self.step(&[]).0
    }

    /// Reads up to the end of a line, or of the input.
    fn step<'a>(&mut self, input: &'a [u8]) -> (Option<Decoded>, &'a [u8]) {
        let (output, ends) = (&mut self.output[self.filled.0..], &mut self.ends[self.filled.1..]);
        let (result, read, written, ended) = self.reader.read_record(input, output, ends);
        self.filled.0 += written;
        self.filled.1 += ended;
        self.breaks += breaks_in(&input[..read]);
        let decoded = match result {
            ReadRecordResult::InputEmpty | ReadRecordResult::End => None,
            ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                (self.filled, self.is_skipped) = ((0, 0), true);
                None
            }
            ReadRecordResult::Record => {
                let is_skipped = std::mem::take(&mut self.is_skipped);
                let (length, columns) = std::mem::take(&mut self.filled);
                // What ends a line is not part of it, and what is quoted may have line breaks of its own.
                let own = u64::from(input[..read].ends_with(b"\n")) + breaks_in(&self.output[..length]);
                let number = (self.breaks + 1).saturating_sub(own);
                if is_skipped {
                    Some((number, Err(format!("must be at most {MAX_LINE_BYTES} bytes and {MAX_COLUMNS} columns"))))
                } else {
                    self.record(number, columns)
                }
            }
        };
        (decoded, &input[read..])
    }

    fn record(&mut self, number: u64, columns: usize) -> Option<Decoded> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let cells =
            starts.zip(&self.ends[..columns]).map(|(start, end)| String::from_utf8(self.output[start..*end].to_vec()));
        let cells: Vec<_> = match cells.collect::<Result<_, _>>() {
            Ok(cells) => cells,
            Err(_) => return Some((number, Err("must be UTF-8".to_owned()))),
        };
        let Some(names) = &self.names else {
            let trimmed = |(place, name): (usize, String)| {
                let name = if place == 0 { name.trim_start_matches('\u{feff}') } else { &name };
                name.trim().to_owned()
            };
            self.names = Some(cells.into_iter().enumerate().map(trimmed).collect());
            return None;
        };
        if names.len() != cells.len() {
            return Some((number, Err(format!("must have {} columns, and has {}", names.len(), cells.len()))));
        }
        // A cell with nothing in it says nothing.
        let given = names.iter().cloned().zip(cells).filter(|(_, cell)| !cell.is_empty());
        Some((number, Ok(Fields::from_pairs(given))))
    }
}

fn breaks_in(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the lines of an upload come to, in words.
    fn decode(format: Format, body: &[u8], chunk: usize) -> Vec<(u64, String)> {
        let mut decoder = Decoder::new(format, Defaults::default(), TraceParent::new());
        let mut lines: Vec<_> = body.chunks(chunk.max(1)).flat_map(|chunk| decoder.feed(chunk)).collect();
        lines.extend(decoder.finish());
        let told = |line: Line| match line.arrival {
            Ok(arrival) => {
                let amount = arrival.token_amount.map_or(0, TokenAmount::whole_tokens);
                (line.number, format!("{} {} {amount}", arrival.user_id, arrival.campaign_id))
            }
            Err(reason) => (line.number, reason),
        };
        lines.into_iter().map(told).collect()
    }

    #[test]
    fn lines_of_json_are_read_and_bad_ones_named() {
        let body = b"{\"user_id\":\"a\",\"campaign_id\":\"c\"}\n\n  {\"user_id\":\"b\",\"campaign_id\":\"c\",\"token_amount\":7} \r\n\
            {\"user_id\":\"\"}\nnonsense\n{\"user_id\":\"d\",\"campaign_id\":\"c\",\"wallet\":1}\n[1]\n{\"user_id\":\"e\",\"campaign_id\":\"c\"}";
        let lines = decode(Format::Ndjson, body, 1000);
        let told: Vec<_> = lines.iter().map(|(number, told)| (*number, told.as_str())).collect();
        assert_eq!(told[..2], [(1, "a c 0"), (3, "b c 7")]);
        assert_eq!(told[2], (4, "user_id must not be blank; campaign_id is missing"));
        assert!(
            told[3].0 == 5 && told[3].1.starts_with("the body is not JSON") || told[3].1.contains("JSON"),
            "{told:?}"
        );
        assert_eq!(told[4], (6, "wallet is not a field of this request"));
        assert_eq!((told[5].0, told[6]), (7, (8, "e c 0")));
    }

    #[test]
    fn lines_of_csv_are_read_and_bad_ones_named() {
        let body =
            "\u{feff}user_id,campaign_id,token_amount\r\na,c,\nb,\"c,\n\"\"d\"\"\",7\n,c,1\nonly one\n\ne,c,x\nf,c,9";
        assert_eq!(
            decode(Format::Csv, body.as_bytes(), 1000),
            [
                (2, "a c 0".to_owned()),
                (3, "campaign_id must not hold control characters, nor begin or end with white space".to_owned()),
                (5, "user_id is missing".to_owned()),
                (6, "must have 3 columns, and has 1".to_owned()),
                (8, "token_amount must be a whole number of tokens from 1 to 1000000000".to_owned()),
                (9, "f c 9".to_owned()),
            ]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_one_bad_line() {
        let long = "x".repeat(3 * MAX_LINE_BYTES);
        let good = "{\"user_id\":\"a\",\"campaign_id\":\"c\"}\n";
        let lines = decode(Format::Ndjson, format!("{good}{long}\n{good}").as_bytes(), 999);
        assert_eq!(lines.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(lines[1].1.contains("65536 bytes") && lines[2].1 == "a c 0", "{lines:?}");
        let lines = decode(Format::Csv, format!("user_id,campaign_id\na,c\n{long},c\nb,c\n").as_bytes(), 999);
        assert_eq!(lines.len(), 3);
        assert!(lines[1].1.contains("65536 bytes") && lines[2].1 == "b c 0", "{lines:?}");
    }

    #[test]
    fn the_same_line_is_the_same_request() {
        let key = |line: &str, upload: Option<&str>| {
            let key = upload.map(|key| key.parse().unwrap());
            let mut decoder = Decoder::new(Format::Ndjson, Defaults { key, ..Defaults::default() }, TraceParent::new());
            decoder.feed(format!("{line}\n").as_bytes()).remove(0).arrival.unwrap().key.unwrap()
        };
        let line = r#"{"user_id":"a","campaign_id":"c"}"#;
        assert_eq!(key(line, None), key(r#" {"campaign_id":"c", "user_id":"a"}"#, None));
        assert_ne!(key(line, None), key(r#"{"user_id":"a","campaign_id":"c","token_amount":7}"#, None));
        assert_ne!(key(line, None), key(line, Some("november")));
        let own = r#"{"user_id":"a","campaign_id":"c","idempotency_key":"mine"}"#;
        assert_eq!(key(own, Some("november")).as_str(), "mine");
    }

    proptest! {
        #[test]
        fn where_a_chunk_ends_makes_no_difference(chunk in 1..40_usize, csv: bool, noise: Vec<u8>) {
            let format = if csv { Format::Csv } else { Format::Ndjson };
            let mut body = b"user_id,campaign_id\na,c\n\"b\"\"\",\"c\"\r\n{\"user_id\":\"a\",\"campaign_id\":\"c\"}\n".to_vec();
            body.extend(noise);
            prop_assert_eq!(decode(format, &body, chunk), decode(format, &body, usize::MAX));
        }
    }
}
