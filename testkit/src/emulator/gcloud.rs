//! Finds the emulator program that comes with the gcloud command line.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::paths::{is_program, on_path};

/// Under the root of the SDK.
const PROGRAM: &str = "platform/pubsub-emulator/bin/cloud-pubsub-emulator";

/// The emulator program, if it is installed, and Java with it. It is run directly: `gcloud beta emulators pubsub start` would
/// put a Python process in between, and takes seconds more.
pub(super) async fn emulator() -> Option<PathBuf> {
    on_path("java").or_else(|| env::var_os("JAVA_HOME").map(PathBuf::from))?;
    if let Some(found) = likely_roots().into_iter().find_map(|root| program_in(&root)) {
        return Some(found);
    }
    program_in(&told_root().await?)
}

fn program_in(root: &Path) -> Option<PathBuf> {
    let program = root.join(PROGRAM);
    is_program(&program).then_some(program)
}

/// Where the SDK usually is: above the gcloud script, and where its packages and installer put it.
fn likely_roots() -> Vec<PathBuf> {
    let mut roots = Vec::new();
    if let Some(script) = on_path("gcloud").and_then(|link| link.canonicalize().ok()) {
        roots.extend(script.ancestors().skip(2).take(1).map(Path::to_path_buf));
    }
    if let Some(home) = env::home_dir() {
        roots.push(home.join("google-cloud-sdk"));
    }
    roots.extend(
        [
            "/usr/lib/google-cloud-sdk",
            "/usr/share/google-cloud-sdk",
            "/snap/google-cloud-cli/current",
            "/opt/google-cloud-sdk",
            "/opt/google-cloud-cli",
            "/opt/homebrew/share/google-cloud-sdk",
            "/usr/local/share/google-cloud-sdk",
            "/usr/local/google-cloud-sdk",
        ]
        .map(PathBuf::from),
    );
    roots
}

/// What gcloud itself says, which takes it about a second.
async fn told_root() -> Option<PathBuf> {
    let gcloud = on_path("gcloud")?;
    let answer = tokio::process::Command::new(gcloud)
        .args(["info", "--format=value(installation.sdk_root)"])
        .kill_on_drop(true)
        .output()
        .await
        .ok()?;
    let root = String::from_utf8(answer.stdout).ok()?;
    (!root.trim().is_empty()).then(|| PathBuf::from(root.trim()))
}
