//! The campaign store on both databases.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../support/mod.rs"]
mod support;

mod accepting;
mod adopting;
mod reading;
mod rebuilding;
mod republishing;
mod results;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use campaign::domain::admission::{Arrival, Decision};
use campaign::domain::{Grant, Patience, State};
use campaign::store::{Page, Report, Republished, Store, Totals, WhichGrants};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use shared::clock::from_micros;
use shared::event::{GrantCompleted, GrantFailed, GrantsSubmitted, RequestEvent, ResultEvent};
use shared::id::RequestId;
use shared::ledger::{Entry, Stream};
use shared::outbox::{self, Waiting};
use support::{POLICY, arrival, open, request, row_counts};
use testkit::{Place, on_both_databases};
use tokio::task::JoinSet;

/// That of an operator who never wants to be asked.
const PATIENCE: Patience = Patience { first_wait: POLICY.republish_after, limit: 10_000 };

fn at(seconds: i64) -> DateTime<Utc> {
    from_micros((1_700_000_000 + seconds) * 1_000_000)
}

async fn accept_all(store: &Store, arrivals: &[Arrival]) -> Vec<Decision> {
    store.accept(arrivals, at(0), POLICY).await.unwrap()
}

async fn accept(store: &Store, arrival: Arrival) -> Decision {
    let mut decisions = accept_all(store, &[arrival]).await;
    assert_eq!(decisions.len(), 1);
    decisions.remove(0)
}

/// A grant that did not exist.
async fn grant(store: &Store, user: &str, campaign: &str, tokens: i64) -> Grant {
    let Decision::New(grant) = accept(store, arrival(request(user, campaign, tokens), None)).await else {
        panic!("{user} has a grant of {campaign} already")
    };
    grant
}

async fn stored(store: &Store, grant: &Grant) -> Grant {
    store.grant(&grant.request_id).await.unwrap().unwrap()
}

/// What happened to a grant.
async fn entries(store: &Store, grant: &Grant) -> Vec<Entry> {
    store.entries_of(Stream::Grant, grant.request_id.as_str(), 0, 500).await.unwrap()
}

/// The details of what happened.
fn data(entry: &Entry) -> Value {
    serde_json::from_str(entry.data.get()).unwrap()
}

async fn kinds(store: &Store, grant: &Grant) -> Vec<String> {
    entries(store, grant).await.into_iter().map(|entry| entry.kind).collect()
}

fn submitted(grants: &[&Grant], hash: &str) -> ResultEvent {
    ResultEvent::Submitted(GrantsSubmitted {
        request_ids: grants.iter().map(|grant| grant.request_id.clone()).collect(),
        transaction_hash: hash.to_owned(),
        processed_at: at(5),
    })
}

fn completed(grant: &Grant, hash: &str) -> ResultEvent {
    ResultEvent::Completed(GrantCompleted {
        user_id: grant.request.user_id.clone(),
        campaign_id: grant.request.campaign_id.clone(),
        request_id: grant.request_id.clone(),
        transaction_hash: hash.to_owned(),
        timestamp: grant.requested_at,
        processed_at: at(6),
        wallet_address: None,
        block_number: Some(17),
        gas_used: Some(26_000),
        gas_price: Some(3),
    })
}

fn failed(grant: &Grant, code: &str, message: &str) -> ResultEvent {
    ResultEvent::Failed(GrantFailed {
        user_id: grant.request.user_id.clone(),
        campaign_id: grant.request.campaign_id.clone(),
        request_id: grant.request_id.clone(),
        error_message: message.to_owned(),
        timestamp: grant.requested_at,
        processed_at: at(6),
        error_code: Some(code.to_owned()),
    })
}

/// Applies results; the grants that moved, and how many results belong to none.
async fn apply(store: &Store, results: &[ResultEvent], now: DateTime<Utc>) -> (Vec<Grant>, usize) {
    let reports: Vec<_> = results.iter().map(|event| Report { event, message_id: None, trace: None }).collect();
    let applied = store.apply(&reports, now).await.unwrap();
    (applied.moved, applied.unknown)
}

/// What waits to be published: topic, request and attributes of each message.
async fn outbox(store: &Store) -> Vec<(String, RequestEvent, BTreeMap<String, String>)> {
    let read = |Waiting { topic, message, .. }: Waiting| {
        (
            topic.name().to_owned(),
            serde_json::from_slice(&message.data).unwrap(),
            message.attributes.into_iter().collect(),
        )
    };
    outbox::waiting(store.database(), i64::MAX).await.unwrap().into_iter().map(read).collect()
}

async fn change(store: &Store, statement: &'static str) {
    let mut tx = store.database().begin("test").await.unwrap();
    sqlx::query(statement).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

/// As if the relay had published everything.
async fn publish_all(store: &Store) {
    change(store, "delete from outbox").await;
}

fn news(decisions: &[Decision]) -> Vec<&Grant> {
    decisions
        .iter()
        .filter_map(|decision| if let Decision::New(grant) = decision { Some(grant) } else { None })
        .collect()
}

/// How many requests are queued to be published again.
async fn republish(store: &Store, now: DateTime<Utc>, limit: i64) -> usize {
    store.republish(now, PATIENCE, limit).await.unwrap().published
}
