//! `up`, `dev`, `stop` and `exec`: stacks that run for as long as somebody wants them.

use std::{
    env, fs,
    fs::File,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use rustix::process::{Pid, Signal, kill_process, setsid};
use testkit::{Ports, RunDir, Stack, anvil, emulator, ports, process::Program, until, wait::POLL};

use crate::{
    interrupt::Interrupt,
    print::{raw, say},
    state::{self, Phase, Places, State},
};

/// Time for a stack to stop: a service may take all of its shutdown deadline.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// What a stack consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Everything.
    Up,
    /// Everything but the services.
    Dev,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Dev => "dev",
        }
    }
}

/// Where a stack is to be.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    /// Port of the campaign service
    #[arg(long, env = "CAMPAIGN_PORT", default_value_t = 8080)]
    campaign_port: u16,
    /// Port of the blockchain service
    #[arg(long, env = "BLOCKCHAIN_PORT", default_value_t = 8081)]
    blockchain_port: u16,
    /// Port of the Pub/Sub emulator
    #[arg(long, env = "PUBSUB_PORT", default_value_t = 8681)]
    pubsub_port: u16,
    /// Port of the chain
    #[arg(long, env = "ANVIL_PORT", default_value_t = 8545)]
    anvil_port: u16,
    /// Google Cloud project in the emulator
    #[arg(long, env = "GCP_PROJECT_ID", default_value = "test-project")]
    project: String,
    /// Seconds between two blocks
    #[arg(long, env = "BLOCK_TIME_SECONDS", default_value_t = 1.0)]
    block_time: f64,
}

impl Settings {
    fn arguments(&self) -> [String; 6] {
        [
            format!("--campaign-port={}", self.campaign_port),
            format!("--blockchain-port={}", self.blockchain_port),
            format!("--pubsub-port={}", self.pubsub_port),
            format!("--anvil-port={}", self.anvil_port),
            format!("--project={}", self.project),
            format!("--block-time={}", self.block_time),
        ]
    }

    /// Everything that will listen, with the variable that moves it.
    async fn listeners(&self, mode: Mode) -> Vec<(&'static str, &'static str, u16)> {
        let mut all = vec![("the chain", "ANVIL_PORT", self.anvil_port)];
        if mode == Mode::Up {
            all.push(("the campaign service", "CAMPAIGN_PORT", self.campaign_port));
            all.push(("the blockchain service", "BLOCKCHAIN_PORT", self.blockchain_port));
        }
        let given = env::var("PUBSUB_EMULATOR_HOST").unwrap_or_default();
        if given.is_empty() || !emulator::answers(&given).await {
            all.push(("the Pub/Sub emulator", "PUBSUB_PORT", self.pubsub_port));
        }
        all
    }
}

/// Starts a stack that outlives this command, and returns once it is ready.
pub(crate) async fn up(mode: Mode, settings: &Settings) -> Result<ExitCode> {
    let Some(lock) = state::lock()? else {
        return already_running().await;
    };
    check_ports(mode, settings).await?;
    state::clear()?;
    drop(lock);

    let mut interrupt = Interrupt::new()?;
    let log_path = state::folder().join("stack.log");
    let log = File::create(&log_path).with_context(|| format!("cannot create {}", log_path.display()))?;
    let mut server = Command::new(env::current_exe().context("this program has no path")?)
        .arg("serve")
        .arg(mode.name())
        .args(settings.arguments())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start the stack")?;

    let mut shown = 0;
    loop {
        let ended = server.try_wait()?;
        shown = show_from(&log_path, shown);
        if let Some(status) = ended {
            bail!("the stack did not start ({status}); logs: {}", state::folder().join("logs").display());
        }
        if let Some(State { phase: Phase::Ready, places: Some(places), .. }) = State::read() {
            welcome(mode, &places);
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = interrupt.next() => {
                terminate(server.id())?;
                server.wait()?;
                bail!("interrupted: everything is stopped again");
            }
        }
    }
}

