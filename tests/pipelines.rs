//! Every example in `pipelines/` is right: what a user copies has to work.

use framegate::config::{self, Diagnostic};
use std::path::{Path, PathBuf};

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines");
    let entries = std::fs::read_dir(folder).expect("there are examples");
    let mut files: Vec<PathBuf> = entries.map(|e| e.expect("readable").path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    files.sort();
    files
}

fn check(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Vec<Diagnostic> {
    let bytes = std::fs::read(path).expect("readable");
    match config::read_bytes(path, &bytes, &[], env) {
        Ok((_, warnings)) => warnings.0,
        Err(findings) => findings.0,
    }
}

/// The one finding that is allowed: a model that is not shipped, with the address to get it from.
fn is_model_to_fetch(finding: &Diagnostic) -> bool {
    let all = format!("{} {}", finding.message, finding.help.as_deref().unwrap_or(""));
    finding.key.ends_with(".model") && all.contains("is not there") && all.contains("https://")
}

/// This machine need not have a camera.
fn is_absent_camera(finding: &Diagnostic) -> bool {
    !finding.is_error() && finding.message.contains("/dev/video0")
}

#[test]
fn every_example_is_right() {
    let folder = tempfile::tempdir().expect("folder");
    let input = folder.path().join("input.mp4");
    std::fs::write(&input, b"").expect("written");
    let env = |name: &str| (name == "INPUT").then(|| input.to_str().expect("UTF-8").to_owned());
    let files = examples();
    assert!(files.len() >= 12, "{files:?}");
    let mut left: Vec<Diagnostic> = files.iter().flat_map(|path| check(path, &env)).collect();
    left.retain(|f| !is_model_to_fetch(f) && !is_absent_camera(f));
    let left: Vec<String> = left.iter().map(|f| format!("{}:{}:{}: {f}", f.file, f.line, f.column)).collect();
    assert!(left.is_empty(), "{}", left.join("\n"));
}

#[test]
fn examples_with_our_own_model_need_nothing_else() {
    for name in ["demo", "record-video", "mqtt", "store"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("pipelines/{name}.toml"));
        let (pipeline, warnings) = config::load(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
        assert!(warnings.0.is_empty(), "{warnings}");
        assert!(!pipeline.sinks.is_empty());
    }
}

#[test]
fn every_example_says_what_it_is_for_and_how_to_start_it() {
    for path in examples() {
        let text = std::fs::read_to_string(&path).expect("readable");
        let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
        assert!(text.starts_with("# "), "{name} begins with what it is for");
        assert!(text.contains(&format!("framegate run pipelines/{name}")), "{name} says how to start it");
    }
}

#[test]
fn there_is_an_example_for_every_kind_of_source() {
    let all: String = examples().iter().map(|p| std::fs::read_to_string(p).expect("readable")).collect();
    for address in ["rtsp://", "v4l2://", "file://", "http://", ".m3u8", "test://", "rtl_tcp://", "launch ="] {
        assert!(all.contains(address), "{address}");
    }
}
