//! What a service depends on, and whether it has it.
//!
//! Every component that talks to something outside holds a [`Dependency`] and reports what it just saw; `/readyz` and
//! `/health` show the latest of each. Nothing here probes by itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

/// The states of all dependencies of one service; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, State>>>);

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
    /// Adds a dependency, whose state is [`State::Starting`] until its holder reports.
    #[must_use]
    pub fn dependency(&self, name: &'static str) -> Dependency {
        self.lock().entry(name).or_insert(State::Starting);
        Dependency { health: self.clone(), name }
    }

    /// The state of each dependency, by name.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, State> {
        self.lock().clone()
    }

    /// Whether every dependency is up.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|state| *state == State::Up)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to report on one dependency.
#[derive(Debug, Clone)]
pub struct Dependency {
    health: Health,
    name: &'static str,
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
        let before = self.health.lock().insert(self.name, state.clone());
        if before.as_ref() == Some(&state) {
            return;
        }
        match (before, state) {
            (_, State::Down { reason }) => tracing::warn!(dependency = self.name, reason, "dependency is down"),
            (Some(State::Down { .. }), State::Up) => tracing::info!(dependency = self.name, "dependency is back"),
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
}
