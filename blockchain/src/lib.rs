//! The blockchain service: takes grant requests from Pub/Sub, mints them on an EVM chain in batches, publishes the
//! results.
//!
//! This file is the wiring: which component holds what, and in which task it runs. `docs/ARCHITECTURE.md` walks one
//! grant through them.

pub mod api;
pub mod audit;
pub mod chain;
pub mod config;
pub mod confirmer;
pub mod contract;
pub mod deploy;
pub mod deployment;
pub mod domain;
pub mod fees;
pub mod finality;
pub mod gaps;
pub mod lease;
pub mod monitor;
pub mod observe;
pub mod pause;
pub mod sender;
pub mod signer;
pub mod store;
pub mod submitter;
pub mod subscriber;
pub mod transaction;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::signers::local::PrivateKeySigner;
use anyhow::{Context as _, ensure};
use shared::clock::Clock;
use shared::dead_letter::{Census, DeadLetters};
use shared::health::{Dependency, Health};
use shared::http::Routes;
use shared::inbox::Inbox;
use shared::lifecycle::Lifecycle;
use shared::outbox::Relay;
use shared::pubsub::{Bus, Keeper, Topic};
use shared::random::ascending_uuid;
use shared::telemetry::{self, PrometheusHandle};
use shared::worker::{Schedule, until_reachable};
use shared::{db, http};
use tokio::sync::Notify;

use crate::api::Switchboard;
use crate::audit::auditor::Auditor;
use crate::audit::periodic::{FOLLOW, PeriodicAudit};
use crate::chain::{Chain, Rpc};
use crate::config::{ChainSettings, Config};
use crate::confirmer::Confirmer;
use crate::deployment::Deployment;
use crate::domain::Currency;
use crate::gaps::GapRepairer;
use crate::lease::{Holder, Lease};
use crate::monitor::Monitor;
use crate::observe::Observations;
use crate::sender::Sender;
use crate::signer::Signer;
use crate::store::{LaneId, Store};
use crate::submitter::Submitter;
use crate::subscriber::Subscriber;

/// The points at which a test can make this service die, see [`shared::fail_point`].
pub const FAIL_POINTS: &[&str] = &[
    "assign:commit",
    "assign:committed",
    "audit_forget:commit",
    "audit_forget:committed",
    "audit_missed:commit",
    "audit_missed:committed",
    "audit_read:commit",
    "audit_read:committed",
    "audit_requeue:commit",
    "audit_requeue:committed",
    "audit_seals:commit",
    "audit_seals:committed",
    "audit_step_back:commit",
    "audit_step_back:committed",
    "dead_letter:commit",
    "dead_letter:committed",
    "discard:commit",
    "discard:committed",
    "fill:commit",
    "fill:committed",
    "inbox:consumed",
    "lease:commit",
    "lease:committed",
    "mark_sent:commit",
    "mark_sent:committed",
    "mined:commit",
    "mined:committed",
    "raise_nonce:commit",
    "raise_nonce:committed",
    "postpone_root:commit",
    "postpone_root:committed",
    "receive:commit",
    "receive:committed",
    "redrive:commit",
    "redrive:committed",
    "relay:commit",
    "relay:committed",
    "relay:published",
    "reopen:commit",
    "reopen:committed",
    "replace:commit",
    "replace:committed",
    "sender:sent",
    "settle:commit",
    "settle:committed",
    "switch:commit",
    "switch:committed",
    "undeliverable:commit",
    "undeliverable:committed",
    "want_root:commit",
    "want_root:committed",
];

/// Deploys the contracts and prints where they are.
///
/// # Errors
///
/// When the chain does not take them.
pub async fn run_deploy(deploy: deploy::Deploy) -> anyhow::Result<ExitCode> {
    telemetry::start(telemetry::LogFormat::Auto);
    print(&deploy.run().await?)
}

/// Pauses the distributor, or unpauses it, and prints what is so.
///
/// # Errors
///
/// When it is not so.
pub async fn run_pause(pausing: pause::Pausing, paused: bool) -> anyhow::Result<ExitCode> {
    telemetry::start(telemetry::LogFormat::Auto);
    print(&pausing.run(paused).await?)
}

#[expect(clippy::print_stdout, reason = "this is the command's output")]
fn print(output: &impl serde::Serialize) -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string(output)?);
    Ok(ExitCode::SUCCESS)
}

/// Runs the service's process until it is told to stop.
///
/// # Errors
///
/// When it cannot start: the configuration, the database or the port.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let metrics = telemetry::start(config.log_format);
    #[cfg(feature = "failpoints")]
    shared::fail_point::arm();
    let bus = config.pubsub.connect().await?;
    serve(config, bus, metrics).await
}

