//! CLEAR MOT and identity metrics, computed as py-motmetrics computes them.
//!
//! K. Bernardin and R. Stiefelhagen, "Evaluating multiple object tracking performance: the CLEAR MOT metrics", 2008;
//! E. Ristani et al., "Performance measures and a data set for multi-target, multi-camera tracking", 2016.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use framegate::stage::track::assignment::{Assignment, Edge};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// One row of a MOTChallenge file.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub frame: u32,
    pub id: i64,
    /// x, y, width, height in pixels.
    pub rect: [f64; 4],
    /// Confidence, or the flag of a row of ground truth.
    pub score: f64,
}

/// Reads a MOTChallenge file.
pub fn read(path: &Path) -> Vec<Row> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines()
        .filter(|l| !l.trim().is_empty())
        .map(|line| {
            let f: Vec<f64> =
                line.split(',').map(|v| v.trim().parse().unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
            Row { frame: f[0] as u32, id: f[1] as i64, rect: [f[2], f[3], f[4], f[5]], score: f[6] }
        })
        .collect()
}

/// Counts of one sequence, or of several added up.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    pub objects: usize,
    pub predictions: usize,
    pub matches: usize,
    pub false_positives: usize,
    pub misses: usize,
    pub switches: usize,
    pub fragmentations: usize,
    pub unique_objects: usize,
    pub mostly_tracked: usize,
    pub partially_tracked: usize,
    pub mostly_lost: usize,
    /// Identity true positives.
    pub idtp: usize,
    /// Sum of 1 − IoU over matches.
    pub distance: f64,
}

impl Counts {
    pub fn mota(&self) -> f64 {
        1.0 - (self.misses + self.false_positives + self.switches) as f64 / self.objects as f64
    }
    pub fn motp(&self) -> f64 {
        self.distance / self.matches as f64
    }
    pub fn precision(&self) -> f64 {
        self.matches as f64 / (self.matches + self.false_positives) as f64
    }
    pub fn recall(&self) -> f64 {
        self.matches as f64 / self.objects as f64
    }
    pub fn idf1(&self) -> f64 {
        2.0 * self.idtp as f64 / (self.objects + self.predictions) as f64
    }
    pub fn idp(&self) -> f64 {
        self.idtp as f64 / self.predictions as f64
    }
    pub fn idr(&self) -> f64 {
        self.idtp as f64 / self.objects as f64
    }
}

impl std::ops::Add for Counts {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        Self {
            objects: self.objects + o.objects,
            predictions: self.predictions + o.predictions,
            matches: self.matches + o.matches,
            false_positives: self.false_positives + o.false_positives,
            misses: self.misses + o.misses,
            switches: self.switches + o.switches,
            fragmentations: self.fragmentations + o.fragmentations,
            unique_objects: self.unique_objects + o.unique_objects,
            mostly_tracked: self.mostly_tracked + o.mostly_tracked,
            partially_tracked: self.partially_tracked + o.partially_tracked,
            mostly_lost: self.mostly_lost + o.mostly_lost,
            idtp: self.idtp + o.idtp,
            distance: self.distance + o.distance,
        }
    }
}

/// 1 − IoU of two boxes given by corner and size.
fn distance(a: [f64; 4], b: [f64; 4]) -> f64 {
    let w = ((a[0] + a[2]).min(b[0] + b[2]) - a[0].max(b[0])).max(0.0);
    let h = ((a[1] + a[3]).min(b[1] + b[3]) - a[1].max(b[1])).max(0.0);
    let i = w * h;
    1.0 - if i > 0.0 { i / (a[2] * a[3] + b[2] * b[3] - i) } else { 0.0 }
}

