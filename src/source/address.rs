//! What an address in the pipeline file means.

use super::config::{BLOCK, RING};
use super::feed::Sending;
use super::network::{Endpoint, Gain, Line, RTL_TCP_PORT, RTL_TCP_SETTLE, Tuner};
use super::recording::{Raw, Tape, block_length};
use super::soapy::Radio;
use super::{Context, SourceConfig};
use crate::issue::Issue;
use crate::signal::SignalError;
use crate::signal::samples::{Format, Number};
use crate::signal::world::World;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A source's origin, read from its `uri` or `launch`.
#[derive(Debug, Clone, PartialEq)]
pub enum Address {
    /// An RTSP server.
    Rtsp {
        /// The address, with login data if it has any.
        uri: String,
    },
    /// A camera of the kernel.
    V4l2 {
        /// Its device node.
        device: PathBuf,
    },
    /// MJPEG or HLS over HTTP.
    Http {
        /// The address.
        uri: String,
    },
    /// A video file.
    File {
        /// Where it is.
        path: PathBuf,
    },
    /// Still pictures, one frame each.
    Pictures {
        /// Their files, in name order.
        files: Vec<PathBuf>,
    },
    /// A recording of a radio receiver.
    Samples {
        /// What is played.
        tape: Tape,
    },
    /// Samples of a live receiver.
    Network {
        /// Where they come from.
        line: Line,
        /// What they are.
        sending: Sending,
    },
    /// What a stage of kind `join` hands over.
    Join {
        /// The stage's id.
        name: String,
    },
    /// A channel that a filter bank takes out of a stream.
    Channel {
        /// The bank's stage and the channel's number, as `STAGE/N`.
        place: String,
    },
    /// A station of a simulated world.
    Station {
        /// The world.
        world: Box<World>,
        /// Which of its stations.
        number: usize,
    },
    /// A scene that framegate or GStreamer draws.
    Test {
        /// Its name.
        name: String,
    },
    /// Any other GStreamer source.
    Launch {
        /// The description.
        description: String,
    },
}

/// The schemes there are.
const SCHEMES: [&str; 15] = [
    "rtsp", "rtsps", "v4l2", "file", "http", "https", "test", "sigmf", "iqfile", "rtl_tcp", "tcp", "udp", "soapy",
    "join", "channel",
];
/// Those that only a later version reads.
const RADIO: [&str; 1] = ["audio"];
/// What a receiver's ring may take, in bytes.
const RING_BYTES: f64 = (1u64 << 30) as f64;
/// Ends of names of still pictures.
const STILLS: [&str; 13] =
    ["jpg", "jpeg", "jpe", "png", "bmp", "webp", "tif", "tiff", "pgm", "ppm", "pbm", "pnm", "jp2"];

/// The kinds of still pictures, for messages.
pub fn still_formats() -> String {
    STILLS.join(", ")
}

/// The nearest of some names, if one is near enough to be meant.
pub fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names.map(|n| (strsim::damerau_levenshtein(name, n), n)).min().filter(|(d, _)| *d <= 2).map(|(_, n)| n)
}

fn is_still(path: &Path) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| STILLS.contains(&e.to_ascii_lowercase().as_str()))
}

