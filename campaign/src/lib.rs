//! The campaign service: accepts token-grant requests over HTTP, publishes them, and shows what became of them.
//!
//! This file is the wiring: which component holds what, and in which task it runs. `docs/ARCHITECTURE.md` walks one
//! grant through them.

pub mod acceptor;
pub mod api;
pub mod config;
pub mod domain;
pub mod republisher;
pub mod results;
pub mod store;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
pub use config::Config;
use shared::clock::Clock;
use shared::health::Health;
use shared::inbox::Inbox;
use shared::lifecycle::Lifecycle;
use shared::outbox::Relay;
use shared::pubsub::{PubSub, Topic, keep};
use shared::worker::{self, Schedule};
use shared::{http, telemetry};
use store::Store;
use tokio::sync::Notify;

/// Runs the service until it is told to stop.
///
/// # Errors
///
/// When it cannot start: the configuration, the database or the port.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let metrics = telemetry::start(config.log_format);
    let clock = Clock::system();
    let health = Health::default();
    let mut lifecycle = Lifecycle::new(config.shutdown_deadline());
    let shutdown = lifecycle.shutdown();

    let store = Store::open(&config.database_url).await.context("cannot open the database of DATABASE_URL")?;
    let bus = PubSub::connect(&config.pubsub.project, config.pubsub.emulator())
        .await
        .context("cannot set up Pub/Sub; is PUBSUB_EMULATOR_HOST or are the Google Cloud credentials right?")?;
    let listener = http::listen(config.listen_address).await?;

    let outbox_ready = Arc::new(Notify::new());
    let (acceptor, writer) =
        acceptor::new(store.clone(), clock.clone(), Arc::clone(&outbox_ready), config.republish_after());
    lifecycle.spawn("acceptor", async { Ok(writer.run().await) });

    let routes = http::with_common_routes(api::routes(store.clone(), acceptor), health.clone(), metrics);
    lifecycle.spawn("http", http::serve(listener, routes, shutdown.clone()));

    let created = Arc::new(Notify::new());
    let broker = health.dependency("pubsub");
    lifecycle.spawn("pubsub", {
        let (bus, created, shutdown) = (bus.clone(), Arc::clone(&created), shutdown.clone());
        async { Ok(keep(bus, broker, created, shutdown).await) }
    });

    let relay = Relay::new(store.database().clone(), bus.clone(), clock.clone(), Arc::clone(&outbox_ready));
    let publishing = health.dependency("publishing");
    lifecycle.spawn("relay", {
        let shutdown = shutdown.clone();
        async move {
            let schedule = Schedule { name: "relay", wake: relay.wake(), poll: SLOW_POLL, dependency: publishing };
            worker::run(&relay, schedule, &shutdown).await;
            Ok(())
        }
    });

    let inbox = Inbox {
        bus,
        topic: Topic::Results,
        streams: config.pubsub.streams,
        created,
        consumer: results::Results::new(store.clone(), clock.clone()),
    };
    lifecycle.spawn("results", {
        let shutdown = shutdown.clone();
        async { Ok(inbox.run(shutdown).await) }
    });

    let republisher = republisher::Republisher::new(store.clone(), clock, outbox_ready, config.republish_after());
    let database = health.dependency("database");
    lifecycle.spawn("republisher", {
        let shutdown = shutdown.clone();
        async move {
            let never = Notify::new();
            let schedule = Schedule { name: "republisher", wake: &never, poll: FAST_POLL, dependency: database };
            worker::run(&republisher, schedule, &shutdown).await;
            Ok(())
        }
    });

    tracing::info!(address = %config.listen_address, project = config.pubsub.project, "campaign service is up");
    let exit = lifecycle.run().await?;
    store.database().close().await;
    Ok(exit)
}

/// How often a component that is woken up for its work looks by itself.
const SLOW_POLL: Duration = Duration::from_secs(2);

/// How often a component that nobody wakes looks.
const FAST_POLL: Duration = Duration::from_secs(1);
