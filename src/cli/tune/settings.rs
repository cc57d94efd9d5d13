//! The fastest setting of one stage: device, threads, sessions, batches, precision.

use super::agreement::{self, Agreement, FEWEST, OVERLAP, SCORES};
use super::{BETTER, Bench, Failure, alone, unusable};
use crate::cli::count;
use framegate::config::StageEntry;
use framegate::engine::measure::Measured;
use framegate::frame::{Nanos, clock};
use framegate::infer::device::{Device, Precision};
use framegate::schedule::admission;
use framegate::stage::{Runs, StageError};
use std::fmt::Write as _;

/// Another precision is taken where at least this share of the boxes stays as it was.
const SAME: f64 = 0.98;
/// Another precision is taken where raw outputs differ by no more than this share of their length.
const APART: f64 = 0.01;
/// Largest batch that is tried.
const BATCH: i64 = 8;

/// One setting of a stage, and what it gave.
#[derive(Clone)]
pub(super) struct Tried {
    pub(super) device: String,
    pub(super) precision: Precision,
    pub(super) threads: usize,
    pub(super) slots: usize,
    /// The file did not ask for this precision.
    own_choice: bool,
    /// Threads are written to the file only where the device has a use for them.
    on_cores: bool,
    pub(super) measured: Measured,
    capacity: usize,
}

impl Tried {
    fn single(&self) -> Nanos {
        self.measured.spans.first().map_or(Nanos::MAX, |s| s.1)
    }

    fn beats(&self, other: &Self) -> bool {
        let (mine, theirs) = (self.capacity as f64, other.capacity as f64);
        if mine > theirs * BETTER || theirs > mine * BETTER {
            return mine > theirs;
        }
        (self.single() as f64) * BETTER < other.single() as f64
    }

    fn most(&self) -> usize {
        self.measured.spans.last().map_or(1, |s| s.0)
    }

    /// The keys that the file gets.
    pub(super) fn keys(&self) -> toml::Table {
        let mut keys = toml::Table::new();
        keys.insert("device".into(), self.device.as_str().into());
        if self.own_choice {
            keys.insert("precision".into(), self.precision.to_string().into());
        }
        if self.on_cores {
            keys.insert("threads".into(), (self.threads as i64).into());
        }
        if self.measured.crops.is_none() {
            keys.insert("slots".into(), (self.slots as i64).into());
            keys.insert("batch".into(), batches(self.most() as i64).into());
        }
        keys
    }

    fn say(&self, words: &mut String) {
        let spans: Vec<_> =
            self.measured.spans.iter().map(|(n, t)| format!("{n}: {:.2} ms", clock::millis(*t))).collect();
        let (threads, slots, spans) = (count(self.threads, "thread"), count(self.slots, "session"), spans.join(", "));
        let device = match self.precision {
            Precision::Fp32 => self.device.clone(),
            other => format!("{} {other}", self.device),
        };
        let streams = count(self.capacity, "stream");
        let _ = writeln!(words, "  {device:13} {threads}, {slots}: batches {spans}; {streams}");
    }
}

fn batches(most: i64) -> toml::Table {
    [("max".to_owned(), toml::Value::Integer(most))].into_iter().collect()
}

