//! Google Cloud Pub/Sub, real, emulated, or within the process: the only module that knows Google's client library.
//!
//! Names of topics and subscriptions are fixed by the contract with the outside; [`PubSub::ensure`] creates whatever is
//! missing, dead-letter topics and policies included. Publishing is bounded in time; receiving is bounded in count.

mod google;
mod local;
mod schemas;
mod topology;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt as _, Stream, StreamExt as _};
pub use google::PubSub;
use google_cloud_gax::error::rpc::Code;
pub use local::Local;
use serde::{Serialize, Serializer};
pub use topology::Keeper;

use crate::event::AttributeMap;

/// Which Pub/Sub a service uses, and how.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Google Cloud project that owns the topics.
    #[arg(long = "gcp-project-id", env = "GCP_PROJECT_ID", default_value = "test-project", value_parser = project)]
    pub project: String,

    /// The emulator's `host:port`. Unset or empty: Google Cloud itself, with application default credentials.
    #[arg(long = "pubsub-emulator-host", env = "PUBSUB_EMULATOR_HOST", value_parser = host_and_port)]
    pub emulator_host: Option<String>,

    /// How many streams receive messages; one carries about 2,000 messages a second.
    #[arg(long = "pubsub-streams", env = "PUBSUB_STREAMS", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub streams: u8,

    /// Whether both topics are to have the schemas of the repository: registered with Pub/Sub's schema service and
    /// attached. What does not fit is then refused when it is published. `false` takes nothing away.
    #[arg(long = "pubsub-schemas", env = "PUBSUB_SCHEMAS", default_value_t = false, action = clap::ArgAction::Set)]
    pub schemas: bool,
}

fn project(text: &str) -> Result<String, &'static str> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase());
    let valid = starts && text.len() <= 100 && text.chars().all(allowed);
    valid
        .then(|| text.to_owned())
        .ok_or("GCP_PROJECT_ID is a project id such as my-project-123, not its name or number")
}

fn host_and_port(text: &str) -> Result<String, &'static str> {
    let address = text.trim_start_matches("http://");
    let valid = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok());
    let valid = valid || text.is_empty();
    valid.then(|| address.to_owned()).ok_or("PUBSUB_EMULATOR_HOST is host:port, such as localhost:8681")
}

impl Config {
    /// Connects to this Pub/Sub. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When there are no credentials, or the address is no address.
    pub async fn connect(&self) -> Result<Arc<dyn Bus>, Error> {
        Ok(Arc::new(PubSub::connect(&self.project, self.emulator()).await?.with_schemas(self.schemas)))
    }

    /// The emulator's address, where one is to be used.
    #[must_use]
    pub fn emulator(&self) -> Option<&str> {
        self.emulator_host.as_deref().filter(|host| !host.is_empty())
    }
}

/// Where messages are published, and, from its one subscription, received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Grants to be paid.
    Requests,
    /// What became of them.
    Results,
    /// Requests that cannot be handled.
    DeadRequests,
    /// Results that cannot be handled.
    DeadResults,
}

impl Topic {
    /// All topics.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Results, Self::DeadRequests, Self::DeadResults];

    /// Those that messages are published on; the others have what became of some.
    pub const LIVE: [Self; 2] = [Self::Requests, Self::Results];

