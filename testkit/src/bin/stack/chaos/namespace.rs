//! Disks that can be full have to be mounted, and should be gone with the program, however it ends: it runs itself again
//! in a mount namespace of its own, where this system has such namespaces.

use std::{
    env,
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use testkit::paths::on_path;

/// Set for the program that runs in the namespace.
const INSIDE: &str = "CHAOS_NAMESPACE";

/// Becomes the same program in a namespace of its own, unless this is that program or there are no namespaces; then
/// returns, and disks are full where they can be.
pub(super) fn enter() -> Result<()> {
    let Some(unshare) = on_path("unshare").filter(|_| env::var_os(INSIDE).is_none()) else { return Ok(()) };
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
    Ok(())
}
