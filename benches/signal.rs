//! Throughput of the signal room on one core, in millions of samples a second, the best of several rounds; and its
//! spectrum beside bare `rustfft` that windows the same samples.

use framegate::signal::Complex32;
use framegate::signal::channelize::{BankConfig, FilterBank, Sampling, Tuner, TunerConfig};
use framegate::signal::demod::{DemodConfig, Demodulator, Modulation};
use framegate::signal::energy::{Detector, EnergyConfig};
use framegate::signal::mel::{Formula, MelConfig};
use framegate::signal::mode_s::{Receiver, ReceiverConfig, Repair};
use framegate::signal::samples::Converter;
use framegate::signal::spectrogram::{Bands, Padding, Quantity, Spectrogram, SpectrogramConfig};
use framegate::signal::spectrum::{Averaging, Spectrum, SpectrumConfig};
use framegate::signal::window::{Shape, Window};
use rustfft::FftPlanner;
use std::hint::black_box;
use std::time::Instant;

/// Samples of a round: 2²¹, handed over in blocks as a receiver would.
const SAMPLES: usize = 1 << 21;
const BLOCK: usize = 1 << 15;
const ROUNDS: usize = 9;

fn noise() -> Vec<Complex32> {
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..SAMPLES).map(|_| Complex32::new(next() * 0.1, next() * 0.1)).collect()
}

/// MS/s of one round.
fn once(samples: usize, run: &mut dyn FnMut()) -> f64 {
    let start = Instant::now();
    run();
    samples as f64 / start.elapsed().as_secs_f64() / 1e6
}

fn best(samples: usize, mut run: impl FnMut()) -> f64 {
    (0..ROUNDS).map(|_| once(samples, &mut run)).fold(0.0, f64::max)
}

#[allow(clippy::print_stdout, reason = "what a benchmark is for")]
fn say(what: &str, rate: f64) {
    println!("{what:<58} {rate:8.1} MS/s");
}

fn conversions() {
    let bytes: Vec<u8> = (0..SAMPLES * 8).map(|i| (i * 37 % 251) as u8).collect();
    for name in ["cu8", "cs8", "ci16_le", "ci16_be", "cf32_le", "ri16_le"] {
        let format: framegate::signal::samples::Format = name.parse().expect("a format");
        let mut converter = Converter::new(format);
        let mut out = Vec::with_capacity(BLOCK);
        let size = format.sample_bytes();
        let rate = best(SAMPLES, || {
            for block in bytes[..SAMPLES * size].chunks(BLOCK * size) {
                out.clear();
                converter.push(block, &mut out);
                black_box(&out);
            }
        });
        say(&format!("{name} to samples"), rate);
    }
}

#[allow(clippy::print_stdout, reason = "what a benchmark is for")]
fn spectra(samples: &[Complex32]) {
    for size in [1024, 2048, 4096, 16384] {
        let fft = FftPlanner::<f32>::new().plan_fft_forward(size);
        let mut scratch = vec![Complex32::default(); fft.get_inplace_scratch_len()];
        let window: Vec<f32> =
            Window::Hann.values(size, Shape::Periodic).expect("valid").iter().map(|&w| w as f32).collect();
        let mut buffer = vec![Complex32::default(); size];
        let mut bare = || {
            for block in samples.chunks_exact(size) {
                for ((b, x), w) in buffer.iter_mut().zip(block).zip(&window) {
                    *b = x * w;
                }
                fft.process_with_scratch(&mut buffer, &mut scratch);
                black_box(&buffer);
            }
        };
        let config = |blocks| SpectrumConfig {
            sample_rate: 2.4e6,
            size,
            hop: size,
            window: Window::Hann,
            averaging: Averaging::Linear { blocks },
        };
        let mut averaged = Spectrum::new(&config(16)).expect("valid");
        let mut single = Spectrum::new(&config(1)).expect("valid");
        let run = |spectrum: &mut Spectrum| {
            for block in samples.chunks(BLOCK) {
                spectrum.push(block, |f| {
                    black_box(f);
                });
            }
        };
        // Round by round in turn, so that what else the machine does hits all alike.
        let mut rates = [0f64; 3];
        for _ in 0..ROUNDS * 2 {
            rates[0] = rates[0].max(once(SAMPLES, &mut bare));
            rates[1] = rates[1].max(once(SAMPLES, &mut || run(&mut averaged)));
            rates[2] = rates[2].max(once(SAMPLES, &mut || run(&mut single)));
        }
        say(&format!("bare rustfft {size} with window"), rates[0]);
        say(&format!("spectrum {size}, 16 averaged"), rates[1]);
        say(&format!("spectrum {size}, each"), rates[2]);
        println!("  of bare: {:.2} averaged, {:.2} each", rates[1] / rates[0], rates[2] / rates[0]);
    }
}

