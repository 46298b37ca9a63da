//! The Pub/Sub emulator, from the first of three places that has one:
//!
//! 1. one that already answers at `PUBSUB_EMULATOR_HOST`,
//! 2. the emulator of the gcloud command line, where that is installed with its `pubsub-emulator` component,
//! 3. a container, where a Docker engine answers.
//!
//! It keeps everything in memory: whenever it restarts it has lost its topics, subscriptions and messages.

mod container;
mod gcloud;

use std::{env, error::Error, fmt, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use tokio::sync::OnceCell;

use self::container::Container;
use crate::{
    paths::RunDir,
    ports,
    process::{Part, Program},
    pubsub::Pubsub,
    wait::until,
};

/// A JVM on a busy machine, or the first start of a container.
const START_TIMEOUT: Duration = Duration::from_secs(90);

/// A running Pub/Sub emulator.
#[derive(Debug)]
pub struct Emulator {
    host: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Somebody else's: neither stopped nor restarted.
    Given,
    Program(Box<Part>),
    Container(Box<Container>),
}

/// There is no emulator to be had.
#[derive(Debug)]
pub struct NoEmulator {
    /// Where none answers, if one was said to.
    given: Option<String>,
}

impl fmt::Display for NoEmulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let given = self.given.as_ref().map(|host| format!(" (nothing answers at {host}, its value now)"));
        write!(
            f,
            "no Pub/Sub emulator. There are three ways to one:\n  \
             1. set PUBSUB_EMULATOR_HOST to the host:port of one that is running{}\n  \
             2. install the one of the gcloud command line (it needs Java 17 or newer):\n     \
             gcloud components install beta pubsub-emulator\n     \
             (or, from Google's apt repository: apt-get install google-cloud-cli-pubsub-emulator)\n  \
             3. start a Docker engine: the emulator's image is then fetched and run",
            given.unwrap_or_default()
        )
    }
}

impl Error for NoEmulator {}

impl Emulator {
    /// The one emulator that the tests of this process share. Each keeps to its own project id.
    ///
    /// # Errors
    /// When there is none to be had; the message names the three ways.
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<Emulator> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| async {
                // Statics are never dropped: the watchdog removes the folder when this process has ended.
                let folder = RunDir::temporary()?.keep();
                Self::start(folder.join("emulator.log"), ports::free()?, Some(folder)).await
            })
            .await
    }

    /// The emulator at `PUBSUB_EMULATOR_HOST` where one answers, else a new one on `port`.
    ///
    /// The log goes to the file `log`; a folder `scratch` is removed when this process ends without stopping the emulator.
    ///
    /// # Errors
    /// When there is none to be had; the message names the three ways.
    pub async fn start(log: PathBuf, port: u16, scratch: Option<PathBuf>) -> Result<Self> {
        match given().await {
            Some(given) => Ok(given),
            None => Self::start_own(log, port, scratch).await,
        }
    }

    /// A new emulator on `port`, for tests that stop or restart it.
    ///
    /// # Errors
    /// When there is none to be had; the message names the three ways.
    pub async fn start_own(log: PathBuf, port: u16, scratch: Option<PathBuf>) -> Result<Self> {
        let host = format!("127.0.0.1:{port}");
        let kind = if let Some(path) = gcloud::emulator().await {
            let mut program = Program::new("Pub/Sub emulator", path, log)
                .args(["--host=127.0.0.1".to_owned(), format!("--port={port}")]);
            if let Some(folder) = scratch {
                program = program.scratch(folder);
            }
            Kind::Program(Box::new(Part::new(program)))
        } else if let Some(container) = Container::where_docker_answers(port).await? {
            Kind::Container(Box::new(container))
        } else {
            bail!(NoEmulator { given: env::var("PUBSUB_EMULATOR_HOST").ok() });
        };
        let emulator = Self { host, kind };
        emulator.launch().await?;
        Ok(emulator)
    }

    /// `host:port`, the value of `PUBSUB_EMULATOR_HOST`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its REST interface, for one project.
    #[must_use]
    pub fn project(&self, project: &str) -> Pubsub {
        Pubsub::new(&self.host, project)
    }

    /// Whether it was already there, and so is not ours to stop.
    #[must_use]
    pub fn is_given(&self) -> bool {
        matches!(self.kind, Kind::Given)
    }

    /// Stops it. Topics, subscriptions and messages are gone.
    ///
    /// # Errors
    /// When it does not stop.
    pub async fn stop(&self) -> Result<()> {
        match &self.kind {
            Kind::Given => Ok(()),
            Kind::Program(part) => part.stop().await,
            Kind::Container(container) => container.stop(Some(10)).await,
        }
    }

    /// Kills it as a power cut would.
    ///
    /// # Errors
    /// When it is somebody else's, or does not die.
    pub async fn kill9(&self) -> Result<()> {
        match &self.kind {
            Kind::Given => bail!("the emulator at {} is not this process's to kill", self.host),
            Kind::Program(part) => part.kill9().await,
            Kind::Container(container) => container.stop(Some(0)).await,
        }
    }

    /// Kills it and starts it again, empty, on the same port.
    ///
    /// # Errors
    /// When it is somebody else's, or does not come back.
    pub async fn restart(&self) -> Result<()> {
        self.kill9().await?;
        self.launch().await
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill9`](Self::kill9), and waits until it answers.
    ///
    /// # Errors
    /// When it does not answer in time; the end of its log is in the message.
    pub async fn launch(&self) -> Result<()> {
        match &self.kind {
            Kind::Given => Ok(()),
            Kind::Program(part) => {
                part.spawn()?;
                part.ready(START_TIMEOUT, || answers(&self.host)).await
            }
            Kind::Container(container) => {
                container.start().await?;
                until(START_TIMEOUT, "the emulator's container to answer", || answers(&self.host)).await
            }
        }
    }

    /// The id of its process, where it is a program of this process's own and runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        match &self.kind {
            Kind::Program(part) => part.id(),
            Kind::Given | Kind::Container(_) => None,
        }
    }

    /// Why it is not running although nobody stopped it.
    #[must_use]
    pub fn unexpected_end(&self) -> Option<anyhow::Error> {
        match &self.kind {
            Kind::Program(part) => part.unexpected_end(),
            Kind::Given | Kind::Container(_) => None,
        }
    }
}

/// The emulator that `PUBSUB_EMULATOR_HOST` points at, if it answers.
async fn given() -> Option<Emulator> {
    let host = env::var("PUBSUB_EMULATOR_HOST").ok()?;
    let host = host.trim().trim_start_matches("http://").to_owned();
    (!host.is_empty() && answers(&host).await).then_some(Emulator { host, kind: Kind::Given })
}

/// Whether a Pub/Sub emulator answers at `host:port`.
pub async fn answers(host: &str) -> bool {
    let ask = async {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(3)).build()?;
        let answer = client.get(format!("http://{host}/v1/projects/is-it-there/topics")).send().await?;
        answer.error_for_status()?.json::<serde_json::Value>().await
    };
    ask.await.context("no emulator").is_ok_and(|topics| topics.is_object())
}
