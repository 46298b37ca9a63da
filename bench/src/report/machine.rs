//! Where and of what something was measured.

use std::{fs, process::Command};

use serde_json::{Value, json};
use testkit::paths::workspace;

/// The machine, and the revision of the sources that this program was built from, as far as they can be told.
pub(crate) fn machine() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model,
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "memory_mb": kilobytes.map(|kilobytes| kilobytes / 1024),
        "kernel": kernel.trim(),
        "revision": git(&["rev-parse", "HEAD"]),
        "changed": git(&["status", "--porcelain", "--untracked-files=no"]).map(|changes| !changes.is_empty()),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
    })
}

fn git(arguments: &[&str]) -> Option<String> {
    let answer = Command::new("git").arg("-C").arg(workspace()).args(arguments).output().ok()?;
    answer.status.success().then(|| String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}
