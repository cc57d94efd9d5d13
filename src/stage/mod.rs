//! Stages: the steps of the graph.
//!
//! A stage annotates frames one at a time, in stream order ([`Stage`]), or runs on a device in three parts that the
//! engine overlaps ([`BatchStage`]). Each kind has one file or folder here with its typed configuration beside it, and
//! one line in [`KINDS`].

pub mod adsb;
pub mod channelize;
pub mod classify;
mod crops;
pub mod demod;
pub mod detect;
pub mod embed;
pub mod energy;
pub mod filter;
pub mod join;
mod listen;
pub mod locate;
pub mod spectrogram;
pub mod spectrum;
pub mod tensor;
pub mod track;

use crate::cache::Cache;
use crate::frame::exchange::Exchange;
use crate::frame::{Frame, Payload, Picture};
use crate::infer::input::PictureInput;
use crate::issue::Issue;
use crate::views::Views;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// Why a stage cannot be built, or failed on a frame.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct StageError(pub String);

impl StageError {
    /// An error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// A step that annotates frames in place, one at a time, in stream order.
pub trait Stage: Send {
    /// Annotates a frame. An error fails this frame, not the stream.
    ///
    /// # Errors
    /// What is wrong with this frame, or with the stage on it.
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError>;

    /// A stream is gone for good: its state may be let go.
    fn forget(&mut self, _stream: u32) {}
}

/// A step that runs batches on a device. The engine calls the three parts from different threads, so that they
/// overlap: `prepare` of the next batch, `execute` of this one, `finish` of the one before.
pub trait BatchStage: Send + Sync {
    /// Batch sizes that are warmed up, ascending; the first is 1.
    fn batch_sizes(&self) -> &[usize];

    /// The device's name: `cpu`, `openvino`, `cuda:0`, `tensorrt:0`.
    fn device(&self) -> &str;

    /// How many executors the device should have at once.
    fn slots(&self) -> usize;

    /// Cores that one executor keeps busy.
    fn threads(&self) -> usize {
        1
    }

    /// Opens one executor and warms it up for every batch size. Called once for each slot before any stream flows, and
    /// again after a panic.
    ///
    /// # Errors
    /// The model or the device cannot be used.
    fn open(&self) -> Result<Box<dyn Execute>, StageError>;

    /// Memory for one batch of up to the largest size. The engine makes a few at start and reuses them.
    fn buffers(&self) -> Batch;

    /// A payload like those that it takes, to measure it with. Default: a grey picture of 1280×720.
    fn example(&self) -> Payload {
        Payload::Picture(Arc::new(Picture::grey(1280, 720)))
    }

    /// `None` for a stage that takes frames whole: each fills one place of a batch. A stage on crops says how many of
    /// them a frame has, and does with fewer, or none, where time does not allow them all.
    fn crops(&self) -> Option<&dyn OnCrops> {
        None
    }

    /// Reads a frame into these places of the batch.
    ///
    /// # Errors
    /// The frame has no payload that this stage can read.
    fn prepare(&self, frame: &Frame, batch: &mut Batch, places: Range<usize>) -> Result<(), StageError>;

    /// Turns the outputs at these places into annotations.
    ///
    /// # Errors
    /// The outputs make no sense.
    fn finish(&self, batch: &Batch, places: Range<usize>, frame: &mut Frame) -> Result<(), StageError>;
}

/// What a batch stage that runs on crops of frames can do besides.
pub trait OnCrops {
    /// Crops that the frame has for this stage.
    fn count(&self, frame: &Frame) -> usize;

