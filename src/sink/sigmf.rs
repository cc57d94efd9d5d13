//! `sigmf`: recordings of samples, begun by what stages hear in them.

mod cut;
mod keep;
mod track;

use super::heard::Ear;
use super::template::{Template, check_folder};
use super::units::Span;
use super::{Sink, SinkConfig, SinkError};
use crate::frame::Record;
use crate::issue::Issue;
use crate::signal::samples::Format;
use crate::stage::{BuildContext, duration};
use crate::views::{Recorder, Views};
use cut::Files;
use keep::{Keep, Keeper};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use track::{Plan, Track};

/// `kind = "sigmf"`: records stretches of sample streams as SigMF, each recording a `.sigmf-data` and a `.sigmf-meta` file.
///
/// No sample is lost or written twice, within a recording and from one to the next: where the stream itself has a gap, a
/// new capture segment begins and says so. What stages heard is annotated. While a recording is being written its files
/// end in `.part`; one that still does was cut short.
#[derive(Debug, Clone, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SigmfConfig {
    /// Folder of the recordings, relative to the working directory. It is made if it is missing.
    folder: String,
    /// Name of a recording. `{pipeline}`, `{stream}` and `{start}` (time of the first sample, UTC) are filled in; a number
    /// is added to a name that is taken. Default `"{stream}-{start}"`.
    #[serde(default = "usual_name")]
    name: String,
    /// What begins a recording: `energy` (bursts that a stage of this kind finds), `adsb` (messages that one reads),
    /// `always` (everything is recorded), `request` (who asks for it over HTTP, which is possible with the others too).
    /// Default `["energy"]`.
    #[serde(default = "usual_trigger")]
    trigger: Vec<Trigger>,
    /// Stream time before what was heard that is recorded too. Default `100ms`.
    #[serde(default = "usual_margin", deserialize_with = "duration")]
    #[schemars(with = "String")]
    before: Duration,
    /// Stream time behind it that is recorded too; what is heard within this time goes into the same recording. Default
    /// `100ms`.
    #[serde(default = "usual_margin", deserialize_with = "duration")]
    #[schemars(with = "String")]
    after: Duration,
    /// Longest burst that is recorded from its beginning on. A stage tells a burst when it has ended, so samples of this
    /// length and of `before` stay in memory, 8 bytes each, and a recording is finished by so much later than it ends.
    /// Default `1s`.
    #[serde(default = "usual_longest")]
    longest: Span,
    /// Length of a recording; what does not fit goes on in the next one, without a gap. Default `60s`.
    #[serde(default = "usual_length")]
    max_length: Span,
    /// Form of the samples: `cf32_le` (as they are), `ci16_le`, `ci8` and other complex ones; integers are clipped at full
    /// scale. Default `cf32_le`.
    #[serde(default = "usual_format")]
    format: String,
    /// Which recordings of this sink are kept when a new one is finished; the oldest are deleted. Default: all.
    #[serde(default)]
    keep: Option<Keep>,
}

/// What begins a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Trigger {
    /// A burst that an `energy` stage finds.
    Energy,
    /// A message that an `adsb` stage reads.
    Adsb,
    /// Everything is recorded.
    Always,
    /// Somebody who asks for it.
    Request,
}

impl Trigger {
    fn is(self, ear: Ear) -> bool {
        matches!((self, ear), (Self::Energy, Ear::Energy) | (Self::Adsb, Ear::Adsb))
    }
}

fn usual_name() -> String {
    "{stream}-{start}".to_owned()
}
fn usual_trigger() -> Vec<Trigger> {
    vec![Trigger::Energy]
}
fn usual_margin() -> Duration {
    Duration::from_millis(100)
}
fn usual_longest() -> Span {
    Span(Duration::from_secs(1))
}
fn usual_length() -> Span {
    Span(Duration::from_secs(60))
}
fn usual_format() -> String {
    "cf32_le".to_owned()
}

const NAMES: &[&str] = &["pipeline", "stream", "start"];
/// A stream that is silent for so long has its recordings finished.
const SILENCE: Duration = Duration::from_secs(10);
/// Time between two attempts after a failure: at first, and at last.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];
/// No memory of samples is longer than this.
const LONGEST_MEMORY: Duration = Duration::from_secs(600);

impl SinkConfig for SigmfConfig {
    fn check(&self, _: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        if self.folder.is_empty() {
            issues.push(Issue::error("folder", "names no folder").help("folder = \"recordings\""));
        } else if let Ok(folder) = Template::read(&format!("{}/", self.folder.trim_end_matches('/')), &[]) {
            issues.extend(check_folder("folder", &folder));
        } else {
            issues.push(Issue::error("folder", "has no placeholders").help("put them into `name`"));
        }
        match Template::read(&self.name, NAMES) {
            Err(e) => issues.push(Issue::error("name", e)),
            Ok(_) if self.name.is_empty() || self.name.contains('/') || self.name.starts_with('.') => {
                issues.push(
                    Issue::error("name", "must name a file, without `/` and not hidden")
                        .help("name = \"{stream}-{start}\""),
                );
            }
            Ok(t) if !t.has("stream") => issues.push(
                Issue::warning(
                    "name",
                    "has no `{stream}`: recordings of several streams are told apart by a number only",
                )
                .help("name = \"{stream}-{start}\""),
            ),
            Ok(_) => {}
        }
        if self.trigger.is_empty() {
            issues
                .push(Issue::error("trigger", "names nothing that begins a recording").help("trigger = [\"energy\"]"));
        }
        if self.before.saturating_add(self.longest.0) > LONGEST_MEMORY {
            issues.push(Issue::error(
                "longest",
                "and `before` together may be ten minutes at most: so much stays in memory",
            ));
        }
        match self.format.parse::<Format>() {
            Err(e) => issues.push(Issue::error("format", e.to_string())),
            Ok(format) if !format.complex => {
                issues.push(Issue::error("format", "must be a complex one").help("format = \"cf32_le\""));
            }
            Ok(_) => {}
        }
        if let Some(keep) = &self.keep {
            issues.extend(keep.check());
        }
        issues
    }