impl Address {
    /// Reads a source's origin. Looks for files, opens nothing.
    ///
    /// # Errors
    /// What is wrong with it, at its key.
    pub fn of(config: &SourceConfig, context: &Context) -> Result<Self, Box<Issue>> {
        let uri = match (&config.uri, &config.launch) {
            (Some(_), Some(_)) => {
                return Err(Box::new(
                    Issue::error("launch", "both `uri` and `launch` are set").help("a source has one of them"),
                ));
            }
            (None, None) => {
                return Err(Box::new(
                    Issue::error("", "neither `uri` nor `launch` is set")
                        .help("for example uri = \"rtsp://192.168.1.20/stream1\" or uri = \"file://clip.mp4\""),
                ));
            }
            (None, Some(text)) if text.trim().is_empty() => {
                return Err(Box::new(Issue::error("launch", "`launch` is empty")));
            }
            (None, Some(text)) => return Ok(Self::Launch { description: text.clone() }),
            (Some(uri), None) => uri,
        };
        let bad = |message: String| Box::new(Issue::error("uri", message));
        let Some((scheme, rest)) = uri.split_once("://") else { return Self::file(uri, context) };
        match scheme {
            "file" => Self::file(&unescape(rest.strip_prefix("localhost/").map_or(rest, |_| &rest[9..])), context),
            "rtsp" | "rtsps" | "http" | "https" => {
                host_and_port(rest).map_err(|m| bad(format!("`{}`: {m}", super::config::redact(uri))))?;
                if config.user.is_some() && rest.split('/').next().is_some_and(|a| a.contains('@')) {
                    return Err(Box::new(Issue::error("user", "the address has a user of its own")));
                }
                Ok(if scheme.starts_with("rtsp") {
                    Self::Rtsp { uri: uri.clone() }
                } else {
                    Self::Http { uri: uri.clone() }
                })
            }
            "v4l2" => {
                let device = if rest.starts_with('/') { PathBuf::from(rest) } else { Path::new("/dev").join(rest) };
                if rest.trim_matches('/').is_empty() {
                    return Err(Box::new(Issue::error("uri", "no device is named").help("v4l2:///dev/video0")));
                }
                Ok(Self::V4l2 { device })
            }
            "sigmf" => Self::sigmf(&unescape(rest), config.channel.unwrap_or(0), context),
            "iqfile" => Self::raw(&unescape(rest), config, context),
            "rtl_tcp" | "tcp" | "udp" => Self::network(scheme, rest, config),
            "soapy" => Self::soapy(&unescape(rest), config),
            "join" if rest.is_empty() => {
                let help = "uri = \"join://ID\" with the id of a stage of kind `join`";
                Err(Box::new(Issue::error("uri", "no stage is named").help(help)))
            }
            "channel" => {
                let number = rest.rsplit_once('/').filter(|(stage, n)| !stage.is_empty() && n.parse::<u16>().is_ok());
                let Some((stage, number)) = number else {
                    let help = "uri = \"channel://ID/N\" with the id of a stage `channelize` and the channel's number";
                    return Err(Box::new(Issue::error("uri", "no channel is named").help(help)));
                };
                // One place has one name: `07` is `7`.
                let number: u16 = number.parse().unwrap_or(0);
                Ok(Self::Channel { place: crate::stage::channelize::place(stage, number.into()) })
            }
            "join" => Ok(Self::Join { name: rest.to_owned() }),
            "test" if rest.starts_with("station/") => Self::station(&rest["station/".len()..], config, context),
            "test" => Ok(Self::Test { name: rest.trim_end_matches('/').to_owned() }),
            _ if RADIO.contains(&scheme) => {
                Err(bad(format!("`{scheme}://` is a radio or data source, which this version does not read")))
            }
            _ => {
                let help = match nearest(scheme, SCHEMES.into_iter()) {
                    Some(near) => format!("did you mean `{near}://`?"),
                    None => format!("there are {}", SCHEMES.map(|s| format!("{s}://")).join(", ")),
                };
                Err(Box::new(Issue::error("uri", format!("unknown scheme `{scheme}://`")).help(help)))
            }
        }
    }

    fn station(id: &str, config: &SourceConfig, context: &Context) -> Result<Self, Box<Issue>> {
        let name = config.world.as_deref().unwrap_or(super::station::WORLD);
        let Some(path) = context.find(Path::new(name)) else {
            return Err(Box::new(Issue { key: "world".into(), ..absent(name, context) }));
        };
        let world = World::read(&path).map_err(|e| Box::new(Issue::error("world", e.to_string())))?;
        let Some(number) = world.station(id) else {
            let ids: Vec<&str> = world.stations.iter().map(|s| s.id.as_str()).collect();
            let issue = Issue::error("uri", format!("there is no station `{id}` in the world {}", path.display()));
            return Err(Box::new(issue.help(format!("there are: {}", ids.join(", ")))));
        };
        Ok(Self::Station { world: Box::new(world), number })
    }