/// Runs the service over this broker until the process is told to stop.
///
/// # Errors
///
/// When it cannot start: the configuration, the database or the port.
pub async fn serve(config: Config, bus: Arc<dyn Bus>, metrics: PrometheusHandle) -> anyhow::Result<ExitCode> {
    let (settings, key) = config.validate()?;
    let clock = Clock::system();
    let health = Health::default();
    let mut lifecycle = Lifecycle::new(config.shutdown_deadline())?;
    let needs = Needs::new(&health);

    let listener = http::listen(config.listen_address).await?;
    let starting = api::starting_routes(health.clone());
    let routes = Routes::new(http::with_common_routes(starting, health.clone(), metrics.clone()));
    lifecycle.spawn("http", routes.serve(listener, lifecycle.shutdown()));
    let Some(found) = lifecycle.start(find(&config, &settings, key, &needs)).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let Found { store, chain, signer, deployment, lane } = found;

    let observations = Arc::new(Observations::default());
    let [outbox_ready, queue_ready, sent, created] = std::array::from_fn(|_| Arc::new(Notify::new()));
    let database = needs.database.clone();
    let monitor = Arc::new(Monitor::new(store.clone(), Arc::clone(&chain), lane.signer, clock.clone(), database));

    let stats = api::Stats {
        store: store.clone(),
        monitor: Arc::clone(&monitor),
        observations: Arc::clone(&observations),
        clock: clock.clone(),
        started_at: clock.now(),
        lane,
        deployment,
    };
    let letters = DeadLetters::new(store.database().clone(), clock.clone(), Arc::clone(&outbox_ready));
    let switchboard = Switchboard { store: store.clone(), clock: clock.clone(), queue_ready: Arc::clone(&queue_ready) };
    let routes_now = api::routes(health.clone(), stats, letters.clone(), switchboard);
    routes.replace(http::with_common_routes(routes_now, health, metrics));

    lifecycle.work(monitor, Schedule::polled("monitor", Duration::from_secs(2), needs.chain));
    lifecycle
        .work(Census { letters: letters.clone() }, Schedule::polled("census", Duration::from_secs(2), needs.database));
    lifecycle.work(
        Keeper::new(Arc::clone(&bus), Arc::clone(&created)),
        Schedule::polled("pubsub", Duration::from_secs(3), needs.pubsub),
    );
    lifecycle.work(
        Relay::new(store.database().clone(), Arc::clone(&bus), clock.clone()),
        Schedule::woken("relay", Arc::clone(&outbox_ready), Duration::from_secs(2), needs.publishing),
    );
    let auditor = Auditor {
        observations: Arc::clone(&observations),
        outbox_ready: Arc::clone(&outbox_ready),
        ..Auditor::new(&config, &settings, &store, &chain, deployment, lane.chain_id, clock.clone())?
    };
    // Its own health: what it finds, and what it alone depends on, must not take the service out of rotation.
    let auditing = Health::default().dependency("auditing");
    lifecycle.work(PeriodicAudit::new(auditor, config.audit_every()), Schedule::polled("auditor", FOLLOW, auditing));
    let lease = Lease::new(clock.clone());
    let sender = Sender { id: lane, store: store.clone(), chain, signer, clock: clock.clone(), lease };
    let wakes = Wakes { queue_ready: Arc::clone(&queue_ready), sent, outbox_ready: Arc::clone(&outbox_ready) };
    let holder = work_on_lane(&mut lifecycle, &config, &sender, deployment, &observations, &wakes, needs.lane);

    let Deployment { wallets, token, decimals, .. } = deployment;
    let currency = Currency { chain_id: lane.chain_id, token, decimals };
    let consumer = Subscriber { store: store.clone(), clock, wallets, currency, queue_ready, outbox_ready };
    let inbox = Inbox { bus, topic: Topic::Requests, streams: config.pubsub.streams, created, consumer, letters };
    let shutdown = lifecycle.shutdown();
    lifecycle.spawn("subscriber", async {
        inbox.run(shutdown).await;
        Ok(())
    });

    tracing::info!(
        address = %config.listen_address,
        project = config.pubsub.project,
        chain_id = lane.chain_id,
        signer = %lane.signer,
        distributor = %deployment.distributor,
        token = %deployment.token,
        "blockchain service is up"
    );
    let exit = lifecycle.run().await;
    if let Err(error) = holder.release().await {
        tracing::warn!(%error, "the lane is not given back, it is free when its lease runs out");
    }
    store.database().close().await;
    Ok(exit)
}

