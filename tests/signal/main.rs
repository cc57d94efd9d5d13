//! The signal room: against recordings, against NumPy, against what no receiver would send.

#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod locator;
mod parity;
mod recordings;
#[path = "../common/stage.rs"]
mod stage;
