//! Compact position reporting: positions sent in halves.
//!
//! A frame carries where an aircraft is within a zone; even and odd frames divide the globe into different zones, so
//! that one of each tells the zone (ICAO Doc 9871, appendix C). With a known position nearby, one frame is enough.

use serde::Serialize;
use std::collections::BTreeMap;

/// An encoded position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpr {
    /// Whether it is of an aircraft on the ground, whose zones are a quarter as large.
    pub surface: bool,
    /// Whether the zones are those of odd frames.
    pub odd: bool,
    /// Latitude within the zone, 17 bits.
    pub lat: u32,
    /// Longitude within the zone, 17 bits.
    pub lon: u32,
}

/// A place: degrees north and east.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Place {
    /// Latitude in degrees, −90 to 90.
    pub lat: f64,
    /// Longitude in degrees, −180 to 180.
    pub lon: f64,
}

/// Zones of latitude in a quarter of the globe.
const ZONES: f64 = 15.0;

/// How many zones of longitude there are at a latitude, 1 to 59.
pub fn zones_at(lat: f64) -> u32 {
    let lat = lat.abs();
    if lat >= 87.0 {
        return if lat > 87.0 { 1 } else { 2 };
    }
    let a = 1.0 - (std::f64::consts::PI / (2.0 * ZONES)).cos();
    let b = lat.to_radians().cos().powi(2);
    let nl = std::f64::consts::TAU / (1.0 - a / b).acos();
    (nl.floor() as u32).clamp(1, 59)
}

impl Cpr {
    fn lat_share(self) -> f64 {
        f64::from(self.lat) / 131_072.0
    }

    fn lon_share(self) -> f64 {
        f64::from(self.lon) / 131_072.0
    }

    /// Size of the whole that zones divide, in degrees.
    fn whole(self) -> f64 {
        if self.surface { 90.0 } else { 360.0 }
    }

    /// Where it is, given a place that is less than half a zone away: 180 nautical miles in the air, 45 on the ground.
    pub fn near(self, reference: Place) -> Option<Place> {
        let step = self.whole() / (4.0 * ZONES - f64::from(u8::from(self.odd)));
        let nearest = |reference: f64, step: f64, share: f64| step * ((reference / step - share + 0.5).floor() + share);
        let lat = nearest(reference.lat, step, self.lat_share());
        let zones = zones_at(lat).saturating_sub(u32::from(self.odd)).max(1);
        let lon = nearest(reference.lon, self.whole() / f64::from(zones), self.lon_share());
        place(lat, lon)
    }
}

/// Where an aircraft is, of one even and one odd frame; `newer` says which is the newer one, whose position is told.
/// Positions on the ground have four solutions (eight at the equator), of which the one nearest to `reference` is meant.
/// `None` where the two do not go together: they are of different zones.
pub fn both(even: Cpr, odd: Cpr, newer_odd: bool, reference: Option<Place>) -> Option<Place> {
    if even.odd || !odd.odd || even.surface != odd.surface || (even.surface && reference.is_none()) {
        return None;
    }
    let whole = even.whole();
    let (even_step, odd_step) = (whole / (4.0 * ZONES), whole / (4.0 * ZONES - 1.0));
    let index = ((4.0 * ZONES - 1.0) * even.lat_share() - 4.0 * ZONES * odd.lat_share() + 0.5).floor();
    let lat_of = |step: f64, zones: f64, share: f64| step * (index.rem_euclid(zones) + share);
    let south = |lat: f64| if lat >= 270.0 { lat - 360.0 } else { lat };
    let mut lats = (
        south(lat_of(even_step, 4.0 * ZONES, even.lat_share())),
        south(lat_of(odd_step, 4.0 * ZONES - 1.0, odd.lat_share())),
    );
    if let (true, Some(reference)) = (even.surface, reference) {
        // The same, a quarter of the globe further south.
        let lat = if newer_odd { lats.1 } else { lats.0 };
        if (lat - 90.0 - reference.lat).abs() < (lat - reference.lat).abs() {
            lats = (lats.0 - 90.0, lats.1 - 90.0);
        }
    }
    let zones = zones_at(lats.0);
    if zones != zones_at(lats.1) {
        return None;
    }
    let (lat, share, count) = if newer_odd {
        (lats.1, odd.lon_share(), zones.saturating_sub(1).max(1))
    } else {
        (lats.0, even.lon_share(), zones.max(1))
    };
    let m = f64::from(zones);
    let index = (even.lon_share() * (m - 1.0) - odd.lon_share() * m + 0.5).floor();
    let count = f64::from(count);
    let mut lon = whole / count * (index.rem_euclid(count) + share);
    if let (true, Some(reference)) = (even.surface, reference) {
        lon += 90.0 * ((reference.lon - lon) / 90.0).round();
    }
    place(lat, lon)
}

fn place(lat: f64, lon: f64) -> Option<Place> {
    let lon = (lon + 180.0).rem_euclid(360.0) - 180.0;
    (-90.0..=90.0).contains(&lat).then_some(Place { lat, lon })
}

/// Positions of many aircraft, from their frames.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    /// The receiver's place, which positions on the ground need.
    pub receiver: Option<Place>,
    aircraft: BTreeMap<u32, Halves>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Halves {
    even: Option<(Cpr, f64)>,
    odd: Option<(Cpr, f64)>,
    last: Option<(Place, f64)>,
    heard: f64,
}

/// How far apart the frames of a pair may be, in s: in the air and on the ground.
const PAIR: (f64, f64) = (10.0, 50.0);
/// How long a position can tell the zone of the next one, in s.
const LAST: f64 = 60.0;
/// The most aircraft that are followed.
const MOST: usize = 8192;

impl Positions {
    /// Takes a frame's position in and says where the aircraft is, once that can be told. `now` is in seconds, from any
    /// start, and does not go back.
    pub fn update(&mut self, icao: u32, cpr: Cpr, now: f64) -> Option<Place> {
        if !now.is_finite() {
            return None;
        }
        if self.aircraft.len() >= MOST && !self.aircraft.contains_key(&icao) {
            self.aircraft.retain(|_, a| now - a.heard <= LAST);
            let oldest = self.aircraft.iter().min_by(|a, b| a.1.heard.total_cmp(&b.1.heard)).map(|(&icao, _)| icao);
            if let (true, Some(oldest)) = (self.aircraft.len() >= MOST, oldest) {
                self.aircraft.remove(&oldest);
            }
        }
        let halves = self.aircraft.entry(icao).or_default();
        halves.heard = now;
        *if cpr.odd { &mut halves.odd } else { &mut halves.even } = Some((cpr, now));
        let reference = halves.last.filter(|(_, at)| now - at <= LAST).map(|(place, _)| place);
        let pair = halves.even.zip(halves.odd).and_then(|((even, t0), (odd, t1))| {
            let apart = if cpr.surface { PAIR.1 } else { PAIR.0 };
            ((t0 - t1).abs() <= apart).then(|| both(even, odd, cpr.odd, reference.or(self.receiver))).flatten()
        });
        // Two frames know more than one: the last position is only asked where there is no pair.
        let found = pair.or_else(|| cpr.near(reference?))?;
        halves.last = Some((found, now));
        Some(found)
    }
}
