//! No process outlives the one that started it, and each can be killed, frozen, asked to end and read.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use testkit::{
    Anvil, Emulator, Postgres, RunDir, ports,
    process::{Process, Program},
    until, until_some,
};

const SOON: Duration = Duration::from_secs(20);

/// Where the parent that is to be killed reports what it has started.
const REPORT: &str = "TESTKIT_TEST_REPORT";

fn shell(folder: &RunDir, name: &str, script: &str) -> Process {
    Program::new(name, "/bin/sh", folder.log(name)).args(["-c", script]).spawn().unwrap()
}

/// Whether a process exists, other than as a name that nobody has asked for yet.
fn runs(pid: u32) -> bool {
    let answer = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
    let state = String::from_utf8(answer.stdout).unwrap();
    !state.trim().is_empty() && !state.trim().starts_with('Z')
}

async fn pid_in(file: PathBuf) -> u32 {
    until_some(SOON, "a process id", || async { fs::read_to_string(&file).ok()?.trim().parse().ok() }).await.unwrap()
}

#[tokio::test]
async fn dropping_a_process_ends_its_children_too() {
    let folder = RunDir::temporary().unwrap();
    let note = folder.path().join("child");
    let process = shell(&folder, "parent", &format!("sleep 1000 & echo $! > {}; wait", note.display()));
    let (parent, child) = (process.id(), pid_in(note).await);
    assert!(runs(parent) && runs(child));
    drop(process);
    until(SOON, "both to be gone", || async { !runs(parent) && !runs(child) }).await.unwrap();
}

#[tokio::test]
async fn a_frozen_process_goes_on_when_told() {
    let folder = RunDir::temporary().unwrap();
    let process = shell(&folder, "sleeper", "sleep 1000");
    let state_of = |state: char| {
        let pid = process.id().to_string();
        move || {
            let answer = Command::new("ps").args(["-o", "stat=", "-p", &pid]).output().unwrap();
            let is = String::from_utf8_lossy(&answer.stdout).trim().starts_with(state);
            async move { is }
        }
    };
    until(SOON, "it to sleep", state_of('S')).await.unwrap();
    process.pause();
    until(SOON, "it to be frozen", state_of('T')).await.unwrap();
    process.resume();
    until(SOON, "it to go on", state_of('S')).await.unwrap();
}

#[tokio::test]
async fn an_end_says_how_and_whether_it_was_expected() {
    let folder = RunDir::temporary().unwrap();

    let process = shell(&folder, "failing", "echo the last words; exit 3");
    assert_eq!(process.wait(SOON).await.unwrap().code(), Some(3));
    let why = process.unexpected_end().unwrap().to_string();
    assert!(why.contains("failing ended unexpectedly") && why.contains("the last words"), "{why}");

    let process = shell(&folder, "obedient", "trap 'exit 0' TERM; while :; do sleep 0.05; done");
    let ready = folder.log("obedient");
    until(SOON, "its log", || async { ready.exists() }).await.unwrap();
    process.terminate(SOON).await.unwrap();
    assert!(process.unexpected_end().is_none());

    let process = shell(&folder, "victim", "sleep 1000");
    assert!(!process.kill9().await.unwrap().success());
    assert!(process.unexpected_end().is_none());
}

#[tokio::test]
async fn a_failed_start_shows_the_end_of_the_log() {
    let folder = RunDir::temporary().unwrap();
    let process = shell(&folder, "broken", "echo no such luck >&2; exit 1");
    let error = process.ready(SOON, || async { false }).await.unwrap_err().to_string();
    assert!(error.contains("broken ended while it started") && error.contains("no such luck"), "{error}");
}

#[tokio::test]
async fn a_program_that_is_run_returns_what_it_prints() {
    let folder = RunDir::temporary().unwrap();
    let program = |script: &str| Program::new("one-off", "/bin/sh", folder.log("one-off")).args(["-c", script]);
    assert_eq!(program("echo out; echo err >&2").run(SOON).await.unwrap(), "out\n");
    let error = program("echo why >&2; exit 1").run(SOON).await.unwrap_err().to_string();
    assert!(error.contains("why"), "{error}");
}

/// Not a test by itself: the next one runs this program again to get a parent that it can kill.
#[tokio::test]
async fn parent_that_is_killed() {
    let Some(report) = env::var_os(REPORT).map(PathBuf::from) else {
        return;
    };
    let folder = RunDir::at(report.parent().unwrap()).unwrap();
    let note = folder.path().join("child");
    let script = format!("trap '' TERM HUP INT; sleep 1000 & echo $! > {}; wait; sleep 1000", note.display());
    let stubborn = shell(&folder, "stubborn", &script);
    let (anvil, emulator) = (ports::free().unwrap(), ports::free().unwrap());
    let _anvil = Anvil::start(folder.log("anvil"), anvil, Duration::from_secs(1)).await.unwrap();
    let _emulator = Emulator::start_own(folder.log("emulator"), emulator, None).await.unwrap();
    let database = Postgres::shared().await.unwrap().create_database("left").await.unwrap();
    let postgres = database.rsplit(':').next().unwrap().split('/').next().unwrap();
    let told = format!("{} {} {anvil} {emulator} {postgres}", stubborn.id(), pid_in(note).await);
    let unfinished = report.with_extension("new");
    fs::write(&unfinished, told).unwrap();
    fs::rename(unfinished, report).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_parent_killed_by_kill_9_leaves_nothing_running() {
    let folder = RunDir::temporary().unwrap();
    let report = folder.path().join("report");
    let mut parent = Command::new(env::current_exe().unwrap())
        .args(["--exact", "parent_that_is_killed"])
        .env(REPORT, &report)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let told = until_some(Duration::from_mins(2), "the parent's report", || {
        let ended = parent.try_wait().unwrap();
        assert!(ended.is_none(), "the parent could not start everything: {ended:?}");
        let told = read_report(&report);
        async move { told }
    });
    let (pids, taken) = told.await.unwrap();
    assert!(pids.iter().all(|pid| runs(*pid)), "{pids:?}");
    assert!(!taken.iter().any(|port| ports::is_free(*port)), "{taken:?}");

    parent.kill().unwrap();
    parent.wait().unwrap();
    until(SOON, "all its processes to be gone", || async { !pids.iter().any(|pid| runs(*pid)) }).await.unwrap();
    until(SOON, "all its ports to be free", || async { taken.iter().all(|port| ports::is_free(*port)) }).await.unwrap();
}

fn read_report(file: &Path) -> Option<(Vec<u32>, Vec<u16>)> {
    let text = fs::read_to_string(file).ok()?;
    let numbers: Vec<u32> = text.split_whitespace().map(|number| number.parse().unwrap()).collect();
    let ports = numbers[2..].iter().map(|port| u16::try_from(*port).unwrap()).collect();
    Some((numbers[..2].to_vec(), ports))
}
