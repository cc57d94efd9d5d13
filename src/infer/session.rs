//! Running a model in memory that is made once: the inputs and outputs of a batch, and the slot that runs it.

use super::InferError;
use super::model::{Dim, Opened, TensorInfo};
use super::preprocess::Layout;
use super::tensor::DType;
use half::f16;
use ort::memory::{AllocationDevice, Allocator, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{IoBinding, Session};
use ort::value::{DynTensor, DynValue, TensorElementType};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use zerocopy::IntoBytes;

/// What every run of a model has in common.
#[derive(Debug)]
pub struct Plan {
    input: Arc<str>,
    dtype: DType,
    layout: Layout,
    channels: usize,
    batches: Vec<usize>,
    outputs: Vec<OutputPlan>,
}

#[derive(Debug)]
struct OutputPlan {
    name: Arc<str>,
    element: TensorElementType,
    /// Shape without the batch, where it is the same in every run; else the output is taken from the run.
    shape: Option<Vec<usize>>,
    /// The first axis is the batch.
    batched: bool,
}

impl Plan {
    /// A plan for a model with one picture input, for batches of up to `max_batch` where the model allows it.
    ///
    /// # Errors
    /// The model fixes its batch to something other than 1.
    pub fn new(
        input: &TensorInfo,
        outputs: &[TensorInfo],
        dtype: DType,
        layout: Layout,
        channels: usize,
        max_batch: usize,
    ) -> Result<Self, InferError> {
        let batches = match input.dim(0) {
            Some(1) => vec![1],
            Some(n) => {
                return Err(InferError::Output(format!(
                    "the model's input {input} takes exactly {n} pictures at once; export it with a batch of 1 or a \
                     dynamic batch"
                )));
            }
            None => std::iter::successors(Some(1), |b| Some(b * 2)).take_while(|&b| b <= max_batch.max(1)).collect(),
        };
        let plan = |o: &TensorInfo| {
            // Only an output whose first axis carries the input's own symbol is sure to have the batch there.
            let named =
                matches!(o.shape.first(), Some(Dim::Dynamic(s)) if !s.is_empty()) && o.shape[0] == input.shape[0];
            let batched = named || (batches.len() == 1 && o.dim(0) == Some(1) && o.shape.len() > 1);
            let rest: Option<Vec<usize>> = o.shape.iter().skip(usize::from(batched)).map(Dim::fixed).collect();
            let shape = rest.filter(|_| batched || batches.len() == 1);
            OutputPlan { name: o.name.clone(), element: o.element, shape, batched }
        };
        let outputs = outputs.iter().map(plan).collect();
        Ok(Self { input: input.name.clone(), dtype, layout, channels, batches, outputs })
    }

    /// Sizes that batches can have, ascending from 1.
    pub fn batches(&self) -> &[usize] {
        &self.batches
    }

    fn input_shape(&self, n: usize, (width, height): (usize, usize)) -> [i64; 4] {
        let (n, c, w, h) = (n as i64, self.channels as i64, width as i64, height as i64);
        match self.layout {
            Layout::Nchw => [n, c, h, w],
            Layout::Nhwc => [n, h, w, c],
        }
    }

    /// The smallest batch that has a place `index`, as an index into the batches.
    fn home(&self, index: usize) -> usize {
        self.batches.iter().position(|&b| b > index).unwrap_or(self.batches.len() - 1)
    }
}

/// Memory of one batch. Place `i` lies in the input tensor of the smallest batch that has it, so that a batch that
/// is full never moves more than half of its pictures, and a single picture never moves at all.
pub struct Buffers {
    id: u64,
    plan: Arc<Plan>,
    sets: Vec<Set>,
    /// The set that ran last, and its outputs.
    ran: Option<usize>,
}

/// Tensors of one batch size and picture size.
struct Set {
    n: usize,
    size: (usize, usize),
    input: DynTensor,
    outputs: Vec<DynValue>,
}

/// Most picture sizes that one batch's memory keeps tensors for; a model that takes every size sees few in practice.
const SIZES: usize = 4;
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Buffers {
    /// Memory for pictures of `size` (width, height); other sizes are added when they come.
    ///
    /// # Errors
    /// ONNX Runtime cannot allocate.
    pub fn new(plan: Arc<Plan>, size: (usize, usize)) -> Result<Self, InferError> {
        let mut b = Self { id: NEXT_ID.fetch_add(1, Relaxed), plan, sets: Vec::new(), ran: None };
        b.first_set(size)?;
        Ok(b)
    }

    /// The picture size (width, height) that it was made for.
    pub fn size(&self) -> (usize, usize) {
        self.sets.first().map_or((0, 0), |s| s.size)
    }

    /// Index of the first of the sets of this picture size.
    fn first_set(&mut self, size: (usize, usize)) -> Result<usize, InferError> {
        if let Some(i) = self.sets.iter().position(|s| s.size == size) {
            return Ok(i);
        }
        let per_size = self.plan.batches.len();
        if self.sets.len() >= SIZES * per_size {
            self.sets.drain(..per_size);
            // Bindings of the sets that went away must not be found again.
            self.id = NEXT_ID.fetch_add(1, Relaxed);
            self.ran = None;
        }
        let allocator = Allocator::default();
        let element = match self.plan.dtype {
            DType::F32 => TensorElementType::Float32,
            DType::F16 => TensorElementType::Float16,
            DType::U8 => TensorElementType::Uint8,
        };
        let at = self.sets.len();
        for &n in &self.plan.batches {
            let mut input = DynTensor::new(&allocator, element, self.plan.input_shape(n, size)).map_err(run_error)?;
            // Fresh memory may hold anything, and some values (denormals) run far slower than pictures do.
            bytes_mut(&mut input)?.fill(0);
            self.sets.push(Set { n, size, input, outputs: Vec::new() });
        }
        Ok(at)
    }

    /// The bytes of place `index` for a picture of `size`. All places of one batch must have the same size.
    ///
    /// # Errors
    /// The place is beyond the largest batch, or memory cannot be had.
    pub fn place(&mut self, index: usize, size: (usize, usize)) -> Result<&mut [u8], InferError> {
        let largest = self.plan.batches[self.plan.batches.len() - 1];
        if index >= largest {
            return Err(InferError::Run(format!("place {index} of a batch that holds {largest}")));
        }
        let home = self.plan.home(index);
        let set = self.first_set(size)? + home;
        place_of(&mut self.sets[set], index)
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.plan.outputs.len()
    }

    /// Output `o` of the last run at place `index`.
    ///
    /// # Errors
    /// Nothing ran, or the output cannot be split by pictures or read.
    pub fn output(&self, o: usize, index: usize) -> Result<Output<'_>, InferError> {
        let set = self.ran.and_then(|i| self.sets.get(i)).ok_or_else(|| InferError::Run("nothing ran".into()))?;
        let plan = &self.plan.outputs[o];
        let value = set.outputs.get(o).ok_or_else(|| InferError::Run("nothing ran".into()))?;
        let whole = Output::of(&plan.name, value)?;
        // A first axis of 1 is the batch too where the model did not say so in its declared shape.
        let carries = plan.batched || set.n > 1 || (whole.shape.len() > 1 && whole.shape[0] == 1);
        if carries { whole.at(index, set.n) } else { Ok(whole) }
    }
}

