//! `framegate tune` as its users see it: what it writes is what `check` accepts and `simulate` plans with.

use std::path::Path;
use std::process::{Command, Output};

const PIPELINE: &str = r#"# The cameras in the yard.
[pipeline]
deadline = "33ms"

[source.cam]
uri = "${CAMERA:-test://pitch}"     # stays a variable

[stage.detect]
kind  = "detect"
model = "MODEL"
device = "cpu"

[stage.track]
kind = "track"

[sink.out]
kind = "jsonl"
path = "out.jsonl"
"#;

fn framegate(folder: &Path, arguments: &[&str]) -> Output {
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime/onnxruntime/libonnxruntime.so");
    let mut command = Command::new(env!("CARGO_BIN_EXE_framegate"));
    command.current_dir(folder).args(arguments);
    if std::env::var_os("ORT_DYLIB_PATH").is_none() {
        command.env("ORT_DYLIB_PATH", runtime);
    }
    command.output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_tuned_file_keeps_what_was_written_and_says_what_was_measured() {
    let folder = tempfile::tempdir().expect("folder");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/pitch.toml");
    let file = PIPELINE.replace("MODEL", model.to_str().expect("UTF-8"));
    std::fs::write(folder.path().join("yard.toml"), file).expect("written");
    let tune = framegate(folder.path(), &["tune", "yard.toml", "-o", "tuned.toml"]);
    assert!(tune.status.success(), "{}", text(&tune.stderr));
    let words = text(&tune.stdout);
    for expected in ["stage `detect`:", "chosen: cpu with", "streams of 30 frames per second", "written to tuned.toml"]
    {
        assert!(words.contains(expected), "{expected}\n{words}");
    }

    let tuned = std::fs::read_to_string(folder.path().join("tuned.toml")).expect("written");
    for kept in ["# The cameras in the yard.", "${CAMERA:-test://pitch}", "# stays a variable"] {
        assert!(tuned.contains(kept), "{kept}\n{tuned}");
    }
    let parsed: toml::Table = tuned.parse().expect("TOML");
    let detect = parsed["stage"]["detect"].as_table().expect("table");
    assert_eq!(detect["device"].as_str(), Some("cpu"));
    for key in ["threads", "slots", "batch"] {
        assert!(detect.contains_key(key), "{key}\n{tuned}");
    }
    assert_eq!(parsed["cost"][0]["stage"].as_str(), Some("detect"));

    let check = framegate(folder.path(), &["check", "tuned.toml"]);
    assert!(check.status.success(), "{}", text(&check.stderr));
    let simulate = framegate(folder.path(), &["simulate", "tuned.toml", "--for", "2s"]);
    assert!(simulate.status.success(), "{}", text(&simulate.stderr));
    assert!(!text(&simulate.stderr).contains("measuring"), "the costs are in the file: {}", text(&simulate.stderr));

    // Tuning again replaces what was measured; it does not pile up.
    let again = framegate(folder.path(), &["tune", "tuned.toml"]);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(text(&again.stdout).matches("[[cost]]").count(), 1);
}

#[test]
fn without_a_model_on_the_picture_there_is_nothing_to_tune() {
    let folder = tempfile::tempdir().expect("folder");
    let file = "[source.cam]\nuri = \"test://pitch\"\n[stage.track]\nkind = \"track\"\n[sink.out]\nkind = \"jsonl\"\n";
    std::fs::write(folder.path().join("yard.toml"), file).expect("written");
    let tune = framegate(folder.path(), &["tune", "yard.toml"]);
    assert_eq!(tune.status.code(), Some(2));
    assert!(text(&tune.stderr).contains("nothing to tune"), "{}", text(&tune.stderr));
}
