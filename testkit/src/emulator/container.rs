//! The emulator in a container, for machines with a Docker engine and no gcloud command line.

use std::{
    fmt,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use testcontainers::{
    ContainerAsync, GenericImage, ImageExt as _,
    core::{IntoContainerPort as _, client::docker_client_instance},
    runners::AsyncRunner as _,
};

/// The image that docker-compose.yml uses.
const IMAGE: (&str, &str) = ("gcr.io/google.com/cloudsdktool/google-cloud-cli", "emulators");

/// The emulator's port inside the container.
const PORT: u16 = 8681;

/// Time for the image to be fetched, once.
const FETCH_TIMEOUT: Duration = Duration::from_mins(10);

/// Removes the container `$1` once its standard input closes.
const KEEPER: &str = r#"trap '' HUP INT TERM; read -r done; docker rm --force "$1""#;

/// The emulator's container. It is removed with this value, and with this process.
pub(super) struct Container {
    container: ContainerAsync<GenericImage>,
    _keeper: Keeper,
}

impl Container {
    /// A container whose emulator listens on `port` of this machine, or none where no Docker engine answers.
    ///
    /// # Errors
    /// When an engine answers but the container cannot be started.
    pub(super) async fn where_docker_answers(port: u16) -> Result<Option<Self>> {
        let answer = async { docker_client_instance().await.ok()?.ping().await.ok() };
        if !matches!(tokio::time::timeout(Duration::from_secs(5), answer).await, Ok(Some(_))) {
            return Ok(None);
        }
        let name = format!("testkit-pubsub-{:016x}", rand::rng().random::<u64>());
        let keeper = Keeper::of(&name)?;
        let container = GenericImage::new(IMAGE.0, IMAGE.1)
            .with_cmd([
                "gcloud".to_owned(),
                "beta".to_owned(),
                "emulators".to_owned(),
                "pubsub".to_owned(),
                "start".to_owned(),
                "--project=test-project".to_owned(),
                format!("--host-port=0.0.0.0:{PORT}"),
            ])
            .with_mapped_port(port, PORT.tcp())
            .with_container_name(name)
            .with_startup_timeout(FETCH_TIMEOUT)
            .start()
            .await
            .context("cannot start the Pub/Sub emulator's container")?;
        Ok(Some(Self { container, _keeper: keeper }))
    }

    /// Starts it again; no harm where it runs.
    pub(super) async fn start(&self) -> Result<()> {
        if self.container.is_running().await? {
            return Ok(());
        }
        self.container.start().await.context("cannot start the emulator's container")
    }

    /// Stops it, by force after so many seconds.
    pub(super) async fn stop(&self, seconds: Option<i32>) -> Result<()> {
        self.container.stop_with_timeout(seconds).await.context("cannot stop the emulator's container")
    }
}

impl fmt::Debug for Container {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Container").field(&self.container.id()).finish()
    }
}

/// A shell that removes the container when this process, or this value, is gone.
struct Keeper(Child);

impl Keeper {
    fn of(container: &str) -> Result<Self> {
        Command::new("/bin/sh")
            .args(["-c", KEEPER, "keeper", container])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
            .context("cannot start the keeper of the emulator's container")
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
