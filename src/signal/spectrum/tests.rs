use super::super::testing::{cut, noise, sizes, tone};
use super::*;
use proptest::prelude::*;

const LINEAR: Averaging = Averaging::Linear { blocks: 1 };

fn config(size: usize, hop: usize, window: Window, averaging: Averaging) -> SpectrumConfig {
    SpectrumConfig { sample_rate: 1e6, size, hop, window, averaging }
}

type Kept = (u64, u64, u32, Vec<f32>);

fn run(config: &SpectrumConfig, samples: &[Complex32], sizes: &[usize]) -> Vec<Kept> {
    let mut spectrum = Spectrum::new(config).expect("valid");
    let mut frames = Vec::new();
    for piece in cut(samples, sizes) {
        spectrum.push(piece, |f| frames.push((f.start, f.samples, f.blocks, f.power.to_vec())));
    }
    spectrum.finish(|f| frames.push((f.start, f.samples, f.blocks, f.power.to_vec())));
    frames
}

#[test]
fn a_full_scale_tone_on_a_bin_reads_nought_whatever_the_window() {
    for window in
        [Window::Rectangular, Window::Hann, Window::BlackmanHarris, Window::FlatTop, Window::Kaiser { beta: 9.0 }]
    {
        for size in [64, 100, 63] {
            let mut spectrum = Spectrum::new(&config(size, size, window, LINEAR)).expect("valid");
            let bin = 5;
            let mut levels = Vec::new();
            spectrum.push(&tone(size, bin as f64 / size as f64, 1.0), |f| f.dbfs(&mut levels));
            let at = size / 2 + bin;
            assert!(levels[at].abs() < 1e-3, "{window:?} {size}: {}", levels[at]);
            assert!((spectrum.frequency(at) - bin as f64 * 1e6 / size as f64).abs() < 1e-6);
        }
    }
}

#[test]
fn noise_has_the_density_that_its_power_says() {
    // Parts of amplitude a have a power of 2a²/3, over the whole rate.
    let mut spectrum =
        Spectrum::new(&config(256, 128, Window::Hann, Averaging::Linear { blocks: 2000 })).expect("valid");
    let mut density = Vec::new();
    let mut frames = Vec::new();
    spectrum.push(&noise(300_000, 0.1, 3), |f| frames.push((f.power.to_vec(), f.samples)));
    let (power, samples) = &frames[0];
    assert_eq!(*samples, 1999 * 128 + 256);
    let frame = Frame { start: 0, samples: *samples, blocks: 2000, power };
    spectrum.density(&frame, &mut density);
    let expected = 10.0 * (2.0 * 0.01 / 3.0 / 1e6f32).log10();
    let mean = density.iter().sum::<f32>() / 256.0;
    assert!((mean - expected).abs() < 0.1, "{mean} {expected}");
}

#[test]
fn averages_are_what_they_say() {
    let samples: Vec<_> = [0.1f32, 1.0, 0.5, 0.2].iter().flat_map(|&a| tone(16, 0.25, a)).collect();
    let at = |averaging| run(&config(16, 16, Window::Rectangular, averaging), &samples, &[64]);
    let bin = |frames: &[Kept]| frames.iter().map(|f| f.3[12]).collect::<Vec<_>>();
    let close = |a: Vec<f32>, b: &[f32]| {
        assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}")
    };
    close(bin(&at(Averaging::Linear { blocks: 2 })), &[0.505, 0.145]);
    close(bin(&at(Averaging::Peak { blocks: 2 })), &[1.0, 0.25]);
    close(bin(&at(Averaging::Exponential { share: 0.5, blocks: 1 })), &[0.01, 0.505, 0.3775, 0.20875]);
    close(bin(&at(Averaging::Linear { blocks: 3 })), &[1.26 / 3.0, 0.04]);
}

#[test]
fn what_is_not_finite_does_not_stay() {
    let mut samples = tone(64, 0.25, 0.5);
    samples[3] = Complex32::new(f32::NAN, f32::INFINITY);
    for averaging in [LINEAR, Averaging::Exponential { share: 0.5, blocks: 1 }, Averaging::Peak { blocks: 1 }] {
        let frames = run(&config(16, 16, Window::Hann, averaging), &samples, &[64]);
        assert!(frames[1..].iter().all(|f| f.3.iter().all(|p| p.is_finite())), "{averaging:?}");
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let good = config(16, 8, Window::Hann, LINEAR);
    for bad in [
        SpectrumConfig { size: 0, ..good },
        SpectrumConfig { size: usize::MAX, ..good },
        SpectrumConfig { hop: 0, ..good },
        SpectrumConfig { hop: 17, ..good },
        SpectrumConfig { sample_rate: f64::NAN, ..good },
        SpectrumConfig { sample_rate: 1e300, ..good },
        SpectrumConfig { averaging: Averaging::Linear { blocks: 0 }, ..good },
        SpectrumConfig { averaging: Averaging::Exponential { share: f32::NAN, blocks: 1 }, ..good },
    ] {
        assert!(Spectrum::new(&bad).is_err(), "{bad:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn cuts_make_no_difference_and_no_sample_is_lost(
        n in 0usize..6000, size in 2usize..300, part in 0.0f64..1.0, blocks in 1u32..6, kind in 0..3, sizes in sizes()
    ) {
        let hop = ((size as f64 * part) as usize).max(1);
        let averaging = match kind {
            0 => Averaging::Linear { blocks },
            1 => Averaging::Exponential { share: 0.3, blocks },
            _ => Averaging::Peak { blocks },
        };
        let samples = noise(n, 1.0, 8);
        let config = config(size, hop, Window::Hann, averaging);
        let frames = run(&config, &samples, &sizes);
        prop_assert_eq!(&frames, &run(&config, &samples, &[6000]));
        // Frames follow each other at whole hops and cover the stream to its last sample.
        let mut start = 0;
        for f in &frames {
            prop_assert_eq!(f.0, start);
            start += u64::from(f.2) * hop as u64;
        }
        prop_assert_eq!(frames.last().map_or(0, |f| f.0 + f.1), n as u64);
        if hop == size {
            prop_assert_eq!(frames.iter().map(|f| f.1).sum::<u64>(), n as u64);
        }
    }
}