    /// The topic's name within its project. Its subscription is `{name}-sub`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "token-grant-requests",
            Self::Results => "token-grant-results",
            Self::DeadRequests => "token-grant-requests-dead-letter",
            Self::DeadResults => "token-grant-results-dead-letter",
        }
    }

    /// Where the messages of this topic go that cannot be handled; `None` if they are such messages already.
    #[must_use]
    pub fn dead_letters(self) -> Option<Self> {
        match self {
            Self::Requests => Some(Self::DeadRequests),
            Self::Results => Some(Self::DeadResults),
            Self::DeadRequests | Self::DeadResults => None,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl FromStr for Topic {
    type Err = UnknownTopic;

    fn from_str(name: &str) -> Result<Self, UnknownTopic> {
        Self::ALL.into_iter().find(|topic| topic.name() == name).ok_or(UnknownTopic)
    }
}

/// The text names none of our topics.
#[derive(Debug, thiserror::Error)]
#[error("unknown topic")]
pub struct UnknownTopic;

/// A message to publish.
#[derive(Debug, Clone)]
pub struct Message {
    /// The body, JSON.
    pub data: Bytes,
    /// Name to value.
    pub attributes: AttributeMap,
}

/// Why Pub/Sub did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client could not be made: most often, credentials are missing.
    #[error("cannot set up Pub/Sub; is PUBSUB_EMULATOR_HOST or are the Google Cloud credentials right? {0}")]
    Client(#[from] google_cloud_gax::client_builder::Error),
    /// A call failed.
    #[error("Pub/Sub: {}", brief(.0))]
    Call(#[from] google_cloud_pubsub::Error),
    /// A publish failed.
    #[error("publish: {0}")]
    Publish(#[from] google_cloud_pubsub::error::PublishError),
    /// Pub/Sub did not answer in time.
    #[error("Pub/Sub did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// There is no such topic (any more).
    #[error("the topic {0} does not exist")]
    Missing(Topic),
    /// Somebody has given a topic a schema that is not ours.
    #[error("the topic {topic} has the schema {schema}, which is left as it is")]
    OtherSchema {
        /// The topic.
        topic: Topic,
        /// The full name of its schema.
        schema: String,
    },
    /// With our schema, a topic would not take our messages.
    #[error("the schema service refuses fields that a schema does not name, so {topic} stays without: {source}")]
    PlainJsonRefused {
        /// The topic.
        topic: Topic,
        /// What the service said.
        source: Box<Error>,
    },
}

/// The status that the server sent, without the call's headers.
fn brief(error: &google_cloud_pubsub::Error) -> String {
    error.status().map_or_else(|| error.to_string(), |status| format!("{:?}: {}", status.code, status.message))
}

impl Error {
    /// Whether a topic or subscription does not exist (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.has_code(Code::NotFound)
    }

    /// Whether the broker refuses the message or the request as such, so that the same again cannot succeed. It may have
    /// been another message of the same request that it refused.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.has_code(Code::InvalidArgument)
    }

    fn has_code(&self, code: Code) -> bool {
        match self {
            Self::Call(error) => has_code(error, code),
            Self::Publish(google_cloud_pubsub::error::PublishError::Rpc(error)) => has_code(error, code),
            Self::Missing(_) => matches!(code, Code::NotFound),
            _ => false,
        }
    }
}

fn has_code(error: &google_cloud_pubsub::Error, code: Code) -> bool {
    error.status().is_some_and(|status| status.code == code)
}

/// A message broker with our topics: one of the two seams to the outside, see `docs/ARCHITECTURE.md`.
#[async_trait]
pub trait Bus: fmt::Debug + Send + Sync + 'static {
    /// Publishes messages; the outcome of each stands at its place. One that succeeded is durable at the broker; one that
    /// failed may have been published all the same.
    async fn publish(&self, topic: Topic, messages: Vec<Message>) -> Vec<Result<(), Error>>;

    /// Opens one stream of a topic's subscription. At most `outstanding` of its messages are unanswered at a time.
    fn receive(&self, topic: Topic, outstanding: i64) -> Receiver;

    /// Puts topics, subscriptions and policies in place where they are missing. Whether streams should be opened again at
    /// once: always when `starting`, the first time that a process calls this.
    ///
    /// # Errors
    ///
    /// When the broker does not answer, or does not permit it.
    async fn ensure(&self, starting: bool) -> Result<bool, Error>;
}

/// One open stream of a subscription.
pub struct Receiver {
    deliveries: BoxStream<'static, Result<Delivery, Error>>,
    stop: BoxFuture<'static, ()>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

impl Receiver {
    /// A stream of deliveries, and what is to be done to close it.
    pub fn new(
        deliveries: impl Stream<Item = Result<Delivery, Error>> + Send + 'static,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { deliveries: deliveries.boxed(), stop: stop.boxed() }
    }

    /// The next message; `None` when the stream has ended.
    ///
    /// # Errors
    ///
    /// When the stream cannot go on, most often since the subscription does not exist; open another later.
    pub async fn next(&mut self) -> Result<Option<Delivery>, Error> {
        self.deliveries.next().await.transpose()
    }

    /// Sends the acknowledgements that are on their way, gives every other message back, and closes the stream.
    pub async fn stop(self) {
        self.stop.await;
    }
}

/// A message that we hold until it is answered; dropped without an answer, it is delivered again.
pub struct Delivery {
    /// What was published.
    pub message: Message,
    /// The broker's id of it: with `published_at`, the same at each delivery, and no other message's.
    pub message_id: String,
    /// When it was published.
    pub published_at: DateTime<Utc>,
    acknowledge: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery").field("message", &self.message).finish_non_exhaustive()
    }
}

impl Delivery {
    /// A message, the broker's id of it, when it was published, and what acknowledges it; dropping that gives the message
    /// back.
    pub fn new(
        message: Message,
        message_id: String,
        published_at: DateTime<Utc>,
        acknowledge: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self { message, message_id, published_at, acknowledge: Box::new(acknowledge) }
    }

    /// It is done: its effect is committed.
    pub fn ack(self) {
        (self.acknowledge)();
    }
}
