//! Everything that one seed runs on, with something that can go wrong between any two parts.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep};

use super::{fault::Fault, messages::Observer, schedule::Schedule, seed::Venue};
use crate::{
    anvil::Anvil,
    chain::Chain,
    client::CampaignClient,
    disk::Disk,
    emulator::Emulator,
    miner::Miner,
    paths::RunDir,
    ports,
    postgres::Postgres,
    postgres_proxy::PostgresProxy,
    process::tail,
    pubsub::Pubsub,
    rpc_proxy::RpcProxy,
    service::{READY_TIMEOUT, Service, Which},
    stack::{
        Database,
        builder::{blockchain_environment, environment, new_project},
    },
    wait::POLL,
};

/// Time between two blocks.
pub(super) const BLOCK_TIME: Duration = Duration::from_millis(250);

/// As how many nodes the chain appears.
const NODES: usize = 2;

/// The signal that a process ends with at a fail point, and what it says before.
const SIGABRT: i32 = 6;
const DIES: &str = "dies at a fail point";

/// The disk of a service's `SQLite` file.
const DISK_BYTES: u64 = 128 << 20;

/// The parts of one seed. Dropping it ends them.
#[derive(Debug)]
pub(super) struct World {
    campaign: Service,
    blockchain: Service,
    /// A second blockchain service on the same database and signer.
    pub(super) twin: Service,
    held: [tokio::sync::Mutex<()>; 2],
    pub(super) emulator: &'static Emulator,
    pub(super) pubsub: Pubsub,
    pub(super) observer: Observer,
    pub(super) anvil: Anvil,
    pub(super) chain: Chain,
    pub(super) miner: Miner,
    pub(super) rpc: RpcProxy,
    pub(super) databases: Databases,
    notes: Mutex<Notes>,
    /// Layers of protection that are missing.
    without: Vec<String>,
    // Last: it is removed after the processes that write into it are gone.
    pub(super) run_dir: RunDir,
}

