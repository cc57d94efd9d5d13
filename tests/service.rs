//! The files around the program: the systemd unit, Prometheus's files, the installation.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_framegate");

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a tool that `scripts/setup test` installs; `None` where it is missing, which is an error in CI.
fn run(tool: &str, args: &[&str], folder: &Path) -> Option<Output> {
    match Command::new(tool).args(args).current_dir(folder).env("SYSTEMD_COLORS", "0").output() {
        Ok(output) => Some(output),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "{tool} is missing: scripts/setup test installs it");
            eprintln!("SKIPPED: no {tool}");
            None
        }
        Err(e) => panic!("{tool}: {e}"),
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The unit as an instance, with a program that exists here.
fn instance(folder: &Path) -> PathBuf {
    let unit = fs::read_to_string(checkout().join("config/framegate@.service")).unwrap();
    let path = folder.join("framegate@entrance.service");
    fs::write(&path, unit.replace("/usr/bin/framegate", PROGRAM)).unwrap();
    path
}

#[test]
fn the_unit_passes_verification() {
    let folder = tempfile::tempdir().unwrap();
    let unit = instance(folder.path());
    let args = ["verify", "--man=no", "--recursive-errors=no", unit.to_str().unwrap()];
    let Some(output) = run("systemd-analyze", &args, folder.path()) else { return };
    assert!(output.status.success() && text(&output).trim().is_empty(), "{}", text(&output));
}

#[test]
fn the_unit_is_exposed_less_than_two() {
    let folder = tempfile::tempdir().unwrap();
    let unit = instance(folder.path());
    let args = ["security", "--offline=true", "--no-pager", unit.to_str().unwrap()];
    let Some(output) = run("systemd-analyze", &args, folder.path()) else { return };
    let said = text(&output);
    let exposure: f64 = said
        .lines()
        .find_map(|l| l.split_once("Overall exposure level for framegate@entrance.service: "))
        .and_then(|(_, figure)| figure.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{said}"));
    assert!(exposure < 2.0, "{said}");
}

#[test]
fn the_unit_says_how_the_program_is_run() {
    let unit = fs::read_to_string(checkout().join("config/framegate@.service")).unwrap();
    let lines: Vec<&str> = unit.lines().collect();
    for wanted in [
        "Type=notify",
        "WatchdogSec=20",
        "ExecStartPre=/usr/bin/framegate check /etc/framegate/%i.toml",
        "ExecStart=/usr/bin/framegate run /etc/framegate/%i.toml",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "DeviceAllow=char-video4linux rw",
        "CapabilityBoundingSet=",
    ] {
        assert!(lines.contains(&wanted), "{wanted}");
    }
    // Inference runtimes generate machine code while running.
    assert!(!lines.iter().any(|l| l.starts_with("MemoryDenyWriteExecute")));
}

#[test]
fn prometheus_takes_the_example_and_its_alerts_use_metrics_that_exist() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["prometheus.yml", "framegate-alerts.yml"] {
        fs::copy(checkout().join("config").join(name), folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("framegate.token"), "secret").unwrap();
    let alerts = fs::read_to_string(folder.path().join("framegate-alerts.yml")).unwrap();
    let used: Vec<&str> = alerts
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("framegate_"))
        .collect();
    assert!(used.len() >= 5, "{used:?}");
    for name in used {
        // A histogram is asked for by its parts.
        let whole = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        assert!(framegate::telemetry::metrics::ALL.iter().any(|m| m.name == name || m.name == whole), "{name}");
    }
    let Some(output) = run("promtool", &["check", "config", "prometheus.yml"], folder.path()) else { return };
    assert!(output.status.success(), "{}", text(&output));
    let Some(output) = run("promtool", &["check", "rules", "framegate-alerts.yml"], folder.path()) else { return };
    assert!(output.status.success(), "{}", text(&output));
}

/// A checkout with the files that an installation takes, and a small stand-in for ONNX Runtime.
fn small_checkout(folder: &Path) {
    for name in ["scripts/install", "config/framegate@.service", "config/framegate.env"] {
        let to = folder.join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(checkout().join(name), to).unwrap();
    }
    fs::create_dir_all(folder.join("models")).unwrap();
    fs::write(folder.join("models/demo.toml"), "").unwrap();
    fs::create_dir_all(folder.join("pipelines")).unwrap();
    fs::write(folder.join("pipelines/demo.toml"), "# first\n").unwrap();
    fs::create_dir_all(folder.join(".runtime/onnxruntime")).unwrap();
    fs::write(folder.join(".runtime/onnxruntime/libonnxruntime.so.1"), "").unwrap();
    std::os::unix::fs::symlink("libonnxruntime.so.1", folder.join(".runtime/onnxruntime/libonnxruntime.so")).unwrap();
}

