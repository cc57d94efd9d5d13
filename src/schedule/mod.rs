//! The scheduler: pure and deterministic. No threads, no clocks, no I/O: time comes in as an argument, so the same
//! code runs in production, in tests and in simulation.
//!
//! [`Planner`] decides for one device stage what to run next, what to give up and how long to wait; [`Cost`] predicts
//! how long things take.

mod cost;
mod planner;
#[cfg(test)]
mod tests;

pub use cost::{Cost, Estimate};
pub use planner::{Lane, Limits, Next, Plan, Planner, Waiting};
