//! The protocol of rtl_tcp: twelve bytes say what the receiver is, commands of five set it, and then come samples (`cu8`).

use super::tcp::{self, is_nothing};
use super::{Endpoint, Intake, TURN};
use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The port that rtl_tcp listens on by default.
pub const PORT: u16 = 1234;
/// How long samples are passed over by default: rtl_tcp sends from the moment of connecting on, and receives what it was
/// set to before until the tuner has settled.
pub const SETTLE: Duration = Duration::from_millis(100);
/// What an rtl_tcp server says first.
const MAGIC: &[u8; 4] = b"RTL0";

/// How far the tuner amplifies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Gain {
    /// As the tuner thinks best.
    Auto,
    /// Decibels.
    Db(f64),
}

impl serde::Serialize for Gain {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => s.serialize_str("auto"),
            Self::Db(db) => s.serialize_f64(*db),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Gain {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Reader;
        impl serde::de::Visitor<'_> for Reader {
            type Value = Gain;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"auto\" or a number of decibels")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Gain, E> {
                let number = || text.parse().map(Gain::Db);
                if text == "auto" {
                    Ok(Gain::Auto)
                } else {
                    number().map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }
            fn visit_f64<E>(self, db: f64) -> Result<Gain, E> {
                Ok(Gain::Db(db))
            }
            fn visit_i64<E>(self, db: i64) -> Result<Gain, E> {
                Ok(Gain::Db(db as f64))
            }
            fn visit_u64<E>(self, db: u64) -> Result<Gain, E> {
                Ok(Gain::Db(db as f64))
            }
        }
        d.deserialize_any(Reader)
    }
}

impl schemars::JsonSchema for Gain {
    fn schema_name() -> Cow<'static, str> {
        "Gain".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "How far the tuner amplifies: \"auto\", or decibels.",
            "anyOf": [{ "const": "auto" }, { "type": "number" }]
        })
    }
}

/// Which input of the converter is sampled without a tuner, for frequencies below its reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Sampling {
    /// The in-phase one.
    I,
    /// The quadrature one.
    Q,
}

/// How the receiver is set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tuner {
    /// Centre frequency in Hz, 0 to `u32::MAX`.
    pub frequency: f64,
    /// Samples a second, 1 to `u32::MAX`.
    pub rate: f64,
    /// Amplification of the tuner.
    pub gain: Gain,
    /// Correction of its crystal, parts per million.
    pub ppm: i32,
    /// Automatic gain of the converter behind the tuner.
    pub agc: bool,
    /// Power for an amplifier at the antenna.
    pub bias_tee: bool,
    /// Sampling without the tuner.
    pub direct: Option<Sampling>,
    /// Tuning beside the centre, so that the converter's own line is not in it.
    pub offset_tuning: bool,
    /// Stream time that is passed over after setting it.
    pub settle: Duration,
}

impl Tuner {
    /// The commands that set it.
    fn commands(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut set = |command: u8, value: u32| {
            out.push(command);
            out.extend(value.to_be_bytes());
        };
        set(0x02, self.rate.round() as u32);
        // Signed numbers travel in two's complement.
        set(0x05, self.ppm as u32);
        set(0x09, self.direct.map_or(0, |d| 1 + d as u32));
        set(0x0a, self.offset_tuning.into());
        set(0x01, self.frequency.round() as u32);
        match self.gain {
            Gain::Auto => set(0x03, 0),
            Gain::Db(db) => {
                set(0x03, 1);
                set(0x04, (db * 10.0).round() as i32 as u32);
            }
        }
        set(0x08, self.agc.into());
        set(0x0e, self.bias_tee.into());
        out
    }

    /// Bytes that are passed over.
    fn skip(&self) -> usize {
        (self.settle.as_secs_f64() * self.rate) as usize * 2
    }
}

/// The tuner's name, by its number.
fn tuner(number: u32) -> &'static str {
    ["unknown", "E4000", "FC0012", "FC0013", "FC2580", "R820T", "R828D"].get(number as usize).unwrap_or(&"unknown")
}

/// Connects to an rtl_tcp server and sets its receiver.
pub struct Client {
    /// The server.
    pub to: tcp::Client,
    /// How the receiver is set.
    pub tuner: Tuner,
}

