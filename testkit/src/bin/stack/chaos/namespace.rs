//! Disks that can be full have to be mounted, and should be gone with the program, however it ends: it runs itself again
//! in a mount namespace of its own, where this system has such namespaces. Its temporary folder is in memory there: a
//! campaign kills servers and never cuts the power, so it need not wait for a disk.

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use testkit::{
    Disk,
    paths::{on_path, workspace},
};

/// Set for the program that runs in the namespace.
const INSIDE: &str = "CHAOS_NAMESPACE";

/// The temporary folder.
const TEMPORARY_BYTES: u64 = 4 << 30;

/// Becomes the same program in a namespace of its own, unless this is that program or there are no namespaces; then
/// returns the temporary folder, if it is one in memory.
pub(super) fn enter() -> Result<Option<Disk>> {
    if env::var_os(INSIDE).is_some() {
        let folder = env::temp_dir();
        // A disk over it would hide a workspace in it.
        let holds_us = workspace().starts_with(&folder);
        return Ok(if holds_us { None } else { Disk::mount(folder, TEMPORARY_BYTES).ok() });
    }
    let Some(unshare) = on_path("unshare") else { return Ok(None) };
    // Root needs no more. Others get a namespace of users as well, in which they are who they were.
    let ways: [&[&str]; 2] = [&["--mount"], &["--user", "--map-current-user", "--keep-caps", "--mount"]];
    for way in ways {
        let trial = Command::new(&unshare).args(way).arg("true").stderr(Stdio::null()).status();
        if trial.is_ok_and(|status| status.success()) {
            let program = env::current_exe().context("the running program has no path")?;
            let error =
                Command::new(unshare).args(way).arg(program).args(env::args_os().skip(1)).env(INSIDE, "1").exec();
            return Err(error).context("cannot run in a namespace");
        }
    }
    Ok(None)
}
