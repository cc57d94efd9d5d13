//! `test://station/ID`: a receiving station of a simulated world, with a transmitter that all stations of it hear.
//!
//! What the transmitter does is a function of the time of day and the world's seed alone, so that stations in different
//! processes, or on different machines, hear the same. Only the noise is each station's own.

use super::{Flow, Intake, Source, SourceError};
use crate::frame::{Arrival, Frame, Nanos, Payload, SampleBlock, SampleTime, Signal, clock};
use crate::signal::Complex32;
use crate::signal::world::{LIGHT_MPS, World};
use serde_json::json;
use std::f64::consts::TAU;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The file of the world where the pipeline file names none.
pub const WORLD: &str = "models/locator.world.json";
/// What the frames' results have the transmitter under, as the simulation knows it.
const KEY: &str = "simulated";

/// A station.
pub struct Station {
    /// The source's id.
    pub id: String,
    /// The world.
    pub world: World,
    /// Which of the world's stations it is.
    pub number: usize,
    /// Stream time of a block.
    pub block: Duration,
    /// Dead between these times after the start.
    pub outage: Option<[Duration; 2]>,
}

/// A number that looks drawn, 0 to 1: the same for the same seed, purpose and count.
fn drawn(seed: u64, purpose: u64, count: i64) -> f64 {
    let mut rng = fastrand::Rng::with_seed(seed ^ purpose.rotate_left(48) ^ (count as u64).rotate_left(16));
    // The first numbers of neighbouring seeds are alike.
    rng.u64(..);
    rng.f64()
}

/// The same, normally distributed with mean 0 and deviation 1 (Box and Muller).
fn normal(seed: u64, purpose: u64, count: i64) -> f64 {
    let (a, b) = (drawn(seed, purpose, 2 * count), drawn(seed, purpose, 2 * count + 1));
    (-2.0 * (1.0 - a).ln()).sqrt() * (TAU * b).cos()
}

fn between([low, high]: [f64; 2], share: f64) -> f64 {
    low + (high - low) * share
}

/// What is drawn, by purpose.
mod purpose {
    pub const WAY: u64 = 1;
    pub const POWER: u64 = 2;
    pub const OFFSET: u64 = 3;
    pub const SHADOW: u64 = 4;
    pub const OSCILLATOR: u64 = 5;
    pub const CLOCK: u64 = 6;
    pub const KEYED: u64 = 7;
    pub const TONES: u64 = 8;
}

/// The transmitter of a world at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transmitter {
    /// Metres east and north of the origin.
    pub at: [f64; 2],
    /// Metres a second, east and north.
    pub velocity: [f64; 2],
    /// Power, dB.
    pub power_db: f64,
    /// Distance from the stations' centre frequency, Hz.
    pub offset_hz: f64,
}

impl Transmitter {
    /// Where the world's transmitter is at this time, seconds since 1970: on a winding way that crosses four fifths of
    /// the square, never faster than the world allows.
    pub fn of(world: &World, seconds: f64) -> Self {
        let reach = 0.8 * world.half_side_m;
        // Each axis swings like a pendulum; the slower one has the golden ratio's time.
        let fast = (world.speed_mps / std::f64::consts::SQRT_2).max(1e-3) / reach;
        let rates = [fast, fast / 1.618];
        let angle = |axis: usize| {
            let start = TAU * drawn(world.seed, purpose::WAY, axis as i64);
            (rates[axis] * seconds + start) % TAU
        };
        Self {
            at: [0, 1].map(|axis| reach * angle(axis).sin()),
            velocity: [0, 1].map(|axis| reach * rates[axis] * angle(axis).cos()),
            power_db: between(world.power_db, 0.25 + 0.5 * drawn(world.seed, purpose::POWER, 0)),
            offset_hz: world.offset_hz * (drawn(world.seed, purpose::OFFSET, 0) - 0.5),
        }
    }
}

/// A syllable: its tones, with frequency in Hz, modulation index and phase in rad.
struct Syllable {
    number: i64,
    tones: Vec<[f64; 3]>,
}

/// What the transmitter says.
struct Speech<'w> {
    world: &'w World,
    syllable: Syllable,
}

impl<'w> Speech<'w> {
    fn new(world: &'w World) -> Self {
        Self { world, syllable: Syllable { number: i64::MIN, tones: Vec::new() } }
    }

