//! A simulated world: receiving stations on flat ground, hills between them, and one transmitter that they all hear.
//!
//! A JSON file holds all of it. `scripts/train_locator.py` trains the locator on such a world, and simulated stations
//! live in the same one. What is drawn (place, speed, power, shadowing, clocks, speech) is up to who simulates; what is
//! fixed is computed here.
//!
//! Places are in metres east and north of the origin. Levels are powers of the complex envelope in dBFS.

use super::{SignalError, checked_rate};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Metres of a degree of latitude; of a degree of longitude at the equator.
pub const METRES_PER_DEGREE: f64 = 111_320.0;

/// Metres that radio travels in a second.
pub const LIGHT_MPS: f64 = 299_792_458.0;

/// Transmitters nearer than this, in metres, are no louder.
const NEAREST_M: f64 = 50.0;

/// Why a world cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not JSON, or has a key too many or too few.
    #[error("{}: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },
    /// A value makes no sense.
    #[error("{}: {source}", file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// Which one, and what it must be.
        source: SignalError,
    },
}

/// A point on the globe.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Latitude in degrees, −85 to 85.
    pub lat: f64,
    /// Longitude in degrees, −180 to 180.
    pub lon: f64,
}

/// A receiving station.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Station {
    /// Its name, lower-case letters, digits and hyphens; no other station's.
    pub id: String,
    /// Metres east of the origin.
    pub east_m: f64,
    /// Metres north of the origin.
    pub north_m: f64,
    /// What its antenna adds to every level, dB.
    pub gain_db: f64,
}

/// A hill, which weakens what passes over it.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hill {
    /// Metres east of the origin.
    pub east_m: f64,
    /// Metres north of the origin.
    pub north_m: f64,
    /// Its extent in metres: the standard deviation of a bell.
    pub radius_m: f64,
    /// The loss of a path over its top, dB.
    pub loss_db: f64,
}

/// The world. Pairs are the least and the greatest value of what is drawn evenly between them.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// Its name.
    pub name: String,
    /// The seed of what is drawn in it.
    pub seed: u64,
    /// Where 0 metres east and north are.
    pub origin: Origin,
    /// Transmitters are this far from the origin at most, east, west, north and south; metres.
    pub half_side_m: f64,
    /// Samples a second of every station.
    pub sample_rate: f64,
    /// Centre of what the stations receive, Hz.
    pub frequency: f64,
    /// The stations, in the order of the locator's inputs.
    pub stations: Vec<Station>,
    /// Level at 1 km in the open of a transmitter of 0 dB at a station of 0 dB, dBFS.
    pub reference_dbfs: f64,
    /// Power falls with distance to the power of this; 2 in free space.
    pub path_exponent: f64,
    /// Power of a station's noise in its whole band, dBFS.
    pub noise_dbfs: f64,
    /// Power of transmitters, dB.
    pub power_db: [f64; 2],
    /// Standard deviation of what every path loses or gains beyond hills, dB; drawn once a transmitter and station.
    pub shadow_sigma_db: f64,
    /// The hills.
    pub hills: Vec<Hill>,
    /// Greatest offset of a transmitter from the centre, Hz, up or down.
    pub offset_hz: f64,
    /// Standard deviation of a station's oscillator from the centre, Hz.
    pub oscillator_hz: f64,
    /// Greatest speed of a transmitter, m/s.
    pub speed_mps: f64,
    /// Standard deviation of a station's clock, seconds.
    pub clock_error_s: f64,
    /// How long a transmitter is keyed, seconds.
    pub on_s: [f64; 2],
    /// How long it is silent in between, seconds.
    pub off_s: [f64; 2],
    /// After this many seconds its tones change.
    pub syllable_s: f64,
    /// Tones at a time.
    pub tones: usize,
    /// Their frequencies, Hz.
    pub tone_hz: [f64; 2],
    /// Their modulation index: radians of phase at the top of each tone.
    pub index: [f64; 2],
}

impl World {
    /// Reads a world's file.
    ///
    /// # Errors
    /// The file and what is wrong with it.
    pub fn read(file: &Path) -> Result<Self, WorldError> {
        let text = std::fs::read(file).map_err(|source| WorldError::Io { file: file.to_owned(), source })?;
        let world: Self =
            serde_json::from_slice(&text).map_err(|source| WorldError::Json { file: file.to_owned(), source })?;
        world.check().map_err(|source| WorldError::Value { file: file.to_owned(), source })?;
        Ok(world)
    }

    /// Number of the station of this name.
    pub fn station(&self, id: &str) -> Option<usize> {
        self.stations.iter().position(|s| s.id == id)
    }

