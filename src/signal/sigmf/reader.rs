//! Streams the samples of a recording.

use super::super::Complex32;
use super::super::samples::Converter;
use super::{Metadata, SigmfError, files};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// The most metadata that is read: 64 MiB.
const MOST_METADATA: u64 = 64 << 20;

/// A recording that was found and whose metadata makes sense.
#[derive(Debug, Clone)]
pub struct Recording {
    metadata: Metadata,
    meta_file: PathBuf,
    data_file: PathBuf,
}

impl Recording {
    /// Reads the metadata. `path` is the metadata file, the data file, or what their names have in common.
    ///
    /// # Errors
    /// Where the file cannot be read, or says what cannot be.
    pub fn open(path: &Path) -> Result<Self, SigmfError> {
        let (meta_file, data_file) = files(path);
        let file = File::open(&meta_file).map_err(|e| SigmfError::io(&meta_file, "cannot be opened", e))?;
        let mut text = String::new();
        let read = file.take(MOST_METADATA + 1).read_to_string(&mut text);
        read.map_err(|e| SigmfError::io(&meta_file, "cannot be read", e))?;
        if text.len() as u64 > MOST_METADATA {
            return Err(SigmfError::data(&meta_file, format!("is larger than {MOST_METADATA} bytes")));
        }
        let metadata = Metadata::parse(&meta_file, &text)?;
        let data_file = match &metadata.global.dataset {
            Some(name) => meta_file.with_file_name(name),
            None => data_file,
        };
        Ok(Self { metadata, meta_file, data_file })
    }

    /// What the metadata says.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The data file.
    pub fn data_file(&self) -> &Path {
        &self.data_file
    }

    /// Opens the data file and works out where each segment's samples lie.
    ///
    /// # Errors
    /// Where there is none, the rate is not said, or headers and segments do not fit the file.
    pub fn reader(&self) -> Result<Reader, SigmfError> {
        let g = &self.metadata.global;
        let Some(sample_rate) = g.sample_rate else {
            return Err(SigmfError::key(&self.meta_file, "global.core:sample_rate", "is missing"));
        };
        if g.metadata_only {
            let what = "is true: there are no samples to read";
            return Err(SigmfError::key(&self.meta_file, "global.core:metadata_only", what));
        }
        let file = File::open(&self.data_file).map_err(|e| SigmfError::io(&self.data_file, "cannot be opened", e))?;
        let length = file.metadata().map_err(|e| SigmfError::io(&self.data_file, "cannot be examined", e))?.len();
        let frame_bytes = (g.format.sample_bytes() * g.channels as usize) as u64;
        let end = length.checked_sub(g.trailing_bytes).ok_or_else(|| {
            let what = format!("is {}, but the data file has only {length} bytes", g.trailing_bytes);
            SigmfError::key(&self.meta_file, "global.core:trailing_bytes", what)
        })?;
        let (segments, total) = self.lay_out(end, frame_bytes)?;
        Ok(Reader {
            converter: Converter::new(g.format),
            channels: g.channels as usize,
            sample_rate,
            frame_bytes,
            file: BufReader::with_capacity(1 << 16, file),
            data_file: self.data_file.clone(),
            bytes: Vec::new(),
            segments,
            segment: 0,
            at: g.offset,
            sought: false,
            total,
        })
    }

