//! `locate`: where a transmitter is, by the spectrograms of several stations and a network that was trained on them.

use super::detect::{BatchKeys, check_model, check_resources, find_model, memory, memory_mut, model_in_report, peek};
use super::{Batch, BatchStage, BuildContext, Built, Execute, StageConfig, StageError};
use crate::frame::exchange::Handed;
use crate::frame::{Annotations, Arrival, Feature, Frame, Joined, Payload, Seat, Stream};
use crate::infer::InferError;
use crate::infer::card::{LocatorCard, Named};
use crate::infer::device::{Device, Precision};
use crate::infer::model::ModelInfo;
use crate::infer::picture::{Resources, open_named};
use crate::infer::preprocess::Layout;
use crate::infer::session::{Buffers, Plan, Slot};
use crate::infer::sessions::Sessions;
use crate::infer::tensor::DType;
use crate::issue::Issue;
use crate::signal::world::World;
use ort::value::TensorElementType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use zerocopy::FromBytes;

/// Locates a transmitter by the spectrograms of several stations, which a source `join://` brings together. The model's
/// card names the world that it was trained in, and the sources that are joined have the names of the world's stations.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LocateConfig {
    /// The locator's card (.toml), or its ONNX file with the card beside it.
    pub model: PathBuf,
    /// The stage `spectrogram` whose pictures are taken. Default: the only one that the stations' frames passed.
    pub spectrogram: Option<String>,
    /// Fewest stations that a location is told by; with fewer the result says that there is none. Default 3.
    #[serde(default = "three")]
    pub least: usize,
    /// Where it runs: auto, cpu, openvino, cuda:N, tensorrt:N. Default auto.
    #[serde(default)]
    pub device: Device,
    /// Arithmetic: fp32 or, with device openvino on CPUs that have it (AMX, AVX512-BF16), bf16. Default fp32.
    #[serde(default)]
    pub precision: Precision,
    /// How many frames one inference takes.
    #[serde(default)]
    pub batch: BatchKeys,
    /// Threads of one session. Default: all cores for live work, one for offline work.
    pub threads: Option<usize>,
    /// Sessions that run at once. Default: one for live work, one for each core for offline work.
    pub slots: Option<usize>,
}

fn three() -> usize {
    3
}

/// What its results stand under.
const KEY: &str = "location";
/// What an absent station reads everywhere, dB.
const ABSENT: f32 = -120.0;
/// The model's outputs, in the order in which they are read: metres east and north; their standard deviations in metres
/// and their correlation; the probability that the position is as near as the card says.
const OUTPUTS: [(&str, usize); 3] = [("position", 2), ("spread", 3), ("confidence", 1)];

impl LocateConfig {
    fn resources(&self) -> Resources {
        Resources { device: self.device, precision: self.precision, threads: self.threads, slots: self.slots }
    }
}

impl StageConfig for LocateConfig {
    fn check(&self, context: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        check_resources(&self.resources(), &mut issues);
        self.batch.check(&mut issues);
        let Some(named) = check_model(&self.model, context, &mut issues) else { return issues };
        let world = match card(&named).and_then(|c| c.world(named.card_file.as_deref())) {
            Ok(world) => world,
            Err(e) => {
                issues.push(Issue::error("model", e.to_string()));
                return issues;
            }
        };
        let stations = world.stations.len();
        if self.least == 0 || self.least > stations {
            issues.push(Issue::error("least", format!("least must lie between 1 and the model's {stations} stations")));
        }
        if let Some(info) = peek(&named, &mut issues)
            && let Err(e) = Shape::of(&named, &info, &world)
        {
            issues.push(Issue::error("model", e.to_string()));
        }
        issues
    }

    fn models(&self, context: &BuildContext) -> Vec<(String, String)> {
        model_in_report(&self.model, context)
    }

    fn build(&self, context: &BuildContext) -> Result<Built, StageError> {
        let named = find_model(&self.model, context)?;
        let locator = card(&named)?.clone();
        let world = locator.world(named.card_file.as_deref())?;
        let resources = self.resources();
        let (planned, on) = resources.plan(context.live, context.threads);
        let (opened, info) = open_named(&named, on)?;
        let slots = resources.slots_on(opened.device, planned);
        let shape = Shape::of(&named, &info, &world)?;
        let most = self.batch.most_on(opened.device);
        let plan = Plan::new(&info.inputs[0], &info.outputs, DType::F32, Layout::Nchw, world.stations.len(), most)
            .map_err(|e| InferError::Model { path: named.file.clone(), why: e.to_string() })?;
        let sessions = Sessions::new(named, on, opened, Arc::new(plan), (shape.columns, shape.bands))?;
        Ok(Built::Batch(Arc::new(Locate {
            device: sessions.device().to_string(),
            sessions,
            slots,
            threads: on.threads,
            shape,
            spectrogram: self.spectrogram.as_deref().map(Into::into),
            least: self.least,
            within_m: locator.within_m,
            world,
        })))
    }
}