    fn sigmf(text: &str, channel: usize, context: &Context) -> Result<Self, Box<Issue>> {
        // What the two files' names have in common is enough.
        let names = [text.to_owned(), format!("{text}.sigmf-meta")];
        match names.iter().find_map(|name| context.find(Path::new(name))) {
            Some(path) if !text.is_empty() => Ok(Self::Samples { tape: Tape::Sigmf(path, channel) }),
            _ => Err(Box::new(absent(text, context))),
        }
    }

    fn raw(text: &str, config: &SourceConfig, context: &Context) -> Result<Self, Box<Issue>> {
        let lacks = |key: &str, help: &str| {
            Box::new(Issue::error(key, format!("raw samples do not say their `{key}`")).help(help.to_owned()))
        };
        let form =
            config.samples.as_deref().ok_or_else(|| lacks("samples", "samples = \"cu8\", \"cs16\", \"cf32\" …"))?;
        let format: Format = form.parse().map_err(|e: SignalError| Box::new(Issue::error("samples", e.to_string())))?;
        let rate = config.sample_rate.ok_or_else(|| lacks("sample_rate", "sample_rate = 2.4e6"))?;
        match context.find(Path::new(text)).filter(|p| p.is_file()) {
            Some(path) => {
                let raw = Raw { format, rate, frequency: config.frequency };
                Ok(Self::Samples { tape: Tape::Raw(path, raw) })
            }
            None => Err(Box::new(absent(text, context))),
        }
    }

    fn network(scheme: &str, rest: &str, config: &SourceConfig) -> Result<Self, Box<Issue>> {
        let bad = |key: &str, message: String| Box::new(Issue::error(key, message));
        let lacks = |key: &str, help: &str| {
            Box::new(Issue::error(key, format!("`{scheme}://` needs `{key}`")).help(help.to_owned()))
        };
        let tuned = scheme == "rtl_tcp";
        let usual = tuned.then_some(RTL_TCP_PORT);
        let endpoint = endpoint(rest, usual).map_err(|m| {
            bad("uri", format!("`{scheme}://{rest}`: {m}")).help(format!("for example {scheme}://192.0.2.7:1234"))
        })?;
        let form = match config.samples.as_deref() {
            _ if tuned => "cu8",
            Some(form) => form,
            None => return Err(lacks("samples", "samples = \"cu8\", \"cs16\", \"cf32\" …")),
        };
        let format: Format = form.parse().map_err(|e: SignalError| bad("samples", e.to_string()))?;
        let rate = config.sample_rate.ok_or_else(|| lacks("sample_rate", "sample_rate = 2.4e6"))?;
        let most = if tuned { f64::from(u32::MAX) } else { 1e12 };
        if !(1.0..=most).contains(&rate) {
            return Err(bad("sample_rate", format!("`sample_rate` is from 1 to {most:e} samples a second")));
        }
        let frequency = config.frequency;
        if tuned && frequency.is_none() {
            return Err(lacks("frequency", "frequency = 1090e6"));
        }
        if frequency.is_some_and(|f| !f.is_finite() || tuned && !(0.0..=f64::from(u32::MAX)).contains(&f)) {
            return Err(bad("frequency", "`frequency` is in Hz; rtl_tcp takes 0 to 4.29e9".to_owned()));
        }
        let block = block_length(config.block.unwrap_or(BLOCK), rate).map_err(|m| bad("block", m))?;
        let line = match scheme {
            "rtl_tcp" => {
                let settle = config.settle.unwrap_or(RTL_TCP_SETTLE);
                if settle >= config.connect_timeout {
                    return Err(bad("settle", "`settle` must be shorter than `connect_timeout`".to_owned()));
                }
                let tuner = Tuner {
                    frequency: frequency.unwrap_or_default(),
                    rate,
                    gain: config.gain.unwrap_or(Gain::Auto),
                    ppm: config.ppm.unwrap_or(0),
                    agc: config.agc,
                    bias_tee: config.bias_tee,
                    direct: config.direct_sampling,
                    offset_tuning: config.offset_tuning,
                    settle,
                };
                Line::RtlTcp(endpoint, tuner)
            }
            "udp" => Line::Udp(endpoint, config.header.unwrap_or_default()),
            _ if config.listen => Line::Listen(endpoint),
            _ => Line::Tcp(endpoint),
        };
        let ring = ring_of(config, rate, format)?;
        let accuracy = config.time_accuracy;
        Ok(Self::Network { line, sending: Sending { format, rate, frequency, block, ring, accuracy } })
    }

