//! Warnings: what can run, and probably is not what was meant.

use super::findings::Findings;
use super::section::Section;
use crate::source::{Pace, SourceConfig};
use std::net::SocketAddr;
use std::time::Duration;

/// A deadline that no frame, or every frame, would meet.
pub(super) fn deadline(section: &Section<'_>, fps: f64, deadline: Option<Duration>, findings: &mut Findings<'_>) {
    let Some(deadline) = deadline else { return };
    let place = section.place(if section.table.contains_key("deadline") { "deadline" } else { "fps" });
    if deadline < Duration::from_millis(2) {
        findings
            .warning(place, format!("a deadline of {deadline:?} is less than decoding one frame takes"))
            .help("times need their unit: \"33ms\"");
    } else if fps > 0.0 && deadline.as_secs_f64() * fps > 60.0 {
        let frames = deadline.as_secs_f64() * fps;
        findings
            .warning(
                place,
                format!(
                    "a deadline of {deadline:?} at {fps} frames per second lets {frames:.0} frames of each stream wait"
                ),
            )
            .help("the deadline is for one frame; write \"none\" for work without one");
    }
}

/// A socket that others can reach.
pub(super) fn listen(section: &Section<'_>, listen: Option<SocketAddr>, findings: &mut Findings<'_>) {
    if let Some(address) = listen.filter(|a| !a.ip().is_loopback()) {
        findings
            .warning(section.place("listen"), format!("{address} can be reached from other machines"))
            .help("listen on 127.0.0.1 behind a proxy, or see to it that only trusted machines reach the port");
    }
}

/// Cores that this machine does not have.
pub(super) fn cpus(section: &Section<'_>, cpus: &[usize], findings: &mut Findings<'_>) {
    let Some(highest) = cpus.iter().max() else { return };
    let there = std::fs::read_to_string("/sys/devices/system/cpu/present").ok();
    let Some(last) = there.and_then(|s| s.trim().rsplit(['-', ',']).next()?.parse::<usize>().ok()) else { return };
    if *highest > last {
        findings
            .warning(section.place("cpus"), format!("this machine has no core {highest}: its cores are 0 to {last}"));
    }
}

/// Whether an address is of a stream that does not wait.
fn is_live_address(uri: &str) -> bool {
    !matches!(uri.split_once("://"), Some(("file" | "sigmf" | "iqfile", _)) | None)
}

/// Pace and deadline that do not fit each other or the address.
pub(super) fn source(
    section: &Section<'_>,
    config: &SourceConfig,
    deadline: Option<Duration>,
    findings: &mut Findings<'_>,
) {
    let live = config.uri.as_deref().is_some_and(is_live_address);
    match (config.pace, deadline) {
        (Some(Pace::Fast), Some(_)) => {
            findings
                .warning(section.place("pace"), "frames that are read as fast as possible still have a deadline")
                .help("write deadline = \"none\" here, or pace = \"live\"");
        }
        (Some(Pace::Live), None) if !live => {
            findings
                .warning(section.place("pace"), "a file that plays at its own pace has no deadline")
                .help("give it a deadline, or leave out `pace`");
        }
        _ => {}
    }
    if live && deadline.is_none() {
        findings
            .warning(
                section.place("deadline"),
                "a live stream without a deadline falls behind when the machine is too slow",
            )
            .help("give it a deadline of its own, for example deadline = \"100ms\"");
    }
}