/// Scores hypotheses against ground truth. A pair further apart than 0.5 (1 − IoU) is no pair.
pub fn score(truth: &[Row], hypotheses: &[Row]) -> Counts {
    const FARTHEST: f64 = 0.5;
    let mut frames: BTreeMap<u32, (Vec<Row>, Vec<Row>)> = BTreeMap::new();
    for r in truth {
        frames.entry(r.frame).or_default().0.push(*r);
    }
    for r in hypotheses {
        frames.entry(r.frame).or_default().1.push(*r);
    }
    let mut n = Counts { objects: truth.len(), predictions: hypotheses.len(), ..Counts::default() };
    let mut last: HashMap<i64, i64> = HashMap::new();
    let mut together: BTreeMap<i64, BTreeMap<i64, usize>> = BTreeMap::new();
    // Per object, whether it was found in each frame it is in.
    let mut found: BTreeMap<i64, Vec<bool>> = BTreeMap::new();
    let mut solver = Assignment::default();
    for (objects, guesses) in frames.values() {
        let dist = |o: usize, g: usize| Some(distance(objects[o].rect, guesses[g].rect)).filter(|&d| d <= FARTHEST);
        let mut guess_of: Vec<Option<usize>> = vec![None; objects.len()];
        let mut taken = vec![false; guesses.len()];
        // Last matches stay as long as they are near enough.
        for (o, object) in objects.iter().enumerate() {
            let Some(&id) = last.get(&object.id) else { continue };
            let Some(g) = (0..guesses.len()).find(|&g| guesses[g].id == id && !taken[g]) else { continue };
            if dist(o, g).is_some() {
                guess_of[o] = Some(g);
                taken[g] = true;
            }
        }
        let mut edges = Vec::new();
        for o in (0..objects.len()).filter(|&o| guess_of[o].is_none()) {
            for g in (0..guesses.len()).filter(|&g| !taken[g]) {
                edges.extend(dist(o, g).map(|cost| Edge { row: o as u32, col: g as u32, cost }));
            }
        }
        // As many pairs as possible, then the nearest.
        solver.solve(objects.len(), guesses.len(), &edges, 1e6);
        for (o, object) in objects.iter().enumerate() {
            if guess_of[o].is_none() {
                guess_of[o] = solver.col_of(o);
                if let Some(g) = guess_of[o] {
                    n.switches += usize::from(last.get(&object.id).is_some_and(|&h| h != guesses[g].id));
                }
            }
            found.entry(object.id).or_default().push(guess_of[o].is_some());
            match guess_of[o] {
                Some(g) => {
                    last.insert(object.id, guesses[g].id);
                    n.matches += 1;
                    n.distance += distance(object.rect, guesses[g].rect);
                }
                None => n.misses += 1,
            }
            for g in (0..guesses.len()).filter(|&g| dist(o, g).is_some()) {
                *together.entry(object.id).or_default().entry(guesses[g].id).or_default() += 1;
            }
        }
        n.false_positives += guesses.len() - guess_of.iter().flatten().count();
    }
    n.unique_objects = found.len();
    for seen in found.values() {
        match seen.iter().filter(|&&s| s).count() as f64 / seen.len() as f64 {
            r if r >= 0.8 => n.mostly_tracked += 1,
            r if r < 0.2 => n.mostly_lost += 1,
            _ => n.partially_tracked += 1,
        }
        // A fragmentation is a gap between two times the object was found.
        let (first, end) = (seen.iter().position(|&s| s), seen.iter().rposition(|&s| s));
        if let (Some(first), Some(end)) = (first, end) {
            n.fragmentations += seen[first..=end].windows(2).filter(|w| w[0] && !w[1]).count();
        }
    }
    n.idtp = identity_true_positives(&together);
    n
}

/// The most frames that a one-to-one assignment of objects to hypotheses can share.
fn identity_true_positives(together: &BTreeMap<i64, BTreeMap<i64, usize>>) -> usize {
    let mut columns: Vec<i64> = together.values().flat_map(|m| m.keys().copied()).collect();
    columns.sort_unstable();
    columns.dedup();
    let most = together.values().flat_map(|m| m.values().copied()).max().unwrap_or(0) as f64;
    let mut edges = Vec::new();
    for (row, shared) in together.values().enumerate() {
        for (id, &count) in shared {
            let Ok(col) = columns.binary_search(id) else { continue };
            edges.push(Edge { row: row as u32, col: col as u32, cost: most - count as f64 });
        }
    }
    let mut solver = Assignment::default();
    solver.solve(together.len(), columns.len(), &edges, most);
    let shared = |(row, m): (usize, &BTreeMap<i64, usize>)| {
        solver.col_of(row).and_then(|c| m.get(&columns[c])).copied().unwrap_or(0)
    };
    together.values().enumerate().map(shared).sum()
}
