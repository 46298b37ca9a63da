//! The shape of everything that runs in the background: a step that is taken again and again.
//!
//! A [`Worker`] does one bounded piece of work a step and says whether there was any, so that a test can drive it a step
//! at a time. [`run`] repeats the step until shutdown: at once while there is work, on a wake-up or a slow poll when
//! there is none, and after a growing pause when a step fails.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use rand::RngExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::health::Dependency;
use crate::pace::{PACE, Pace};

/// What a step found to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So much was done, and there may be more.
    Worked(usize),
    /// There is more, and it can wait: this work takes a tenth of the time at most.
    Unhurried,
    /// There was nothing to do.
    Idle,
}

/// A component that moves in steps.
pub trait Worker: Send + Sync + 'static {
    /// Why a step failed; the step is taken again later.
    type Error: std::fmt::Display + Send;

    /// Takes one step. What it does is durable, or harmless to do again, at every await.
    ///
    /// # Errors
    ///
    /// When the step could not be finished for now.
    fn run_once(&self) -> impl Future<Output = Result<Progress, Self::Error>> + Send;
}

/// A worker that others share takes its steps like any other.
impl<W: Worker> Worker for Arc<W> {
    type Error = W::Error;

    fn run_once(&self) -> impl Future<Output = Result<Progress, Self::Error>> + Send {
        W::run_once(self)
    }
}

/// When a worker looks for work, and to whom it reports.
#[derive(Debug)]
pub struct Schedule {
    /// Its name in logs and metrics.
    pub name: &'static str,
    /// Somebody notifies this when there may be work.
    pub wake: Arc<Notify>,
    /// How long at most until it looks by itself.
    pub poll: Duration,
    /// What it depends on: reported down while steps fail, and up when they succeed.
    pub dependency: Dependency,
}

impl Schedule {
    /// For a worker that is told when there is work, and looks by itself now and then all the same.
    #[must_use]
    pub fn woken(name: &'static str, wake: Arc<Notify>, poll: Duration, dependency: Dependency) -> Self {
        Self { name, wake, poll, dependency }
    }

    /// For a worker that nobody tells.
    #[must_use]
    pub fn polled(name: &'static str, poll: Duration, dependency: Dependency) -> Self {
        Self::woken(name, Arc::default(), poll, dependency)
    }
}

/// Repeats the worker's step until `shutdown`; a step that has begun is finished.
pub async fn run<W: Worker>(worker: W, schedule: Schedule, shutdown: CancellationToken) {
    let Schedule { name, wake, poll, dependency } = schedule;
    let mut pauses = backoff();
    let mut pace = Pace::new(PACE);
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = pace.keep() => {}
            () = shutdown.cancelled() => return,
        }
        // Registered before the step looks for work: what is announced meanwhile is not missed.
        let woken = wake.notified();
        let began = Instant::now();
        match worker.run_once().await {
            Ok(progress) => {
                pauses = backoff();
                dependency.up();
                match progress {
                    Progress::Worked(count) => pace.found(count),
                    Progress::Unhurried => pace.rest(MAX_PAUSE.min(began.elapsed() * 9)),
                    Progress::Idle => tokio::select! {
                        () = woken => {}
                        () = tokio::time::sleep(poll.mul_f64(rand::rng().random_range(0.75..=1.25))) => {}
                        () = shutdown.cancelled() => {}
                    },
                }
            }
            Err(error) => {
                metrics::counter!("worker_errors_total", "worker" => name).increment(1);
                tracing::warn!(worker = name, %error, "step failed, will be taken again");
                dependency.down(&error);
                tokio::select! {
                    () = tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)) => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
    }
}

/// Tries until it succeeds, or fails for another reason than that something is away.
///
/// # Errors
///
/// The first error that is not `unreachable`.
pub async fn until_reachable<T, E: std::fmt::Display>(
    dependency: &Dependency,
    unreachable: impl Fn(&E) -> bool,
    mut attempt: impl AsyncFnMut() -> Result<T, E>,
) -> Result<T, E> {
    let mut pauses = backoff();
    loop {
        match attempt().await {
            Ok(value) => {
                dependency.up();
                return Ok(value);
            }
            Err(error) if unreachable(&error) => dependency.down(&error),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
    }
}

const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Pauses between tries of something that may fail for a while: exponential with jitter, from 50 ms to 5 s, without end.
#[must_use]
pub fn backoff() -> backon::ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(MAX_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::time::timeout;

    use super::*;
    use crate::health::Health;

    const STEP: Duration = Duration::from_millis(100);

    /// Has more to do than there is time.
    #[derive(Default)]
    struct Endless {
        steps: AtomicU32,
    }

    impl Worker for Endless {
        type Error = std::convert::Infallible;

        async fn run_once(&self) -> Result<Progress, Self::Error> {
            tokio::time::sleep(STEP).await;
            self.steps.fetch_add(1, Ordering::Relaxed);
            Ok(Progress::Unhurried)
        }
    }

    #[tokio::test]
    async fn work_that_can_wait_takes_a_tenth_of_the_time_and_its_rest_ends_at_the_shutdown() {
        let (worker, shutdown) = (Arc::new(Endless::default()), CancellationToken::new());
        let schedule = Schedule::polled("endless", Duration::ZERO, Health::default().dependency("work"));
        let mut running = tokio::spawn(run(Arc::clone(&worker), schedule, shutdown.clone()));
        timeout(STEP * 21, &mut running).await.unwrap_err();
        assert!((1..=3).contains(&worker.steps.load(Ordering::Relaxed)), "{:?}", worker.steps);
        shutdown.cancel();
        timeout(STEP * 8, running).await.expect("a rest is longer").unwrap();
    }
}