    fn soapy(device: &str, config: &SourceConfig) -> Result<Self, Box<Issue>> {
        let bad = |key: &str, message: &str, help: &str| Box::new(Issue::error(key, message).help(help.to_owned()));
        if device.trim().is_empty() || device.contains('\0') {
            let help = "for example soapy://driver=rtlsdr; `SoapySDRUtil --find` shows the devices that are there";
            return Err(bad("uri", "no device is named", help));
        }
        let Some(rate) = config.sample_rate.filter(|r| (1.0..=1e12).contains(r)) else {
            let message = "a soapy:// source needs a `sample_rate` from 1 to 1e12 samples a second";
            return Err(bad("sample_rate", message, "sample_rate = 2.4e6"));
        };
        let Some(frequency) = config.frequency.filter(|f| f.is_finite() && *f >= 0.0) else {
            return Err(bad("frequency", "a soapy:// source needs a `frequency` in Hz", "frequency = 100.5e6"));
        };
        let radio = Radio {
            device: device.to_owned(),
            channel: config.channel.unwrap_or(0),
            rate,
            frequency,
            gain: config.gain.unwrap_or(Gain::Auto),
            antenna: config.antenna.clone(),
            ppm: config.ppm.unwrap_or(0),
            library: None,
        };
        let format = Format { complex: true, number: Number::F32, big_endian: cfg!(target_endian = "big") };
        let block =
            block_length(config.block.unwrap_or(BLOCK), rate).map_err(|m| Box::new(Issue::error("block", m)))?;
        let (ring, accuracy) = (ring_of(config, rate, format)?, config.time_accuracy);
        let sending = Sending { format, rate, frequency: Some(frequency), block, ring, accuracy };
        Ok(Self::Network { line: Line::Soapy(radio), sending })
    }

    fn file(text: &str, context: &Context) -> Result<Self, Box<Issue>> {
        let path = Path::new(text);
        if text.is_empty() {
            return Err(Box::new(Issue::error("uri", "no file is named")));
        }
        if let Some(found) = context.find(path) {
            if found.is_dir() {
                return Err(Box::new(
                    Issue::error("uri", format!("{} is a folder", found.display()))
                        .help("name the pictures in it with a glob: file://folder/*.jpg"),
                ));
            }
            return Ok(if is_still(&found) {
                Self::Pictures { files: vec![found] }
            } else {
                Self::File { path: found }
            });
        }
        if text.contains(['*', '?', '[']) {
            let files = context.candidates(path).into_iter().map(|p| super::glob::expand(&p)).find(|f| !f.is_empty());
            let Some(files) = files else {
                return Err(Box::new(Issue::error("uri", format!("`{text}` matches no file")).absent()));
            };
            if let Some(video) = files.iter().find(|f| !is_still(f)) {
                return Err(Box::new(
                    Issue::error("uri", format!("{} is not a picture", video.display()))
                        .help(format!("a glob takes pictures ({}); give each video a source", still_formats())),
                ));
            }
            return Ok(Self::Pictures { files });
        }
        Err(Box::new(absent(text, context)))
    }

    /// A short name of the kind of source.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Rtsp { .. } => "rtsp",
            Self::V4l2 { .. } => "v4l2",
            Self::Http { .. } => "http",
            Self::File { .. } => "file",
            Self::Pictures { .. } => "pictures",
            Self::Samples { tape: Tape::Sigmf(..) } => "sigmf",
            Self::Samples { tape: Tape::Raw(..) } => "iqfile",
            Self::Network { line: Line::RtlTcp(..), .. } => "rtl_tcp",
            Self::Network { line: Line::Tcp(..) | Line::Listen(..), .. } => "tcp",
            Self::Network { line: Line::Udp(..), .. } => "udp",
            Self::Network { line: Line::Soapy(..), .. } => "soapy",
            Self::Join { .. } => "join",
            Self::Channel { .. } => "channel",
            Self::Station { .. } => "station",
            Self::Test { .. } => "test",
            Self::Launch { .. } => "launch",
        }
    }
}

