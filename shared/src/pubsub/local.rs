//! A broker within the process, for simulations, and for demonstrations where no other is to be had.
//!
//! It promises what Pub/Sub promises: a message whose publish was answered with success is delivered until it is
//! acknowledged, at least once and in no particular order. Nothing of it survives the process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::{Bus, Delivery, Error, Message, Receiver, Topic};
use crate::clock::Clock;

/// A broker; clones are the same one.
#[derive(Debug, Clone)]
pub struct Local(Arc<Broker>);

#[derive(Debug)]
struct Broker {
    clock: Clock,
    topics: Mutex<BTreeMap<Topic, Subscription>>,
    /// How many messages were ever published: each has a number of its own, also after [`Local::forget`].
    published: AtomicU64,
    /// Notified when a message waits, or a topic or a stream is gone.
    changed: Notify,
}

/// A topic with its one subscription.
#[derive(Debug, Default)]
struct Subscription {
    waiting: VecDeque<(u64, Published)>,
    /// Handed out and not answered.
    held: BTreeMap<u64, Published>,
}

#[derive(Debug, Clone)]
struct Published {
    message: Message,
    at: DateTime<Utc>,
}

impl Local {
    /// A broker without topics.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let (topics, published, changed) = (Mutex::default(), AtomicU64::default(), Notify::new());
        Self(Arc::new(Broker { clock, topics, published, changed }))
    }

    /// How many messages of a topic wait to be delivered.
    #[must_use]
    pub fn waiting(&self, topic: Topic) -> usize {
        self.topics().get(&topic).map_or(0, |subscription| subscription.waiting.len())
    }

    /// How many messages of a topic are delivered and not answered yet.
    #[must_use]
    pub fn unanswered(&self, topic: Topic) -> usize {
        self.topics().get(&topic).map_or(0, |subscription| subscription.held.len())
    }

    /// Delivers the message that waits at this place, the one that has waited longest being at 0.
    #[must_use]
    pub fn take(&self, topic: Topic, place: usize) -> Option<Delivery> {
        self.hand_out(topic, place, None)
    }

    /// Forgets everything, as an emulator does that is restarted: topics and messages are gone, streams end with an
    /// error, and answers to what was delivered before have no effect.
    pub fn forget(&self) {
        self.topics().clear();
        self.0.changed.notify_waiters();
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<Topic, Subscription>> {
        self.0.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create_missing(&self) -> bool {
        let mut topics = self.topics();
        let missing: BTreeSet<_> = Topic::ALL.into_iter().filter(|topic| !topics.contains_key(topic)).collect();
        topics.extend(missing.iter().map(|topic| (*topic, Subscription::default())));
        !missing.is_empty()
    }

    fn hand_out(&self, topic: Topic, place: usize, room: Option<OwnedSemaphorePermit>) -> Option<Delivery> {
        let mut topics = self.topics();
        let subscription = topics.get_mut(&topic)?;
        let (number, published) = subscription.waiting.remove(place)?;
        let Published { message, at } = published.clone();
        subscription.held.insert(number, published);
        let held = Held { local: self.clone(), topic, number, _room: room };
        Some(Delivery::new(message, number.to_string(), at, move || held.acknowledge()))
    }
}

/// A message that was handed out; dropped without being acknowledged, it waits again.
struct Held {
    local: Local,
    topic: Topic,
    number: u64,
    _room: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn acknowledge(&self) {
        if let Some(subscription) = self.local.topics().get_mut(&self.topic) {
            subscription.held.remove(&self.number);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(subscription) = self.local.topics().get_mut(&self.topic)
            && let Some(published) = subscription.held.remove(&self.number)
        {
            subscription.waiting.push_back((self.number, published));
        }
        self.local.0.changed.notify_waiters();
    }
}

#[async_trait]
impl Bus for Local {
    async fn publish(&self, topic: Topic, messages: Vec<Message>) -> Vec<Result<(), Error>> {
        let (count, at) = (messages.len(), self.0.clock.now());
        let missing = match self.topics().get_mut(&topic) {
            Some(subscription) => {
                for message in messages {
                    let number = self.0.published.fetch_add(1, Ordering::SeqCst);
                    subscription.waiting.push_back((number, Published { message, at }));
                }
                false
            }
            None => true,
        };
        if missing {
            // As with the other broker, the caller publishes again, to a new topic.
            self.create_missing();
        }
        self.0.changed.notify_waiters();
        (0..count).map(|_| if missing { Err(Error::Missing(topic)) } else { Ok(()) }).collect()
    }

    fn receive(&self, topic: Topic, outstanding: i64) -> Receiver {
        let room = Arc::new(Semaphore::new(usize::try_from(outstanding).unwrap_or(0).max(1)));
        let stopped = Arc::new(AtomicBool::new(false));
        let local = self.clone();
        let stop = {
            let (local, stopped) = (local.clone(), Arc::clone(&stopped));
            async move {
                stopped.store(true, Ordering::SeqCst);
                local.0.changed.notify_waiters();
            }
        };
        let deliveries =
            futures::stream::try_unfold((local, room, stopped), move |(local, room, stopped)| async move {
                let permit = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
                let mut permit = Some(permit);
                loop {
                    // Registered before the look, so that nothing is missed.
                    let changed = local.0.changed.notified();
                    if stopped.load(Ordering::SeqCst) {
                        return Ok(None);
                    }
                    if !local.topics().contains_key(&topic) {
                        return Err(Error::Missing(topic));
                    }
                    if local.waiting(topic) > 0
                        && let Some(delivery) = local.hand_out(topic, 0, permit.take())
                    {
                        drop(changed);
                        return Ok(Some((delivery, (local, room, stopped))));
                    }
                    changed.await;
                }
            });
        Receiver::new(deliveries, stop)
    }

    async fn ensure(&self, starting: bool) -> Result<bool, Error> {
        let created = self.create_missing();
        if created {
            self.0.changed.notify_waiters();
        }
        Ok(created || starting)
    }
}
