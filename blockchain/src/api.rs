//! `GET /health`, `GET /stats`, the kill switch, and the dead letters.

mod kill_switch;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
pub use kill_switch::Switchboard;
use serde::Serialize;
use shared::clock::Clock;
use shared::db;
use shared::dead_letter::{self, DeadLetters};
use shared::health::{self, Health};
use shared::http::Problem;

use crate::deployment::Deployment;
use crate::monitor::Monitor;
use crate::observe::{Observations, Spread};
use crate::store::Store;

/// What `/stats` is made of.
#[derive(Debug)]
pub struct Stats {
    /// Payments and transactions.
    pub store: Store,
    /// What was seen of the chain.
    pub monitor: Arc<Monitor>,
    /// What was seen lately.
    pub observations: Arc<Observations>,
    /// Time.
    pub clock: Clock,
    /// When the service started.
    pub started_at: DateTime<Utc>,
    /// The chain's id (EIP-155).
    pub chain_id: u64,
    /// The contracts.
    pub deployment: Deployment,
}

/// The routes of the service at work.
pub fn routes(health: Health, stats: Stats, letters: DeadLetters, switchboard: Switchboard) -> Router {
    starting_routes(health)
        .route("/stats", get(answer_stats).with_state(Arc::new(stats)))
        .merge(kill_switch::routes(switchboard))
        .merge(Router::from(dead_letter::api::routes()).with_state(letters))
}

/// The routes of the service while it waits for what it needs.
pub fn starting_routes(health: Health) -> Router {
    Router::new().route("/health", get(answer_health).with_state(health))
}

#[derive(Serialize)]
struct HealthReport {
    status: &'static str,
    dependencies: BTreeMap<&'static str, health::State>,
}

async fn answer_health(State(health): State<Health>) -> Response {
    let (code, status) =
        if health.is_ready() { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    (code, Json(HealthReport { status, dependencies: health.states() })).into_response()
}

#[derive(Serialize)]
struct StatsReport {
    uptime_seconds: i64,
    queue: QueueReport,
    in_flight: InFlightReport,
    minted: Minted,
    failed: Grants,
    batch_grants: Spread,
    seconds_to_final: Spread,
    signer: Signer,
    chain: ChainReport,
}

#[derive(Serialize)]
struct QueueReport {
    grants: u64,
    oldest_seconds: f64,
}

#[derive(Serialize)]
struct InFlightReport {
    transactions: u64,
    grants: u64,
}

#[derive(Serialize)]
struct Minted {
    grants: u64,
    tokens: u64,
}

#[derive(Serialize)]
struct Grants {
    grants: u64,
}

#[derive(Serialize)]
struct Signer {
    address: String,
    balance_wei: String,
}

#[derive(Serialize)]
struct ChainReport {
    chain_id: u64,
    block_number: u64,
    token: String,
    distributor: String,
    wallet_factory: String,
}

async fn answer_stats(State(stats): State<Arc<Stats>>) -> Response {
    match report(&stats).await {
        Ok(report) => Json(report).into_response(),
        Err(error) => {
            tracing::error!(%error, "statistics cannot be read");
            Problem::unavailable().into_response()
        }
    }
}

async fn report(stats: &Stats) -> db::Result<StatsReport> {
    let now = stats.clock.now();
    let (queue, in_flight, tally) =
        tokio::try_join!(stats.store.queue(), stats.store.in_flight(), stats.store.tally())?;
    let (batch_grants, seconds_to_final) = stats.observations.spreads();
    let seen = stats.monitor.seen();
    let Deployment { token, distributor, wallets, .. } = stats.deployment;
    Ok(StatsReport {
        uptime_seconds: (now - stats.started_at).num_seconds(),
        queue: QueueReport {
            grants: queue.grants,
            oldest_seconds: queue.oldest.map_or(0.0, |oldest| (now - oldest).as_seconds_f64()),
        },
        in_flight: InFlightReport { transactions: in_flight.transactions, grants: in_flight.grants },
        minted: Minted { grants: tally.completed_grants, tokens: tally.completed_tokens },
        failed: Grants { grants: tally.failed_grants },
        batch_grants,
        seconds_to_final,
        signer: Signer { address: seen.signer.to_string(), balance_wei: seen.signer_balance.to_string() },
        chain: ChainReport {
            chain_id: stats.chain_id,
            block_number: seen.block_number,
            token: token.to_string(),
            distributor: distributor.to_string(),
            wallet_factory: wallets.factory.to_string(),
        },
    })
}
