//! Messages in: received on several streams, handled in batches, acknowledged after the commit.
//!
//! A message that no version of this program could handle goes to the dead-letter topic at once, with the reason. When
//! the database is away the batch is held and tried again: the broker extends its lease, and flow control stops the
//! streams, so nothing piles up. A crash at any point delivers the message again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::db;
use crate::event::AttributeMap;
use crate::fail_point;
use crate::pubsub::{self, Bus, Delivery, Message, Receiver, Topic};
use crate::telemetry::{GOOGLE_TRACEPARENT, TRACEPARENT, TraceParent};
use crate::worker::backoff;

/// What a service does with its messages.
pub trait Consumer: Send + Sync + 'static {
    /// The body.
    type Event: DeserializeOwned + Send + Sync;

    /// Commits the effect of all the messages, in one transaction. A repeat of an earlier message must be harmless.
    ///
    /// # Errors
    ///
    /// When nothing was committed.
    fn consume(&self, batch: &[Received<Self::Event>]) -> impl Future<Output = db::Result<()>> + Send;
}

/// A well-formed message.
#[derive(Debug, Clone)]
pub struct Received<E> {
    /// Its body.
    pub event: E,
    /// The trace it belongs to.
    pub trace: Option<TraceParent>,
}

/// The receiving side of one subscription.
#[derive(Debug)]
pub struct Inbox<C> {
    /// The broker.
    pub bus: Arc<dyn Bus>,
    /// Whose subscription is received.
    pub topic: Topic,
    /// How many streams are opened: one carries about 2,000 messages a second.
    pub streams: u8,
    /// Notified when the subscription may have come into existence.
    pub created: Arc<Notify>,
    /// What is done with the messages.
    pub consumer: C,
}

/// The most messages that one transaction takes in.
const BATCH: usize = 500;

/// The most messages of one stream that are unanswered at a time.
const OUTSTANDING: i64 = 1000;

impl<C: Consumer> Inbox<C> {
    /// Receives until `shutdown`; what was received by then is handled and acknowledged, and what is on its way to us
    /// is given back to the broker.
    pub async fn run(self, shutdown: CancellationToken) {
        let (sender, mut deliveries) = mpsc::channel(BATCH);
        let mut streams = JoinSet::new();
        for _ in 0..self.streams {
            let (bus, created) = (Arc::clone(&self.bus), Arc::clone(&self.created));
            streams.spawn(pull(bus, self.topic, created, sender.clone(), shutdown.clone()));
        }
        drop(sender);

        let mut batch = Vec::with_capacity(BATCH);
        while deliveries.recv_many(&mut batch, BATCH).await > 0 {
            self.handle(std::mem::take(&mut batch), &shutdown).await;
        }
        // All at once: what one stream gives back must not be handed to another that is about to stop.
        join_all(streams.join_all().await.into_iter().flatten().map(Receiver::stop)).await;
    }