fn install(folder: &Path, root: &Path, args: &[&str]) -> Output {
    Command::new(folder.join("scripts/install"))
        .args(["--binary", PROGRAM])
        .args(args)
        .env("DESTDIR", root)
        .output()
        .unwrap()
}

#[test]
fn installing_twice_replaces_the_program_and_keeps_the_operators_files() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small_checkout(folder.path());
    let first = install(folder.path(), root.path(), &[]);
    assert!(first.status.success(), "{}", text(&first));
    let at = |path: &str| root.path().join(path);
    for path in [
        "opt/framegate/bin/framegate",
        "opt/framegate/lib/libonnxruntime.so",
        "opt/framegate/share/models/demo.toml",
        "etc/framegate/framegate.env",
        "etc/framegate/demo.toml",
    ] {
        assert!(at(path).is_file(), "{path}\n{}", text(&first));
    }
    let unit = fs::read_to_string(at("etc/systemd/system/framegate@.service")).unwrap();
    assert!(unit.contains("\nExecStart=/opt/framegate/bin/framegate run /etc/framegate/%i.toml\n"), "{unit}");
    assert!(!unit.contains("/usr/bin/framegate"), "{unit}");
    assert!(unit.contains("ORT_DYLIB_PATH=/opt/framegate/lib/libonnxruntime.so "), "{unit}");
    assert_eq!(fs::read_link(at("usr/local/bin/framegate")).unwrap(), Path::new("/opt/framegate/bin/framegate"));
    assert_eq!(fs::read_link(at("etc/framegate/models")).unwrap(), Path::new("/opt/framegate/share/models"));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(at("etc/framegate/framegate.env")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);

    fs::write(at("etc/framegate/framegate.env"), "RUST_LOG=debug\n").unwrap();
    fs::write(folder.path().join("pipelines/demo.toml"), "# second\n").unwrap();
    fs::rename(folder.path().join("models/demo.toml"), folder.path().join("models/other.toml")).unwrap();
    let second = install(folder.path(), root.path(), &[]);
    assert!(second.status.success(), "{}", text(&second));
    assert_eq!(fs::read_to_string(at("etc/framegate/framegate.env")).unwrap(), "RUST_LOG=debug\n");
    assert_eq!(fs::read_to_string(at("etc/framegate/demo.toml")).unwrap(), "# first\n");
    assert_eq!(fs::read_to_string(at("opt/framegate/share/pipelines/demo.toml")).unwrap(), "# second\n");
    let models: Vec<_> =
        fs::read_dir(at("opt/framegate/share/models")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(models, ["other.toml"]);
}

#[test]
fn a_package_is_built_below_its_folder() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small_checkout(folder.path());
    let output = install(folder.path(), root.path(), &["--prefix", "/usr"]);
    assert!(output.status.success(), "{}", text(&output));
    for path in [
        "usr/bin/framegate",
        "usr/lib/framegate/libonnxruntime.so",
        "usr/share/framegate/models/demo.toml",
        "usr/lib/systemd/system/framegate@.service",
    ] {
        assert!(root.path().join(path).is_file(), "{path}\n{}", text(&output));
    }
    assert!(!root.path().join("usr/local").exists());
}

#[test]
fn an_installation_that_cannot_be_says_why() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small_checkout(folder.path());
    for (args, why) in [
        (["--prefix", "opt"], "has to be an absolute path"),
        (["--binary", "/nowhere/framegate"], "there is no program /nowhere/framegate"),
        (["--frobnicate", "x"], "unknown argument --frobnicate"),
    ] {
        let output = install(folder.path(), root.path(), &args);
        assert!(!output.status.success() && text(&output).contains(why), "{}", text(&output));
    }
    fs::remove_dir_all(folder.path().join(".runtime")).unwrap();
    let output = install(folder.path(), root.path(), &[]);
    assert!(!output.status.success() && text(&output).contains("run scripts/setup first"), "{}", text(&output));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn the_scripts_are_well_formed() {
    for name in ["scripts/setup", "scripts/run", "scripts/test", "scripts/install", "scripts/bench-radio", ".ci/run"] {
        let path = checkout().join(name);
        let script = fs::read_to_string(&path).unwrap();
        assert!(script.starts_with("#!/usr/bin/env bash\n") && script.contains("\nset -euo pipefail\n"), "{name}");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_ne!(mode & 0o111, 0, "{name} is not executable");
        let output = Command::new("bash").arg("-n").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
    }
}