/// The issue for a file that is not there.
fn absent(text: &str, context: &Context) -> Issue {
    let path = Path::new(text);
    let tried = context.candidates(path);
    let issue = Issue::error("uri", format!("{text} does not exist")).absent();
    if tried.len() <= 1 && path.is_absolute() {
        return issue;
    }
    let tried: Vec<_> = tried.iter().map(|p| p.display().to_string()).collect();
    issue.help(format!("looked for {}", tried.join(", ")))
}

/// Undoes percent encoding; text that is not valid UTF-8 afterwards is taken as it stands.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let code = (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten();
        match code.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| text.to_owned())
}

/// Stream time that a receiver's ring holds.
fn ring_of(config: &SourceConfig, rate: f64, format: Format) -> Result<Duration, Box<Issue>> {
    let ring = config.ring.unwrap_or(RING);
    let bytes = ring.as_secs_f64() * rate * format.sample_bytes() as f64;
    if bytes > RING_BYTES {
        let mib = (bytes / f64::from(1 << 20)).round();
        return Err(Box::new(Issue::error("ring", format!("`ring` would take {mib} MiB; it may take 1024"))));
    }
    Ok(ring)
}

/// A host and a port and nothing else; without one the port is `usual`.
fn endpoint(rest: &str, usual: Option<u16>) -> Result<Endpoint, String> {
    if rest.trim_end_matches('/').contains(['/', '?', '#', '@']) {
        return Err("a host and a port are all there is".to_owned());
    }
    let (host, port) = host_and_port(rest)?;
    let port = port.or(usual).ok_or("no port is named")?;
    Ok(Endpoint { host: host.to_owned(), port })
}

/// The host and, where there is one, the port of what stands behind a scheme.
fn host_and_port(rest: &str) -> Result<(&str, Option<u16>), String> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host_port = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    let (host, port) = match host_port.strip_prefix('[') {
        Some(v6) => {
            let (host, tail) = v6.split_once(']').ok_or("an IPv6 address ends in `]`")?;
            (host, tail.strip_prefix(':'))
        }
        None => match host_port.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (host_port, None),
        },
    };
    if host.is_empty() {
        return Err("no host is named".to_owned());
    }
    let port =
        port.map(|p| p.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("`{p}` is no port"))).transpose()?;
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_looked_for_in_the_search_folders_and_by_plain_path() {
        let dir = tempfile::tempdir().expect("temp dir");
        for name in ["clip one.mp4", "b.png", "a.jpg", "c.txt"] {
            std::fs::write(dir.path().join(name), b"x").expect("write");
        }
        let context = Context { search: vec!["/nowhere".into(), dir.path().into()], ..Context::default() };
        let of = |uri: &str| Address::of(&SourceConfig::at(uri), &context);
        let clip = Address::File { path: dir.path().join("clip one.mp4") };
        assert_eq!(of("file://clip%20one.mp4").expect("found"), clip);
        assert_eq!(of("clip one.mp4").expect("found"), clip);
        let files = vec![dir.path().join("a.jpg"), dir.path().join("b.png")];
        assert_eq!(of("file://[ab].*").expect("found"), Address::Pictures { files: files.clone() });
        assert_eq!(
            of(&format!("file://{}/?.?[np]g", dir.path().display())).expect("found"),
            Address::Pictures { files }
        );
        assert!(of("file://*.txt").expect_err("no picture").message.contains("not a picture"));
        assert!(of("file://d.mp4").expect_err("missing").help.expect("help").contains("/nowhere/d.mp4"));
    }

    #[test]
    fn a_v4l2_address_names_a_device() {
        let of = |uri: &str| Address::of(&SourceConfig::at(uri), &Context::default());
        let device = Address::V4l2 { device: "/dev/video3".into() };
        assert_eq!(of("v4l2:///dev/video3").expect("ok"), device);
        assert_eq!(of("v4l2://video3").expect("ok"), device);
        assert!(of("v4l2://").is_err());
    }
}