    /// Whether it is keyed at this time.
    fn keyed(&self, seconds: f64) -> bool {
        let World { on_s, off_s, seed, .. } = *self.world;
        let round = on_s[1] + off_s[0];
        let number = (seconds / round).floor();
        let on = between([on_s[0], round - off_s[1].min(round - on_s[0])], drawn(seed, purpose::KEYED, number as i64));
        seconds - number * round < on
    }

    /// Phase of the modulation at this time, rad.
    fn phase(&mut self, seconds: f64) -> f64 {
        let World { syllable_s, tone_hz, index, seed, tones, .. } = *self.world;
        let number = (seconds / syllable_s).floor() as i64;
        if self.syllable.number != number {
            let tone = |n: usize| {
                let share = |what: i64| drawn(seed, purpose::TONES, (number * tones as i64 + n as i64) * 3 + what);
                [between(tone_hz, share(0)), between(index, share(1)), TAU * share(2)]
            };
            self.syllable = Syllable { number, tones: (0..tones).map(tone).collect() };
        }
        let within = seconds - number as f64 * syllable_s;
        self.syllable.tones.iter().map(|[hz, index, start]| index * (TAU * hz * within + start).sin()).sum()
    }
}

/// What a station hears.
struct Receiver<'w> {
    world: &'w World,
    number: usize,
    speech: Speech<'w>,
    /// Phase of the carrier, in turns.
    turns: f64,
    noise: fastrand::Rng,
    shadow_db: f64,
    oscillator_hz: f64,
    clock_s: f64,
}

impl<'w> Receiver<'w> {
    fn new(world: &'w World, number: usize) -> Self {
        let own = |purpose| normal(world.seed, purpose, number as i64);
        Self {
            world,
            number,
            speech: Speech::new(world),
            turns: 0.0,
            noise: fastrand::Rng::new(),
            shadow_db: own(purpose::SHADOW) * world.shadow_sigma_db,
            oscillator_hz: own(purpose::OSCILLATOR) * world.oscillator_hz,
            clock_s: own(purpose::CLOCK) * world.clock_error_s,
        }
    }

    /// The samples from this time on, seconds since 1970.
    fn hear(&mut self, from: f64, samples: &mut [Complex32]) {
        let (world, station) = (self.world, &self.world.stations[self.number]);
        let step = 1.0 / world.sample_rate;
        // Within a block the transmitter moves a metre or two: its middle stands for all of it.
        let tx = Transmitter::of(world, from + 0.5 * samples.len() as f64 * step);
        let [east, north] = tx.at;
        let distance = world.distance_m(station, east, north).max(1.0);
        let away = (east - station.east_m) * tx.velocity[0] + (north - station.north_m) * tx.velocity[1];
        let doppler = -away / distance * world.frequency / LIGHT_MPS;
        let turn = (tx.offset_hz + doppler + self.oscillator_hz) * step;
        let level = world.level_dbfs(station, east, north, tx.power_db) - self.shadow_db;
        let amplitude = 10f64.powf(level / 20.0);
        let noise = 10f64.powf(world.noise_dbfs / 20.0);
        let from = from - distance / LIGHT_MPS - self.clock_s;
        for (n, sample) in samples.iter_mut().enumerate() {
            let at = from + n as f64 * step;
            // Complex white noise of that power (Box and Muller).
            let radius = noise * (-(1.0 - self.noise.f64()).ln()).sqrt();
            let (sin, cos) = (TAU * self.noise.f64()).sin_cos();
            let (mut re, mut im) = (radius * cos, radius * sin);
            if self.speech.keyed(at) {
                let (sin, cos) = (self.speech.phase(at) + TAU * self.turns).sin_cos();
                re += amplitude * cos;
                im += amplitude * sin;
            }
            self.turns = (self.turns + turn).fract();
            *sample = Complex32::new(re as f32, im as f32);
        }
    }
}

