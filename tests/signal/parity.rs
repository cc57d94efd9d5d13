//! Spectrograms against ones that NumPy and SciPy computed (tests/signal/golden.py), and against their definition.

use framegate::signal::Complex32;
use framegate::signal::mel::{Formula, MelConfig};
use framegate::signal::spectrogram::{Bands, Padding, Quantity, Spectrogram, SpectrogramConfig};
use framegate::signal::spectrum::{Averaging, Spectrum, SpectrumConfig};
use framegate::signal::tile::{Level, Normalise, TileConfig, Tiler};
use framegate::signal::window::{Shape, Window};
use serde_json::Value;
use std::f64::consts::TAU;

const RATE: f64 = 22050.0;

/// The same generator as the script's.
fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / 8_388_608.0 - 1.0
        })
        .collect()
}

fn real_signal(n: usize) -> Vec<Complex32> {
    let noise = noise(n, 1);
    (0..n)
        .map(|i| {
            let t = i as f64 / RATE;
            let chirp = (TAU * (200.0 * t + 300.0 * t * t)).sin();
            Complex32::new((0.4 * chirp + 0.2 * (TAU * 3000.0 * t).sin() + 0.05 * noise[i]) as f32, 0.0)
        })
        .collect()
}

fn complex_signal(n: usize) -> Vec<Complex32> {
    let (re, im) = (noise(n, 2), noise(n, 3));
    (0..n)
        .map(|i| {
            let (a, b) = (TAU * 0.2 * i as f64, TAU * 0.125 * i as f64);
            let re = 0.5 * a.cos() + 0.1 * b.cos() + 0.02 * re[i];
            let im = -0.5 * a.sin() + 0.1 * b.sin() + 0.02 * im[i];
            Complex32::new(re as f32, im as f32)
        })
        .collect()
}

/// All columns, one after the other.
fn columns(config: &SpectrogramConfig, samples: &[Complex32], block: usize) -> Vec<Vec<f32>> {
    let mut spectrogram = Spectrogram::new(config).expect("valid");
    let mut columns = Vec::new();
    let expected = spectrogram.columns_of(samples.len() as u64);
    let mut keep = |number: u64, column: &[f32]| {
        assert_eq!(number, columns.len() as u64);
        columns.push(column.to_vec());
    };
    for block in samples.chunks(block.max(1)) {
        spectrogram.push(block, &mut keep);
    }
    spectrogram.finish(&mut keep);
    assert_eq!(columns.len() as u64, expected);
    columns
}

fn golden() -> Value {
    serde_json::from_str(include_str!("golden.json")).expect("JSON")
}

/// Compares with the columns that the script kept: 1e-4 of the value, and where values are decibels or normalised, and
/// so can be near 0, at least what that is of `scale`.
fn compare(name: &str, columns: &[Vec<f32>], scale: f64) {
    let golden = golden();
    let case = &golden[name];
    assert_eq!(case["shape"][0].as_u64(), columns.first().map(|c| c.len() as u64), "{name}");
    assert_eq!(case["shape"][1].as_u64(), Some(columns.len() as u64), "{name}");
    let mut worst: f64 = 0.0;
    for (number, values) in case["columns"].as_object().expect("columns") {
        let ours = &columns[number.parse::<usize>().expect("a number")];
        for (band, (ours, theirs)) in ours.iter().zip(values.as_array().expect("values")).enumerate() {
            let theirs = theirs.as_f64().expect("a number");
            let error = (f64::from(*ours) - theirs).abs() / theirs.abs().max(scale);
            assert!(error < 1e-4, "{name}, column {number}, band {band}: {ours} for {theirs}");
            worst = worst.max(error);
        }
    }
    eprintln!("{name}: largest relative error {worst:.1e}");
}

fn mel(bands: usize, formula: Formula, equal_area: bool, low: f64, high: Option<f64>) -> Bands {
    Bands::Mel(MelConfig { bands, formula, equal_area, low, high })
}

fn seed_layout() -> SpectrogramConfig {
    SpectrogramConfig {
        sample_rate: RATE,
        real: true,
        size: 2048,
        hop: 512,
        window: Window::Hann,
        padding: Padding::Zero,
        quantity: Quantity::Power,
        full_scale: false,
        bands: mel(128, Formula::Slaney, true, 0.0, None),
    }
}

#[test]
fn a_clip_of_ten_seconds_is_128_by_431_and_equal_to_scipy() {
    let samples = real_signal(220_500);
    let columns = columns(&seed_layout(), &samples, 4096);
    assert_eq!((columns.len(), columns[0].len()), (431, 128));
    compare("mel-slaney", &columns, 0.0);
    let decibel = Level::Decibel { reference: None, least: 1e-10, range: Some(80.0), factor: 10.0 };
    for (name, level, normalise, scale) in [
        ("mel-slaney-db", decibel, Normalise::None, 1.0),
        ("mel-slaney-db-minmax", decibel, Normalise::MinMax, 0.1),
        ("mel-slaney-db-z", decibel, Normalise::ZScore, 0.5),
        ("mel-slaney-log-rows", Level::Log { least: 1e-10 }, Normalise::PerFrequency, 0.5),
    ] {
        let config = TileConfig { bands: 128, columns: 431, step: 431, level, normalise };
        let mut tiler = Tiler::new(&config).expect("valid");
        let mut tiles = Vec::new();
        for column in &columns {
            tiler.push(column, |t| tiles.push(t.values.to_vec()));
        }
        assert_eq!(tiles.len(), 1);
        let turned: Vec<Vec<f32>> = (0..431).map(|c| (0..128).map(|b| tiles[0][b * 431 + c]).collect()).collect();
        compare(name, &turned, scale);
    }
}

