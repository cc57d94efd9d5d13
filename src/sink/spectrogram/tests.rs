use super::super::testing::{RATE, block, record, stream};
use super::*;
use crate::issue::Severity;
use crate::signal::Complex32;
use crate::signal::testing::tone;
use opencv::core::{Mat, MatTraitConst, Vec3b};
use opencv::imgcodecs;

/// A block with a tone of so many Hz.
fn tones(position: u64, count: u64, hz: f64, amplitude: f32) -> SampleBlock {
    let mut block = block(position, count);
    block.samples = tone(count as usize, hz / RATE, amplitude);
    block
}

fn open(folder: &Path, more: &str) -> Box<dyn Sink> {
    let text = format!("path = \"{}/{{stream}}.png\"\nbins = 64\nwidth = 200\n{more}", folder.display());
    let config: SpectrogramConfig = toml::from_str(&text).unwrap();
    config.open(&BuildContext::default()).unwrap()
}

/// A picture's plot: brightness at shares of its width (from the left) and height (from the bottom).
struct Plot(Mat);

impl Plot {
    fn read(path: &Path) -> Self {
        let mat = imgcodecs::imread(path.to_str().unwrap(), imgcodecs::IMREAD_COLOR).unwrap();
        // What lies around the plot has its own size, whatever the plot's is.
        assert_eq!((mat.cols(), mat.rows()), (200 + 92 + 104, 256 + 34 + 50));
        Self(mat)
    }

    fn at(&self, x: f64, y: f64) -> Vec3b {
        let (x, y) = (92 + (x * 199.0) as i32, 34 + ((1.0 - y) * 255.0) as i32);
        *self.0.at_2d::<Vec3b>(y, x).unwrap()
    }

    fn bright(&self, x: f64, y: f64) -> i32 {
        self.at(x, y).0.iter().map(|v| i32::from(*v)).sum()
    }
}

#[test]
fn a_tone_is_where_its_time_and_frequency_are() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), "levels = [-60, 0]");
    let rx = stream();
    // Quiet, then 250 Hz above the centre in the second half: at three quarters of the height.
    for seq in 0..20 {
        let amplitude = if seq < 10 { 0.001 } else { 0.9 };
        sink.deliver(&record(&rx, seq, tones(seq * 640, 640, 250.0, amplitude), &[])).unwrap();
    }
    assert!(!folder.path().join("rx.png").exists());
    drop(sink);
    let plot = Plot::read(&folder.path().join("rx.png"));
    assert!(plot.bright(0.75, 0.753) > 500, "{:?}", plot.at(0.75, 0.753));
    for (x, y) in [(0.25, 0.753), (0.75, 0.25), (0.75, 0.6), (0.75, 0.9)] {
        assert!(plot.bright(x, y) < 60, "{x} {y}: {:?}", plot.at(x, y));
    }
    assert!(!folder.path().join("rx.png.part").exists());
}

#[test]
fn bursts_are_drawn_and_gaps_are_gray() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), "levels = [-60, 0]");
    let rx = stream();
    for seq in [0, 1, 2, 3, 8, 9] {
        let block = SampleBlock { last: seq == 9, ..tones(seq * 640, 640, 50.0, 1e-4) };
        let bursts: &[_] = if seq == 3 { &[(640, 640)] } else { &[] };
        sink.deliver(&record(&rx, seq, block, bursts)).unwrap();
    }
    // The stream has ended: its picture does not wait for the sink's end.
    sink.flush().unwrap();
    let plot = Plot::read(&folder.path().join("rx.png"));
    assert_eq!(plot.at(0.6, 0.5).0, [70, 66, 64]);
    assert!(plot.bright(0.95, 0.9) < 30 && plot.bright(0.3, 0.9) < 30);
    // The burst's frame: 40 to 60 Hz of 1000, from 0.1 to 0.2 of the time.
    let framed = (0..40).any(|n| plot.bright(0.098, 0.5 + f64::from(n) / 400.0) > 400);
    assert!(framed, "a burst's left edge");
}

#[test]
fn another_frequency_or_a_limit_of_length_begins_another_picture() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = open(folder.path(), "length = \"1s\"");
    let rx = stream();
    for seq in 0..5 {
        let block = block(seq * 500, 500);
        sink.deliver(&record(&rx, seq, block, &[])).unwrap();
    }
    let retuned = SampleBlock { frequency: None, ..block(2500, 500) };
    sink.deliver(&record(&rx, 5, retuned, &[])).unwrap();
    drop(sink);
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["rx-2.png", "rx-3.png", "rx-4.png", "rx.png"]);
}

#[test]
fn columns_stay_within_their_number_and_lose_no_transform() {
    let mut columns = Columns::new(RATE, 64, 50, 1000).unwrap();
    let total = 20_000u64;
    for n in 0..100 {
        let mut b = block(1000 + n * 200, 200);
        b.samples.fill(Complex32::new(0.5, 0.0));
        columns.push(&b);
    }
    assert_eq!(columns.end(), 1000 + total);
    assert!((26..=50).contains(&columns.all().len()), "{}", columns.all().len());
    assert_eq!(columns.per(), 16 << 5);
    // Of every column the mean is that of a steady tone, whatever was averaged.
    for column in columns.all() {
        let power: Vec<f32> = column.power().unwrap().collect();
        assert!((power[32] - 0.25).abs() < 1e-4, "{}", power[32]);
    }
    // Samples that are no numbers are left out and spoil nothing.
    let mut bad = block(columns.end(), 200);
    bad.samples.fill(Complex32::new(f32::NAN, 0.0));
    columns.push(&bad);
    assert!(columns.all().iter().filter_map(|c| c.power()).flatten().all(f32::is_finite));
}

#[test]
fn what_cannot_work_is_said_by_key() {
    let issues = |text: &str| -> Vec<(String, Severity)> {
        let config: SpectrogramConfig = toml::from_str(text).unwrap();
        config.check(&BuildContext::default()).into_iter().map(|i| (i.key, i.severity)).collect()
    };
    let good = "path = \"{stream}.png\"\n";
    assert_eq!(issues(good), []);
    assert_eq!(issues("path = \"a.png\""), [("path".to_owned(), Severity::Warning)]);
    for (more, key) in [
        ("width = 10", "width"),
        ("bins = 500", "bins"),
        ("bins = 16384", "bins"),
        ("levels = [-10, -20]", "levels"),
        ("levels = [nan, 0]", "levels"),
    ] {
        assert_eq!(issues(&format!("{good}{more}")), [(key.to_owned(), Severity::Error)], "{more}");
    }
    assert_eq!(issues("path = \"{stream}.jpg\""), [("path".to_owned(), Severity::Error)]);
}
