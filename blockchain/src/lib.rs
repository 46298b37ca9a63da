//! The blockchain service: takes grant requests from Pub/Sub, mints them on an EVM chain in batches, publishes the
//! results.
//!
//! This file is the wiring: which component holds what, and in which task it runs. `docs/ARCHITECTURE.md` walks one
//! grant through them.

pub mod api;
pub mod chain;
pub mod config;
pub mod confirmer;
pub mod contract;
pub mod deploy;
pub mod deployment;
pub mod domain;
pub mod fees;
pub mod monitor;
pub mod observe;
pub mod signer;
pub mod store;
pub mod submitter;
pub mod subscriber;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::time::Duration;

use anyhow::Context as _;
use shared::clock::Clock;
use shared::health::{Dependency, Health};
use shared::http::Routes;
use shared::inbox::Inbox;
use shared::lifecycle::Lifecycle;
use shared::outbox::Relay;
use shared::pubsub::{Bus, Keeper, Topic};
use shared::worker::{Schedule, until_reachable};
use shared::{db, http, telemetry};
use tokio::sync::Notify;

use crate::chain::{At, Chain, Rpc};
use crate::config::{ChainSettings, Config};
use crate::confirmer::Confirmer;
use crate::deployment::Deployment;
use crate::monitor::Monitor;
use crate::observe::Observations;
use crate::signer::Signer;
use crate::store::{LaneId, Store};
use crate::submitter::Submitter;
use crate::subscriber::Subscriber;

/// The points at which a test can make this service die, see [`shared::fail_point`].
pub const FAIL_POINTS: &[&str] = &[
    "assign:commit",
    "assign:committed",
    "inbox:consumed",
    "mark_sent:commit",
    "mark_sent:committed",
    "receive:commit",
    "receive:committed",
    "relay:commit",
    "relay:committed",
    "relay:published",
    "settle:commit",
    "settle:committed",
    "submitter:sent",
];

