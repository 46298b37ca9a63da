//! How a service lives and dies: tasks, signals, and a deadline.
//!
//! A task that ends before it was asked to ends the whole process with failure, so that whoever supervises it starts it
//! again. SIGTERM or SIGINT asks all tasks to finish what they have begun; a second signal, or the deadline, ends the
//! process without waiting. Either way nothing is lost, since everything accepted is committed before it is answered.

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::worker::{self, Schedule, Worker};

/// The tasks of one process.
#[derive(Debug)]
pub struct Lifecycle {
    shutdown: CancellationToken,
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    deadline: Duration,
}

impl Lifecycle {
    /// A process that has `deadline` to finish once it is asked to.
    #[must_use]
    pub fn new(deadline: Duration) -> Self {
        Self { shutdown: CancellationToken::new(), tasks: JoinSet::new(), deadline }
    }

    /// Cancelled when the process is to finish.
    #[must_use]
    pub fn shutdown(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Adds a task, which must run until [`shutdown`](Self::shutdown) is cancelled.
    pub fn spawn<F>(&mut self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Adds a task that repeats a worker's step.
    pub fn work(&mut self, worker: impl Worker, schedule: Schedule) {
        let (name, shutdown) = (schedule.name, self.shutdown());
        self.spawn(name, async {
            worker::run(worker, schedule, shutdown).await;
            Ok(())
        });
    }

    /// Waits for a signal or for a task to die, then for the tasks to finish.
    ///
    /// # Errors
    ///
    /// When signals cannot be listened to.
    pub async fn run(mut self) -> anyhow::Result<ExitCode> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut exit = ExitCode::SUCCESS;
        tokio::select! {
            _ = terminate.recv() => tracing::info!(signal = "SIGTERM", "shutting down"),
            _ = interrupt.recv() => tracing::info!(signal = "SIGINT", "shutting down"),
            Some(ended) = self.tasks.join_next() => {
                report_death(ended);
                exit = ExitCode::FAILURE;
            }
        }
        self.shutdown.cancel();
        let drained = async {
            let mut clean = true;
            while let Some(ended) = self.tasks.join_next().await {
                if !matches!(ended, Ok((_, Ok(())))) {
                    report_death(ended);
                    clean = false;
                }
            }
            clean
        };
        let clean = tokio::select! {
            clean = drained => clean,
            () = tokio::time::sleep(self.deadline) => {
                tracing::error!(deadline_seconds = self.deadline.as_secs(), "tasks did not finish within the deadline");
                false
            }
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
        };
        tracing::info!(clean, "stopped");
        Ok(if clean { exit } else { ExitCode::FAILURE })
    }
}

fn report_death(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) {
    match ended {
        Ok((task, Ok(()))) => tracing::error!(task, "task ended before it was asked to"),
        Ok((task, Err(error))) => tracing::error!(task, "task failed: {error:#}"),
        Err(panic) => tracing::error!(%panic, "task panicked"),
    }
}
