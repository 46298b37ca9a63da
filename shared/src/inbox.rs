//! Messages in: received on several streams, handled in batches, acknowledged after the commit.
//!
//! A message that no version of this program could handle becomes a dead letter at once, with the reason: see
//! [`dead_letter`](crate::dead_letter). When the database is away the batch is held and tried again: the broker extends its lease, and flow control stops the
//! streams, so nothing piles up. A crash at any point delivers the message again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::db;
use crate::dead_letter::{DELIVERIES_ATTRIBUTE, DeadLetters, Failure, Reason, Source};
use crate::event;
use crate::fail_point;
use crate::pace::{PACE, Pace};
use crate::pubsub::{Bus, Delivery, Receiver, Topic};
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
    /// The broker's id of the message.
    pub message_id: String,
}

/// The receiving side of one subscription, and of what the broker sets aside of it.
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
    /// Where those are kept that cannot be handled.
    pub letters: DeadLetters,
}

/// The most messages that one transaction takes in.
const BATCH: usize = 500;

/// The most messages of one stream that are unanswered at a time.
const OUTSTANDING: i64 = 1000;

impl<C: Consumer> Inbox<C> {
    /// Receives until `shutdown`; what was received by then is handled and acknowledged, and what is on its way to us
    /// is given back to the broker.
    pub async fn run(self, shutdown: CancellationToken) {
        let collector = Collector {
            bus: Arc::clone(&self.bus),
            topic: self.topic,
            created: Arc::clone(&self.created),
            letters: self.letters.clone(),
        };
        tokio::join!(self.receive(&shutdown), collector.run(&shutdown));
    }

    async fn receive(&self, shutdown: &CancellationToken) {
        let mut streams = Streams::open(&self.bus, self.topic, self.streams, &self.created, shutdown);
        let mut pace = Pace::new(PACE);
        while let Some(batch) = streams.next(&mut pace).await {
            self.handle(batch, shutdown).await;
        }
        streams.close().await;
    }

    /// Handles one batch: each delivery is acknowledged after its effect, or its dead letter, is committed.
    pub async fn handle(&self, deliveries: Vec<Delivery>, shutdown: &CancellationToken) {
        metrics::counter!("messages_received_total", "topic" => self.topic.name()).increment(deliveries.len() as u64);
        let mut malformed = Vec::new();
        let mut good = Vec::with_capacity(deliveries.len());
        let mut events = Vec::with_capacity(deliveries.len());
        for delivery in deliveries {
            match event::read(&delivery.message.data) {
                Ok(event) => {
                    events.push(Received {
                        event,
                        trace: trace_of(&delivery),
                        message_id: delivery.message_id.clone(),
                    });
                    good.push(delivery);
                }
                Err(error) => malformed.push((delivery, Reason::Malformed, error.to_string())),
            }
        }
        let refused = self.handle_good(good, events, shutdown).await;
        malformed.extend(refused);
        bury(&self.letters, self.topic, Source::Subscription, malformed, shutdown).await;
    }

    /// Returns what the database refuses.
    async fn handle_good(
        &self,
        deliveries: Vec<Delivery>,
        events: Vec<Received<C::Event>>,
        shutdown: &CancellationToken,
    ) -> Vec<(Delivery, Reason, String)> {
        let mut refused = Vec::new();
        match self.commit(&events, shutdown).await {
            Ok(()) => {
                fail_point::reach("inbox:consumed").await;
                deliveries.into_iter().for_each(Delivery::ack);
                return refused;
            }
            Err(Refused::Shutdown) => return refused,
            Err(Refused::Data(_)) => {}
        }
        // Some row was refused. Alone, each shows whether it was the one.
        for (delivery, event) in deliveries.into_iter().zip(events) {
            match self.commit(std::slice::from_ref(&event), shutdown).await {
                Ok(()) => delivery.ack(),
                Err(Refused::Data(reason)) => refused.push((delivery, Reason::Refused, reason)),
                Err(Refused::Shutdown) => break,
            }
        }
        refused
    }

    async fn commit(&self, events: &[Received<C::Event>], shutdown: &CancellationToken) -> Result<(), Refused> {
        if events.is_empty() {
            return Ok(());
        }
        let mut patience = Patience::new(self.topic, shutdown);
        let start = Instant::now();
        while let Err(error) = self.consumer.consume(events).await {
            patience.after(error).await?;
        }
        let topic = self.topic.name();
        metrics::histogram!("inbox_commit_seconds", "topic" => topic).record(start.elapsed().as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a batch has a few hundred messages")]
        metrics::histogram!("inbox_batch_messages", "topic" => topic).record(events.len() as f64);
        Ok(())
    }
}

/// The dead letters that the broker sets aside by itself, a topic's: those that were delivered too often without an
/// answer.
#[derive(Debug)]
pub struct Collector {
    /// The broker.
    pub bus: Arc<dyn Bus>,
    /// Whose dead letters are received.
    pub topic: Topic,
    /// Notified when the subscription may have come into existence.
    pub created: Arc<Notify>,
    /// Where they are kept.
    pub letters: DeadLetters,
}

impl Collector {
    /// Receives until `shutdown`, as [`Inbox::run`] does.
    async fn run(&self, shutdown: &CancellationToken) {
        let Some(topic) = self.topic.dead_letters() else { return };
        let mut streams = Streams::open(&self.bus, topic, 1, &self.created, shutdown);
        let mut pace = Pace::new(PACE);
        while let Some(batch) = streams.next(&mut pace).await {
            self.handle(batch, shutdown).await;
        }
        streams.close().await;
    }

