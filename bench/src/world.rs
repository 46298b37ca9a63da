//! The real parts, as a scenario needs them, on a disk and not in memory.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::json;
use testkit::{Postgres, RunDir, Service, Stack, Which, paths::workspace, stack::Database as StackDatabase};

use crate::{
    metrics::Metrics,
    processes::Processes,
    records::Records,
    settings::{Database, Settings},
    template::CAMPAIGN,
};

/// A running system with the benchmark's campaign in it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) settings: Settings,
    /// The number of the next grant that is asked for.
    pub(crate) next: u64,
    /// Grants that were accepted so far.
    pub(crate) granted: u64,
    /// The service's number of the newest grant that was looked at.
    pub(crate) newest: Option<u64>,
    // Last: it is removed when the processes that write into it are gone.
    folder: Folder,
}

/// What is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Services {
    Both,
    /// Neither, but all that they need.
    None,
}

/// A folder that is removed at the end.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("run-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = workspace().join("target/bench").join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::env::var_os("TESTKIT_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Blocks whose transactions the chain keeps: more than anybody looks back at.
const BLOCKS_KEPT: u32 = 64;

impl World {
    /// Starts everything, and makes the campaign.
    pub(crate) async fn start(settings: &Settings) -> Result<Self> {
        let world = Self::prepare(settings, Services::Both).await?;
        world.make_campaign().await?;
        Ok(world)
    }

    /// Starts what is asked for.
    pub(crate) async fn prepare(settings: &Settings, services: Services) -> Result<Self> {
        if settings.database == Database::Postgres {
            Postgres::shared_of_usual_size().await?;
        }
        let folder = Folder::new()?;
        let mut builder = Stack::builder()
            .own_emulator()
            .run_dir(RunDir::at(&folder.0)?)
            .block_time(settings.block_time())
            .blocks_kept(BLOCKS_KEPT)
            .database(match settings.database {
                Database::Sqlite => StackDatabase::Sqlite,
                Database::Postgres => StackDatabase::Postgres,
            });
        for variable in &settings.variables {
            builder = match variable.service {
                Which::Campaign => builder.campaign_env(&variable.key, &variable.value),
                Which::Blockchain => builder.blockchain_env(&variable.key, &variable.value),
            };
        }
        if let Some(binaries) = &settings.binaries {
            builder = builder.binaries(binaries);
        }
        if services == Services::None {
            builder = builder.without_services();
        }
        let stack = builder.start().await?;
        Ok(Self { stack, settings: settings.clone(), next: 0, granted: 0, newest: None, folder })
    }

    /// A campaign with all that a real one has: a budget, a limit for each user.
    pub(crate) async fn make_campaign(&self) -> Result<()> {
        let spec = json!({ "name": "Benchmark", "amount": 1, "budget": 1_000_000_000_000_u64 });
        self.records().put(&format!("/campaigns/{CAMPAIGN}"), &spec).await
    }

    /// Starts further replicas of a service.
    pub(crate) async fn add_replicas(&mut self, which: Which, count: usize) -> Result<()> {
        let known = self.stack.replicas(which).count();
        self.stack.add_replicas(which, count)?;
        for replica in self.stack.replicas(which).skip(known) {
            replica.start().await?;
        }
        Ok(())
    }

    pub(crate) fn service(&self, which: Which) -> &Service {
        self.stack.service(which)
    }

    /// Those that were started.
    fn replicas(&self, which: Which) -> impl Iterator<Item = &Service> {
        self.stack.replicas(which).filter(|replica| replica.id().is_some())
    }

    /// Where the campaign service takes requests.
    pub(crate) fn targets(&self) -> Result<Vec<SocketAddr>> {
        self.replicas(Which::Campaign).map(|service| address(&service.url())).collect()
    }

    /// Where the chain answers.
    pub(crate) fn node(&self) -> Result<SocketAddr> {
        address(&self.stack.anvil.url())
    }

    pub(crate) fn records(&self) -> Records {
        Records::of(self.stack.campaign.url())
    }

    /// All processes that take part.
    pub(crate) async fn processes(&self) -> Result<Processes> {
        let mut processes = Processes::default();
        for which in [Which::Campaign, Which::Blockchain] {
            for service in self.replicas(which) {
                processes.add(service.name(), service.id());
            }
        }
        processes.add("emulator", self.stack.emulator().id());
        processes.add("anvil", self.stack.anvil.id());
        if self.settings.database == Database::Postgres {
            processes.add("postgres", Postgres::shared().await?.id());
        }
        processes.add_this();
        Ok(processes)
    }

    /// A service's metrics, of all its replicas together.
    pub(crate) async fn metrics(&self, which: Which) -> Result<Metrics> {
        let mut all = Metrics::default();
        for service in self.replicas(which) {
            all.add(&Metrics::parse(&Records::of(service.url()).text("/metrics").await?));
        }
        Ok(all)
    }

    /// Stops everything.
    pub(crate) async fn stop(self) -> Result<()> {
        let Self { stack, folder, .. } = self;
        // Whatever a service does at its end is measured nowhere, and may take long where there is much to do.
        for replica in [Which::Campaign, Which::Blockchain].into_iter().flat_map(|which| stack.replicas(which)) {
            replica.kill9().await?;
        }
        stack.stop().await?;
        drop(folder);
        // What was written and removed must not be written back while the next scenario runs.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }
}

/// The address in `http://host:port`.
pub(crate) fn address(url: &str) -> Result<SocketAddr> {
    let text = url.strip_prefix("http://").unwrap_or(url);
    text.parse().with_context(|| format!("{url} has no address"))
}
