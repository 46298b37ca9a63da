//! Uploads of many requests: what became of their lines, counted in the transaction that decides them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db;
use shared::random::ascending_uuid;
use sqlx::Row;
use utoipa::ToSchema;

use super::Store;
use super::accept::Policy;
use crate::bulk::{Format, Line};
use crate::domain::admission::Decision;

/// The most rejected lines of a job that are listed. All are counted.
const LISTED: u64 = 1000;

/// How long a job that receives may not have been heard of, until it is taken for broken off, in seconds.
const SILENCE: i64 = 60;

/// An upload, and what became of its lines so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Job {
    /// Names it.
    #[schema(example = "019a9f5e-7c1e-7bd2-a3a7-0242ac120002")]
    pub job_id: String,
    /// `receiving`, `done` when every line of the upload was decided, or `broken_off` when it did not arrive to its end:
    /// send it again, and what was accepted is repeated.
    #[schema(example = "done")]
    pub state: String,
    /// Whether every line of the upload was decided.
    pub done: bool,
    /// Why it broke off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Lines that were decided; those with nothing in them are not counted.
    pub lines: u64,
    /// Lines that made a grant.
    pub accepted: u64,
    /// Lines whose grant there was already.
    pub repeated: u64,
    /// Lines that made none.
    pub rejected: u64,
    /// The first 1,000 lines that were rejected.
    pub rejections: Vec<Rejection>,
    /// When it began, UTC.
    pub started_at: DateTime<Utc>,
    /// When it was last heard of, UTC.
    pub updated_at: DateTime<Utc>,
}

/// A line that made no grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Rejection {
    /// Its number in the upload, from 1.
    pub line: u64,
    /// The kind of problem, as a request alone would be answered.
    #[serde(rename = "type")]
    #[schema(example = "urn:problem-type:invalid-request")]
    pub kind: String,
    /// What is wrong with it.
    pub reason: String,
}

/// How the decisions of a batch of lines read in their job.
#[derive(Debug, Default)]
struct Tally {
    accepted: i64,
    repeated: i64,
    rejections: Vec<Rejection>,
}

impl Tally {
    fn reject(&mut self, line: u64, kind: &str, reason: impl Into<String>) {
        self.rejections.push(Rejection { line, kind: kind.to_owned(), reason: reason.into() });
    }
}

db::row! {
    struct RejectionRow<'a> {
        job_id: &'a str => text,
        line: u64 => bigint,
        kind: &'a str => text,
        reason: &'a str => text,
    }
}