/// Deploys the contracts and prints where they are.
///
/// # Errors
///
/// When the chain does not take them.
pub async fn run_deploy(deploy: deploy::Deploy) -> anyhow::Result<ExitCode> {
    telemetry::start(telemetry::LogFormat::Auto);
    let deployed = deploy.run().await?;
    #[expect(clippy::print_stdout, reason = "this is the command's output")]
    {
        println!("{}", serde_json::to_string(&deployed)?);
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the service until it is told to stop.
///
/// # Errors
///
/// When it cannot start: the configuration, the database or the port.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let settings = config.validate()?;
    let metrics = telemetry::start(config.log_format);
    #[cfg(feature = "failpoints")]
    shared::fail_point::arm();
    let clock = Clock::system();
    let health = Health::default();
    let mut lifecycle = Lifecycle::new(config.shutdown_deadline())?;
    let needs = Needs::new(&health);

    let listener = http::listen(config.listen_address).await?;
    let starting = api::starting_routes(health.clone());
    let routes = Routes::new(http::with_common_routes(starting, health.clone(), metrics.clone()));
    lifecycle.spawn("http", routes.serve(listener, lifecycle.shutdown()));
    let Some(found) = lifecycle.start(find(&config, settings, &needs)).await? else { return Ok(ExitCode::SUCCESS) };
    let Found { store, bus, chain, signer, deployment, lane } = found;

    let observations = Arc::new(Observations::default());
    let [outbox_ready, queue_ready, sent, created] = std::array::from_fn(|_| Arc::new(Notify::new()));
    let monitor = Arc::new(Monitor::new(store.clone(), Arc::clone(&chain), lane.signer, clock.clone(), needs.database));

    let stats = api::Stats {
        store: store.clone(),
        monitor: Arc::clone(&monitor),
        observations: Arc::clone(&observations),
        clock: clock.clone(),
        started_at: clock.now(),
        lane,
        deployment,
    };
    routes.replace(http::with_common_routes(api::routes(health.clone(), stats), health, metrics));

    lifecycle.work(monitor, Schedule::polled("monitor", Duration::from_secs(2), needs.chain));
    lifecycle.work(
        Keeper::new(Arc::clone(&bus), Arc::clone(&created)),
        Schedule::polled("pubsub", Duration::from_secs(3), needs.pubsub),
    );
    lifecycle.work(
        Relay::new(store.database().clone(), Arc::clone(&bus), clock.clone()),
        Schedule::woken("relay", Arc::clone(&outbox_ready), Duration::from_secs(2), needs.publishing),
    );
    lifecycle.work(
        Submitter {
            store: store.clone(),
            chain: Arc::clone(&chain),
            signer,
            clock: clock.clone(),
            lane,
            deployment,
            limits: config.limits(),
            allowed: AtomicUsize::new(config.limits().batch_grants),
            observations: Arc::clone(&observations),
            sent: Arc::clone(&sent),
            outbox_ready: Arc::clone(&outbox_ready),
        },
        Schedule::woken("submitter", Arc::clone(&queue_ready), Duration::from_secs(1), needs.submitting),
    );
    lifecycle.work(
        Confirmer {
            store: store.clone(),
            chain,
            clock: clock.clone(),
            lane,
            deployment,
            patience: config.patience(),
            observations,
            settled_head: AtomicU64::new(0),
            settled: Arc::clone(&queue_ready),
            outbox_ready: Arc::clone(&outbox_ready),
        },
        Schedule::woken("confirmer", sent, Duration::from_millis(200), needs.confirming),
    );

    let consumer = Subscriber { store: store.clone(), clock, wallets: deployment.wallets, queue_ready, outbox_ready };
    let inbox = Inbox { bus, topic: Topic::Requests, streams: config.pubsub.streams, created, consumer };
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
    store.database().close().await;
    Ok(exit)
}

/// What the service needs, each with the component that reports on it.
struct Needs {
    database: Dependency,
    pubsub: Dependency,
    publishing: Dependency,
    chain: Dependency,
    submitting: Dependency,
    confirming: Dependency,
}

impl Needs {
    fn new(health: &Health) -> Self {
        Self {
            database: health.dependency("database"),
            pubsub: health.dependency("pubsub"),
            publishing: health.dependency("publishing"),
            chain: health.dependency("chain"),
            submitting: health.dependency("submitting"),
            confirming: health.dependency("confirming"),
        }
    }
}

/// What the service works with, found and checked.
struct Found {
    store: Store,
    bus: Arc<dyn Bus>,
    chain: Arc<dyn Chain>,
    signer: Signer,
    deployment: Deployment,
    lane: LaneId,
}

/// Waits for the database and the chain where they are away; fails where they are not what they should be.
async fn find(config: &Config, settings: ChainSettings, needs: &Needs) -> anyhow::Result<Found> {
    let bus = config
        .pubsub
        .connect()
        .await
        .context("cannot set up Pub/Sub; is PUBSUB_EMULATOR_HOST or are the Google Cloud credentials right?")?;
    let store =
        until_reachable(&needs.database, db::Error::is_unreachable, async || Store::open(&config.database_url).await)
            .await
            .context("cannot open the database of DATABASE_URL")?;

    let signer = Signer::new(settings.signer);
    let chain = Rpc::connect(&settings.rpc_urls)?;
    let unreachable = |error: &deployment::Error| matches!(error, deployment::Error::Chain(e) if e.is_unreachable());
    let (deployment, chain_id) = until_reachable(&needs.chain, unreachable, async || {
        Deployment::verify(&chain, signer.address(), settings.addresses).await
    })
    .await?;
    let lane = LaneId { chain_id, signer: signer.address() };
    let pending_nonce = until_reachable(&needs.chain, chain::Error::is_unreachable, async || {
        chain.nonce(lane.signer, At::Pending).await
    })
    .await?;
    let next_nonce = store.open_lane(lane, pending_nonce).await?;
    tracing::info!(signer = %lane.signer, next_nonce, pending_nonce, "lane opened");
    Ok(Found { store, bus, chain: Arc::new(chain), signer, deployment, lane })
}
