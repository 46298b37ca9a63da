//! Both services as production wires them (`campaign::run`, `blockchain::run`), but for sockets, tasks and time: each
//! component takes a step when the world says so. A service that dies is dropped, its connections with it, and opened
//! again on the file that it leaves behind.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use alloy::primitives::{Address, B256};
use alloy::signers::local::PrivateKeySigner;
use anyhow::{Context as _, Result};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use blockchain::audit::auditor::Auditor;
use blockchain::audit::periodic::PeriodicAudit;
use blockchain::audit::reader::{Chunk, Reader};
use blockchain::chain::Chain;
use blockchain::confirmer::{Confirmer, Rules};
use blockchain::contract::gas_per_grant;
use blockchain::deployment::{Addresses, Deployment};
use blockchain::domain::Currency;
use blockchain::earlier::Earlier;
use blockchain::finality::Finality;
use blockchain::gaps::GapRepairer;
use blockchain::lease::{Holder, Lease};
use blockchain::observe::Observations;
use blockchain::sender::Sender;
use blockchain::signer::Signer;
use blockchain::store::{LaneId, Source};
use blockchain::submitter::{Limits, Submitter};
use blockchain::transaction::Patience;
use campaign::api::Loader;
use campaign::claims::{RootMaker, Trees};
use campaign::operator::Operator;
use campaign::republisher::Republisher;
use campaign::store::Policy;
use chrono::TimeDelta;
use futures::future::join_all;
use shared::clock::Clock;
use shared::dead_letter::DeadLetters;
use shared::inbox::Inbox;
use shared::outbox::Relay;
use shared::pubsub::{Bus, Delivery, Keeper, Topic};
use shared::random::ascending_uuid;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::chain::contracts::{DISTRIBUTOR, FACTORY};
use crate::chain::{CHAIN_ID, GWEI, Node};
use crate::network::Network;

fn signer_key() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(0x42)).expect("it is below the order of the curve")
}

/// The account that pays.
#[must_use]
pub fn signer() -> Address {
    static SIGNER: LazyLock<Address> = LazyLock::new(|| signer_key().address());
    *SIGNER
}

/// The most that is paid for a unit of gas, in wei.
pub const MAX_FEE: u64 = 500 * GWEI;

/// The most blocks whose events a node is asked for at once.
const AUDIT_MAX_BLOCKS: u64 = 64;

/// How long a grant waits that was refused for a reason that will pass.
const POSTPONE_SECONDS: u64 = 10;

/// What both services are configured with.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// When a block is final.
    pub finality: Finality,
    /// The most grants in a transaction.
    pub batch_grants: usize,
    /// The most transactions whose fate is open.
    pub in_flight: usize,
    /// How long to wait for a transaction.
    pub patience: Patience,
    /// For how long a lane is taken.
    pub lease: TimeDelta,
    /// How long without a result until a request is published again.
    pub campaign_patience: campaign::domain::Patience,
    /// How often the auditor compares.
    pub audit_every: Duration,
}

impl Settings {
    fn limits(&self) -> Limits {
        Limits {
            batch_grants: self.batch_grants,
            in_flight: self.in_flight,
            block_gas: None,
            linger: Duration::ZERO,
            gas_per_grant: gas_per_grant(true),
            max_fee_per_gas: MAX_FEE,
            postpone: Duration::from_secs(POSTPONE_SECONDS),
        }
    }

    fn policy(&self) -> Policy {
        Policy { republish_after: self.campaign_patience.first_wait, auto_create: true }
    }

    fn rules(&self) -> Rules {
        Rules {
            finality: self.finality,
            patience: self.patience,
            max_fee_per_gas: MAX_FEE,
            postpone: TimeDelta::seconds(POSTPONE_SECONDS.cast_signed()),
        }
    }
}

/// Where a service keeps its database, a file of SQLite.
#[derive(Debug, Clone)]
pub struct File(PathBuf);

impl File {
    /// The file of this path.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn url(&self) -> secrecy::SecretString {
        format!("sqlite://{}", self.0.display()).into()
    }

    fn parts(&self) -> [PathBuf; 3] {
        ["", "-wal", "-shm"].map(|suffix| PathBuf::from(format!("{}{suffix}", self.0.display())))
    }

    /// Copies what is committed to another file, while nobody writes.
    ///
    /// # Errors
    ///
    /// When the disk does not take it.
    pub fn copy_to(&self, other: &Self) -> Result<()> {
        other.remove();
        for (from, to) in self.parts().iter().zip(other.parts()).take(2) {
            if from.exists() {
                std::fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
            }
        }
        Ok(())
    }

    /// Removes it, where it exists.
    pub fn remove(&self) {
        for part in self.parts() {
            let _ = std::fs::remove_file(part);
        }
    }

    /// Whether it exists.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.0.exists()
    }
}

