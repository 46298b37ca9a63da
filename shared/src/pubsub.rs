//! Google Cloud Pub/Sub, real or emulated: the only module that knows Google's client library.
//!
//! Names of topics and subscriptions are fixed by the contract with the outside; [`PubSub::ensure`] creates whatever is
//! missing, dead-letter topics and policies included. Publishing is bounded in time; receiving is bounded in count.

mod topology;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::RetryPolicyExt;
use google_cloud_pubsub::client::{BasePublisher, Publisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model;
use google_cloud_pubsub::retry_policy::RetryableErrors;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownBehavior};
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
    /// The emulator's address, where one is to be used.
    #[must_use]
    pub fn emulator(&self) -> Option<&str> {
        self.emulator_host.as_deref().filter(|host| !host.is_empty())
    }
}

/// Where messages are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Grants to be paid.
    Requests,
    /// What became of them.
    Results,
}

impl Topic {
    /// Both topics.
    pub const ALL: [Self; 2] = [Self::Requests, Self::Results];

    /// The topic's name within its project. Its subscription is `{name}-sub`; messages that cannot be handled go to
    /// `{name}-dead-letter`, kept by `{name}-dead-letter-sub`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "token-grant-requests",
            Self::Results => "token-grant-results",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
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
    #[error("Pub/Sub client: {0}")]
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
}

/// The status that the server sent, without the call's headers.
fn brief(error: &google_cloud_pubsub::Error) -> String {
    error.status().map_or_else(|| error.to_string(), |status| format!("{:?}: {}", status.code, status.message))
}

impl Error {
    /// Whether a topic or subscription does not exist (any more).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Call(error) => has_code(error, Code::NotFound),
            Self::Publish(google_cloud_pubsub::error::PublishError::Rpc(error)) => has_code(error, Code::NotFound),
            _ => false,
        }
    }
}

fn has_code(error: &google_cloud_pubsub::Error, code: Code) -> bool {
    error.status().is_some_and(|status| status.code == code)
}

/// A connection to Pub/Sub; clones share it.
#[derive(Clone)]
pub struct PubSub {
    project: Arc<str>,
    emulated: bool,
    topics: TopicAdmin,
    subscriptions: SubscriptionAdmin,
    publisher: BasePublisher,
    publishers: Arc<BTreeMap<String, Publisher>>,
    subscriber: Subscriber,
}

impl fmt::Debug for PubSub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSub").field("project", &self.project).finish_non_exhaustive()
    }
}

/// How long a call may take, tries included.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the broker waits for a word from us before it delivers a message again: the least that it takes.
const LEASE: Duration = Duration::from_secs(10);

impl PubSub {
    /// Connects to the emulator at `emulator` (`host:port`) or, without one, to Google Cloud with application default
    /// credentials. Nothing is sent yet.
    ///
    /// # Errors
    ///
    /// When there are no credentials, or the address is no address.
    pub async fn connect(project: &str, emulator: Option<&str>) -> Result<Self, Error> {
        // Each client has its own builder type with the same methods.
        macro_rules! client {
            ($builder:expr) => {{
                let builder = $builder;
                let builder = match emulator {
                    Some(host) => builder
                        .with_endpoint(format!("http://{host}"))
                        .with_credentials(anonymous::Builder::new().build()),
                    None => builder,
                };
                builder.build().await?
            }};
        }
        let publisher =
            client!(BasePublisher::builder().with_retry_policy(RetryableErrors.with_time_limit(CALL_TIMEOUT)));
        let bus = Self {
            project: project.into(),
            emulated: emulator.is_some(),
            topics: client!(TopicAdmin::builder()),
            subscriptions: client!(SubscriptionAdmin::builder()),
            subscriber: client!(Subscriber::builder()),
            publishers: Arc::default(),
            publisher,
        };
        let publishers = Topic::ALL
            .iter()
            .flat_map(|topic| [topic.to_string(), dead_letter(*topic)])
            .map(|name| {
                let publisher = bus
                    .publisher
                    .publisher(bus.topic(&name))
                    .set_message_count_threshold(500)
                    .set_delay_threshold(Duration::from_millis(1))
                    .build();
                (name, publisher)
            })
            .collect();
        Ok(Self { publishers: Arc::new(publishers), ..bus })
    }

    fn topic(&self, name: &str) -> String {
        format!("projects/{}/topics/{name}", self.project)
    }

