//! Recordings of radio receivers: SigMF, and raw samples whose form the pipeline file says.

use super::{Flow, Intake, Pace, Source, SourceError};
use crate::frame::{Arrival, Frame, Nanos, Payload, SampleBlock, Signal, clock};
use crate::signal::Complex32;
use crate::signal::samples::{Converter, Format};
use crate::signal::sigmf;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How samples in a raw file lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Raw {
    /// Their form.
    pub format: Format,
    /// Samples a second.
    pub rate: f64,
    /// Centre frequency in Hz, where it is known.
    pub frequency: Option<f64>,
}

/// What is played.
#[derive(Debug, Clone, PartialEq)]
pub enum Tape {
    /// A SigMF recording, and which of its channels.
    Sigmf(PathBuf, usize),
    /// A raw file.
    Raw(PathBuf, Raw),
}

impl Tape {
    /// What is wrong with it, and the key that says so. Reads metadata, and no samples.
    ///
    /// # Errors
    /// See above.
    pub fn check(&self, block: Duration) -> Result<(), (&'static str, String)> {
        let rate = match self {
            Self::Sigmf(_, channel) => {
                let key = if *channel > 0 { "channel" } else { "uri" };
                Player::open(self).map_err(|message| (key, message))?.rate()
            }
            Self::Raw(_, raw) if !(raw.rate.is_finite() && (1.0..=1e12).contains(&raw.rate)) => {
                return Err(("sample_rate", "`sample_rate` is from 1 to 1e12 samples a second".to_owned()));
            }
            Self::Raw(_, raw) => raw.rate,
        };
        block_length(block, rate).map(|_| ()).map_err(|message| ("block", message))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Sigmf(path, _) | Self::Raw(path, _) => path,
        }
    }
}

/// A recording, played in blocks. A frame is captured when the last sample of its block would have been received.
pub struct Recording {
    /// The source's id.
    pub id: String,
    /// What is played.
    pub tape: Tape,
    /// How fast.
    pub pace: Pace,
    /// Stream time of a block.
    pub block: Duration,
    /// Begin again at the end.
    pub repeat: bool,
}

/// The largest block, in samples: 128 MiB of them.
pub const MOST: usize = 16 << 20;

/// Samples in a block of this length.
///
/// # Errors
/// None at all, or more than [`MOST`].
pub fn block_length(block: Duration, rate: f64) -> Result<usize, String> {
    let samples = (block.as_secs_f64() * rate).round();
    if (1.0..=MOST as f64).contains(&samples) {
        return Ok(samples as usize);
    }
    let block = humantime::format_duration(block);
    Err(format!("a `block` of {block} has {samples} samples at {rate} a second; it must have 1 to {MOST}"))
}

/// An open recording.
enum Player {
    Sigmf { reader: sigmf::Reader, channel: usize, all: Vec<Complex32> },
    Raw { file: BufReader<File>, converter: Converter, raw: Raw, at: u64, bytes: Vec<u8> },
}

/// What was read: where it begins, and the centre frequency.
type Piece = (u64, Option<f64>);

impl Player {
    fn open(tape: &Tape) -> Result<Self, String> {
        match tape {
            Tape::Sigmf(path, channel) => {
                let reader = sigmf::Recording::open(path).and_then(|r| r.reader()).map_err(|e| e.to_string())?;
                if *channel >= reader.channels() {
                    return Err(format!("{} has {} channels, counted from 0", path.display(), reader.channels()));
                }
                Ok(Self::Sigmf { reader, channel: *channel, all: Vec::new() })
            }
            Tape::Raw(path, raw) => {
                let file = File::open(path).map_err(|e| format!("{} cannot be opened: {e}", path.display()))?;
                let (file, converter) = (BufReader::new(file), Converter::new(raw.format));
                Ok(Self::Raw { file, converter, raw: *raw, at: 0, bytes: Vec::new() })
            }
        }
    }

    fn rate(&self) -> f64 {
        match self {
            Self::Sigmf { reader, .. } => reader.sample_rate(),
            Self::Raw { raw, .. } => raw.rate,
        }
    }

