//! One of the two services as a process: started with its whole environment given, waited for, killed, restarted.
//!
//! For a demonstration without a Pub/Sub emulator, both are one process, and what is done to one is done to the other.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{
    paths::workspace_binary,
    process::{Part, Program},
    wait::until,
};

/// How long a service may take until it is ready (the founding documents: less than 30 s).
pub const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// One of the two services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// The campaign service.
    Campaign,
    /// The blockchain service.
    Blockchain,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Campaign => "campaign",
            Self::Blockchain => "blockchain",
        })
    }
}

/// A service, running or not.
#[derive(Debug)]
pub struct Service {
    name: String,
    port: u16,
    log: PathBuf,
    part: Arc<Part>,
}

impl Service {
    /// The workspace binary `name`, not started yet, which will listen on `port` and log to the file `log`. Of this
    /// process's own environment it sees no more than any program needs.
    ///
    /// # Errors
    /// When it is not built; the message says how.
    pub fn new(name: &str, port: u16, log: PathBuf, environment: BTreeMap<String, String>) -> Result<Self> {
        Ok(Self::of(workspace_binary(name)?, name, port, log, environment))
    }

    /// The same, of any build: `binary` is its file.
    pub(crate) fn of(
        binary: PathBuf,
        name: &str,
        port: u16,
        log: PathBuf,
        environment: BTreeMap<String, String>,
    ) -> Self {
        let program = hermetic(name, binary, &log).env("LISTEN_ADDRESS", address(port));
        let program = environment.into_iter().fold(program, |program, (key, value)| program.env(key, value));
        Self { name: name.to_owned(), port, log, part: Arc::new(Part::new(program)) }
    }

    /// Campaign and blockchain service in one process, over a broker in its memory. Each is told what it listens on, and
    /// by arguments what else it would be told by its environment. Starting one starts both.
    ///
    /// # Errors
    /// When the program is not built; the message says how.
    pub fn together(ports: [u16; 2], log: &Path, environments: [BTreeMap<String, String>; 2]) -> Result<[Self; 2]> {
        let [campaign, blockchain] = environments.map(|environment| {
            environment
                .into_iter()
                .map(|(key, value)| format!("--{}={value}", key.to_ascii_lowercase().replace('_', "-")))
        });
        let [of_campaign, of_blockchain] = ports.map(|port| format!("--listen-address={}", address(port)));
        let program = hermetic("together", workspace_binary("together")?, log)
            .arg(of_campaign)
            .args(campaign)
            .arg("--")
            .arg(of_blockchain)
            .args(blockchain);
        let part = Arc::new(Part::new(program));
        let service =
            |name: &str, port| Self { name: name.to_owned(), port, log: log.to_owned(), part: Arc::clone(&part) };
        Ok([service("campaign", ports[0]), service("blockchain", ports[1])])
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it answers.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its log file.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Everything it has logged so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn logged(&self) -> Result<String> {
        let log = std::fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }

    /// The program and its environment, for another run of it beside this one.
    #[must_use]
    pub fn program(&self) -> Program {
        self.part.program()
    }

    /// The same service once more, on another port and with another log. Not started yet.
    #[must_use]
    pub fn twin(&self, port: u16, log: PathBuf) -> Self {
        let program = self.program().env("LISTEN_ADDRESS", address(port)).log_to(&log);
        Self { name: self.name.clone(), port, log, part: Arc::new(Part::new(program)) }
    }

    /// Sets a variable for the next start.
    pub fn set(&self, key: &str, value: &str) {
        self.part.change(|program| program.env(key, value));
    }

    /// Removes a variable for the next start.
    pub fn unset(&self, key: &str) {
        self.part.change(|program| program.without_env(key));
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time; the end of its log is in the message.
    pub async fn start(&self) -> Result<()> {
        self.spawn()?;
        self.ready(READY_TIMEOUT).await
    }

    /// Starts it and does not wait.
    ///
    /// # Errors
    /// When it runs already.
    pub fn spawn(&self) -> Result<()> {
        self.part.spawn()
    }

    /// Waits until it is ready (`GET /readyz` answers 200).
    ///
    /// # Errors
    /// When it ends or is not ready within `timeout`; the end of its log is in the message.
    pub async fn ready(&self, timeout: Duration) -> Result<()> {
        self.part.ready(timeout, || self.answers("/readyz")).await
    }

    /// Waits until it says that it is not ready (`GET /readyz` answers, and not with 200).
    ///
    /// # Errors
    /// When it does not say so within `timeout`.
    pub async fn unready(&self, timeout: Duration) -> Result<()> {
        let what = format!("{} to be unready", self.name);
        until(timeout, &what, || async {
            let answer = status_of(&format!("{}/readyz", self.url())).await;
            answer.is_some_and(|status| status != 200)
        })
        .await
    }

    /// Whether a path answers 200 now.
    pub async fn answers(&self, path: &str) -> bool {
        status_of(&format!("{}{path}", self.url())).await == Some(200)
    }

    /// Waits for it to end by itself, as a service with a mistake in its configuration does.
    ///
    /// # Errors
    /// When it was not started, or has not ended within `timeout`.
    pub async fn ended(&self, timeout: Duration) -> Result<ExitStatus> {
        self.part.wait(timeout).await
    }

    /// Freezes it (SIGSTOP).
    pub fn pause(&self) {
        self.part.pause();
    }

    /// Lets it go on after [`pause`](Self::pause) (SIGCONT).
    pub fn resume(&self) {
        self.part.resume();
    }

    /// Kills it as a power cut would (SIGKILL). No harm where it does not run.
    ///
    /// # Errors
    /// When it does not die.
    pub async fn kill9(&self) -> Result<()> {
        self.part.kill9().await
    }

    /// Asks it to end (SIGTERM), and returns how it did.
    ///
    /// # Errors
    /// When it does not run, or not end within `timeout`.
    pub async fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        self.part.terminate(timeout).await
    }

    /// Ends it, politely where possible. No harm where it does not run.
    ///
    /// # Errors
    /// When even force does not help.
    pub async fn stop(&self) -> Result<()> {
        self.part.stop().await
    }

    /// Kills it (SIGKILL), starts it again and waits until it is ready.
    ///
    /// # Errors
    /// When it does not come back; the end of its log is in the message.
    pub async fn restart(&self) -> Result<()> {
        self.kill9().await?;
        self.start().await
    }

    /// The id of its process, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.part.id()
    }

    /// Why it is not running although nobody asked it to end.
    #[must_use]
    pub fn unexpected_end(&self) -> Option<anyhow::Error> {
        self.part.unexpected_end()
    }
}

/// A program that sees no more of this process's environment than any program needs, and says all it does.
fn hermetic(name: &str, binary: PathBuf, log: &Path) -> Program {
    Program::new(name, binary, log).hermetic().env("LOG_FORMAT", "text").env("RUST_LOG", "info")
}

fn address(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

async fn status_of(url: &str) -> Option<u16> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(3)).build().ok()?;
    Some(client.get(url).send().await.ok()?.status().as_u16())
}
