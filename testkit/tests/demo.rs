//! `make demo`, with the official emulator, and on a machine that has none.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{os::unix::fs::symlink, path::Path, process::Command};

use testkit::{RunDir, paths::workspace_binary};

fn demo() -> Command {
    let mut command = Command::new(workspace_binary("stack").unwrap());
    command.args(["demo", "--block-time", "0.2"]);
    command
}

/// Runs it, and returns what it printed.
#[track_caller]
fn succeeds(mut demo: Command) -> String {
    let output = demo.output().unwrap();
    let [told, complained] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{told}\n{complained}");
    for (row, figure) in
        [("minted", "98"), ("repeated (answered with the first grant)", "2"), ("supply and ledger", "equal")]
    {
        let figure = format!(" {figure} │");
        assert!(
            told.lines().any(|line| line.starts_with(&format!("│ {row} ")) && line.ends_with(&figure)),
            "{row}\n{told}"
        );
    }
    told
}

#[test]
fn a_hundred_participants_are_paid_over_the_emulator() {
    let told = succeeds(demo());
    assert!(!told.contains("one process"), "{told}");
}

#[test]
fn without_an_emulator_both_services_run_in_one_process_and_say_so() {
    let folder = RunDir::temporary().unwrap();
    // Neither Java nor gcloud is in it; the others are what a stack's watchdogs call.
    let programs = folder.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    for program in ["sleep", "rm"] {
        let found =
            ["/bin", "/usr/bin"].map(|place| Path::new(place).join(program)).into_iter().find(|path| path.exists());
        symlink(found.unwrap(), programs.join(program)).unwrap();
    }
    let mut demo = demo();
    demo.env("PATH", &programs)
        .env("HOME", folder.path())
        .env("DOCKER_HOST", "tcp://127.0.0.1:1")
        .env_remove("JAVA_HOME")
        .env_remove("PUBSUB_EMULATOR_HOST");
    let told = succeeds(demo);
    assert!(told.contains("both services run in one process, over a broker in its memory"), "{told}");
}
