use super::*;
use crate::frame::{Arrival, Attribute, Detection, Payload, Stream};
use crate::issue::Severity;
use proptest::prelude::*;
use std::collections::HashSet;

const FRAME: Nanos = SECOND / 30;

fn context() -> BuildContext {
    BuildContext { id: "track".into(), ..Default::default() }
}

fn maker(toml: &str) -> Box<dyn Fn() -> Result<Box<dyn Stage>, StageError> + Send + Sync> {
    let config = crate::stage::from_toml("track", toml).expect("keys");
    match config.build(&context()) {
        Ok(Built::Stage(make)) => make,
        Ok(Built::Batch(_)) => panic!("track runs on no device"),
        Err(e) => panic!("{e}"),
    }
}

/// A stream and the stage that tracks it.
struct Rig {
    stage: Box<dyn Stage>,
    stream: Arc<Stream>,
}

impl Rig {
    fn new(toml: &str) -> Self {
        Self { stage: maker(toml)().expect("built"), stream: Arc::new(Stream::new("cam0", 0, None, 0, true)) }
    }

    fn frame(&mut self, pts: Option<Nanos>, captured: Nanos, detections: Option<Vec<Detection>>) -> Vec<Detection> {
        let mut frame = Frame::new(self.stream.capture(captured), pts, Arrival::default(), Payload::Empty);
        frame.inferred = detections.is_some();
        frame.annotations.detections = detections;
        self.stage.process(&mut frame).expect("tracking never fails");
        frame.annotations.detections.expect("always written")
    }

    /// An inferred frame at a stream time.
    fn at(&mut self, pts: Nanos, detections: Vec<Detection>) -> Vec<Detection> {
        self.frame(Some(pts), pts, Some(detections))
    }

    /// Ids of an inferred frame at a stream time, in the order of its detections.
    fn ids(&mut self, pts: Nanos, detections: Vec<Detection>) -> Vec<Option<u64>> {
        self.at(pts, detections).iter().map(|d| d.track).collect()
    }

    /// A frame that no detector has seen.
    fn carried(&mut self, pts: Nanos) -> Vec<Detection> {
        self.frame(Some(pts), pts, None)
    }
}

/// A person of 40 × 100 whose upper left corner is here.
fn person(x: f32, y: f32) -> Detection {
    Detection::new("person".into(), 0, 0.9, [x, y, x + 40.0, y + 100.0])
}

fn scored(score: f32, d: Detection) -> Detection {
    Detection { score, ..d }
}

fn looks(vector: &[f32], d: Detection) -> Detection {
    Detection { embedding: Some(vector.into()), ..d }
}