fn columns(samples: &[Complex32]) {
    let config = SpectrogramConfig {
        sample_rate: 22050.0,
        real: true,
        size: 2048,
        hop: 512,
        window: Window::Hann,
        padding: Padding::Zero,
        quantity: Quantity::Power,
        full_scale: false,
        bands: Bands::Mel(MelConfig { bands: 128, formula: Formula::Slaney, equal_area: true, low: 0.0, high: None }),
    };
    let mut spectrogram = Spectrogram::new(&config).expect("valid");
    let rate = best(SAMPLES, || {
        spectrogram.push(samples, |_, c| {
            black_box(c);
        });
    });
    say("mel spectrogram, 2048 by 512, 128 bands", rate);
}

fn channels(samples: &[Complex32]) {
    for (channels, sampling) in
        [(16, Sampling::Critical), (64, Sampling::Critical), (64, Sampling::Double), (1024, Sampling::Critical)]
    {
        let config = BankConfig { sample_rate: 20e6, channels, sampling, taps: 16, attenuation: 80.0 };
        let mut bank = FilterBank::new(&config).expect("valid");
        let rate = best(SAMPLES, || {
            for block in samples.chunks(BLOCK) {
                bank.push(block, |_, y| {
                    black_box(y);
                });
            }
        });
        say(&format!("filter bank, {channels} channels, {sampling:?}, 16 taps"), rate);
    }
    for decimation in [4, 10, 50] {
        let config = TunerConfig { sample_rate: 2.4e6, offset: 3e5, decimation, bandwidth: None, attenuation: 70.0 };
        let mut tuner = Tuner::new(&config).expect("valid");
        let mut out = Vec::new();
        let rate = best(SAMPLES, || {
            for block in samples.chunks(BLOCK) {
                out.clear();
                tuner.push(block, &mut out);
                black_box(&out);
            }
        });
        say(&format!("shift, filter, decimate by {decimation}"), rate);
    }
}

fn detectors(samples: &[Complex32]) {
    let mut detector = Detector::new(&EnergyConfig::new(2.4e6)).expect("valid");
    let rate = best(SAMPLES, || {
        detector.push(samples, |b| {
            black_box(b);
        });
    });
    say("burst detector, noise", rate);
    let bursts: Vec<Complex32> =
        samples.iter().enumerate().map(|(i, x)| if i / 20_000 % 2 == 0 { *x } else { x * 8.0 }).collect();
    let rate = best(SAMPLES, || {
        detector.push(&bursts, |b| {
            black_box(b);
        });
    });
    say("burst detector, half of the time on", rate);
    for rate in [2e6, 2.4e6] {
        let mut receiver = Receiver::new(&ReceiverConfig { sample_rate: rate, repair: Repair::Known }).expect("valid");
        let speed = best(SAMPLES, || receiver.push(samples, |f| drop(black_box(f))));
        say(&format!("mode s at {} MS/s, noise", rate / 1e6), speed);
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/rf/adsb/modes1.cu8");
    if let Ok(bytes) = std::fs::read(path) {
        let mut frames = Vec::new();
        Converter::new("cu8".parse().expect("a format")).push(&bytes, &mut frames);
        let mut receiver = Receiver::new(&ReceiverConfig { sample_rate: 2e6, repair: Repair::Known }).expect("valid");
        let speed = best(frames.len(), || receiver.push(&frames, |f| drop(black_box(f))));
        say("mode s at 2 MS/s, recording full of frames", speed);
    }
}

fn audio(samples: &[Complex32]) {
    for (name, sample_rate, modulation) in [
        ("broadcast FM", 2.4e6, Modulation::Fm { deviation: 75e3, audio: 15e3, deemphasis: 50e-6 }),
        ("AM", 2.4e6, Modulation::Am { audio: 5e3 }),
        ("USB", 2.4e6, Modulation::Usb { low: 300.0, audio: 2700.0 }),
    ] {
        let mut demodulator =
            Demodulator::new(&DemodConfig { sample_rate, audio_rate: 48e3, modulation }).expect("valid");
        let mut out = Vec::new();
        let rate = best(SAMPLES, || {
            out.clear();
            demodulator.push(samples, &mut out);
            black_box(&out);
        });
        say(&format!("{name}, 2.4 MS/s to 48 kHz"), rate);
    }
}

fn main() {
    let samples = noise();
    conversions();
    spectra(&samples);
    columns(&samples);
    channels(&samples);
    detectors(&samples);
    audio(&samples);
}
