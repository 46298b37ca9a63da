//! The benchmark itself, on a real system, for a few seconds: its figures are there, and nothing failed.

use std::{fs, process::Command};

use serde_json::Value;

#[test]
fn a_short_run_has_figures_and_no_errors() {
    let folder = tempfile::tempdir().unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_bench")).arg("smoke").arg("--reports").arg(folder.path()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));

    let report = fs::read(folder.path().join("bench-other.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let smoke = &report["smoke"];
    assert_eq!(smoke["errors"], 0, "{told}");
    for figure in ["grants_per_second", "mean_seconds", "p50_seconds", "p99_seconds", "cpu_ms_per_grant"] {
        assert!(smoke[figure].as_f64().is_some_and(|value| value > 0.0), "{figure} in {smoke}");
    }
    for service in ["campaign", "blockchain"] {
        assert!(smoke["memory_mb"][service].as_f64().is_some_and(|value| value > 1.0), "{service} in {smoke}");
    }
    assert!(report["details"]["smoke"]["machine"]["cores"].is_number(), "{report}");
    // A short run on a busy machine, perhaps of a debug build, says nothing of the figures.
    assert!(!folder.path().join("bench.json").exists());
}
