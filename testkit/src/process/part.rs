//! A program that is started, lost and started again.

use std::{
    process::ExitStatus,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::{Process, Program, lock};

/// A part of a stack: a program, and the process that runs it now, if one does.
#[derive(Debug)]
pub struct Part {
    program: Mutex<Program>,
    process: Mutex<Option<Arc<Process>>>,
}

impl Part {
    /// This program, not running.
    #[must_use]
    pub fn new(program: Program) -> Self {
        Self { program: Mutex::new(program), process: Mutex::default() }
    }

    /// Changes the program for its next start.
    pub fn change(&self, change: impl FnOnce(Program) -> Program) {
        let mut program = lock(&self.program);
        *program = change(program.clone());
    }

    /// The program as it would be started now.
    #[must_use]
    pub fn program(&self) -> Program {
        lock(&self.program).clone()
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn spawn(&self) -> Result<()> {
        let mut slot = lock(&self.process);
        let program = lock(&self.program);
        if slot.as_ref().is_some_and(|process| process.ended().is_none()) {
            bail!("{} is running already", program.name);
        }
        *slot = Some(Arc::new(program.spawn()?));
        Ok(())
    }

    /// Polls `is_ready` until it is true.
    ///
    /// # Errors
    /// When the process ends first, or is not ready within `timeout`; the end of its log is in the message.
    pub async fn ready<F, C>(&self, timeout: Duration, is_ready: C) -> Result<()>
    where
        C: FnMut() -> F,
        F: Future<Output = bool>,
    {
        self.running()?.ready(timeout, is_ready).await
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it was not started, or has not ended within `timeout`.
    pub async fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        self.running()?.wait(timeout).await
    }

    /// Freezes it (SIGSTOP). No harm where it does not run.
    pub fn pause(&self) {
        if let Ok(process) = self.running() {
            process.pause();
        }
    }

    /// Lets it go on after [`pause`](Self::pause) (SIGCONT).
    pub fn resume(&self) {
        if let Ok(process) = self.running() {
            process.resume();
        }
    }

    /// Asks it to end (SIGTERM), and returns how it did.
    ///
    /// # Errors
    /// When it does not run, or not end within `timeout`.
    pub async fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        self.running()?.terminate(timeout).await
    }

    /// Ends it: politely first, by force after forty seconds. No harm where it does not run.
    ///
    /// # Errors
    /// When even force does not help.
    pub async fn stop(&self) -> Result<()> {
        let process = lock(&self.process).take();
        match process {
            Some(process) => process.stop().await.map(drop),
            None => Ok(()),
        }
    }

    /// Kills it as a power cut would (SIGKILL). No harm where it does not run.
    ///
    /// # Errors
    /// When it does not die.
    pub async fn kill9(&self) -> Result<()> {
        let process = lock(&self.process).take();
        match process {
            Some(process) => process.kill9().await.map(drop),
            None => Ok(()),
        }
    }

    /// The id of the process that runs now, if one does.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.running().ok().map(|process| process.id())
    }

    /// Why it is not running although nobody asked it to end.
    #[must_use]
    pub fn unexpected_end(&self) -> Option<anyhow::Error> {
        self.running().ok()?.unexpected_end()
    }

    fn running(&self) -> Result<Arc<Process>> {
        let process = lock(&self.process).clone();
        process.with_context(|| format!("{} is not running", lock(&self.program).name))
    }
}
