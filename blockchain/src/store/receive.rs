//! Taking requests in: each grant once, however often its request arrives.

use std::collections::{HashMap, HashSet};

use alloy::primitives::B256;
use chrono::{DateTime, Utc};
use shared::db::{self, Tx};
use shared::event::{GrantsStarted, ResultEvent};
use shared::id::{RequestId, WalletAddress};
use shared::outbox::{self, Pending};
use sqlx::Row;
use sqlx::any::AnyRow;

use super::settle::{Verdict, end};
use super::{QUEUE_CHANNEL, Store, keys, payment, payment_columns};
use crate::domain::{Demand, Ending, Failure, Paid, Payment};

/// What a batch of requests came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Queued for the chain.
    pub queued: usize,
    /// To be claimed.
    pub claimable: usize,
    /// Known already. Those that have ended are answered again.
    pub repeated: usize,
    /// Refused: they cannot be paid, are not wanted any more, or have the id on chain of another grant.
    pub refused: usize,
}

/// A payment that is stored, and where it stands.
struct Stored {
    payment: Payment,
    standing: Standing,
}

enum Standing {
    Queued,
    Assigned,
    Claimable,
    Ended(Ending, DateTime<Utc>),
}

db::row! {
    #[derive(Debug)]
    struct NewPayment<'a> {
        request_id: &'a RequestId => text,
        grant_id: String => text,
        user_id: &'a str => text,
        campaign_id: &'a str => text,
        recipient: WalletAddress => text,
        token_amount: u64 => bigint,
        state: &'static str => text,
        error_code: Option<String> => text,
        error_message: Option<String> => text,
        traceparent: Option<String> => text,
        priority: u8 => bigint,
        expires_at: Option<i64> => bigint,
        finality: Option<String> => text,
        requested_at: i64 => bigint,
        received_at: i64 => bigint,
        finished_at: Option<i64> => bigint,
    }
}

impl Store {
    /// Commits what is new, answers what is not, and cancels what may be cancelled. What is paid has so many decimals.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    pub async fn receive(&self, demands: &[Demand], decimals: u8, now: DateTime<Utc>) -> db::Result<Received> {
        let mut tx = self.database.begin("receive").await?;
        let mut new: HashSet<_> = insert(&mut tx, demands, now).await?.into_iter().collect();
        let known = if new.len() < demands.len() { known(&mut tx, demands).await? } else { Known::new() };
        let mut received = Received::default();
        let mut started = Vec::new();
        let mut messages = Vec::new();
        let mut cancelled = Vec::new();
        for demand in demands {
            let payment = demand.payment();
            // What was inserted is new where it stands first in the batch, and a repeat behind that.
            if new.remove(&payment.request_id) {
                match (demand.refusal(), demand) {
                    (Some(failure), _) => {
                        received.refused += 1;
                        let event = payment.result(&Ending::Failed(failure), now);
                        messages.push(Pending::result(&event, payment.trace, now));
                    }
                    (None, Demand::Claim(_)) => {
                        received.claimable += 1;
                        messages.push(Pending::result(&payment.claimable(decimals, now), payment.trace, now));
                    }
                    (None, _) => {
                        received.queued += 1;
                        started.push(payment.request_id.clone());
                    }
                }
            } else if let Some(Stored { payment, standing }) = known.get(&payment.request_id) {
                received.repeated += 1;
                let answer = match (standing, demand) {
                    (Standing::Ended(ending, at), _) => payment.result(ending, *at),
                    // Who asks for this has put what can be claimed into no tree.
                    (Standing::Queued | Standing::Claimable, Demand::Cancel(_)) => {
                        let verdict = Verdict::Ended(Ending::Failed(Failure::cancelled()));
                        cancelled.push((payment.clone(), verdict));
                        continue;
                    }
                    // However it is asked for: it is what it was at first.
                    (Standing::Claimable, _) => payment.claimable(decimals, now),
                    (Standing::Queued | Standing::Assigned, _) => continue,
                };
                messages.push(Pending::result(&answer, payment.trace, now));
            } else {
                received.refused += 1;
                let failure = Failure::new("grant_id_taken", "another grant has this issuer and grant_index");
                let event = payment.result(&Ending::Failed(failure), now);
                messages.push(Pending::result(&event, payment.trace, now));
            }
        }
        if !started.is_empty() {
            let event = ResultEvent::Started(GrantsStarted { request_ids: started, processed_at: now });
            messages.push(Pending::result(&event, None, now));
        }
        outbox::enqueue(&mut tx, &messages);
        if !cancelled.is_empty() {
            end(&mut tx, None, &cancelled, now).await?;
        }
        if received.queued > 0 {
            // The process that received them need not be the one that sends them.
            self.database.wake(&mut tx, QUEUE_CHANNEL).await?;
        }
        tx.commit().await?;
        Ok(received)
    }
}

