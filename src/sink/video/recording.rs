//! One file of a recording: a GStreamer pipeline from raw pictures to disk.

use crate::sink::SinkError;
use gst::prelude::*;
use gstreamer as gst;
use gstreamer_app::AppSrc;
use gstreamer_video::{VideoCapsBuilder, VideoFormat, VideoFrameFlags, VideoMeta};
use std::path::Path;
use std::time::{Duration, Instant};

/// Encoders, best first: those of a graphics card cost the processor nothing.
const ENCODERS: [&str; 4] = ["nvh264enc", "vah264enc", "x264enc", "openh264enc"];
/// Pictures that wait for the encoder.
const QUEUED: u64 = 4;
/// Ticks per second of an MP4's clock.
const MP4_TICKS: u32 = 90_000;
/// A picture that the encoder does not take for so long will never be taken.
const STALL: Duration = Duration::from_secs(5);

/// The file's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Matroska,
    Mp4,
}

impl Container {
    /// By the path's extension.
    pub fn of(path: &Path) -> Result<Self, SinkError> {
        match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("mkv") => Ok(Self::Matroska),
            Some("mp4" | "m4v") => Ok(Self::Mp4),
            Some(other) => Err(SinkError(format!("`.{other}` is no format that is written here"))),
            None => Err(SinkError("has no extension that says the format".to_owned())),
        }
    }

    pub fn muxer(self) -> &'static str {
        match self {
            Self::Matroska => "matroskamux",
            Self::Mp4 => "mp4mux",
        }
    }

    fn make(self) -> Result<gst::Element, SinkError> {
        let muxer = make(self.muxer())?;
        match self {
            // A cluster is complete on disk after a second, whatever happens later.
            Self::Matroska => muxer.set_property("max-cluster-duration", 1_000_000_000i64),
            // Fragments of a second while it is written, one ordinary file once it is finished.
            Self::Mp4 => {
                muxer.set_property("fragment-duration", 1000u32);
                muxer.set_property_from_str("fragment-mode", "first-moov-then-finalise");
                // By itself it derives them from the frame rate, too coarse for times that vary.
                muxer.set_property("trak-timescale", MP4_TICKS);
                muxer.set_property("movie-timescale", MP4_TICKS);
            }
        }
        Ok(muxer)
    }
}

/// How to encode.
#[derive(Debug, Clone)]
pub(super) struct Encoding {
    /// The element; `None` for the first that works.
    pub element: Option<String>,
    /// 1 to 100.
    pub quality: u8,
    /// In place of the quality.
    pub bitrate_kbit: Option<u32>,
    /// Frames per second to expect. Every picture keeps its own time; the rate steers the encoder's bit rate and is
    /// what the file says of itself.
    pub fps: f64,
}

fn make(element: &str) -> Result<gst::Element, SinkError> {
    gst::ElementFactory::make(element)
        .build()
        .map_err(|_| SinkError(format!("the GStreamer element `{element}` is missing")))
}

impl Encoding {
    /// An encoder that can be used on this machine.
    pub fn find(&self) -> Result<gst::Element, SinkError> {
        let names: Vec<&str> = match &self.element {
            Some(name) => vec![name],
            None => ENCODERS.to_vec(),
        };
        for name in &names {
            let Ok(encoder) = make(name) else { continue };
            // A driver without its device shows here.
            let usable = encoder.set_state(gst::State::Ready).is_ok();
            let _ = encoder.set_state(gst::State::Null);
            if usable {
                return Ok(encoder);
            }
        }
        Err(SinkError(format!("no H.264 encoder: {} cannot be used on this machine", names.join(", "))))
    }

    fn rate(&self) -> gst::Fraction {
        gst::Fraction::approximate_f64(self.fps.clamp(0.01, 1000.0)).unwrap_or_else(|| gst::Fraction::new(30, 1))
    }