impl Client {
    /// A connection that sends samples; `None` when the pipeline stops meanwhile.
    ///
    /// # Errors
    /// Why there is none, or that it is no rtl_tcp server.
    pub fn connect(&self, intake: &Intake) -> Result<Option<tcp::Stream>, String> {
        let Some(mut socket) = self.to.socket(intake)? else { return Ok(None) };
        let Some([_, _, _, _, kind @ .., _, _, _, _]) = self.header(&mut socket, intake)? else { return Ok(None) };
        let sent =
            socket.set_write_timeout(Some(self.to.patience)).and_then(|()| socket.write_all(&self.tuner.commands()));
        sent.map_err(|e| format!("{} does not take commands: {e}", self.to.to))?;
        tracing::info!(stream = &*intake.stream().id, tuner = tuner(u32::from_be_bytes(kind)), "receiver set");
        tcp::Stream::new(socket, self.tuner.skip()).map(Some)
    }

    /// What the server says first.
    fn header(&self, socket: &mut TcpStream, intake: &Intake) -> Result<Option<[u8; 12]>, String> {
        let to: &Endpoint = &self.to.to;
        socket.set_read_timeout(Some(TURN)).map_err(|e| e.to_string())?;
        let (mut header, mut held) = ([0; 12], 0);
        let until = Instant::now() + self.to.patience;
        while held < header.len() {
            if intake.is_stopping() {
                return Ok(None);
            }
            match socket.read(&mut header[held..]) {
                Ok(0) if held == 0 => {
                    return Err(format!("{to} closed the connection at once: rtl_tcp serves one client at a time"));
                }
                Ok(0) => return Err(format!("{to} closed the connection after {held} bytes")),
                Ok(n) => held += n,
                Err(e) if is_nothing(e.kind()) => {}
                Err(e) => return Err(format!("the connection to {to} broke: {e}")),
            }
            let begins = held.min(MAGIC.len());
            if header[..begins] != MAGIC[..begins] {
                return Err(format!(
                    "{to} does not begin with `RTL0`: it is no rtl_tcp server, or one so old that it sends no header; \
                     what such a one sends can be read with tcp:// and samples = \"cu8\", untuned"
                ));
            }
            if Instant::now() > until {
                return Err(format!(
                    "{to} says nothing: it is no rtl_tcp server, or serves another client (rtl_tcp serves one at a time)"
                ));
            }
        }
        Ok(Some(header))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_those_of_rtl_tcp() {
        let mut tuner = Tuner {
            frequency: 1090e6,
            rate: 2.4e6,
            gain: Gain::Db(49.6),
            ppm: -3,
            agc: true,
            bias_tee: true,
            direct: Some(Sampling::Q),
            offset_tuning: true,
            settle: Duration::from_millis(10),
        };
        let commands = |tuner: &Tuner| -> Vec<(u8, i32)> {
            let bytes = tuner.commands();
            bytes.chunks(5).map(|c| (c[0], i32::from_be_bytes(c[1..].try_into().expect("four")))).collect()
        };
        let all = commands(&tuner);
        for command in [
            (0x01, 1_090_000_000),
            (0x02, 2_400_000),
            (0x03, 1),
            (0x04, 496),
            (0x05, -3),
            (0x08, 1),
            (0x09, 2),
            (0x0a, 1),
            (0x0e, 1),
        ] {
            assert!(all.contains(&command), "{command:x?} in {all:x?}");
        }
        assert_eq!(all.len(), 9);
        assert_eq!(tuner.skip(), 48_000);
        tuner.gain = Gain::Auto;
        let all = commands(&tuner);
        assert!(all.contains(&(0x03, 0)) && !all.iter().any(|c| c.0 == 0x04), "{all:x?}");
    }

    #[test]
    fn a_gain_is_auto_or_a_number() {
        #[derive(serde::Deserialize, serde::Serialize)]
        struct Table {
            gain: Gain,
        }
        for (text, gain) in
            [("'auto'", Gain::Auto), ("40", Gain::Db(40.0)), ("-1.5", Gain::Db(-1.5)), ("'7.7'", Gain::Db(7.7))]
        {
            let table: Table = toml::from_str(&format!("gain = {text}")).expect("a gain");
            assert_eq!(table.gain, gain);
            let again: Table = toml::from_str(&toml::to_string(&table).expect("text")).expect("a gain");
            assert_eq!(again.gain, gain);
        }
        let error = toml::from_str::<Table>("gain = 'loud'").err().expect("an error").to_string();
        assert!(error.contains("\"auto\" or a number of decibels"), "{error}");
    }
}
