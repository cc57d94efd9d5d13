//! Devices, their planners and streams under virtual time: what `framegate simulate` runs, what admission asks, and what
//! the scheduler is proven with. The planners here are those that run in production.
//!
//! * `feed`: the streams: when frames arrive, and which stages they pass.
//! * `scenario`: the devices, and how reality differs from what planners are told.
//! * `world`: frames on their way, from stage to stage and from device to device, until they are counted.
//! * `device`: one device: its dispatcher, its slots.
//! * `outcomes`: what came out.

mod device;
mod feed;
mod outcomes;
mod scenario;
mod world;

pub use feed::{Feed, Fork, Span};
pub use outcomes::{Outcomes, Tally};
pub use scenario::{Device, Scenario, Truth};
pub use world::run;

/// A span around `mean`, log-normally spread by this share of it. Of the variance some share is decided already.
fn spread(mean: f64, share: f64, (decided, value): (f64, f64), rng: &mut fastrand::Rng) -> f64 {
    if share <= 0.0 {
        return mean;
    }
    let x = decided.sqrt() * value + (1.0 - decided).sqrt() * normal(rng);
    // Without the correction the mean would lie above the model's.
    mean * (share * x - share.powi(2) / 2.0).exp()
}

/// A standard normal variable (Box and Muller, 1958).
fn normal(rng: &mut fastrand::Rng) -> f64 {
    let (u, v) = (1.0 - rng.f64(), rng.f64());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
