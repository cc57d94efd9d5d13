//! What `check` says about broken pipeline files: every error at once, at its place, with what was probably meant.

use framegate::config::{self, Diagnostic, Diagnostics, Pipeline, Style};
use proptest::prelude::*;
use std::path::Path;
use std::process::Command;

/// Reads a file's text as `check` does.
fn read(text: &str, set: &[(&str, &str)]) -> Result<(Pipeline, Diagnostics), Diagnostics> {
    let set: Vec<_> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    config::read_bytes(Path::new("test.toml"), text.as_bytes(), &set, &environment)
}

fn environment(name: &str) -> Option<String> {
    Some(match name {
        "SCENE" => "pitch".into(),
        "EMPTY" => String::new(),
        "CAM_PASSWORD" => "hunter2".into(),
        "TRACK_SECRET" => "opensesame".into(),
        _ => return None,
    })
}

fn findings(text: &str, set: &[(&str, &str)]) -> Vec<Diagnostic> {
    match read(text, set) {
        Ok((_, warnings)) => warnings.0,
        Err(all) => all.0,
    }
}

const VALID: &str = r#"
[pipeline]
name = "p"
deadline = "33ms"

[source.cam0]
uri = "test://pitch"

[stage.track]
kind = "track"
high = 0.5

[sink.out]
kind = "jsonl"
path = "-"
"#;

/// A finding to expect: line, column, part of the message, part of the help.
type Expected = (usize, usize, &'static str, &'static str);

