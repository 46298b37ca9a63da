//! What a service depends on, and whether it has it.
//!
//! Every component that talks to something outside holds a [`Dependency`] and reports what it just saw; `/readyz` and
//! `/health` show the latest of each. Nothing here probes by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

/// The states of all dependencies of one service, as each of those who report on one has seen it; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Vec<State>>>>);

/// The state of one dependency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It answered when it was last asked.
    Up,
    /// Not asked yet.
    Starting,
    /// It did not answer, or refused.
    Down {
        /// What happened, for the operator.
        reason: String,
    },
}

impl Health {
    /// Adds somebody who reports on a dependency, which is [`State::Starting`] until then.
    #[must_use]
    pub fn dependency(&self, name: &'static str) -> Dependency {
        let mut states = self.lock();
        let reporters = states.entry(name).or_default();
        reporters.push(State::Starting);
        Dependency { health: self.clone(), name, reporter: reporters.len() - 1 }
    }

    /// The state of each dependency, by name: the worst that anybody has seen.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, State> {
        self.lock().iter().map(|(name, seen)| (*name, worst(seen))).collect()
    }

    /// Whether every dependency is up.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().values().flatten().all(|state| *state == State::Up)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Vec<State>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn worst(seen: &[State]) -> State {
    let is_down = |state: &&State| matches!(state, State::Down { .. });
    let not_up = |state: &&State| **state != State::Up;
    seen.iter().find(is_down).or_else(|| seen.iter().find(not_up)).cloned().unwrap_or(State::Up)
}

/// The right to report on one dependency; clones are one reporter.
#[derive(Debug, Clone)]
pub struct Dependency {
    health: Health,
    name: &'static str,
    reporter: usize,
}

impl Dependency {
    /// It answered.
    pub fn up(&self) {
        self.set(State::Up);
    }

    /// It failed, in the words of `reason`.
    pub fn down(&self, reason: &impl ToString) {
        self.set(State::Down { reason: reason.to_string() });
    }

    fn set(&self, state: State) {
        let mut states = self.health.lock();
        let Some(seen) = states.get_mut(self.name).and_then(|seen| seen.get_mut(self.reporter)) else { return };
        let before = std::mem::replace(seen, state.clone());
        drop(states);
        if before == state {
            return;
        }
        match (before, state) {
            (_, State::Down { reason }) => tracing::warn!(dependency = self.name, reason, "dependency is down"),
            (State::Down { .. }, State::Up) => tracing::info!(dependency = self.name, "dependency is back"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_ready_when_all_it_needs_is_up() {
        let health = Health::default();
        assert!(health.is_ready());
        let (bus, chain) = (health.dependency("bus"), health.dependency("chain"));
        assert!(!health.is_ready());
        bus.up();
        chain.up();
        assert!(health.is_ready());
        chain.down(&"connection refused");
        assert!(!health.is_ready());
        assert_eq!(health.states()["chain"], State::Down { reason: "connection refused".into() });
    }

    #[test]
    fn what_several_report_on_is_up_when_all_say_so() {
        let health = Health::default();
        let [first, second] = std::array::from_fn(|_| health.dependency("lane"));
        first.up();
        assert_eq!(health.states()["lane"], State::Starting);
        second.down(&"no funds");
        first.up();
        assert_eq!(health.states()["lane"], State::Down { reason: "no funds".into() });
        second.up();
        assert!(health.is_ready());
    }
}
