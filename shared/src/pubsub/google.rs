//! Pub/Sub itself, or Google's emulator of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::DateTime;
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::retry_policy::RetryPolicyExt;
use google_cloud_pubsub::client::{BasePublisher, Publisher, SchemaService, Subscriber, SubscriptionAdmin, TopicAdmin};
use google_cloud_pubsub::model;
use google_cloud_pubsub::retry_policy::RetryableErrors;
use google_cloud_pubsub::subscriber::ShutdownBehavior;

use super::schemas::Look;
use super::{Bus, Delivery, Error, Message, Receiver, Topic};
use crate::clock::from_micros;

/// A connection to Pub/Sub; clones share it.
#[derive(Clone)]
pub struct PubSub {
    pub(super) project: Arc<str>,
    pub(super) emulated: bool,
    pub(super) with_schemas: bool,
    pub(super) topics: TopicAdmin,
    pub(super) subscriptions: SubscriptionAdmin,
    pub(super) schemas: SchemaService,
    publisher: BasePublisher,
    publishers: Arc<BTreeMap<Topic, Publisher>>,
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

/// The most bytes of one stream that are unanswered at a time; a message that is larger comes alone.
const OUTSTANDING_BYTES: i64 = 8 * 1024 * 1024;

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
            with_schemas: false,
            topics: client!(TopicAdmin::builder()),
            subscriptions: client!(SubscriptionAdmin::builder()),
            schemas: client!(SchemaService::builder()),
            subscriber: client!(Subscriber::builder()),
            publishers: Arc::default(),
            publisher,
        };
        let publishers = Topic::ALL
            .iter()
            .map(|topic| {
                let publisher = bus
                    .publisher
                    .publisher(bus.topic(*topic))
                    .set_message_count_threshold(500)
                    .set_delay_threshold(Duration::from_millis(1))
                    .build();
                (*topic, publisher)
            })
            .collect();
        Ok(Self { publishers: Arc::new(publishers), ..bus })
    }

    /// The same, which also keeps the topics' schemas in place, or does not care about them.
    #[must_use]
    pub fn with_schemas(self, with_schemas: bool) -> Self {
        Self { with_schemas, ..self }
    }

    /// Creates what is missing, and gives the topics their schemas where that is wanted.
    async fn put_in_place(&self) -> Result<(), Error> {
        self.create_missing().await?;
        self.keep_schemas(Look::Every).await;
        Ok(())
    }

    pub(super) fn topic(&self, topic: Topic) -> String {
        format!("projects/{}/topics/{topic}", self.project)
    }

    pub(super) fn subscription(&self, topic: Topic) -> String {
        format!("projects/{}/subscriptions/{topic}-sub", self.project)
    }
}

#[async_trait]
impl Bus for PubSub {
    async fn publish(&self, topic: Topic, messages: Vec<Message>) -> Vec<Result<(), Error>> {
        let publisher = &self.publishers[&topic];
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
            if let Err(error) = self.put_in_place().await {
                tracing::warn!(%error, "could not create the missing topics");
            }
        }
        outcomes
    }

    fn receive(&self, topic: Topic, outstanding: i64) -> Receiver {
        let messages = self
            .subscriber
            .subscribe(self.subscription(topic))
            .set_max_outstanding_messages(outstanding)
            // Messages have up to 10 MB, and strangers may publish them.
            .set_max_outstanding_bytes(OUTSTANDING_BYTES)
            // What we hold when we are killed is delivered to others after this long. It is extended while we live.
            .set_max_lease_extension(LEASE)
            .set_shutdown_behavior(ShutdownBehavior::NackImmediately)
            .build();
        let token = messages.shutdown_token();
        let deliveries = futures::stream::try_unfold(messages, async |mut messages| {
            let Some((message, handler)) = messages.next().await.transpose()? else { return Ok(None) };
            let published_at = message.publish_time.map_or_else(DateTime::default, |time| {
                let micros = time.seconds() * 1_000_000 + i64::from(time.nanos()) / 1000;
                from_micros(micros)
            });
            let id = message.message_id;
            let message = Message { data: message.data, attributes: message.attributes.into_iter().collect() };
            Ok(Some((Delivery::new(message, id, published_at, move || handler.ack()), messages)))
        });
        Receiver::new(deliveries, async move { token.shutdown().await })
    }

    async fn ensure(&self, starting: bool) -> Result<bool, Error> {
        let missing = !self.is_in_place().await?;
        if missing {
            self.put_in_place().await?;
            tracing::info!(project = &*self.project, "topics and subscriptions created");
        } else {
            self.keep_schemas(if starting { Look::Every } else { Look::Missing }).await;
        }
        if starting && self.emulated {
            // Also where this was begun before and broke off in the middle: then subscriptions push to nowhere.
            self.end_streams_of_the_dead().await?;
        }
        Ok(missing || starting)
    }
}

pub(super) async fn in_time<T>(call: impl Future<Output = google_cloud_pubsub::Result<T>>) -> Result<T, Error> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Error::Timeout(CALL_TIMEOUT)),
    }
}