/// Each text is [`VALID`]'s shape with something wrong, and exactly these findings.
const BROKEN: &[(&str, &[Expected])] = &[
    // Syntax.
    ("[source.a]\nuri = \n", &[(2, 7, "a value is missing", "")]),
    ("[source.a]\nuri = pitch\n", &[(2, 7, "must be quoted", "double quotes")]),
    (
        "[source.a]\nuri = \"test://pitch\"\nuri = \"x\"\n[source.a]\n",
        &[(3, 1, "a second time", "once"), (4, 9, "a second time", "once")],
    ),
    (
        "[source.a\nuri = \"test://pitch\"\n[pipeline]\nfps = \n",
        &[(1, 10, "unclosed table", ""), (4, 7, "missing", "")],
    ),
    // Tables and keys that nobody knows.
    (
        "[sorce.a]\n[source.a]\nuri = \"test://pitch\"\n[sink.o]\nkind = \"jsonl\"\n",
        &[(1, 2, "unknown table `sorce`", "`source`")],
    ),
    (
        "fps = 3\n[source.a]\nuri = \"test://pitch\"\n[sink.o]\nkind = \"jsonl\"\n",
        &[(1, 1, "unknown key `fps`", "[pipeline]")],
    ),
    (
        "[pipeline]\ndeadlin = 1\nadmission = \"refuze\"\n[source.a]\nurl = \"test://pitch\"\nuri = \"test://pitch\"\n[sink.o]\nkind = \"jsonl\"\n",
        &[
            (2, 1, "unknown key `deadlin`", "`deadline`"),
            (3, 13, "`refuze`", "`refuse`"),
            (5, 1, "unknown key `url`", "`uri`"),
        ],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"trak\"\n[sink.o]\nkind = \"json\"\n",
        &[(4, 8, "no stage of kind `trak`", "`track`"), (6, 8, "no sink of kind `json`", "`jsonl`")],
    ),
    // Types, and several of them in one table.
    (
        "[source.a]\nuri = 5\nrequired = \"yes\"\npriority = \"2\"\n[stage.t]\nkind = \"track\"\nhigh = \"0.5\"\nlost = 3\nconfirm = -1\n[sink.o]\nkind = \"jsonl\"\n",
        &[
            (2, 7, "expected a text in quotes, found the number `5`", ""),
            (3, 12, "expected true or false, found the text \"yes\"", ""),
            (4, 12, "expected a whole number", "priority = 2"),
            (7, 8, "expected a number, found the text \"0.5\"", "high = 0.5"),
            (8, 8, "expected a text in quotes", ""),
            (9, 11, "found the number `-1`", ""),
        ],
    ),
    (
        "source = 3\n[sink.o]\nkind = \"jsonl\"\n",
        &[(1, 1, "no source", ""), (1, 10, "`source` must be a table", "[source]")],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"track\"\nfrom = \"a\"\n[sink.o]\nkind = \"jsonl\"\n",
        &[(5, 8, "expected a list", "from = [\"a\"]")],
    ),
    // Missing keys.
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nhigh = 1\n[sink.o]\nqueue = 3\n",
        &[(3, 8, "[stage.t] lacks the key `kind`", "kind = …"), (5, 7, "[sink.o] lacks the key `kind`", "")],
    ),
    // Values out of range.
    (
        "[pipeline]\nfps = 0\ndeadline = \"0s\"\nname = \"\"\n[http]\nlisten = \"nowhere\"\n[threads]\nrealtime = 100\n[source.a]\nuri = \"test://pitch\"\ndeadline = \"fast\"\n[stage.t]\nkind = \"track\"\nworkers = 0\n[sink.o]\nkind = \"jsonl\"\nqueue = 0\n",
        &[
            (3, 12, "a deadline of nothing", ""),
            (6, 10, "no address to listen on", ""),
            (8, 12, "1 to 99", ""),
            (11, 12, "is no duration", ""),
            (14, 11, "0 workers", ""),
            (17, 9, "a queue of 0", ""),
        ],
    ),
    (
        "[pipeline]\nfps = 0\nname = \"\"\n[source.a]\nuri = \"test://pitch\"\n[sink.o]\nkind = \"jsonl\"\n",
        &[(2, 7, "0 frames per second", ""), (3, 8, "name is empty", "")],
    ),
    // The graph.
    (
        "[source.cam0]\nuri = \"test://pitch\"\n[source.cam1]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"track\"\nfrom = [\"cam0\", \"camo\", \"cam0\", \"o\"]\n[sink.o]\nkind = \"jsonl\"\n",
        &[
            (3, 9, "no stage and no sink takes frames from source `cam1`", "`cam1` in a `from`"),
            (7, 17, "called `camo`", "`cam0`"),
            (7, 25, "`cam0` stands in `from` twice", ""),
            (7, 33, "`o` is a sink", ""),
        ],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.x]\nkind = \"track\"\nfrom = [\"a\", \"z\"]\n[stage.y]\nkind = \"track\"\n[stage.z]\nkind = \"track\"\n[sink.o]\nkind = \"jsonl\"\n",
        &[(5, 1, "circle: x → y → z → x", "")],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.x]\nkind = \"track\"\nfrom = []\n[sink.o]\nkind = \"jsonl\"\nfrom = [\"x\", \"a\"]\n",
        &[(5, 1, "`from` is empty", "")],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"track\"\n[sink.a]\nkind = \"jsonl\"\n[sink.p]\nkind = \"jsonl\"\npath = \"-\"\n",
        &[(5, 7, "`a` is the id of [source.a] already", ""), (9, 8, "[sink.a] writes to standard output already", "")],
    ),
    ("[sink.o]\nkind = \"jsonl\"\n", &[(1, 1, "there is no source", "[source.cam0]")]),
    ("\n", &[(1, 1, "there is no source", ""), (1, 1, "there is no sink", "")]),
    (
        "[source.\"a b\"]\nuri = \"test://pitch\"\n[stage.name]\nkind = \"track\"\n[sink.o]\nkind = \"jsonl\"\n",
        &[(1, 9, "`a b` cannot be the id", "letters"), (3, 8, "cannot be called `name`", "")],
    ),
    // Rungs.
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"filter\"\nexclude = [\"x\"]\n[sink.o]\nkind = \"jsonl\"\n[[rung]]\nname = \"full\"\n[[rung]]\nname = \"full\"\nt.min_scoer = 0.4\nt.max_score = 7\ntt.low = 1\nt.kind = \"x\"\nt.every = 0\nt.enabled = 1\nt.device = \"cpu\"\n[[rung]]\nt.min_score = \"x\"\n",
        &[
            (11, 8, "two rungs are called `full`", ""),
            (12, 3, "unknown key `min_scoer`", "`min_score`"),
            (14, 1, "no stage is called `tt`", "`t`"),
            (15, 3, "cannot change `kind`", ""),
            (16, 3, "`every` is a whole number", ""),
            (17, 3, "`enabled` is true or false", ""),
            (18, 3, "cannot change `device`", ""),
            (19, 1, "[[rung]] lacks the key `name`", ""),
            (20, 15, "expected a number", ""),
        ],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"track\"\n[sink.o]\nkind = \"jsonl\"\n[[rung]]\nname = \"full\"\n[[rung]]\nname = \"lean\"\nt.high = 0.5\nt.every = 2\nt.enabled = false\n",
        &[
            (11, 3, "a rung cannot change a stage of kind `track`", "switch it off"),
            (12, 3, "a rung cannot change a stage of kind `track`", "switch it off"),
        ],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"filter\"\nexclude = [\"x\"]\n[sink.o]\nkind = \"jsonl\"\n[[rung]]\nname = \"full\"\n[[rung]]\nname = \"lean\"\nt.min_score = 7\n",
        &[(12, 3, "7 is not between 0 and 1", "")],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[sink.o]\nkind = \"jsonl\"\n[[rung]]\nname = \"full\"\nlazy = true\n[[rung]]\nname = \"b\"\nlazy = 1\n",
        &[(7, 8, "the best rung cannot be lazy", ""), (10, 8, "expected true or false", "")],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[sink.o]\nkind = \"jsonl\"\n[rung]\nname = \"x\"\n",
        &[(5, 1, "list of tables", "[[rung]]")],
    ),
    // Costs, and the load of simulations.
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"filter\"\nexclude = [\"x\"]\n[sink.o]\nkind = \"jsonl\"\n[[cost]]\nstage = \"tt\"\nrung = \"lean\"\nbeta = \"1ms\"\n[[cost]]\nstage = \"t\"\n[[cost]]\nstage = \"t\"\nalpha = \"-1ms\"\nbeta = \"x\"\nspraed = 1\n[[cost]]\nbeta = \"1ms\"\n[[cost]]\nstage = \"t\"\nsource = \"a\"\n[[cost]]\nstage = \"t\"\nbatches = [[2, \"1ms\"]]\n",
        &[
            (9, 9, "no stage is called `tt`", "`t`"),
            (10, 8, "no rung is called `lean`", "`full`"),
            (12, 1, "does not say how long a batch of stage `t` takes", "batches"),
            (16, 9, "a time cannot be negative", ""),
            (17, 8, "is no time", ""),
            (18, 1, "unknown key `spraed`", "`spread`"),
            (19, 1, "names neither a stage nor a source", "stage"),
            (23, 1, "about a stage or about a source, not both", "two entries"),
            (26, 11, "begins with a batch of 1", "[[1,"),
        ],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"filter\"\nexclude = [\"x\"]\n[sink.o]\nkind = \"jsonl\"\n[[cost]]\nstage = \"t\"\nbeta = \"1ms\"\nbatches = [[1, \"1ms\"]]\nspread = -1\n[[cost]]\nsource = \"a\"\ndecode = \"1ms\"\nprepare = \"1ms\"\n[[cost]]\nstage = \"t\"\nbeta = \"1ms\"\n[[cost]]\nstage = \"t\"\nbeta = \"2ms\"\n[simulate]\njitter = \"1h\"\nburst = 0\npause = { every = \"1ms\", lasts = [\"2ms\", \"1ms\"] }\nslowdown = { factor = 0 }\noutlier = { share = 2, by = \"1ms\" }\n",
        &[
            (10, 1, "given by `batches`, or by `alpha` and `beta`", ""),
            (12, 10, "a share of the span", ""),
            (16, 1, "`prepare` is no cost of a source", ""),
            (21, 1, "of stage `t` at all rungs is given twice", ""),
            (24, 10, "stands still", ""),
            (25, 9, "from 1 to 1000", ""),
            (26, 9, "at least 10 ms", ""),
            (26, 9, "the shortest time, then the longest", ""),
            (27, 12, "`factor` lies between", ""),
            (28, 11, "between 0 and 1", ""),
        ],
    ),
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"filter\"\nexclude = [\"x\"]\n[sink.o]\nkind = \"jsonl\"\n[cost]\nstage = \"t\"\n",
        &[(8, 1, "list of tables", "[[cost]]")],
    ),
    // Environment variables.
    (
        "[pipeline]\nname = \"p${SCENE\"\n[source.a]\nuri = \"test://pitch${SCENES}\"\n[source.b]\nuri = \"test://pitch${1}\"\n[sink.o]\nkind = \"jsonl\"\n",
        &[
            (2, 8, "without its `}`", "$${"),
            (4, 7, "`SCENES` is not set", "${SCENES:-…}"),
            (6, 7, "`1` is no name", ""),
        ],
    ),
    // Numbers that no type holds.
    (
        "[source.a]\nuri = \"test://pitch\"\n[stage.t]\nkind = \"track\"\nhigh = 99999999999999999999999999999999999999999\n[sink.o]\nkind = \"jsonl\"\n",
        &[(5, 8, "overflow", "")],
    ),
];

