//! How a service lives and dies: tasks, signals, and a deadline.
//!
//! A task that ends before it was asked to ends the whole process with failure, so that whoever supervises it starts it
//! again. SIGTERM or SIGINT asks all tasks to finish what they have begun; a second signal, or the deadline, ends the
//! process without waiting. Either way nothing is lost, since everything accepted is committed before it is answered.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::worker::{self, Schedule, Worker};

/// The tasks of one process.
#[derive(Debug)]
pub struct Lifecycle {
    shutdown: CancellationToken,
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    deadline: Duration,
    terminate: Signal,
    interrupt: Signal,
}

impl Lifecycle {
    /// A process that has `deadline` to finish once it is asked to. From now on it hears signals.
    ///
    /// # Errors
    ///
    /// When signals cannot be listened to.
    pub fn new(deadline: Duration) -> io::Result<Self> {
        Ok(Self {
            shutdown: CancellationToken::new(),
            tasks: JoinSet::new(),
            deadline,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for what the process needs before it can work; `None` if it is asked to stop first.
    ///
    /// # Errors
    ///
    /// When the start fails.
    pub async fn start<T>(&mut self, start: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Option<T>> {
        tokio::select! {
            started = start => started.map(Some),
            () = asked_to_stop(&mut self.terminate, &mut self.interrupt) => Ok(None),
        }
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
    pub async fn run(mut self) -> ExitCode {
        let mut exit = ExitCode::SUCCESS;
        tokio::select! {
            () = asked_to_stop(&mut self.terminate, &mut self.interrupt) => {}
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
            () = asked_to_stop(&mut self.terminate, &mut self.interrupt) => false,
        };
        tracing::info!(clean, "stopped");
        if clean { exit } else { ExitCode::FAILURE }
    }
}

async fn asked_to_stop(terminate: &mut Signal, interrupt: &mut Signal) {
    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal, "shutting down");
}

fn report_death(ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>) {
    match ended {
        Ok((task, Ok(()))) => tracing::error!(task, "task ended before it was asked to"),
        Ok((task, Err(error))) => tracing::error!(task, "task failed: {error:#}"),
        Err(panic) => tracing::error!(%panic, "task panicked"),
    }
}