    fn make(&self, (width, height): (u32, u32)) -> Result<gst::Element, SinkError> {
        let encoder = self.find()?;
        let has = |name: &str| encoder.find_property(name).is_some();
        // From 51 (worst) down; 70 gives 23, which is hard to tell from the original.
        let quantizer = 51 - u32::from(self.quality) * 2 / 5;
        // For encoders without constant quality: bits per pixel that H.264 needs, doubling every six steps.
        let pixels = f64::from(width) * f64::from(height) * self.fps;
        let guess = pixels * 0.08 * 2f64.powf((23.0 - f64::from(quantizer)) / 6.0) / 1000.0;
        let kbit = self.bitrate_kbit.unwrap_or(guess.clamp(64.0, 100_000.0) as u32);
        match encoder.factory().map(|f| f.name().to_string()).as_deref() {
            Some("x264enc") => {
                encoder.set_property_from_str("tune", "zerolatency");
                encoder.set_property_from_str("speed-preset", "superfast");
                // Recording must not take the inference's cores.
                encoder.set_property("threads", 2u32);
                match self.bitrate_kbit {
                    Some(_) => encoder.set_property("bitrate", kbit),
                    None => {
                        encoder.set_property_from_str("pass", "qual");
                        encoder.set_property("quantizer", quantizer);
                        // Without it the default bit rate would still be the limit, whatever the quality.
                        encoder.set_property("vbv-buf-capacity", 0u32);
                    }
                }
                encoder.set_property("key-int-max", 30u32);
            }
            Some("openh264enc") => {
                encoder.set_property("bitrate", kbit.saturating_mul(1000));
                encoder.set_property("gop-size", 30u32);
                skip_draining(&encoder);
            }
            _ => {
                if has("bitrate") {
                    encoder.set_property_from_str("bitrate", &kbit.to_string());
                }
                for name in ["gop-size", "key-int-max"] {
                    if has(name) {
                        encoder.set_property_from_str(name, "30");
                    }
                }
            }
        }
        Ok(encoder)
    }
}

/// Leads the end of the stream around an encoder that holds no pictures back. openh264enc drains by encoding a null
/// picture, and the library prints that as an error (`EncodeFrame(), cmInitParaError`) for every file.
fn skip_draining(encoder: &gst::Element) {
    let (Some(sink), Some(source)) = (encoder.static_pad("sink"), encoder.static_pad("src")) else { return };
    let source = source.downgrade();
    sink.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        match (info.event().filter(|event| event.type_() == gst::EventType::Eos), source.upgrade()) {
            (Some(end), Some(source)) => {
                // Refused only where the pipeline is being torn down: nobody waits for it there.
                let _ = source.push_event(end.clone());
                gst::PadProbeReturn::Handled
            }
            _ => gst::PadProbeReturn::Ok,
        }
    });
}

/// A file that is being written. Dropped without [`finish`](Self::finish) it stays as it is.
pub(super) struct Recording {
    pipeline: gst::Pipeline,
    source: AppSrc,
    bus: gst::Bus,
    encoder: String,
    size: (u32, u32),
    ended: bool,
    path: String,
}

impl Recording {
    /// Begins a file of pictures of `size` (even numbers).
    pub fn begin(path: &Path, size: (u32, u32), encoding: &Encoding) -> Result<Self, SinkError> {
        let failed = |what: &str| SinkError(format!("{}: {what}", path.display()));
        let container = Container::of(path)?;
        let caps = VideoCapsBuilder::new()
            .format(VideoFormat::I420)
            .width(size.0 as i32)
            .height(size.1 as i32)
            .pixel_aspect_ratio(gst::Fraction::new(1, 1))
            // Not 0/1 for "variable": then x264enc declares a rate of 1 GHz, the parser believes it, and the last picture
            // of an MP4 lasts no time and is not played.
            .framerate(encoding.rate())
            .field("colorimetry", "bt601")
            .build();
        let source = AppSrc::builder().caps(&caps).format(gst::Format::Time).build();
        source.set_property("max-buffers", QUEUED);
        source.set_property("max-bytes", 0u64);
        let encoder = encoding.make(size)?;
        let name = encoder.factory().map(|f| f.name().to_string()).unwrap_or_default();
        let file = make("filesink")?;
        file.set_property("location", path.to_string_lossy().as_ref());
        // Written at once: what waits in memory is lost in a crash.
        file.set_property_from_str("buffer-mode", "unbuffered");
        file.set_property("async", false);
        file.set_property("sync", false);

        let pipeline = gst::Pipeline::new();
        let parts =
            [source.clone().upcast(), make("videoconvert")?, encoder, make("h264parse")?, container.make()?, file];
        pipeline.add_many(&parts).map_err(|e| failed(&e.to_string()))?;
        gst::Element::link_many(&parts).map_err(|e| failed(&e.to_string()))?;
        let bus = pipeline.bus().ok_or_else(|| failed("the pipeline has no bus"))?;
        crate::source::plugins::yields(&bus);
        let mut recording =
            Self { pipeline, source, bus, encoder: name, size, ended: false, path: path.display().to_string() };
        if recording.pipeline.set_state(gst::State::Playing).is_err() {
            let why = recording.trouble(Duration::from_millis(100));
            return Err(why.unwrap_or_else(|| failed("cannot be written")));
        }
        Ok(recording)
    }

