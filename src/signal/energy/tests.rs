use super::super::testing::{cut, noise, sizes, tone};
use super::*;
use proptest::prelude::*;

fn run(config: &EnergyConfig, samples: &[Complex32], sizes: &[usize]) -> Vec<Burst> {
    let mut detector = Detector::new(config).expect("valid");
    let mut bursts = Vec::new();
    for piece in cut(samples, sizes) {
        detector.push(piece, |b| bursts.push(*b));
    }
    detector.finish(|b| bursts.push(*b));
    bursts
}

/// Noise of −40 dBFS with tones in it: start, length, frequency over the sample rate, amplitude.
fn scene(n: usize, bursts: &[(usize, usize, f64, f32)]) -> Vec<Complex32> {
    let mut samples = noise(n, 0.012_25, 42);
    for &(start, length, turns, amplitude) in bursts {
        for (s, t) in samples[start..start + length].iter_mut().zip(tone(length, turns, amplitude)) {
            *s += t;
        }
    }
    samples
}

#[test]
fn bursts_are_found_where_they_are_with_what_they_are() {
    let given = [(30_000, 5_000, 0.1, 0.1f32), (60_000, 400, -0.25, 0.1), (90_000, 20_000, 0.4, 0.05)];
    let config = EnergyConfig { hang: 500, ..EnergyConfig::new(1e6) };
    let found = run(&config, &scene(150_000, &given), &[4096]);
    assert_eq!(found.len(), given.len(), "{found:?}");
    for (f, g) in found.iter().zip(&given) {
        assert!((f.start as i64 - g.0 as i64).abs() <= 2, "{f:?}");
        assert!((f.length as i64 - g.1 as i64).abs() <= 4, "{f:?}");
        assert!((f.centre - g.2 * 1e6).abs() < 4e3, "{f:?}");
        assert!(f.bandwidth < if g.1 < 1000 { 50e3 } else { 25e3 }, "{f:?}");
        let snr = 20.0 * g.3.log10() + 40.0;
        assert!((f.snr - snr).abs() < 1.0, "{f:?} {snr}");
        assert!((f.floor - -40.0).abs() < 1.0 && !f.cut, "{f:?}");
    }
}

#[test]
fn the_hang_time_joins_what_belongs_together() {
    let given: Vec<_> = (0..5).map(|i| (30_000 + i * 1000, 500, 0.1, 0.1)).collect();
    let samples = scene(60_000, &given);
    let config = |hang| EnergyConfig { hang, ..EnergyConfig::new(1e6) };
    assert_eq!(run(&config(400), &samples, &[4096]).len(), 5);
    let joined = run(&config(600), &samples, &[4096]);
    assert_eq!(joined.len(), 1);
    assert!((joined[0].length as i64 - 4500).abs() < 8);
    // Its power is that of the time when it was on.
    assert!((joined[0].snr - 20.0).abs() < 1.0, "{:?}", joined[0]);
}

#[test]
fn a_level_that_stays_ends_the_burst_and_becomes_the_floor() {
    let mut samples = noise(40_000, 0.01, 1);
    samples.extend(noise(400_000, 0.1, 2));
    let config = EnergyConfig { longest: 50_000, hang: 100, ..EnergyConfig::new(1e6) };
    let found = run(&config, &samples, &[4096]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].cut && found[0].length >= 49_000);
}

#[test]
fn what_was_learned_from_a_burst_is_unlearned() {
    // A signal is on from the first sample: it is missed, but those behind it are not.
    let samples = scene(100_000, &[(0, 20_000, 0.1, 0.5), (50_000, 2_000, 0.2, 0.1)]);
    let config = EnergyConfig { hang: 100, ..EnergyConfig::new(1e6) };
    assert_eq!(run(&config, &samples, &[4096]).iter().map(|b| b.start / 1000).collect::<Vec<_>>(), [50]);
    // With a floor to begin with, it is found.
    let floor = estimate_floor(&samples);
    assert!((floor.expect("known") - -40.0).abs() < 1.0);
    let found = run(&EnergyConfig { floor, ..config }, &samples, &[4096]);
    assert_eq!(found.len(), 2);
    assert_eq!((found[0].start, found[0].length / 100), (0, 200));
}

#[test]
fn settings_that_make_no_sense_are_refused_and_hostile_samples_do_no_harm() {
    let good = EnergyConfig::new(1e6);
    for bad in [
        EnergyConfig { sample_rate: f64::NAN, ..good },
        EnergyConfig { smooth: 0, ..good },
        EnergyConfig { on: f32::NAN, ..good },
        EnergyConfig { off: 20.0, ..good },
        EnergyConfig { longest: 0, ..good },
        EnergyConfig { bins: 1, ..good },
        EnergyConfig { floor: Some(f32::NAN), ..good },
        EnergyConfig { track: false, ..good },
    ] {
        assert!(Detector::new(&bad).is_err(), "{bad:?}");
    }
    let mut samples = scene(100_000, &[(50_000, 2_000, 0.2, 0.1)]);
    for i in 0..50 {
        samples[i * 997] = Complex32::new(f32::NAN, if i % 2 == 0 { f32::INFINITY } else { f32::MAX });
    }
    let found = run(&EnergyConfig { hang: 100, ..good }, &samples, &[4096]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found.iter().all(|b| b.snr.is_finite() && b.centre.is_finite()));
    assert!(run(&good, &[], &[1]).is_empty());
    assert!(run(&good, &vec![Complex32::default(); 10_000], &[100]).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn cuts_make_no_difference(sizes in sizes(), start in 0usize..20_000, length in 1usize..10_000) {
        let samples = scene(40_000, &[(start, length, 0.1, 0.2), (32_000, 50, 0.3, 0.5)]);
        let config = EnergyConfig { hang: 300, bins: 64, ..EnergyConfig::new(1e6) };
        prop_assert_eq!(run(&config, &samples, &sizes), run(&config, &samples, &[40_000]));
    }
}
