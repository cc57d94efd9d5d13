//! Pictures through a model: what stages on devices have in common. Preprocessors and memory are pooled, so that the
//! steady state allocates nothing for pixels.

use super::InferError;
use super::card::Named;
use super::device::{Device, Precision};
use super::input::PictureInput;
use super::model::{ModelInfo, Opened, RunOn, open};
use super::preprocess::{ChannelOrder, InputSpec, Preprocessor, Region};
use super::session::{Buffers, Plan, Slot};
use super::sessions::Sessions;
use super::tensor::Geometry;
use crate::frame::Picture;
use parking_lot::Mutex;
use std::sync::Arc;

/// A model that takes pictures, on its device.
pub struct PictureModel {
    sessions: Sessions,
    input: PictureInput,
    preprocessors: Mutex<Vec<Preprocessor>>,
}

/// Memory of one batch of pictures.
pub struct PictureBatch {
    /// Inputs and outputs.
    pub buffers: Buffers,
    /// How each place's picture lies in its tensor; `None` where nothing was read in yet.
    pub places: Vec<Option<Place>>,
}

/// A picture in its tensor.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// From model pixels to the picture's.
    pub geometry: Geometry,
    /// Width and height of the tensor.
    pub size: (usize, usize),
}

impl PictureModel {
    /// A model from an open session.
    ///
    /// # Errors
    /// The model's batch cannot be used.
    pub fn new(
        named: Named,
        on: RunOn,
        opened: Opened,
        input: PictureInput,
        max_batch: usize,
    ) -> Result<Self, InferError> {
        let channels = if input.spec.channels == ChannelOrder::Gray { 1 } else { 3 };
        // Where each picture has its own size, pictures cannot share a tensor.
        let max_batch = if input.per_picture.is_some() { 1 } else { max_batch };
        let spec = &input.spec;
        let plan = Plan::new(&input.info, &opened.info.outputs, spec.dtype, spec.layout, channels, max_batch)
            .map_err(|e| InferError::Model { path: named.file.clone(), why: e.to_string() })?;
        let sessions = Sessions::new(named, on, opened, Arc::new(plan), (spec.width, spec.height))?;
        Ok(Self { sessions, input, preprocessors: Mutex::new(Vec::new()) })
    }

    /// The device it runs on.
    pub fn device(&self) -> Device {
        self.sessions.device()
    }

    /// Batch sizes, ascending from 1.
    pub fn batches(&self) -> &[usize] {
        self.sessions.batches()
    }

    /// The picture input.
    pub fn input(&self) -> &PictureInput {
        &self.input
    }

    /// The model as the pipeline file names it.
    pub fn named(&self) -> &Named {
        self.sessions.named()
    }

    fn largest(&self) -> (usize, usize) {
        (self.input.spec.width, self.input.spec.height)
    }

    /// Memory for one batch.
    ///
    /// # Errors
    /// It cannot be allocated.
    pub fn batch(&self) -> Result<PictureBatch, InferError> {
        let most = self.batches().last().copied().unwrap_or(1);
        Ok(PictureBatch { buffers: self.sessions.buffers()?, places: vec![None; most] })
    }

    /// Another session, warmed up for every batch size.
    ///
    /// # Errors
    /// The model or the device cannot be used.
    pub fn slot(&self) -> Result<Slot, InferError> {
        self.sessions.slot()
    }

    /// Runs a session once on a black picture and lets `look` see the outputs.
    ///
    /// # Errors
    /// As for a run.
    pub fn probe<T>(&self, look: impl FnOnce(&Buffers) -> Result<T, InferError>) -> Result<T, InferError> {
        self.sessions.probe(look)
    }