fn place_of(set: &mut Set, index: usize) -> Result<&mut [u8], InferError> {
    let n = set.n;
    let bytes = bytes_mut(&mut set.input)?;
    let each = bytes.len() / n;
    Ok(&mut bytes[each * index..each * (index + 1)])
}

fn bytes_mut(t: &mut DynTensor) -> Result<&mut [u8], InferError> {
    Ok(match t.data_type() {
        TensorElementType::Float16 => t.try_extract_tensor_mut::<f16>().map_err(run_error)?.1.as_mut_bytes(),
        TensorElementType::Uint8 => t.try_extract_tensor_mut::<u8>().map_err(run_error)?.1,
        _ => t.try_extract_tensor_mut::<f32>().map_err(run_error)?.1.as_mut_bytes(),
    })
}

fn run_error(e: ort::Error) -> InferError {
    InferError::Run(e.to_string())
}

/// One output at one place of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// The output's name in the model.
    pub name: &'a Arc<str>,
    /// Its shape without the batch.
    pub shape: &'a [i64],
    data: Data<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Data<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    F64(&'a [f64]),
    I64(&'a [i64]),
    I32(&'a [i32]),
    U8(&'a [u8]),
}

impl<'a> Output<'a> {
    fn of(name: &'a Arc<str>, value: &'a DynValue) -> Result<Self, InferError> {
        macro_rules! read {
            ($t:ty, $kind:ident) => {{
                let (shape, data) = value.try_extract_tensor::<$t>().map_err(run_error)?;
                Ok(Self { name, shape, data: Data::$kind(data) })
            }};
        }
        match value.dtype().tensor_type() {
            Some(TensorElementType::Float32) => read!(f32, F32),
            Some(TensorElementType::Float16) => read!(f16, F16),
            Some(TensorElementType::Float64) => read!(f64, F64),
            Some(TensorElementType::Int64) => read!(i64, I64),
            Some(TensorElementType::Int32) => read!(i32, I32),
            Some(TensorElementType::Uint8) => read!(u8, U8),
            other => Err(InferError::Output(format!("output `{name}` has elements of type {other:?}"))),
        }
    }

    fn at(self, index: usize, n: usize) -> Result<Self, InferError> {
        if self.shape.first() != Some(&(n as i64)) {
            return Err(InferError::Output(format!(
                "output `{}` has shape {:?}, and no first axis with the {n} pictures of its batch; set batch.max to 1",
                self.name, self.shape
            )));
        }
        fn part<T>(all: &[T], index: usize, n: usize) -> &[T] {
            let each = all.len() / n;
            &all[each * index..each * (index + 1)]
        }
        let data = match self.data {
            Data::F32(d) => Data::F32(part(d, index, n)),
            Data::F16(d) => Data::F16(part(d, index, n)),
            Data::F64(d) => Data::F64(part(d, index, n)),
            Data::I64(d) => Data::I64(part(d, index, n)),
            Data::I32(d) => Data::I32(part(d, index, n)),
            Data::U8(d) => Data::U8(part(d, index, n)),
        };
        Ok(Self { shape: &self.shape[1..], data, ..self })
    }

    /// Its values as they are where they are `f32`, else converted into `scratch`.
    pub fn values<'s>(&self, scratch: &'s mut Vec<f32>) -> &'s [f32]
    where
        'a: 's,
    {
        scratch.clear();
        match self.data {
            Data::F32(d) => return d,
            Data::F16(d) => scratch.extend(d.iter().map(|v| v.to_f32())),
            Data::F64(d) => scratch.extend(d.iter().map(|&v| v as f32)),
            Data::I64(d) => scratch.extend(d.iter().map(|&v| v as f32)),
            Data::I32(d) => scratch.extend(d.iter().map(|&v| v as f32)),
            Data::U8(d) => scratch.extend(d.iter().map(|&v| v as f32)),
        }
        scratch
    }
}

/// One session, which runs one batch at a time.
pub struct Slot {
    session: Session,
    plan: Arc<Plan>,
    bindings: Vec<Bound>,
    on_host: MemoryInfo<'static>,
}

struct Bound {
    buffers: u64,
    set: usize,
    binding: IoBinding,
}

/// Most bindings that a slot keeps: batches in flight times their sizes, and room to spare.
const BINDINGS: usize = 64;

impl Slot {
    /// A slot from an open session.
    ///
    /// # Errors
    /// ONNX Runtime cannot allocate.
    pub fn new(opened: Opened, plan: Arc<Plan>) -> Result<Self, InferError> {
        let on_host = MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::CPUOutput);
        Ok(Self { session: opened.session, plan, bindings: Vec::new(), on_host: on_host.map_err(run_error)? })
    }

    /// Runs the first `n` places, all filled with pictures of `size`.
    ///
    /// # Errors
    /// ONNX Runtime's message.
    pub fn run(&mut self, buffers: &mut Buffers, n: usize, size: (usize, usize)) -> Result<(), InferError> {
        if n == 0 {
            return Ok(());
        }
        let first = buffers.first_set(size)?;
        let home = self.plan.home(n - 1);
        let at = first + home;
        if home > 0 {
            let (smaller, target) = buffers.sets.split_at_mut(at);
            for index in 0..n {
                let from = first + self.plan.home(index);
                if let Some(source) = smaller.get_mut(from) {
                    place_of(&mut target[0], index)?.copy_from_slice(place_of(source, index)?);
                }
            }
        }
        buffers.ran = None;
        let id = buffers.id;
        let set = &mut buffers.sets[at];
        let known = self.bindings.iter().position(|b| b.buffers == id && b.set == at);
        let bound = match known {
            Some(i) => i,
            None => {
                if self.bindings.len() >= BINDINGS {
                    self.bindings.clear();
                }
                let binding = bind(&self.session, &self.plan, set)?;
                self.bindings.push(Bound { buffers: id, set: at, binding });
                self.bindings.len() - 1
            }
        };
        let binding = &mut self.bindings[bound].binding;
        for plan in self.plan.outputs.iter().filter(|p| p.shape.is_none()) {
            // Else the last run's tensor is still bound, and this run's has to have its shape.
            binding.bind_output_to_device(&*plan.name, &self.on_host).map_err(run_error)?;
        }
        let mut results = self.session.run_binding(binding).map_err(run_error)?;
        for (o, plan) in self.plan.outputs.iter().enumerate() {
            // Outputs of a known shape were written in place; the others are new in every run.
            if plan.shape.is_none() {
                let value = results.remove(&*plan.name);
                set.outputs[o] = value.ok_or_else(|| InferError::Run(format!("no output `{}`", plan.name)))?;
            }
        }
        buffers.ran = Some(at);
        Ok(())
    }

    /// Runs every batch size once on zeros, so that nothing is compiled or allocated later.
    ///
    /// # Errors
    /// As [`Slot::run`], and where an output cannot be split by pictures.
    pub fn warm(&mut self, buffers: &mut Buffers, size: (usize, usize)) -> Result<(), InferError> {
        for i in 0..self.plan.batches.len() {
            let n = self.plan.batches[i];
            self.run(buffers, n, size)?;
            for o in 0..buffers.outputs() {
                buffers.output(o, n - 1)?;
            }
        }
        Ok(())
    }
}

fn bind(session: &Session, plan: &Plan, set: &mut Set) -> Result<IoBinding, InferError> {
    let mut binding = session.create_binding().map_err(run_error)?;
    binding.bind_input(&*plan.input, &set.input).map_err(run_error)?;
    let fresh = set.outputs.is_empty();
    for (o, output) in plan.outputs.iter().enumerate() {
        let Some(rest) = &output.shape else {
            // Bound anew before every run.
            if fresh {
                // Takes the place until the first run.
                let empty = DynTensor::new(&Allocator::default(), output.element, [0i64]).map_err(run_error)?;
                set.outputs.push(empty.into_dyn());
            }
            continue;
        };
        if fresh {
            let batch = output.batched.then_some(set.n as i64);
            let shape: Vec<i64> = batch.into_iter().chain(rest.iter().map(|&d| d as i64)).collect();
            let tensor = DynTensor::new(&Allocator::default(), output.element, shape).map_err(run_error)?;
            set.outputs.push(tensor.into_dyn());
        }
        binding.bind_output(&*output.name, &mut set.outputs[o]).map_err(run_error)?;
    }
    Ok(binding)
}
