//! What a frame says.

use super::cpr::Cpr;
use super::frame::Raw;
use serde::Serialize;

/// A frame's content.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Message {
    /// Downlink format.
    pub format: u8,
    /// Address of the aircraft: 24 bits.
    #[serde(serialize_with = "hex")]
    pub icao: u32,
    /// The rest.
    #[serde(flatten)]
    pub body: Body,
}

fn hex<S: serde::Serializer>(icao: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{icao:06x}"))
}

/// What a frame says beside who sent it. Altitudes are in feet.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Body {
    /// Format 11: I am here.
    AllCall {
        /// What the transponder can do, 0 to 7.
        capability: u8,
        /// The ground station that asked; 0 where none did.
        interrogator: u8,
    },
    /// Formats 0 and 16: to another aircraft.
    AirToAir {
        /// Barometric altitude.
        altitude: Option<i32>,
        /// Whether it says that it is on the ground.
        on_ground: bool,
    },
    /// Formats 4 and 20: an altitude for a ground station.
    Altitude {
        /// Barometric altitude.
        altitude: Option<i32>,
        /// Flight status, 0 to 7.
        status: u8,
    },
    /// Formats 5 and 21: an identity for a ground station.
    Identity {
        /// Four octal digits, as a decimal number.
        squawk: u16,
        /// Flight status, 0 to 7.
        status: u8,
    },
    /// Formats 17 and 18: ADS-B and its relatives.
    Extended {
        /// Capability (17) or kind of sender (18), 0 to 7.
        control: u8,
        /// What is said.
        #[serde(flatten)]
        what: Extended,
    },
    /// Format 24: part of a longer message.
    Long,
}

/// The content of an extended squitter.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "extended", rename_all = "kebab-case")]
pub enum Extended {
    /// Type codes 1 to 4.
    Identification {
        /// Type code times 10 plus the category within it.
        category: u8,
        /// Letters, digits and spaces, without those at the end.
        callsign: String,
    },
    /// Type codes 5 to 8.
    Surface {
        /// Ground speed in knots.
        speed: Option<f32>,
        /// Track over ground in degrees from north.
        track: Option<f32>,
        /// The position.
        #[serde(skip)]
        cpr: Cpr,
    },
    /// Type codes 9 to 18 and 20 to 22.
    Airborne {
        /// Altitude in feet.
        altitude: Option<i32>,
        /// Whether the altitude is by satellite rather than barometric.
        geometric: bool,
        /// Surveillance status, 0 to 3; 1 is an emergency.
        status: u8,
        /// The position.
        #[serde(skip)]
        cpr: Cpr,
    },
    /// Type code 19.
    Velocity(Velocity),
    /// Type code 28, subtype 1.
    Emergency {
        /// Emergency state, 0 (none) to 7.
        state: u8,
        /// Four octal digits, as a decimal number.
        squawk: u16,
    },
    /// Anything else.
    Other {
        /// Type code, 0 to 31.
        code: u8,
    },
}

/// How an aircraft moves.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Velocity {
    /// Over ground or through air.
    #[serde(flatten)]
    pub motion: Option<Air>,
    /// Climb in feet a minute.
    pub climb: Option<i32>,
    /// How much higher the altitude by satellite is than the barometric one, in feet.
    pub geometric_minus_barometric: Option<i32>,
}

/// Speed and direction.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "motion", rename_all = "kebab-case")]
pub enum Air {
    /// Over ground.
    Ground {
        /// Speed in knots.
        speed: f32,
        /// Track in degrees from north.
        track: f32,
    },
    /// Through air.
    Through {
        /// Speed in knots.
        speed: Option<f32>,
        /// Which speed.
        airspeed: Airspeed,
        /// Magnetic heading in degrees.
        heading: Option<f32>,
    },
}

/// Which airspeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Airspeed {
    /// Indicated.
    Indicated,
    /// True.
    True,
}

impl Message {
    /// Reads a frame whose parity was checked; `overlay` is the number laid over an all-call reply.
    pub(super) fn read(raw: &Raw, icao: u32, overlay: u8) -> Self {
        let format = raw.format();
        let status = raw.bits(5, 3) as u8;
        let body = match format {
            0 | 16 => Body::AirToAir { altitude: altitude13(raw.bits(19, 13)), on_ground: raw.bits(5, 1) == 1 },
            4 | 20 => Body::Altitude { altitude: altitude13(raw.bits(19, 13)), status },
            5 | 21 => Body::Identity { squawk: squawk(raw.bits(19, 13)), status },
            11 => Body::AllCall { capability: status, interrogator: overlay },
            17 => Body::Extended { control: status, what: extended(raw) },
            // Other kinds of sender of format 18 use the same fields for other things.
            18 if matches!(status, 0 | 1 | 2 | 5 | 6) => Body::Extended { control: status, what: extended(raw) },
            18 => Body::Extended { control: status, what: Extended::Other { code: raw.bits(32, 5) as u8 } },
            _ => Body::Long,
        };
        Self { format, icao, body }
    }
}

