//! Google Cloud Pub/Sub, real or emulated: the only module that knows Google's client library.
//!
//! Names of topics and subscriptions are fixed by the contract with the outside; [`PubSub::ensure`] creates whatever is
//! missing, dead-letter topics and policies included. Publishing is bounded in time; receiving is bounded in count.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::retry_policy::RetryPolicyExt;
use google_cloud_pubsub::client::{BasePublisher, Publisher, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model::{self, DeadLetterPolicy, ExpirationPolicy, PushConfig, RetryPolicy};
use google_cloud_pubsub::retry_policy::RetryableErrors;
use google_cloud_pubsub::subscriber::handler::Handler;
use google_cloud_pubsub::subscriber::{MessageStream, ShutdownBehavior};
use tokio::sync::Notify;

use crate::event::AttributeMap;
use crate::worker::{Progress, Worker};

/// Which Pub/Sub a service uses, and how.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Google Cloud project that owns the topics.
    #[arg(long = "gcp-project-id", env = "GCP_PROJECT_ID", default_value = "test-project")]
    pub project: String,

    /// The emulator's `host:port`. Unset or empty: Google Cloud itself, with application default credentials.
    #[arg(long = "pubsub-emulator-host", env = "PUBSUB_EMULATOR_HOST")]
    pub emulator_host: Option<String>,

    /// How many streams receive messages; one carries about 2,000 messages a second.
    #[arg(long = "pubsub-streams", env = "PUBSUB_STREAMS", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub streams: u8,
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
                        .with_endpoint(format!("http://{}", host.trim_start_matches("http://")))
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

    /// Creates the topics, subscriptions, dead-letter topics and policies that are missing.
    ///
    /// # Errors
    ///
    /// When Pub/Sub does not answer, or does not permit it.
    pub async fn ensure(&self) -> Result<(), Error> {
        for topic in Topic::ALL {
            let name = topic.name();
            let dead_letters = dead_letter(topic);
            self.ensure_topic(&dead_letters).await?;
            // Without a subscription of its own a dead-letter topic would lose what is sent to it.
            self.ensure_subscription(&dead_letters, None).await?;
            self.ensure_topic(name).await?;
            self.ensure_subscription(name, Some(self.topic(&dead_letters))).await?;
        }
        Ok(())
    }

    /// Whether everything that [`ensure`](Self::ensure) creates is in place, as far as receiving needs it.
    ///
    /// # Errors
    ///
    /// When Pub/Sub does not answer.
    async fn is_in_place(&self) -> Result<bool, Error> {
        for topic in Topic::ALL {
            let get = self.subscriptions.get_subscription().set_subscription(self.subscription(topic.name()));
            match in_time(get.send()).await {
                // What Pub/Sub writes when the topic was deleted under the subscription.
                Ok(subscription) if subscription.topic == "_deleted-topic_" => {
                    let delete = self.subscriptions.delete_subscription().set_subscription(subscription.name);
                    in_time(delete.send()).await?;
                    return Ok(false);
                }
                Ok(_) => {}
                Err(error) if error.is_not_found() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Ends every stream of the emulator's subscriptions, our own included, which open again at once.
    ///
    /// The emulator goes on handing messages to the streams of a client that was killed, for as long as it runs, and so
    /// delays them by a lease each time; Pub/Sub itself notices. A subscription that pushes ends its streams, so for
    /// the two rounds that the emulator takes to notice (50 ms each), to nowhere, they push.
    async fn end_streams_of_the_dead(&self) -> Result<(), Error> {
        let nowhere = PushConfig::new().set_push_endpoint("http://localhost:9/");
        for config in [nowhere, PushConfig::new()] {
            for topic in Topic::ALL {
                let modify = self.subscriptions.modify_push_config();
                let modify = modify.set_subscription(self.subscription(topic.name())).set_push_config(config.clone());
                in_time(modify.send()).await?;
            }
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        Ok(())
    }

    async fn ensure_topic(&self, name: &str) -> Result<(), Error> {
        created(in_time(self.topics.create_topic().set_name(self.topic(name)).send()).await)
    }

    async fn ensure_subscription(&self, topic: &str, dead_letter_topic: Option<String>) -> Result<(), Error> {
        let mut create = self
            .subscriptions
            .create_subscription()
            .set_name(self.subscription(topic))
            .set_topic(self.topic(topic))
            .set_ack_deadline_seconds(30)
            // Without this a subscription is deleted after 31 idle days; an empty policy means never.
            .set_expiration_policy(ExpirationPolicy::new())
            .set_retry_policy(
                RetryPolicy::new()
                    .set_minimum_backoff(google_cloud_wkt::Duration::clamp(1, 0))
                    .set_maximum_backoff(google_cloud_wkt::Duration::clamp(10, 0)),
            );
        if let Some(dead_letter_topic) = dead_letter_topic {
            create = create.set_dead_letter_policy(
                DeadLetterPolicy::new().set_dead_letter_topic(dead_letter_topic).set_max_delivery_attempts(100),
            );
        }
        created(in_time(create.send()).await)
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

fn created<T>(answer: Result<T, Error>) -> Result<(), Error> {
    match answer {
        Err(Error::Call(error)) if has_code(&error, Code::AlreadyExists) => Ok(()),
        other => other.map(drop),
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

/// Keeps topics and subscriptions in existence, and reports on the broker's health.
#[derive(Debug)]
pub struct Keeper {
    bus: PubSub,
    created: Arc<Notify>,
    started: AtomicBool,
}

impl Keeper {
    /// A keeper that notifies `created` each time it has made the subscriptions, so that receivers try again at once.
    #[must_use]
    pub fn new(bus: PubSub, created: Arc<Notify>) -> Self {
        Self { bus, created, started: AtomicBool::new(false) }
    }
}

impl Worker for Keeper {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        if !self.bus.is_in_place().await? {
            self.bus.ensure().await?;
            tracing::info!(project = &*self.bus.project, "topics and subscriptions created");
        } else if self.started.load(Ordering::Relaxed) {
            return Ok(Progress::Idle);
        } else if self.bus.emulated {
            self.bus.end_streams_of_the_dead().await?;
        }
        self.started.store(true, Ordering::Relaxed);
        self.created.notify_waiters();
        Ok(Progress::Idle)
    }
}
