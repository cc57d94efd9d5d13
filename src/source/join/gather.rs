//! What belongs together: parts of several stations, gathered by time. Knows no clock of its own.

use crate::frame::exchange::Handed;
use crate::frame::{Joined, Missing, Nanos, Seat};
use std::sync::Arc;

/// How parts are gathered.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The stations, in the order of their seats.
    pub stations: Vec<Arc<str>>,
    /// How far apart parts may be that belong together, nanoseconds.
    pub tolerance: i64,
    /// How long after its last sample a group waits for other stations; `None` offline, where it waits for the streams.
    pub wait: Option<Nanos>,
    /// Fewest stations that make a frame.
    pub least: usize,
}

/// A station that was missing from so many groups in a row is not waited for.
const DOWN: u32 = 3;

/// A part of a station.
#[derive(Debug)]
pub struct Part {
    /// Which station.
    pub seat: usize,
    /// What tells which parts belong together, nanoseconds of the clock that all stations share.
    pub moment: i64,
    /// When its last sample was taken, by the host's clock.
    pub captured: Nanos,
    /// What it is.
    pub handed: Arc<Handed>,
}

struct Group {
    moment: i64,
    captured: Nanos,
    parts: Vec<Option<Arc<Handed>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Station {
    /// Groups in a row that it was missing from.
    missed: u32,
    /// Nothing more will come of it.
    ended: bool,
    /// The newest moment of what came of it.
    newest: Option<i64>,
}

/// A finished group.
#[derive(Debug)]
pub struct Gathered {
    /// When the last sample of its first part was taken.
    pub captured: Nanos,
    /// What it has.
    pub joined: Joined,
}

/// Gathers parts.
pub struct Gatherer {
    rules: Rules,
    /// In the order of their moments.
    groups: Vec<Group>,
    stations: Vec<Station>,
    /// The moment of the last group that was given out.
    given: Option<i64>,
    late: u64,
    few: u64,
}

impl Gatherer {
    /// Nothing gathered yet.
    pub fn new(rules: Rules) -> Self {
        let stations = vec![Station::default(); rules.stations.len()];
        Self { rules, groups: Vec::new(), stations, given: None, late: 0, few: 0 }
    }

    /// Takes a part in. One whose group is gone already is counted as late.
    pub fn add(&mut self, part: Part) {
        let station = &mut self.stations[part.seat];
        station.newest = station.newest.max(Some(part.moment));
        if self.given.is_some_and(|given| part.moment <= given + self.rules.tolerance) {
            self.late += 1;
            // It is there, if late: the next group waits for it again.
            station.missed = 0;
            return;
        }
        let near = |g: &Group| (g.moment - part.moment).abs();
        let tolerance = self.rules.tolerance;
        let group = self
            .groups
            .iter_mut()
            .filter(|g| near(g) <= tolerance && g.parts[part.seat].is_none())
            .min_by_key(|g| near(g));
        if let Some(group) = group {
            group.captured = group.captured.min(part.captured);
            group.parts[part.seat] = Some(part.handed);
            return;
        }
        let mut parts = vec![None; self.stations.len()];
        parts[part.seat] = Some(part.handed);
        let at = self.groups.partition_point(|g| g.moment <= part.moment);
        self.groups.insert(at, Group { moment: part.moment, captured: part.captured, parts });
    }

    /// A station will bring nothing more.
    pub fn end(&mut self, seat: usize) {
        self.stations[seat].ended = true;
    }

    /// Whether no station will bring anything more.
    pub fn is_over(&self) -> bool {
        self.stations.iter().all(|s| s.ended)
    }

    /// Parts that came too late so far, and groups with too few stations.
    pub fn left_out(&self) -> (u64, u64) {
        (self.late, self.few)
    }

    /// When the next group is given out, even if nothing more comes.
    pub fn due(&self) -> Option<Nanos> {
        Some(self.groups.first()?.captured.saturating_add(self.rules.wait?))
    }

    /// The next group, where it is complete or must not wait any longer.
    pub fn next(&mut self, now: Nanos) -> Option<Gathered> {
        loop {
            let first = self.groups.first()?;
            let expired = self.due().is_some_and(|due| now >= due);
            if !expired && (0..self.stations.len()).any(|seat| self.lacks(first, seat)) {
                return None;
            }
            let group = self.groups.remove(0);
            self.given = Some(group.moment);
            let mut seats = Vec::with_capacity(group.parts.len());
            for ((station, name), part) in self.stations.iter_mut().zip(&self.rules.stations).zip(group.parts) {
                station.missed = if part.is_some() { 0 } else { station.missed.saturating_add(1) };
                let why = if station.ended || station.missed > DOWN { Missing::Down } else { Missing::Late };
                seats.push(Seat { station: name.clone(), part: part.ok_or(why) });
            }
            if seats.iter().filter(|s| s.part.is_ok()).count() >= self.rules.least {
                return Some(Gathered { captured: group.captured, joined: Joined { seats } });
            }
            self.few += 1;
        }
    }