    /// Handles one batch: each delivery is acknowledged after its effect is committed, or its dead letter is published.
    pub async fn handle(&self, deliveries: Vec<Delivery>, shutdown: &CancellationToken) {
        metrics::counter!("messages_received_total", "topic" => self.topic.name()).increment(deliveries.len() as u64);
        let mut malformed = Vec::new();
        let mut good = Vec::with_capacity(deliveries.len());
        let mut events = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            match serde_json::from_slice(&delivery.message.data) {
                Ok(event) => {
                    events.push(Received { event, trace: trace_of(&delivery) });
                    good.push(delivery);
                }
                Err(error) => malformed.push((delivery, format!("malformed: {error}"))),
            }
        }
        self.handle_good(good, events, shutdown).await;
        join_all(malformed.into_iter().map(|(delivery, reason)| self.bury(delivery, reason))).await;
    }

    async fn handle_good(
        &self,
        deliveries: Vec<Delivery>,
        events: Vec<Received<C::Event>>,
        shutdown: &CancellationToken,
    ) {
        match self.commit(&events, shutdown).await {
            Ok(()) => {
                fail_point::reach("inbox:consumed").await;
                return deliveries.into_iter().for_each(Delivery::ack);
            }
            Err(Refused::Shutdown) => return,
            Err(Refused::Data(_)) => {}
        }
        // Some row was refused. Alone, each shows whether it was the one.
        for (delivery, event) in deliveries.into_iter().zip(events) {
            match self.commit(std::slice::from_ref(&event), shutdown).await {
                Ok(()) => delivery.ack(),
                Err(Refused::Data(reason)) => self.bury(delivery, format!("refused by the store: {reason}")).await,
                Err(Refused::Shutdown) => return,
            }
        }
    }

    /// Commits, waiting for the database if need be.
    async fn commit(&self, events: &[Received<C::Event>], shutdown: &CancellationToken) -> Result<(), Refused> {
        if events.is_empty() {
            return Ok(());
        }
        let mut pauses = backoff();
        loop {
            match self.consumer.consume(events).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_data() => return Err(Refused::Data(error.to_string())),
                Err(error) => tracing::warn!(topic = self.topic.name(), %error, "messages wait for the database"),
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(5))) => {}
                () = shutdown.cancelled() => return Err(Refused::Shutdown),
            }
        }
    }

    async fn bury(&self, delivery: Delivery, reason: String) {
        match self.set_aside(&delivery.message, &reason).await {
            Ok(()) => {
                let request_id = delivery.message.attributes.get("request_id");
                tracing::warn!(topic = self.topic.name(), request_id, reason, "message moved to the dead-letter topic");
                delivery.ack();
            }
            Err(error) => tracing::warn!(topic = self.topic.name(), %error, "dead letter waits for the broker"),
        }
    }

    /// Publishes a message that can never be handled on the topic of dead letters, with the reason.
    async fn set_aside(&self, message: &Message, reason: &str) -> Result<(), pubsub::Error> {
        // Pub/Sub takes 100 attributes, values of up to 1024 bytes.
        let mut attributes: AttributeMap = message.attributes.clone().into_iter().take(98).collect();
        attributes.insert("dead_letter_reason".to_owned(), reason.chars().take(256).collect());
        let message = Message { data: message.data.clone(), attributes };
        let Some(dead_letters) = self.topic.dead_letters() else { return Ok(()) };
        let outcomes = self.bus.publish(dead_letters, vec![message]).await;
        metrics::counter!("messages_dead_lettered_total", "topic" => self.topic.name()).increment(1);
        outcomes.into_iter().collect()
    }
}

enum Refused {
    Data(String),
    Shutdown,
}

fn trace_of(delivery: &Delivery) -> Option<TraceParent> {
    [TRACEPARENT, GOOGLE_TRACEPARENT].into_iter().find_map(|name| delivery.message.attributes.get(name)?.parse().ok())
}

/// Moves messages from one stream to the inbox, opening the stream again whenever it ends. Returns the stream that is
/// open at shutdown, for it to be stopped when its messages are answered.
async fn pull(
    bus: Arc<dyn Bus>,
    topic: Topic,
    created: Arc<Notify>,
    deliveries: mpsc::Sender<Delivery>,
    shutdown: CancellationToken,
) -> Option<Receiver> {
    let mut pauses = backoff();
    let mut receiver = bus.receive(topic, OUTSTANDING);
    loop {
        let next = tokio::select! {
            next = receiver.next() => next,
            () = shutdown.cancelled() => return Some(receiver),
        };
        match next {
            Ok(Some(delivery)) => {
                pauses = backoff();
                deliveries.send(delivery).await.ok()?;
                continue;
            }
            Ok(None) => tracing::debug!(topic = topic.name(), "stream ended, will be opened again"),
            Err(error) => tracing::debug!(topic = topic.name(), %error, "stream failed, will be opened again"),
        }
        tokio::select! {
            () = created.notified() => {}
            () = tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(5))) => {}
            () = shutdown.cancelled() => return None,
        }
        receiver = bus.receive(topic, OUTSTANDING);
    }
}
