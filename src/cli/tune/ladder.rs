//! The ladder that the streams need: smaller inputs first, then sparser inference, no more rungs than help.

use super::agreement::{FEWEST, found_again};
use super::settings::Tried;
use super::{BETTER, Bench, Failure, unusable};
use framegate::config::StageEntry;
use framegate::engine::measure::{Measured, MeasuredStage};
use framegate::frame::clock;
use framegate::infer::input::PictureInput;
use framegate::schedule::RungPlan;
use std::fmt::Write as _;

/// Input sizes that are tried, as shares of the stage's own.
const SHARES: [(usize, f64); 2] = [(75, 0.75), (50, 0.5)];
/// Sides are multiples of this where the model's card does not say otherwise: what most detectors shrink pictures by.
const MULTIPLE: usize = 32;
/// Sides are no smaller.
const SMALLEST: usize = 64;
/// A smaller input that finds a smaller share of what the stage's own finds is of no use.
const USEFUL: f64 = 0.5;
/// No rung infers fewer frames than one in so many.
const SPARSEST: u32 = 6;
/// Most rungs of a ladder.
const MOST: usize = 4;

/// A smaller input of a stage.
pub(super) struct Smaller {
    /// Per cent of the stage's own.
    percent: usize,
    /// Width and height.
    pub(super) size: (usize, usize),
    /// What it costs.
    pub(super) measured: Measured,
}

/// What one stage's input can be beside what it is.
pub(super) enum Inputs {
    /// Any size: these are smaller, cheaper and of use.
    Any(Vec<Smaller>),
    /// The model fixes it.
    Fixed(usize, usize),
    /// Other sizes would change what comes out.
    Shape,
}

/// Width and height of a share of the input for the pipeline's pictures.
fn shrunk(input: &PictureInput, picture: (u32, u32), share: f64) -> (usize, usize) {
    let (width, height) = match &input.per_picture {
        Some(per) => per.size(picture),
        None => (input.spec.width, input.spec.height),
    };
    let step = input.multiple.filter(|m| *m > 1).unwrap_or(MULTIPLE);
    let side = |v: usize| {
        let steps = (v as f64 * share / step as f64).round() as usize;
        (steps * step).max(SMALLEST.next_multiple_of(step)).min(v.next_multiple_of(step))
    };
    (side(width), side(height))
}

/// A stage's settings with another input.
fn sized(entry: &StageEntry, (width, height): (usize, usize)) -> toml::Table {
    let mut settings = entry.settings.clone();
    let sides = [width, height].map(|v| toml::Value::Integer(v as i64));
    settings.insert("input".into(), toml::Value::Array(sides.to_vec()));
    settings
}

/// Tries smaller inputs of a stage with its chosen setting, and says in words what came of it.
pub(super) fn smaller_inputs(
    entry: &StageEntry,
    bench: &Bench<'_>,
    best: &Tried,
    words: &mut String,
) -> Result<Inputs, Failure> {
    let Some(usage) = bench.picture_use(entry, &entry.settings)? else { return Ok(Inputs::Shape) };
    let input = &usage.input;
    if !input.any_size {
        return Ok(Inputs::Fixed(input.spec.width, input.spec.height));
    }
    let Some(threshold) = usage.threshold else { return Ok(Inputs::Shape) };
    let keys = best.keys();
    let picture = bench.picture_size();
    let own = shrunk(input, picture, 1.0);
    let ours = bench.results(entry, &entry.settings, &keys).map_err(|e| unusable(entry, &e))?;
    // A size that follows the picture is measured at its largest, which a share of the usual one has to do with little.
    let usual = match &input.per_picture {
        Some(_) => bench.measure(entry, &sized(entry, own), &keys).map_err(|e| unusable(entry, &e))?,
        None => None,
    };
    let mut before = usual.unwrap_or_else(|| best.measured.clone());
    let mut out = Vec::new();
    let _ = writeln!(words, "  smaller inputs than {}x{}:", own.0, own.1);
    for (percent, share) in SHARES {
        let size = shrunk(input, picture, share);
        if size == own || out.last().is_some_and(|s: &Smaller| s.size == size) {
            continue;
        }
        let (settings, (w, h)) = (sized(entry, size), size);
        let tried = bench.measure(entry, &settings, &keys);
        let tried = tried.and_then(|m| Ok((m, bench.results(entry, &settings, &keys)?)));
        let (mut measured, theirs) = match tried {
            Ok((Some(measured), theirs)) => (measured, theirs),
            Ok((None, _)) => continue,
            // A model may say that it takes any size and not mean it.
            Err(error) => {
                let _ = writeln!(words, "    {w}x{h} cannot be had: {error}");
                continue;
            }
        };
        measured.spans.truncate(best.measured.spans.len().max(1));
        let (found, of) = found_again(&ours, &theirs, threshold);
        let quality = match of {
            0..FEWEST => format!(
                "what it finds cannot be told from {} (`--pictures DIR` takes pictures of yours)",
                bench.pictures.name()
            ),
            _ => {
                let share = found as f64 / of as f64;
                format!("finds {:.0} % of what {}x{} finds on {}", share * 100.0, own.0, own.1, bench.pictures.name())
            }
        };
        let useless = of >= FEWEST && (found as f64) < USEFUL * of as f64;
        let dear = per_frame(&measured) * BETTER >= per_frame(&before);
        let left = match (useless, dear) {
            (true, _) => "; left: it finds too little",
            (_, true) => "; left: it is not cheaper",
            _ => "",
        };
        let span = measured.spans.first().map_or(0, |s| s.1);
        let _ = writeln!(words, "    {w}x{h}: {:.2} ms, {quality}{left}", clock::millis(span));
        if left.is_empty() {
            before = measured.clone();
            out.push(Smaller { percent, size, measured });
        }
    }
    Ok(Inputs::Any(out))
}

