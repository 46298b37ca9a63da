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
pub mod earlier;
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
use url::Url;

use crate::api::Switchboard;
use crate::audit::auditor::Auditor;
use crate::audit::periodic::{FOLLOW, PeriodicAudit};
use crate::chain::{Chain, Rpc, heads};
use crate::config::{ChainSettings, Config};
use crate::confirmer::Confirmer;
use crate::deployment::Deployment;
use crate::domain::Currency;
use crate::earlier::Earlier;
use crate::gaps::GapRepairer;
use crate::lease::{Holder, Lease};
use crate::monitor::Monitor;
use crate::observe::Observations;
use crate::sender::Sender;
use crate::signer::Signer;
use crate::store::{LaneId, QUEUE_CHANNEL, Store};
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
    let (settings, keys) = config.validate()?;
    let _sole = db::sole_process(&config.database_url).await.context("cannot use the database of DATABASE_URL")?;
    let clock = Clock::system();
    let health = Health::default();
    let mut lifecycle = Lifecycle::new(config.shutdown_deadline())?;
    let needs = Needs::new(&health);

    let listener = http::listen(config.listen_address).await?;
    let starting = api::starting_routes(health.clone());
    let routes = Routes::new(http::with_common_routes(starting, health.clone(), metrics.clone()));
    lifecycle.spawn("http", routes.serve(listener, lifecycle.shutdown()));
    let Some(found) = lifecycle.start(find(&config, &settings, keys, &needs)).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let Found { store, chain, signers, deployment, chain_id } = found;

    let observations = Arc::new(Observations::default());
    let [outbox_ready, queue_ready, created] = std::array::from_fn(|_| Arc::new(Notify::new()));
    let database = needs.database.clone();
    let accounts = signers.iter().map(Signer::address).collect();
    let monitor = Arc::new(Monitor::new(store.clone(), Arc::clone(&chain), accounts, clock.clone(), database));

    let stats = api::Stats {
        store: store.clone(),
        monitor: Arc::clone(&monitor),
        observations: Arc::clone(&observations),
        clock: clock.clone(),
        started_at: clock.now(),
        chain_id,
        deployment,
    };
    let letters = DeadLetters::new(store.database().clone(), clock.clone(), Arc::clone(&outbox_ready));
    let switchboard = Switchboard { store: store.clone(), clock: clock.clone(), queue_ready: Arc::clone(&queue_ready) };
    let routes_now = api::routes(health.clone(), stats, letters.clone(), switchboard);
    routes.replace(http::with_common_routes(routes_now, health.clone(), metrics));

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
        ..Auditor::new(&config, &settings, &store, &chain, deployment, chain_id, clock.clone())?
    };
    // Its own health: what it finds, and what it alone depends on, must not take the service out of rotation.
    let auditing = Health::default().dependency("auditing");
    lifecycle.work(PeriodicAudit::new(auditor, config.audit_every()), Schedule::polled("auditor", FOLLOW, auditing));
    let lanes = signers.len();
    let payers = Payers {
        config: &config,
        health: &health,
        store: &store,
        chain: &chain,
        chain_id,
        deployment,
        clock: &clock,
        observations: &observations,
        queue_ready: &queue_ready,
        outbox_ready: &outbox_ready,
    };
    let holders = payers.start(&mut lifecycle, signers, settings.ws_url, needs.submitting);
    let listening =
        db::listen(config.database_url.clone(), QUEUE_CHANNEL, Arc::clone(&queue_ready), lifecycle.shutdown());
    lifecycle.spawn("listener", async {
        listening.await;
        Ok(())
    });

    let Deployment { wallets, token, decimals, .. } = deployment;
    let currency = Currency { chain_id, token, decimals };
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
        chain_id,
        lanes,
        distributor = %deployment.distributor,
        token = %deployment.token,
        "blockchain service is up"
    );
    let exit = lifecycle.run().await;
    for holder in holders {
        if let Err(error) = holder.release().await {
            tracing::warn!(%error, "a lane is not given back, it is free when its lease runs out");
        }
    }
    store.database().close().await;
    Ok(exit)
}

/// What pays: the lanes, and what serves all of them.
struct Payers<'a> {
    config: &'a Config,
    health: &'a Health,
    store: &'a Store,
    chain: &'a Arc<dyn Chain>,
    chain_id: u64,
    deployment: Deployment,
    clock: &'a Clock,
    observations: &'a Arc<Observations>,
    /// There are payments to send, or room to send them.
    queue_ready: &'a Arc<Notify>,
    outbox_ready: &'a Arc<Notify>,
}