    /// Latitude and longitude, in degrees, of a place in metres east and north of the origin.
    pub fn lat_lon(&self, east: f64, north: f64) -> (f64, f64) {
        let degree = METRES_PER_DEGREE * self.origin.lat.to_radians().cos();
        (self.origin.lat + north / METRES_PER_DEGREE, self.origin.lon + east / degree)
    }

    /// Metres from a station to a place.
    pub fn distance_m(&self, station: &Station, east: f64, north: f64) -> f64 {
        (east - station.east_m).hypot(north - station.north_m)
    }

    /// Level at which a station hears a transmitter of this power (dB) at this place while it is keyed, dBFS; without
    /// what is drawn for the path.
    pub fn level_dbfs(&self, station: &Station, east: f64, north: f64, power_db: f64) -> f64 {
        let far = self.distance_m(station, east, north).max(NEAREST_M) / 1000.0;
        let hills: f64 = self.hills.iter().map(|h| h.loss_db(station, east, north)).sum();
        self.reference_dbfs + power_db + station.gain_db - 10.0 * self.path_exponent * far.log10() - hills
    }

    fn check(&self) -> Result<(), SignalError> {
        within("the origin's latitude", self.origin.lat, -85.0, 85.0)?;
        within("the origin's longitude", self.origin.lon, -180.0, 180.0)?;
        within("half_side_m", self.half_side_m, 1.0, 200_000.0)?;
        let rate = checked_rate(self.sample_rate)?;
        within("frequency", self.frequency, 1.0, 1e12)?;
        if self.stations.is_empty() || self.stations.len() > 64 {
            return Err(SignalError::new("the number of stations", self.stations.len(), "1 to 64"));
        }
        for (i, station) in self.stations.iter().enumerate() {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            if station.id.is_empty() || !station.id.chars().all(plain) {
                let must = "lower-case letters, digits and hyphens";
                return Err(SignalError::new("a station's id", format!("{:?}", station.id), must));
            }
            if self.station(&station.id) != Some(i) {
                return Err(SignalError::new("a station's id", &station.id, "no other station's"));
            }
            within("a station's east_m", station.east_m, -200_000.0, 200_000.0)?;
            within("a station's north_m", station.north_m, -200_000.0, 200_000.0)?;
            within("a station's gain_db", station.gain_db, -200.0, 200.0)?;
        }
        if self.hills.len() > 10_000 {
            return Err(SignalError::new("the number of hills", self.hills.len(), "at most 10000"));
        }
        for hill in &self.hills {
            within("a hill's east_m", hill.east_m, -200_000.0, 200_000.0)?;
            within("a hill's north_m", hill.north_m, -200_000.0, 200_000.0)?;
            within("a hill's radius_m", hill.radius_m, 1.0, 200_000.0)?;
            within("a hill's loss_db", hill.loss_db, 0.0, 200.0)?;
        }
        within("reference_dbfs", self.reference_dbfs, -200.0, 200.0)?;
        within("path_exponent", self.path_exponent, 0.0, 10.0)?;
        within("noise_dbfs", self.noise_dbfs, -200.0, 0.0)?;
        range("power_db", self.power_db, -200.0, 200.0)?;
        within("shadow_sigma_db", self.shadow_sigma_db, 0.0, 50.0)?;
        within("offset_hz", self.offset_hz, 0.0, rate / 2.0)?;
        within("oscillator_hz", self.oscillator_hz, 0.0, rate / 2.0)?;
        within("speed_mps", self.speed_mps, 0.0, 10_000.0)?;
        within("clock_error_s", self.clock_error_s, 0.0, 1.0)?;
        range("on_s", self.on_s, 0.001, 3600.0)?;
        range("off_s", self.off_s, 0.0, 3600.0)?;
        within("syllable_s", self.syllable_s, 0.001, 3600.0)?;
        if !(1..=64).contains(&self.tones) {
            return Err(SignalError::new("tones", self.tones, "1 to 64"));
        }
        range("tone_hz", self.tone_hz, 0.0, rate / 2.0)?;
        range("index", self.index, 0.0, 100.0)
    }
}

impl Hill {
    /// What a path from a station to a place loses on it, dB.
    fn loss_db(&self, station: &Station, east: f64, north: f64) -> f64 {
        let (along_e, along_n) = (east - station.east_m, north - station.north_m);
        let (to_e, to_n) = (self.east_m - station.east_m, self.north_m - station.north_m);
        // Where the path is nearest to the top; a path of no length is its own nearest point.
        let length = along_e * along_e + along_n * along_n;
        let share = if length > 0.0 { ((to_e * along_e + to_n * along_n) / length).clamp(0.0, 1.0) } else { 0.0 };
        let past = (to_e - share * along_e).hypot(to_n - share * along_n) / self.radius_m;
        self.loss_db * (-0.5 * past * past).exp()
    }
}