#[test]
fn other_layouts_are_equal_to_scipy_too() {
    let config = SpectrogramConfig {
        padding: Padding::Reflect,
        bands: mel(64, Formula::Htk, false, 50.0, Some(8000.0)),
        ..seed_layout()
    };
    compare("mel-htk", &columns(&config, &real_signal(220_500), 1000), 0.0);
    let config = SpectrogramConfig {
        size: 512,
        hop: 160,
        window: Window::Hamming,
        padding: Padding::None,
        quantity: Quantity::Magnitude,
        bands: Bands::All,
        ..seed_layout()
    };
    compare("linear-magnitude", &columns(&config, &real_signal(20_000), 1000), 0.0);
    let iq = complex_signal(20_000);
    for (name, window) in [
        ("complex-hann", Window::Hann),
        ("complex-blackman", Window::Blackman),
        ("complex-blackmanharris", Window::BlackmanHarris),
        ("complex-flattop", Window::FlatTop),
        ("complex-kaiser", Window::Kaiser { beta: 8.6 }),
    ] {
        let config = SpectrogramConfig {
            real: false,
            size: 256,
            hop: 100,
            window,
            padding: Padding::None,
            full_scale: true,
            bands: Bands::All,
            ..seed_layout()
        };
        // Down to 60 dB under the tone; what is further down has the tone's rounding in it, in single precision.
        compare(name, &columns(&config, &iq, 333), 0.25e-6);
    }
}

#[test]
fn the_averaged_spectrum_is_equal_to_welch() {
    let averaging = Averaging::Linear { blocks: 38 };
    let config = SpectrumConfig { sample_rate: 1.0, size: 1024, hop: 512, window: Window::Hann, averaging };
    let mut frames = Vec::new();
    Spectrum::new(&config).expect("valid").push(&complex_signal(20_000), |f| frames.push(f.power.to_vec()));
    assert_eq!(frames.len(), 1);
    compare("welch", &frames, 0.0);
}

#[test]
fn columns_are_the_definition_computed_in_double_precision() {
    let samples = complex_signal(700);
    let config = SpectrogramConfig {
        real: false,
        size: 60,
        hop: 25,
        window: Window::Blackman,
        padding: Padding::None,
        bands: Bands::Pooled(12),
        ..seed_layout()
    };
    let window = Window::Blackman.values(60, Shape::Periodic).expect("valid");
    for (number, column) in columns(&config, &samples, 64).iter().enumerate() {
        let power = |bin: i32| {
            let (mut re, mut im) = (0.0, 0.0);
            for (n, (x, w)) in samples[number * 25..][..60].iter().zip(&window).enumerate() {
                let (sin, cos) = (-TAU * f64::from(bin) * n as f64 / 60.0).sin_cos();
                re += w * (f64::from(x.re) * cos - f64::from(x.im) * sin);
                im += w * (f64::from(x.re) * sin + f64::from(x.im) * cos);
            }
            re * re + im * im
        };
        for (band, ours) in column.iter().enumerate() {
            let mean = (0..5).map(|i| power(band as i32 * 5 + i - 30)).sum::<f64>() / 5.0;
            assert!((f64::from(*ours) - mean).abs() < 1e-4 * mean, "{number} {band}: {ours} {mean}");
        }
    }
}

#[test]
fn cuts_make_no_difference() {
    for padding in [Padding::None, Padding::Zero, Padding::Reflect] {
        for real in [true, false] {
            let config =
                SpectrogramConfig { real, size: 128, hop: 48, padding, bands: Bands::Pooled(16), ..seed_layout() };
            for n in [0, 1, 63, 64, 65, 128, 129, 5000] {
                let samples = complex_signal(n);
                let whole = columns(&config, &samples, 5000);
                for block in [1, 7, 64, 65, 500] {
                    assert_eq!(whole, columns(&config, &samples, block), "{padding:?} {real} {n} {block}");
                }
            }
        }
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let good = seed_layout();
    for bad in [
        SpectrogramConfig { size: 0, ..good },
        SpectrogramConfig { size: usize::MAX, ..good },
        SpectrogramConfig { hop: 0, ..good },
        SpectrogramConfig { hop: 4096, ..good },
        SpectrogramConfig { sample_rate: f64::INFINITY, ..good },
        SpectrogramConfig { real: false, ..good },
        SpectrogramConfig { bands: Bands::Pooled(0), ..good },
        SpectrogramConfig { bands: Bands::Pooled(100), ..good },
    ] {
        assert!(Spectrogram::new(&bad).is_err(), "{bad:?}");
    }
}