    fn wants_payload(&self) -> bool {
        true
    }

    fn open(&self, context: &BuildContext) -> Result<Box<dyn Sink>, SinkError> {
        super::refuse(self, context)?;
        let format = self.format.parse().map_err(|e: crate::signal::SignalError| SinkError(e.to_string()))?;
        let files = Files {
            sink: context.id.clone(),
            folder: self.folder.clone().into(),
            name: Template::read(&self.name, NAMES).map_err(SinkError)?,
            format,
            keeper: self.keep.map(|keep| Keeper::new(keep, &context.id, self.folder.as_ref())),
            finishing: VecDeque::new(),
        };
        let plan = Plan {
            trigger: self.trigger.clone(),
            before: self.before,
            after: self.after,
            longest: self.longest.0,
            max_length: self.max_length.0,
        };
        Ok(Box::new(SigmfSink { views: context.views.clone(), files, plan, streams: HashMap::new() }))
    }
}

struct SigmfSink {
    views: Arc<Views>,
    files: Files,
    plan: Plan,
    streams: HashMap<Arc<str>, Known>,
}

/// What is known of one stream.
struct Known {
    /// Where somebody asks for a recording.
    recorder: Arc<Recorder>,
    /// `None` after a failure, until the next record that is taken.
    track: Option<Track>,
    last: Instant,
    failed: Option<Failed>,
}

/// The last attempt failed.
struct Failed {
    why: String,
    retry: Instant,
    /// The wait after the next failure.
    wait: Duration,
}

impl Known {
    fn take(&mut self, record: &Arc<Record>, plan: &Plan, files: &mut Files) -> Result<(), SinkError> {
        let block = record.payload.samples().ok_or_else(|| SinkError("the record carries no samples".to_owned()))?;
        if let Some(old) = self.track.take_if(|t| !t.goes_on(record, block)) {
            old.finish(|cut| files.finish(cut))?;
        }
        let track = match &mut self.track {
            Some(track) => track,
            none => none.insert(Track::new(plan, record.stream.index, block)),
        };
        if let Some(time) = self.recorder.asked() {
            track.ask(time);
        }
        track.take(record, block, files)
    }
}

impl SigmfSink {
    /// Finishes the recordings of streams that have ended or gone silent, and forgets these streams.
    fn finish_silent(&mut self) -> Result<(), SinkError> {
        let mut result = Ok(());
        let files = &mut self.files;
        self.streams.retain(|_, known| {
            let ended = known.track.as_ref().is_some_and(Track::ended);
            if !ended && known.last.elapsed() < SILENCE {
                return true;
            }
            if let Some(Err(e)) = known.track.take().map(|t| t.finish(|cut| files.finish(cut))) {
                result = Err(e);
            }
            false
        });
        result
    }
}

impl Sink for SigmfSink {
    fn deliver(&mut self, record: &Arc<Record>) -> Result<(), SinkError> {
        let known = self.streams.entry(record.stream.id.clone()).or_insert_with(|| Known {
            recorder: self.views.recorder(&record.stream.id),
            track: None,
            last: Instant::now(),
            failed: None,
        });
        known.last = Instant::now();
        let earlier = self.files.finished(usize::MAX);
        if let Some(failed) = known.failed.as_ref().filter(|f| Instant::now() < f.retry) {
            return Err(SinkError(failed.why.clone()));
        }
        let result = known.take(record, &self.plan, &mut self.files);
        match &result {
            Ok(()) => known.failed = None,
            Err(e) => {
                // The recording that failed stays as it is; the others can be finished, and the next one begins anew.
                if let Some(track) = known.track.take()
                    && let Err(e) = track.finish(|cut| self.files.finish(cut))
                {
                    tracing::warn!(stream = &*record.stream.id, error = %e, "recording not finished");
                }
                let wait = known.failed.take().map_or(RETRY[0], |f| f.wait);
                let retry = Instant::now() + wait;
                known.failed = Some(Failed { why: e.0.clone(), retry, wait: (wait * 2).min(RETRY[1]) });
            }
        }
        result.and(earlier)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        self.finish_silent().and(self.files.finished(usize::MAX))
    }

    fn idle(&mut self) {
        if let Err(e) = self.flush() {
            tracing::warn!(sink = &*self.files.sink, error = %e, "recording not finished");
        }
    }
}

impl Drop for SigmfSink {
    fn drop(&mut self) {
        for (stream, known) in self.streams.drain() {
            if let Some(Err(e)) = known.track.map(|t| t.finish(|cut| self.files.finish_last(cut))) {
                tracing::warn!(stream = &*stream, error = %e, "recording not finished");
            }
        }
        if let Err(e) = self.files.finished(0) {
            tracing::warn!(sink = &*self.files.sink, error = %e, "recording not finished");
        }
    }
}

#[cfg(test)]
mod tests;
