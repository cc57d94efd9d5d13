//! `join://STAGE`: one stream out of several. Takes what a stage of kind `join` hands over, and makes a frame of what
//! belongs together in time.

mod gather;

use super::{Flow, Intake, Pace, Source, SourceConfig, SourceError};
use crate::frame::exchange::{Handed, Taken, TakerHere};
use crate::frame::{Arrival, Frame, Nanos, Payload, Signal, clock};
use gather::{Gathered, Gatherer, Part, Rules};
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// How far apart frames may be that belong together.
const TOLERANCE: Duration = Duration::from_millis(50);
/// How long a frame waits for other stations where it has no deadline.
const WAIT: Duration = Duration::from_secs(1);
/// How often a stop is looked for.
const LOOK: Duration = Duration::from_millis(50);
/// What its results stand under.
const KEY: &str = "stations";

/// A source that joins streams.
pub struct Join {
    id: String,
    stations: Vec<Arc<str>>,
    tolerance: Duration,
    wait: Option<Duration>,
    least: usize,
    accuracy: Option<Duration>,
    stall: Duration,
    pace: Pace,
    taker: TakerHere,
}

impl Join {
    /// A source of what the taker takes.
    pub fn new(id: &str, config: &SourceConfig, pace: Pace, taker: TakerHere) -> Self {
        Self {
            id: id.to_owned(),
            stations: config.stations.iter().flatten().map(|s| s.as_str().into()).collect(),
            tolerance: config.tolerance.unwrap_or(TOLERANCE),
            wait: config.wait,
            least: config.least.unwrap_or(1),
            accuracy: config.accuracy,
            stall: config.stall_timeout,
            pace,
            taker,
        }
    }

    fn rules(&self, deadline: Option<Nanos>) -> Rules {
        let usual = deadline.map_or(WAIT, |d| Duration::from_nanos(d / 2));
        Rules {
            stations: self.stations.clone(),
            tolerance: self.tolerance.as_nanos() as i64,
            wait: (self.pace == Pace::Live).then(|| self.wait.unwrap_or(usual).as_nanos() as Nanos),
            least: self.least,
        }
    }

    /// Why a station's times are not good enough, if they are not.
    fn refused(&self, handed: &Handed) -> Option<String> {
        let wanted = self.accuracy?;
        if !self.stations.contains(&handed.stream.id) {
            return None;
        }
        let have = match handed.payload.samples().and_then(|b| b.time) {
            Some(time) if time.accuracy <= wanted => return None,
            Some(time) => format!("good to {:?}", time.accuracy),
            None => "the host's, by when they arrive".to_owned(),
        };
        Some(format!("the times of station `{}` are {have}, and `accuracy` asks for {wanted:?}", handed.stream.id))
    }

    /// The part that this is; `None` of a stream that is no station.
    fn part(&self, handed: Box<Handed>) -> Option<Part> {
        let seat = self.stations.iter().position(|s| **s == *handed.stream.id)?;
        // What was made of samples is as old as the last of them, which need not be the last of its block.
        let block = handed.payload.samples();
        let made = handed.annotations.features.values().flatten().map(|f| f.samples[1]).max();
        let behind = block.zip(made).map_or(0.0, |(b, end)| b.end().saturating_sub(end) as f64 / b.rate * 1e9);
        let captured = handed.captured.saturating_sub(behind as Nanos);
        let by_itself = block.and_then(|b| {
            let time = b.time.filter(|t| t.accuracy <= self.tolerance)?;
            Some(time.ns + (b.samples.len() as f64 / b.rate * 1e9 - behind) as i64)
        });
        let moment = match (by_itself, self.pace) {
            (Some(moment), _) => moment,
            (None, Pace::Live) => clock::wall(captured).duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as i64),
            // Read as fast as it goes, when it is read says nothing.
            (None, Pace::Fast) => {
                block.map_or(handed.pts.unwrap_or(0) as i64, |b| (made.unwrap_or(b.end()) as f64 / b.rate * 1e9) as i64)
            }
        };
        Some(Part { seat, moment, captured, handed: Arc::from(handed) })
    }

    /// Stations whose streams have ended, by seat.
    fn ended(&self, gatherer: &mut Gatherer) {
        let ended = self.taker.ended();
        let seat = |id: &Arc<str>| self.stations.iter().position(|s| s == id);
        let known: Vec<usize> = ended.streams.iter().filter_map(seat).collect();
        if known.len() + ended.unknown >= self.stations.len() {
            // Those that nothing ever came of have no name, but they are all that is left.
            (0..self.stations.len()).for_each(|seat| gatherer.end(seat));
        } else {
            known.into_iter().for_each(|seat| gatherer.end(seat));
        }
    }
}

/// Who is there and who is not, for the result.
fn told(gathered: &Gathered) -> Value {
    let (mut present, mut absent) = (Vec::new(), Map::new());
    for seat in &gathered.joined.seats {
        match &seat.part {
            Ok(_) => present.push(Value::from(&*seat.station)),
            Err(why) => {
                absent.insert(seat.station.to_string(), why.name().into());
            }
        }
    }
    serde_json::json!({ "present": present, "absent": absent })
}

impl Source for Join {
    fn run(self: Box<Self>, intake: Arc<Intake>) -> Result<(), SourceError> {
        intake.signal(Signal::Connecting);
        if self.stations.is_empty() {
            return Err(SourceError { id: self.id.clone(), message: "there are no stations to join".to_owned() });
        }
        let mut gatherer = Gatherer::new(self.rules(intake.stream().deadline));
        // Until a first part comes, the stations are only on their way: a spectrogram takes its time.
        let mut newest = None;
        let mut left_out = (0, 0);
        while !intake.is_stopping() {
            let until = gatherer.due().map_or(LOOK, |due| Duration::from_nanos(due.saturating_sub(clock::now())));
            let taken = self.taker.next(until.min(LOOK));
            if let Taken::One(handed) = &taken
                && let Some(message) = self.refused(handed)
            {
                // No waiting cures this.
                intake.signal(Signal::Broken(message.clone()));
                return Err(SourceError { id: self.id.clone(), message });
            }
            if let Taken::One(handed) = taken
                && let Some(part) = self.part(handed)
            {
                newest = Some(clock::now());
                gatherer.add(part);
            } else {
                self.ended(&mut gatherer);
            }
            while let Some(gathered) = gatherer.next(clock::now()) {
                intake.signal(Signal::Up);
                let annotation = told(&gathered);
                let arrival = Arrival { complete: gathered.captured, decoded: clock::now() };
                let pts = gathered.joined.seats.iter().find_map(|s| s.part.as_ref().ok()?.pts);
                let payload = Payload::Joined(Arc::new(gathered.joined));
                let mut frame = Frame::new(intake.capture(gathered.captured), pts, arrival, payload);
                frame.annotations.extra.insert(KEY.into(), annotation);
                if intake.submit(frame) == Flow::Stop {
                    return Ok(());
                }
            }
            let now = gatherer.left_out();
            if now != left_out {
                let ((late, few), lost) = (now, self.taker.lost());
                tracing::debug!(stream = self.id, late, few, lost, "parts that came too late, or groups of too few");
                left_out = now;
            }
            if gatherer.is_over() && gatherer.due().is_none() {
                intake.signal(Signal::Ended);
                return Ok(());
            }
            let silent = newest.map_or(Duration::ZERO, |at| Duration::from_nanos(clock::now().saturating_sub(at)));
            if self.pace == Pace::Live && silent > self.stall {
                intake.signal(Signal::Down(format!("no station delivered anything for {:?}", self.stall)));
            }
        }
        Ok(())
    }
}
