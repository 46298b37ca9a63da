//! Keeping what failed: each message is one row, however often it is delivered and however often it fails.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{Failure, LetterId, MAX_ATTRIBUTE_BYTES, MAX_DETAIL_CHARS, MAX_PAYLOAD_BYTES};
use crate::db::{self, Tx};
use crate::outbox;
use crate::random::ascending_uuid;

/// What keeping a failure came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// A row that was not there.
    New(LetterId),
    /// The row that it was redriven from is open again.
    Again(LetterId),
    /// The same failure was kept before.
    Known,
}

/// Keeps messages that failed, together with whatever else is in the transaction.
///
/// # Errors
///
/// When the database refuses.
pub async fn keep(tx: &mut Tx, failures: &[Failure], now: DateTime<Utc>) -> db::Result<Vec<Kept>> {
    let mut kept = Vec::with_capacity(failures.len());
    for failure in failures {
        let row = NewLetter::new(failure, now);
        let payload = failure.data.get(..MAX_PAYLOAD_BYTES).unwrap_or(&failure.data);
        kept.push(match reopen(tx, failure, &row, payload).await? {
            Some(kept) => kept,
            None => insert(tx, &row, payload).await?,
        });
    }
    Ok(kept)
}

db::row! {
    #[derive(Debug)]
    struct NewLetter {
        id: LetterId => text,
        topic: &'static str => text,
        source: &'static str => text,
        message_id: String => text,
        published_at: i64 => bigint,
        reason: &'static str => text,
        detail: String => text,
        request_id: Option<String> => text,
        payload_bytes: usize => bigint,
        attributes: String => text,
        attributes_dropped: usize => bigint,
        now: i64 => bigint,
        /// Of the row that the message was redriven from.
        earlier_id: Option<LetterId> => text,
        attempt: Option<u32> => bigint,
    }
}

impl NewLetter {
    fn new(failure: &Failure, now: DateTime<Utc>) -> Self {
        let mut room = MAX_ATTRIBUTE_BYTES;
        let fits = |(name, value): &(&String, &String)| {
            let rest = room.checked_sub(name.len() + value.len());
            room = rest.unwrap_or(room);
            rest.is_some()
        };
        let attributes: BTreeMap<_, _> = failure.attributes.iter().filter(fits).collect();
        let (earlier_id, attempt) = failure.redriven_from().unzip();
        Self {
            id: LetterId(ascending_uuid(now)),
            topic: failure.topic.name(),
            source: failure.source.as_str(),
            message_id: failure.message_id.clone(),
            published_at: failure.published_at.timestamp_micros(),
            reason: failure.reason.as_str(),
            detail: failure.detail.chars().take(MAX_DETAIL_CHARS).collect(),
            request_id: failure.request_id().map(|id| id.to_string()),
            payload_bytes: failure.data.len(),
            attributes_dropped: failure.attributes.len() - attributes.len(),
            attributes: outbox::json(&attributes),
            now: now.timestamp_micros(),
            earlier_id,
            attempt,
        }
    }
}

/// If the message was redriven from a row, which has its very body, opens that again, once for each attempt.
async fn reopen(tx: &mut Tx, failure: &Failure, row: &NewLetter, payload: &[u8]) -> db::Result<Option<Kept>> {
    let Some((id, _)) = failure.redriven_from() else { return Ok(None) };
    let rows = db::rows(std::slice::from_ref(row));
    let reopened = sqlx::query(db::sql!(
        "-- dead_letter::reopen
             update dead_letter set state = 'open', reason = letter.reason, detail = letter.detail,
                                    attempts = letter.attempt, last_failed_at = letter.now
             from (",
        NewLetter::SELECT,
        ") letter
             where dead_letter.id = letter.earlier_id and dead_letter.topic = letter.topic
               and dead_letter.payload = $2 and dead_letter.state = 'redriven'
               and dead_letter.attempts = letter.attempt - 1"
    ))
    .bind(&rows)
    .bind(payload.to_vec())
    .execute(&mut **tx)
    .await?;
    if reopened.rows_affected() > 0 {
        return Ok(Some(Kept::Again(id)));
    }
    let known = sqlx::query(db::sql!(
        "-- dead_letter::reopened_before\n select d.id from (",
        NewLetter::SELECT,
        ") letter join dead_letter d on d.id = letter.earlier_id
               where d.topic = letter.topic and d.payload = $2 and d.attempts >= letter.attempt"
    ))
    .bind(&rows)
    .bind(payload.to_vec())
    .fetch_optional(&mut **tx)
    .await?;
    Ok(known.map(|_| Kept::Known))
}

async fn insert(tx: &mut Tx, row: &NewLetter, payload: &[u8]) -> db::Result<Kept> {
    let inserted = sqlx::query(db::sql!(
        "-- dead_letter::insert
             insert into dead_letter (id, topic, source, message_id, published_at, reason, detail, state, request_id,
                                      payload, payload_bytes, attributes, attributes_dropped, attempts, first_failed_at,
                                      last_failed_at)
             select id, topic, source, message_id, published_at, reason, detail, 'open', request_id, $2, payload_bytes,
                    attributes, attributes_dropped, 1, now, now
             from (",
        NewLetter::SELECT,
        ") letter where true
             on conflict (topic, source, message_id, published_at) do nothing"
    ))
    .bind(db::rows(std::slice::from_ref(row)))
    .bind(payload.to_vec())
    .execute(&mut **tx)
    .await?;
    Ok(if inserted.rows_affected() > 0 { Kept::New(row.id) } else { Kept::Known })
}

/// Counts and logs what was kept, once it is committed.
pub(crate) fn observe(failures: &[Failure], kept: &[Kept]) {
    for (failure, kept) in failures.iter().zip(kept) {
        let (Kept::New(dead_letter_id) | Kept::Again(dead_letter_id)) = kept else { continue };
        let (topic, reason) = (failure.topic.name(), failure.reason.as_str());
        metrics::counter!("messages_dead_lettered_total", "topic" => topic, "reason" => reason).increment(1);
        let detail: String = failure.detail.chars().take(200).collect();
        tracing::warn!(
            %dead_letter_id,
            topic,
            reason,
            detail,
            request_id = failure.request_id().map(tracing::field::display),
            "message set aside; GET /dead-letters/{dead_letter_id} shows it"
        );
    }
}