    fn subscription(&self, topic: &str) -> String {
        format!("projects/{}/subscriptions/{topic}-sub", self.project)
    }

    /// Publishes messages; the outcome of each stands at its place. One that succeeded is durable at the broker.
    pub async fn publish(&self, topic: Topic, messages: Vec<Message>) -> Vec<Result<(), Error>> {
        let outcomes = self.publish_to(topic.name(), messages).await;
        let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
        let count = |status, count: usize| {
            metrics::counter!("messages_published_total", "topic" => topic.name(), "status" => status)
                .increment(count as u64);
        };
        count("ok", outcomes.len() - failed);
        count("error", failed);
        outcomes
    }

    /// Sets aside a message that can never be handled, with the reason, on the dead-letter topic of `topic`.
    ///
    /// # Errors
    ///
    /// When the broker did not take it.
    pub async fn publish_dead_letter(&self, topic: Topic, message: &Message, reason: &str) -> Result<(), Error> {
        // Pub/Sub takes 100 attributes, values of up to 1024 bytes.
        let mut attributes: AttributeMap = message.attributes.clone().into_iter().take(98).collect();
        attributes.insert("dead_letter_reason".to_owned(), reason.chars().take(256).collect());
        let message = Message { data: message.data.clone(), attributes };
        let outcomes = self.publish_to(&dead_letter(topic), vec![message]).await;
        metrics::counter!("messages_dead_lettered_total", "topic" => topic.name()).increment(1);
        outcomes.into_iter().collect()
    }

    async fn publish_to(&self, topic: &str, messages: Vec<Message>) -> Vec<Result<(), Error>> {
        let publisher = &self.publishers[topic];
        let answers = messages.into_iter().map(|message| {
            let message = model::Message::new().set_data(message.data).set_attributes(message.attributes);
            let answer = publisher.publish(message);
            async move {
                match tokio::time::timeout(CALL_TIMEOUT, answer).await {
                    Ok(Ok(_message_id)) => Ok(()),
                    Ok(Err(error)) => Err(Error::from(error)),
                    Err(_) => Err(Error::Timeout(CALL_TIMEOUT)),
                }
            }
        });
        let outcomes = futures::future::join_all(answers).await;
        if outcomes.iter().any(|outcome| outcome.as_ref().is_err_and(Error::is_not_found)) {
            // The broker has forgotten the topic; the caller publishes again, to a new one.
            if let Err(error) = self.ensure().await {
                tracing::warn!(%error, "could not create the missing topics");
            }
        }
        outcomes
    }

    /// Opens one stream of a topic's subscription. At most `outstanding` of its messages are unanswered at a time.
    #[must_use]
    pub fn receive(&self, topic: Topic, outstanding: i64) -> Receiver {
        let stream = self
            .subscriber
            .subscribe(self.subscription(topic.name()))
            .set_max_outstanding_messages(outstanding)
            // What we hold when we are killed is delivered to others after this long. It is extended while we live.
            .set_max_lease_extension(LEASE)
            .set_shutdown_behavior(ShutdownBehavior::NackImmediately)
            .build();
        Receiver(stream)
    }
}

fn dead_letter(topic: Topic) -> String {
    format!("{topic}-dead-letter")
}

async fn in_time<T>(call: impl Future<Output = google_cloud_pubsub::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Timeout(CALL_TIMEOUT)),
    }
}

/// One open stream of a subscription.
#[derive(Debug)]
pub struct Receiver(MessageStream);

impl Receiver {
    /// The next message; `None` when the stream has ended.
    ///
    /// # Errors
    ///
    /// When the stream cannot go on, most often since the subscription does not exist; open another later.
    pub async fn next(&mut self) -> Result<Option<Delivery>, Error> {
        let Some((message, handler)) = self.0.next().await.transpose()? else { return Ok(None) };
        let message = Message { data: message.data, attributes: message.attributes.into_iter().collect() };
        Ok(Some(Delivery { message, handler }))
    }

    /// Sends the acknowledgements that are on their way, gives every other message back, and closes the stream.
    pub async fn stop(self) {
        self.0.shutdown_token().shutdown().await;
    }
}

/// A message that we hold until it is answered; dropped without an answer, it is delivered again.
#[derive(Debug)]
pub struct Delivery {
    /// What was published.
    pub message: Message,
    handler: Handler,
}

impl Delivery {
    /// It is done: its effect is committed.
    pub fn ack(self) {
        self.handler.ack();
    }
}