/// Creates both databases, empty, in a folder.
///
/// # Errors
///
/// When SQLite does not take the schema.
pub async fn create_databases(folder: &Path) -> Result<[File; 2]> {
    let [campaign, blockchain] = ["campaign", "blockchain"].map(|name| File::new(folder.join(format!("{name}.empty"))));
    campaign::store::Store::open(&campaign.url()).await?.database().close().await;
    blockchain::store::Store::open(&blockchain.url()).await?.database().close().await;
    Ok([campaign, blockchain])
}

/// A running campaign service.
pub struct Campaign {
    /// Its tables.
    pub store: campaign::store::Store,
    routes: Router,
    writer: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Publishes its outbox.
    pub relay: Relay<campaign::store::Store>,
    /// Publishes again.
    pub republisher: Arc<Republisher>,
    /// Makes the trees of claims.
    pub root_maker: RootMaker,
    /// What could not be handled.
    pub letters: DeadLetters,
    inbox: Inbox<campaign::subscriber::Subscriber>,
    /// Creates topics.
    pub keeper: Keeper,
}

/// What a client was answered.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's word.
    pub status: StatusCode,
    /// The body.
    pub body: Vec<u8>,
}

impl Campaign {
    /// Opens the service on a database.
    ///
    /// # Errors
    ///
    /// When the database cannot be opened.
    pub async fn open(file: &File, network: &Network, clock: &Clock, settings: Settings) -> Result<Self> {
        let store = campaign::store::Store::open(&file.url()).await?;
        let bus: Arc<dyn Bus> = Arc::new(network.clone());
        let [outbox_ready, created] = std::array::from_fn(|_| Arc::new(Notify::new()));
        let patience = settings.campaign_patience;
        let (acceptor, writer) =
            campaign::acceptor::new(store.clone(), clock.clone(), Arc::clone(&outbox_ready), settings.policy());
        let letters = DeadLetters::new(store.database().clone(), clock.clone(), Arc::clone(&outbox_ready));
        let operator = Operator::new(store.clone(), clock.clone(), Arc::clone(&outbox_ready));
        let republisher = Arc::new(Republisher::new(store.clone(), clock.clone(), outbox_ready, patience));
        let again = Arc::clone(&republisher);
        let (policy, outbox_ready) = (settings.policy(), Arc::default());
        let loader = Loader { store: store.clone(), clock: clock.clone(), policy, outbox_ready };
        let trees = Trees::new(store.clone());
        let every = Duration::from_secs(5);
        Ok(Self {
            root_maker: RootMaker::new(store.clone(), trees.clone(), clock.clone(), every, Arc::default()),
            routes: campaign::api::routes(store.clone(), acceptor, letters.clone(), again, operator, loader, trees),
            writer: Box::pin(writer.run(CancellationToken::new())),
            relay: Relay::new(store.database().clone(), Arc::clone(&bus), clock.clone()).telling(store.clone()),
            republisher,
            keeper: Keeper::new(Arc::clone(&bus), Arc::clone(&created)),
            inbox: Inbox {
                bus,
                topic: Topic::Results,
                streams: 1,
                created,
                consumer: campaign::subscriber::Subscriber::new(store.clone(), clock.clone()),
                letters: letters.clone(),
            },
            letters,
            store,
        })
    }

    /// Serves requests that arrive at the same time.
    pub async fn serve(&mut self, requests: Vec<Request<Body>>) -> Vec<Answer> {
        let answers = join_all(requests.into_iter().map(|request| {
            let routes = self.routes.clone();
            async move {
                let Ok(response) = routes.oneshot(request).await;
                let status = response.status();
                let body = to_bytes(response.into_body(), usize::MAX).await.unwrap_or_default();
                Answer { status, body: body.into() }
            }
        }));
        tokio::select! {
            biased;
            answers = answers => answers,
            () = &mut self.writer => vec![],
        }
    }

    /// Takes results in.
    pub async fn receive(&self, deliveries: Vec<Delivery>) {
        self.inbox.handle(deliveries, &CancellationToken::new()).await;
    }
}

/// A running blockchain service.
pub struct Blockchain {
    /// Its tables.
    pub store: blockchain::store::Store,
    /// Publishes its outbox.
    pub relay: Relay,
    /// Holds the lane.
    pub holder: Holder,
    /// Compares ledger and chain.
    pub auditor: PeriodicAudit,
    /// What could not be handled.
    pub letters: DeadLetters,
    /// Finds nonces that are missing.
    pub gaps: GapRepairer,
    /// Makes transactions.
    pub submitter: Submitter,
    /// Follows them.
    pub confirmer: Confirmer,
    inbox: Inbox<blockchain::subscriber::Subscriber>,
    /// Creates topics.
    pub keeper: Keeper,
}

