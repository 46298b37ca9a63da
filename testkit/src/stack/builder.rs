//! How a stack is to be, and how it is started.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Broker, Stack};
use crate::{
    anvil::{self, Anvil},
    chain::{Chain, Contracts},
    emulator::{Emulator, NoEmulator},
    paths::{RunDir, binary_in, workspace_binary},
    ports,
    postgres::Postgres,
    process::Program,
    service::{READY_TIMEOUT, Service},
};

const DEPLOY_TIMEOUT: Duration = Duration::from_mins(1);

/// Where the services keep their data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Database {
    /// A file of its own for each service, in the run directory.
    #[default]
    Sqlite,
    /// A database of its own for each service, on this process's server.
    Postgres,
}

/// The ports to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Of the campaign service.
    pub campaign: u16,
    /// Of the blockchain service.
    pub blockchain: u16,
    /// Of the Pub/Sub emulator.
    pub pubsub: u16,
    /// Of anvil.
    pub anvil: u16,
}

impl Ports {
    /// Four that are free.
    ///
    /// # Errors
    /// When there are none.
    pub fn free() -> Result<Self> {
        Ok(Self { campaign: ports::free()?, blockchain: ports::free()?, pubsub: ports::free()?, anvil: ports::free()? })
    }
}

/// Which emulator a stack uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum EmulatorOf {
    /// The one that all stacks of this process share.
    #[default]
    Process,
    /// One at `PUBSUB_EMULATOR_HOST`, else a new one.
    Stack,
    /// The same; where there is none to be had, none.
    StackOrNone,
    /// A new one, to be stopped and restarted.
    StackAlone,
}

/// How a stack is to be.
pub struct Builder {
    database: Database,
    ports: Option<Ports>,
    block_time: Duration,
    blocks_kept: Option<u32>,
    signers: usize,
    project: Option<String>,
    emulator: EmulatorOf,
    run_dir: Option<RunDir>,
    binaries: Option<PathBuf>,
    campaign: BTreeMap<String, String>,
    blockchain: BTreeMap<String, String>,
    services: Services,
    progress: Arc<dyn Fn(&str) + Send + Sync>,
}

/// What becomes of the services at the start of a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Services {
    Ready,
    Prepared,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            database: Database::default(),
            ports: None,
            block_time: Duration::from_millis(200),
            blocks_kept: None,
            signers: 1,
            project: None,
            emulator: EmulatorOf::default(),
            run_dir: None,
            binaries: None,
            campaign: BTreeMap::new(),
            blockchain: BTreeMap::new(),
            services: Services::Ready,
            progress: Arc::new(|_| {}),
        }
    }
}

impl Builder {
    /// Where the services keep their data; `SQLite` unless told.
    #[must_use]
    pub fn database(mut self, database: Database) -> Self {
        self.database = database;
        self
    }

