//! Writing the ledger: one writer at a time, on either database.
//!
//! A transaction that writes begins by locking the ledger's head, so it sees all that was written before it, and two of
//! them can neither cross nor wait for each other in a circle. What it records is applied to the tables that people read,
//! sealed, and committed together with its messages.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use shared::db::{self, Tx, Writes};
use shared::fail_point;
use shared::id::{CampaignId, RequestId};
use shared::ledger::{Cause, Entry, Seal, Stream};
use shared::outbox::{self, Pending};
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row};

use super::Store;
use super::projection::Projection;
use super::recent::Memory;
use crate::domain::event::{CampaignEvent, GrantEvent, Requested, ServiceEvent, VERSION};
use crate::domain::{Effect, Grant};

/// A transaction that writes the ledger. Dropped before its [`commit`](Self::commit), it has done nothing.
pub(super) struct Ledger {
    pub(super) tx: Tx,
    /// The tables that people read, as far as they are loaded.
    pub(super) projection: Projection,
    memory: Memory,
    /// Where the ledger ended when this began.
    found: Head,
    head: Head,
    entries: Vec<Entry>,
    messages: Vec<Pending>,
}

/// Where the ledger ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) next_grant_index: u64,
    pub(super) sequence: u64,
    pub(super) at: DateTime<Utc>,
    pub(super) seal: Seal,
}

/// Locks the head until the end of the transaction.
pub(super) async fn lock(connection: &mut AnyConnection) -> db::Result<Head> {
    let row = sqlx::query(
        "-- ledger::lock
         update deployment set sequence = sequence returning next_grant_index, sequence, at, seal",
    )
    .fetch_one(connection)
    .await?;
    read_head(&row)
}

/// The head as it is, for whoever writes nothing.
pub(super) async fn head(connection: &mut AnyConnection) -> db::Result<Head> {
    let row = sqlx::query("-- ledger::head\n select next_grant_index, sequence, at, seal from deployment")
        .fetch_one(connection)
        .await?;
    read_head(&row)
}

fn read_head(row: &AnyRow) -> db::Result<Head> {
    Ok(Head {
        next_grant_index: db::unsigned(row, "next_grant_index")?,
        sequence: db::unsigned(row, "sequence")?,
        at: db::time(row, "at")?,
        seal: db::parse(row, "seal")?,
    })
}

impl Store {
    /// Begins a transaction that may write the ledger: the durable step of this name.
    pub(super) async fn ledger(&self, step: &'static str, now: DateTime<Utc>) -> db::Result<Ledger> {
        self.ledger_in(self.database.begin(step).await?, now).await
    }

    /// Writes the ledger in a transaction that has begun.
    pub(super) async fn ledger_in(&self, mut tx: Tx, now: DateTime<Utc>) -> db::Result<Ledger> {
        let found = lock(&mut tx).await?;
        let projection = Projection::with(self.memory.take(found));
        // Clocks of several processes differ, and the ledger's time does not go back.
        let head = Head { at: found.at.max(now), ..found };
        let (memory, entries, messages) = (self.memory.clone(), Vec::new(), Vec::new());
        Ok(Ledger { tx, projection, memory, found, head, entries, messages })
    }
}

impl Ledger {
    /// The time at which everything in this transaction happens.
    pub(super) fn at(&self) -> DateTime<Utc> {
        self.head.at
    }

    /// The number of the next grant.
    pub(super) fn next_grant_index(&self) -> u64 {
        self.head.next_grant_index
    }

    /// Loads those of the grants that exist, to record what happened to them.
    pub(super) async fn load_grants(&mut self, ids: &[&RequestId]) -> db::Result<()> {
        self.projection.load_grants(&mut self.tx, ids).await
    }

    /// Makes a grant; its campaign is loaded.
    pub(super) fn grant(&mut self, requested: Requested, cause: Cause) -> Grant {
        let request_id = RequestId::unique(self.head.at);
        self.head.next_grant_index += 1;
        let event = GrantEvent::Requested(requested);
        self.projection.apply_grant(&request_id, &event, self.head.at, self.next_sequence());
        self.enter(Stream::Grant, request_id.as_str(), event.kind(), event.data(), cause);
        self.projection.grant(&request_id).expect("it was made above").clone()
    }

