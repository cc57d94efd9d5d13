use super::super::Complex32;
use super::super::testing::{Noise, cut, sizes};
use super::cpr::{Cpr, Place, Positions, both, zones_at};
use super::*;
use proptest::prelude::*;

fn raw(hex: &str) -> Raw {
    let bytes: Vec<u8> =
        (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex")).collect();
    Raw::new(&bytes).expect("a frame")
}

fn read(hex: &str) -> Message {
    let mut known = Known::new(u64::MAX);
    check(raw(hex), &mut known, 0, Repair::Off, &[]).expect("a right frame").message
}

fn extended_of(hex: &str) -> Extended {
    match read(hex).body {
        Body::Extended { what, .. } => what,
        other => panic!("{other:?}"),
    }
}

fn cpr_of(hex: &str) -> Cpr {
    match extended_of(hex) {
        Extended::Surface { cpr, .. } | Extended::Airborne { cpr, .. } => cpr,
        other => panic!("{other:?}"),
    }
}

/// A frame with the parity that belongs to its bits, and something laid over it.
fn with_parity(mut bytes: Vec<u8>, overlay: u32) -> Vec<u8> {
    let n = bytes.len();
    bytes.extend([0; 3]);
    let parity = checksum(&bytes) ^ overlay;
    bytes[n..].copy_from_slice(&parity.to_be_bytes()[1..]);
    bytes
}

/// What a receiver would see: pulses through samples that average over their duration, at any rate and fraction.
fn modulate(bytes: &[u8], rate: f64, start: f64, amplitude: f32, into: &mut [Complex32]) {
    let r = rate / 1e6;
    let mut pulses = vec![0.0, 1.0, 3.5, 4.5];
    for i in 0..bytes.len() * 8 {
        let one = bytes[i / 8] >> (7 - i % 8) & 1 == 1;
        pulses.push(8.0 + i as f64 + if one { 0.0 } else { 0.5 });
    }
    for t in pulses {
        let (from, to) = (start + t * r, start + (t + 0.5) * r);
        for (i, sample) in into.iter_mut().enumerate().take(to.ceil() as usize).skip(from.floor() as usize) {
            let covered = ((i as f64 + 1.0).min(to) - (i as f64).max(from)).max(0.0) as f32;
            *sample += Complex32::new(0.6, 0.8) * (amplitude * covered);
        }
    }
}

#[test]
fn the_checksum_is_linear_and_zero_for_right_frames() {
    assert_eq!(checksum(raw("8D4840D6202CC371C32CE0576098").bytes()), 0);
    assert_ne!(checksum(raw("8D4840D6202CC371C32CE0576099").bytes()), 0);
    assert_eq!(checksum(&[]), 0);
    assert!(Raw::new(&[]).is_none() && Raw::new(&[0x8d; 7]).is_none() && Raw::new(&[0x5d; 14]).is_none());
}

#[test]
fn squitters_of_the_literature_are_read() {
    let message = read("8D4840D6202CC371C32CE0576098");
    assert_eq!((message.format, message.icao), (17, 0x4840d6));
    let expected = Extended::Identification { category: 40, callsign: "KLM1023".into() };
    assert_eq!(message.body, Body::Extended { control: 5, what: expected });

    let Extended::Velocity(v) = extended_of("8D485020994409940838175B284F") else { panic!() };
    let Some(Air::Ground { speed, track }) = v.motion else { panic!() };
    assert!((speed - 159.20).abs() < 0.01 && (track - 182.88).abs() < 0.01);
    assert_eq!((v.climb, v.geometric_minus_barometric), (Some(-832), Some(550)));

    let Extended::Velocity(v) = extended_of("8DA05F219B06B6AF189400CBC33F") else { panic!() };
    let Some(Air::Through { speed, airspeed, heading: Some(heading) }) = v.motion else { panic!() };
    assert_eq!((speed, airspeed, v.climb), (Some(375.0), Airspeed::True, Some(-2304)));
    assert!((heading - 243.98).abs() < 0.01);
}

#[test]
fn a_frame_is_json_as_results_need_it() {
    let message = read("8D4840D6202CC371C32CE0576098");
    let frame = Received { start: 1.5, raw: raw("8D4840D6202CC371C32CE0576098"), repaired: None, level: -3.0, message };
    let expected = serde_json::json!({
        "start": 1.5, "raw": "8d4840d6202cc371c32ce0576098", "repaired": null, "level": -3.0, "format": 17,
        "icao": "4840d6", "kind": "extended", "control": 5, "extended": "identification", "category": 40,
        "callsign": "KLM1023"
    });
    assert_eq!(serde_json::to_value(&frame).expect("JSON"), expected);
}

#[test]
fn positions_of_the_literature_are_found() {
    assert_eq!([0.0, 10.0, 52.0, -52.0, 86.9, 87.0, 87.1, 90.0].map(zones_at), [59, 59, 36, 36, 2, 2, 1, 1]);
    let (even, odd) = (cpr_of("8D40621D58C382D690C8AC2863A7"), cpr_of("8D40621D58C386435CC412692AD6"));
    let place = both(even, odd, false, None).expect("a pair");
    assert!((place.lat - 52.257_202_148).abs() < 1e-6 && (place.lon - 3.919_372_559).abs() < 1e-6);
    let near = even.near(Place { lat: 52.258, lon: 3.918 }).expect("a place");
    assert!((near.lat - place.lat).abs() < 1e-9 && (near.lon - place.lon).abs() < 1e-9);
    let Extended::Airborne { altitude, geometric, .. } = extended_of("8D40621D58C382D690C8AC2863A7") else { panic!() };
    assert_eq!((altitude, geometric), (Some(38000), false));

    let Extended::Surface { speed, track, cpr } = extended_of("8C4841753A9A153237AEF0F275BE") else { panic!() };
    assert_eq!(speed, Some(17.0));
    assert!((track.expect("a track") - 92.8).abs() < 0.1);
    let near = cpr.near(Place { lat: 51.990, lon: 4.375 }).expect("a place");
    assert!((near.lat - 52.320_56).abs() < 1e-4 && (near.lon - 4.735_73).abs() < 1e-4, "{near:?}");
    let (even, odd) = (cpr_of("8C4841753AAB238733C8CD4020B1"), cpr_of("8C4841753A8A35323FAEBDAC702D"));
    let pair = both(even, odd, true, Some(Place { lat: 51.990, lon: 4.375 })).expect("a pair");
    assert!((pair.lat - 52.320_61).abs() < 1e-3 && (pair.lon - 4.734_73).abs() < 1e-3, "{pair:?}");
    assert_eq!(both(even, odd, true, None), None);
}

/// Encodes a place as an aircraft does (Doc 9871, C.2.6).
fn encode(place: Place, odd: bool, surface: bool) -> Cpr {
    let whole = if surface { 90.0 } else { 360.0 };
    let bits = 131_072.0;
    let share = |v: f64, step: f64| (bits * (v.rem_euclid(step) / step) + 0.5).floor();
    let step = whole / (60.0 - f64::from(u8::from(odd)));
    let yz = share(place.lat, step);
    let seen = step * (yz / bits + (place.lat / step).floor());
    let zones = zones_at(seen).saturating_sub(u32::from(odd)).max(1);
    let xz = share(place.lon, whole / f64::from(zones));
    Cpr { surface, odd, lat: yz as u32 % 131_072, lon: xz as u32 % 131_072 }
}

proptest! {
    #[test]
    fn every_place_comes_back(lat in -89.9f64..89.9, lon in -180.0f64..180.0, surface in any::<bool>(), newer_odd in any::<bool>()) {
        let at = Place { lat, lon };
        let (even, odd) = (encode(at, false, surface), encode(at, true, surface));
        let close = |p: Place| (p.lat - lat).abs() < 1e-3 && ((p.lon - lon + 540.0).rem_euclid(360.0) - 180.0).abs() * lat.to_radians().cos() < 1e-3;
        let reference = Place { lat: (lat + 0.1).min(90.0), lon: lon + 0.1 };
        // Encoded halves can fall on both sides of a zone's border; then there is no answer rather than a wrong one.
        if let Some(place) = both(even, odd, newer_odd, Some(reference)) {
            prop_assert!(close(place), "{:?} {:?}", at, place);
        }
        let single = if newer_odd { odd } else { even };
        let place = single.near(reference);
        prop_assert!(place.is_some_and(close), "{:?} {:?}", at, place);
    }
}

#[test]
fn an_aircraft_is_followed() {
    let mut positions = Positions::default();
    let place = |i: usize| Place { lat: 48.0 + i as f64 * 1e-3, lon: 11.0 };
    assert_eq!(positions.update(1, encode(place(0), false, false), 0.0), None);
    assert!(positions.update(1, encode(place(1), true, false), 1.0).is_some());
    // Long after the pair one frame is enough, but not for ever.
    assert!(positions.update(1, encode(place(20), true, false), 20.0).is_some());
    assert_eq!(positions.update(1, encode(place(200), true, false), 200.0), None);
    assert_eq!(positions.update(1, encode(place(200), true, false), f64::NAN), None);
    for icao in 0..20_000 {
        positions.update(icao, encode(place(0), false, false), 200.0 + f64::from(icao) * 0.001);
    }
}

#[test]
fn replies_are_taken_from_known_aircraft_only() {
    let mut known = Known::new(100);
    let mut see = |hex: &str, now| check(raw(hex), &mut known, now, Repair::Off, &[]).map(|c| c.message);
    // An altitude of an aircraft that was not heard, then one that was.
    let reply = with_parity(vec![0x20, 0x00, 0x17, 0x18], 0x4840d6);
    let hex: String = reply.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(see(&hex, 0), None);
    assert!(see("8D4840D6202CC371C32CE0576098", 1).is_some());
    let message = see(&hex, 2).expect("known");
    assert_eq!((message.format, message.icao), (4, 0x4840d6));
    assert_eq!(message.body, Body::Altitude { altitude: Some(36000), status: 0 });
    assert_eq!(see(&hex, 200), None);
}

#[test]
fn altitudes_and_identities_of_the_literature_are_read() {
    let body = |hex: &str| {
        let raw = raw(hex);
        let icao = checksum(raw.bytes());
        (icao, Message::read(&raw, icao, 0).body)
    };
    assert_eq!(body("A02014B400000000000000F9D514").1, Body::Altitude { altitude: Some(32300), status: 0 });
    let (icao, altitude) = body("A0001839CA3800315800007448D9");
    assert_eq!(icao, 0x400940);
    assert!(matches!(altitude, Body::Altitude { altitude: Some(38025), status: 0 }));
    assert!(matches!(body("A800292DFFBBA9383FFCEB903D01").1, Body::Identity { squawk: 1346, .. }));
}

#[test]
fn one_wrong_bit_is_repaired_where_it_may_be() {
    let right = raw("8D4840D6202CC371C32CE0576098");
    let mut bytes = right.bytes().to_vec();
    bytes[6] ^= 0x10;
    let wrong = Raw::new(&bytes).expect("a frame");
    let mut known = Known::new(100);
    let see = |repair, suspects: &[u8], known: &mut Known| check(wrong, known, 0, repair, suspects);
    assert_eq!(see(Repair::Any, &[3, 52], &mut known), None);
    assert_eq!(see(Repair::Known, &[51], &mut known), None);
    assert_eq!(see(Repair::Off, &[51], &mut known), None);
    let repaired = see(Repair::Any, &[9, 51], &mut known).expect("repaired");
    assert_eq!((repaired.raw, repaired.repaired), (right, Some(51)));
    assert!(check(right, &mut known, 0, Repair::Off, &[]).is_some());
    assert!(see(Repair::Known, &[51], &mut known).is_some());
}

#[test]
fn frames_are_found_at_any_rate_and_fraction_of_a_sample() {
    let long = raw("8D4840D6202CC371C32CE0576098");
    let short = Raw::new(&with_parity(vec![0x5d, 0x48, 0x40, 0xd6], 0)).expect("a frame");
    for rate in [2e6, 2.4e6, 3.2e6, 8e6, 10e6] {
        let n = 400;
        let space = (rate * 300e-6) as usize;
        let mut noise = Noise(1);
        let mut samples: Vec<Complex32> = (0..n * space).map(|_| noise.sample(0.03)).collect();
        for i in 0..n {
            let frame = if i % 2 == 0 { long } else { short };
            modulate(frame.bytes(), rate, (i * space) as f64 + 50.0 + i as f64 / n as f64, 0.25, &mut samples);
        }
        let mut receiver = Receiver::new(&ReceiverConfig { sample_rate: rate, repair: Repair::Known }).expect("valid");
        let (mut starts, mut right) = (Vec::new(), 0);
        receiver.push(&samples, |f| {
            assert_eq!(f.message.icao, 0x4840d6);
            right += usize::from(f.raw == long || f.raw == short);
            assert!((f.level - -12.0).abs() < 3.0, "{}", f.level);
            starts.push(f.start);
        });
        receiver.finish(|f| starts.push(f.start));
        assert!(starts.len() >= n * 98 / 100, "{rate}: {} of {n}", starts.len());
        // An error in the last bits of a short frame looks like a ground station's number.
        assert!(right * 100 >= starts.len() * 99, "{rate}: {right} of {}", starts.len());
        for start in starts {
            let i = (start / space as f64) as usize;
            let right = (i * space) as f64 + 50.0 + i as f64 / n as f64;
            assert!((start - right).abs() <= 1.0, "{rate} {i}: {start} {right}");
        }
    }
}

#[test]
fn noise_is_no_aircraft_and_hostile_samples_do_no_harm() {
    let mut noise = Noise(5);
    let mut samples: Vec<Complex32> = (0..2_000_000).map(|_| noise.sample(1.0)).collect();
    samples[1000] = Complex32::new(f32::NAN, 0.0);
    samples[1001] = Complex32::new(f32::MAX, f32::INFINITY);
    let mut receiver = Receiver::new(&ReceiverConfig { sample_rate: 2e6, repair: Repair::Known }).expect("valid");
    receiver.push(&samples, |f| panic!("{f:?}"));
    receiver.push(&[Complex32::default(); 1000], |f| panic!("{f:?}"));
    receiver.push(&[Complex32::new(1.0, 0.0); 1000], |f| panic!("{f:?}"));
    receiver.finish(|f| panic!("{f:?}"));
    for sample_rate in [0.0, 1.9e6, 21e6, f64::NAN, f64::INFINITY] {
        assert!(Receiver::new(&ReceiverConfig { sample_rate, repair: Repair::Off }).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn cuts_make_no_difference(sizes in sizes(), offsets in prop::collection::vec(0.0f64..400.0, 1..12), fast in any::<bool>()) {
        let rate = if fast { 2.4e6 } else { 2e6 };
        let mut noise = Noise(9);
        let mut samples: Vec<Complex32> = (0..8000).map(|_| noise.sample(0.05)).collect();
        for (i, offset) in offsets.iter().enumerate() {
            modulate(raw("8D4840D6202CC371C32CE0576098").bytes(), rate, i as f64 * 600.0 + offset, 0.3, &mut samples);
        }
        let run = |sizes: &[usize]| {
            let mut receiver = Receiver::new(&ReceiverConfig { sample_rate: rate, repair: Repair::Any }).expect("valid");
            let mut frames = Vec::new();
            for piece in cut(&samples, sizes) {
                receiver.push(piece, |f| frames.push(f));
            }
            receiver.finish(|f| frames.push(f));
            frames
        };
        prop_assert_eq!(run(&sizes), run(&[8000]));
    }

    #[test]
    fn any_bits_are_read_without_harm(bytes in prop::collection::vec(any::<u8>(), 14)) {
        let n = if bytes[0] & 0x80 == 0 { 7 } else { 14 };
        let raw = Raw::new(&bytes[..n]).expect("a frame");
        let message = Message::read(&raw, 1, 2);
        prop_assert!(serde_json::to_string(&message).is_ok());
    }
}
