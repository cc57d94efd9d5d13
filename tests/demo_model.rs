//! Recomputes the figure on the demonstration model's card: mean average precision at an overlap of 0.5 on drawn
//! scenes that were neither trained on nor used to choose weights, through framegate's own `detect` stage.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use framegate::frame::{
    Arrival, Colorimetry, Detection, Frame, Matrix, Orientation, OwnedPlanes, Payload, Picture, PixelFormat, Range,
    Siting, Stream, clock,
};
use framegate::source::scene::{Class, PlanesMut, Scene, SceneConfig, Truth};
use framegate::stage::{BuildContext, Built, from_toml};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

const SIZE: (usize, usize) = (1280, 720);
const SCENES: u64 = 320;
/// Training scenes have seeds from 1 on, those that chose the weights from 900000001 on.
const FIRST_SEED: u64 = 1_800_000_001;
/// Boxes that show less than this are neither asked for nor counted against the model.
const VISIBLE: f32 = 0.25;
const OVERLAP: f32 = 0.5;

fn models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models")
}

fn draw(scene: &Scene, n: u64) -> Picture {
    let (w, h) = SIZE;
    let mut planes = vec![vec![0; w * h], vec![0; w * h / 4], vec![0; w * h / 4]];
    let [y, u, v] = &mut planes[..] else { unreachable!() };
    scene.draw(n, &mut PlanesMut::new(SIZE, [y, u, v], [w, w / 2, w / 2]).unwrap()).unwrap();
    Picture {
        width: w as u32,
        height: h as u32,
        format: PixelFormat::I420,
        strides: [w, w / 2, w / 2],
        color: Colorimetry {
            matrix: Matrix::Bt709,
            range: Range::Limited,
            siting_x: Siting::Centered,
            siting_y: Siting::Centered,
        },
        pixel_aspect: (1, 1),
        orientation: Orientation::default(),
        buffer: Box::new(OwnedPlanes(planes)),
    }
}

fn overlap(a: [f32; 4], b: [f32; 4]) -> f32 {
    let side = |i: usize| (a[i + 2].min(b[i + 2]) - a[i].max(b[i])).max(0.0);
    let area = |r: [f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let both = side(0) * side(1);
    both / (area(a) + area(b) - both)
}

/// What was found of one class, and how much there was.
#[derive(Default)]
struct Tally {
    found: Vec<(f32, bool)>,
    wanted: usize,
}

impl Tally {
    /// Best scores first, each detection takes the free box that it overlaps most.
    fn add(&mut self, mut detections: Vec<&Detection>, truth: &[&Truth]) {
        detections.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.wanted += truth.iter().filter(|t| t.visible >= VISIBLE).count();
        let mut free: Vec<bool> = vec![true; truth.len()];
        for d in detections {
            let inside = d.bbox.map(|v| v.max(0.0));
            let clipped = [inside[0], inside[1], inside[2].min(SIZE.0 as f32), inside[3].min(SIZE.1 as f32)];
            let best = |counts: bool, free: &[bool]| {
                (0..truth.len())
                    .filter(|&i| free[i] && (truth[i].visible >= VISIBLE) == counts)
                    .map(|i| (overlap(clipped, truth[i].bbox), i))
                    .filter(|(o, _)| *o >= OVERLAP)
                    .max_by(|a, b| a.0.total_cmp(&b.0))
            };
            if let Some((_, i)) = best(true, &free) {
                free[i] = false;
                self.found.push((d.score, true));
            } else if best(false, &free).is_none() {
                self.found.push((d.score, false));
            }
        }
    }

    /// The area under the precision-recall curve with precision made monotonic, over all points (VOC 2010 on).
    fn average_precision(&mut self) -> f64 {
        self.found.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut right = 0;
        let mut points: Vec<(f64, f64)> = Vec::new();
        for (i, (_, hit)) in self.found.iter().enumerate() {
            right += usize::from(*hit);
            points.push((right as f64 / self.wanted as f64, right as f64 / (i + 1) as f64));
        }
        let (mut area, mut precision) = (0.0, 0f64);
        for i in (0..points.len()).rev() {
            precision = precision.max(points[i].1);
            area += precision * (points[i].0 - if i > 0 { points[i - 1].0 } else { 0.0 });
        }
        area
    }
}

/// The figure behind `mAP@0.5` in the card's words.
fn stated() -> f64 {
    let card: toml::Table = std::fs::read_to_string(models().join("pitch.toml")).unwrap().parse().unwrap();
    let words = card["accuracy"].as_str().unwrap();
    let (_, rest) = words.split_once("mAP@0.5 ").unwrap();
    rest.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap().parse().unwrap()
}

#[test]
fn average_precision_is_the_area_under_the_monotonic_curve() {
    // 4 wanted; ranked hit, miss, hit, hit: precisions 1, 1/2, 2/3, 3/4 → 1·¼ + ¾·¼ + ¾·¼.
    let found = vec![(0.9, true), (0.8, false), (0.7, true), (0.6, true)];
    let mut tally = Tally { found, wanted: 4 };
    assert!((tally.average_precision() - (0.25 + 0.75 * 0.5)).abs() < 1e-12);
}

#[test]
fn the_demonstration_model_finds_what_its_card_says() {
    let context = BuildContext {
        id: "detect".into(),
        search: vec![models()],
        live: false,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        ..Default::default()
    };
    let config = from_toml("detect", "model = 'pitch.toml'\ndevice = 'cpu'\nthreshold = 0.01").unwrap();
    let Built::Batch(stage) = config.build(&context).unwrap() else { panic!("detect runs in batches") };
    let mut executor = stage.open().unwrap();
    let mut batch = stage.buffers();
    let stream = Arc::new(Stream::new("scenes", 0, None, 0, true));

    let workers = context.threads as u64;
    let (sender, scenes) = mpsc::sync_channel(4);
    let mut tallies: [Tally; 3] = Default::default();
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let sender = sender.clone();
            scope.spawn(move || {
                for i in (worker..SCENES).step_by(workers as usize) {
                    let scene = Scene::new(SceneConfig::random(SIZE.0, SIZE.1), FIRST_SEED + i).unwrap();
                    if sender.send((draw(&scene, 0), scene.truth(0))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for (picture, truth) in scenes {
            let now = clock::now();
            let arrival = Arrival { complete: now, decoded: now };
            let mut frame = Frame::new(stream.capture(now), None, arrival, Payload::Picture(Arc::new(picture)));
            stage.prepare(&frame, &mut batch, 0..1).unwrap();
            executor.execute(&mut batch, 1).unwrap();
            stage.finish(&batch, 0..1, &mut frame).unwrap();
            let detections = frame.annotations.detections.as_deref().unwrap();
            for class in Class::ALL {
                assert!(detections.iter().all(|d| *d.label == *Class::ALL[d.class as usize].name()));
                tallies[class as usize].add(
                    detections.iter().filter(|d| d.class == class as u32).collect(),
                    &truth.iter().filter(|t| t.class == class).collect::<Vec<_>>(),
                );
            }
        }
    });
    let each = tallies.each_mut().map(Tally::average_precision);
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    println!("AP@0.5 {:?}: {each:.4?}, mean {mean:.4}", Class::ALL.map(Class::name));
    assert!(tallies.iter().all(|t| t.wanted >= 300), "too few boxes to say anything");
    assert!(mean >= 0.9, "mean average precision {mean:.4} is under 0.9");
    assert!((mean - stated()).abs() <= 0.01, "{mean:.4} is not what the card says: {}", stated());
}
