//! The campaign service: accepts token-grant requests over HTTP, publishes them, and shows what became of them.
//!
//! This file is the wiring: which component holds what, and in which task it runs. `docs/ARCHITECTURE.md` walks one
//! grant through them.

pub mod acceptor;
pub mod api;
pub mod bulk;
pub mod claims;
pub mod config;
pub mod domain;
pub mod latency;
pub mod merkle;
pub mod operator;
pub mod rebuild;
pub mod republisher;
pub mod store;
pub mod subscriber;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use api::Loader;
use claims::{RootMaker, Trees};
pub use config::{Cli, Config};
use operator::Operator;
use republisher::Republisher;
use shared::clock::Clock;
use shared::dead_letter::{Census, DeadLetters};
use shared::health::Health;
use shared::http::Routes;
use shared::inbox::Inbox;
use shared::lifecycle::Lifecycle;
use shared::outbox::Relay;
use shared::pubsub::{Bus, Keeper, Topic};
use shared::telemetry::{self, PrometheusHandle};
use shared::worker::{Schedule, until_reachable};
use shared::{db, http};
use store::Store;
use subscriber::Subscriber;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The points at which a test can make this service die, see [`shared::fail_point`].
pub const FAIL_POINTS: &[&str] = &[
    "accept:commit",
    "accept:committed",
    "apply:commit",
    "apply:committed",
    "begin_job:commit",
    "begin_job:committed",
    "cancel:commit",
    "cancel:committed",
    "change_campaign:commit",
    "change_campaign:committed",
    "dead_letter:commit",
    "dead_letter:committed",
    "discard:commit",
    "discard:committed",
    "end_job:commit",
    "end_job:committed",
    "inbox:consumed",
    "load:commit",
    "load:committed",
    "make_root:commit",
    "make_root:committed",
    "redrive:commit",
    "redrive:committed",
    "relay:commit",
    "relay:committed",
    "relay:published",
    "republish:commit",
    "republish:committed",
    "set_going:commit",
    "set_going:committed",
    "switch:commit",
    "switch:committed",
    "tell:commit",
    "tell:committed",
    "undeliverable:commit",
    "undeliverable:committed",
];

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
    let _sole = db::sole_process(&config.database_url).await.context("cannot use the database of DATABASE_URL")?;
    let clock = Clock::system();
    let health = Health::default();
    let mut lifecycle = Lifecycle::new(config.shutdown_deadline())?;
    let [database, pubsub, publishing] = ["database", "pubsub", "publishing"].map(|name| health.dependency(name));

    let listener = http::listen(config.listen_address).await?;
    let routes = Routes::new(http::with_common_routes(api::starting_routes(), health.clone(), metrics.clone()));
    let server_stopped = CancellationToken::new();
    lifecycle.spawn("http", {
        let (server, stopped) = (routes.serve(listener, lifecycle.shutdown()), server_stopped.clone().drop_guard());
        async move {
            let _stopped = stopped;
            server.await
        }
    });
    let open = async {
        until_reachable(&database, db::Error::is_unreachable, async || Store::open(&config.database_url).await)
            .await
            .context("cannot open the database of DATABASE_URL")
    };
    let Some(store) = lifecycle.start(open).await? else { return Ok(ExitCode::SUCCESS) };

    let [outbox_ready, created] = std::array::from_fn(|_| Arc::new(Notify::new()));
    let (acceptor, writer) = acceptor::new(store.clone(), clock.clone(), Arc::clone(&outbox_ready), config.policy());
    lifecycle.spawn("acceptor", async {
        writer.run(server_stopped).await;
        Ok(())
    });
    let letters = DeadLetters::new(store.database().clone(), clock.clone(), Arc::clone(&outbox_ready));
    let republisher =
        Arc::new(Republisher::new(store.clone(), clock.clone(), Arc::clone(&outbox_ready), config.patience()));
    let operator = Operator::new(store.clone(), clock.clone(), Arc::clone(&outbox_ready));
    let loader = Loader {
        store: store.clone(),
        clock: clock.clone(),
        policy: config.policy(),
        outbox_ready: Arc::clone(&outbox_ready),
    };
    let trees = Trees::new(store.clone());
    let root_maker = RootMaker::new(
        store.clone(),
        trees.clone(),
        clock.clone(),
        config.claim_root_every(),
        Arc::clone(&outbox_ready),
    );
    let routes_now =
        api::routes(store.clone(), acceptor, letters.clone(), Arc::clone(&republisher), operator, loader, trees);
    routes.replace(http::with_common_routes(routes_now, health, metrics));

    lifecycle.work(
        Keeper::new(Arc::clone(&bus), Arc::clone(&created)),
        Schedule::polled("pubsub", Duration::from_secs(3), pubsub),
    );
    lifecycle.work(
        Relay::new(store.database().clone(), Arc::clone(&bus), clock.clone()).telling(store.clone()),
        Schedule::woken("relay", Arc::clone(&outbox_ready), Duration::from_secs(2), publishing),
    );
    lifecycle.work(republisher, Schedule::polled("republisher", Duration::from_secs(1), database.clone()));
    lifecycle.work(root_maker, Schedule::polled("root_maker", Duration::from_secs(1), database.clone()));
    lifecycle.work(Census { letters: letters.clone() }, Schedule::polled("census", Duration::from_secs(2), database));

    let consumer = Subscriber::new(store.clone(), clock);
    let inbox = Inbox { bus, topic: Topic::Results, streams: config.pubsub.streams, created, consumer, letters };
    let shutdown = lifecycle.shutdown();
    lifecycle.spawn("subscriber", async {
        inbox.run(shutdown).await;
        Ok(())
    });

    tracing::info!(address = %config.listen_address, project = config.pubsub.project, "campaign service is up");
    let exit = lifecycle.run().await;
    store.database().close().await;
    Ok(exit)
}
