//! `[source.ID]`: where a stream comes from, and what can be said about it before it is opened.

use super::address::{Address, still_formats};
use super::network::{Gain, Header, Line, Sampling};
use super::{Context, Pace, scenes};
use crate::issue::Issue;
use std::fmt;
use std::time::Duration;

/// How RTP packets travel from an RTSP server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// UDP first; TCP where no packet comes through within the server's patience.
    Auto,
    /// Interleaved in the control connection: nothing is lost, a slow network delays.
    #[default]
    Tcp,
    /// One datagram a packet: what is lost stays lost.
    Udp,
}

/// Text that never shows in logs, reports or the API.
#[derive(Clone, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl serde::Serialize for Secret {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str("***")
    }
}

/// `[source.ID]`: where a stream comes from.
#[derive(Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Address of the stream: `rtsp://`, `v4l2://`, `file://`, `http(s)://`, `test://`; of samples: `rtl_tcp://`,
    /// `soapy://`, `tcp://`, `udp://`, `sigmf://`, `iqfile://`; of several streams: `join://`; of a part of one: `channel://`.
    #[serde(default)]
    pub uri: Option<String>,
    /// A GStreamer description that ends in raw video, in place of `uri`.
    #[serde(default)]
    pub launch: Option<String>,
    /// Larger is more important. Default 0.
    #[serde(default)]
    pub priority: i32,
    /// `/readyz` waits for it. Default true.
    #[serde(default = "yes")]
    pub required: bool,
    /// `live` or `fast`; files without a deadline default to `fast`, everything else to `live`.
    #[serde(default)]
    pub pace: Option<Pace>,
    /// Start again at the end of a file. Default false.
    #[serde(default, rename = "loop")]
    pub repeat: bool,

    /// Name to log in with at an RTSP or HTTP server. Default: the one in `uri`, if any.
    #[serde(default)]
    pub user: Option<String>,
    /// Password that goes with `user`; best written as `${NAME}`. Default: the one in `uri`, if any.
    #[serde(default)]
    pub password: Option<Secret>,
    /// How RTP travels: `tcp`, `udp` or `auto` (UDP, then TCP). Default `tcp`. RTSP only.
    #[serde(default)]
    pub transport: Option<Transport>,
    /// How long the jitter buffer waits for a packet that is missing or out of order. Default `0ms` over TCP, where
    /// nothing is; a quarter of the deadline over UDP, `200ms` without a deadline. RTSP only.
    #[serde(default, with = "span")]
    #[schemars(with = "Option<String>")]
    pub latency: Option<Duration>,
    /// Let the jitter buffer throw away packets that make it span more than `latency`, from one second after the first
    /// picture on: then a burst or a slow decoder costs pictures, and no lasting delay. Default true where `latency` is
    /// 100 ms or more; below that two pictures that arrive together would already be too much, and a decoder that falls
    /// a second behind skips to the next keyframe anyway. No effect at `0ms`. RTSP only.
    #[serde(default)]
    pub drop_on_latency: Option<bool>,
    /// The GStreamer element that decodes, or `auto`: a hardware decoder where its plugin is there, else the best in
    /// software. Default `auto`.
    #[serde(default)]
    pub decoder: Option<String>,
    /// Clockwise turn of the mounted camera that has to be undone for viewing: 0, 90, 180 or 270 degrees, added to
    /// what the stream itself says. Default 0.
    #[serde(default)]
    pub rotate: u16,

    /// Columns of pixels. `v4l2://`: default what the camera prefers. `test://`: default 1280.
    #[serde(default)]
    pub width: Option<u32>,
    /// Rows of pixels. `v4l2://`: default what the camera prefers. `test://`: default 720.
    #[serde(default)]
    pub height: Option<u32>,
    /// Frames per second. `v4l2://`: default what the camera prefers. `test://`: default the pipeline's rate.
    /// Pictures at live pace: default the pipeline's rate.
    #[serde(default)]
    pub fps: Option<f64>,
    /// What a V4L2 camera sends: `raw`, `mjpeg`, `h264` or `auto`. Default `auto`: raw, else MJPEG, else H.264.
    #[serde(default)]
    pub format: Option<CameraFormat>,
    /// Form of raw samples, as SigMF names it (`cu8`, `ci16_le`, `cf32_le` …) or as radio tools do (`cs8`, `cs16`, `cf32`).
    /// `iqfile://`, `tcp://`, `udp://`.
    #[serde(default)]
    pub samples: Option<String>,
    /// Samples a second. `rtl_tcp://`, `soapy://`: the receiver is set to it; `iqfile://`, `tcp://`, `udp://`: the raw samples have it.
    #[serde(default)]
    pub sample_rate: Option<f64>,
    /// Centre frequency in Hz. `rtl_tcp://`, `soapy://`: the receiver is tuned to it; `iqfile://`, `tcp://`, `udp://`: default unknown.
    #[serde(default)]
    pub frequency: Option<f64>,
    /// Which channel of a recording or a receiver with several, counted from 0. Default 0. `sigmf://`, `soapy://`.
    #[serde(default)]
    pub channel: Option<usize>,
    /// Stream time of a block of samples, which is a frame. Default `50ms`. `sigmf://`, `iqfile://`, `rtl_tcp://`, `tcp://`,
    /// `udp://`.
    #[serde(default, with = "span")]
    #[schemars(with = "Option<String>")]
    pub block: Option<Duration>,
    /// Stream time that waits here at most while the machine is too busy to make frames of it. Beyond it whole blocks are
    /// dropped, counted, and marked as a gap. It adds no delay. At least two blocks. Default `500ms`. `rtl_tcp://`, `tcp://`,
    /// `udp://`.
    #[serde(default, with = "span")]
    #[schemars(with = "Option<String>")]
    pub ring: Option<Duration>,
    /// How far the times of samples may be off, as you know it of the receiver and the network. Blocks then carry the time
    /// of their first sample, never said to be better than this or than the measured jitter. Default: no times.
    /// `rtl_tcp://`, `tcp://`, `udp://`.
    #[serde(default, with = "span")]
    #[schemars(with = "Option<String>")]
    pub time_accuracy: Option<Duration>,

    /// Amplification of the tuner in dB, or `auto`. Default `auto`. `rtl_tcp://`, `soapy://`.
    #[serde(default)]
    pub gain: Option<Gain>,
    /// The receiver's antenna, by its name there. Default: the receiver's choice. `soapy://` only.
    #[serde(default)]
    pub antenna: Option<String>,
    /// Correction of the receiver's crystal, parts per million. Default 0. `rtl_tcp://`, `soapy://`.
    #[serde(default)]
    pub ppm: Option<i32>,
    /// Automatic gain of the converter behind the tuner. Default false. `rtl_tcp://` only.
    #[serde(default)]
    pub agc: bool,
    /// Power for an amplifier at the antenna. Default false. `rtl_tcp://` only.
    #[serde(default)]
    pub bias_tee: bool,
    /// Sample without the tuner, for frequencies below its reach: input `i` or `q`. Default: with the tuner. `rtl_tcp://`
    /// only.
    #[serde(default)]
    pub direct_sampling: Option<Sampling>,
    /// Tune beside the centre frequency, for tuners that have a line there (E4000). Default false. `rtl_tcp://` only.
    #[serde(default)]
    pub offset_tuning: bool,
    /// Stream time that is passed over after the receiver was set, less than `connect_timeout`. Default `100ms`. `rtl_tcp://` only.
    #[serde(default, with = "span")]
    #[schemars(with = "Option<String>")]
    pub settle: Option<Duration>,
    /// Wait for a sender to connect, one at a time, instead of connecting. Default false. `tcp://` only.
    #[serde(default)]
    pub listen: bool,
    /// What stands before the samples of each datagram: `none`, or its number, by which losses are seen: `u32le`, `u32be`,
    /// `u64le` (GNU Radio's UDP Sink with a 64-bit sequence number), `u64be`, `u64le_size` (GNU Radio's with the size
    /// too). Default `none`. `udp://` only.
    #[serde(default)]
    pub header: Option<Header>,

    /// The sources that are joined, in this order. Default: all whose frames reach the stage. `join://` only.
    #[serde(default)]
    pub stations: Option<Vec<String>>,
    /// How far apart in time frames may be that belong together. Default `50ms`. `join://` only.
    #[serde(default, with = "span")]
    #[schemars(with = "Option<String>")]
    pub tolerance: Option<Duration>,
    /// How long after its last sample a frame waits for other stations; then it goes on without them. Default: half of
    /// the deadline, `1s` without one. `join://` only.
    #[serde(default, with = "span")]
    #[schemars(with = "Option<String>")]
    pub wait: Option<Duration>,
    /// Fewest stations that make a frame; with fewer there is none. Default 1. `join://` only.
    #[serde(default)]
    pub least: Option<usize>,

    /// How well the stations must know the time, as they state it themselves: with one that does not, nothing is joined, and
    /// the source says so. For what compares arrival times. Default: it does not matter. `join://` only.
    #[serde(default, with = "span")]
    #[schemars(with = "Option<String>")]
    pub accuracy: Option<Duration>,

    /// The simulated world's file (JSON). Default `models/locator.world.json`. `test://station/ID` only.
    #[serde(default)]
    pub world: Option<String>,
    /// From when to when after the start the simulated station is dead, for rehearsals: `["20s", "40s"]`. Default: it never
    /// is. `test://station/ID` only.
    #[serde(default, with = "spans")]
    #[schemars(with = "Option<[String; 2]>")]
    pub outage: Option<[Duration; 2]>,

    /// Whether a test scene goes through an H.264 encoder and decoder, as a camera's stream would. Default true.
    #[serde(default = "yes")]
    pub encoded: bool,

    /// No frame for this long: the connection is given up and made again. Default `3s`.
    #[serde(default = "three_seconds", with = "humantime_text")]
    #[schemars(with = "String")]
    pub stall_timeout: Duration,
    /// How long a connection may take until its first frame. Default `5s`.
    #[serde(default = "five_seconds", with = "humantime_text")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// The very same picture for this long: the camera hangs, and is connected again. Default: not watched.
    #[serde(default, with = "span")]
    #[schemars(with = "Option<String>")]
    pub freeze_timeout: Option<Duration>,
    /// First wait before connecting again; doubles each time, with up to a quarter of jitter. Default `100ms`.
    #[serde(default = "tenth", with = "humantime_text")]
    #[schemars(with = "String")]
    pub reconnect_min: Duration,
    /// Longest wait before connecting again. Default `1s`.
    #[serde(default = "one_second", with = "humantime_text")]
    #[schemars(with = "String")]
    pub reconnect_max: Duration,
}