impl Payers<'_> {
    /// Starts a lane for each signer, and the submitter that serves all of them; returns the holders of their leases.
    fn start(
        &self,
        lifecycle: &mut Lifecycle,
        signers: Vec<Signer>,
        ws_url: Option<Url>,
        submitting: Dependency,
    ) -> Vec<Arc<Holder>> {
        let sender = |signer: Signer| Sender {
            id: LaneId { chain_id: self.chain_id, signer: signer.address() },
            store: self.store.clone(),
            chain: Arc::clone(self.chain),
            signer,
            clock: self.clock.clone(),
            lease: Lease::new(self.clock.clone()),
            sent: Arc::default(),
        };
        let senders: Vec<_> = signers.into_iter().map(sender).collect();
        let holders = senders.iter().map(|sender| self.work_on_lane(lifecycle, sender)).collect();
        if let Some(url) = ws_url {
            let woken = senders.iter().map(|sender| Arc::clone(&sender.sent)).collect();
            let watching = heads::watch(url, woken, lifecycle.shutdown());
            lifecycle.spawn("heads", async {
                watching.await;
                Ok(())
            });
        }
        let limits = self.config.limits(self.deployment.mints_batches);
        lifecycle.work(
            Submitter {
                store: self.store.clone(),
                chain: Arc::clone(self.chain),
                clock: self.clock.clone(),
                senders,
                deployment: self.deployment,
                limits,
                allowed: AtomicUsize::new(limits.batch_grants),
                observations: Arc::clone(self.observations),
                outbox_ready: Arc::clone(self.outbox_ready),
            },
            Schedule::woken("submitter", Arc::clone(self.queue_ready), Duration::from_secs(1), submitting),
        );
        holders
    }

    /// Starts everything that works on one lane alone; returns the holder of its lease.
    fn work_on_lane(&self, lifecycle: &mut Lifecycle, sender: &Sender) -> Arc<Holder> {
        let Self { config, health, deployment, observations, queue_ready, outbox_ready, .. } = *self;
        let [lease, confirming, nonces] = ["lease", "confirming", "nonces"].map(|name| health.dependency(name));
        let holder = Arc::new(Holder {
            sender: sender.clone(),
            owner: ascending_uuid(sender.clock.now()).to_string(),
            duration: config.lane_lease(),
            taken: Arc::clone(queue_ready),
        });
        let renew_every = config.lane_lease().to_std().unwrap_or_default() / 5;
        lifecycle.work(Arc::clone(&holder), Schedule::polled("lease", renew_every, lease));
        lifecycle.work(
            GapRepairer {
                sender: sender.clone(),
                patience: config.rules().patience.resend_after,
                max_fee_per_gas: config.max_fee_per_gas(),
                seen: Mutex::default(),
            },
            Schedule::polled("gaps", Duration::from_secs(1), nonces),
        );
        lifecycle.work(
            Confirmer {
                sender: sender.clone(),
                deployment,
                rules: config.rules(),
                earlier: Earlier::new(sender, &deployment, config.confirmations, config.audit_max_blocks),
                observations: Arc::clone(observations),
                settled_head: AtomicU64::new(0),
                made_room: Arc::clone(queue_ready),
                outbox_ready: Arc::clone(outbox_ready),
            },
            Schedule::woken("confirmer", Arc::clone(&sender.sent), Duration::from_millis(200), confirming),
        );
        holder
    }
}

/// What the service needs, each with the component that reports on it.
struct Needs {
    database: Dependency,
    pubsub: Dependency,
    publishing: Dependency,
    chain: Dependency,
    submitting: Dependency,
}

impl Needs {
    fn new(health: &Health) -> Self {
        Self {
            database: health.dependency("database"),
            pubsub: health.dependency("pubsub"),
            publishing: health.dependency("publishing"),
            chain: health.dependency("chain"),
            submitting: health.dependency("submitting"),
        }
    }
}

/// What the service works with, found and checked.
struct Found {
    store: Store,
    chain: Arc<dyn Chain>,
    signers: Vec<Signer>,
    deployment: Deployment,
    chain_id: u64,
}

/// Waits for the database and the chain where they are away; fails where they are not what they should be.
async fn find(
    config: &Config,
    settings: &ChainSettings,
    keys: Vec<PrivateKeySigner>,
    needs: &Needs,
) -> anyhow::Result<Found> {
    let store =
        until_reachable(&needs.database, db::Error::is_unreachable, async || Store::open(&config.database_url).await)
            .await
            .context("cannot open the database of DATABASE_URL")?;

    let signers: Vec<_> = keys.into_iter().map(Signer::new).collect();
    let accounts: Vec<_> = signers.iter().map(Signer::address).collect();
    let chain = Rpc::connect(&settings.rpc_urls)?;
    let passing = |error: &deployment::Error| matches!(error, deployment::Error::Chain(e) if e.is_passing());
    let (deployment, chain_id) = until_reachable(&needs.chain, passing, async || {
        Deployment::verify(&chain, &accounts, settings.addresses).await
    })
    .await?;
    for (host, node) in chain.each() {
        match node.chain_id().await {
            Ok(id) => ensure!(id == chain_id, "RPC_URL: the node at {host} serves chain {id}, another one {chain_id}"),
            Err(error) => tracing::warn!(host, %error, "a node of RPC_URL does not answer"),
        }
    }
    chain.expect_chain(chain_id);
    Ok(Found { store, chain: Arc::new(chain), signers, deployment, chain_id })
}