/// What wakes the workers of a lane.
struct Wakes {
    /// There are payments to send, or room to send them.
    queue_ready: Arc<Notify>,
    /// A transaction was sent.
    sent: Arc<Notify>,
    /// There is something to publish.
    outbox_ready: Arc<Notify>,
}

/// Starts everything that works on the lane; returns the holder of its lease.
fn work_on_lane(
    lifecycle: &mut Lifecycle,
    config: &Config,
    sender: &Sender,
    deployment: Deployment,
    observations: &Arc<Observations>,
    wakes: &Wakes,
    needs: LaneNeeds,
) -> Arc<Holder> {
    let holder = Arc::new(Holder {
        sender: sender.clone(),
        owner: ascending_uuid(sender.clock.now()).to_string(),
        duration: config.lane_lease(),
        taken: Arc::clone(&wakes.queue_ready),
    });
    let renew_every = config.lane_lease().to_std().unwrap_or_default() / 5;
    lifecycle.work(Arc::clone(&holder), Schedule::polled("lease", renew_every, needs.lease));
    lifecycle.work(
        Submitter {
            sender: sender.clone(),
            deployment,
            limits: config.limits(),
            allowed: AtomicUsize::new(config.limits().batch_grants),
            observations: Arc::clone(observations),
            sent: Arc::clone(&wakes.sent),
            outbox_ready: Arc::clone(&wakes.outbox_ready),
        },
        Schedule::woken("submitter", Arc::clone(&wakes.queue_ready), Duration::from_secs(1), needs.submitting),
    );
    lifecycle.work(
        GapRepairer {
            sender: sender.clone(),
            patience: config.rules().patience.resend_after,
            max_fee_per_gas: config.max_fee_per_gas(),
            seen: Mutex::default(),
            reopened: Arc::clone(&wakes.sent),
        },
        Schedule::polled("gaps", Duration::from_secs(1), needs.gaps),
    );
    lifecycle.work(
        Confirmer {
            sender: sender.clone(),
            deployment,
            rules: config.rules(),
            observations: Arc::clone(observations),
            settled_head: AtomicU64::new(0),
            settled: Arc::clone(&wakes.queue_ready),
            outbox_ready: Arc::clone(&wakes.outbox_ready),
        },
        Schedule::woken("confirmer", Arc::clone(&wakes.sent), Duration::from_millis(200), needs.confirming),
    );
    holder
}

/// What the service needs, each with the component that reports on it.
struct Needs {
    database: Dependency,
    pubsub: Dependency,
    publishing: Dependency,
    chain: Dependency,
    lane: LaneNeeds,
}

/// What the workers of a lane report on.
struct LaneNeeds {
    lease: Dependency,
    submitting: Dependency,
    confirming: Dependency,
    gaps: Dependency,
}

impl Needs {
    fn new(health: &Health) -> Self {
        Self {
            database: health.dependency("database"),
            pubsub: health.dependency("pubsub"),
            publishing: health.dependency("publishing"),
            chain: health.dependency("chain"),
            lane: LaneNeeds {
                lease: health.dependency("lease"),
                submitting: health.dependency("submitting"),
                confirming: health.dependency("confirming"),
                gaps: health.dependency("nonces"),
            },
        }
    }
}

/// What the service works with, found and checked.
struct Found {
    store: Store,
    chain: Arc<dyn Chain>,
    signer: Signer,
    deployment: Deployment,
    lane: LaneId,
}

/// Waits for the database and the chain where they are away; fails where they are not what they should be.
async fn find(
    config: &Config,
    settings: &ChainSettings,
    key: PrivateKeySigner,
    needs: &Needs,
) -> anyhow::Result<Found> {
    let store =
        until_reachable(&needs.database, db::Error::is_unreachable, async || Store::open(&config.database_url).await)
            .await
            .context("cannot open the database of DATABASE_URL")?;

    let signer = Signer::new(key);
    let chain = Rpc::connect(&settings.rpc_urls)?;
    let passing = |error: &deployment::Error| matches!(error, deployment::Error::Chain(e) if e.is_passing());
    let (deployment, chain_id) = until_reachable(&needs.chain, passing, async || {
        Deployment::verify(&chain, signer.address(), settings.addresses).await
    })
    .await?;
    let lane = LaneId { chain_id, signer: signer.address() };
    for (host, node) in chain.each() {
        match node.chain_id().await {
            Ok(id) => ensure!(id == chain_id, "RPC_URL: the node at {host} serves chain {id}, another one {chain_id}"),
            Err(error) => tracing::warn!(host, %error, "a node of RPC_URL does not answer"),
        }
    }
    chain.expect_chain(chain_id);
    Ok(Found { store, chain: Arc::new(chain), signer, deployment, lane })
}
