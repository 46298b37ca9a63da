//! What ends a step before its end: death at a fail point of the services or where one calls the outside, or a pause in such
//! a call, as when a process is stopped and goes on much later.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// Counts the points that a step reaches, and lets it end at one of them; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Fuse(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// Notified when a step ends at a point.
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What happens to the step, and how many more points it passes until then.
    fate: Option<(Fate, u64)>,
    /// Where it ended, and, where it is to go on, how.
    at: Option<(String, Option<Resume>)>,
    /// How often each point was reached.
    reached: BTreeMap<String, u64>,
}

/// What happens to a step at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its process is killed.
    Death,
    /// Its process is stopped, in a call to the outside, and goes on later.
    Pause,
}

/// Lets a stopped step go on.
pub type Resume = oneshot::Sender<()>;

/// How a step ended.
#[derive(Debug)]
pub enum End<T> {
    /// It came to its end.
    Done(T),
    /// It died at this point.
    Died(String),
    /// It stands still at this point.
    Paused(String, Resume),
}

impl Fuse {
    /// The next step meets its fate at a point, after so many that it passes; or nothing happens to it.
    pub fn light(&self, fate: Option<(Fate, u64)>) {
        self.state().fate = fate;
    }

    /// A fail point of the services is reached. Whether the step dies there.
    #[must_use]
    pub fn burns(&self, point: &str) -> bool {
        let mut state = self.state();
        state.reach(point);
        if !state.is_due(Fate::Death) {
            return false;
        }
        state.at = Some((point.to_owned(), None));
        self.0.ended.notify_one();
        true
    }

    /// A call to the outside is made: does not return where the step dies, and returns much later where it is paused.
    pub async fn pass(&self, point: &str) {
        if self.burns(point) {
            std::future::pending::<()>().await;
        }
        let paused = {
            let mut state = self.state();
            state.is_due(Fate::Pause).then(|| {
                let (resume, resumed) = oneshot::channel();
                state.at = Some((point.to_owned(), Some(resume)));
                self.0.ended.notify_one();
                resumed
            })
        };
        if let Some(resumed) = paused {
            // Nobody resumes a step that was dropped.
            let _ = resumed.await;
        }
    }

    /// Takes a step until its end, its death or its pause.
    pub async fn step<T>(&self, step: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> End<T> {
        let done = tokio::select! {
            biased;
            done = step => Some(done),
            () = self.has_ended() => None,
        };
        let mut state = self.state();
        state.fate = None;
        match (state.at.take(), done) {
            // Also where the step came to its end without the part of it that died.
            (Some((point, None)), _) => End::Died(point),
            (Some((point, Some(resume))), None) => End::Paused(point, resume),
            (_, Some(done)) => End::Done(done),
            (None, None) => unreachable!("it ended at a point"),
        }
    }

    /// Returns when the step has met its fate; a notification may be one of an earlier step's.
    async fn has_ended(&self) {
        while self.state().at.is_none() {
            self.0.ended.notified().await;
        }
    }

    /// How often all of these were reached together.
    #[must_use]
    pub fn times(&self, points: &[&str]) -> u64 {
        let state = self.state();
        points.iter().filter_map(|point| state.reached.get(*point)).sum()
    }

    /// How often each point was reached.
    #[must_use]
    pub fn reached(&self) -> BTreeMap<String, u64> {
        self.state().reached.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn reach(&mut self, point: &str) {
        match self.reached.get_mut(point) {
            Some(times) => *times += 1,
            None => drop(self.reached.insert(point.to_owned(), 1)),
        }
    }

    /// Whether this fate is met here. Each point that could have been the place counts.
    fn is_due(&mut self, fate: Fate) -> bool {
        match &mut self.fate {
            // Steps within a step that has met its fate stand still as well.
            _ if self.at.is_some() => fate == Fate::Death && matches!(self.at, Some((_, None))),
            Some((due, 0)) if *due == fate => {
                self.fate = None;
                true
            }
            Some((due, left)) if *due == fate => {
                *left -= 1;
                false
            }
            _ => false,
        }
    }
}