    /// The ports to listen on; free ones unless told.
    #[must_use]
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = Some(ports);
        self
    }

    /// The time between two blocks; 0.2 s unless told.
    #[must_use]
    pub fn block_time(mut self, block_time: Duration) -> Self {
        self.block_time = block_time;
        self
    }

    /// Lets the chain forget the transactions of all but so many blocks; it keeps them all unless told.
    #[must_use]
    pub fn blocks_kept(mut self, blocks: u32) -> Self {
        self.blocks_kept = Some(blocks);
        self
    }

    /// How many accounts send transactions, each in a lane of its own; one unless told, four at most.
    #[must_use]
    pub fn signers(mut self, signers: usize) -> Self {
        self.signers = signers;
        self
    }

    /// The Google Cloud project; one that nobody else has unless told.
    #[must_use]
    pub fn project(mut self, project: impl Into<String>) -> Self {
        self.project = Some(project.into());
        self
    }

    /// With the emulator at `PUBSUB_EMULATOR_HOST` if one answers there, else with one for this stack.
    #[must_use]
    pub fn given_or_own_emulator(mut self) -> Self {
        self.emulator = EmulatorOf::Stack;
        self
    }

    /// The same; where there is none to be had, both services run in one process, over a broker in its memory.
    #[must_use]
    pub fn emulator_or_one_process(mut self) -> Self {
        self.emulator = EmulatorOf::StackOrNone;
        self
    }

    /// With an emulator for this stack alone, which a test may stop and restart.
    #[must_use]
    pub fn own_emulator(mut self) -> Self {
        self.emulator = EmulatorOf::StackAlone;
        self
    }

    /// The folder for logs and databases; a temporary one unless told.
    #[must_use]
    pub fn run_dir(mut self, run_dir: RunDir) -> Self {
        self.run_dir = Some(run_dir);
        self
    }

    /// The folder of another build's services; this program's own build unless told.
    #[must_use]
    pub fn binaries(mut self, folder: impl Into<PathBuf>) -> Self {
        self.binaries = Some(folder.into());
        self
    }

    /// A further variable for the campaign service.
    #[must_use]
    pub fn campaign_env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.campaign.insert(key.into(), value.into());
        self
    }

    /// A further variable for the blockchain service.
    #[must_use]
    pub fn blockchain_env(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.blockchain.insert(key.into(), value.into());
        self
    }

    /// Leaves the services to be started by hand ([`Service::start`], [`Service::spawn`]).
    #[must_use]
    pub fn without_services(mut self) -> Self {
        self.services = Services::Prepared;
        self
    }

    /// Tells somebody about each step of the start.
    #[must_use]
    pub fn progress(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.progress = Arc::new(tell);
        self
    }

    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    /// When a part does not start; what had started is stopped again.
    pub async fn start(self) -> Result<Stack> {
        // Boxed: what starts everything is large, and callers should not have to know.
        Box::pin(self.launch()).await
    }

    async fn launch(self) -> Result<Stack> {
        let run_dir = match self.run_dir {
            Some(run_dir) => run_dir,
            None => RunDir::temporary()?,
        };
        let ports = match self.ports {
            Some(ports) => ports,
            None => Ports::free()?,
        };
        let project = self.project.unwrap_or_else(new_project);
        let binary = |name: &str| match &self.binaries {
            Some(folder) => binary_in(folder, name),
            None => workspace_binary(name),
        };
        let progress = self.progress;

        let broker = async {
            let log = run_dir.log("emulator");
            let began = Instant::now();
            let own = |emulator| Broker::Own(Box::new(emulator));
            let broker = match self.emulator {
                EmulatorOf::Process => Broker::Shared(Emulator::shared().await?),
                EmulatorOf::Stack => own(Emulator::start(log, ports.pubsub, None).await?),
                EmulatorOf::StackAlone => own(Emulator::start_own(log, ports.pubsub, None).await?),
                EmulatorOf::StackOrNone => match Emulator::start(log, ports.pubsub, None).await {
                    Err(error) if error.is::<NoEmulator>() => Broker::InProcess,
                    started => own(started?),
                },
            };
            match broker.emulator() {
                Some(emulator) => {
                    let given = if emulator.is_given() { ", already there" } else { "" };
                    step(&*progress, "Pub/Sub", emulator.host(), given, began);
                }
                None => progress(
                    "Pub/Sub     none: there is no emulator here, so both services run in one process, over a broker in \
                     its memory",
                ),
            }
            anyhow::Ok(broker)
        };
        let further_signers = &anvil::FURTHER_SUBMITTERS[..self.signers.saturating_sub(1)];
        let chain = async {
            let began = Instant::now();
            let log = run_dir.log("anvil");
            let anvil = Anvil::start_keeping(log, ports.anvil, self.block_time, self.blocks_kept).await?;
            step(&*progress, "chain", &anvil.url(), "", began);
            let began = Instant::now();
            let contracts = deploy(binary("blockchain")?, &anvil.url(), &run_dir).await?;
            let chain = Chain::new(&anvil.url(), contracts)?;
            for account in further_signers {
                chain.appoint_submitter(account.address).await?;
            }
            step(&*progress, "contracts", &format!("token {}", chain.contracts().token), "", began);
            anyhow::Ok((anvil, chain))
        };
        let databases = async {
            let campaign = database(self.database, "campaign", run_dir.path());
            let blockchain = database(self.database, "blockchain", run_dir.path());
            anyhow::Ok((campaign.await?, blockchain.await?))
        };
        let (broker, (anvil, chain), databases) = tokio::try_join!(broker, chain, databases)?;

        let emulator_host = broker.emulator().map(|emulator| ("PUBSUB_EMULATOR_HOST", emulator.host().to_owned()));
        let common: Vec<_> = [("GCP_PROJECT_ID", project.clone())].into_iter().chain(emulator_host).collect();
        let campaign = environment(&common, databases.0, [], self.campaign);
        let told = told_of_chain(self.blockchain, &anvil, further_signers);
        let of_chain = blockchain_environment(&anvil.url(), chain.contracts(), ports.campaign);
        let blockchain = environment(&common, databases.1, of_chain, told);
        let [campaign, blockchain] = match broker {
            Broker::InProcess => {
                let ports = [ports.campaign, ports.blockchain];
                Service::together(ports, &run_dir.log("services"), [campaign, blockchain])?
            }
            Broker::Shared(_) | Broker::Own(_) => [
                Service::of(binary("campaign")?, "campaign", ports.campaign, run_dir.log("campaign"), campaign),
                Service::of(
                    binary("blockchain")?,
                    "blockchain",
                    ports.blockchain,
                    run_dir.log("blockchain"),
                    blockchain,
                ),
            ],
        };
        let stack = Stack { campaign, blockchain, twins: Vec::new(), anvil, chain, broker, project, run_dir };
        if self.services == Services::Ready {
            let began = Instant::now();
            stack.campaign.spawn()?;
            if stack.broker.emulator().is_some() {
                stack.blockchain.spawn()?;
            }
            let ready = async |service: &Service| {
                service.ready(READY_TIMEOUT).await?;
                step(&*progress, service.name(), &service.url(), "", began);
                anyhow::Ok(())
            };
            tokio::try_join!(ready(&stack.campaign), ready(&stack.blockchain))?;
        }
        Ok(stack)
    }
}