/// The process that holds a detached stack together: it runs until it is told to stop or a part of the stack dies.
pub(crate) async fn serve(mode: Mode, settings: &Settings) -> Result<ExitCode> {
    // A session of its own, so that closing the terminal does not end it. It leads no group yet, so this works.
    let _ = setsid();
    let mut interrupt = Interrupt::new()?;
    let mut lock = None;
    until(Duration::from_secs(5), "the lock of target/run", || {
        lock = state::lock().ok().flatten();
        let taken = lock.is_some();
        async move { taken }
    })
    .await?;
    let mut state =
        State { pid: std::process::id(), mode: mode.name().to_owned(), phase: Phase::Starting, places: None };
    state.write()?;

    let stack = tokio::select! {
        started = start(mode, settings) => started?,
        () = interrupt.next() => {
            State::remove();
            return Ok(ExitCode::SUCCESS);
        }
    };
    state.phase = Phase::Ready;
    state.places = Some(places(&stack));
    state.write()?;

    let ended = tokio::select! {
        error = stack.first_unexpected_end() => Err(error),
        () = interrupt.next() => Ok(()),
    };
    if let Err(error) = &ended {
        state.phase = Phase::Failed(format!("{error:#}"));
        state.write()?;
        say!("a part has died: stopping the rest");
    }
    tokio::select! {
        stopped = stack.stop() => stopped?,
        () = interrupt.next() => say!("interrupted again: everything is killed"),
    }
    if ended.is_ok() {
        State::remove();
    }
    drop(lock);
    ended.map(|()| ExitCode::SUCCESS)
}

/// Stops what `up` or `dev` has started.
pub(crate) async fn stop() -> Result<ExitCode> {
    let Some(state) = state::running()? else {
        say!("nothing is running");
        return Ok(ExitCode::SUCCESS);
    };
    terminate(state.pid)?;
    until(STOP_TIMEOUT, "the stack to stop", || async { matches!(state::lock(), Ok(Some(_))) }).await?;
    say!("stopped (logs: {})", state::folder().join("logs").display());
    Ok(ExitCode::SUCCESS)
}

/// Runs a command against a stack of its own, and ends as it does.
pub(crate) async fn exec(command: &[String]) -> Result<ExitCode> {
    let mut interrupt = Interrupt::new()?;
    let (program, arguments) = command.split_first().context("there is no command")?;
    let run = async {
        let stack = Stack::builder().given_or_own_emulator().progress(|step| say!("{step}")).start().await?;
        let child = Program::new(program, program, stack.run_dir().log("exec"))
            .visible()
            .args(arguments)
            .env("CAMPAIGN_URL", stack.campaign.url())
            .env("BLOCKCHAIN_URL", stack.blockchain.url())
            .env("PUBSUB_EMULATOR_HOST", stack.emulator().host())
            .env("GCP_PROJECT_ID", stack.project())
            .env("RPC_URL", stack.anvil.url())
            .spawn()?;
        let status = tokio::select! {
            status = child.end() => status,
            error = stack.first_unexpected_end() => return Err(error),
        };
        stack.stop().await?;
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
    };
    tokio::select! {
        code = run => Ok(code?.into()),
        () = interrupt.next() => bail!("interrupted: everything is stopped"),
    }
}

async fn start(mode: Mode, settings: &Settings) -> Result<Stack> {
    let builder = Stack::builder()
        .run_dir(RunDir::at(state::folder())?)
        .given_or_own_emulator()
        .project(&settings.project)
        .block_time(seconds(settings.block_time)?)
        .ports(Ports {
            campaign: settings.campaign_port,
            blockchain: settings.blockchain_port,
            pubsub: settings.pubsub_port,
            anvil: settings.anvil_port,
        })
        .progress(|step| say!("{step}"));
    match mode {
        Mode::Up => builder.start().await,
        Mode::Dev => builder.without_services().start().await,
    }
}

/// A time given in seconds, fractions included.
pub(crate) fn seconds(seconds: f64) -> Result<Duration> {
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => bail!("{seconds} is no number of seconds above 0"),
    }
}