    /// Whether this group waits for a station.
    fn lacks(&self, group: &Group, seat: usize) -> bool {
        let station = &self.stations[seat];
        let passed = station.newest.is_some_and(|newest| newest > group.moment + self.rules.tolerance);
        let waited_for = self.rules.wait.is_none() || station.missed < DOWN;
        group.parts[seat].is_none() && !station.ended && !passed && waited_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Annotations, Arrival, Payload, Stream};
    use proptest::prelude::*;

    fn gatherer(stations: usize, wait: Option<Nanos>) -> Gatherer {
        let names = (0..stations).map(|n| format!("s{n}").into()).collect();
        Gatherer::new(Rules { stations: names, tolerance: 10, wait, least: 1 })
    }

    fn part(seat: usize, moment: i64) -> Part {
        let handed = Handed {
            stream: Arc::new(Stream::new("s", 0, None, 0, true)),
            captured: moment as Nanos,
            arrival: Arrival::default(),
            pts: None,
            payload: Payload::Empty,
            annotations: Annotations::default(),
        };
        Part { seat, moment, captured: moment as Nanos, handed: Arc::new(handed) }
    }

    /// Who is there, and why the others are not.
    fn seats(gathered: &Gathered) -> String {
        let seat = |s: &Seat| match s.part {
            Ok(_) => "x",
            Err(Missing::Late) => "l",
            Err(Missing::Down) => "d",
        };
        gathered.joined.seats.iter().map(seat).collect()
    }

    #[test]
    fn a_group_goes_when_it_is_whole_or_has_waited_long_enough() {
        let mut g = gatherer(3, Some(50));
        g.add(part(0, 100));
        g.add(part(2, 105));
        assert!(g.next(149).is_none() && g.due() == Some(150));
        g.add(part(1, 94));
        let whole = g.next(110).expect("whole");
        assert_eq!((seats(&whole).as_str(), whole.captured), ("xxx", 94));
        g.add(part(0, 200));
        assert!(g.next(249).is_none());
        assert_eq!(seats(&g.next(250).expect("expired")), "xll");
        g.add(part(1, 204));
        assert_eq!((g.left_out().0, g.next(1000).is_none()), (1, true), "late");
    }

    #[test]
    fn a_station_that_is_down_is_not_waited_for_until_it_comes_back() {
        let mut g = gatherer(2, Some(50));
        let mut told = String::new();
        for n in 1..=6 {
            g.add(part(0, n * 100));
            // Until it is known to be down, its group waits.
            let at_once = g.next(n as Nanos * 100 + 1);
            assert_eq!(at_once.is_some(), n > 3, "{n}");
            told += &seats(&at_once.or_else(|| g.next(n as Nanos * 100 + 50)).expect("given"));
        }
        assert_eq!(told, "xlxlxlxdxdxd");
        g.add(part(1, 601));
        g.add(part(0, 700));
        assert!(g.next(701).is_none(), "waited for again");
        g.add(part(1, 701));
        assert_eq!(seats(&g.next(702).expect("whole")), "xx");
    }

    #[test]
    fn groups_keep_their_order_and_a_station_that_is_further_on_is_not_waited_for() {
        let mut g = gatherer(2, Some(1000));
        g.add(part(0, 100));
        g.add(part(0, 200));
        g.add(part(1, 200));
        assert_eq!(seats(&g.next(201).expect("the first")), "xl");
        assert_eq!(seats(&g.next(201).expect("the second")), "xx");
    }

    #[test]
    fn offline_everything_is_waited_for_and_an_end_lets_go() {
        let mut g = gatherer(3, None);
        g.add(part(0, 100));
        g.add(part(1, 100));
        assert!(g.next(Nanos::MAX).is_none() && g.due().is_none());
        g.end(2);
        assert_eq!(seats(&g.next(0).expect("given")), "xxd");
        (0..2).for_each(|seat| g.end(seat));
        assert!(g.is_over());
    }

    #[test]
    fn groups_of_too_few_are_counted_and_left_out() {
        let mut g = gatherer(2, Some(50));
        g.rules.least = 2;
        g.add(part(0, 100));
        assert!(g.next(200).is_none());
        assert_eq!(g.left_out(), (0, 1));
    }

    proptest! {
        #[test]
        fn every_part_is_in_one_group_or_late_and_moments_rise(
            parts in prop::collection::vec((0usize..4, 0i64..2000), 0..200),
        ) {
            let mut g = gatherer(4, Some(30));
            let (mut given, mut last) = (0, i64::MIN);
            let mut take = |g: &mut Gatherer, now: Nanos| {
                while let Some(x) = g.next(now) {
                    let moment = g.given.expect("given");
                    assert!(moment >= last);
                    last = moment;
                    given += x.joined.seats.iter().filter(|s| s.part.is_ok()).count() as u64;
                    for s in x.joined.seats.iter().filter_map(|s| s.part.as_ref().ok()) {
                        assert!((s.captured as i64 - moment).abs() <= 10);
                    }
                }
            };
            for &(seat, moment) in &parts {
                g.add(part(seat, moment));
                take(&mut g, moment as Nanos);
            }
            take(&mut g, Nanos::MAX);
            prop_assert_eq!(given + g.left_out().0, parts.len() as u64);
        }
    }
}