    /// Records what happened to a grant that is loaded, if it is news; says what it did.
    pub(super) fn record(&mut self, request_id: &RequestId, event: &GrantEvent, cause: &Cause) -> Effect {
        let effect = self.projection.apply_grant(request_id, event, self.head.at, self.next_sequence());
        if matches!(effect, Effect::Moved | Effect::Noted) {
            self.enter(Stream::Grant, request_id.as_str(), event.kind(), event.data(), cause.clone());
        }
        effect
    }

    /// Records what came too late to do anything, unless that is recorded already.
    pub(super) async fn record_late(&mut self, late: Vec<(RequestId, GrantEvent, Cause)>) -> db::Result<()> {
        for (request_id, event, cause) in late {
            let (kind, data) = (event.kind(), event.data());
            let is_new = |entry: &Entry| {
                (entry.subject.as_str(), entry.kind.as_str(), entry.data.get()) != (request_id.as_str(), kind, &data)
            };
            if self.entries.iter().all(is_new) && !self.knows(&request_id, kind, &data).await? {
                self.enter(Stream::Grant, request_id.as_str(), kind, data, cause);
            }
        }
        Ok(())
    }

    async fn knows(&mut self, request_id: &RequestId, kind: &str, data: &str) -> db::Result<bool> {
        let known = sqlx::query(
            "-- ledger::knows
             select 1 from event where stream = 'grant' and subject = $1 and kind = $2 and data = $3 limit 1",
        )
        .bind(request_id.as_str())
        .bind(kind)
        .bind(data)
        .fetch_optional(&mut *self.tx)
        .await?;
        Ok(known.is_some())
    }

    /// Records what happened to a campaign; returns the number of the entry.
    pub(super) fn record_campaign(&mut self, campaign_id: &CampaignId, event: &CampaignEvent, cause: Cause) -> u64 {
        self.projection.apply_campaign(campaign_id, event, self.head.at, self.next_sequence());
        self.enter(Stream::Campaign, campaign_id.as_str(), event.kind(), event.data(), cause);
        self.head.sequence
    }

    /// Records what happened to the service; returns the number of the entry.
    pub(super) fn record_service(&mut self, event: &ServiceEvent, cause: Cause) -> u64 {
        self.projection.apply_service(event, &cause, self.head.at, self.next_sequence());
        self.enter(Stream::Service, SERVICE, event.kind(), event.data(), cause);
        self.head.sequence
    }

    /// A message to be published once this is committed.
    pub(super) fn send(&mut self, message: Pending) {
        self.messages.push(message);
    }

    /// The number of the entry that is added next.
    fn next_sequence(&self) -> u64 {
        self.head.sequence + 1
    }

    fn enter(&mut self, stream: Stream, subject: &str, kind: &str, data: String, cause: Cause) {
        self.enter_as(VERSION, stream, subject, kind, data, cause);
    }

    /// Lets the ledger's time, and what happens from now on, be no earlier than this.
    pub(super) fn advance_to(&mut self, at: DateTime<Utc>) {
        self.head.at = self.head.at.max(at);
    }

    /// Lets the next grant's number be no lower than this.
    pub(super) fn advance_numbering(&mut self, next_grant_index: u64) {
        self.head.next_grant_index = self.head.next_grant_index.max(next_grant_index);
    }

    /// Adds an entry in the form of this version.
    pub(super) fn enter_as(
        &mut self,
        version: u32,
        stream: Stream,
        subject: &str,
        kind: &str,
        data: String,
        cause: Cause,
    ) -> &Entry {
        self.head.sequence = self.next_sequence();
        let mut entry = Entry {
            sequence: self.head.sequence,
            at: self.head.at,
            stream,
            subject: subject.to_owned(),
            kind: kind.to_owned(),
            schema_version: version,
            cause,
            data: RawValue::from_string(data).expect("details are JSON"),
            seal: Seal::NONE,
        };
        entry.seal = entry.seal_after(self.head.seal);
        self.head.seal = entry.seal;
        self.entries.push(entry);
        self.entries.last().expect("it was pushed above")
    }

