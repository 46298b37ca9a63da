//! Child processes that never outlive this one, however it ends, kill -9 included.
//!
//! Each child is the leader of its own process group and starts behind a gate: a `sh` that waits for one line on its standard
//! input and then becomes the program. Beside it runs a watchdog, a few more lines of `sh` that hold nothing but the
//! read end of a pipe: when the pipe closes because this process is gone, the watchdog ends the whole group. The gate is opened only once the
//! watchdog is there, so no moment is left in which a child could be orphaned.
//!
//! Signals go to the group, so helpers that a child starts go with it. Nothing here depends on an async runtime: a
//! process may be started in one test and used in another.

mod part;
mod program;

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    process::{Child, ExitStatus},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process_group};
use tokio::time::sleep;

pub use self::{part::Part, program::Program};
use crate::wait::{POLL, until_some};

/// How long a child may take to follow its stop signal before it is killed.
const GRACE: Duration = Duration::from_secs(40);

/// Lines of a log shown when its process has failed.
const TAIL_LINES: usize = 25;

/// A running child. Dropping it kills it and everything it started.
#[derive(Debug)]
pub struct Process {
    program: Program,
    group: Pid,
    child: Mutex<Child>,
    watchdog: Mutex<Child>,
    unexpected: AtomicBool,
}

impl Process {
    fn new(program: Program, group: Pid, child: Child, watchdog: Child) -> Self {
        Self {
            program,
            group,
            child: Mutex::new(child),
            watchdog: Mutex::new(watchdog),
            unexpected: AtomicBool::new(true),
        }
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.program.name
    }

    /// Its process id, which is also the id of its group.
    pub fn id(&self) -> u32 {
        lock(&self.child).id()
    }

    /// The file with everything it has printed.
    pub fn log(&self) -> &Path {
        &self.program.log
    }

    /// The last lines of its log, under a heading that names the file.
    pub fn log_tail(&self) -> String {
        let log = &self.program.log;
        let lines = tail(log, TAIL_LINES).unwrap_or_default();
        format!("--- last lines of {} ---\n{lines}", log.display())
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Why it is not running although nobody asked it to end.
    pub fn unexpected_end(&self) -> Option<anyhow::Error> {
        let status = self.ended()?;
        self.unexpected
            .load(Ordering::Relaxed)
            .then(|| anyhow!("{} ended unexpectedly ({status})\n{}", self.name(), self.log_tail()))
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it has not ended within `timeout`.
    pub async fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name());
        until_some(timeout, &what, || async { self.ended() }).await
    }

    /// Waits for it to end by itself, however long that takes.
    pub async fn end(&self) -> ExitStatus {
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            sleep(POLL).await;
        }
    }

    /// Polls `is_ready` until it is true.
    ///
    /// # Errors
    /// When the process ends first, or is not ready within `timeout`; the end of its log is in the message.
    pub async fn ready<F, C>(&self, timeout: Duration, mut is_ready: C) -> Result<()>
    where
        C: FnMut() -> F,
        F: Future<Output = bool>,
    {
        let what = format!("{} to be ready", self.name());
        let answer = until_some(timeout, &what, || {
            let ready = is_ready();
            async move {
                match self.ended() {
                    Some(status) => Some(Err(anyhow!("{} ended while it started ({status})", self.name()))),
                    None => ready.await.then_some(Ok(())),
                }
            }
        });
        answer.await.and_then(|answer| answer).map_err(|error| {
            self.expect_end();
            anyhow!("{error}\n{}", self.log_tail())
        })
    }

    /// Sends a signal to the whole group. A group that is gone already is no error.
    pub fn signal(&self, signal: Signal) {
        if self.ended().is_none() {
            let _ = kill_process_group(self.group, signal);
        }
    }

    /// Freezes it, as a very slow machine would (SIGSTOP).
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after [`pause`](Self::pause) (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Kills it as a power cut would (SIGKILL), and returns once it is gone.
    ///
    /// # Errors
    /// When it is still there ten seconds later.
    pub async fn kill9(&self) -> Result<ExitStatus> {
        self.expect_end();
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10)).await
    }

    /// Asks it to end (SIGTERM), and returns how it did.
    ///
    /// # Errors
    /// When it is still there after `timeout`.
    pub async fn terminate(&self, timeout: Duration) -> Result<ExitStatus> {
        self.expect_end();
        self.signal(Signal::TERM);
        self.wait(timeout).await
    }

    /// Ends it: politely first, by force after forty seconds.
    ///
    /// # Errors
    /// When even force did not help.
    pub async fn stop(&self) -> Result<ExitStatus> {
        self.expect_end();
        self.signal(self.program.stop);
        self.resume();
        match self.wait(GRACE).await {
            Ok(status) => Ok(status),
            Err(_) => self.kill9().await,
        }
    }

    fn expect_end(&self) {
        self.unexpected.store(false, Ordering::Relaxed);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.program.stop != Signal::TERM && self.ended().is_none() {
            // A program with its own way to end gets two seconds for it: PostgreSQL then releases its shared memory.
            let _ = kill_process_group(self.group, self.program.stop);
            let deadline = Instant::now() + Duration::from_secs(2);
            while self.ended().is_none() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = lock(&self.child).wait();
        let mut watchdog = lock(&self.watchdog);
        if let Some(mut pipe) = watchdog.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = watchdog.wait();
    }
}

/// The last `lines` lines of a text file.
///
/// # Errors
/// When it cannot be read.
pub fn tail(file: &Path, lines: usize) -> std::io::Result<String> {
    const LONGEST: u64 = 64 * 1024;
    let mut file = File::open(file)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LONGEST)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

/// A poisoned lock guards nothing that a panic could have left half-done here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