impl Source for Station {
    fn run(self: Box<Self>, intake: Arc<Intake>) -> Result<(), SourceError> {
        intake.signal(Signal::Connecting);
        let world = &self.world;
        let length = super::recording::block_length(self.block, world.sample_rate)
            .map_err(|message| SourceError { id: self.id.clone(), message })?;
        let span = |samples: u64| samples as f64 / world.sample_rate;
        let start = clock::now();
        let start_ns = clock::wall(start).duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64);
        // Three deviations of the clock's error.
        let accuracy = Duration::from_secs_f64(3.0 * world.clock_error_s);
        let mut receiver = Receiver::new(world, self.number);
        let mut position = 0;
        while !intake.is_stopping() {
            let end = position + length as u64;
            let due = start + (span(end) * 1e9) as Nanos;
            while let Some(left) = due.checked_sub(clock::now()).filter(|l| *l > 0) {
                if intake.wait(Duration::from_nanos(left)) == Flow::Stop {
                    return Ok(());
                }
            }
            if let Some([from, to]) = self.outage
                && (from..to).contains(&Duration::from_secs_f64(span(end)))
            {
                intake.signal(Signal::Down("the simulated station is off".to_owned()));
                position = end;
                continue;
            }
            intake.signal(Signal::Up);
            let seconds = start_ns as f64 / 1e9 + span(position);
            let mut samples = vec![Complex32::default(); length];
            receiver.hear(seconds, &mut samples);
            let time = SampleTime { ns: start_ns + (span(position) * 1e9) as i64, accuracy };
            let block = SampleBlock {
                samples,
                rate: world.sample_rate,
                frequency: Some(world.frequency),
                position,
                last: false,
                gap: None,
                time: Some(time),
            };
            // The last sample is there when the block is due, however long it takes to compute.
            let arrival = Arrival { complete: due, decoded: clock::now() };
            let pts = (span(position) * 1e9) as Nanos;
            let mut frame = Frame::new(intake.capture(due), Some(pts), arrival, Payload::Samples(Arc::new(block)));
            let [east_m, north_m] = Transmitter::of(world, seconds).at;
            let (lat, lon) = world.lat_lon(east_m, north_m);
            let told = json!({ "east_m": east_m, "north_m": north_m, "lat": lat, "lon": lon });
            frame.annotations.extra.insert(KEY.into(), told);
            if intake.submit(frame) == Flow::Stop {
                return Ok(());
            }
            position = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn world() -> World {
        World::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(WORLD)).expect("the world")
    }

    #[test]
    fn the_transmitter_stays_in_its_square_and_within_its_speed() {
        let world = world();
        for minute in 0..3000 {
            let seconds = 1.7e9 + f64::from(minute) * 60.0;
            let (a, b) = (Transmitter::of(&world, seconds), Transmitter::of(&world, seconds + 1.0));
            assert!(a.at.iter().all(|v| v.abs() <= world.half_side_m));
            let moved = (b.at[0] - a.at[0]).hypot(b.at[1] - a.at[1]);
            assert!(moved <= world.speed_mps * 1.001, "{moved} m in a second");
            assert!((moved - a.velocity[0].hypot(a.velocity[1])).abs() < 0.1);
        }
    }

    #[test]
    fn a_station_hears_the_level_that_the_world_says_above_its_noise() {
        let world = World { on_s: [5.0, 5.0], off_s: [0.0, 0.0], shadow_sigma_db: 0.0, ..world() };
        let silent = World { power_db: [-200.0, -200.0], ..world.clone() };
        let power = |world: &World, number: usize| {
            let mut samples = vec![Complex32::default(); 22_050];
            Receiver::new(world, number).hear(1.7e9, &mut samples);
            10.0 * (samples.iter().map(|s| f64::from(s.norm_sqr())).sum::<f64>() / samples.len() as f64).log10()
        };
        let tx = Transmitter::of(&world, 1.7e9);
        for (number, station) in world.stations.iter().enumerate() {
            let noise = power(&silent, number);
            assert!((noise - world.noise_dbfs).abs() < 0.2, "noise of {noise} dBFS");
            let level = world.level_dbfs(station, tx.at[0], tx.at[1], tx.power_db);
            let both = 10.0 * (10f64.powf(level / 10.0) + 10f64.powf(world.noise_dbfs / 10.0)).log10();
            let heard = power(&world, number);
            assert!((heard - both).abs() < 0.2, "station {}: {heard} dBFS, not {both}", station.id);
        }
    }

    #[test]
    fn two_stations_hear_the_same_words_at_the_same_time() {
        let world = world();
        let (mut a, mut b) = (Speech::new(&world), Speech::new(&world));
        let times = (0..20_000).map(|n| 1.7e9 + f64::from(n) * 1e-3);
        let said: Vec<(bool, f64)> = times.clone().map(|t| (a.keyed(t), a.phase(t))).collect();
        assert!(times.zip(&said).all(|(t, &(keyed, phase))| b.keyed(t) == keyed && b.phase(t) == phase));
        let share = said.iter().filter(|(keyed, _)| *keyed).count() as f64 / said.len() as f64;
        assert!((0.4..0.98).contains(&share), "keyed {share} of the time");
    }
}