    /// Makes all of it durable. Returns the grants that are not as they were.
    pub(super) async fn commit(self) -> db::Result<Vec<Grant>> {
        let (tx, changed) = self.into_tx();
        tx.commit().await?;
        Ok(changed)
    }

    /// Leaves all of it to the transaction, and the commit to the caller.
    pub(super) fn into_tx(self) -> (Tx, Vec<Grant>) {
        let Self { mut tx, projection, memory, found, head, entries, messages } = self;
        if entries.is_empty() {
            memory.leave(found, projection.saved().1);
            return (tx, Vec::new());
        }
        append(tx.writes(), &entries);
        projection.save(tx.writes());
        if !messages.is_empty() && !fail_point::switched("grant_without_message") {
            outbox::enqueue(&mut tx, &messages);
        }
        advance(tx.writes(), head);
        let (changed, recent) = projection.saved();
        memory.leave(head, recent);
        (tx, changed)
    }
}

/// The subject of what happens to the service as a whole.
const SERVICE: &str = "campaign";

db::row! {
    #[derive(Debug)]
    struct EntryRow<'a> {
        sequence: u64 => bigint,
        at: i64 => bigint,
        stream: Stream => text,
        subject: &'a str => text,
        kind: &'a str => text,
        schema_version: u32 => bigint,
        actor: &'a str => text,
        message_id: Option<&'a str> => text,
        trace_id: Option<&'a str> => text,
        data: &'a str => text,
        seal: Seal => text,
    }
}

fn append(writes: &mut Writes, entries: &[Entry]) {
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| EntryRow {
            sequence: entry.sequence,
            at: entry.at.timestamp_micros(),
            stream: entry.stream,
            subject: &entry.subject,
            kind: &entry.kind,
            schema_version: entry.schema_version,
            actor: entry.cause.actor.as_str(),
            message_id: entry.cause.message_id.as_deref(),
            trace_id: entry.cause.trace_id.as_deref(),
            data: entry.data.get(),
            seal: entry.seal,
        })
        .collect();
    writes.add(db::sql!("-- ledger::append\n insert into event ", EntryRow::VALUES), &rows);
}

db::row! {
    #[derive(Debug)]
    struct HeadRow {
        next_grant_index: u64 => bigint,
        sequence: u64 => bigint,
        at: i64 => bigint,
        seal: Seal => text,
    }
}

fn advance(writes: &mut Writes, Head { next_grant_index, sequence, at, seal }: Head) {
    writes.add(
        db::sql!(
            "-- ledger::advance
             update deployment set next_grant_index = head.next_grant_index, sequence = head.sequence, at = head.at,
                                   seal = head.seal
             from (",
            HeadRow::SELECT,
            ") head"
        ),
        &[HeadRow { next_grant_index, sequence, at: at.timestamp_micros(), seal }],
    );
}

/// The columns of `event`, in the order of [`entry`].
macro_rules! entry_columns {
    () => {
        "e.sequence, e.at, e.stream, e.subject, e.kind, e.schema_version, e.actor, e.message_id, e.trace_id, e.data, e.seal"
    };
}
pub(super) use entry_columns;

/// Reads a row of `event`.
pub(super) fn entry(row: &AnyRow) -> db::Result<Entry> {
    let cause = Cause {
        actor: db::parse(row, "actor")?,
        message_id: row.try_get("message_id")?,
        trace_id: row.try_get("trace_id")?,
    };
    Ok(Entry {
        sequence: db::unsigned(row, "sequence")?,
        at: db::time(row, "at")?,
        stream: db::parse(row, "stream")?,
        subject: row.try_get("subject")?,
        kind: row.try_get("kind")?,
        schema_version: db::corrupt("schema_version", u32::try_from(row.try_get::<i64, _>("schema_version")?))?,
        cause,
        data: db::corrupt("data", RawValue::from_string(row.try_get("data")?))?,
        seal: db::parse(row, "seal")?,
    })
}
