//! Batches through small models: places, sizes, element types, slots, and what goes wrong.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

#[path = "common/onnx.rs"]
mod onnx;
#[path = "common/stage.rs"]
mod stage;

use framegate::infer::card::Named as Model;
use framegate::infer::model::{ModelInfo, TensorInfo};
use onnx::Dim::{Fixed, Named};
use onnx::{F16, F32, U8};
use stage::{config, context, device_stage, frame, grey};
use std::path::Path;
use std::sync::Arc;

fn write(dir: &Path, name: &str, model: &[u8]) {
    std::fs::write(dir.join(name), model).unwrap();
}

#[test]
fn every_place_of_every_batch_gets_its_own_picture_back() {
    let dir = tempfile::tempdir().unwrap();
    let dims = [Named("n"), Fixed(3), Fixed(4), Fixed(6)];
    write(dir.path(), "same.onnx", &onnx::model("Identity", (F32, &dims), (F32, &dims)));
    let context = context("raw", vec![dir.path().into()], true);
    let stage =
        device_stage("tensor", "model = \"same.onnx\"\ndevice = \"cpu\"\nslots = 2\nbatch = { max = 8 }", &context);
    assert_eq!((stage.batch_sizes(), stage.slots(), stage.device()), (&[1, 2, 4, 8][..], 2, "cpu"));
    let alone = device_stage("tensor", "model = \"same.onnx\"\ndevice = \"cpu\"", &context);
    assert_eq!(alone.batch_sizes(), [1], "on the CPU batches are formed only where asked for");
    let mut slots = [stage.open().unwrap(), stage.open().unwrap()];
    let mut batches = [stage.buffers(), stage.buffers()];
    // Batches and slots in every combination, so that neither memory nor bindings are mixed up.
    for (round, n) in [1usize, 8, 3, 5, 1, 2, 8, 7, 4, 6].into_iter().enumerate() {
        let batch = &mut batches[round % 2];
        let value = |i: usize| (round * 8 + i) as u8;
        let mut frames: Vec<_> = (0..n).map(|i| frame(Arc::new(grey(12, 8, value(i))))).collect();
        for (i, f) in frames.iter().enumerate() {
            stage.prepare(f, batch, i..i + 1).unwrap();
        }
        slots[round / 2 % 2].execute(batch, n).unwrap();
        for (i, f) in frames.iter_mut().enumerate() {
            stage.finish(batch, i..i + 1, f).unwrap();
            let out = &f.annotations.tensors["raw"][0];
            assert_eq!((&*out.name, &out.shape[..], out.data.len()), ("y", &[3, 4, 6][..], 72));
            assert!(out.data.iter().all(|v| (v - value(i) as f32).abs() < 0.01), "round {round}, place {i}");
        }
    }
    assert!(stage.prepare(&frame(Arc::new(grey(12, 8, 0))), &mut batches[0], 8..9).is_err());
}

#[test]
fn element_types_and_layouts_are_the_models_own() {
    let dir = tempfile::tempdir().unwrap();
    let planes = [Fixed(1), Fixed(3), Fixed(4), Fixed(4)];
    let pixels = [Fixed(1), Fixed(4), Fixed(4), Fixed(1)];
    write(dir.path(), "half.onnx", &onnx::model("Identity", (F16, &planes), (F16, &planes)));
    write(dir.path(), "byte.onnx", &onnx::model("Identity", (U8, &pixels), (U8, &pixels)));
    std::fs::write(dir.path().join("half.toml"), "[input]\nstd = 255\n").unwrap();
    for (name, want, shape) in [("half.onnx", 0.4, &[3, 4, 4]), ("byte.onnx", 102.0, &[4, 4, 1])] {
        let context = context("raw", vec![dir.path().into()], true);
        let text = format!("model = \"{name}\"\ndevice = \"cpu\"\nregion = [0.5, 0, 1, 1]\noutputs = [\"y\"]");
        assert_eq!(config("tensor", &text).check(&context), []);
        let stage = device_stage("tensor", &text, &context);
        let (mut slot, mut batch) = (stage.open().unwrap(), stage.buffers());
        let mut f = frame(Arc::new(grey(8, 8, 102)));
        stage.prepare(&f, &mut batch, 0..1).unwrap();
        slot.execute(&mut batch, 1).unwrap();
        stage.finish(&batch, 0..1, &mut f).unwrap();
        let out = &f.annotations.tensors["raw"][0];
        assert_eq!(out.shape, shape);
        assert!(out.data.iter().all(|v| (v - want).abs() < 1e-3), "{name}: {:?}", out.data);
    }
}