impl Blockchain {
    /// Opens the service on a database, having looked at the chain.
    ///
    /// # Errors
    ///
    /// When the database cannot be opened, or the chain does not answer.
    pub async fn open(file: &File, network: &Network, node: &Node, clock: &Clock, settings: Settings) -> Result<Self> {
        let store = blockchain::store::Store::open(&file.url()).await?;
        let service = Self::wire(store.clone(), network, node, clock, settings).await;
        if service.is_err() {
            store.database().close().await;
        }
        service
    }

    async fn wire(
        store: blockchain::store::Store,
        network: &Network,
        node: &Node,
        clock: &Clock,
        settings: Settings,
    ) -> Result<Self> {
        let signer = Signer::new(signer_key());
        let addresses = Addresses {
            distributor: DISTRIBUTOR,
            wallet_factory: FACTORY,
            distributor_block: 0,
            chain_id: Some(CHAIN_ID),
        };
        let chain: Arc<dyn Chain> = Arc::new(node.clone());
        let (deployment, chain_id) = Deployment::verify(&*chain, &[signer.address()], addresses).await?;
        let lane = LaneId { chain_id, signer: signer.address() };
        let bus: Arc<dyn Bus> = Arc::new(network.clone());
        let observations = Arc::new(Observations::default());
        let [outbox_ready, queue_ready, sent, created] = std::array::from_fn(|_| Arc::new(Notify::new()));
        let letters = DeadLetters::new(store.database().clone(), clock.clone(), Arc::clone(&outbox_ready));
        let auditor = Auditor {
            observations: Arc::clone(&observations),
            outbox_ready: Arc::clone(&outbox_ready),
            ..auditor(&store, &chain, deployment, clock, settings)
        };
        let lease = Lease::new(clock.clone());
        let sender = Sender {
            id: lane,
            store: store.clone(),
            chain: Arc::clone(&chain),
            signer,
            clock: clock.clone(),
            lease,
            sent,
        };

        let earlier = Earlier::new(&sender, &deployment, settings.finality, AUDIT_MAX_BLOCKS);
        Ok(Self {
            relay: Relay::new(store.database().clone(), Arc::clone(&bus), clock.clone()),
            auditor: PeriodicAudit::new(auditor, settings.audit_every),
            holder: Holder {
                sender: sender.clone(),
                owner: ascending_uuid(clock.now()).to_string(),
                duration: settings.lease,
                taken: Arc::clone(&queue_ready),
            },
            gaps: GapRepairer {
                sender: sender.clone(),
                patience: settings.patience.resend_after,
                max_fee_per_gas: MAX_FEE,
                seen: Mutex::default(),
            },
            submitter: Submitter {
                store: store.clone(),
                chain,
                clock: clock.clone(),
                senders: vec![sender.clone()],
                deployment,
                limits: settings.limits(),
                allowed: AtomicUsize::new(settings.batch_grants),
                observations: Arc::clone(&observations),
                outbox_ready: Arc::clone(&outbox_ready),
            },
            confirmer: Confirmer {
                sender,
                deployment,
                rules: settings.rules(),
                earlier,
                observations,
                settled_head: AtomicU64::new(0),
                made_room: Arc::clone(&queue_ready),
                outbox_ready: Arc::clone(&outbox_ready),
            },
            keeper: Keeper::new(Arc::clone(&bus), Arc::clone(&created)),
            inbox: Inbox {
                bus,
                topic: Topic::Requests,
                streams: 1,
                created,
                consumer: blockchain::subscriber::Subscriber {
                    store: store.clone(),
                    clock: clock.clone(),
                    wallets: deployment.wallets,
                    currency: Currency { chain_id: CHAIN_ID, token: deployment.token, decimals: deployment.decimals },
                    queue_ready,
                    outbox_ready,
                },
                letters: letters.clone(),
            },
            letters,
            store,
        })
    }

    /// Takes requests in.
    pub async fn receive(&self, deliveries: Vec<Delivery>) {
        self.inbox.handle(deliveries, &CancellationToken::new()).await;
    }
}

/// An auditor of the blockchain service's ledger; the campaign service's is read over HTTP, which there is none of here.
#[must_use]
pub fn auditor(
    store: &blockchain::store::Store,
    chain: &Arc<dyn Chain>,
    deployment: Deployment,
    clock: &Clock,
    settings: Settings,
) -> Auditor {
    Auditor {
        store: store.clone(),
        reader: Reader {
            store: store.clone(),
            chain: Arc::clone(chain),
            clock: clock.clone(),
            source: Source { chain_id: CHAIN_ID, distributor: deployment.distributor, first_block: deployment.block },
            finality: settings.finality,
            chunk: Chunk::new(AUDIT_MAX_BLOCKS),
        },
        deployment,
        campaign: None,
        clock: clock.clone(),
        grace: TimeDelta::seconds(60),
        repair: true,
        claims_seen_below: AtomicU64::new(0),
        observations: Arc::default(),
        outbox_ready: Arc::default(),
    }
}
