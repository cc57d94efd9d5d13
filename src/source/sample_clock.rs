//! A receiver's sample clock against the host's: how much faster or slower it runs, and when a sample was taken.
//!
//! Samples are never early and often late: by the receiver's buffers, the network, and a busy host. So of every span of
//! stream time only the least late arrival counts, and a line is laid through these by the median of the slopes between
//! all pairs (Theil and Sen), which a third of them may contradict. Pure: time comes in as an argument.

use crate::frame::{ClockReading, Nanos};
use std::collections::VecDeque;
use std::time::Duration;

/// Points that the line is laid through, at most.
const POINTS: usize = 64;
/// Fewest that say something.
const FEWEST: usize = 5;
/// Stream time of a point at first, and at most: then the window moves. Seconds.
const SPAN: [f64; 2] = [1.0, 16.0];
/// How sure the uncertainty is, in standard deviations: 95 %.
const SURE: f64 = 1.96;

/// An arrival.
#[derive(Debug, Clone, Copy)]
struct Point {
    /// Stream time since the origin, by the stated rate, seconds.
    at: f64,
    /// How much later than the stated rate says, seconds; the origin's is 0.
    late: f64,
}

/// A line through the points: `late = offset + slope · at`.
#[derive(Debug, Clone, Copy)]
struct Line {
    slope: f64,
    offset: f64,
    uncertainty: f64,
    /// How far the points are from it.
    spread: f64,
    seconds: f64,
}

/// Watches the arrivals of one stream.
#[derive(Debug)]
pub struct SampleClock {
    rate: f64,
    /// Position and arrival of the first block.
    origin: Option<(u64, Nanos)>,
    points: VecDeque<Point>,
    span: f64,
    /// Where the span at hand ends, and the least late arrival in it.
    until: f64,
    least: Option<Point>,
    line: Option<Line>,
}

impl SampleClock {
    /// A clock of so many samples a second, by what is stated.
    pub fn new(rate: f64) -> Self {
        Self {
            rate,
            origin: None,
            points: VecDeque::with_capacity(POINTS),
            span: SPAN[0],
            until: SPAN[0],
            least: None,
            line: None,
        }
    }

    /// Begins anew: how many samples are missing is not known exactly.
    pub fn restart(&mut self) {
        *self = Self::new(self.rate);
    }

    /// The sample before `position` arrived at `at`. Says whether there is a new reading.
    pub fn arrived(&mut self, position: u64, at: Nanos) -> bool {
        let (first, origin) = *self.origin.get_or_insert((position, at));
        let time = position.saturating_sub(first) as f64 / self.rate;
        let point = Point { at: time, late: (at as i64 - origin as i64) as f64 / 1e9 - time };
        let mut new = false;
        if time >= self.until {
            if let Some(least) = self.least.take() {
                self.keep(least);
                new = self.lay();
            }
            self.until = (time / self.span).floor().mul_add(self.span, self.span);
        }
        if self.least.is_none_or(|l| point.late < l.late) {
            self.least = Some(point);
        }
        new
    }

    fn keep(&mut self, point: Point) {
        if self.points.len() == POINTS {
            if self.span < SPAN[1] {
                // Twice the span for each point: of two the less late one stays.
                let all: Vec<Point> = self.points.drain(..).collect();
                let better = |p: &[Point]| p.iter().copied().min_by(|a, b| a.late.total_cmp(&b.late));
                self.points.extend(all.chunks(2).filter_map(better));
                self.span *= 2.0;
            } else {
                self.points.pop_front();
            }
        }
        self.points.push_back(point);
    }

    /// Lays the line through the points.
    fn lay(&mut self) -> bool {
        let points = self.points.make_contiguous();
        let n = points.len();
        if n < FEWEST {
            return false;
        }
        let mut slopes: Vec<f64> = (1..n)
            .flat_map(|j| (0..j).map(move |i| (i, j)))
            .map(|(i, j)| (points[j].late - points[i].late) / (points[j].at - points[i].at))
            .collect();
        slopes.sort_by(f64::total_cmp);
        let slope = median(&slopes);
        // Kendall: how many pairs may contradict by chance.
        let (pairs, n) = (slopes.len(), n as f64);
        let by_chance = SURE * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
        let low = ((pairs as f64 - by_chance) / 2.0).floor().max(0.0) as usize;
        let high = (((pairs as f64 + by_chance) / 2.0).ceil() as usize).min(pairs - 1);
        let seconds = points[points.len() - 1].at - points[0].at;
        // Clocks are read to a microsecond at best.
        let uncertainty = (slopes[high] - slope).max(slope - slopes[low]).max(1e-6 / seconds);
        let mut offsets: Vec<f64> = points.iter().map(|p| p.late - slope * p.at).collect();
        let newest = offsets[offsets.len() - FEWEST / 2..].to_vec();
        offsets.sort_by(f64::total_cmp);
        let offset = median(&offsets);
        // Nine of ten points are nearer, and the newest ones too: a step shows at once.
        let mut off: Vec<f64> = offsets.iter().map(|o| (o - offset).abs()).collect();
        off.sort_by(f64::total_cmp);
        let spread = newest.iter().map(|o| (o - offset).abs()).fold(off[off.len() * 9 / 10], f64::max);
        self.line = Some(Line { slope, offset, uncertainty, spread, seconds });
        true
    }

    /// How fast it runs; `None` for the first seconds.
    pub fn reading(&self) -> Option<ClockReading> {
        let line = self.line?;
        // Later and later is slower and slower.
        let drift_ppm = (1.0 / (1.0 + line.slope) - 1.0) * 1e6;
        Some(ClockReading { drift_ppm, uncertainty_ppm: line.uncertainty * 1e6, seconds: line.seconds })
    }

