//! Non-maximum suppression: of boxes that overlap too much, the one with the best score stays.
//!
//! Greedy and exact: boxes are taken best first, and one is kept unless a kept box of its class overlaps it by more
//! than the limit. Kept boxes are looked up in a grid of cells, so that thousands of boxes all over the picture are
//! compared with their neighbours only.

use super::decode::Candidate;

/// Overlap of two boxes: intersection over union, 0 where either is empty.
pub fn iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let w = a[2].min(b[2]) - a[0].max(b[0]);
    let h = a[3].min(b[3]) - a[1].max(b[1]);
    if w <= 0.0 || h <= 0.0 {
        return 0.0;
    }
    let area = |r: &[f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let both = w * h;
    both / (area(a) + area(b) - both)
}

/// Cells per axis of the look-up grid.
const CELLS: usize = 16;
/// Below this many boxes the plain comparison with all kept ones is faster than filling a grid.
const GRID_FROM: usize = 64;

/// Work space, kept from picture to picture.
#[derive(Debug, Default)]
pub struct Nms {
    cells: Vec<Vec<u32>>,
    used: Vec<usize>,
}

impl Nms {
    /// Thins out `boxes` in place: sorted by falling score (ties: smaller class, then position), at most `max` of them.
    /// Boxes of different classes do not suppress each other unless `agnostic`.
    pub fn run(&mut self, boxes: &mut Vec<Candidate>, limit: f32, agnostic: bool, max: usize) {
        boxes.sort_unstable_by(|a, b| {
            b.score.total_cmp(&a.score).then(a.class.cmp(&b.class)).then_with(|| {
                a.bbox
                    .iter()
                    .zip(&b.bbox)
                    .map(|(x, y)| x.total_cmp(y))
                    .find(|o| o.is_ne())
                    .unwrap_or(std::cmp::Ordering::Equal)
            })
        });
        let clash = |a: &Candidate, b: &Candidate| (agnostic || a.class == b.class) && iou(&a.bbox, &b.bbox) > limit;
        let mut kept = 0;
        if boxes.len() < GRID_FROM {
            for i in 0..boxes.len() {
                if kept == max {
                    break;
                }
                let b = boxes[i];
                if !boxes[..kept].iter().any(|k| clash(k, &b)) {
                    boxes[kept] = b;
                    kept += 1;
                }
            }
            boxes.truncate(kept);
            return;
        }
        let grid = Grid::around(boxes);
        self.cells.resize_with(CELLS * CELLS, Vec::new);
        for c in self.used.drain(..) {
            self.cells[c].clear();
        }
        for i in 0..boxes.len() {
            if kept == max {
                break;
            }
            let b = boxes[i];
            // Two boxes that overlap share a cell, so looking into all of the box's own cells misses none.
            let (xs, ys) = grid.range(&b.bbox);
            let covered = ys.clone().flat_map(|y| xs.clone().map(move |x| y * CELLS + x));
            let free = covered.clone().all(|c| !self.cells[c].iter().any(|&k| clash(&boxes[k as usize], &b)));
            if free {
                for c in covered {
                    if self.cells[c].is_empty() {
                        self.used.push(c);
                    }
                    self.cells[c].push(kept as u32);
                }
                boxes[kept] = b;
                kept += 1;
            }
        }
        boxes.truncate(kept);
    }
}

struct Grid {
    origin: [f32; 2],
    per_pixel: [f32; 2],
}

impl Grid {
    fn around(boxes: &[Candidate]) -> Self {
        let mut all = [f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY];
        for b in boxes {
            all = [all[0].min(b.bbox[0]), all[1].min(b.bbox[1]), all[2].max(b.bbox[2]), all[3].max(b.bbox[3])];
        }
        let per = |a: f32, b: f32| if b > a { CELLS as f32 / (b - a) } else { 0.0 };
        Self { origin: [all[0], all[1]], per_pixel: [per(all[0], all[2]), per(all[1], all[3])] }
    }

    fn range(&self, b: &[f32; 4]) -> (std::ops::RangeInclusive<usize>, std::ops::RangeInclusive<usize>) {
        // A cast to usize saturates, and makes 0 of NaN.
        let cell = |v: f32, axis: usize| (((v - self.origin[axis]) * self.per_pixel[axis]) as usize).min(CELLS - 1);
        (cell(b[0], 0)..=cell(b[2], 0), cell(b[1], 1)..=cell(b[3], 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn brute(boxes: &[Candidate], limit: f32, agnostic: bool) -> Vec<Candidate> {
        let mut order: Vec<usize> = (0..boxes.len()).collect();
        order.sort_by(|&a, &b| {
            let (a, b) = (&boxes[a], &boxes[b]);
            b.score.total_cmp(&a.score).then(a.class.cmp(&b.class)).then(a.bbox.partial_cmp(&b.bbox).unwrap())
        });
        let mut kept: Vec<Candidate> = Vec::new();
        for i in order {
            let b = boxes[i];
            if kept.iter().all(|k| !((agnostic || k.class == b.class) && iou(&k.bbox, &b.bbox) > limit)) {
                kept.push(b);
            }
        }
        kept
    }

    fn candidates(max: usize) -> impl Strategy<Value = Vec<Candidate>> {
        let one = (0f32..600.0, 0f32..400.0, 1f32..120.0, 1f32..120.0, 0.0f32..1.0, 0u32..4);
        prop::collection::vec(one, 0..max).prop_map(|all| {
            let make = |(i, (x, y, w, h, score, class)): (usize, (f32, f32, f32, f32, f32, u32))| Candidate {
                bbox: [x, y, x + w, y + h],
                score,
                class,
                points: i as u32,
            };
            all.into_iter().enumerate().map(make).collect()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn gives_what_the_plain_definition_gives(boxes in candidates(400), limit in 0.1f32..0.9, agnostic: bool) {
            let want = brute(&boxes, limit, agnostic);
            let mut got = boxes.clone();
            let mut nms = Nms::default();
            nms.run(&mut got, limit, agnostic, usize::MAX);
            prop_assert_eq!(&got, &want);
            // The work space carries nothing over.
            let mut again = boxes;
            nms.run(&mut again, limit, agnostic, 5);
            prop_assert_eq!(&again[..], &want[..want.len().min(5)]);
        }
    }

    #[test]
    fn thousands_of_boxes_all_over_the_picture_are_thinned_out_exactly() {
        let boxes: Vec<Candidate> = (0..6000u32)
            .map(|i| {
                let (x, y) = ((i * 7919 % 1900) as f32, (i * 104_729 % 1060) as f32);
                let score = (i * 31 % 997) as f32 / 997.0;
                Candidate { bbox: [x, y, x + 24.0, y + 40.0], score, class: i % 3, points: i }
            })
            .collect();
        let want = brute(&boxes, 0.45, false);
        let mut got = boxes;
        Nms::default().run(&mut got, 0.45, false, usize::MAX);
        assert_eq!(got, want);
    }

    #[test]
    fn odd_boxes_do_no_harm() {
        let b = |x1, x2, score| Candidate { bbox: [x1, 0.0, x2, 10.0], score, class: 0, points: 0 };
        let mut all = vec![b(0.0, 10.0, 0.5), b(5.0, 5.0, 0.4), b(0.0, 10.0, 0.5), b(-1e30, 1e30, 0.3)];
        all.extend(vec![b(3.0, 3.0, 0.1); 100]);
        Nms::default().run(&mut all, 0.5, false, 10);
        assert_eq!(all[0].score, 0.5);
        assert!(all.len() <= 10);
    }
}