/// What a V4L2 camera sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CameraFormat {
    /// Raw, else MJPEG, else H.264.
    #[default]
    Auto,
    /// Uncompressed pictures.
    Raw,
    /// JPEG pictures.
    Mjpeg,
    /// H.264 made by the camera.
    H264,
}

/// Stream time of a block of samples.
pub(super) const BLOCK: Duration = Duration::from_millis(50);
/// Stream time that the ring of a receiver holds.
pub(super) const RING: Duration = Duration::from_millis(500);
/// Stream time that it holds at most.
const RING_MOST: Duration = Duration::from_secs(60);
/// Schemes of what is read from files, or made of what is.
const FILES: [&str; 5] = ["file", "sigmf", "iqfile", "join", "channel"];

fn yes() -> bool {
    true
}
fn tenth() -> Duration {
    Duration::from_millis(100)
}
fn one_second() -> Duration {
    Duration::from_secs(1)
}
fn three_seconds() -> Duration {
    Duration::from_secs(3)
}
fn five_seconds() -> Duration {
    Duration::from_secs(5)
}

/// Durations as text: `"3s"`, `"100ms"`.
mod humantime_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(*d))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(d)?;
        humantime::parse_duration(&text)
            .map_err(|e| D::Error::custom(format!("`{text}` is no duration ({e}): write it as \"100ms\" or \"3s\"")))
    }
}

