//! One stream: what is held of it, and which recordings it goes into.

use super::super::SinkError;
use super::super::heard::{Heard, heard};
use super::Trigger;
use super::cut::{Cut, Files, Held};
use crate::frame::{Record, SampleBlock};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What is to be recorded.
pub(super) struct Plan {
    pub trigger: Vec<Trigger>,
    pub before: Duration,
    pub after: Duration,
    pub longest: Duration,
    pub max_length: Duration,
}

/// A stream's newest samples and its recordings. Positions only rise: a recording never takes a sample that an earlier
/// one has.
pub(super) struct Track {
    stream: u32,
    rate: f64,
    trigger: Vec<Trigger>,
    /// The plan's times, in samples.
    before: u64,
    after: u64,
    longest: u64,
    max_length: u64,
    held: VecDeque<Held>,
    /// What was heard in what is held.
    heard: VecDeque<Heard>,
    /// Number of the newest frame, and the position behind its last sample.
    seq: u64,
    end: u64,
    /// Position behind the last sample that a recording took or passed over.
    taken: u64,
    /// Position behind the last sample that is to be recorded.
    wanted: u64,
    /// The recordings that are not finished; the newest may still take samples.
    cuts: VecDeque<Cut>,
    /// Somebody asked for a recording of so many samples from the next one on.
    asked: Option<u64>,
    /// Nothing comes behind.
    ended: bool,
}

impl Track {
    /// A stream that begins with this block.
    pub fn new(plan: &Plan, stream: u32, block: &SampleBlock) -> Self {
        let samples = |time: Duration| (time.as_secs_f64() * block.rate).round() as u64;
        Self {
            stream,
            rate: block.rate,
            trigger: plan.trigger.clone(),
            before: samples(plan.before),
            after: samples(plan.after),
            longest: samples(plan.longest),
            max_length: samples(plan.max_length).max(1),
            held: VecDeque::new(),
            heard: VecDeque::new(),
            seq: 0,
            end: block.position,
            taken: block.position,
            wanted: 0,
            cuts: VecDeque::new(),
            asked: None,
            ended: false,
        }
    }

    /// Whether the record is one of this stream: a source that was begun anew, another rate, or a new beginning of
    /// positions make another one.
    pub fn goes_on(&self, record: &Record, block: &SampleBlock) -> bool {
        let known = record.seq <= self.seq;
        self.stream == record.stream.index
            && self.rate == block.rate
            && (known || (!self.ended && block.position >= self.end))
    }

    /// Somebody asks for a recording from the next samples on, or to stop if the time is zero.
    pub fn ask(&mut self, time: Duration) {
        let samples = (time.as_secs_f64() * self.rate).round() as u64;
        if samples == 0 {
            self.wanted = self.wanted.min(self.end);
        }
        self.asked = (samples > 0).then_some(samples);
    }

    /// Whether nothing comes behind.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Takes a record in, and writes what is to be written.
    pub fn take(&mut self, record: &Arc<Record>, block: &Arc<SampleBlock>, files: &mut Files) -> Result<(), SinkError> {
        // A frame may come on several branches of the graph: its samples count once, what was heard in it every time.
        if block.position >= self.end {
            self.seq = record.seq;
            self.end = block.end();
            self.ended = block.last;
            self.held.push_back(Held { block: block.clone(), captured: record.captured });
            let oldest = block.position.saturating_sub(self.before + self.longest);
            while self.held.front().is_some_and(|h| h.block.end() <= oldest) {
                self.held.pop_front();
            }
            self.heard.retain(|h| h.end() > oldest);
        }
        for heard in heard(record, self.rate) {
            self.hear(record, heard, files)?;
        }
        if self.trigger.contains(&Trigger::Always) {
            // From where the last one ended: what is missing between is a gap in the recording, not its end.
            self.want(record, self.taken, block.end(), files)?;
        }
        if let Some(samples) = self.asked.take() {
            self.want(
                record,
                block.position.saturating_sub(self.before),
                block.position.saturating_add(samples),
                files,
            )?;
        }
        self.write(record, files)?;
        // Later words about what is in a recording are waited for.
        while self.cuts.front().is_some_and(|c| self.stop(c) + self.longest < self.end) {
            if let Some(cut) = self.cuts.pop_front() {
                files.finish(cut)?;
            }
        }
        Ok(())
    }