fn within(what: &'static str, value: f64, least: f64, most: f64) -> Result<(), SignalError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(SignalError::new(what, value, format!("{least} to {most}")))
}

fn range(what: &'static str, [low, high]: [f64; 2], least: f64, most: f64) -> Result<(), SignalError> {
    if low <= high && low >= least && high <= most {
        return Ok(());
    }
    Err(SignalError::new(what, format!("{low} to {high}"), format!("rising, from {least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/locator.world.json")
    }

    fn refused(change: impl Fn(&mut serde_json::Value)) -> String {
        let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(file()).unwrap()).unwrap();
        change(&mut json);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.json");
        std::fs::write(&path, serde_json::to_string_pretty(&json).unwrap()).unwrap();
        World::read(&path).unwrap_err().to_string()
    }

    #[test]
    fn the_locators_world_is_read() {
        let world = World::read(&file()).unwrap();
        assert_eq!(world.stations.len(), 5);
        assert_eq!(world.station("giaveno"), Some(0));
        assert_eq!(world.station("turin"), None);
        let (lat, lon) = world.lat_lon(0.0, 1113.2);
        assert!((lat - world.origin.lat - 0.01).abs() < 1e-12 && lon == world.origin.lon);
        // A degree of longitude is shorter than one of latitude, by the cosine of 45.04 degrees.
        let (lat, lon) = world.lat_lon(1113.2, 0.0);
        assert!((lon - world.origin.lon - 0.014_152).abs() < 1e-6 && lat == world.origin.lat, "{lon}");
    }

    #[test]
    fn a_path_over_a_hill_loses_what_the_hill_says() {
        let mut world = World::read(&file()).unwrap();
        let station = Station { id: "a".into(), east_m: 0.0, north_m: 0.0, gain_db: 3.0 };
        world.hills = vec![Hill { east_m: 1000.0, north_m: 0.0, radius_m: 100.0, loss_db: 12.0 }];
        (world.reference_dbfs, world.path_exponent) = (-30.0, 2.0);
        let level = |east, north| world.level_dbfs(&station, east, north, 1.0);
        // 2 km: 6.02 dB below the reference; over the top all of the loss.
        assert!((level(2000.0, 0.0) - (-30.0 + 1.0 + 3.0 - 6.0206 - 12.0)).abs() < 1e-4);
        // The other way, as far: the hill lies behind the station, ten radii off.
        assert!((level(-2000.0, 0.0) - (-26.0 - 6.0206)).abs() < 1e-4);
        // A path that ends one radius before the top.
        assert!((level(900.0, 0.0) - (-26.0 + 0.9151 - 12.0 * (-0.5f64).exp())).abs() < 1e-3);
        // Nearer than 50 m nothing grows any more, at the station itself neither.
        assert!((level(10.0, 0.0) - level(0.0, 0.0)).abs() < 1e-9);
        assert!((level(0.0, 0.0) - (-26.0 + 26.0206)).abs() < 1e-4);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let e = refused(|w| w["half_side"] = 3.into());
        assert!(e.contains("w.json") && e.contains("half_side") && e.contains("line"), "{e}");
        let e = refused(|w| {
            w.as_object_mut().unwrap().remove("tones");
        });
        assert!(e.contains("tones"), "{e}");
        for (key, value, part) in [
            ("half_side_m", serde_json::json!(0), "half_side_m"),
            ("sample_rate", serde_json::json!(-1), "sample rate"),
            ("power_db", serde_json::json!([10, -10]), "10 to -10"),
            ("stations", serde_json::json!([]), "number of stations"),
            ("shadow_sigma_db", serde_json::json!(-2), "shadow_sigma_db"),
            ("tone_hz", serde_json::json!([300, 30000]), "tone_hz"),
            ("tones", serde_json::json!(0), "tones"),
            ("noise_dbfs", serde_json::json!(10), "noise_dbfs"),
        ] {
            let e = refused(|w| w[key] = value.clone());
            assert!(e.contains("w.json") && e.contains(part), "{key}: {e}");
        }
        let e = refused(|w| w["stations"][1]["id"] = "giaveno".into());
        assert!(e.contains("giaveno") && e.contains("no other"), "{e}");
        let e = refused(|w| w["stations"][1]["id"] = "Giaveno 2".into());
        assert!(e.contains("lower-case"), "{e}");
        let e = refused(|w| w["hills"][0]["radius_m"] = 0.into());
        assert!(e.contains("radius_m"), "{e}");
        let e = World::read(Path::new("/nowhere/w.json")).unwrap_err().to_string();
        assert!(e.contains("/nowhere/w.json"), "{e}");
    }
}