/// What a frame costs in the batch that is kindest to it, nanoseconds.
fn per_frame(measured: &Measured) -> f64 {
    measured.spans.iter().map(|&(n, t)| t as f64 / n.max(1) as f64).fold(f64::INFINITY, f64::min)
}

/// One rung of a ladder that is made here.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    /// Its name.
    pub(super) name: String,
    /// For each stage which of its ways it runs, 0 for its own input.
    pub(super) ways: Vec<usize>,
    /// One frame in so many is inferred.
    pub(super) every: u32,
    /// Streams that fit at it.
    pub(super) capacity: usize,
}

impl Step {
    /// The name of the rung that changes nothing.
    pub(super) const FULL: &'static str = "full";
}

/// The rungs of every smaller input: for each stage its way, and the name. `sizes` has the percentages of each stage's
/// ways beyond its own.
fn levels(sizes: &[Vec<usize>]) -> Vec<(String, Vec<usize>)> {
    let mut ways = vec![0; sizes.len()];
    let mut out = Vec::new();
    for (percent, _) in SHARES {
        let before = ways.clone();
        for (way, own) in ways.iter_mut().zip(sizes) {
            if let Some(at) = own.iter().position(|p| *p == percent) {
                *way = at + 1;
            }
        }
        if ways != before {
            out.push((format!("input-{percent}"), ways.clone()));
        }
    }
    out
}

/// Builds the ladder: best first, each rung with more streams than the one above it. A rung at which not even one stream
/// is on time is none, so that what is left may be nothing. `capacity` says how many streams fit.
pub(super) fn climb(
    sizes: &[Vec<usize>],
    sparse: bool,
    streams: usize,
    capacity: &dyn Fn(&[usize], u32) -> usize,
) -> Vec<Step> {
    let step = |name: String, ways: &[usize], every| {
        let capacity = capacity(ways, every);
        Step { name, ways: ways.to_vec(), every, capacity }
    };
    let mut steps: Vec<Step> = Vec::new();
    let full = (Step::FULL.to_owned(), vec![0; sizes.len()]);
    for (name, ways) in std::iter::once(full).chain(levels(sizes)) {
        if steps.last().is_some_and(|s| s.capacity >= streams) {
            return steps;
        }
        let next = step(name, &ways, 1);
        if next.capacity > steps.last().map_or(0, |s| s.capacity) {
            steps.push(next);
        }
    }
    let Some(last) = steps.last().cloned() else { return steps };
    if last.capacity >= streams || !sparse {
        return steps;
    }
    let sparser: Vec<Step> = (2..=SPARSEST).map(|every| step(format!("every-{every}"), &last.ways, every)).collect();
    // The least sparse that is enough; where none is, the sparsest.
    let Some(end) = sparser.iter().position(|s| s.capacity >= streams).or(sparser.len().checked_sub(1)) else {
        return steps;
    };
    let room = MOST.saturating_sub(steps.len()).max(1);
    for n in 1..=room {
        // Spread over the way from every frame to the last rung.
        let every = 1 + (end + 1) * n / room;
        let Some(next) = every.checked_sub(2).and_then(|at| sparser.get(at)) else { continue };
        if steps.last().is_some_and(|s| next.capacity > s.capacity) {
            steps.push(next.clone());
        }
    }
    steps
}

