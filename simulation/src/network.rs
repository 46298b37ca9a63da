//! The broker as the services see it: the in-process one, behind a network that loses answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shared::clock::Clock;
use shared::pubsub::{Bus, Delivery, Error, Local, Message, Receiver, Topic};

use crate::dice::Dice;
use crate::fuse::Fuse;

/// How often, in thousand calls, the network does what it should not.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trouble {
    /// A publish is not answered, and did nothing.
    pub silent: u16,
    /// A publish is not answered, and was done.
    pub taken_silently: u16,
    /// One message of a publish is refused.
    pub partial: u16,
    /// An acknowledgement is lost: the message is delivered again.
    pub lost_acknowledgement: u16,
}

/// The broker and the network before it; clones are the same one.
#[derive(Debug, Clone)]
pub struct Network {
    local: Local,
    fuse: Fuse,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    trouble: Trouble,
    dice: Dice,
    /// What was published lately: what a late repeat repeats.
    history: BTreeMap<Topic, Vec<Message>>,
    /// The request ids whose message the broker has taken, by topic.
    taken: BTreeMap<Topic, BTreeSet<String>>,
    /// The messages that were acknowledged since the world last looked.
    acknowledged: Vec<(Topic, Message)>,
}

/// How many messages of a topic may be repeated.
const HISTORY: usize = 64;

impl Network {
    /// A broker without topics, in no trouble.
    #[must_use]
    pub fn new(fuse: Fuse, clock: Clock) -> Self {
        let state = State {
            trouble: Trouble::default(),
            dice: Dice::new(0),
            history: BTreeMap::new(),
            taken: BTreeMap::new(),
            acknowledged: vec![],
        };
        Self { local: Local::new(clock), fuse, state: Arc::new(Mutex::new(state)) }
    }

    /// What the next calls meet.
    pub fn set_trouble(&self, trouble: Trouble, dice: Dice) {
        let mut state = self.state();
        (state.trouble, state.dice) = (trouble, dice);
    }

    /// How many messages wait.
    #[must_use]
    pub fn waiting(&self, topic: Topic) -> usize {
        self.local.waiting(topic)
    }

    /// Takes up to so many of the messages that wait, in an order of the dice; without dice, in theirs.
    #[must_use]
    pub fn deliveries(&self, topic: Topic, count: usize, mut dice: Option<Dice>) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        while deliveries.len() < count {
            let place = dice.as_mut().map_or(0, |dice| dice.place(self.local.waiting(topic)));
            let Some(delivery) = self.local.take(topic, place) else { break };
            let (network, message) = (self.clone(), delivery.message.clone());
            let (id, at) = (delivery.message_id.clone(), delivery.published_at);
            let acknowledge = move || network.acknowledge(topic, delivery);
            deliveries.push(Delivery::new(message, id, at, acknowledge));
        }
        deliveries
    }

    fn acknowledge(&self, topic: Topic, delivery: Delivery) {
        let lost = {
            let mut state = self.state();
            let often = state.trouble.lost_acknowledgement;
            state.acknowledged.push((topic, delivery.message.clone()));
            state.dice.happens(often)
        };
        if !lost {
            delivery.ack();
        }
    }

    /// The messages that the services have acknowledged since this was last asked.
    #[must_use]
    pub fn take_acknowledged(&self) -> Vec<(Topic, Message)> {
        std::mem::take(&mut self.state().acknowledged)
    }

    /// Whether the broker has ever taken a message of this request.
    #[must_use]
    pub fn has_taken(&self, topic: Topic, request_id: &str) -> bool {
        self.state().taken.get(&topic).is_some_and(|taken| taken.contains(request_id))
    }

    /// Publishes, without any trouble, a message that was published before.
    pub async fn repeat(&self, topic: Topic, dice: &mut Dice) -> bool {
        let message = {
            let state = self.state();
            let history = state.history.get(&topic).map_or(&[][..], Vec::as_slice);
            history.get(dice.place(history.len())).cloned()
        };
        let Some(message) = message else { return false };
        self.insert(topic, vec![message]).await;
        true
    }

    /// Publishes, without any trouble, what none of our services has written.
    pub async fn insert(&self, topic: Topic, messages: Vec<Message>) {
        // A topic that is missing loses it, as a foreign publisher's error would.
        let _ = self.local.publish(topic, messages).await;
    }

    /// The broker forgets everything.
    pub fn forget(&self) {
        self.local.forget();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn happens(&self, what: impl FnOnce(&Trouble) -> u16) -> bool {
        let mut state = self.state();
        let often = what(&state.trouble);
        state.dice.happens(often)
    }

    fn record(&self, topic: Topic, messages: &[Message]) {
        let mut state = self.state();
        let history = state.history.entry(topic).or_default();
        history.extend(messages.iter().take(8).cloned());
        let surplus = history.len().saturating_sub(HISTORY);
        history.drain(..surplus);
        let ids = messages.iter().filter_map(|message| message.attributes.get("request_id").cloned());
        state.taken.entry(topic).or_default().extend(ids);
    }
}

const SILENCE: Duration = Duration::from_secs(10);

#[async_trait]
impl Bus for Network {
    async fn publish(&self, topic: Topic, mut messages: Vec<Message>) -> Vec<Result<(), Error>> {
        self.fuse.pass("bus:asked").await;
        let count = messages.len();
        let silence = || (0..count).map(|_| Err(Error::Timeout(SILENCE))).collect();
        if self.happens(|trouble| trouble.silent) {
            return silence();
        }
        let refused = self.happens(|trouble| trouble.partial).then(|| self.state().dice.place(count));
        if let Some(place) = refused {
            messages.remove(place);
        }
        let mut outcomes = self.local.publish(topic, messages.clone()).await;
        if outcomes.iter().all(Result::is_ok) {
            self.record(topic, &messages);
        }
        if let Some(place) = refused {
            outcomes.insert(place, Err(Error::Timeout(SILENCE)));
        }
        self.fuse.pass("bus:answered").await;
        if self.happens(|trouble| trouble.taken_silently) {
            return silence();
        }
        outcomes
    }

    fn receive(&self, topic: Topic, outstanding: i64) -> Receiver {
        self.local.receive(topic, outstanding)
    }

    async fn ensure(&self, starting: bool) -> Result<bool, Error> {
        self.fuse.pass("bus:ensured").await;
        if self.happens(|trouble| trouble.silent) {
            return Err(Error::Timeout(SILENCE));
        }
        self.local.ensure(starting).await
    }
}
