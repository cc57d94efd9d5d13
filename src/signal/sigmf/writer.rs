//! Writes recordings.

use super::super::samples::{Format, encode};
use super::super::{Complex32, checked_rate};
use super::{Annotation, Capture, Global, Metadata, SigmfError, files};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a recording: the data as it comes, the metadata at the end. Both carry the ending `.part` until
/// [`Writer::finish`] gives them their names, so that a recording that is there is whole.
#[derive(Debug)]
pub struct Writer {
    meta_file: PathBuf,
    data_file: PathBuf,
    out: BufWriter<File>,
    metadata: Metadata,
    bytes: Vec<u8>,
    frames: u64,
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

impl Writer {
    /// Begins a recording; `path` is what the names of its two files have in common. Keys for the metadata's global
    /// object (`core:hw`, `core:recorder`, extensions) go to [`Writer::global`].
    ///
    /// # Errors
    /// Where the rate makes no sense, or the file cannot be made.
    pub fn create(path: &Path, format: Format, sample_rate: f64) -> Result<Self, SigmfError> {
        let (meta_file, data_file) = files(path);
        let rate = checked_rate(sample_rate)
            .map_err(|e| SigmfError::key(&meta_file, "global.core:sample_rate", e.to_string()))?;
        let temporary = part(&data_file);
        let file = File::create(&temporary).map_err(|e| SigmfError::io(&temporary, "cannot be made", e))?;
        let global = Global::new(format, rate);
        Ok(Self {
            meta_file,
            data_file,
            out: BufWriter::with_capacity(1 << 18, file),
            metadata: Metadata { global, captures: Vec::new(), annotations: Vec::new(), other: Default::default() },
            bytes: Vec::new(),
            frames: 0,
        })
    }

    /// The metadata's global object, for keys to be added.
    pub fn global(&mut self) -> &mut Global {
        &mut self.metadata.global
    }

    /// Begins a capture segment at the next sample; its `start` is filled in.
    pub fn capture(&mut self, capture: Capture) {
        let start = self.metadata.global.offset + self.frames;
        // A segment without samples says nothing.
        self.metadata.captures.pop_if(|c| c.start == start);
        self.metadata.captures.push(Capture { start, header_bytes: 0, ..capture });
    }

    /// Notes something about samples; notes may come in any order.
    pub fn annotate(&mut self, annotation: Annotation) {
        self.metadata.annotations.push(annotation);
    }

    /// Samples of each channel so far.
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Appends samples, those of a frame's channels side by side.
    ///
    /// # Errors
    /// Where they are no whole number of frames, or the file cannot be written.
    pub fn write(&mut self, samples: &[Complex32]) -> Result<(), SigmfError> {
        let channels = self.metadata.global.channels.max(1) as usize;
        if !samples.len().is_multiple_of(channels) {
            let what = format!("{} samples are no whole number of frames of {channels} channels", samples.len());
            return Err(SigmfError::data(&self.data_file, what));
        }
        // Encoded in pieces, so that the buffer stays small.
        for piece in samples.chunks(1 << 14) {
            self.bytes.clear();
            encode(self.metadata.global.format, piece, &mut self.bytes);
            let written = self.out.write_all(&self.bytes);
            written.map_err(|e| SigmfError::io(&part(&self.data_file), "cannot be written", e))?;
        }
        self.frames += (samples.len() / channels) as u64;
        Ok(())
    }

    /// Writes the metadata and gives both files their names, the metadata last, once the samples are on the disk.
    ///
    /// # Errors
    /// Where a file cannot be written or named.
    pub fn finish(self) -> Result<(), SigmfError> {
        self.close(true)
    }

    /// The same without waiting for the disk: if the machine loses power right after, samples may be missing.
    ///
    /// # Errors
    /// Where a file cannot be written or named.
    pub fn finish_at_once(self) -> Result<(), SigmfError> {
        self.close(false)
    }

    /// Gives the recording up: what reached the disk stays there under its temporary name. Where nothing did, the file
    /// goes too.
    pub fn abandon(self) {
        let data = part(&self.data_file);
        // Not by dropping it, which would try to write once more.
        let (file, _) = self.out.into_parts();
        if file.metadata().is_ok_and(|m| m.len() == 0) {
            let _ = std::fs::remove_file(data);
        }
    }

    fn close(mut self, sync: bool) -> Result<(), SigmfError> {
        self.metadata.captures.sort_by_key(|c| c.start);
        self.metadata.annotations.sort_by_key(|a| a.start);
        if self.metadata.captures.is_empty() {
            self.metadata.captures.push(Capture { start: self.metadata.global.offset, ..Capture::default() });
        }
        let (data, meta) = (part(&self.data_file), part(&self.meta_file));
        self.out.flush().map_err(|e| SigmfError::io(&data, "cannot be written", e))?;
        if sync {
            self.out.get_ref().sync_data().map_err(|e| SigmfError::io(&data, "cannot be written", e))?;
        }
        std::fs::write(&meta, self.metadata.to_json()).map_err(|e| SigmfError::io(&meta, "cannot be written", e))?;
        for (from, to) in [(&data, &self.data_file), (&meta, &self.meta_file)] {
            std::fs::rename(from, to).map_err(|e| SigmfError::io(to, "cannot be named so", e))?;
        }
        Ok(())
    }
}
