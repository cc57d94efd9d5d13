//! FutureSDR's side of `scripts/bench-radio`: the chain out of its own blocks, and closures for what it has no block for. Its average is the one
//! of its own spectrum example: exponential, one result for ten transforms.
//!
//!     futuresdr FILE cf32|ci16 RATE    (RATE 0: as fast as it goes)

use futuresdr::blocks::{Apply, ApplyNM, Fft, FileSource, MovingAvg, NullSink, Throttle};
use futuresdr::prelude::*;
use std::f32::consts::TAU;

const SIZE: usize = 1024;
const AVERAGE: usize = 10;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, path, format, rate] = &arguments[..] else { panic!("FILE cf32|ci16 RATE") };
    let rate: f64 = rate.parse()?;
    let window: Vec<f32> = (0..SIZE).map(|i| 0.5 - 0.5 * (TAU * i as f32 / SIZE as f32).cos()).collect();

    let windowed = ApplyNM::<_, Complex32, Complex32, SIZE, SIZE>::new(move |x: &[Complex32], y: &mut [Complex32]| {
        for ((y, x), w) in y.iter_mut().zip(x).zip(&window) {
            *y = x * w;
        }
    });
    let fft: Fft = Fft::new(SIZE);
    let power = Apply::<_, Complex32, f32>::new(|x: &Complex32| x.norm_sqr());
    let mean = MovingAvg::<SIZE>::new(1.0 / AVERAGE as f32, AVERAGE);
    let sink = NullSink::<f32>::new();

    let mut fg = Flowgraph::new();
    let floats = FileSource::<Complex32>::new(path, false);
    let integers = FileSource::<[i16; 2]>::new(path, false);
    let convert = Apply::<_, [i16; 2], Complex32>::new(|x: &[i16; 2]| {
        Complex32::new(f32::from(x[0]) / 32768.0, f32::from(x[1]) / 32768.0)
    });
    let throttle = Throttle::<Complex32>::new(rate);
    match (format.as_str(), rate > 0.0) {
        ("cf32", false) => connect!(fg, floats > windowed > fft > power > mean > sink),
        ("cf32", true) => connect!(fg, floats > throttle > windowed > fft > power > mean > sink),
        ("ci16", false) => connect!(fg, integers > convert > windowed > fft > power > mean > sink),
        ("ci16", true) => connect!(fg, integers > convert > throttle > windowed > fft > power > mean > sink),
        _ => panic!("{format} is neither cf32 nor ci16"),
    };
    Runtime::new().run(fg)?;
    Ok(())
}