fn extended(raw: &Raw) -> Extended {
    // The 56 bits of the message begin behind format, capability and address.
    let field = |at: usize, n: usize| raw.bits(32 + at, n);
    let code = field(0, 5) as u8;
    let cpr = |surface| Cpr { surface, odd: field(21, 1) == 1, lat: field(22, 17), lon: field(39, 17) };
    match code {
        1..=4 => Extended::Identification { category: code * 10 + field(5, 3) as u8, callsign: callsign(field) },
        5..=8 => Extended::Surface {
            speed: ground_speed(field(5, 7)),
            track: (field(12, 1) == 1).then(|| field(13, 7) as f32 * 360.0 / 128.0),
            cpr: cpr(true),
        },
        9..=18 | 20..=22 => Extended::Airborne {
            // The twelve bits are the thirteen without the one that tells metres.
            altitude: altitude13((field(8, 12) & 0xfc0) << 1 | (field(8, 12) & 0x3f)),
            geometric: code >= 20,
            status: field(5, 2) as u8,
            cpr: cpr(false),
        },
        19 if (1..=4).contains(&field(5, 3)) => Extended::Velocity(velocity(field)),
        28 if field(5, 3) == 1 => Extended::Emergency { state: field(8, 3) as u8, squawk: squawk(field(11, 13)) },
        _ => Extended::Other { code },
    }
}

fn callsign(field: impl Fn(usize, usize) -> u32) -> String {
    let letter = |i: usize| match field(8 + 6 * i, 6) as u8 {
        n @ 1..=26 => (b'A' + n - 1) as char,
        n @ 48..=57 => n as char,
        32 => ' ',
        _ => '#',
    };
    (0..8).map(letter).collect::<String>().trim_end().to_string()
}

/// The movement field of surface positions: steps that grow with the speed.
fn ground_speed(code: u32) -> Option<f32> {
    let from = |start: u32, speed: f32, step: f32| Some(speed + (code - start) as f32 * step);
    match code {
        1 => Some(0.0),
        2..=8 => from(2, 0.125, 0.125),
        9..=12 => from(9, 1.0, 0.25),
        13..=38 => from(13, 2.0, 0.5),
        39..=93 => from(39, 15.0, 1.0),
        94..=108 => from(94, 70.0, 2.0),
        109..=123 => from(109, 100.0, 5.0),
        124 => Some(175.0),
        _ => None,
    }
}

fn velocity(field: impl Fn(usize, usize) -> u32) -> Velocity {
    let subtype = field(5, 3);
    let unit = if subtype.is_multiple_of(2) { 4.0 } else { 1.0 };
    // A value of 0 says that nothing is known; 1 is the lowest.
    let known = |at, n| field(at, n).checked_sub(1);
    let signed = |at: usize, n: usize| known(at + 1, n).map(|v| if field(at, 1) == 1 { -(v as i32) } else { v as i32 });
    let motion = if subtype <= 2 {
        let east = signed(13, 10).map(|v| v as f32 * unit);
        let north = signed(24, 10).map(|v| v as f32 * unit);
        east.zip(north)
            .map(|(e, n)| Air::Ground { speed: e.hypot(n), track: e.atan2(n).to_degrees().rem_euclid(360.0) })
    } else {
        let heading = (field(13, 1) == 1).then(|| field(14, 10) as f32 * 360.0 / 1024.0);
        let airspeed = if field(24, 1) == 1 { Airspeed::True } else { Airspeed::Indicated };
        let speed = known(25, 10).map(|v| v as f32 * unit);
        (speed.is_some() || heading.is_some()).then_some(Air::Through { speed, airspeed, heading })
    };
    Velocity { motion, climb: signed(36, 9).map(|v| v * 64), geometric_minus_barometric: signed(48, 7).map(|v| v * 25) }
}

/// A barometric altitude in feet from the 13 bits C1 A1 C2 A2 C4 A4 M B1 Q B2 D2 B4 D4.
fn altitude13(code: u32) -> Option<i32> {
    let (metric, fine) = (code & 0x40 != 0, code & 0x10 != 0);
    match (code, metric, fine) {
        (0, ..) => None,
        // Metres are in the standard, yet nobody sends them, and how is not agreed on.
        (_, true, _) => None,
        (_, _, true) => Some(((code & 0x1f80) >> 2 | (code & 0x20) >> 1 | code & 0xf) as i32 * 25 - 1000),
        _ => gillham(code),
    }
}

/// The altitude in steps of 100 feet, of two Gray codes: D2 D4 A1 A2 A4 B1 B2 B4 count 500 feet, C1 C2 C4 count 100.
fn gillham(code: u32) -> Option<i32> {
    let bit = |at: u32| code >> at & 1;
    let [c1, a1, c2, a2, c4, a4] = [12, 11, 10, 9, 8, 7].map(bit);
    let [b1, b2, d2, b4, d4] = [5, 3, 2, 1, 0].map(bit);
    let plain = |gray: &[u32]| {
        gray.iter()
            .fold((0, 0), |(value, last), &g| {
                let here = last ^ g;
                (value << 1 | here, here)
            })
            .0 as i32
    };
    let high = plain(&[d2, d4, a1, a2, a4, b1, b2, b4]);
    // Of the eight codes five are in use, and 7 stands for 5.
    let low = match plain(&[c1, c2, c4]) {
        7 => 5,
        n @ 1..=4 => n,
        _ => return None,
    };
    let low = if high % 2 == 1 { 6 - low } else { low };
    Some(high * 500 + low * 100 - 1300)
}

/// Four octal digits from the 13 bits C1 A1 C2 A2 C4 A4 X B1 D1 B2 D2 B4 D4.
fn squawk(code: u32) -> u16 {
    let digit = |bits: [u32; 3]| bits.iter().enumerate().map(|(i, at)| (code >> at & 1) << i).sum::<u32>() as u16;
    digit([11, 9, 7]) * 1000 + digit([5, 3, 1]) * 100 + digit([12, 10, 8]) * 10 + digit([4, 2, 0])
}