    /// Reads up to `most` samples that belong together into `out`; `None` at the end.
    fn read(&mut self, most: usize, out: &mut Vec<Complex32>) -> Result<Option<Piece>, String> {
        match self {
            Self::Sigmf { reader, channel, all } => {
                let channels = reader.channels();
                let block = reader.read(most, all).map_err(|e| e.to_string())?;
                out.clear();
                out.extend(all.iter().skip(*channel).step_by(channels));
                Ok(block.map(|b| (b.start, b.frequency)))
            }
            Self::Raw { file, converter, raw, at, bytes } => {
                out.clear();
                bytes.resize(most * raw.format.sample_bytes(), 0);
                let mut held = 0;
                while held < bytes.len() {
                    match file.read(&mut bytes[held..]) {
                        Ok(0) => break,
                        Ok(n) => held += n,
                        Err(e) if e.kind() == ErrorKind::Interrupted => {}
                        Err(e) => return Err(format!("cannot be read: {e}")),
                    }
                }
                let samples = converter.push(&bytes[..held], out) as u64;
                let start = *at;
                *at += samples;
                Ok((samples > 0).then_some((start, raw.frequency)))
            }
        }
    }
}

impl Source for Recording {
    fn run(self: Box<Self>, intake: Arc<Intake>) -> Result<(), SourceError> {
        intake.signal(Signal::Connecting);
        let broken = |message: String| {
            let message = format!("{}: {message}", self.tape.path().display());
            intake.signal(Signal::Broken(message.clone()));
            SourceError { id: self.id.clone(), message }
        };
        let start = clock::now();
        // Samples played in rounds before this one.
        let mut before = 0;
        loop {
            let mut player = Player::open(&self.tape).map_err(broken)?;
            let length = block_length(self.block, player.rate()).map_err(broken)?;
            match self.play(&intake, &mut player, length, start, before).map_err(broken)? {
                Played::Stopped => return Ok(()),
                Played::To(end) if self.repeat && end > before => before = end,
                Played::To(_) => {
                    intake.signal(Signal::Ended);
                    return Ok(());
                }
            }
        }
    }
}

enum Played {
    /// To the end, which lies so many samples behind the start.
    To(u64),
    Stopped,
}

impl Recording {
    /// Plays a recording once, behind `before` samples of earlier rounds.
    fn play(
        &self,
        intake: &Intake,
        player: &mut Player,
        length: usize,
        start: Nanos,
        before: u64,
    ) -> Result<Played, String> {
        let rate = player.rate();
        let time = |samples: u64| (samples as f64 / rate * 1e9) as Nanos;
        let mut samples = Vec::with_capacity(length);
        let (mut at, mut first) = (before, None);
        // The block behind is read ahead, so that the last one knows that it is.
        let mut next = player.read(length, &mut samples)?;
        while let Some((position, frequency)) = next {
            let position = position - *first.get_or_insert(position) + before;
            let mut behind = Vec::with_capacity(length);
            next = player.read(length, &mut behind)?;
            let last = next.is_none() && !self.repeat;
            let samples = std::mem::replace(&mut samples, behind);
            let block = SampleBlock { samples, rate, frequency, position, last, gap: None, time: None };
            at = block.end();
            if self.pace == Pace::Live {
                let due = start + time(at);
                while let Some(left) = due.checked_sub(clock::now()).filter(|l| *l > 0) {
                    if intake.wait(Duration::from_nanos(left)) == Flow::Stop {
                        return Ok(Played::Stopped);
                    }
                }
            }
            if intake.is_stopping() {
                return Ok(Played::Stopped);
            }
            intake.signal(Signal::Up);
            let now = clock::now();
            let arrival = Arrival { complete: now, decoded: now };
            let payload = Payload::Samples(Arc::new(block));
            if intake.submit(Frame::new(intake.capture(now), Some(time(position)), arrival, payload)) == Flow::Stop {
                return Ok(Played::Stopped);
            }
        }
        Ok(Played::To(at))
    }
}
