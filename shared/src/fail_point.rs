//! Points at which a process can be made to die, and switches that take a layer of protection away, for tests.
//!
//! Without the feature `failpoints`, in every build that is shipped, [`reach`] does nothing and [`switched`] is false.
//! With it, the variable `FAILPOINTS` of the crate `fail` arms points by name: `FAILPOINTS="outbox::remove=20*off->return"`
//! ends the process, as `kill -9` would, when the point is reached for the 21st time. A simulation decides itself
//! (`decide`): a component that dies is not polled again.

/// A durable step is about to be taken, or was just taken. Every commit has two such points, see
/// [`Database::begin`](crate::db::Database::begin).
#[cfg_attr(not(feature = "failpoints"), expect(clippy::unused_async, reason = "with the feature it may never return"))]
pub async fn reach(name: &str) {
    #[cfg(feature = "failpoints")]
    {
        if armed::dies_here(name) {
            std::future::pending::<()>().await;
        }
        fail::fail_point!(name, |_| {
            tracing::error!(point = name, "dies at a fail point");
            std::process::abort()
        });
    }
    #[cfg(not(feature = "failpoints"))]
    let _ = name;
}

/// Whether a test has taken away the layer of protection of this name.
#[must_use]
pub fn switched(name: &str) -> bool {
    #[cfg(feature = "failpoints")]
    {
        armed::is_switched(name) || fail::eval(name, |_| ()).is_some()
    }
    #[cfg(not(feature = "failpoints"))]
    {
        let _ = name;
        false
    }
}

#[cfg(feature = "failpoints")]
pub use armed::{arm, decide, switch};

#[cfg(feature = "failpoints")]
mod armed {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    type Decision = Box<dyn FnMut(&str) -> bool>;

    thread_local! {
        static DECISION: RefCell<Option<Decision>> = const { RefCell::new(None) };
        static SWITCHED: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// Arms the points that the variable `FAILPOINTS` names, for the life of the process.
    pub fn arm() {
        std::mem::forget(fail::FailScenario::setup());
    }

    /// From now on `decision` is asked at every point that this thread reaches whether the component dies there.
    pub fn decide(decision: impl FnMut(&str) -> bool + 'static) {
        DECISION.set(Some(Box::new(decision)));
    }

    /// Takes layers of protection away, or gives them back, on this thread: these are missing from now on.
    pub fn switch(missing: impl IntoIterator<Item = String>) {
        SWITCHED.set(missing.into_iter().collect());
    }

    pub(super) fn dies_here(name: &str) -> bool {
        DECISION.with_borrow_mut(|decision| decision.as_mut().is_some_and(|decide| decide(name)))
    }

    pub(super) fn is_switched(name: &str) -> bool {
        SWITCHED.with_borrow(|missing| missing.contains(name))
    }
}
