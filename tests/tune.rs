//! `framegate tune` as its users see it: what it writes is what `check` accepts and `simulate` plans with.

#[path = "common/bench.rs"]
mod bench;
mod common;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;
use std::sync::{Mutex, PoisonError};

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

/// Measurements of two tests at once would disturb each other.
static ALONE: Mutex<()> = Mutex::new(());

fn framegate(folder: &Path, arguments: &[&str]) -> Output {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    bench::program(folder, arguments).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The demonstration model's card.
fn pitch() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/pitch.toml").display().to_string()
}

/// A pipeline of so many slow cameras for two cores, so that its answer is the same on a large machine and on a busy one:
/// one camera fits, hundreds do not. Its `[pipeline]` and `[stage.detect]` with these keys more.
fn cameras(n: usize, pipeline: &str, detect: &str) -> String {
    let mut text = format!("[threads]\ncpus = [0, 1]\n[pipeline]\nfps = 10\ndeadline = \"200ms\"\n{pipeline}\n");
    for i in 0..n {
        let _ = writeln!(text, "[source.cam{i}]\nuri = \"test://pitch\"");
    }
    let _ = writeln!(text, "[stage.detect]\nkind = \"detect\"\n{detect}");
    text + "[sink.out]\nkind = \"jsonl\"\npath = \"out.jsonl\"\n"
}

/// Tunes a file; what was said, and what was written.
fn tuned(text: &str, arguments: &[&str]) -> (String, toml::Table) {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("yard.toml"), text).expect("written");
    let tune = framegate(folder.path(), &[&["tune", "yard.toml", "-o", "tuned.toml"], arguments].concat());
    assert!(tune.status.success(), "{}", self::text(&tune.stderr));
    let check = framegate(folder.path(), &["check", "tuned.toml"]);
    assert!(check.status.success(), "{}", self::text(&check.stderr));
    let tuned = std::fs::read_to_string(folder.path().join("tuned.toml")).expect("written");
    (self::text(&tune.stdout), tuned.parse().expect("TOML"))
}

/// The rungs of a tuned file, each with what it changes of the detector.
fn rungs(tuned: &toml::Table) -> Vec<(String, toml::Table)> {
    let rungs = tuned.get("rung").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let keys = |r: &toml::Value| r.get("detect").and_then(toml::Value::as_table).cloned().unwrap_or_default();
    rungs.iter().map(|r| (r["name"].as_str().expect("a name").to_owned(), keys(r))).collect()
}

/// How many streams fit at a rung, by what was said.
fn capacity(words: &str, rung: &str) -> usize {
    let line = words.lines().find_map(|l| l.trim().strip_prefix(rung).filter(|rest| rest.starts_with(' ')));
    line.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{rung}\n{words}"))
}

/// A ladder that was made is short, serves more streams from rung to rung, and has a cost for each of them.
fn is_sound(words: &str, tuned: &toml::Table) {
    let rungs = rungs(tuned);
    assert!((2..=4).contains(&rungs.len()), "{rungs:?}");
    let fit: Vec<usize> = rungs.iter().map(|(name, _)| capacity(words, name)).collect();
    assert!(fit[0] > 0 && fit.windows(2).all(|w| w[0] < w[1]), "{fit:?}");
    let streams = tuned["source"].as_table().expect("sources").len();
    let last = fit[fit.len() - 1];
    // Only the last rung may be enough: what comes after it would be of no use.
    assert!(fit[..fit.len() - 1].iter().all(|&n| n < streams), "{fit:?}");
    let said = if last >= streams { "fit at rung" } else { "cannot serve the file's" };
    assert!(words.contains(said), "{said}\n{words}");
}

#[test]
fn a_faster_precision_is_taken_only_with_a_figure_that_says_it_does_no_harm() {
    let device = "device = \"openvino\"\n";
    let file = |more: &str| {
        cameras(1, "", &format!("model = \"{}\"\n{device}{more}[stage.track]\nkind = \"track\"\n", pitch()))
    };
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("yard.toml"), file("")).expect("written");
    let there = framegate(folder.path(), &["tune", "yard.toml"]);
    if text(&there.stderr).contains("has no OpenVINO provider") {
        assert!(std::env::var("CI").as_deref() != Ok("true") || cfg!(not(target_arch = "x86_64")), "no OpenVINO");
        eprintln!("SKIPPED: the ONNX Runtime library has no OpenVINO provider");
        return;
    }
    let (words, kept) = tuned(&file(""), &[]);
    assert!(words.contains("openvino bf16"), "{words}");
    let precision = kept["stage"]["detect"].get("precision").and_then(toml::Value::as_str);
    if words.contains("compared on 24 drawn scenes") {
        // The model knows these scenes, so there is enough to judge by.
        let line = words.lines().find(|l| l.contains("compared on")).expect("a line");
        assert!(
            line.contains(" boxes are the same in bf16 as in fp32") && line.contains("98 % are asked for"),
            "{line}"
        );
        let share = line.split(": ").nth(1).and_then(|l| l.split(" %").next()).and_then(|n| n.parse::<f64>().ok());
        let taken = share.expect("a share") >= 98.0;
        assert_eq!(precision, taken.then_some("bf16"), "{words}");
        assert_eq!(words.contains("chosen: openvino in bf16"), taken, "{words}");
    } else {
        assert!(words.contains("bf16 is not faster"), "{words}");
        assert_eq!(precision, None, "{words}");
    }
    // Where nothing is found there is nothing to judge by, and what is not known to do no harm is not taken.
    let (words, kept) = tuned(&file("threshold = 0.999\n"), &[]);
    assert!(words.contains("0 boxes, too few to judge by") || words.contains("bf16 is not faster"), "{words}");
    assert!(!kept["stage"]["detect"].as_table().expect("table").contains_key("precision"), "{words}");
    // A precision that the file sets is the user's own choice.
    let (words, kept) = tuned(&file("precision = \"fp32\"\n"), &[]);
    assert!(!words.contains("bf16"), "{words}");
    assert_eq!(kept["stage"]["detect"]["precision"].as_str(), Some("fp32"));
}

