//! Fewer, larger steps under load: whatever commits in batches begins no two of them at once.
//!
//! A step has its own cost, a transaction's, whether it is of one grant or of hundreds. Who comes after a quiet moment
//! waits for nothing; who comes close behind others shares the next step with those that come meanwhile. The more a step
//! finds, the longer the next one waits, up to eight times as long; one that finds all that a step may take does not wait.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How often transactions of one kind begin at most, while they find little.
pub const PACE: Duration = Duration::from_millis(20);

/// A step that finds so much more waits as much longer.
const MORE: usize = 16;

/// The longest wait, in times of the shortest.
const MOST: u32 = 8;

/// Who finds so much may have left more.
pub const FULL: usize = 500;

/// The least time between the beginnings of two steps.
#[derive(Debug)]
pub struct Pace {
    every: Duration,
    begun: Instant,
    next: Instant,
}

impl Pace {
    /// A step at most this often; the first one at once.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        let now = Instant::now();
        Self { every, begun: now, next: now }
    }

    /// Waits until the next step may begin, and begins it.
    pub async fn keep(&mut self) {
        self.due().await;
        self.begin();
    }

    /// Waits until the next step may begin.
    pub async fn due(&self) {
        sleep_until(self.next).await;
    }

    /// Begins a step, due or not.
    pub fn begin(&mut self) {
        self.begun = Instant::now();
        self.next = self.begun + self.every;
    }

    /// The step that has begun found so much to do.
    pub fn found(&mut self, count: usize) {
        let times = u32::try_from(1 + count / MORE).unwrap_or(MOST).min(MOST);
        self.next = if count < FULL { self.begun + self.every * times } else { self.begun };
    }

    /// No step begins for so long.
    pub fn rest(&mut self, pause: Duration) {
        self.next = Instant::now() + pause;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_step_waits_longer_after_one_that_found_more_and_not_at_all_after_a_full_one() {
        let mut pace = Pace::new(PACE);
        pace.begin();
        let mut wait = |count| {
            pace.found(count);
            pace.next - pace.begun
        };
        assert_eq!([1, 16, 112, 499, 500].map(|count| wait(count).as_millis()), [20, 40, 160, 160, 0]);
    }

    #[tokio::test]
    async fn the_first_step_waits_for_nothing_and_the_next_one_does() {
        let mut pace = Pace::new(Duration::from_hours(1));
        pace.keep().await;
        assert!(timeout(Duration::ZERO, pace.keep()).await.is_err());
        pace.rest(Duration::ZERO);
        pace.keep().await;
    }
}
