//! Any bits as samples: nothing panics, and what follows is as if they had not been there.

use framegate::signal::Complex32;
use framegate::signal::channelize::{BankConfig, FilterBank, Sampling, Tuner, TunerConfig};
use framegate::signal::demod::{DemodConfig, Demodulator, Modulation};
use framegate::signal::energy::{Detector, EnergyConfig, estimate_floor};
use framegate::signal::mode_s::{Receiver, ReceiverConfig, Repair};
use framegate::signal::samples::{Converter, encode};
use framegate::signal::sigmf::Metadata;
use framegate::signal::spectrogram::{Bands, Padding, Quantity, Spectrogram, SpectrogramConfig};
use framegate::signal::spectrum::{Averaging, Spectrum, SpectrumConfig};
use framegate::signal::tile::{Level, Normalise, TileConfig, Tiler};
use framegate::signal::window::Window;
use proptest::prelude::*;
use std::path::Path;

fn any_sample() -> impl Strategy<Value = Complex32> {
    let part = prop_oneof![4 => any::<u32>().prop_map(f32::from_bits), 1 => Just(f32::NAN), 1 => Just(f32::MAX), 4 => -1.0f32..1.0];
    (part.clone(), part).prop_map(|(re, im)| Complex32::new(re, im))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_samples_are_survived(bad in prop::collection::vec(any_sample(), 0..1500)) {
        // Behind them a quiet stretch, then a burst.
        let mut samples = bad.clone();
        let quiet = (0..40_000).map(|i| Complex32::new(((i * 37) % 101) as f32 - 50.0, ((i * 53) % 97) as f32 - 48.0) * 1e-4);
        samples.extend(quiet);
        let n = samples.len();
        samples[n - 4000..n - 2000].fill(Complex32::new(0.5, 0.0));

        let averaging = Averaging::Exponential { share: 0.1, blocks: 1 };
        let config = SpectrumConfig { sample_rate: 1e6, size: 64, hop: 64, window: Window::Hann, averaging };
        let mut last = Vec::new();
        Spectrum::new(&config).expect("valid").push(&samples, |f| f.dbfs(&mut last));
        prop_assert!(last.iter().all(|v| v.is_finite()));

        let config = SpectrogramConfig {
            sample_rate: 1e6, real: false, size: 64, hop: 50, window: Window::Hann, padding: Padding::Reflect,
            quantity: Quantity::Power, full_scale: true, bands: Bands::Pooled(16),
        };
        let level = Level::Decibel { reference: None, least: 1e-10, range: Some(80.0), factor: 10.0 };
        let tile = TileConfig { bands: 16, columns: 10, step: 10, level, normalise: Normalise::ZScore };
        let (mut spectrogram, mut tiler) = (Spectrogram::new(&config).expect("valid"), Tiler::new(&tile).expect("valid"));
        spectrogram.push(&samples, |_, c| tiler.push(c, |t| assert!(t.values.iter().all(|v| v.is_finite()))));

        let config = BankConfig { sample_rate: 1e6, channels: 16, sampling: Sampling::Double, taps: 8, attenuation: 60.0 };
        let mut last = Vec::new();
        FilterBank::new(&config).expect("valid").push(&samples, |_, y| last = y.to_vec());
        prop_assert!(last.iter().all(|y| y.is_finite()));

        let config = TunerConfig { sample_rate: 1e6, offset: 1e5, decimation: 8, bandwidth: None, attenuation: 60.0 };
        let mut out = Vec::new();
        Tuner::new(&config).expect("valid").push(&samples, &mut out);
        prop_assert!(out.last().is_some_and(|y| y.is_finite()));

        for modulation in [
            Modulation::Am { audio: 3e3 },
            Modulation::Fm { deviation: 5e3, audio: 3e3, deemphasis: 50e-6 },
            Modulation::Usb { low: 300.0, audio: 3e3 },
        ] {
            let config = DemodConfig { sample_rate: 96e3, audio_rate: 8e3, modulation };
            let mut audio = Vec::new();
            Demodulator::new(&config).expect("valid").push(&samples, &mut audio);
            prop_assert!(audio.iter().all(|a| a.is_finite()));
        }

        let _ = estimate_floor(&samples);
        let config = EnergyConfig { floor: Some(-40.0), hang: 100, longest: 10_000, ..EnergyConfig::new(1e6) };
        let mut bursts = Vec::new();
        let mut detector = Detector::new(&config).expect("valid");
        detector.push(&samples, |b| bursts.push(*b));
        detector.finish(|b| bursts.push(*b));
        let last = bursts.last().expect("the burst at the end");
        prop_assert!(last.start.abs_diff(n as u64 - 4000) <= 2 && last.length.abs_diff(2000) <= 2, "{:?} of {}", last, n);
        prop_assert!(last.centre.is_finite() && last.snr.is_finite());

        let mut receiver = Receiver::new(&ReceiverConfig { sample_rate: 2e6, repair: Repair::Any }).expect("valid");
        receiver.push(&samples, drop);
        receiver.finish(drop);

        for name in ["cu8", "ci16_be", "cf32_le", "rf64_be", "ru32_le"] {
            let format = name.parse().expect("a format");
            let mut bytes = Vec::new();
            encode(format, &bad, &mut bytes);
            let mut out = Vec::new();
            Converter::new(format).push(&bytes, &mut out);
            prop_assert!(out.len() == bad.len() && out.iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn any_text_is_metadata_or_a_clear_error(text in "\\PC{0,200}", key in "(core:)?[a-z_]{1,12}", value in -1e20f64..1e20) {
        let file = Path::new("x.sigmf-meta");
        let _ = Metadata::parse(file, &text);
        let broken = format!(
            r#"{{"global": {{"core:datatype": "cu8", "core:version": "1.2.0", "{key}": {value:e}}}, "captures": [{{"core:sample_start": {value:e}}}], "annotations": []}}"#
        );
        if let Err(error) = Metadata::parse(file, &broken) {
            prop_assert!(error.to_string().starts_with("x.sigmf-meta: "));
        }
    }
}