#[test]
fn smaller_inputs_make_a_ladder_before_sparser_inference_does() {
    let Some(model) = common::shared_data("models/yunet/face_detection_yunet_2026may.onnx") else { return };
    let Some(faces) = common::shared_data("images/faces") else { return };
    let model = std::path::absolute(model).expect("a path");
    let detect = format!("model = \"{}\"\ndevice = \"cpu\"\n", model.display());
    let file = cameras(300, "", &format!("{detect}[stage.track]\nkind = \"track\"\n"));
    let faces = std::path::absolute(faces).expect("a path");
    let (words, kept) = tuned(&file, &["--pictures", faces.to_str().expect("UTF-8")]);
    is_sound(&words, &kept);
    assert_eq!(kept["pipeline"]["admission"].as_str(), Some("degrade"), "{words}");
    let rungs = rungs(&kept);
    assert_eq!(rungs[0], ("full".to_owned(), toml::Table::new()));
    // Inputs first, each smaller than the one above, then sparser inference and nothing else.
    let area = |keys: &toml::Table| {
        let sides = keys.get("input")?.as_array()?.iter().map(|v| v.as_integer().expect("a side"));
        Some(sides.inspect(|side| assert_eq!(side % 32, 0, "{words}")).product::<i64>())
    };
    let areas: Vec<i64> = rungs[1..].iter().map_while(|(_, keys)| area(keys)).collect();
    assert!(!areas.is_empty() && areas.windows(2).all(|w| w[0] > w[1]), "{rungs:?}");
    for (_, keys) in &rungs[1 + areas.len()..] {
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["every"], "{rungs:?}");
    }
    // The figures of what smaller inputs still find, and a cost for each rung, since each runs the model otherwise.
    assert!(words.contains(" % of what 640x384 finds on 6 pictures of "), "{words}");
    let costs = kept["cost"].as_array().expect("costs");
    assert_eq!(costs.iter().map(|c| c["rung"].as_str()).collect::<Vec<_>>(), {
        rungs.iter().map(|(name, _)| Some(&**name)).collect::<Vec<_>>()
    });
}

#[test]
fn a_model_of_one_size_gets_a_ladder_of_sparser_inference_where_there_is_a_tracker() {
    let detect = format!("model = \"{}\"\ndevice = \"cpu\"\n", pitch());
    let tracked = format!("{detect}[stage.track]\nkind = \"track\"\n");
    let (words, kept) = tuned(&cameras(300, "admission = \"refuse\"", &tracked), &[]);
    is_sound(&words, &kept);
    for (_, keys) in &rungs(&kept)[1..] {
        assert_eq!(keys.keys().collect::<Vec<_>>(), ["every"], "{kept}");
    }
    assert!(words.contains("takes pictures of 640x384 only"), "{words}");
    // What the file says stays; what comes of it is said.
    assert_eq!(kept["pipeline"]["admission"].as_str(), Some("refuse"));
    assert!(words.contains("with `admission = \"refuse\"` only"), "{words}");

    let (words, kept) = tuned(&cameras(300, "", &detect), &[]);
    assert!(rungs(&kept).is_empty(), "{kept}");
    assert!(words.contains("cannot serve the file's 300 streams") && words.contains("add a `track` stage"), "{words}");
}

#[test]
fn pictures_that_are_not_there_are_a_mistake() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("yard.toml"), PIPELINE.replace("MODEL", &pitch())).expect("written");
    std::fs::create_dir(folder.path().join("empty")).expect("made");
    for (name, why) in [("nowhere", "cannot read nowhere"), ("empty", "there are no pictures in empty")] {
        let tune = framegate(folder.path(), &["tune", "yard.toml", "--pictures", name]);
        assert_eq!(tune.status.code(), Some(2));
        assert!(text(&tune.stderr).contains(why), "{}", text(&tune.stderr));
    }
}

#[test]
fn a_tuned_file_keeps_what_was_written_and_says_what_was_measured() {
    let folder = tempfile::tempdir().expect("folder");
    let file = PIPELINE.replace("MODEL", &pitch());
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