/// Optional durations as text.
mod span {
    use serde::{Deserializer, Serializer};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => super::humantime_text::serialize(d, s),
            None => s.serialize_none(),
        }
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        super::humantime_text::deserialize(d).map(Some)
    }
}

/// Two optional durations as text.
mod spans {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(d: &Option<[Duration; 2]>, s: S) -> Result<S::Ok, S::Error> {
        d.map(|d| d.map(|d| humantime::format_duration(d).to_string())).serialize(s)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<[Duration; 2]>, D::Error> {
        let read = |text: &String| {
            let bad = |e| D::Error::custom(format!("`{text}` is no duration ({e}): write it as \"100ms\" or \"3s\""));
            humantime::parse_duration(text).map_err(bad)
        };
        let [from, to] = <[String; 2]>::deserialize(d)?;
        Ok(Some([read(&from)?, read(&to)?]))
    }
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            uri: None,
            launch: None,
            priority: 0,
            required: true,
            pace: None,
            repeat: false,
            user: None,
            password: None,
            transport: None,
            latency: None,
            drop_on_latency: None,
            decoder: None,
            rotate: 0,
            width: None,
            height: None,
            fps: None,
            format: None,
            samples: None,
            sample_rate: None,
            frequency: None,
            channel: None,
            block: None,
            ring: None,
            time_accuracy: None,
            gain: None,
            antenna: None,
            ppm: None,
            agc: false,
            bias_tee: false,
            direct_sampling: None,
            offset_tuning: false,
            settle: None,
            listen: false,
            header: None,
            stations: None,
            tolerance: None,
            wait: None,
            least: None,
            accuracy: None,
            world: None,
            outage: None,
            encoded: true,
            stall_timeout: three_seconds(),
            connect_timeout: five_seconds(),
            freeze_timeout: None,
            reconnect_min: tenth(),
            reconnect_max: one_second(),
        }
    }
}

