//! The sessions of one model on its device: the first is opened to look at the model, and serves as the first slot.

use super::InferError;
use super::card::Named;
use super::device::Device;
use super::model::{Opened, RunOn, open};
use super::session::{Buffers, Plan, Slot};
use parking_lot::Mutex;
use std::sync::Arc;

/// A model on its device.
pub struct Sessions {
    named: Named,
    on: RunOn,
    plan: Arc<Plan>,
    /// Width and height, or columns and rows, that slots are warmed up for.
    size: (usize, usize),
    first: Mutex<Option<Slot>>,
}

impl Sessions {
    /// Those of an open session.
    ///
    /// # Errors
    /// ONNX Runtime cannot allocate.
    pub fn new(
        named: Named,
        on: RunOn,
        opened: Opened,
        plan: Arc<Plan>,
        size: (usize, usize),
    ) -> Result<Self, InferError> {
        // Later slots go where the first went, without trying anything again.
        let on = RunOn { device: opened.device, ..on };
        let first = Mutex::new(Some(Slot::new(opened, plan.clone())?));
        Ok(Self { named, on, plan, size, first })
    }

    /// The device they run on; never [`Device::Auto`].
    pub fn device(&self) -> Device {
        self.on.device
    }

    /// Batch sizes, ascending from 1.
    pub fn batches(&self) -> &[usize] {
        self.plan.batches()
    }

    /// The model as the pipeline file names it.
    pub fn named(&self) -> &Named {
        &self.named
    }

    /// Memory for one batch.
    ///
    /// # Errors
    /// It cannot be allocated.
    pub fn buffers(&self) -> Result<Buffers, InferError> {
        Buffers::new(self.plan.clone(), self.size)
    }

    fn take(&self, first: &mut Option<Slot>) -> Result<Slot, InferError> {
        match first.take() {
            Some(slot) => Ok(slot),
            None => Slot::new(open(&self.named.file, self.on)?, self.plan.clone()),
        }
    }

    /// Another session, warmed up for every batch size.
    ///
    /// # Errors
    /// The model or the device cannot be used.
    pub fn slot(&self) -> Result<Slot, InferError> {
        let mut slot = self.take(&mut self.first.lock())?;
        slot.warm(&mut self.buffers()?, self.size)?;
        Ok(slot)
    }

    /// Runs the session once on zeros and lets `look` see the outputs; the session stays for the first slot.
    ///
    /// # Errors
    /// As for a run.
    pub fn probe<T>(&self, look: impl FnOnce(&Buffers) -> Result<T, InferError>) -> Result<T, InferError> {
        let mut first = self.first.lock();
        let mut slot = self.take(&mut first)?;
        let mut buffers = self.buffers()?;
        slot.run(&mut buffers, 1, self.size)?;
        let seen = look(&buffers);
        *first = Some(slot);
        seen
    }
}
