//! Everything at once: emulator, chain, contracts, databases and both services.

pub(crate) mod builder;

use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;

pub use self::builder::{Builder, Database, Ports};
use crate::{
    anvil::Anvil,
    chain::Chain,
    client::{BlockchainClient, CampaignClient, Grant},
    emulator::Emulator,
    paths::RunDir,
    ports,
    pubsub::Pubsub,
    service::{Service, Which},
    wait::{POLL, until_some},
};

/// A running stack. Dropping it kills everything that belongs to it alone.
#[derive(Debug)]
pub struct Stack {
    /// The campaign service.
    pub campaign: Service,
    /// The blockchain service.
    pub blockchain: Service,
    /// Further replicas of both.
    twins: Vec<Service>,
    /// The chain's process.
    pub anvil: Anvil,
    /// What is on the chain.
    pub chain: Chain,
    broker: Broker,
    project: String,
    // Last: it is removed after the processes that write into it are gone.
    run_dir: RunDir,
}

#[derive(Debug)]
enum Broker {
    /// The emulator of all stacks of this process.
    Shared(&'static Emulator),
    /// This stack's emulator.
    Own(Box<Emulator>),
    /// In the memory of the one process that both services are.
    InProcess,
}

impl Broker {
    fn emulator(&self) -> Option<&Emulator> {
        match self {
            Self::Shared(emulator) => Some(emulator),
            Self::Own(emulator) => Some(emulator),
            Self::InProcess => None,
        }
    }
}

impl Stack {
    /// A stack to be described.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// A whole stack on free ports, with the embedded databases.
    ///
    /// # Errors
    /// When a part does not start.
    pub async fn start() -> Result<Self> {
        Self::builder().start().await
    }

    /// The emulator.
    ///
    /// # Panics
    /// In a stack that [may do without one](Builder::emulator_or_one_process), and does.
    pub fn emulator(&self) -> &Emulator {
        self.broker.emulator().expect("only a stack that may do without an emulator has none")
    }

    /// The topics and subscriptions of this stack.
    pub fn pubsub(&self) -> Pubsub {
        self.emulator().project(&self.project)
    }

    /// The Google Cloud project.
    pub fn project(&self) -> &str {
        &self.project
    }

    /// The folder of logs and databases.
    pub fn run_dir(&self) -> &RunDir {
        &self.run_dir
    }

    /// One of the services: its first process.
    pub fn service(&self, which: Which) -> &Service {
        match which {
            Which::Campaign => &self.campaign,
            Which::Blockchain => &self.blockchain,
        }
    }

    /// All processes of a service, running or not, the first one first.
    pub fn replicas(&self, which: Which) -> impl Iterator<Item = &Service> {
        let first = self.service(which);
        std::iter::once(first).chain(self.twins.iter().filter(|twin| twin.name() == first.name()))
    }

    /// Adds further replicas of a service, on its database, to be started by hand ([`Service::start`]).
    ///
    /// # Errors
    /// When there are no free ports.
    pub fn add_replicas(&mut self, which: Which, count: usize) -> Result<()> {
        let known = self.replicas(which).count();
        for number in known + 1..=known + count {
            let log = self.run_dir.log(&format!("{which}-{number}"));
            let twin = self.service(which).twin(ports::free()?, log);
            self.twins.push(twin);
        }
        Ok(())
    }

    /// A client of the campaign service.
    pub fn campaign_client(&self) -> CampaignClient {
        CampaignClient::new(self.campaign.url())
    }

    /// A client of the blockchain service.
    pub fn blockchain_client(&self) -> BlockchainClient {
        BlockchainClient::new(self.blockchain.url())
    }

    /// Waits until a grant is completed or failed, through whatever happens to the service meanwhile.
    ///
    /// # Errors
    /// When it is neither within `timeout`.
    pub async fn final_grant(&self, request_id: &str, timeout: Duration) -> Result<Grant> {
        let client = self.campaign_client();
        until_some(timeout, &format!("grant {request_id} to be final"), || async {
            client.grant(request_id).await.ok().flatten().filter(Grant::is_final)
        })
        .await
    }

    /// Which part is not running although nobody stopped it, and what it said last.
    pub fn unexpected_end(&self) -> Option<anyhow::Error> {
        self.broker
            .emulator()
            .and_then(Emulator::unexpected_end)
            .or_else(|| self.anvil.unexpected_end())
            .or_else(|| self.campaign.unexpected_end())
            .or_else(|| self.blockchain.unexpected_end())
            .or_else(|| self.twins.iter().find_map(Service::unexpected_end))
    }

    /// Waits until a part ends unexpectedly, and says which.
    pub async fn first_unexpected_end(&self) -> anyhow::Error {
        loop {
            if let Some(error) = self.unexpected_end() {
                return error;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops everything that belongs to this stack, the services first.
    ///
    /// # Errors
    /// When a part cannot be stopped.
    pub async fn stop(self) -> Result<()> {
        let services = [&self.campaign, &self.blockchain].into_iter().chain(&self.twins);
        let services: Result<()> = join_all(services.map(Service::stop)).await.into_iter().collect();
        let rest = match &self.broker {
            Broker::Own(emulator) => tokio::join!(emulator.stop(), self.anvil.stop()),
            Broker::Shared(_) | Broker::InProcess => (Ok(()), self.anvil.stop().await),
        };
        services.and(rest.0).and(rest.1)
    }
}