    /// Handles one batch: each delivery is acknowledged after its dead letter is committed.
    pub async fn handle(&self, deliveries: Vec<Delivery>, shutdown: &CancellationToken) {
        let exhausted = deliveries.into_iter().map(|delivery| {
            let times = delivery.message.attributes.get(DELIVERIES_ATTRIBUTE);
            let detail = times.map_or_else(
                || "moved to the dead-letter topic".to_owned(),
                |times| format!("delivered {times} times without an answer"),
            );
            (delivery, Reason::Exhausted, detail)
        });
        bury(&self.letters, self.topic, Source::DeadLetterTopic, exhausted.collect(), shutdown).await;
    }
}

/// Commits dead letters, then acknowledges them.
async fn bury(
    letters: &DeadLetters,
    topic: Topic,
    source: Source,
    dead: Vec<(Delivery, Reason, String)>,
    shutdown: &CancellationToken,
) {
    if dead.is_empty() {
        return;
    }
    let failures: Vec<_> = dead
        .iter()
        .map(|(delivery, reason, detail)| Failure {
            topic,
            source,
            message_id: delivery.message_id.clone(),
            published_at: delivery.published_at,
            data: delivery.message.data.clone(),
            attributes: delivery.message.attributes.clone(),
            reason: *reason,
            detail: detail.clone(),
        })
        .collect();
    let mut patience = Patience::new(topic, shutdown);
    while let Err(error) = letters.commit(&failures).await {
        match patience.after(error).await {
            Ok(()) => {}
            Err(Refused::Shutdown) => return,
            Err(Refused::Data(error)) => {
                tracing::error!(%topic, error, "dead letters cannot be kept, and are given back to the broker");
                return;
            }
        }
    }
    for (delivery, ..) in dead {
        delivery.ack();
    }
}

enum Refused {
    Data(String),
    Shutdown,
}

/// Waits for the database, if need be.
struct Patience<'a> {
    topic: Topic,
    shutdown: &'a CancellationToken,
    pauses: backon::ExponentialBackoff,
}

impl<'a> Patience<'a> {
    fn new(topic: Topic, shutdown: &'a CancellationToken) -> Self {
        Self { topic, shutdown, pauses: backoff() }
    }

    /// After a commit that failed: returns when it is to be tried again, if that makes sense.
    async fn after(&mut self, error: db::Error) -> Result<(), Refused> {
        if error.is_data() {
            return Err(Refused::Data(error.to_string()));
        }
        tracing::warn!(topic = self.topic.name(), %error, "messages wait for the database");
        tokio::select! {
            () = tokio::time::sleep(self.pauses.next().unwrap_or(Duration::from_secs(5))) => Ok(()),
            () = self.shutdown.cancelled() => Err(Refused::Shutdown),
        }
    }
}

fn trace_of(delivery: &Delivery) -> Option<TraceParent> {
    [TRACEPARENT, GOOGLE_TRACEPARENT].into_iter().find_map(|name| delivery.message.attributes.get(name)?.parse().ok())
}

/// The open streams of one subscription.
struct Streams {
    deliveries: mpsc::Receiver<Delivery>,
    tasks: JoinSet<Option<Receiver>>,
}

impl Streams {
    fn open(bus: &Arc<dyn Bus>, topic: Topic, count: u8, created: &Arc<Notify>, shutdown: &CancellationToken) -> Self {
        let (sender, deliveries) = mpsc::channel(BATCH);
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            tasks.spawn(pull(Arc::clone(bus), topic, Arc::clone(created), sender.clone(), shutdown.clone()));
        }
        Self { deliveries, tasks }
    }

    /// What has arrived, in batches; `None` after the shutdown.
    async fn next(&mut self, pace: &mut Pace) -> Option<Vec<Delivery>> {
        pace.keep().await;
        let mut batch = Vec::with_capacity(BATCH);
        let received = self.deliveries.recv_many(&mut batch, BATCH).await;
        pace.found(received);
        (received > 0).then_some(batch)
    }

    /// All at once: what one stream gives back must not be handed to another that is about to stop.
    async fn close(self) {
        join_all(self.tasks.join_all().await.into_iter().flatten().map(Receiver::stop)).await;
    }
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
