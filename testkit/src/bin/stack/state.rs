//! What `up` leaves behind for the other commands to find: `target/run/stack.json`, and a lock that is held for as long as the stack
//! runs, so that a process id that somebody else has by now is never taken for ours.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use testkit::{Contracts, paths::workspace};

/// A stack that was started.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct State {
    /// Of the process that holds the stack together.
    pub(crate) pid: u32,
    /// `up` or `dev`.
    pub(crate) mode: String,
    /// How far it is.
    pub(crate) phase: Phase,
    /// Where things are.
    pub(crate) places: Option<Places>,
}

/// How far a stack is.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Starting,
    Ready,
    Failed(String),
}

/// Where the parts of a stack are.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Places {
    pub(crate) campaign_url: String,
    pub(crate) blockchain_url: String,
    pub(crate) pubsub_emulator_host: String,
    pub(crate) project: String,
    pub(crate) rpc_url: String,
    pub(crate) contracts: Contracts,
    pub(crate) signer: String,
}

impl State {
    /// What the file says, if there is one.
    pub(crate) fn read() -> Option<Self> {
        serde_json::from_slice(&fs::read(file()).ok()?).ok()
    }

    /// Replaces the file, in one step.
    pub(crate) fn write(&self) -> Result<()> {
        let new = folder().join("stack.json.new");
        fs::write(&new, serde_json::to_vec_pretty(self)?).context("cannot write the state of the stack")?;
        fs::rename(&new, file()).context("cannot replace the state of the stack")
    }

    /// Removes the file.
    pub(crate) fn remove() {
        let _ = fs::remove_file(file());
    }
}

/// Where a running stack keeps everything.
pub(crate) fn folder() -> PathBuf {
    workspace().join("target/run")
}

/// Takes the lock, if no stack runs. It is free again when the file is closed, by whatever end of its process.
pub(crate) fn lock() -> Result<Option<File>> {
    fs::create_dir_all(folder()).context("cannot create target/run")?;
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(folder().join("lock"))
        .context("cannot open target/run/lock")?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).context("cannot lock target/run/lock"),
    }
}

/// The stack that runs, if one does.
pub(crate) fn running() -> Result<Option<State>> {
    Ok(match lock()? {
        Some(_free) => None,
        None => State::read(),
    })
}

/// Removes everything of the last run but the lock: a chain starts empty, so databases must too.
pub(crate) fn clear() -> Result<()> {
    for entry in fs::read_dir(folder()).context("cannot read target/run")? {
        let path = entry?.path();
        if path.ends_with("lock") {
            continue;
        }
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
            .with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

fn file() -> PathBuf {
    folder().join("stack.json")
}