#[test]
fn every_error_is_reported_at_its_place_with_what_was_meant() {
    let mut wrong = Vec::new();
    for (text, expected) in BROKEN {
        let found = match read(text, &[]) {
            Err(found) => found,
            Ok(_) => panic!("accepted:\n{text}"),
        };
        let shown = found.render(Style::Plain);
        let fits = |(finding, (line, column, message, help)): (&Diagnostic, &Expected)| {
            (finding.line, finding.column) == (*line, *column)
                && finding.message.contains(message)
                && finding.help.as_deref().unwrap_or("").contains(help)
                && shown.contains(&format!("test.toml:{line}:{column}"))
        };
        if found.0.len() != expected.len() || !found.0.iter().zip(*expected).all(fits) {
            wrong.push(format!("{text}\nexpected {expected:#?}\nfound\n{found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_file_that_is_right_gives_its_pipeline_with_defaults() {
    let (pipeline, warnings) = read(VALID, &[]).expect("valid");
    assert!(warnings.0.is_empty(), "{warnings}");
    assert_eq!((&*pipeline.name, pipeline.fps), ("p", 30.0));
    assert_eq!(pipeline.deadline, Some(std::time::Duration::from_millis(33)));
    assert_eq!(pipeline.http.expect("default").to_string(), "127.0.0.1:9633");
    assert_eq!(pipeline.rungs.len(), 1);
    assert_eq!(&*pipeline.rungs[0].name, "full");
    assert_eq!(&*pipeline.stages[0].from[0], "cam0");
    assert_eq!(&*pipeline.sinks[0].from[0], "track");
    assert_eq!((pipeline.sinks[0].queue, pipeline.stages[0].workers), (256, 1));
}

#[test]
fn left_out_from_follows_the_order_of_the_file_not_of_the_alphabet() {
    let text = "[source.z]\nuri=\"test://pitch\"\n[source.a]\nuri=\"test://pitch\"\n[stage.z2]\nkind=\"track\"\n\
                [stage.b]\nkind=\"track\"\n[stage.a2]\nkind=\"track\"\n[stage.early]\nkind=\"track\"\nfrom=[\"z\"]\n\
                [sink.o]\nkind=\"jsonl\"\n";
    let (pipeline, _) = read(text, &[]).expect("valid");
    let ids: Vec<&str> = pipeline.sources.iter().map(|s| &*s.id).collect();
    assert_eq!(ids, ["z", "a"]);
    let from: Vec<(&str, Vec<&str>)> =
        pipeline.stages.iter().map(|s| (&*s.id, s.from.iter().map(|f| &**f).collect())).collect();
    assert_eq!(from, [("z2", vec!["z", "a"]), ("b", vec!["z2"]), ("a2", vec!["b"]), ("early", vec!["z"])]);
    let sink: Vec<&str> = pipeline.sinks[0].from.iter().map(|f| &**f).collect();
    assert_eq!(sink, ["a2", "early"]);
}

#[test]
fn stages_come_after_those_they_take_frames_from() {
    let text = "[source.s]\nuri=\"test://pitch\"\n[stage.late]\nkind=\"track\"\nfrom=[\"first\"]\n[stage.first]\n\
                kind=\"track\"\nfrom=[\"s\"]\n[sink.o]\nkind=\"jsonl\"\n";
    let (pipeline, _) = read(text, &[]).expect("valid");
    let ids: Vec<&str> = pipeline.stages.iter().map(|s| &*s.id).collect();
    assert_eq!(ids, ["first", "late"]);
}

#[test]
fn rungs_inherit_from_the_one_above() {
    let text = format!(
        "{VALID}[stage.keep]\nkind=\"filter\"\n[[rung]]\nname=\"full\"\n[[rung]]\nname=\"lean\"\nkeep.min_score = 0.4\n\
         [[rung]]\nname=\"sparse\"\nkeep.every = 3\n[[rung]]\nname=\"none\"\nkeep.enabled = false\ntrack.enabled = false\n"
    );
    let (pipeline, _) = read(&text, &[]).expect("valid");
    let overrides: Vec<String> =
        pipeline.rungs.iter().map(|r| r.overrides.iter().map(|(id, t)| format!("{id}: {t}")).collect()).collect();
    assert_eq!(
        overrides,
        [
            "",
            "keep: min_score = 0.4\n",
            "keep: every = 3\nmin_score = 0.4\n",
            "track: enabled = false\nkeep: enabled = false\nevery = 3\nmin_score = 0.4\n"
        ]
    );
    let keep = pipeline.stages.iter().find(|s| &*s.id == "keep").expect("stage");
    let at: Vec<_> = (0..4).map(|rung| (keep.at(rung).variant, keep.at(rung).every)).collect();
    assert_eq!(at, [(Some(0), 1), (Some(1), 1), (Some(1), 3), (None, 3)]);
    assert_eq!(keep.variants.len(), 1, "the same keys are the same way of running it");
}

#[test]
fn warnings_do_not_refuse_the_file() {
    for (text, key, message) in [
        ("[http]\nlisten = \"0.0.0.0:9633\"\n", "http.listen", "other machines"),
        ("[pipeline]\ndeadline = \"none\"\n", "source.a.deadline", "falls behind"),
        ("[pipeline]\ndeadline = \"33us\"\n", "pipeline.deadline", "less than decoding"),
        ("[pipeline]\ndeadline = \"5s\"\n", "pipeline.deadline", "150 frames"),
        ("[threads]\ncpus = [4095]\n", "threads.cpus", "no core 4095"),
    ] {
        let text = format!("{text}[source.a]\nuri=\"test://pitch\"\n[sink.o]\nkind=\"jsonl\"\n");
        let (_, warnings) = read(&text, &[]).unwrap_or_else(|e| panic!("{text}\n{e}"));
        assert_eq!(warnings.0.len(), 1, "{text}\n{warnings}");
        assert_eq!(warnings.0[0].key, key);
        assert!(!warnings.0[0].is_error() && warnings.0[0].message.contains(message), "{warnings}");
    }
    let (_, warnings) = read("[source.a]\nuri=\"test://pitch\"\n[stage.t]\nkind=\"track\"\n", &[]).expect("valid");
    assert!(warnings.0[0].message.contains("no sink"), "{warnings}");
}

#[test]
fn flags_change_the_document_before_it_is_typed() {
    let set = [
        ("pipeline.fps", "25"),
        ("pipeline.name", "yard 2"),
        ("http.listen", "off"),
        ("stage.track.high", "0.7"),
        ("source.cam0.uri", "test://pitch"),
        ("threads.cpus", "[0]"),
    ];
    let (pipeline, _) = read(VALID, &set).expect("valid");
    assert_eq!((&*pipeline.name, pipeline.fps, pipeline.http), ("yard 2", 25.0, None));
    assert_eq!(pipeline.stages[0].settings["high"].as_float(), Some(0.7));
    assert_eq!(pipeline.cpus, [0]);
    let rungs = format!("{VALID}[stage.keep]\nkind=\"filter\"\n[[rung]]\nname=\"full\"\n[[rung]]\nname=\"lean\"\n");
    let (pipeline, _) = read(&rungs, &[("rung.lean.keep.min_score", "0.2")]).expect("valid");
    assert_eq!(pipeline.rungs[1].overrides[0].1["min_score"].as_float(), Some(0.2));
}

#[test]
fn wrong_flags_are_shown_as_flags() {
    for (key, value, column, message, help) in [
        ("pipline.fps", "25", 1, "--set pipline.fps: no `pipline`", "`pipeline`"),
        ("stage.trak.high", "1", 7, "no `trak` in `stage`", "`track`"),
        ("stage.track.hihg", "1", 13, "unknown key `hihg`", "`high`"),
        ("stage.track.high", "\"x\"", 18, "expected a number", ""),
        ("pipeline", "1", 1, "names no key", "`pipeline.…`"),
        ("stage.track", "{}", 7, "whole table", "KEY=VALUE"),
        ("source.cam9.uri", "test://pitch", 8, "no `cam9` in `source`", "`cam0`"),
        ("pipeline..fps", "1", 10, "empty name", ""),
        ("pipeline.name.x", "1", 10, "`pipeline.name` is no table", ""),
        ("rung.lean.track.high", "1", 1, "no `rung`", ""),
        ("pipeline.name", "p${NOPE}", 15, "`NOPE` is not set", ""),
    ] {
        let found = findings(VALID, &[(key, value)]);
        let flag: Vec<_> = found.iter().filter(|d| d.file == "--set").collect();
        assert_eq!(flag.len(), 1, "{key}: {found:#?}");
        assert!(flag[0].is_error() && flag[0].message.contains(message), "{}", flag[0].message);
        assert!(flag[0].help.as_deref().unwrap_or("").contains(help), "{:?}", flag[0].help);
        assert_eq!((flag[0].line, flag[0].column), (1, column), "{key}: {}", flag[0].message);
    }
}

#[test]
fn environment_variables_stand_in_strings() {
    let text = |uri: &str| format!("[source.a]\nuri=\"{uri}\"\n[sink.o]\nkind=\"jsonl\"\n");
    for (written, meant) in [
        ("test://${SCENE}", "test://pitch"),
        ("test://${NOPE:-pitch}", "test://pitch"),
        ("test://${EMPTY:-pitch}", "test://pitch"),
        ("test://pit${EMPTY}ch", "test://pitch"),
    ] {
        let (pipeline, _) = read(&text(written), &[]).expect(written);
        assert_eq!(pipeline.sources[0].config.uri.as_deref(), Some(meant));
    }
    let (pipeline, _) = read(VALID, &[("pipeline.name", "a$${SCENE}")]).expect("valid");
    assert_eq!(&*pipeline.name, "a${SCENE}");
}

#[test]
fn secrets_never_show() {
    let text = r#"
[source.a]
uri = "rtsp://admin:${CAM_PASSWORD}@127.0.0.1/x"
zebra = "rtsp://admin:letmein@127.0.0.1/x"
[stage.t]
kind = "track"
lost = "${TRACK_SECRET}"
high = "${CAM_PASSWORD}"
[sink.o]
kind = "jsonl"
password = "swordfish"
[sink.p]
kind = "${TRACK_SECRET}"
password = """open
"#;
    for set in [
        &[][..],
        &[("sink.o.password", "letmein")],
        &[("source.a.uri", "rtsp://x:letmein@h/"), ("source.b.uri", "rtsp://x:letmein@h")],
    ] {
        for text in [text.to_owned(), text.replace("password = \"\"\"open\n", "")] {
            let Err(found) = read(&text, set) else { panic!("accepted") };
            let all = [
                found.render(Style::Plain),
                found.render(Style::Fancy),
                found.to_string(),
                found.to_json().to_string(),
                format!("{found:?}"),
            ];
            for secret in ["hunter2", "opensesame", "letmein", "swordfish"] {
                for shown in &all {
                    assert!(!shown.contains(secret), "{secret} in\n{shown}");
                }
            }
        }
    }
}

#[test]
fn bytes_that_are_no_text_and_files_that_are_too_large_are_refused() {
    let read = |bytes: &[u8]| config::read_bytes(Path::new("t.toml"), bytes, &[], &environment).expect_err("refused");
    let found = read(b"[pipeline]\nname = \"\xff\"\n");
    assert_eq!((found.0[0].line, found.0[0].column), (2, 9), "{found}");
    assert!(read(&vec![b'\n'; (1 << 20) + 1]).0[0].message.contains("1 MiB"));
}

fn framegate(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_framegate")).args(arguments).output().expect("starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_command_reports_as_text_and_as_json_and_exits_with_2() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("broken.toml");
    std::fs::write(&path, "[pipeline]\nfsp = 3\n[source.a]\nuri = 1\n[sink.o]\nkind = \"jsonl\"\n").expect("written");
    let file = path.to_str().expect("UTF-8");

    let (code, out, err) = framegate(&["check", file]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.contains("broken.toml:2:1") && err.contains("did you mean `fps`?"), "{err}");
    assert!(err.contains("2 errors, 0 warnings"), "{err}");
    assert!(!err.contains('\u{1b}'), "colours in a pipe");

    let (code, out, _) = framegate(&["check", "--json", file]);
    assert_eq!(code, Some(2));
    let json: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    let first = json.as_array().expect("array").iter().find(|d| d["key"] == "pipeline.fsp").expect("finding");
    assert_eq!((&first["severity"], &first["line"], &first["column"]), (&"error".into(), &2.into(), &1.into()));
    assert_eq!((&first["file"], &first["help"]), (&file.into(), &"did you mean `fps`?".into()));
    assert!(first["message"].as_str().expect("text").contains("fsp"));

    let (code, _, err) = framegate(&["check", "/nowhere/x.toml"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("cannot read"), "{err}");
    assert_eq!(framegate(&["check"]).0, Some(2));
    assert_eq!(framegate(&["chekc"]).0, Some(2));

    std::fs::write(&path, VALID).expect("written");
    let (code, out, err) = framegate(&["check", file, "--set", "pipeline.fps=25"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{err}");
    assert!(out.contains("1 source, 1 stage, 1 sink"), "{out}");
    assert_eq!(framegate(&["check", "--json", file]).1.trim(), "[]");
}

#[test]
fn the_committed_schema_is_the_one_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/pipeline.schema.json");
    let now = format!("{:#}\n", config::json_schema());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &now).expect("written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == now, "config/pipeline.schema.json is stale: run the test with UPDATE_SCHEMA=1");
    let (code, out, _) = framegate(&["check", "--schema"]);
    assert_eq!((code, out == now), (Some(0), true));
}

#[test]
fn the_graph_is_drawn_as_text_and_as_a_picture() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("p.toml");
    std::fs::write(&file, VALID).expect("written");
    let file = file.to_str().expect("UTF-8");
    let (code, out, _) = framegate(&["graph", file]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("digraph") && out.contains("n0 -> n1") && out.contains("n1 -> n2"), "{out}");
    let picture = folder.path().join("p.svg");
    assert_eq!(framegate(&["graph", file, "-o", picture.to_str().expect("UTF-8")]).0, Some(0));
    assert!(std::fs::read_to_string(&picture).expect("written").contains("test://pitch"));
    assert_eq!(framegate(&["graph", file, "-o", "x.png"]).0, Some(2));
    assert_eq!(framegate(&["graph", file, "-o", "/nowhere/x.svg"]).0, Some(1));
}

/// Every finding must point into its text, whatever the text is.
fn holds(bytes: &[u8], set: &[(String, String)]) {
    if let Err(found) = config::read_bytes(Path::new("t.toml"), bytes, set, &environment) {
        assert!(found.errors() > 0);
        for style in [Style::Plain, Style::Fancy] {
            assert!(!found.render(style).is_empty());
        }
        let lines = String::from_utf8_lossy(bytes).split('\n').count();
        assert!(found.0.iter().all(|d| d.line >= 1 && (d.file == "--set" || d.line <= lines)), "{found}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        holds(&bytes, &[]);
    }

    #[test]
    fn arbitrary_text_of_the_files_alphabet_never_panics(text in "[\\[\\]a-c.=\"'{}, \n0-9#$é-]{0,200}") {
        holds(text.as_bytes(), &[]);
    }

    #[test]
    fn mutated_files_never_panic(
        which in 0..BROKEN.len() + 1,
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[\\[\\]\"=.{},\na-z0-9é$]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = BROKEN.get(which).map_or(VALID, |b| b.0).chars().collect();
        for (at, cut, with) in edits {
            let start = at.index(text.len() + 1);
            let end = (start + cut).min(text.len());
            text.splice(start..end, with.chars());
        }
        holds(text.into_iter().collect::<String>().as_bytes(), &[]);
    }

    #[test]
    fn arbitrary_flags_never_panic(key in "(pipeline|stage|stage.track|source.cam0|rung|x)?[a-z.\"é]{0,12}", value in "[\\[\\]\"=.{},\na-z0-9é$]{0,12}") {
        holds(VALID.as_bytes(), &[(key, value)]);
    }
}
