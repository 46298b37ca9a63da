//! The ledger's form: what happened, in order, each entry sealed by a hash over itself and the seal before it.
//!
//! Whoever has seen one seal can tell later whether anything up to it was changed. The campaign service writes such a
//! ledger; the auditor reads it over HTTP and remembers how far it was, and with which seal.

use std::fmt;
use std::str::FromStr;

use alloy::hex;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_with::{DeserializeFromStr, SerializeDisplay};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::id::Actor;

/// What an entry is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// A grant, by its request id.
    Grant,
    /// A campaign, by its id.
    Campaign,
    /// The service as a whole.
    Service,
}

impl Stream {
    /// The word that is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Campaign => "campaign",
            Self::Service => "service",
        }
    }
}

/// The text names no stream.
#[derive(Debug, thiserror::Error)]
#[error("must be grant, campaign or service")]
pub struct UnknownStream;

impl FromStr for Stream {
    type Err = UnknownStream;

    fn from_str(text: &str) -> Result<Self, UnknownStream> {
        [Self::Grant, Self::Campaign, Self::Service]
            .into_iter()
            .find(|stream| stream.as_str() == text)
            .ok_or(UnknownStream)
    }
}

/// Why it happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cause {
    /// Who: a part of the system, or whom a request named.
    #[schema(value_type = String, example = "client")]
    pub actor: Actor,
    /// The Pub/Sub message that brought it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The trace it belongs to, 32 hexadecimal digits (W3C Trace Context).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

impl Cause {
    /// A cause of which only the actor is known.
    #[must_use]
    pub fn by(actor: Actor) -> Self {
        Self { actor, message_id: None, trace_id: None }
    }
}

/// A line of the ledger.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Entry {
    /// Its number: 1 for the first, without gaps.
    pub sequence: u64,
    /// When, UTC, in whole microseconds; never earlier than the entry before it.
    pub at: DateTime<Utc>,
    /// What it is about.
    pub stream: Stream,
    /// Which one of them.
    pub subject: String,
    /// What happened.
    #[schema(example = "Completed")]
    pub kind: String,
    /// The form of `data`: the ledger is never rewritten, so that old entries keep their old form.
    pub schema_version: u32,
    /// Why it happened.
    pub cause: Cause,
    /// The details, by name.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
    /// SHA-256 over the seal before and all that stands above, 64 hexadecimal digits. See [`Entry::seal_after`].
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub seal: Seal,
}

impl Entry {
    /// What `seal` must be if `previous` is the seal of the entry before: SHA-256 of the compact JSON array `[previous,
    /// sequence, at in microseconds since the Unix epoch, stream, subject, kind, schema_version, actor, message_id,
    /// trace_id, data as text]`.
    ///
    /// # Panics
    ///
    /// Never: texts and numbers are JSON.
    #[must_use]
    pub fn seal_after(&self, previous: Seal) -> Seal {
        let sealed = (
            previous,
            self.sequence,
            self.at.timestamp_micros(),
            self.stream.as_str(),
            &self.subject,
            &self.kind,
            self.schema_version,
            &self.cause.actor,
            &self.cause.message_id,
            &self.cause.trace_id,
            self.data.get(),
        );
        // All beside the data is short.
        let mut text = Vec::with_capacity(512 + self.data.get().len());
        serde_json::to_writer(&mut text, &sealed).expect("texts and numbers are JSON");
        Seal(Sha256::digest(text).into())
    }
}

/// The hash that seals an entry and all before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, SerializeDisplay, DeserializeFromStr)]
pub struct Seal([u8; 32]);

impl Seal {
    /// What stands before the first entry.
    pub const NONE: Self = Self([0; 32]);
}

/// The text is no seal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 64 hexadecimal digits")]
pub struct InvalidSeal;

impl FromStr for Seal {
    type Err = InvalidSeal;

    fn from_str(text: &str) -> Result<Self, InvalidSeal> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidSeal)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        serde_json::from_str(
            r#"{"sequence": 7, "at": "2026-01-02T03:04:05.000006Z", "stream": "grant", "subject": "r-1",
                "kind": "Completed", "schema_version": 2, "cause": {"actor": "blockchain", "message_id": "12"},
                "data": {"block_number": 3}, "seal": "0000000000000000000000000000000000000000000000000000000000000000"}"#,
        )
        .unwrap()
    }

    // Worked out with sha256sum from the array that the documentation names.
    #[test]
    fn a_seal_is_what_anybody_can_work_out() {
        let text = format!(
            r#"["{}",7,1767323045000006,"grant","r-1","Completed",2,"blockchain","12",null,"{{\"block_number\": 3}}"]"#,
            Seal::NONE
        );
        assert_eq!(entry().seal_after(Seal::NONE), Seal(Sha256::digest(text).into()));
        insta::assert_snapshot!(entry().seal_after(Seal::NONE), @"c8eef47ed9a729786bdaf1f74782ad75576cda0a627d33fe450369900adb9cb2");
    }

    #[test]
    fn a_seal_depends_on_all_that_it_seals() {
        let seal = entry().seal_after(Seal::NONE);
        let changes: [fn(&mut Entry); 8] = [
            |entry| entry.sequence += 1,
            |entry| entry.at += chrono::TimeDelta::microseconds(1),
            |entry| entry.stream = Stream::Campaign,
            |entry| entry.subject.push('0'),
            |entry| entry.kind.push('0'),
            |entry| entry.schema_version += 1,
            |entry| entry.cause.message_id = None,
            |entry| entry.data = RawValue::from_string("{}".into()).unwrap(),
        ];
        for change in changes {
            let mut other = entry();
            change(&mut other);
            assert_ne!(other.seal_after(Seal::NONE), seal);
        }
        assert_ne!(entry().seal_after(seal), seal);
        let same: Entry = serde_json::from_str(&serde_json::to_string(&entry()).unwrap()).unwrap();
        assert_eq!(same.seal_after(Seal::NONE), seal);
    }
}