    /// The encoder's name.
    pub fn encoder(&self) -> &str {
        &self.encoder
    }

    /// Adds a picture: planes of 4:2:0 without gaps.
    pub fn push(&mut self, planes: Vec<u8>, at: Duration, lasts: Duration) -> Result<(), SinkError> {
        let (w, h) = (self.size.0 as usize, self.size.1 as usize);
        let mut buffer = gst::Buffer::from_slice(planes);
        {
            let buffer = buffer.get_mut().ok_or_else(|| self.failed("the picture is shared"))?;
            buffer.set_pts(gst::ClockTime::from_nseconds(at.as_nanos() as u64));
            buffer.set_duration(gst::ClockTime::from_nseconds(lasts.as_nanos() as u64));
            let offsets = [0, w * h, w * h + w * h / 4];
            let strides = [w as i32, w as i32 / 2, w as i32 / 2];
            VideoMeta::add_full(
                buffer,
                VideoFrameFlags::empty(),
                VideoFormat::I420,
                self.size.0,
                self.size.1,
                &offsets,
                &strides,
            )
            .map_err(|e| self.failed(&e.to_string()))?;
        }
        let start = Instant::now();
        // Not by a blocking push: it would wait for ever behind an encoder that has given up.
        while self.source.property::<u64>("current-level-buffers") >= QUEUED {
            if let Some(error) = self.trouble(Duration::from_millis(5)) {
                return Err(error);
            }
            if start.elapsed() > STALL {
                return Err(self.failed("the encoder or the disk has stalled"));
            }
        }
        if let Some(error) = self.trouble(Duration::ZERO) {
            return Err(error);
        }
        self.source.push_buffer(buffer).map(|_| ()).map_err(|e| {
            let why = self.trouble(Duration::from_millis(100));
            why.unwrap_or_else(|| self.failed(&e.to_string()))
        })
    }

    /// No more pictures: the encoder may drain. [`finish`](Self::finish) waits for it.
    pub fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            let _ = self.source.end_of_stream();
        }
    }

    /// Writes what is left and the index, and closes the file.
    pub fn finish(mut self, by: Instant) -> Result<(), SinkError> {
        self.end();
        let left = by.saturating_duration_since(Instant::now()).as_nanos() as u64;
        let kinds = [gst::MessageType::Eos, gst::MessageType::Error];
        match self.bus.timed_pop_filtered(gst::ClockTime::from_nseconds(left), &kinds) {
            None => Err(self.failed("was not finished in time")),
            Some(message) => match message.view() {
                gst::MessageView::Error(e) => Err(self.failed(&e.error().to_string())),
                _ => Ok(()),
            },
        }
    }

    fn failed(&self, what: &str) -> SinkError {
        SinkError(format!("{}: {what}", self.path))
    }

    /// What the pipeline complains about, waiting at most so long for it.
    fn trouble(&mut self, wait: Duration) -> Option<SinkError> {
        let wait = gst::ClockTime::from_nseconds(wait.as_nanos() as u64);
        let message = self.bus.timed_pop_filtered(wait, &[gst::MessageType::Error])?;
        match message.view() {
            gst::MessageView::Error(e) => Some(self.failed(&e.error().to_string())),
            _ => None,
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = self.pipeline.set_state(gst::State::Null);
    }
}