impl fmt::Debug for SourceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whatever else is logged, the password in the address is not.
        f.debug_struct("SourceConfig").field("from", &self.display()).finish_non_exhaustive()
    }
}

/// A URI fit for logs: the password, if any, is replaced by `***`.
pub fn redact(uri: &str) -> String {
    let Some((scheme, rest)) = uri.split_once("://") else { return uri.to_owned() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let Some((login, _)) = authority.rsplit_once('@') else { return uri.to_owned() };
    let user = login.split(':').next().unwrap_or("");
    let tail = &rest[login.len() + 1..];
    if login.contains(':') { format!("{scheme}://{user}:***@{tail}") } else { uri.to_owned() }
}

impl SourceConfig {
    /// A source at this address, everything else at its default.
    pub fn at(uri: impl Into<String>) -> Self {
        Self { uri: Some(uri.into()), ..Self::default() }
    }

    /// Where it comes from, without secrets.
    pub fn display(&self) -> String {
        match (&self.uri, &self.launch) {
            (Some(uri), _) => redact(uri),
            (None, Some(_)) => "launch".to_owned(),
            (None, None) => "nowhere".to_owned(),
        }
    }

    /// The place in the pipeline where it takes what it makes a stream of; `None` for what comes from outside.
    pub fn meets(&self) -> Option<&str> {
        let uri = self.uri.as_deref()?;
        uri.strip_prefix("join://").or_else(|| uri.strip_prefix("channel://"))
    }

    /// The pace that holds: the one that is set, else `fast` for a file without a deadline, else `live`.
    pub fn pace(&self, context: &Context) -> Pace {
        let file = self.uri.as_deref().is_some_and(|u| {
            FILES.iter().any(|scheme| u.strip_prefix(scheme).is_some_and(|r| r.starts_with("://")))
                || !u.contains("://")
        });
        self.pace.unwrap_or(if file && !context.live { Pace::Fast } else { Pace::Live })
    }

    /// What is wrong with it that the types cannot say. Starts nothing and connects to nothing.
    pub fn check(&self, context: &Context) -> Vec<Issue> {
        let mut issues = Vec::new();
        let address = match Address::of(self, context) {
            Ok(address) => address,
            Err(issue) => {
                issues.push(*issue);
                return issues;
            }
        };
        let kind = address.kind();
        let mut only = |key: &str, set: bool, kinds: &[&str]| {
            if set && !kinds.contains(&kind) {
                issues.push(
                    Issue::error(key, format!("`{key}` has no meaning for this source"))
                        .help(format!("it belongs to {}", kinds.join(", "))),
                );
            }
        };
        only("transport", self.transport.is_some(), &["rtsp"]);
        only("latency", self.latency.is_some(), &["rtsp"]);
        only("drop_on_latency", self.drop_on_latency.is_some(), &["rtsp"]);
        only("user", self.user.is_some(), &["rtsp", "http"]);
        only("password", self.password.is_some(), &["rtsp", "http"]);
        only("width", self.width.is_some(), &["v4l2", "test"]);
        only("height", self.height.is_some(), &["v4l2", "test"]);
        only("fps", self.fps.is_some(), &["v4l2", "test", "pictures"]);
        only("format", self.format.is_some(), &["v4l2"]);
        only("encoded", !self.encoded, &["test"]);
        only("samples", self.samples.is_some(), &["iqfile", "tcp", "udp"]);
        only("sample_rate", self.sample_rate.is_some(), &["iqfile", "rtl_tcp", "tcp", "udp", "soapy"]);
        only("frequency", self.frequency.is_some(), &["iqfile", "rtl_tcp", "tcp", "udp", "soapy"]);
        only("channel", self.channel.is_some(), &["sigmf", "soapy"]);
        only("block", self.block.is_some(), &["sigmf", "iqfile", "rtl_tcp", "tcp", "udp", "station", "soapy"]);
        only("ring", self.ring.is_some(), &["rtl_tcp", "tcp", "udp", "soapy"]);
        only("time_accuracy", self.time_accuracy.is_some(), &["rtl_tcp", "tcp", "udp", "soapy"]);
        only("gain", self.gain.is_some(), &["rtl_tcp", "soapy"]);
        only("ppm", self.ppm.is_some(), &["rtl_tcp", "soapy"]);
        only("antenna", self.antenna.is_some(), &["soapy"]);
        only("agc", self.agc, &["rtl_tcp"]);
        only("bias_tee", self.bias_tee, &["rtl_tcp"]);
        only("direct_sampling", self.direct_sampling.is_some(), &["rtl_tcp"]);
        only("offset_tuning", self.offset_tuning, &["rtl_tcp"]);
        only("settle", self.settle.is_some(), &["rtl_tcp"]);
        only("listen", self.listen, &["tcp"]);
        only("header", self.header.is_some(), &["udp"]);
        only("stations", self.stations.is_some(), &["join"]);
        only("tolerance", self.tolerance.is_some(), &["join"]);
        only("wait", self.wait.is_some(), &["join"]);
        only("least", self.least.is_some(), &["join"]);
        only("accuracy", self.accuracy.is_some(), &["join"]);
        only("world", self.world.is_some(), &["station"]);
        only("outage", self.outage.is_some(), &["station"]);
        only("loop", self.repeat, &["file", "pictures", "sigmf", "iqfile"]);
        only("decoder", self.decoder.is_some(), &["rtsp", "v4l2", "http", "file", "test"]);
        if self.pace == Some(Pace::Fast)
            && !matches!(kind, "file" | "pictures" | "sigmf" | "iqfile" | "join" | "channel")
        {
            issues.push(
                Issue::error("pace", "only files can be read at fast pace: a live source has its own")
                    .help("leave `pace` out, or set it to \"live\""),
            );
        }
        if let Some(name) = self.decoder.as_deref().filter(|n| *n != "auto")
            && super::plugins::init().is_ok()
            && gstreamer::ElementFactory::find(name).is_none()
        {
            issues.push(
                Issue::error("decoder", format!("there is no GStreamer element `{name}` on this machine"))
                    .help(super::plugins::advice(name)),
            );
        }
        if let Some(stations) = &self.stations {
            let twice = stations.iter().enumerate().find(|(n, s)| stations[..*n].contains(s));
            if let Some((_, station)) = twice {
                issues.push(Issue::error("stations", format!("station `{station}` is named twice")));
            }
            if stations.is_empty() {
                issues.push(Issue::error("stations", "no station is named"));
            }
        }
        if self.outage.is_some_and(|[from, to]| from >= to) {
            issues.push(Issue::error("outage", "the outage ends before it begins"));
        }
        if self.least == Some(0) {
            issues.push(Issue::error("least", "a frame has at least 1 station"));
        }
        self.check_numbers(&mut issues);
        match &address {
            Address::Test { name } if !scenes::exists(name) => {
                let names = scenes::names();
                let near = super::address::nearest(name, names.iter().copied());
                let help = match near {
                    Some(near) => format!("did you mean `test://{near}`? There are: {}", names.join(", ")),
                    None => format!("there are: {}", names.join(", ")),
                };
                issues.push(Issue::error("uri", format!("there is no test scene `{name}`")).help(help));
            }
            Address::Network { line: Line::Soapy(_), .. } => {
                let absent = super::soapy::version().err();
                issues.extend(absent.map(|why| Issue::warning("uri", why)));
            }
            Address::V4l2 { device } if !device.exists() => issues.push(
                Issue::warning("uri", format!("{} does not exist now", device.display()))
                    .help("the source waits for the camera; `ls /dev/video*` shows those that are there"),
            ),
            Address::Pictures { files, .. } => {
                for file in files.iter().filter(|f| !super::stills::readable(f)) {
                    issues.push(
                        Issue::error("uri", format!("{} is not a picture that can be read", file.display()))
                            .help(format!("pictures are {}", still_formats())),
                    );
                }
            }
            Address::Samples { tape } => {
                if let Err((key, message)) = tape.check(self.block.unwrap_or(BLOCK)) {
                    issues.push(Issue::error(key, message));
                }
            }
            Address::Station { world, .. } => {
                let block = self.block.unwrap_or(BLOCK);
                if let Err(message) = super::recording::block_length(block, world.sample_rate) {
                    issues.push(Issue::error("block", message));
                }
            }
            Address::Launch { description } => {
                if let Err(message) = super::launch::parse(description) {
                    issues.push(Issue::error("launch", message));
                }
            }
            _ => {}
        }
        issues
    }

    fn check_numbers(&self, issues: &mut Vec<Issue>) {
        if self.width.is_some() != self.height.is_some() {
            let key = if self.width.is_some() { "width" } else { "height" };
            issues.push(Issue::error(key, "`width` and `height` go together"));
        }
        for (key, value) in [("width", self.width), ("height", self.height)] {
            if value.is_some_and(|v| !(16..=16384).contains(&v) || v % 2 == 1) {
                issues.push(Issue::error(key, format!("`{key}` must be even and between 16 and 16384")));
            }
        }
        if let Some(Gain::Db(db)) = self.gain.filter(|g| !matches!(g, Gain::Db(db) if (-100.0..=100.0).contains(db))) {
            issues.push(Issue::error("gain", format!("`gain` is -100 to 100 dB or \"auto\", not {db}")));
        }
        if self.ppm.is_some_and(|p| p.abs() > 1000) {
            issues.push(Issue::error("ppm", "`ppm` is -1000 to 1000"));
        }
        if self.ring.is_some_and(|r| r > RING_MOST || r < 2 * self.block.unwrap_or(BLOCK)) {
            issues.push(Issue::error("ring", "`ring` is two blocks at least and a minute at most"));
        }
        if self.fps.is_some_and(|f| !(f > 0.0 && f <= 1000.0)) {
            issues.push(Issue::error("fps", "`fps` must be above 0 and at most 1000"));
        }
        if !matches!(self.rotate, 0 | 90 | 180 | 270) {
            issues.push(Issue::error("rotate", format!("`rotate` is 0, 90, 180 or 270, not {}", self.rotate)));
        }
        if self.latency.is_some_and(|l| l > Duration::from_secs(60)) {
            issues.push(Issue::error("latency", "`latency` is at most a minute"));
        }
        let short = Duration::from_millis(10);
        for (key, span) in [
            ("stall_timeout", Some(self.stall_timeout)),
            ("connect_timeout", Some(self.connect_timeout)),
            ("freeze_timeout", self.freeze_timeout),
            ("reconnect_min", Some(self.reconnect_min)),
            ("reconnect_max", Some(self.reconnect_max)),
        ] {
            if span.is_some_and(|s| s < short) {
                issues.push(Issue::error(key, format!("`{key}` must be at least 10ms")));
            }
        }
        if self.reconnect_max < self.reconnect_min {
            issues.push(Issue::error("reconnect_max", "`reconnect_max` is shorter than `reconnect_min`"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Vec<String> {
        let config: SourceConfig = toml::from_str(text).expect("parses");
        config.check(&Context::default()).into_iter().map(|i| format!("{}: {}", i.key, i.message)).collect()
    }

    fn complains(text: &str, key: &str, part: &str) {
        let found = check(text);
        assert!(found.iter().any(|m| m.starts_with(&format!("{key}:")) && m.contains(part)), "{text}: {found:?}");
    }

    #[test]
    fn a_source_has_exactly_one_origin() {
        complains("", "", "neither");
        complains("uri='test://ball'\nlaunch='videotestsrc'", "launch", "both");
    }

    #[test]
    fn a_bad_scheme_is_named_with_the_nearest_good_one() {
        complains("uri='rtps://h/x'", "uri", "rtps");
        let c = SourceConfig::at("rtps://h/x");
        let help = c.check(&Context::default())[0].help.clone().expect("help");
        assert!(help.contains("rtsp://"), "{help}");
    }

    #[test]
    fn options_that_do_not_fit_the_scheme_are_refused() {
        complains("uri='test://ball'\ntransport='udp'", "transport", "no meaning");
        complains("uri='rtsp://127.0.0.1/x'\nwidth=640\nheight=480", "width", "no meaning");
        complains("uri='rtsp://127.0.0.1/x'\npace='fast'", "pace", "only files");
        complains("uri='rtsp://127.0.0.1/x'\nloop=true", "loop", "no meaning");
    }

    #[test]
    fn missing_files_scenes_and_elements_are_found() {
        complains("uri='file:///nowhere/at/all.mp4'", "uri", "does not exist");
        complains("uri='file:///nowhere/*.jpg'", "uri", "matches no file");
        complains("uri='test://bal'", "uri", "no test scene");
        complains("uri='test://ball'\ndecoder='avdec_h2645'", "decoder", "no GStreamer element");
        complains("launch='nosuchelement ! fakesink'", "launch", "nosuchelement");
        complains("uri='rtsp://:554/x'", "uri", "host");
        complains("uri='rtsp://h:99999/x'", "uri", "port");
    }

    #[test]
    fn numbers_are_checked() {
        complains("uri='test://ball'\nwidth=640", "width", "go together");
        complains("uri='test://ball'\nfps=0.0", "fps", "above 0");
        complains("uri='test://ball'\nrotate=45", "rotate", "0, 90");
        complains("uri='test://ball'\nreconnect_min='2s'", "reconnect_max", "shorter");
    }

    #[test]
    fn good_sources_pass() {
        for text in [
            "uri='test://ball'\nwidth=320\nheight=240\nfps=15.0",
            "uri='rtsp://u:p@127.0.0.1:8554/x'\ntransport='udp'\nlatency='20ms'",
            "uri='https://example.org/live.m3u8'",
            "launch='videotestsrc is-live=true ! video/x-raw,format=NV12'",
        ] {
            assert_eq!(check(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn durations_are_text_and_secrets_stay_secret() {
        let c: SourceConfig =
            toml::from_str("uri='rtsp://u:hunter2@h/x'\npassword='hunter3'\nstall_timeout='1500ms'").expect("parses");
        assert_eq!(c.stall_timeout, Duration::from_millis(1500));
        let shown = format!("{c:?} {} {}", c.display(), serde_json::to_string(&c.password).expect("json"));
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(toml::from_str::<SourceConfig>("stall_timeout='soon'").is_err());
        assert!(toml::from_str::<SourceConfig>("colour='red'").is_err());
    }
}