#[test]
fn outputs_of_unknown_size_are_taken_from_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let x = [Fixed(1), Fixed(3), Fixed(2), Fixed(2)];
    // Indices of what is not zero: one column for each such element.
    let found = [Fixed(4), Named("found")];
    write(dir.path(), "where.onnx", &onnx::model("NonZero", (F32, &x), (7, &found)));
    let stage = device_stage(
        "tensor",
        "model = \"where.onnx\"\ndevice = \"cpu\"",
        &context("raw", vec![dir.path().into()], true),
    );
    let (mut slot, mut batch) = (stage.open().unwrap(), stage.buffers());
    for (value, columns) in [(0, 0), (9, 12), (0, 0), (1, 12)] {
        let mut f = frame(Arc::new(grey(2, 2, value)));
        stage.prepare(&f, &mut batch, 0..1).unwrap();
        slot.execute(&mut batch, 1).unwrap();
        stage.finish(&batch, 0..1, &mut f).unwrap();
        assert_eq!(f.annotations.tensors["raw"][0].shape, [4, columns]);
    }
}

#[test]
fn an_output_without_the_batch_is_an_error_before_the_first_frame() {
    let dir = tempfile::tempdir().unwrap();
    let x = [Named("n"), Fixed(3), Fixed(2), Fixed(2)];
    write(dir.path(), "shape.onnx", &onnx::model("Shape", (F32, &x), (7, &[Fixed(4)])));
    let stage = device_stage(
        "tensor",
        "model = \"shape.onnx\"\ndevice = \"cpu\"\nbatch = { max = 8 }",
        &context("raw", vec![dir.path().into()], true),
    );
    let e = stage.open().err().expect("it cannot be split").to_string();
    assert!(e.contains("batch.max to 1"), "{e}");
}

#[test]
fn auto_never_fails_for_want_of_a_gpu_and_an_explicit_device_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let dims = [Fixed(1), Fixed(3), Fixed(4), Fixed(4)];
    write(dir.path(), "same.onnx", &onnx::model("Identity", (F32, &dims), (F32, &dims)));
    let context = context("raw", vec![dir.path().into()], false);
    let stage = device_stage("tensor", "model = \"same.onnx\"", &context);
    assert_eq!(stage.slots(), if stage.device().contains(':') { 2 } else { 2.min(context.threads) });
    assert!(stage.open().is_ok());
    for device in ["cuda:63", "tensorrt:63"] {
        let e = config("tensor", &format!("model = \"same.onnx\"\ndevice = \"{device}\"")).build(&context);
        let e = e.err().expect("no machine has 64 GPUs").to_string();
        assert!(e.contains(device) && e.contains("cannot be used"), "{e}");
    }
}

#[test]
fn files_that_are_no_models_are_refused_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "junk.onnx", b"not a model at all");
    let context = context("raw", vec![dir.path().into()], true);
    for kind in ["tensor", "detect", "classify", "embed"] {
        let issues = config(kind, "model = \"junk.onnx\"").check(&context);
        assert!(issues[0].key == "model" && issues[0].message.contains("junk.onnx"), "{kind}: {issues:?}");
        let issues = config(kind, "model = \"none.onnx\"").check(&context);
        assert!(issues[0].message.contains("none.onnx") && issues[0].message.contains("no such file"), "{issues:?}");
    }
    let fixed = [Fixed(4), Fixed(3), Fixed(4), Fixed(4)];
    write(dir.path(), "four.onnx", &onnx::model("Identity", (F32, &fixed), (F32, &fixed)));
    let e = config("tensor", "model = \"four.onnx\"\ndevice = \"cpu\"").build(&context).err().expect("refused");
    assert!(e.to_string().contains("exactly 4 pictures"), "{e}");
}

#[test]
fn the_locator_is_what_its_card_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let named = Model::read(&folder.join("locator.toml")).unwrap();
    named.verify().unwrap();
    let locator = named.card.locator.as_ref().unwrap();
    let world = locator.world(named.card_file.as_deref()).unwrap();
    let info = ModelInfo::read(&named.file).unwrap();
    let name =
        |t: &TensorInfo| (t.name.to_string(), t.shape[1..].iter().map(|d| d.fixed().unwrap()).collect::<Vec<_>>());
    assert!(info.inputs.iter().chain(&info.outputs).all(|t| t.shape[0].fixed().is_none()), "{}", info.list());
    assert_eq!(
        info.inputs.iter().map(name).collect::<Vec<_>>(),
        [("spectrograms".into(), vec![world.stations.len(), 128, 431])]
    );
    assert_eq!(
        info.outputs.iter().map(name).collect::<Vec<_>>(),
        [("position".into(), vec![2]), ("spread".into(), vec![3]), ("confidence".into(), vec![1])]
    );
    // What the card says and what the file says of itself cannot part.
    assert_eq!(info.metadata["within_m"].parse::<f64>().unwrap(), locator.within_m);
    for station in &world.stations {
        assert!(info.metadata["stations"].contains(&format!("'{}'", station.id)), "{}", station.id);
    }
}