/// What the card says of the world; a model whose card says nothing of one is no locator.
fn card(named: &Named) -> Result<&LocatorCard, InferError> {
    named.card.locator.as_ref().ok_or_else(|| InferError::Model {
        path: named.file.clone(),
        why: "it is no locator: its card has no [locator] table".into(),
    })
}

/// The model's tensors.
#[derive(Debug, Clone, Copy)]
struct Shape {
    bands: usize,
    columns: usize,
    /// Places of [`OUTPUTS`] among the model's outputs.
    outputs: [usize; 3],
}

impl Shape {
    fn of(named: &Named, info: &ModelInfo, world: &World) -> Result<Self, InferError> {
        let fail = |why: String| InferError::Model { path: named.file.clone(), why };
        let [input] = &info.inputs[..] else {
            return Err(fail(format!("a locator has one input; the model has:{}", info.list())));
        };
        let stations = world.stations.len();
        let fits = input.shape.len() == 4 && input.dim(1) == Some(stations);
        let (Some(bands), Some(columns), true) = (input.dim(2), input.dim(3), fits) else {
            return Err(fail(format!(
                "input {input} is not [batch, {stations} stations of its world, bands, columns] with fixed bands and \
                 columns"
            )));
        };
        if input.element != TensorElementType::Float32 {
            return Err(fail(format!("input {input} does not take 32-bit floats")));
        }
        let mut outputs = [0; 3];
        for (place, (name, values)) in outputs.iter_mut().zip(OUTPUTS) {
            let found = info.outputs.iter().position(|o| &*o.name == name);
            *place = found.ok_or_else(|| fail(format!("it has no output `{name}`; the model has:{}", info.list())))?;
            let output = &info.outputs[*place];
            if output.shape.len() != 2 || output.dim(1) != Some(values) {
                return Err(fail(format!("output {output} is not [batch, {values}]")));
            }
        }
        Ok(Self { bands, columns, outputs })
    }
}

/// A location in a result.
#[derive(Debug, Serialize)]
struct Told<'a> {
    /// Metres east and north of the world's origin, and the same in degrees.
    #[serde(flatten)]
    place: Option<Place>,
    /// Centre frequency of the stations, Hz.
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency: Option<f64>,
    /// Stations that it was told by.
    stations: Vec<&'a str>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Place {
    lat: f64,
    lon: f64,
    east_m: f32,
    north_m: f32,
    sigma_east_m: f32,
    sigma_north_m: f32,
    correlation: f32,
    confidence: f32,
    within_m: f64,
}

/// The stage at work.
struct Locate {
    sessions: Sessions,
    device: String,
    slots: usize,
    threads: usize,
    shape: Shape,
    spectrogram: Option<Arc<str>>,
    least: usize,
    within_m: f64,
    world: World,
}

impl Locate {
    /// The newest picture that a station handed over.
    fn picture<'a>(&self, station: &str, handed: &'a Handed) -> Result<&'a Feature, StageError> {
        let features = &handed.annotations.features;
        let all = match &self.spectrogram {
            Some(id) => features.get(id).ok_or_else(|| {
                StageError(format!("no stage `{id}` made spectrograms of station `{station}` before they were joined"))
            })?,
            None => match features.len() {
                1 => features.values().next().map_or(&[][..], Vec::as_slice),
                n => {
                    return Err(StageError(format!(
                        "{n} stages made spectrograms of station `{station}` before they were joined, and \
                         `spectrogram` must say which one to take"
                    )));
                }
            },
        };
        let feature =
            all.last().ok_or_else(|| StageError(format!("station `{station}` has no finished spectrogram")))?;
        let Shape { bands, columns, .. } = self.shape;
        if feature.shape != [bands, columns] {
            let [b, c] = feature.shape;
            let message = format!(
                "the spectrogram of station `{station}` has {b} bands × {c} columns; the model takes {bands} × {columns}"
            );
            return Err(StageError(message));
        }
        Ok(feature)
    }

    fn place(&self, buffers: &Buffers, at: usize) -> Result<Place, StageError> {
        let mut scratch = Vec::new();
        let mut read = [[0.0; 3]; 3];
        for ((o, (name, values)), out) in self.shape.outputs.into_iter().zip(OUTPUTS).zip(&mut read) {
            let output = buffers.output(o, at)?;
            let data = output.values(&mut scratch);
            if data.len() != values || data.iter().any(|v| !v.is_finite()) {
                return Err(StageError(format!(
                    "the model's output `{name}` is {data:?}: not {values} finite numbers"
                )));
            }
            out[..values].copy_from_slice(data);
        }
        let [[east_m, north_m, _], [sigma_east_m, sigma_north_m, correlation], [confidence, ..]] = read;
        if sigma_east_m <= 0.0 || sigma_north_m <= 0.0 || correlation.abs() >= 1.0 {
            let message = format!("the model's spread ({sigma_east_m}, {sigma_north_m}, {correlation}) is none");
            return Err(StageError(message));
        }
        let (lat, lon) = self.world.lat_lon(east_m.into(), north_m.into());
        let within_m = self.within_m;
        Ok(Place { lat, lon, east_m, north_m, sigma_east_m, sigma_north_m, correlation, confidence, within_m })
    }
}

