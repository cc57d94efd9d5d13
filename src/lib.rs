//! framegate: a real-time video and sensor stream processor. Results come out before each frame's deadline; where the
//! machine cannot do all of it, it says which frames it gave up, and why.
//!
//! This page is the map of the house. The user's manual is `README.md`; how to build, test and measure is in
//! `CONTRIBUTING.md`.
//!
//! # Words
//!
//! | word | meaning |
//! |---|---|
//! | stream | one source's sequence of frames |
//! | frame | one unit of work of a stream: a picture, a block of samples |
//! | captured | when the frame's first byte reached this host, before jitter buffer and decoder; a block of samples: its last one |
//! | delivered | its record is sealed after the last stage and offered to the sinks' queues |
//! | deadline | captured plus the stream's deadline |
//! | stage | one step of the graph; it annotates frames, it never reorders a stream |
//! | ring | the bounded buffer between two threads |
//! | batch | the frames, of one or several streams, that one inference takes |
//! | rung, ladder | a declared quality level, and the ordered list of them, best first |
//! | shed, evicted, late, failed | how a frame can end other than on time; see [`frame::Outcome`] |
//!
//! # A frame's way
//!
//! ```text
//! source threads       per device       per slot       per stage          per stage        per sink
//! ┌───────────┐ ring  ┌────────────┐   ┌──────────┐   ┌──────────┐  ring  ┌────────┐ queue ┌──────┐
//! │ GStreamer ├─────▶ │ dispatcher ├──▶│ executor ├──▶│ finisher ├──────▶ │ worker ├─────▶ │ sink │
//! │ appsink   │ one a │ plan,      │   │ (one a   │   │ decode   │        │ track, │       │      │
//! └───────────┘ stream│ prepare    │   │  slot)   │   │ outputs  │        │ filter │       └──────┘
//!                     └────────────┘   └──────────┘   └──────────┘        └────────┘
//! ```
//!
//! 1. A [`source`] stamps the frame as captured ([`source::Intake::capture`]): its stream's [`frame::Ledger`] counts it
//!    and gives it a [`frame::Ticket`]. Whatever happens from here on, the ticket's end is counted under exactly one
//!    outcome, when its last holder lets go of it: conservation holds by construction.
//! 2. The decoded frame enters a [`ring`]. A live ring that is full pushes its oldest frame out, an offline one makes
//!    the source wait.
//! 3. The dispatcher of the device asks the [`schedule::Planner`], under the current time: run these frames as a batch of
//!    this stage at this rung, let those pass, shed others, or wait. A frame that could not be delivered before its
//!    deadline costs nothing. All stages on a device share its planner; what runs on the processor is one device.
//! 4. Its pixels go from the decoder's planes to the batch's tensor in one fused pass ([`infer::preprocess`]), an
//!    executor runs the model, the finisher turns outputs into annotations. The three overlap.
//! 5. Plain stages annotate it, each on its own thread; where the graph branches, pixels are shared and annotations
//!    copied, where branches join, annotations are merged.
//! 6. After the last stage the record is sealed and offered to every sink's queue. Whether it was on time is decided
//!    here. A sink that is slow loses from its own queue and counts it.
//!
//! # Rooms
//!
//! * [`frame`]: frames, pictures, annotations, records, the clock, the ledger. Knows nobody else.
//! * [`ring`]: the bounded buffer between threads.
//! * [`schedule`]: cost model, planner, ladder, admission, and a simulation of them. Pure: no threads, no clocks, no I/O.
//! * [`source`], [`stage`], [`sink`]: components, each kind with its configuration beside it and one line in a registry.
//! * [`cache`]: what was made of an input by a configuration and a model is made once: memory, disk, Redis.
//! * [`store`]: results in a database: the thread that writes them, what is kept, how they are asked for.
//! * [`infer`]: the fused pixel pass, ONNX Runtime sessions, model cards, output decoders.
//! * [`signal`]: radio and sensor samples: formats, SigMF, spectra, channels, bursts, audio, Mode S. Pure, but for recordings.
//! * [`config`]: the pipeline file: types, parsing, every error at once with its line.
//! * [`telemetry`]: every metric, heartbeats, the run report, what systemd is told.
//! * [`views`]: what people watch and ask for while a pipeline runs, between sinks and HTTP.
//! * [`engine`]: builds the graph, owns the threads, runs, reloads and stops it. Nothing above knows it.
//! * [`simulate`]: a pipeline under virtual time, by the planner that runs in production.
//! * [`http`] sits on top, and so do the commands, which live in the binary.
//!
//! # Adding a stage
//!
//! One new file in `src/stage/` with a configuration struct (documented, `deny_unknown_fields`) that implements
//! [`stage::StageConfig`], and one line in [`stage::KINDS`]. The pipeline file, its checks, the JSON Schema and the
//! engine find it there.

pub mod cache;
pub mod config;
pub mod engine;
pub mod frame;
pub mod http;
pub mod infer;
pub mod issue;
pub mod ring;
pub mod schedule;
pub mod signal;
pub mod simulate;
pub mod sink;
pub mod source;
pub mod stage;
pub mod store;
pub mod telemetry;
pub mod views;
