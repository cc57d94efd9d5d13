//! What runs for months takes its memory at the start: no allocation per block.

use framegate::signal::Complex32;
use framegate::signal::channelize::{BankConfig, FilterBank, Sampling, Tuner, TunerConfig};
use framegate::signal::demod::{DemodConfig, Demodulator, Modulation};
use framegate::signal::energy::{Detector, EnergyConfig};
use framegate::signal::mode_s::{Receiver, ReceiverConfig, Repair};
use framegate::signal::samples::{Converter, encode};
use framegate::signal::spectrogram::{Bands, Padding, Quantity, Spectrogram, SpectrogramConfig};
use framegate::signal::spectrum::{Averaging, Spectrum, SpectrumConfig};
use framegate::signal::tile::{Level, Normalise, TileConfig, Tiler};
use framegate::signal::window::Window;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is handed to the system's allocator as it comes; only a number of this thread is counted up.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn keep<T>(value: T) {
    black_box(&value);
}

/// Runs blocks of varying sizes twice, and counts what the second time takes.
fn steady(name: &str, samples: &[Complex32], mut run: impl FnMut(&[Complex32])) {
    let mut round = || {
        for size in [1000, 1, 4096, 16384, 777] {
            samples.chunks(size).take(20).for_each(&mut run);
        }
    };
    round();
    round();
    let before = COUNT.with(Cell::get);
    round();
    assert_eq!(COUNT.with(Cell::get) - before, 0, "{name} takes memory per block");
}

#[test]
fn nothing_is_allocated_per_block() {
    let samples: Vec<Complex32> =
        (0..60_000).map(|i| Complex32::new((i * 37 % 101) as f32 / 1e3, (i * 53 % 97) as f32 / 1e3)).collect();
    let averaging = Averaging::Linear { blocks: 4 };
    let config = SpectrumConfig { sample_rate: 1e6, size: 1024, hop: 512, window: Window::Hann, averaging };
    let mut spectrum = Spectrum::new(&config).expect("valid");
    steady("spectrum", &samples, |x| spectrum.push(x, |f| keep(f.power[0])));

    let config = SpectrogramConfig {
        sample_rate: 1e6,
        real: false,
        size: 256,
        hop: 100,
        window: Window::Hann,
        padding: Padding::Zero,
        quantity: Quantity::Power,
        full_scale: true,
        bands: Bands::Pooled(64),
    };
    let mut spectrogram = Spectrogram::new(&config).expect("valid");
    let level = Level::Decibel { reference: None, least: 1e-10, range: None, factor: 10.0 };
    let tile = TileConfig { bands: 64, columns: 50, step: 20, level, normalise: Normalise::ZScore };
    let mut tiler = Tiler::new(&tile).expect("valid");
    steady("spectrogram", &samples, |x| {
        spectrogram.push(x, |_, column| tiler.push(column, |t| keep(t.values[0])));
    });

    let config = BankConfig { sample_rate: 1e6, channels: 64, sampling: Sampling::Double, taps: 16, attenuation: 80.0 };
    let mut bank = FilterBank::new(&config).expect("valid");
    steady("filter bank", &samples, |x| bank.push(x, |_, y| keep(y[0])));

    let config = TunerConfig { sample_rate: 1e6, offset: 1e5, decimation: 10, bandwidth: None, attenuation: 70.0 };
    let mut tuner = Tuner::new(&config).expect("valid");
    let mut out = Vec::with_capacity(1 << 16);
    steady("tuner", &samples, |x| {
        out.clear();
        tuner.push(x, &mut out);
    });

    let modulation = Modulation::Fm { deviation: 5e3, audio: 3e3, deemphasis: 50e-6 };
    let config = DemodConfig { sample_rate: 480e3, audio_rate: 48e3, modulation };
    let mut demodulator = Demodulator::new(&config).expect("valid");
    let mut audio = Vec::with_capacity(1 << 16);
    steady("demodulator", &samples, |x| {
        audio.clear();
        demodulator.push(x, &mut audio);
    });

    let mut detector = Detector::new(&EnergyConfig::new(1e6)).expect("valid");
    steady("detector", &samples, |x| detector.push(x, |b| keep(b.start)));

    let mut receiver = Receiver::new(&ReceiverConfig { sample_rate: 2e6, repair: Repair::Known }).expect("valid");
    steady("receiver", &samples, |x| receiver.push(x, |f| keep(f.start)));

    let format = "ci16_le".parse().expect("a format");
    let mut converter = Converter::new(format);
    let mut bytes = Vec::with_capacity(1 << 18);
    steady("converter", &samples, |x| {
        bytes.clear();
        out.clear();
        encode(format, x, &mut bytes);
        converter.push(&bytes, &mut out);
    });
}