impl BatchStage for Locate {
    fn batch_sizes(&self) -> &[usize] {
        self.sessions.batches()
    }

    fn device(&self) -> &str {
        &self.device
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn open(&self) -> Result<Box<dyn Execute>, StageError> {
        Ok(Box::new(Runner { slot: self.sessions.slot()?, size: (self.shape.columns, self.shape.bands) }))
    }

    fn buffers(&self) -> Batch {
        Box::new(self.sessions.buffers())
    }

    fn example(&self) -> Payload {
        let Shape { bands, columns, .. } = self.shape;
        let feature = Feature { shape: [bands, columns], data: vec![-80.0; bands * columns].into(), samples: [0, 1] };
        let id = self.spectrogram.clone().unwrap_or_else(|| "spectrogram".into());
        let seat = |s: &crate::signal::world::Station| Seat {
            station: s.id.as_str().into(),
            part: Ok(Arc::new(Handed {
                stream: Arc::new(Stream::new(&*s.id, 0, None, 0, false)),
                captured: 0,
                arrival: Arrival::default(),
                pts: None,
                payload: Payload::Empty,
                annotations: Annotations {
                    features: [(id.clone(), vec![feature.clone()])].into(),
                    ..Annotations::default()
                },
            })),
        };
        Payload::Joined(Arc::new(Joined { seats: self.world.stations.iter().map(seat).collect() }))
    }

    fn prepare(&self, frame: &Frame, batch: &mut Batch, places: Range<usize>) -> Result<(), StageError> {
        let joined = joined(frame)?;
        let bytes = memory_mut::<Buffers>(batch)?.place(places.start, (self.shape.columns, self.shape.bands))?;
        let input = <[f32]>::mut_from_bytes(bytes).map_err(|_| StageError::new("the model's memory is not aligned"))?;
        input.fill(ABSENT);
        let each = self.shape.bands * self.shape.columns;
        for Seat { station, part } in &joined.seats {
            let Some(number) = self.world.station(station) else {
                let known: Vec<&str> = self.world.stations.iter().map(|s| s.id.as_str()).collect();
                return Err(StageError(format!(
                    "station `{station}` is not in the model's world, which has {}",
                    known.join(", ")
                )));
            };
            if let Ok(handed) = part {
                let picture = self.picture(station, handed)?;
                for (to, from) in input[number * each..][..each].iter_mut().zip(&*picture.data) {
                    // One that is not a number would make the whole location none.
                    *to = if from.is_nan() { ABSENT } else { from.clamp(ABSENT, -ABSENT) };
                }
            }
        }
        Ok(())
    }

    fn finish(&self, batch: &Batch, places: Range<usize>, frame: &mut Frame) -> Result<(), StageError> {
        let joined = joined(frame)?.clone();
        let present: Vec<&Seat> = joined.seats.iter().filter(|s| s.part.is_ok()).collect();
        let enough = present.len() >= self.least;
        let told = Told {
            place: if enough { Some(self.place(memory(batch)?, places.start)?) } else { None },
            frequency: present.iter().find_map(|s| s.part.as_ref().ok()?.payload.samples()?.frequency),
            reason: (!enough).then(|| format!("{} of at least {} stations", present.len(), self.least)),
            stations: present.iter().map(|s| &*s.station).collect(),
        };
        let value = serde_json::to_value(told).map_err(|e| StageError::new(e.to_string()))?;
        frame.annotations.extra.insert(KEY.into(), value);
        frame.inferred = true;
        Ok(())
    }
}

fn joined(frame: &Frame) -> Result<&Arc<Joined>, StageError> {
    frame
        .payload
        .joined()
        .ok_or_else(|| StageError::new("the frame is no joined one: give `locate` a source `join://` in its `from`"))
}

struct Runner {
    slot: Slot,
    size: (usize, usize),
}

impl Execute for Runner {
    fn execute(&mut self, batch: &mut Batch, n: usize) -> Result<(), StageError> {
        Ok(self.slot.run(memory_mut(batch)?, n, self.size)?)
    }
}
