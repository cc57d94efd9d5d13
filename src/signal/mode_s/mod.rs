//! Mode S and ADS-B: from samples at 1090 MHz to aircraft.
//!
//! After the public descriptions of the protocol: ICAO Annex 10, volume IV; Doc 9871; and J. Sun, "The 1090 Megahertz
//! Riddle" (2021). A [`Receiver`] finds frames in samples and checks them, [`Message`] is what a frame says,
//! [`cpr::Positions`] makes latitudes and longitudes of the halves that aircraft send.

pub mod cpr;
mod frame;
mod message;
mod receiver;
mod slicer;

pub use frame::{Checked, Known, Raw, Repair, check, checksum};
pub use message::{Air, Airspeed, Body, Extended, Message, Velocity};
pub use receiver::{Received, Receiver, ReceiverConfig};

#[cfg(test)]
mod tests;