/// Tries a stage's settings and says in words what came of it; `None` for a stage that runs on no device.
pub(super) fn choose(entry: &StageEntry, bench: &Bench<'_>, words: &mut String) -> Result<Option<Tried>, Failure> {
    let on_crops = match Runs::of(entry.kind) {
        Runs::Thread => return Ok(None),
        Runs::Device => false,
        Runs::DeviceOnCrops => true,
    };
    let _ = writeln!(words, "\nstage `{}`:", entry.id);
    let asked = entry.settings.get("device").and_then(toml::Value::as_str).unwrap_or("auto");
    let devices: Vec<&str> =
        if asked == "auto" { vec!["tensorrt:0", "cuda:0", "openvino", "cpu"] } else { vec![asked] };
    let precision = match entry.settings.get("precision").and_then(toml::Value::as_str) {
        Some("bf16") => Precision::Bf16,
        _ => Precision::Fp32,
    };
    // The best of each device: another precision is tried where the device's own best setting is.
    let mut best: Vec<Tried> = Vec::new();
    let mut missing = Vec::new();
    for device in devices {
        let on_cores = ["cpu", "openvino"].contains(&device);
        let mut shapes: Vec<(usize, usize)> = if on_cores { shapes(bench.cores) } else { vec![(1, 1), (1, 2)] };
        // Crops run one batch after the other.
        shapes.retain(|s| s.1 == 1 || !on_crops);
        let mut here: Option<Tried> = None;
        for (threads, slots) in shapes {
            let tried = match measure(entry, bench, device, precision, (threads, slots)) {
                Ok(Some(tried)) => tried,
                Ok(None) => return Ok(None),
                Err(error) if asked == "auto" && device != "cpu" => {
                    missing.push(format!("{device} ({error})"));
                    break;
                }
                Err(error) => return Err(unusable(entry, &error)),
            };
            tried.say(words);
            if here.as_ref().is_none_or(|b| tried.beats(b)) {
                here = Some(tried);
            }
        }
        best.extend(here);
    }
    if !missing.is_empty() {
        let _ = writeln!(words, "  not there: {}", missing.join("; "));
    }
    let first = |best: Option<Tried>, next: &Tried| match best {
        Some(best) if !next.beats(&best) => Some(best),
        _ => Some(next.clone()),
    };
    let Some(mut chosen) = best.iter().fold(None, first) else { return Ok(None) };
    // Results on crops cannot be compared without the detections before them.
    if !on_crops && !says_precision(entry, bench) {
        for own in &best {
            if let Some(faster) = other_precision(entry, bench, own, &chosen, words)? {
                chosen = faster;
            }
        }
    }
    if !on_crops {
        smallest_batches(&mut chosen, bench);
    }
    let precision = match chosen.precision {
        Precision::Fp32 => String::new(),
        other => format!(" in {other}"),
    };
    let _ = writeln!(
        words,
        "  chosen: {}{precision} with {} and {}, batches of up to {}{}",
        chosen.device,
        count(chosen.threads, "thread"),
        count(chosen.slots, "session"),
        chosen.most(),
        if on_crops { " crops" } else { "" }
    );
    Ok(Some(chosen))
}

/// Measures one setting.
fn measure(
    entry: &StageEntry,
    bench: &Bench<'_>,
    device: &str,
    precision: Precision,
    (threads, slots): (usize, usize),
) -> Result<Option<Tried>, StageError> {
    let mut keys = toml::Table::new();
    keys.insert("device".into(), device.into());
    keys.insert("precision".into(), precision.to_string().into());
    keys.insert("threads".into(), (threads as i64).into());
    if Runs::of(entry.kind) == Runs::Device {
        keys.insert("slots".into(), (slots as i64).into());
        keys.insert("batch".into(), batches(BATCH).into());
    }
    let Some(measured) = bench.measure(entry, &entry.settings, &keys)? else { return Ok(None) };
    Ok(Some(Tried {
        device: device.to_owned(),
        precision,
        // A precision that the file sets stays the file's: its rungs may set others.
        own_choice: precision != Precision::default() && !entry.settings.contains_key("precision"),
        threads,
        slots,
        on_cores: ["cpu", "openvino"].contains(&device),
        capacity: admission::capacity(&[alone(&measured)], slots, &bench.feed, 0),
        measured,
    }))
}

/// Whether the file itself says in which precision the stage runs, at some rung at least.
fn says_precision(entry: &StageEntry, bench: &Bench<'_>) -> bool {
    let in_rung = |keys: &toml::Table| keys.contains_key("precision");
    let rungs = bench.pipeline.rungs.iter().flat_map(|r| &r.overrides);
    in_rung(&entry.settings) || rungs.filter(|(id, _)| *id == entry.id).any(|(_, keys)| in_rung(keys))
}

/// A device's best setting in another precision, where it beats what was chosen and comes to the same results.
fn other_precision(
    entry: &StageEntry,
    bench: &Bench<'_>,
    own: &Tried,
    chosen: &Tried,
    words: &mut String,
) -> Result<Option<Tried>, Failure> {
    let Ok(device) = own.device.parse::<Device>() else { return Ok(None) };
    let mut faster: Option<Tried> = None;
    for &precision in device.precisions().iter().filter(|p| **p != own.precision) {
        let tried = match measure(entry, bench, &own.device, precision, (own.threads, own.slots)) {
            Ok(Some(tried)) => tried,
            Ok(None) => continue,
            Err(error) => {
                let _ = writeln!(words, "  {precision} on {} cannot be had: {error}", own.device);
                continue;
            }
        };
        tried.say(words);
        if !tried.beats(faster.as_ref().unwrap_or(chosen)) {
            let _ = writeln!(words, "    {precision} is not faster than what there is without it");
            continue;
        }
        if trusted(entry, bench, chosen, &tried, words)? {
            faster = Some(tried);
        }
    }
    Ok(faster)
}