    /// Reads a picture, or a region of it, into place `index`.
    ///
    /// # Errors
    /// The picture cannot be read.
    pub fn prepare(
        &self,
        picture: &Picture,
        region: Option<Region>,
        batch: &mut PictureBatch,
        index: usize,
    ) -> Result<(), InferError> {
        let size = match &self.input.per_picture {
            Some(per) => per.size(region.map_or(picture.view_size(), |r| {
                let side = |a: f32, b: f32| (b - a).clamp(1.0, 65_535.0) as u32;
                (side(r[0], r[2]), side(r[1], r[3]))
            })),
            None => self.largest(),
        };
        let place =
            batch.places.get_mut(index).ok_or_else(|| InferError::Run(format!("no place {index} in the batch")))?;
        *place = None;
        let out = batch.buffers.place(index, size)?;
        let mut pass = self.preprocessor(size);
        let geometry = pass.run(picture, region, out).map_err(|e| InferError::Run(e.to_string()));
        self.preprocessors.lock().push(pass);
        *place = Some(Place { geometry: geometry?, size });
        Ok(())
    }

    /// A preprocessor for this size, from the pool if it has one.
    fn preprocessor(&self, (width, height): (usize, usize)) -> Preprocessor {
        let mut pool = self.preprocessors.lock();
        match pool.iter().position(|p| (p.spec().width, p.spec().height) == (width, height)) {
            Some(i) => pool.swap_remove(i),
            None => {
                if pool.len() >= 32 {
                    pool.clear();
                }
                drop(pool);
                Preprocessor::new(InputSpec { width, height, ..self.input.spec.clone() })
            }
        }
    }
}

impl PictureBatch {
    /// Runs the first `n` places. Places that were never filled hold black pictures: the engine measures with them.
    ///
    /// # Errors
    /// ONNX Runtime's message.
    pub fn run(&mut self, slot: &mut Slot, n: usize) -> Result<(), InferError> {
        let size = match self.places.first() {
            Some(Some(place)) => place.size,
            _ => self.buffers.size(),
        };
        slot.run(&mut self.buffers, n, size)
    }
}

/// What a pipeline file says about how a stage's model runs.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    /// `device`.
    pub device: Device,
    /// `precision`.
    pub precision: Precision,
    /// `threads`.
    pub threads: Option<usize>,
    /// `slots`.
    pub slots: Option<usize>,
}

impl Resources {
    /// Sessions, and how each is to run: live work has one slot with all threads (latency), offline work one slot for
    /// each core with one thread (throughput).
    pub fn plan(&self, live: bool, cores: usize) -> (usize, RunOn) {
        let cores = cores.max(1);
        let (threads, slots) = match (self.threads, self.slots, live) {
            (Some(t), Some(s), _) => (t, s),
            (Some(t), None, true) => (t, 1),
            (Some(t), None, false) => (t, (cores / t.max(1)).max(1)),
            (None, Some(s), _) => ((cores / s.max(1)).max(1), s),
            (None, None, true) => (cores, 1),
            (None, None, false) => (1, cores),
        };
        (slots.max(1), RunOn { device: self.device, threads: threads.max(1), precision: self.precision })
    }

    /// Sessions on the device that was really taken: on a GPU offline work has two, so that copies and kernels overlap,
    /// however many cores there are.
    pub fn slots_on(&self, device: Device, planned: usize) -> usize {
        match (device, self.slots) {
            (Device::Cuda(_) | Device::TensorRt(_), None) => planned.min(2),
            _ => planned,
        }
    }
}

/// Opens the model that a pipeline file names: its card is read, its SHA-256 verified.
///
/// # Errors
/// Anything that keeps it from running.
pub fn open_named(named: &Named, on: RunOn) -> Result<(Opened, ModelInfo), InferError> {
    named.verify()?;
    let opened = open(&named.file, on)?;
    let info = opened.info.clone();
    Ok((opened, info))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_work_has_one_slot_and_offline_work_one_for_each_core() {
        let r = Resources { device: Device::Cpu, precision: Precision::Fp32, threads: None, slots: None };
        let plan = |r: Resources, live| {
            let (slots, on) = r.plan(live, 8);
            (slots, on.threads)
        };
        assert_eq!(plan(r, true), (1, 8));
        assert_eq!(plan(r, false), (8, 1));
        assert_eq!(plan(Resources { threads: Some(2), ..r }, false), (4, 2));
        assert_eq!(plan(Resources { slots: Some(3), ..r }, true), (3, 2));
        assert_eq!(plan(Resources { threads: Some(0), slots: Some(0), ..r }, true), (1, 1));
    }
}