async fn already_running() -> Result<ExitCode> {
    let what = "the stack that is starting to be ready";
    until(STOP_TIMEOUT, what, || async { State::read().is_none_or(|state| state.phase != Phase::Starting) }).await?;
    match State::read() {
        Some(State { pid, mode, places: Some(places), .. }) => {
            say!("already running: `{mode}`, process {pid} (`make stop` stops it)");
            show_places(&mode, &places);
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("another stack was starting, and has stopped: try again"),
    }
}

/// Refuses to start beside somebody else's servers, and says whose they are.
async fn check_ports(mode: Mode, settings: &Settings) -> Result<()> {
    let mut taken = Vec::new();
    for (part, variable, port) in settings.listeners(mode).await {
        // What a killed stack has left may need a moment to go.
        let freed = until(Duration::from_secs(6), "a free port", || async { ports::is_free(port) });
        if freed.await.is_err() {
            let is_emulator = variable == "PUBSUB_PORT" && emulator::answers(&format!("127.0.0.1:{port}")).await;
            let hint = if is_emulator {
                format!(", and PUBSUB_EMULATOR_HOST=localhost:{port} uses the emulator that is there")
            } else {
                String::new()
            };
            let owner = owner_of(port);
            taken.push(format!("port {port} of {part} is taken{owner}; {variable} names another{hint}"));
        }
    }
    if !taken.is_empty() {
        bail!("cannot start:\n  {}", taken.join("\n  "));
    }
    Ok(())
}

/// Who listens on a port, as far as `lsof` can tell.
fn owner_of(port: u16) -> String {
    let answer = Command::new("lsof").args(["-nP", &format!("-iTCP:{port}"), "-sTCP:LISTEN", "-Fpc"]).output();
    let told = answer.map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned()).unwrap_or_default();
    let field = |letter: char| told.lines().find_map(|line| line.strip_prefix(letter));
    match (field('c'), field('p')) {
        (Some(name), Some(pid)) => format!(" by {name} (process {pid})"),
        _ => String::new(),
    }
}

fn terminate(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id is a positive i32")?;
    kill_process(pid, Signal::TERM).context("cannot signal the stack")
}

/// Shows what a log has beyond `shown` bytes, and returns how long it is now.
fn show_from(log: &Path, shown: usize) -> usize {
    let text = fs::read(log).unwrap_or_default();
    if let Some(new) = text.get(shown..) {
        raw(&String::from_utf8_lossy(new));
    }
    text.len()
}

fn places(stack: &Stack) -> Places {
    Places {
        campaign_url: stack.campaign.url(),
        blockchain_url: stack.blockchain.url(),
        pubsub_emulator_host: stack.emulator().host().to_owned(),
        project: stack.project().to_owned(),
        rpc_url: stack.anvil.url(),
        contracts: stack.chain.contracts().clone(),
        signer: anvil::SUBMITTER.address.to_owned(),
    }
}

fn welcome(mode: Mode, places: &Places) {
    say!("\nready");
    show_places(mode.name(), places);
    say!();
    match mode {
        Mode::Up => {
            say!("Try:");
            say!("  curl -X POST \"{}/token-request?user_id=alice&campaign_id=summer\"", places.campaign_url);
            say!("  curl \"{}/status?user_id=alice\"", places.campaign_url);
            say!("  curl {}/stats", places.blockchain_url);
            say!("Then `make status`, `make monitor`, `make logs`; `make stop` stops everything.");
        }
        Mode::Dev => {
            say!("Now, in two other terminals: `make run-campaign` and `make run-blockchain`.");
            say!("`make stop` stops the rest.");
        }
    }
}

fn show_places(mode: &str, places: &Places) {
    if mode == Mode::Up.name() {
        say!("  campaign     {}", places.campaign_url);
        say!("  blockchain   {}", places.blockchain_url);
    }
    say!("  Pub/Sub      {} (project {})", places.pubsub_emulator_host, places.project);
    say!("  chain        {} (id {})", places.rpc_url, anvil::CHAIN_ID);
    say!("  token        {}", places.contracts.token);
    say!("  distributor  {}", places.contracts.distributor);
    say!("  factory      {}", places.contracts.wallet_factory);
    say!("  signer       {}", places.signer);
    say!("  logs         {}", state::folder().join("logs").display());
}