/// Noise between −1 and 1 that is the same in every run.
struct Noisy(u64);
impl Noisy {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

#[test]
fn an_object_gets_its_id_once_confirmed_and_keeps_it() {
    let mut rig = Rig::new("");
    let ids: Vec<_> = (0..10).flat_map(|i| rig.ids(i * FRAME, vec![person(100.0 + 5.0 * i as f32, 50.0)])).collect();
    assert_eq!(ids[..2], [None, None]);
    assert_eq!(ids[2..], [Some(1); 8]);
}

#[test]
fn a_varying_frame_rate_and_shed_frames_are_only_longer_steps() {
    // Ten times its width a second; up to a third of a second goes missing at once.
    let mut rig = Rig::new("");
    let mut seen = HashSet::new();
    let steps_ms = [33, 33, 40, 20, 33, 33, 66, 33, 330, 33, 100, 33, 10, 300, 33];
    let mut t = 0;
    for ms in steps_ms {
        t += ms * MILLI;
        seen.extend(rig.ids(t, vec![person(400.0 * t as f32 / SECOND as f32, 50.0)]).into_iter().flatten());
    }
    assert_eq!(seen, HashSet::from([1]));
}

#[test]
fn a_carried_frame_shows_confirmed_tracks_where_they_should_be() {
    let mut rig = Rig::new("");
    let mut noise = Noisy(7);
    for i in 0..30 {
        let mut walker = person(100.0 + 6.0 * i as f32 + noise.next(), 50.0 + noise.next());
        walker.attributes.push(Attribute { stage: "shirt".into(), label: "red".into(), score: 0.8 });
        let passing = (i == 29).then(|| person(600.0, 50.0));
        rig.at(i * FRAME, [Some(walker), passing].into_iter().flatten().collect());
    }
    for i in 30..35 {
        let carried = rig.carried(i * FRAME);
        let [walker] = &carried[..] else { panic!("the unconfirmed one is not carried: {carried:?}") };
        assert_eq!((walker.track, &*walker.label, walker.score), (Some(1), "person", 0.9));
        assert_eq!(&*walker.attributes[0].label, "red");
        let off = (walker.bbox[0] - (100.0 + 6.0 * i as f32)).abs();
        assert!(off < 4.0, "{off} pixels off after {} carried frames", i - 29);
    }
    assert_eq!(rig.ids(35 * FRAME, vec![person(310.0, 50.0)]), [Some(1)]);
    // Gone from the last inferred frame: nothing says that it is still in sight.
    rig.at(36 * FRAME, Vec::new());
    assert_eq!(rig.carried(37 * FRAME), []);
}

#[test]
fn detections_on_a_frame_that_was_not_inferred_give_way_to_carried_ones() {
    let mut rig = Rig::new("");
    for i in 0..3 {
        rig.at(i * FRAME, vec![person(100.0, 50.0)]);
    }
    let mut frame = Frame::new(rig.stream.capture(3 * FRAME), Some(3 * FRAME), Arrival::default(), Payload::Empty);
    frame.annotations.detections = Some(vec![person(500.0, 50.0)]);
    rig.stage.process(&mut frame).expect("tracked");
    let tracks: Vec<_> = frame.annotations.detections.expect("there").iter().map(|d| d.track).collect();
    assert_eq!(tracks, [Some(1)]);
}

#[test]
fn an_object_out_of_sight_keeps_its_id_for_as_long_as_configured() {
    for (lost, expected) in [("400ms", 2), ("2s", 1)] {
        let mut rig = Rig::new(&format!("lost = \"{lost}\""));
        let walk = |i: u64| person(100.0 + 3.0 * i as f32, 50.0);
        for i in 0..30 {
            rig.at(i * FRAME, vec![walk(i)]);
        }
        for i in 30..60 {
            rig.at(i * FRAME, Vec::new());
        }
        let last = (60..65).map(|i| rig.ids(i * FRAME, vec![walk(i)])[0]).last();
        assert_eq!(last, Some(Some(expected)), "lost = {lost}");
    }
}

#[test]
fn a_jump_in_stream_time_forgets_tracks_and_gives_new_ids() {
    let still = || vec![person(100.0, 50.0)];
    let run = |rig: &mut Rig, from: Nanos| (0..4).map(|i| rig.ids(from + i * FRAME, still())[0]).last().flatten();
    let mut rig = Rig::new("");
    assert_eq!(run(&mut rig, 10 * SECOND), Some(1));
    assert_eq!(run(&mut rig, 12 * SECOND), Some(2), "a gap");
    assert_eq!(run(&mut rig, 3 * SECOND), Some(3), "a jump back");
    assert_eq!(run(&mut rig, 3 * SECOND + SECOND), Some(3), "short of a gap");
}

#[test]
fn steps_come_from_stream_time_and_else_from_capture_time() {
    let longest = SECOND;
    let on = |ms: u64| Step::On(ms * MILLI);
    let ms = |p: u64, c: u64| (Some(p * MILLI), c * MILLI);
    assert_eq!(step(ms(1000, 0), ms(1033, 500), longest), on(33));
    assert_eq!(step(ms(1000, 0), ms(2001, 33), longest), Step::Reset);
    assert_eq!(step(ms(1000, 0), ms(899, 33), longest), Step::Reset);
    assert_eq!(step(ms(1000, 0), ms(990, 33), longest), on(33), "jitter is no jump");
    assert_eq!(step(ms(1000, 0), ms(1000, 33), longest), on(33), "it stands still");
    assert_eq!(step((None, 0), ms(1000, 33), longest), on(33));
    assert_eq!(step((None, 0), (None, 2 * SECOND), longest), Step::Reset);
}

#[test]
fn a_stream_without_stream_time_is_tracked_by_capture_time() {
    let mut rig = Rig::new("");
    let ids: Vec<_> = (0..20)
        .flat_map(|i| rig.frame(None, i * FRAME, Some(vec![person(12.0 * i as f32, 50.0)])))
        .map(|d| d.track)
        .collect();
    assert_eq!(ids[2..], [Some(1); 18]);
}

#[test]
fn weak_detections_keep_a_track_and_begin_none() {
    let mut rig = Rig::new("");
    for i in 0..5 {
        rig.at(i * FRAME, vec![person(100.0, 50.0)]);
    }
    let weak =
        || vec![scored(0.2, person(101.0, 50.0)), scored(0.2, person(400.0, 50.0)), scored(0.05, person(100.0, 50.0))];
    for i in 5..15 {
        assert_eq!(rig.ids(i * FRAME, weak()), [Some(1), None, None]);
    }
}

#[test]
fn classes_are_tracked_apart_unless_asked_otherwise() {
    for (toml, expected) in [("", Some(2)), ("across_classes = true", Some(1))] {
        let mut rig = Rig::new(toml);
        let mut last = None;
        for i in 0..10 {
            let d = person(100.0, 50.0);
            let d = if i < 5 { d } else { Detection { label: "rider".into(), class: 1, ..d } };
            last = rig.ids(i * FRAME, vec![d])[0];
        }
        assert_eq!(last, expected, "{toml}");
    }
}

#[test]
fn looks_tell_two_apart_who_turn_back_behind_each_other() {
    // Two walk towards each other, are one detection for half a second, and go back the way they came.
    let (red, blue) = ([1.0, 0.1, 0.0], [0.0, 0.1, 1.0]);
    let x = |i: u64| 3.0 * if i < 60 { i as f32 } else { 120.0 - i as f32 };
    let mut rig = Rig::new("");
    let mut pairs = Vec::new();
    for i in 0..120 {
        let a = looks(&red, person(x(i), 50.0));
        let b = looks(&blue, person(370.0 - x(i), 52.0));
        let scene = if (52..68).contains(&i) { vec![a] } else { vec![a, b] };
        pairs.push(rig.ids(i * FRAME, scene));
    }
    assert_eq!(pairs[50].len(), 2);
    assert!(pairs[50].iter().all(Option::is_some));
    assert_eq!(pairs[50], pairs[119]);
}

#[test]
fn looks_find_one_again_who_comes_back_elsewhere() {
    let tail = |with_looks: bool| {
        let mut rig = Rig::new("");
        let dress = |d: Detection| if with_looks { looks(&[0.6, 0.8], d) } else { d };
        for i in 0..10 {
            rig.at(i * FRAME, vec![dress(person(100.0, 50.0))]);
        }
        for i in 10..20 {
            rig.at(i * FRAME, Vec::new());
        }
        (20..25).map(|i| rig.ids(i * FRAME, vec![dress(person(200.0, 60.0))])[0]).last().flatten()
    };
    assert_eq!((tail(true), tail(false)), (Some(1), Some(2)));
}

#[test]
fn players_who_turn_sharply_keep_their_ids_and_their_boxes() {
    // Ten widths a second, back and forth, turning on the spot; noise, and one box in twelve missing.
    let mut rig = Rig::new("");
    let mut noise = Noisy(3);
    let mut ids: [HashSet<u64>; 4] = Default::default();
    let mut worst = 1.0f64;
    for i in 0..600u64 {
        let t = i as f32 / 30.0;
        let mut scene = Vec::new();
        let mut truth = Vec::new();
        for (k, period) in [1.1f32, 1.6, 2.3, 3.1].into_iter().enumerate() {
            let phase = (t / period).fract() * 4.0;
            let swing = if phase < 2.0 { 1.0 - (phase - 1.0).abs() } else { (phase - 3.0).abs() - 1.0 };
            let at = person(600.0 + swing * period * 100.0, 120.0 * k as f32);
            if noise.next() > -0.84 {
                let jitter = [noise.next() * 2.0, noise.next() * 2.0, noise.next() * 2.0, noise.next() * 2.0];
                scene.push(Detection { bbox: std::array::from_fn(|j| at.bbox[j] + jitter[j]), ..at.clone() });
                truth.push((k, at.bbox.map(f64::from)));
            }
        }
        for (d, (k, at)) in rig.at(i * FRAME, scene).iter().zip(truth) {
            let Some(id) = d.track else { continue };
            ids[k].insert(id);
            worst = worst.min(motion::iou(d.bbox.map(f64::from), at));
        }
    }
    assert!(ids.iter().all(|i| i.len() == 1), "{ids:?}");
    assert!(worst > 0.7, "the worst box has an overlap of {worst}");
}

#[test]
fn a_small_ball_that_is_kicked_keeps_its_id() {
    // 12 pixels wide; rolls at 60 pixels/s, then flies at up to its own width a frame, and bounces.
    let mut rig = Rig::new("");
    let mut noise = Noisy(5);
    let (mut x, mut y) = (100.0f32, 300.0f32);
    let mut ids = HashSet::new();
    for i in 0..120u64 {
        let (vx, vy) = match i {
            0..30 => (60.0, 0.0),
            30..60 => (360.0, -120.0),
            60..90 => (-300.0, 90.0),
            _ => (0.0, 200.0),
        };
        (x, y) = (x + vx / 30.0, y + vy / 30.0);
        let [a, b] = [x + noise.next() * 0.7, y + noise.next() * 0.7];
        let ball = Detection::new("ball".into(), 1, 0.8, [a - 6.0, b - 6.0, a + 6.0, b + 6.0]);
        ids.extend(rig.ids(i * FRAME, vec![ball]).into_iter().flatten());
    }
    assert_eq!(ids, HashSet::from([1]));
}

#[test]
fn untracked_detections_stay_or_go_as_configured() {
    let scene = || vec![person(100.0, 50.0), scored(0.3, person(300.0, 50.0))];
    for (toml, expected) in [("", 2), ("untracked = \"drop\"", 1)] {
        let mut rig = Rig::new(toml);
        let sizes: Vec<_> = (0..4).map(|i| rig.at(i * FRAME, scene()).len()).collect();
        assert_eq!(sizes[3], expected, "{toml}");
    }
}

#[test]
fn hostile_boxes_pass_through_untracked_and_unchanged() {
    let mut rig = Rig::new("confirm = 1");
    let boxes = [
        [f32::NAN, 0.0, 10.0, 10.0],
        [0.0, 0.0, f32::INFINITY, 10.0],
        [10.0, 10.0, 10.0, 20.0],
        [20.0, 10.0, 10.0, 20.0],
        [0.0, 0.0, 3e38, 3e38],
    ];
    for i in 0..5 {
        let scene: Vec<_> = boxes
            .iter()
            .map(|&b| Detection::new("odd".into(), 0, 0.9, b))
            .chain([scored(f32::NAN, person(0.0, 0.0))])
            .collect();
        let out = rig.at(i * FRAME, scene);
        assert!(out.iter().all(|d| d.track.is_none()));
        let bits = |b: [f32; 4]| b.map(f32::to_bits);
        assert!(out.iter().zip(&boxes).all(|(d, b)| bits(d.bbox) == bits(*b)));
    }
}

#[test]
fn a_rebuilt_instance_gives_no_id_again() {
    let make = maker("confirm = 1");
    let stream = Arc::new(Stream::new("cam0", 0, None, 0, true));
    let mut ids = Vec::new();
    for i in 0..3 {
        let mut rig = Rig { stage: make().expect("built"), stream: stream.clone() };
        ids.extend(rig.ids(i * FRAME, vec![person(100.0, 50.0)]));
    }
    assert_eq!(ids, [Some(1), Some(2), Some(3)]);
}

#[test]
fn streams_are_tracked_apart_and_forgotten_for_good() {
    let config = Arc::new(TrackConfig { confirm: 1, ..TrackConfig::default() });
    let mut stage = Track { config, ids: Ids::default(), streams: HashMap::new() };
    let streams: Vec<_> = (0..2).map(|i| Arc::new(Stream::new(format!("cam{i}"), i, None, 0, true))).collect();
    for s in &streams {
        let mut frame = Frame::new(s.capture(0), Some(0), Arrival::default(), Payload::Empty);
        frame.inferred = true;
        frame.annotations.detections = Some(vec![person(0.0, 0.0)]);
        stage.process(&mut frame).expect("tracked");
        assert_eq!(frame.annotations.detections.expect("there")[0].track, Some(1));
    }
    stage.forget(0);
    assert_eq!((stage.streams.len(), stage.ids.lock().len()), (1, 1));
    stage.forget(1);
    assert_eq!((stage.streams.len(), stage.ids.lock().len()), (0, 0));
}

#[test]
fn what_cannot_be_meant_is_said() {
    let issues = |toml: &str| -> Vec<(Severity, String)> {
        let config = crate::stage::from_toml("track", toml).expect("keys");
        config.check(&context()).into_iter().map(|i| (i.severity, i.key)).collect()
    };
    let error = |key: &str| vec![(Severity::Error, key.to_owned())];
    assert_eq!(issues(""), []);
    assert_eq!(issues("smoothing = 1.5"), error("smoothing"));
    assert_eq!(issues("overlap = nan"), error("overlap"));
    assert_eq!(issues("low = 0.6"), error("low"));
    assert_eq!(issues("new = 0.2"), [(Severity::Warning, "new".to_owned())]);
    assert_eq!(issues("confirm = 0"), error("confirm"));
    assert_eq!(issues("max_tracks = 0"), error("max_tracks"));
    assert_eq!(issues("lost = \"1h\""), error("lost"));
    assert_eq!(issues("reset_after = \"0s\""), error("reset_after"));
    assert_eq!(issues("buffer = -1.0"), error("buffer"));
    assert_eq!(issues("motion = { speed = 0.0 }"), error("motion.speed"));
    let refused = |toml: &str| crate::stage::from_toml("track", toml).map(|_| ()).expect_err(toml).to_string();
    assert!(refused("lost = \"soon\"").contains("no duration"));
    assert!(refused("lots = \"2s\"").contains("unknown field"));
}

/// A scene of objects that come, go, move, jump and change score.
fn scenes() -> impl Strategy<Value = Vec<Vec<Detection>>> {
    let detection = (0u32..3, 0.0f32..1.0, 0.0f32..600.0, 0.0f32..400.0, 5.0f32..120.0, 5.0f32..120.0)
        .prop_map(|(class, score, x, y, w, h)| Detection::new("thing".into(), class, score, [x, y, x + w, y + h]));
    let walker = (0u32..3, 0.3f32..1.0, [0.0f32..600.0, 0.0..400.0], [-20.0f32..20.0, -20.0..20.0], 20.0f32..120.0);
    let walkers = prop::collection::vec(walker, 0..8);
    let strays = prop::collection::vec(prop::collection::vec(detection, 0..6), 1..25);
    (walkers, strays).prop_map(|(walkers, strays)| {
        let mut frames = strays;
        for (i, frame) in frames.iter_mut().enumerate() {
            for &(class, score, at, speed, size) in &walkers {
                let [x, y] = [at[0] + speed[0] * i as f32, at[1] + speed[1] * i as f32];
                frame.push(Detection::new("thing".into(), class, score, [x, y, x + size, y + size]));
            }
        }
        frames
    })
}

fn any_bits() -> impl Strategy<Value = Vec<Vec<Detection>>> {
    let number = prop_oneof![any::<u32>().prop_map(f32::from_bits), -1e6f32..1e6, Just(0.0), Just(1e6), Just(-1e6)];
    let detection =
        (0u32..2, prop_oneof![any::<u32>().prop_map(f32::from_bits), 0.0f32..1.0], prop::array::uniform4(number))
            .prop_map(|(class, score, bbox)| Detection::new("odd".into(), class, score, bbox));
    prop::collection::vec(prop::collection::vec(detection, 0..10), 1..30)
}

fn run(frames: &[Vec<Detection>]) -> Vec<Vec<Detection>> {
    let mut rig = Rig::new("confirm = 2");
    frames.iter().enumerate().map(|(i, f)| rig.at(i as Nanos * FRAME, f.clone())).collect()
}

proptest! {
    #[test]
    fn no_id_is_on_two_boxes_and_two_runs_agree(frames in scenes()) {
        let out = run(&frames);
        for frame in &out {
            let ids: Vec<u64> = frame.iter().filter_map(|d| d.track).collect();
            prop_assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
        }
        prop_assert_eq!(out, run(&frames));
    }

    #[test]
    fn ids_are_not_used_again_across_classes(frames in scenes()) {
        let mut class_of = HashMap::new();
        for d in run(&frames).iter().flatten() {
            if let Some(id) = d.track {
                prop_assert_eq!(*class_of.entry(id).or_insert(d.class), d.class);
            }
        }
        let ids: HashSet<u64> = class_of.into_keys().collect();
        prop_assert_eq!(ids.iter().copied().max().unwrap_or(0), ids.len() as u64, "ids are given without gaps");
    }

    #[test]
    fn the_order_of_detections_does_not_matter(frames in scenes(), turn in 0usize..7) {
        let turned: Vec<Vec<Detection>> = frames.iter().map(|f| {
            let mut f = f.clone();
            f.reverse();
            let by = turn % f.len().max(1);
            f.rotate_left(by);
            f
        }).collect();
        let sorted = |frames: Vec<Vec<Detection>>| -> Vec<Vec<String>> {
            frames.into_iter().map(|f| {
                let mut rows: Vec<String> = f.iter().map(|d| format!("{:?} {} {:?} {}", d.track, d.class, d.bbox, d.score)).collect();
                rows.sort();
                rows
            }).collect()
        };
        prop_assert_eq!(sorted(run(&frames)), sorted(run(&turned)));
    }

    #[test]
    fn whatever_the_boxes_nothing_panics_and_tracked_boxes_are_finite(frames in any_bits()) {
        for d in run(&frames).iter().flatten().filter(|d| d.track.is_some()) {
            prop_assert!(d.bbox.iter().all(|v| v.is_finite()) && d.bbox[0] < d.bbox[2] && d.bbox[1] < d.bbox[3]);
        }
    }

    #[test]
    fn state_is_bounded_and_goes_without_detections(frames in scenes(), idle in 31u64..60) {
        let config = TrackConfig { lost: Duration::from_secs(1), max_tracks: 6, confirm: 1, ..TrackConfig::default() };
        let mut tracker = Tracker::default();
        let mut id = 0;
        for mut frame in frames {
            tracker.predict(1.0 / 30.0, &config);
            tracker.update(&mut frame, &config, || { id += 1; id });
            prop_assert!(tracker.len() <= 6);
        }
        for _ in 0..idle {
            tracker.predict(1.0 / 30.0, &config);
            tracker.update(&mut [], &config, || unreachable!("nothing to confirm"));
        }
        prop_assert_eq!(tracker.len(), 0);
    }
}