impl Store {
    /// Begins a job; returns its name.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn begin_job(&self, format: Format, now: DateTime<Utc>) -> db::Result<String> {
        let id = ascending_uuid(now).to_string();
        let mut tx = self.database.begin("begin_job").await?;
        sqlx::query(
            "-- store::begin_job
             insert into job (id, format, state, lines, accepted, repeated, rejected, started_at, updated_at)
             values ($1, $2, 'receiving', 0, 0, 0, 0, $3, $3)",
        )
        .bind(&id)
        .bind(format.as_str())
        .bind(now.timestamp_micros())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Decides lines of a job, as requests that arrive one by one are decided, and counts them; says how many made a grant.
    /// `problem_of` says what a request alone would be answered.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn load(
        &self,
        job: &str,
        lines: Vec<Line>,
        now: DateTime<Utc>,
        policy: Policy,
        problem_of: impl Fn(&Decision) -> Option<(&'static str, String)>,
    ) -> db::Result<usize> {
        let (mut tally, count) = (Tally::default(), lines.len());
        let (mut numbers, mut arrivals) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for Line { number, arrival } in lines {
            match arrival {
                Ok(arrival) => {
                    numbers.push(number);
                    arrivals.push(arrival);
                }
                Err(reason) => tally.reject(number, "urn:problem-type:invalid-request", reason),
            }
        }
        let mut ledger = self.ledger("load", now).await?;
        let decisions = self.decide(&mut ledger, &arrivals, now, policy).await?;
        for (number, decision) in numbers.into_iter().zip(&decisions) {
            match problem_of(decision) {
                Some((kind, reason)) => tally.reject(number, kind, reason),
                None if matches!(decision, Decision::New(_)) => tally.accepted += 1,
                None => tally.repeated += 1,
            }
        }
        let (mut tx, _) = ledger.into_tx();
        let row = sqlx::query(
            "-- store::count_lines
             update job set lines = lines + $2, accepted = accepted + $3, repeated = repeated + $4,
                            rejected = rejected + $5, updated_at = $6 where id = $1 returning rejected",
        )
        .bind(job)
        .bind(i64::try_from(count).unwrap_or(i64::MAX))
        .bind(tally.accepted)
        .bind(tally.repeated)
        .bind(i64::try_from(tally.rejections.len()).unwrap_or(i64::MAX))
        .bind(now.timestamp_micros())
        .fetch_one(&mut *tx)
        .await?;
        let before = db::unsigned(&row, "rejected")? - tally.rejections.len() as u64;
        let room = usize::try_from(LISTED.saturating_sub(before)).unwrap_or(usize::MAX);
        let rows: Vec<_> = tally
            .rejections
            .iter()
            .take(room)
            .map(|Rejection { line, kind, reason }| RejectionRow { job_id: job, line: *line, kind, reason })
            .collect();
        tx.writes()
            .add(db::sql!("-- store::insert_rejections\n insert into job_rejection ", RejectionRow::VALUES), &rows);
        tx.commit().await?;
        Ok(usize::try_from(tally.accepted).unwrap_or(0))
    }

    /// Ends a job: it is done, or broke off for a reason.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn end_job(&self, job: &str, broken_off: Option<&str>, now: DateTime<Utc>) -> db::Result<()> {
        let mut tx = self.database.begin("end_job").await?;
        sqlx::query("-- store::end_job\n update job set state = $2, reason = $3, updated_at = $4 where id = $1")
            .bind(job)
            .bind(if broken_off.is_none() { "done" } else { "broken_off" })
            .bind(broken_off)
            .bind(now.timestamp_micros())
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    /// A job, and what became of its lines.
    ///
    /// # Errors
    ///
    /// When the database cannot be read.
    pub async fn job(&self, job: &str, now: DateTime<Utc>) -> db::Result<Option<Job>> {
        let row = sqlx::query(
            "-- store::job
             select id, state, reason, lines, accepted, repeated, rejected, started_at, updated_at from job where id = $1",
        )
        .bind(job)
        .fetch_optional(self.database.reader())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let rejections = sqlx::query(
            "-- store::job_rejections\n select line, kind, reason from job_rejection where job_id = $1 order by line",
        )
        .bind(job)
        .fetch_all(self.database.reader())
        .await?;
        let rejection = |row| {
            Ok(Rejection {
                line: db::unsigned(row, "line")?,
                kind: row.try_get("kind")?,
                reason: row.try_get("reason")?,
            })
        };
        let (state, updated_at): (String, _) = (row.try_get("state")?, db::time(&row, "updated_at")?);
        // Whoever received it may have died.
        let is_silent = state == "receiving" && (now - updated_at).num_seconds() > SILENCE;
        Ok(Some(Job {
            job_id: row.try_get("id")?,
            done: state == "done",
            state: if is_silent { "broken_off".to_owned() } else { state },
            reason: row.try_get("reason")?,
            lines: db::unsigned(&row, "lines")?,
            accepted: db::unsigned(&row, "accepted")?,
            repeated: db::unsigned(&row, "repeated")?,
            rejected: db::unsigned(&row, "rejected")?,
            rejections: rejections.iter().map(rejection).collect::<db::Result<_>>()?,
            started_at: db::time(&row, "started_at")?,
            updated_at,
        }))
    }
}