/// What was seen of the services' processes.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    /// What services did that they should not, though no grant need have suffered.
    pub(super) findings: Vec<String>,
    /// Points at which services died, and when they were started again.
    pub(super) deaths: Vec<(&'static str, Instant)>,
    /// The points at which each service is to die, after it was there so often.
    armed: [BTreeMap<&'static str, u32>; 2],
}

/// Where the services keep their data.
#[derive(Debug)]
pub(super) enum Databases {
    /// Files, each on a disk of its own where this system has such disks.
    Sqlite { campaign: SqlitePlace, blockchain: SqlitePlace },
    /// Databases of one server, each behind a proxy of its own.
    Postgres { server: &'static Postgres, campaign: PostgresPlace, blockchain: PostgresPlace },
}

/// An `SQLite` file.
#[derive(Debug)]
pub(super) struct SqlitePlace {
    pub(super) file: PathBuf,
    pub(super) disk: Option<Disk>,
}

/// A database of a server.
#[derive(Debug)]
pub(super) struct PostgresPlace {
    pub(super) name: String,
    pub(super) proxy: PostgresProxy,
    /// Past the proxy.
    pub(super) url: String,
}

impl World {
    /// Starts everything for a seed and waits until it is ready.
    ///
    /// # Errors
    /// When a part does not start.
    pub(super) async fn start(venue: &Venue, schedule: &Schedule, run_dir: RunDir) -> Result<Self> {
        let state = run_dir.path().join("chain.json");
        fs::copy(&venue.chain_state, &state).context("cannot copy the chain's first state")?;
        let anvil = Anvil::start_from(run_dir.log("anvil"), ports::free()?, &state).await?;
        let chain = Chain::new(&anvil.url(), venue.contracts.clone())?;
        let miner = Miner::start(chain.clone(), BLOCK_TIME);
        miner.set_base_fee(Some(1));
        let rpc = RpcProxy::start(&anvil.url(), NODES).await?;
        let databases = Databases::new(schedule.database, &run_dir).await?;

        let project = new_project();
        let common = [
            ("PUBSUB_EMULATOR_HOST", venue.emulator.host().to_owned()),
            ("GCP_PROJECT_ID", project.clone()),
            ("PUBSUB_STREAMS", "2".to_owned()),
            ("SHUTDOWN_DEADLINE_SECONDS", "10".to_owned()),
            // What ends a service is said in a line.
            ("RUST_BACKTRACE", "0".to_owned()),
        ];
        let own = [("REPUBLISH_AFTER_SECONDS", "1".to_owned())];
        let campaign = environment(&common, databases.url(Which::Campaign), own, [].into());
        let own = [
            ("CONFIRMATIONS", schedule.finality.to_string()),
            ("BATCH_MAX_GRANTS", "100".to_owned()),
            ("MAX_IN_FLIGHT", "16".to_owned()),
            ("RESEND_AFTER_SECONDS", "1".to_owned()),
            ("REPLACE_AFTER_SECONDS", "2".to_owned()),
            ("CANCEL_AFTER_SECONDS", "6".to_owned()),
            ("AUDIT_EVERY_SECONDS", "5".to_owned()),
            ("AUDIT_GRACE_SECONDS", "20".to_owned()),
            ("POSTPONE_SECONDS", "1".to_owned()),
        ];
        let own = own.map(|(key, value)| (key.to_owned(), value)).into();
        let port = ports::free()?;
        let told = blockchain_environment(&rpc.urls().join(","), &venue.contracts, port);
        let blockchain = environment(&common, databases.url(Which::Blockchain), told, own);

        let service =
            |program: &str, port, log: &str, environment| Service::new(program, port, run_dir.log(log), environment);
        let world = Self {
            campaign: service(venue.campaign_program, port, "campaign", campaign)?,
            blockchain: service(venue.blockchain_program, ports::free()?, "blockchain", blockchain.clone())?,
            twin: service(venue.blockchain_program, ports::free()?, "twin", blockchain)?,
            held: Default::default(),
            emulator: venue.emulator,
            pubsub: venue.emulator.project(&project),
            observer: Observer::default(),
            anvil,
            chain,
            miner,
            rpc,
            databases,
            notes: Mutex::default(),
            without: venue.without.clone(),
            run_dir,
        };
        if let Some(Fault::ClocksApart { service, seconds }) = &schedule.clocks {
            let services = match service {
                Which::Campaign => vec![&world.campaign],
                Which::Blockchain => vec![&world.blockchain, &world.twin],
            };
            for service in services {
                service.set("CLOCK_OFFSET_SECONDS", &seconds.to_string());
            }
        }
        for which in [Which::Campaign, Which::Blockchain] {
            world.start_again(which)?;
        }
        tokio::try_join!(world.campaign.ready(READY_TIMEOUT), world.blockchain.ready(READY_TIMEOUT))?;
        world.observer.subscribe(&world.pubsub).await?;
        for (which, point) in &schedule.ambushes {
            world.arm(*which, point, 0);
        }
        Ok(world)
    }

    /// One of the services.
    pub(super) fn service(&self, which: Which) -> &Service {
        match which {
            Which::Campaign => &self.campaign,
            Which::Blockchain => &self.blockchain,
        }
    }

    /// A client of the campaign service.
    pub(super) fn client(&self) -> CampaignClient {
        CampaignClient::new(self.campaign.url())
    }

    /// Waits until nobody else does something to a service's process, and keeps others from it.
    pub(super) async fn hold(&self, which: Which) -> tokio::sync::MutexGuard<'_, ()> {
        self.held[which as usize].lock().await
    }

    /// Notes something that a service did which it should not, though no grant need have suffered.
    pub(super) fn found(&self, finding: impl Into<String>) {
        self.notes_now().findings.push(finding.into());
    }

    /// What was noted.
    pub(super) fn notes(&self) -> Notes {
        self.notes_now().clone()
    }

    /// Says at which point a service is to die from its next start on, after it was there so often.
    pub(super) fn arm(&self, which: Which, point: &'static str, after: u32) {
        self.notes_now().armed[which as usize].insert(point, after);
    }

    /// Says that a service is to die nowhere from its next start on; returns whether it was to die somewhere.
    pub(super) fn disarm(&self, which: Which) -> bool {
        !std::mem::take(&mut self.notes_now().armed[which as usize]).is_empty()
    }

    /// Whether a service is to die at this point.
    pub(super) fn is_armed(&self, which: Which, point: &str) -> bool {
        self.notes_now().armed[which as usize].contains_key(point)
    }

    /// Starts a service that does not run.
    ///
    /// # Errors
    /// When it runs, or cannot be started.
    pub(super) fn start_again(&self, which: Which) -> Result<()> {
        let action = |(point, after): (&&str, &u32)| match after {
            0 => format!("{point}=return"),
            after => format!("{point}={after}*off->return"),
        };
        let mut actions: Vec<String> = self.notes_now().armed[which as usize].iter().map(action).collect();
        actions.extend(self.without.iter().map(|layer| format!("{layer}=return")));
        let service = self.service(which);
        service.set("FAILPOINTS", &actions.join(";"));
        service.spawn()
    }

    /// Notes how a service came to its end, and starts it again.
    pub(super) async fn bury(&self, which: Which) {
        let service = self.service(which);
        let status = service.ended(POLL).await;
        let said = tail(service.log(), 3).unwrap_or_default();
        let aborted = status.as_ref().is_ok_and(|status| status.signal() == Some(SIGABRT));
        let died_at = |point: &&str| aborted && said.contains(&format!("{DIES} point=\"{point}\""));
        let mut notes = self.notes_now();
        let point = notes.armed[which as usize].keys().copied().find(died_at);
        if let Some(point) = point {
            // Once: it would never get past it.
            notes.armed[which as usize].remove(point);
            notes.deaths.push((point, Instant::now()));
        } else {
            let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            notes.findings.push(format!("{which} ended by itself ({how}); it said last: {said}"));
        }
        drop(notes);
        if let Err(error) = self.start_again(which) {
            self.found(format!("{which} cannot be started again: {error:#}"));
        }
    }

    /// Starts services again that ended by themselves, as an orchestrator would; does not return.
    pub(super) async fn supervise(&self) {
        loop {
            for which in [Which::Campaign, Which::Blockchain] {
                if let Ok(_held) = self.held[which as usize].try_lock()
                    && self.service(which).unexpected_end().is_some()
                {
                    self.bury(which).await;
                }
            }
            sleep(POLL * 4).await;
        }
    }

    fn notes_now(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything.
    ///
    /// # Errors
    /// When a part cannot be ended.
    pub(super) async fn stop(&self) -> Result<()> {
        tokio::try_join!(self.campaign.kill9(), self.blockchain.kill9(), self.twin.kill9(), self.anvil.kill9())?;
        Ok(())
    }
}

impl Databases {
    async fn new(database: Database, run_dir: &RunDir) -> Result<Self> {
        Ok(match database {
            Database::Sqlite => {
                let place = |which: Which| {
                    let folder = run_dir.path().join(which.to_string());
                    let disk = Disk::mount(&folder, DISK_BYTES).ok();
                    SqlitePlace { file: folder.join(format!("{which}.db")), disk }
                };
                Self::Sqlite { campaign: place(Which::Campaign), blockchain: place(Which::Blockchain) }
            }
            Database::Postgres => {
                let server = Postgres::shared().await?;
                let place = async |which: Which| {
                    let url = server.create_database(&format!("chaos_{which}")).await?;
                    let name = url.rsplit('/').next().and_then(|rest| rest.split('?').next()).unwrap_or_default();
                    let proxy = PostgresProxy::start(&server.address()?).await?;
                    anyhow::Ok(PostgresPlace { name: name.to_owned(), proxy, url })
                };
                let (campaign, blockchain) = tokio::try_join!(place(Which::Campaign), place(Which::Blockchain))?;
                Self::Postgres { server, campaign, blockchain }
            }
        })
    }

    /// What a service is told.
    fn url(&self, which: Which) -> String {
        match self {
            Self::Sqlite { .. } => self.direct_url(which),
            Self::Postgres { server, .. } => {
                let place = self.postgres(which).expect("this is PostgreSQL");
                let address = server.address().unwrap_or_default();
                place.url.replacen(&address, &format!("127.0.0.1:{}", place.proxy.port()), 1)
            }
        }
    }

    /// The database itself, past any proxy.
    pub(super) fn direct_url(&self, which: Which) -> String {
        match (self, which) {
            (Self::Sqlite { campaign: place, .. }, Which::Campaign)
            | (Self::Sqlite { blockchain: place, .. }, Which::Blockchain) => {
                format!("sqlite://{}", place.file.display())
            }
            (Self::Postgres { campaign: place, .. }, Which::Campaign)
            | (Self::Postgres { blockchain: place, .. }, Which::Blockchain) => place.url.clone(),
        }
    }

    /// A service's place on `PostgreSQL`.
    pub(super) fn postgres(&self, which: Which) -> Option<&PostgresPlace> {
        match (self, which) {
            (Self::Postgres { campaign, .. }, Which::Campaign) => Some(campaign),
            (Self::Postgres { blockchain, .. }, Which::Blockchain) => Some(blockchain),
            (Self::Sqlite { .. }, _) => None,
        }
    }

    /// A service's place on `SQLite`.
    pub(super) fn sqlite(&self, which: Which) -> Option<&SqlitePlace> {
        match (self, which) {
            (Self::Sqlite { campaign, .. }, Which::Campaign) => Some(campaign),
            (Self::Sqlite { blockchain, .. }, Which::Blockchain) => Some(blockchain),
            (Self::Postgres { .. }, _) => None,
        }
    }
}