    /// The frame goes on without its crops, for want of time: says so on it.
    fn skip(&self, frame: &mut Frame);
}

/// Memory of one batch: whatever the stage that made it needs. The engine only carries it around.
pub type Batch = Box<dyn Any + Send>;

/// One slot of a device.
pub trait Execute: Send {
    /// Runs the first `n` places of the batch; `n` is one of the stage's batch sizes or smaller.
    ///
    /// # Errors
    /// The device failed on the whole batch.
    fn execute(&mut self, batch: &mut Batch, n: usize) -> Result<(), StageError>;
}

/// What a stage may know about the pipeline when it is built.
#[derive(Debug, Clone)]
pub struct BuildContext {
    /// The stage's id in the pipeline file.
    pub id: Arc<str>,
    /// Folders in which relative paths are looked for, in order.
    pub search: Vec<PathBuf>,
    /// Frames per second and stream to plan for.
    pub fps: f64,
    /// Whether frames have deadlines: latency counts, not throughput.
    pub live: bool,
    /// Cores that inference may use.
    pub threads: usize,
    /// Where streams of the pipeline meet.
    pub exchange: Arc<Exchange>,
    /// What was made before.
    pub cache: Arc<Cache>,
    /// What people watch and ask for.
    pub views: Arc<Views>,
}

impl Default for BuildContext {
    /// No id, the working directory, 30 frames a second with deadlines, one core.
    fn default() -> Self {
        Self {
            id: "".into(),
            search: vec![PathBuf::from(".")],
            fps: 30.0,
            live: true,
            threads: 1,
            exchange: Arc::default(),
            cache: Arc::default(),
            views: Arc::default(),
        }
    }
}

impl BuildContext {
    /// Finds a file that the pipeline names: as it is if absolute, else in the search folders.
    pub fn find(&self, path: &Path) -> Option<PathBuf> {
        if path.is_absolute() {
            return path.exists().then(|| path.to_owned());
        }
        self.search.iter().map(|dir| dir.join(path)).find(|p| p.exists())
    }
}

/// A stage as built.
pub enum Built {
    /// Makes one worker's instance; called again after a panic and for each worker.
    Stage(Box<dyn Fn() -> Result<Box<dyn Stage>, StageError> + Send + Sync>),
    /// Runs on a device.
    Batch(Arc<dyn BatchStage>),
}

/// How a stage uses a model on the picture.
#[derive(Debug, Clone)]
pub struct PictureUse {
    /// The model's picture input, with what the pipeline file wishes.
    pub input: PictureInput,
    /// Least score of the boxes that it reports; `None` where it reports none.
    pub threshold: Option<f32>,
}

/// A stage's typed configuration.
pub trait StageConfig: Debug + Send + Sync {
    /// What is wrong with it that the types cannot say. Starts nothing.
    fn check(&self, _context: &BuildContext) -> Vec<Issue> {
        Vec::new()
    }

    /// The model files it uses: name and SHA-256 in hexadecimal, for the run report.
    fn models(&self, _context: &BuildContext) -> Vec<(String, String)> {
        Vec::new()
    }

    /// What it hands over for sources of the same pipeline, beside what goes on in its frames.
    fn hands_over(&self) -> Option<HandsOver> {
        None
    }

    /// How it uses a model on the whole picture, for tools that compare ways of running it; `None` where it has no such
    /// model. Looks into the model file.
    ///
    /// # Errors
    /// The model cannot be read.
    fn picture_use(&self, _context: &BuildContext) -> Result<Option<PictureUse>, StageError> {
        Ok(None)
    }

    /// Builds the stage: loads models, allocates.
    ///
    /// # Errors
    /// What cannot be used.
    fn build(&self, context: &BuildContext) -> Result<Built, StageError>;
}

/// What a stage hands over at the pipeline's meeting places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandsOver {
    /// Frames, for a source `join://`.
    Frames,
    /// So many channels, each for a source `channel://`.
    Channels(usize),
}

/// What a kind of stage runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// A thread of its own, frame by frame.
    Thread,
    /// A device, in batches of frames.
    Device,
    /// A device, in batches of crops of frames.
    DeviceOnCrops,
}

impl Runs {
    /// What stages of this kind run on; a thread where there is no such kind.
    pub fn of(kind: &str) -> Self {
        KINDS.iter().find(|k| k.name == kind).map_or(Self::Thread, |k| k.runs)
    }
}

/// A kind of stage: one line of the registry.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The name in `kind = "…"`.
    pub name: &'static str,
    /// One sentence for help texts and the schema.
    pub about: &'static str,
    /// The JSON Schema of its keys.
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
    /// It keeps state from frame to frame, so a rung can switch it off but not change it.
    pub keeps_state: bool,
    /// What it runs on.
    pub runs: Runs,
    /// Reads its keys (without the common ones: `kind`, `from`, `workers`, `cpus`). Errors carry the place in the file.
    pub parse: fn(ValueDeserializer<'_>) -> Result<Box<dyn StageConfig>, toml::de::Error>,
}