    /// When the sample at `position` arrived or would have, had nothing delayed it more than the least delayed ones, by
    /// the host's clock; and how far that may be off by what varies. `None` for the first seconds.
    pub fn time(&self, position: u64) -> Option<(i64, Duration)> {
        let (line, (first, origin)) = (self.line?, self.origin?);
        let at = (position as i64 - first as i64) as f64 / self.rate;
        let late = line.slope.mul_add(at, line.offset);
        // The line is surest in the middle of its points.
        let beyond = (at - self.points.back()?.at).abs() + line.seconds / 2.0;
        let accuracy = line.uncertainty.mul_add(beyond, line.spread);
        Some((origin as i64 + ((at + late) * 1e9) as i64, Duration::try_from_secs_f64(accuracy).ok()?))
    }
}

/// The middle of sorted numbers, of which there is one at least.
fn median(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[half] } else { (sorted[half - 1] + sorted[half]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::clock::{MILLI, SECOND};

    /// Runs a receiver of a true rate for so many seconds in blocks of 50 ms; each block is late by what `late` says of
    /// its number. Returns the clock, where it stands and the true time there.
    fn run(ppm: f64, seconds: u64, mut late: impl FnMut(u64) -> Nanos) -> (SampleClock, u64, Nanos) {
        let (rate, block) = (1e6, 50_000);
        let mut clock = SampleClock::new(rate);
        let (mut position, mut time) = (0, 0);
        for n in 1..=seconds * 20 {
            position = n * block;
            time = 7 * SECOND + (position as f64 / (rate * (1.0 + ppm / 1e6)) * 1e9) as Nanos;
            clock.arrived(position, time + late(n));
        }
        (clock, position, time)
    }

    /// Delays as networks have them: mostly short, sometimes long, never negative.
    fn jitter(seed: u64) -> impl FnMut(u64) -> Nanos {
        let mut random = fastrand::Rng::with_seed(seed);
        move |_| {
            let usual = -(1.0 - random.f64()).ln() * 2e6;
            let rare = if random.u32(..50) == 0 { random.f64() * 80e6 } else { 0.0 };
            (usual + rare) as Nanos
        }
    }

    #[test]
    fn a_drift_is_found_among_delays_and_the_uncertainty_holds() {
        for (ppm, seconds, near) in [(0.0, 60, 10.0), (40.0, 300, 2.0), (-75.0, 300, 2.0), (2.0, 3600, 0.5)] {
            let mut within = 0;
            for seed in 0..20 {
                let reading = run(ppm, seconds, jitter(seed)).0.reading().expect("a reading");
                let off = (reading.drift_ppm - ppm).abs();
                assert!(off < near, "{ppm} over {seconds} s: {reading:?}");
                within += usize::from(off <= reading.uncertainty_ppm);
            }
            assert!(within >= 17, "{ppm} over {seconds} s: {within} of 20 within their uncertainty");
        }
    }

    #[test]
    fn a_longer_look_is_a_surer_one_and_the_window_is_bounded() {
        let at = |seconds| run(10.0, seconds, jitter(3)).0;
        let (short, long) = (at(10).reading().expect("a reading"), at(1000).reading().expect("a reading"));
        assert!(long.uncertainty_ppm < short.uncertainty_ppm / 20.0, "{short:?} {long:?}");
        let day = at(86400);
        let reading = day.reading().expect("a reading");
        assert!(day.points.len() <= POINTS && (500.0..1100.0).contains(&reading.seconds), "{reading:?}");
    }

    #[test]
    fn a_quarter_of_an_hour_of_trouble_does_not_bend_it() {
        // A busy network for a third of the time: everything is 30 ms late.
        let mut usual = jitter(9);
        let busy = move |n| usual(n) + if n % 600 < 200 { 30 * MILLI } else { 0 };
        let reading = run(25.0, 600, busy).0.reading().expect("a reading");
        assert!((reading.drift_ppm - 25.0).abs() < 5.0, "{reading:?}");
    }

    #[test]
    fn a_sample_s_time_is_as_good_as_it_says() {
        let (clock, position, truth) = run(50.0, 120, jitter(5));
        let (time, accuracy) = clock.time(position).expect("a time");
        let off = Duration::from_nanos((time - truth as i64).unsigned_abs());
        assert!(off <= accuracy && accuracy < Duration::from_millis(2), "{off:?} {accuracy:?}");
        // Samples that are missing unseen move it: then it says that it may be wrong by as much.
        let (clock, position, truth) = run(0.0, 120, |n| if n > 2300 { 200 * MILLI } else { 0 });
        let (time, accuracy) = clock.time(position).expect("a time");
        let off = Duration::from_nanos((time - truth as i64).unsigned_abs());
        assert!(off <= accuracy && accuracy > Duration::from_millis(150), "{off:?} {accuracy:?}");
    }

    #[test]
    fn nothing_is_said_before_there_is_something_to_say_or_after_a_restart() {
        let (mut clock, ..) = run(0.0, 4, |_| 0);
        assert!(clock.reading().is_none() && clock.time(10).is_none());
        let (long, ..) = run(0.0, 30, |_| 0);
        assert!(long.reading().is_some());
        clock.restart();
        assert!(clock.reading().is_none());
        // The same moment twice, and time that goes back, are survived.
        for at in [5, 5, 3, 0] {
            clock.arrived(at, at);
        }
    }
}