    /// Where a recording stops, as far as is known now.
    fn stop(&self, cut: &Cut) -> u64 {
        cut.limit.min(self.wanted.max(cut.next))
    }

    fn hear(&mut self, record: &Record, heard: Heard, files: &mut Files) -> Result<(), SinkError> {
        // The same frame on another branch.
        if self.heard.contains(&heard) {
            return Ok(());
        }
        self.cuts.iter_mut().for_each(|c| c.note(&heard));
        let (ear, from, to) = (heard.ear, heard.start, heard.end());
        self.heard.push_back(heard);
        if !self.trigger.iter().any(|t| t.is(ear)) {
            return Ok(());
        }
        self.want(record, from.saturating_sub(self.before), to.saturating_add(self.after), files)
    }

    /// The samples from one position to another are to be recorded, as far as they are there and in no recording yet.
    fn want(&mut self, record: &Record, from: u64, to: u64, files: &Files) -> Result<(), SinkError> {
        let mut from = from.max(self.taken);
        if to <= from || from >= self.end {
            return Ok(());
        }
        if !self.reaches(from) {
            // What was wanted before may reach beyond where this begins, and into a recording that this goes on in.
            self.write(record, files)?;
            from = from.max(self.taken);
            if to <= from || (!self.reaches(from) && !self.begin(record, from, to, files)?) {
                return Ok(());
            }
        }
        self.wanted = self.wanted.max(to);
        Ok(())
    }

    /// Whether the newest recording reaches this position, so that it goes on there.
    fn reaches(&self, from: u64) -> bool {
        self.cuts.back().is_some_and(|c| c.next < c.limit && from <= self.stop(c))
    }

    /// Begins a recording at the first sample that is held between two positions; says whether there is one.
    fn begin(&mut self, record: &Record, from: u64, to: u64, files: &Files) -> Result<bool, SinkError> {
        let first = self.held.iter().find(|h| h.block.end() > from).filter(|h| h.block.position < to);
        let Some(first) = first.cloned() else { return Ok(false) };
        let from = from.max(first.block.position);
        // The one before takes no more.
        if let Some(before) = self.cuts.back() {
            let stop = self.stop(before);
            self.cuts.back_mut().into_iter().for_each(|c| c.limit = stop);
        }
        let mut cut = Cut::begin(files, record, &first, from, from.saturating_add(self.max_length))?;
        self.heard.iter().for_each(|h| cut.note(h));
        self.taken = from;
        self.cuts.push_back(cut);
        Ok(true)
    }

    /// Writes what is wanted and there.
    fn write(&mut self, record: &Record, files: &Files) -> Result<(), SinkError> {
        loop {
            let until = self.wanted.min(self.end);
            let Some(cut) = self.cuts.back_mut() else { return Ok(()) };
            // The newest blocks hold what is new.
            let first = self.held.iter().rposition(|h| h.block.position <= cut.next).unwrap_or(0);
            for held in self.held.range(first..) {
                if let Err(e) = cut.write(held, until) {
                    self.cuts.pop_back().into_iter().for_each(Cut::abandon);
                    return Err(e);
                }
            }
            // A gap at the limit is passed over too.
            let full = until >= cut.limit;
            self.taken = self.taken.max(until.min(cut.limit));
            if !full || until <= self.taken {
                return Ok(());
            }
            if !self.begin(record, self.taken, until, files)? {
                self.taken = until;
                return Ok(());
            }
        }
    }

    /// Finishes all recordings, whatever becomes of the others.
    pub fn finish(self, with: impl FnMut(Cut) -> Result<(), SinkError>) -> Result<(), SinkError> {
        self.cuts.into_iter().map(with).fold(Ok(()), Result::and)
    }
}