/// Compares the results of a faster precision with those of what was chosen, in every way in which the file's rungs run
/// the stage, and says what it saw.
fn trusted(
    entry: &StageEntry,
    bench: &Bench<'_>,
    chosen: &Tried,
    faster: &Tried,
    words: &mut String,
) -> Result<bool, Failure> {
    for (way, settings) in bench.ways(entry) {
        let of = |tried: &Tried| bench.results(entry, &settings, &tried.keys());
        let Some(usage) = bench.picture_use(entry, &settings)? else { return Ok(false) };
        let results = of(chosen).and_then(|ours| Ok((ours, of(faster)?)));
        let (ours, theirs) = results.map_err(|e| unusable(entry, &e))?;
        let seen = agreement::agreement(&ours, &theirs, usage.threshold);
        let (good, what) = verdict(seen, faster.precision, chosen.precision);
        let at = way.map_or(String::new(), |rung| format!(" at rung `{rung}`"));
        let _ = writeln!(words, "    compared on {}{at}: {what}", bench.pictures.name());
        if !good {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether so much agreement is enough, and why, in words.
fn verdict(seen: Agreement, faster: Precision, own: Precision) -> (bool, String) {
    match seen {
        Agreement::Boxes { of, .. } if of < FEWEST => (
            false,
            format!(
                "{}, too few to judge by ({FEWEST} are needed): {faster} is left; `--pictures DIR` takes pictures of \
                 yours",
                if of == 1 { "1 box".to_owned() } else { format!("{of} boxes") }
            ),
        ),
        Agreement::Boxes { same, of } => {
            let share = same as f64 / of as f64;
            let good = share >= SAME;
            let what = format!(
                "{:.1} % of {of} boxes are the same in {faster} as in {own} (class, score within {SCORES}, overlap of \
                 {OVERLAP}); {:.0} % are asked for: {faster} is {}",
                share * 100.0,
                SAME * 100.0,
                if good { "taken" } else { "left" }
            );
            (good, what)
        }
        Agreement::Outputs { apart } => {
            let good = apart <= APART;
            let what = format!(
                "in the worst channel outputs in {faster} are {:.2} % away from those in {own}; {:.0} % are allowed: \
                 {faster} is {}",
                apart * 100.0,
                APART * 100.0,
                if good { "taken" } else { "left" }
            );
            (good, what)
        }
    }
}

/// Threads of a session and sessions: all cores in one, spread over several, and one that leaves cores to others.
fn shapes(cores: usize) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    let mut threads = cores.max(1);
    loop {
        out.push((threads, 1));
        if cores / threads > 1 {
            out.push((threads, cores / threads));
        }
        if threads == 1 {
            return out;
        }
        threads /= 2;
    }
}

/// Leaves out the batches that do not serve more streams: each size costs memory.
fn smallest_batches(best: &mut Tried, bench: &Bench<'_>) {
    while best.measured.spans.len() > 1 {
        let mut smaller = best.measured.clone();
        smaller.spans.pop();
        let capacity = admission::capacity(&[alone(&smaller)], best.slots, &bench.feed, 0);
        if (capacity as f64) * BETTER < best.capacity as f64 {
            return;
        }
        best.measured = smaller;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_given_to_one_session_or_spread_over_several() {
        assert_eq!(shapes(1), [(1, 1)]);
        assert_eq!(shapes(2), [(2, 1), (1, 1), (1, 2)]);
        assert_eq!(shapes(4), [(4, 1), (2, 1), (2, 2), (1, 1), (1, 4)]);
    }

    #[test]
    fn another_precision_is_taken_only_where_enough_was_compared_and_agreed() {
        let boxes = |same, of| verdict(Agreement::Boxes { same, of }, Precision::Bf16, Precision::Fp32);
        assert!(boxes(98, 100).0 && boxes(98, 100).1.contains("98.0 % of 100 boxes"));
        assert!(!boxes(97, 100).0 && boxes(97, 100).1.ends_with("bf16 is left"));
        assert!(!boxes(99, 99).0 && boxes(99, 99).1.contains("--pictures"));
        let outputs = |apart| verdict(Agreement::Outputs { apart }, Precision::Bf16, Precision::Fp32);
        assert!(outputs(0.004).0 && outputs(0.004).1.contains("0.40 %"));
        assert!(!outputs(0.02).0 && !outputs(f64::INFINITY).0);
    }
}