async fn insert(tx: &mut Tx, demands: &[Demand], now: DateTime<Utc>) -> db::Result<Vec<RequestId>> {
    let rows: Vec<_> = demands
        .iter()
        .map(|demand| {
            let (payment, refusal) = (demand.payment(), demand.refusal());
            NewPayment {
                request_id: &payment.request_id,
                grant_id: payment.grant_id.to_string(),
                user_id: payment.user_id.as_str(),
                campaign_id: payment.campaign_id.as_str(),
                recipient: payment.recipient,
                token_amount: payment.token_amount.whole_tokens(),
                state: match (&refusal, demand) {
                    (Some(_), _) => "failed",
                    (None, Demand::Claim(_)) => "claimable",
                    (None, _) => "queued",
                },
                finished_at: refusal.as_ref().map(|_| now.timestamp_micros()),
                error_code: refusal.as_ref().map(|failure| failure.code.clone()),
                error_message: refusal.map(|failure| failure.message),
                traceparent: payment.trace.map(|trace| trace.to_string()),
                priority: payment.terms.priority.number(),
                expires_at: payment.terms.expires_at.map(|at| at.timestamp_micros()),
                finality: payment.terms.finality.map(|finality| finality.to_string()),
                requested_at: payment.requested_at.timestamp_micros(),
                received_at: now.timestamp_micros(),
            }
        })
        .collect();
    let inserted = sqlx::query(db::sql!(
        "-- store::insert_payments\n insert into payment (not_before, ",
        NewPayment::COLUMNS,
        ") select received_at, ",
        NewPayment::COLUMNS,
        " from (",
        NewPayment::SELECT,
        ") new where true on conflict do nothing returning request_id, state"
    ))
    .bind(db::rows(&rows))
    .fetch_all(&mut **tx)
    .await?;
    let mut failed = 0;
    for row in &inserted {
        failed += i64::from(row.try_get::<&str, _>("state")? == "failed");
    }
    if failed > 0 {
        sqlx::query("-- store::count_refused\n update tally set failed_grants = failed_grants + $1")
            .bind(failed)
            .execute(&mut **tx)
            .await?;
    }
    inserted.iter().map(|row| db::parse(row, "request_id")).collect()
}

type Known = HashMap<RequestId, Stored>;

/// The stored payments of these demands.
async fn known(tx: &mut Tx, demands: &[Demand]) -> db::Result<Known> {
    let rows = sqlx::query(concat!(
        "-- store::known_payments\n select ",
        payment_columns!(),
        ", p.state, p.transaction_hash, p.block_number, p.gas_used, p.gas_price, p.error_code, p.error_message,
          p.finished_at
         from payment p where p.request_id in (select value->>0 from jsonb_each($1))"
    ))
    .bind(keys(demands.iter().map(Demand::payment)))
    .fetch_all(&mut **tx)
    .await?;
    rows.iter()
        .map(|row| {
            let payment = payment(row)?;
            Ok((payment.request_id.clone(), Stored { payment, standing: standing(row)? }))
        })
        .collect()
}

fn standing(row: &AnyRow) -> db::Result<Standing> {
    let ending = match row.try_get::<&str, _>("state")? {
        "completed" => Ending::Completed(Paid {
            transaction_hash: db::parse::<B256>(row, "transaction_hash")?,
            block_number: db::unsigned(row, "block_number")?,
            gas_used: row.try_get::<Option<i64>, _>("gas_used")?.map(i64::cast_unsigned),
            gas_price: row.try_get::<Option<i64>, _>("gas_price")?.map(i64::cast_unsigned),
        }),
        "failed" => {
            Ending::Failed(Failure { code: row.try_get("error_code")?, message: row.try_get("error_message")? })
        }
        "claimable" => return Ok(Standing::Claimable),
        "queued" => return Ok(Standing::Queued),
        _ => return Ok(Standing::Assigned),
    };
    Ok(Standing::Ended(ending, db::time(row, "finished_at")?))
}