/// Deploys the contracts, as the operator of a new chain would, with the service's own command.
pub(crate) async fn deploy(binary: PathBuf, rpc_url: &str, run_dir: &RunDir) -> Result<Contracts> {
    let told = Program::new("blockchain deploy", binary, run_dir.log("deploy"))
        .hermetic()
        .arg("deploy")
        .args(["--rpc-url", rpc_url])
        .args(["--deployer-key", anvil::ADMIN.key])
        .args(["--admin", anvil::ADMIN.address])
        .args(["--submitter", anvil::SUBMITTER.address])
        .run(DEPLOY_TIMEOUT)
        .await
        .context("cannot deploy the contracts")?;
    let line = told.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("`blockchain deploy` printed {line:?}"))
}

/// What it is told besides: who tells of new blocks, and who signs where that is not one alone.
fn told_of_chain(
    mut told: BTreeMap<String, String>,
    anvil: &Anvil,
    further_signers: &[anvil::Account],
) -> BTreeMap<String, String> {
    told.entry("WS_URL".to_owned()).or_insert_with(|| anvil.url().replacen("http", "ws", 1));
    if !further_signers.is_empty() {
        let keys: Vec<_> = [anvil::SUBMITTER].iter().chain(further_signers).map(|account| account.key).collect();
        told.insert("SIGNER_KEY".to_owned(), keys.join(","));
    }
    told
}

/// What the blockchain service is told of the chain, and of the campaign service that listens on a port.
pub(crate) fn blockchain_environment(
    rpc_url: &str,
    contracts: &Contracts,
    campaign_port: u16,
) -> [(&'static str, String); 6] {
    [
        ("RPC_URL", rpc_url.to_owned()),
        ("CHAIN_ID", anvil::CHAIN_ID.to_string()),
        ("SIGNER_KEY", anvil::SUBMITTER.key.to_owned()),
        ("DISTRIBUTOR_ADDRESS", contracts.distributor.to_string()),
        ("WALLET_FACTORY_ADDRESS", contracts.wallet_factory.to_string()),
        ("CAMPAIGN_URL", format!("http://127.0.0.1:{campaign_port}")),
    ]
}

async fn database(kind: Database, service: &str, folder: &Path) -> Result<String> {
    match kind {
        Database::Sqlite => Ok(format!("sqlite://{}", folder.join(format!("{service}.db")).display())),
        Database::Postgres => Postgres::shared().await?.create_database(service).await,
    }
}

/// What a service is told: what both are, its own, and what a test wants otherwise.
pub(crate) fn environment<const N: usize>(
    common: &[(&str, String)],
    database_url: String,
    own: [(&str, String); N],
    extra: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = common
        .iter()
        .cloned()
        .chain(own)
        .chain([("DATABASE_URL", database_url)])
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
    all.extend(extra);
    all
}

/// A project that no other stack on this machine's emulators has.
pub(crate) fn new_project() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("test-{:08x}-{count}", rand::random::<u32>())
}

fn step(tell: &(dyn Fn(&str) + Send + Sync), part: &str, place: &str, note: &str, began: Instant) {
    tell(&format!("{part:<11} {place} ({:.1} s{note})", began.elapsed().as_secs_f64()));
}
