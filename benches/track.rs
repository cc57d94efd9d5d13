//! Time that `track` takes for one frame, by the number of objects in it.

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use framegate::frame::{Arrival, Detection, Frame, Payload, Stream};
use framegate::stage::{self, BuildContext, Built, Stage};
use std::sync::Arc;

const FRAME: u64 = 1_000_000_000 / 30;

fn tracker() -> Box<dyn Stage> {
    let context = BuildContext { id: "track".into(), ..Default::default() };
    let built = stage::from_toml("track", "").and_then(|config| config.build(&context));
    match built {
        Ok(Built::Stage(make)) => make().unwrap_or_else(|e| panic!("{e}")),
        Ok(Built::Batch(_)) => panic!("track runs on no device"),
        Err(e) => panic!("{e}"),
    }
}

/// Walkers of 40 × 100 who circle in a picture of 1920 × 1080, seen with a little noise; one in ten is missed.
fn scene(objects: usize, frame: u64) -> Vec<Detection> {
    let label: Arc<str> = "person".into();
    let mut noise = frame.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        (noise >> 40) as f32 / (1u64 << 24) as f32
    };
    let walker = |i: usize| {
        let (column, row) = ((i * 7919) % 1920, (i * 104_729) % 1080);
        let angle = frame as f32 / 30.0 + i as f32;
        let (x, y) = (column as f32 + 60.0 * angle.cos() + next(), row as f32 + 60.0 * angle.sin() + next());
        (next() > 0.1).then(|| Detection::new(label.clone(), 0, 0.9, [x, y, x + 40.0, y + 100.0]))
    };
    (0..objects).filter_map(walker).collect()
}

fn track(c: &mut Criterion) {
    let mut group = c.benchmark_group("track");
    for objects in [10, 100, 500] {
        let mut stage = tracker();
        let stream = Arc::new(Stream::new("cam0", 0, None, 0, true));
        let mut number = 0;
        let mut next = || {
            number += 1;
            let pts = number * FRAME;
            let mut frame = Frame::new(stream.capture(pts), Some(pts), Arrival::default(), Payload::Empty);
            frame.inferred = true;
            frame.annotations.detections = Some(scene(objects, number));
            frame
        };
        group.bench_function(BenchmarkId::from_parameter(objects), |b| {
            b.iter_batched_ref(&mut next, |frame| stage.process(frame), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, track);
criterion_main!(benches);
