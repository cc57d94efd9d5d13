//! What the scheduler promises, proven under virtual time: the same planner runs in production.

mod devices;
mod ladder;
mod oracle;
mod properties;
mod table;

use framegate::frame::clock::MILLI;
use framegate::schedule::sim::{Feed, Outcomes, Scenario, Truth, run};
use framegate::schedule::{Cost, Policy, RungPlan, Site, Variant};

/// The device of the proofs: α = 4 ms, β = 1.2 ms.
pub const ALPHA: u64 = 4 * MILLI;
/// See [`ALPHA`].
pub const BETA: u64 = 1_200_000;

/// Runs a scenario and checks what holds of every one.
pub fn checked(scenario: &Scenario) -> Outcomes {
    let out = run(scenario);
    for (i, s) in out.streams.iter().enumerate() {
        assert_eq!(s.captured, s.ended(), "stream {i}: {s:?}");
    }
    if matches!(scenario.policy, Policy::Framegate | Policy::Edf) {
        assert_eq!(out.known_late, 0);
    }
    out
}