    /// Where every segment lies; the last ends with the file. Segments that begin behind the last sample are left out,
    /// as the specification asks.
    fn lay_out(&self, end: u64, frame_bytes: u64) -> Result<(Vec<Segment>, u64), SigmfError> {
        let offset = self.metadata.global.offset;
        let mut segments: Vec<Segment> = Vec::new();
        // What lies before the first capture belongs to none.
        if self.metadata.captures.first().is_none_or(|c| c.start > offset) {
            segments.push(Segment { start: offset, end: 0, byte: 0, frequency: None, capture: None });
        }
        let mut headers = 0u64;
        for (i, c) in self.metadata.captures.iter().enumerate() {
            let key = || format!("captures[{i}].core:header_bytes");
            let beyond = || SigmfError::key(&self.meta_file, key(), "reaches beyond the end of the data file");
            headers = headers.checked_add(c.header_bytes).filter(|&h| h <= end).ok_or_else(beyond)?;
            let Some(byte) = (c.start - offset).checked_mul(frame_bytes).and_then(|b| b.checked_add(headers)) else {
                break;
            };
            if byte >= end && !segments.is_empty() {
                break;
            }
            segments.push(Segment { start: c.start, end: 0, byte, frequency: c.frequency, capture: Some(i) });
        }
        for i in 0..segments.len() {
            let next = segments.get(i + 1).map(|s| s.start);
            let here = &mut segments[i];
            let fits = here.start.saturating_add(end.saturating_sub(here.byte) / frame_bytes);
            here.end = next.map_or(fits, |n| n.min(fits));
        }
        let total = segments.last().map_or(0, |s| s.end.saturating_sub(offset));
        if let Some(last) = segments.last() {
            let rest = end.saturating_sub(last.byte) % frame_bytes;
            if rest != 0 {
                let what = format!(
                    "ends with {rest} bytes that are no sample of {frame_bytes} bytes (datatype {}, {} channels)",
                    self.metadata.global.format, self.metadata.global.channels
                );
                return Err(SigmfError::data(&self.data_file, what));
            }
        }
        Ok((segments, total))
    }
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    start: u64,
    end: u64,
    byte: u64,
    frequency: Option<f64>,
    capture: Option<usize>,
}

/// What a block of samples is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Block {
    /// Position of the first frame, counted as the metadata counts (`core:offset` included).
    pub start: u64,
    /// Frames: samples of each channel.
    pub frames: usize,
    /// The capture segment's centre frequency in Hz.
    pub frequency: Option<f64>,
    /// Which capture segment it is; `None` for samples before the first.
    pub capture: Option<usize>,
}

/// Reads samples, block by block.
#[derive(Debug)]
pub struct Reader {
    converter: Converter,
    channels: usize,
    sample_rate: f64,
    frame_bytes: u64,
    file: BufReader<File>,
    data_file: PathBuf,
    bytes: Vec<u8>,
    segments: Vec<Segment>,
    segment: usize,
    at: u64,
    sought: bool,
    total: u64,
}

impl Reader {
    /// Samples a second.
    pub fn sample_rate(&self) -> f64 {
        self.sample_rate
    }

    /// Channels; the samples of a frame stand side by side.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Frames of the whole recording.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Numbers so far that were NaN or infinite and became zero.
    pub fn not_finite(&self) -> u64 {
        self.converter.not_finite()
    }

    /// Goes on at a position, counted as the metadata counts; what lies before the first frame means the first.
    pub fn seek(&mut self, position: u64) {
        self.at = position;
        self.segment = 0;
        self.sought = false;
    }

    /// Reads up to `most` frames of one segment into `out`, which is cleared first: `frames · channels` samples. `None`
    /// at the end.
    ///
    /// # Errors
    /// Where the data file cannot be read, or has become shorter.
    pub fn read(&mut self, most: usize, out: &mut Vec<Complex32>) -> Result<Option<Block>, SigmfError> {
        out.clear();
        while self.segments.get(self.segment).is_some_and(|s| self.at >= s.end) {
            self.segment += 1;
            self.sought = false;
        }
        let Some(&segment) = self.segments.get(self.segment) else { return Ok(None) };
        if !self.sought {
            self.at = self.at.max(segment.start);
            let byte = segment.byte + (self.at - segment.start) * self.frame_bytes;
            self.file.seek(SeekFrom::Start(byte)).map_err(|e| SigmfError::io(&self.data_file, "cannot be read", e))?;
            self.sought = true;
        }
        // One call takes at most 16 MiB, whatever is asked.
        let frames = (most.max(1) as u64).min(segment.end - self.at).min(((16 << 20) / self.frame_bytes).max(1));
        self.bytes.resize((frames * self.frame_bytes) as usize, 0);
        self.file.read_exact(&mut self.bytes).map_err(|e| SigmfError::io(&self.data_file, "cannot be read", e))?;
        self.converter.push(&self.bytes, out);
        let block =
            Block { start: self.at, frames: frames as usize, frequency: segment.frequency, capture: segment.capture };
        self.at += frames;
        Ok(Some(block))
    }
}