/// The kinds there are.
pub const KINDS: &[Kind] = &[
    kind::<detect::DetectConfig>("detect", "Finds things in pictures with a neural network.", Runs::Device),
    kind::<classify::ClassifyConfig>(
        "classify",
        "Gives labels to the crops of detections with a second model.",
        Runs::DeviceOnCrops,
    ),
    kind::<embed::EmbedConfig>(
        "embed",
        "Turns the crops of detections into re-identification vectors.",
        Runs::DeviceOnCrops,
    ),
    kind::<locate::LocateConfig>(
        "locate",
        "Locates a transmitter by what several stations hear of it, with a neural network.",
        Runs::Device,
    ),
    kind::<tensor::TensorConfig>("tensor", "Runs any model on the picture and attaches its raw outputs.", Runs::Device),
    kind::<filter::FilterConfig>(
        "filter",
        "Keeps the detections that matter, by class, score, size and place.",
        Runs::Thread,
    ),
    Kind {
        keeps_state: true,
        ..kind::<adsb::AdsbConfig>(
            "adsb",
            "Reads Mode S and ADS-B, what aircraft say on 1090 MHz, from samples.",
            Runs::Thread,
        )
    },
    Kind {
        keeps_state: true,
        ..kind::<demod::DemodConfig>("demod", "Makes audio of a radio channel: AM, FM or SSB.", Runs::Thread)
    },
    Kind {
        keeps_state: true,
        ..kind::<energy::EnergyConfig>("energy", "Finds bursts in samples, above a tracked noise floor.", Runs::Thread)
    },
    kind::<spectrum::SpectrumConfig>("spectrum", "Computes averaged power spectra of samples.", Runs::Thread),
    Kind {
        keeps_state: true,
        ..kind::<spectrogram::SpectrogramConfig>(
            "spectrogram",
            "Makes pictures of samples, bands over time, as networks take them.",
            Runs::Thread,
        )
    },
    Kind {
        keeps_state: true,
        ..kind::<channelize::ChannelizeConfig>(
            "channelize",
            "Takes a channel out of a stream of samples, or splits all of it into channels.",
            Runs::Thread,
        )
    },
    Kind {
        keeps_state: true,
        ..kind::<join::JoinConfig>(
            "join",
            "Hands frames over, to be joined with those of other streams by a `join://` source.",
            Runs::Thread,
        )
    },
    Kind {
        keeps_state: true,
        ..kind::<track::TrackConfig>("track", "Gives the same object the same id from frame to frame.", Runs::Thread)
    },
];

/// A duration in a component's keys, zero too: `"500ms"`.
pub(crate) fn duration<'de, D: serde::Deserializer<'de>>(d: D) -> Result<std::time::Duration, D::Error> {
    let text = <String as serde::Deserialize>::deserialize(d)?;
    humantime::parse_duration(&text).map_err(|e| {
        serde::de::Error::custom(format!("`{text}` is no duration ({e}): write it as \"500ms\" or \"2s\""))
    })
}

/// Makes a registry line from a configuration type.
pub const fn kind<C>(name: &'static str, about: &'static str, runs: Runs) -> Kind
where
    C: StageConfig + DeserializeOwned + schemars::JsonSchema + 'static,
{
    Kind {
        name,
        about,
        schema: |g| g.subschema_for::<C>(),
        keeps_state: false,
        runs,
        parse: |table| Ok(Box::new(C::deserialize(table)?)),
    }
}

/// Reads a stage's configuration from TOML text: for tests and tools, without an engine.
///
/// # Errors
/// An unknown kind, or what is wrong with the text.
pub fn from_toml(name: &str, text: &str) -> Result<Box<dyn StageConfig>, StageError> {
    let kind = KINDS.iter().find(|k| k.name == name).ok_or_else(|| StageError(format!("no stage kind `{name}`")))?;
    let table = DeTable::parse(text).map_err(|e| StageError(e.to_string()))?;
    let table = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
    (kind.parse)(ValueDeserializer::from(table)).map_err(|e| StageError(e.to_string()))
}
