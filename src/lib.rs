//! framegate: a real-time video and sensor stream processor.

pub mod config;
pub mod engine;
pub mod frame;
pub mod http;
pub mod infer;
pub mod issue;
pub mod ring;
pub mod schedule;
pub mod sink;
pub mod source;
pub mod stage;
pub mod telemetry;
