//! The topics, subscriptions and policies that must exist, and the worker that keeps them in existence.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::model::{DeadLetterPolicy, ExpirationPolicy, PushConfig, RetryPolicy};
use tokio::sync::Notify;

use super::google::{PubSub, in_time};
use super::{Bus, Error, Topic, has_code};
use crate::worker::{Progress, Worker};

impl PubSub {
    /// Creates the topics, subscriptions, dead-letter topics and policies that are missing.
    ///
    /// # Errors
    ///
    /// When Pub/Sub does not answer, or does not permit it.
    pub(super) async fn create_missing(&self) -> Result<(), Error> {
        // From the last to the first: a topic's dead letters have a place before it does.
        for topic in Topic::ALL.into_iter().rev() {
            created(in_time(self.topics.create_topic().set_name(self.topic(topic)).send()).await)?;
            self.create_subscription(topic).await?;
        }
        Ok(())
    }

    /// Whether everything that [`create_missing`](Self::create_missing) creates is in place.
    ///
    /// # Errors
    ///
    /// When Pub/Sub does not answer.
    pub(super) async fn is_in_place(&self) -> Result<bool, Error> {
        for topic in Topic::ALL {
            let get = self.subscriptions.get_subscription().set_subscription(self.subscription(topic));
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
    pub(super) async fn end_streams_of_the_dead(&self) -> Result<(), Error> {
        let nowhere = PushConfig::new().set_push_endpoint("http://localhost:9/");
        for config in [nowhere, PushConfig::new()] {
            for topic in Topic::ALL {
                let modify = self.subscriptions.modify_push_config();
                let modify = modify.set_subscription(self.subscription(topic)).set_push_config(config.clone());
                in_time(modify.send()).await?;
            }
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        Ok(())
    }

    async fn create_subscription(&self, topic: Topic) -> Result<(), Error> {
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
        if let Some(dead_letters) = topic.dead_letters() {
            let policy = DeadLetterPolicy::new().set_dead_letter_topic(self.topic(dead_letters));
            create = create.set_dead_letter_policy(policy.set_max_delivery_attempts(100));
        }
        created(in_time(create.send()).await)
    }
}

fn created<T>(answer: Result<T, Error>) -> Result<(), Error> {
    match answer {
        Err(Error::Call(error)) if has_code(&error, Code::AlreadyExists) => Ok(()),
        other => other.map(drop),
    }
}

/// Keeps topics and subscriptions in existence, and reports on the broker's health.
#[derive(Debug)]
pub struct Keeper {
    bus: Arc<dyn Bus>,
    created: Arc<Notify>,
    started: AtomicBool,
}

impl Keeper {
    /// A keeper that notifies `created` each time it has made the subscriptions, so that receivers try again at once.
    #[must_use]
    pub fn new(bus: Arc<dyn Bus>, created: Arc<Notify>) -> Self {
        Self { bus, created, started: AtomicBool::new(false) }
    }
}

impl Worker for Keeper {
    type Error = Error;

    async fn run_once(&self) -> Result<Progress, Error> {
        let starting = !self.started.load(Ordering::Relaxed);
        if self.bus.ensure(starting).await? {
            self.created.notify_waiters();
        }
        self.started.store(true, Ordering::Relaxed);
        Ok(Progress::Idle)
    }
}