/// How often a stage infers at a rung: what runs on crops follows the stage that makes them.
pub(super) fn every_of(stage: &MeasuredStage, every: u32) -> u32 {
    if stage.crops.is_some() { 1 } else { every }
}

/// The ladder for measured stages; the stages get the ways and the plans that it uses.
pub(super) fn make(
    stages: &mut [MeasuredStage],
    inputs: &[Inputs],
    sparse: bool,
    streams: usize,
    capacity: &dyn Fn(&[MeasuredStage]) -> usize,
) -> Vec<Step> {
    let mut sizes = Vec::new();
    for (stage, inputs) in stages.iter_mut().zip(inputs) {
        let smaller = match inputs {
            Inputs::Any(smaller) => &smaller[..],
            Inputs::Fixed(..) | Inputs::Shape => &[],
        };
        stage.ways.extend(smaller.iter().map(|s| s.measured.clone()));
        sizes.push(smaller.iter().map(|s| s.percent).collect::<Vec<_>>());
    }
    let at = |ways: &[usize], every: u32| -> Vec<MeasuredStage> {
        let plan = |(stage, way): (&MeasuredStage, &usize)| MeasuredStage {
            rungs: vec![RungPlan { variant: Some(*way), every: every_of(stage, every) }],
            ..stage.clone()
        };
        stages.iter().zip(ways).map(plan).collect()
    };
    let steps = climb(&sizes, sparse, streams, &|ways, every| capacity(&at(ways, every)));
    for (n, stage) in stages.iter_mut().enumerate() {
        if !steps.is_empty() {
            let plan = |s: &Step| RungPlan { variant: Some(s.ways[n]), every: every_of(stage, s.every) };
            stage.rungs = steps.iter().map(plan).collect();
        }
        // Ways of which no rung makes use would only show in what is written.
        stage.ways.truncate(1 + steps.iter().map(|s| s.ways[n]).max().unwrap_or(0));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of a stage of such ways takes so many of the device's hundred parts.
    fn ladder(costs: &[f64], sizes: Vec<usize>, sparse: bool, streams: usize) -> Vec<(String, usize)> {
        let capacity = |ways: &[usize], every: u32| (100.0 * f64::from(every) / costs[ways[0]]) as usize;
        climb(&[sizes], sparse, streams, &capacity).into_iter().map(|s| (s.name, s.capacity)).collect()
    }

    fn names(ladder: &[(String, usize)]) -> Vec<&str> {
        ladder.iter().map(|(name, _)| &**name).collect()
    }

    #[test]
    fn smaller_inputs_come_before_sparser_inference() {
        let costs = [50.0, 30.0, 15.0];
        assert_eq!(names(&ladder(&costs, vec![75, 50], true, 2)), ["full"]);
        assert_eq!(names(&ladder(&costs, vec![75, 50], true, 3)), ["full", "input-75"]);
        assert_eq!(names(&ladder(&costs, vec![75, 50], true, 6)), ["full", "input-75", "input-50"]);
        let all = ladder(&costs, vec![75, 50], true, 21);
        assert_eq!(names(&all), ["full", "input-75", "input-50", "every-4"]);
        assert_eq!(all[3].1, 26);
    }

    #[test]
    fn a_ladder_of_sparser_inference_is_short_and_ends_where_the_streams_fit() {
        assert_eq!(names(&ladder(&[50.0], vec![], true, 4)), ["full", "every-2"]);
        assert_eq!(names(&ladder(&[50.0], vec![], true, 10)), ["full", "every-2", "every-3", "every-5"]);
        // Beyond what the sparsest can do, that is all there is.
        assert_eq!(names(&ladder(&[50.0], vec![], true, 99)), ["full", "every-2", "every-4", "every-6"]);
        assert_eq!(names(&ladder(&[50.0], vec![], false, 99)), ["full"]);
    }

    #[test]
    fn rungs_that_serve_no_more_are_left_out() {
        // A size that gives nothing, and a stage's own at which not even one stream is on time.
        assert_eq!(names(&ladder(&[50.0, 45.0, 20.0], vec![75, 50], true, 5)), ["full", "input-50"]);
        assert_eq!(names(&ladder(&[150.0, 80.0, 30.0], vec![75, 50], true, 3)), ["input-75", "input-50"]);
        assert_eq!(names(&ladder(&[150.0, 120.0], vec![50], true, 3)), [""; 0]);
    }

    #[test]
    fn stages_shrink_together() {
        let both = levels(&[vec![75, 50], vec![50]]);
        assert_eq!(both, [("input-75".to_owned(), vec![1, 0]), ("input-50".to_owned(), vec![2, 1])]);
        assert!(levels(&[vec![], vec![]]).is_empty());
    }
}
