//! Minimum-cost assignment on a sparse bipartite graph.
//!
//! Shortest augmenting paths with potentials (R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for
//! dense and sparse linear assignment problems", Computing 38, 1987). Every row may stay alone at the price of a
//! limit, so that one good pair is never broken up for two bad ones; a path only ever touches the connected part of
//! the graph that its row belongs to, so that many objects far apart cost little.

/// A pair that may be assigned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge {
    /// Row index.
    pub row: u32,
    /// Column index.
    pub col: u32,
    /// Price of the pair, finite and not negative.
    pub cost: f64,
}

const NONE: u32 = u32::MAX;

/// The solver with its reusable memory.
#[derive(Debug, Default)]
pub struct Assignment {
    first: Vec<usize>,
    row_potential: Vec<f64>,
    col_potential: Vec<f64>,
    col_of: Vec<u32>,
    row_of: Vec<u32>,
    dist: Vec<f64>,
    reached_by: Vec<u32>,
    done: Vec<bool>,
    touched: Vec<u32>,
    visited: Vec<(u32, f64)>,
}

impl Assignment {
    /// Assigns rows to columns so that the sum over all rows is smallest, where an assigned row costs its edge and a
    /// row left alone costs `limit`. Edges of `limit` or more are never taken. Equal inputs give equal outputs.
    ///
    /// `edges` is ordered by row, with at most one edge for each pair. With a `limit` larger than the number of rows
    /// times the largest cost, as many rows as possible are assigned. The result is read with [`Self::col_of`].
    pub fn solve(&mut self, rows: usize, cols: usize, edges: &[Edge], limit: f64) {
        debug_assert!(edges.is_sorted_by_key(|e| e.row));
        self.first.clear();
        self.first.resize(rows + 1, 0);
        for e in edges {
            self.first[e.row as usize + 1] += 1;
        }
        for i in 0..rows {
            self.first[i + 1] += self.first[i];
        }
        refill(&mut self.row_potential, rows, 0.0);
        refill(&mut self.col_potential, cols, 0.0);
        refill(&mut self.col_of, rows, NONE);
        refill(&mut self.row_of, cols, NONE);
        refill(&mut self.dist, cols, f64::INFINITY);
        refill(&mut self.reached_by, cols, NONE);
        refill(&mut self.done, cols, false);
        for row in 0..rows {
            self.augment(row, edges, limit);
        }
    }

    /// The column of a row of the last [`Self::solve`].
    pub fn col_of(&self, row: usize) -> Option<usize> {
        self.col_of.get(row).filter(|&&c| c != NONE).map(|&c| c as usize)
    }

    /// Brings one more row in along the cheapest alternating path, which ends at a free column or leaves a row alone.
    fn augment(&mut self, row: usize, edges: &[Edge], limit: f64) {
        let of_row = |first: &[usize], r: usize| first[r]..first[r + 1];
        let usable = |e: &&Edge| e.cost < limit;
        self.row_potential[row] = edges[of_row(&self.first, row)]
            .iter()
            .filter(usable)
            .map(|e| e.cost - self.col_potential[e.col as usize])
            .fold(limit, f64::min);
        self.touched.clear();
        self.visited.clear();
        let (mut current, mut so_far) = (row, 0.0);
        // The cheapest way to end the path by leaving a row alone.
        let (mut alone, mut alone_dist) = (row, f64::INFINITY);
        let end = loop {
            self.visited.push((current as u32, so_far));
            let leave = so_far + (limit - self.row_potential[current]).max(0.0);
            if leave < alone_dist {
                (alone, alone_dist) = (current, leave);
            }
            for e in edges[of_row(&self.first, current)].iter().filter(usable) {
                let c = e.col as usize;
                if self.done[c] {
                    continue;
                }
                let d = so_far + (e.cost - self.row_potential[current] - self.col_potential[c]).max(0.0);
                if self.dist[c] == f64::INFINITY {
                    self.touched.push(e.col);
                }
                if d < self.dist[c] {
                    self.dist[c] = d;
                    self.reached_by[c] = current as u32;
                }
            }
            let nearest = self
                .touched
                .iter()
                .map(|&c| c as usize)
                .filter(|&c| !self.done[c])
                .min_by(|&a, &b| self.dist[a].total_cmp(&self.dist[b]).then(a.cmp(&b)));
            match nearest {
                Some(c) if self.dist[c] <= alone_dist => {
                    so_far = self.dist[c];
                    if self.row_of[c] == NONE {
                        break Some(c);
                    }
                    self.done[c] = true;
                    current = self.row_of[c] as usize;
                }
                _ => {
                    so_far = alone_dist;
                    break None;
                }
            }
        };
        for &(r, d) in &self.visited {
            self.row_potential[r as usize] += so_far - d;
        }
        for &c in &self.touched {
            let c = c as usize;
            if self.done[c] {
                self.col_potential[c] -= so_far - self.dist[c];
            }
        }
        // Flip the path: each column on it goes to the row that reached it, and that row's old column is next.
        let mut free = end.map_or_else(|| std::mem::replace(&mut self.col_of[alone], NONE), |c| c as u32);
        while free != NONE {
            let r = self.reached_by[free as usize];
            self.row_of[free as usize] = r;
            free = std::mem::replace(&mut self.col_of[r as usize], free);
        }
        for &c in &self.touched {
            let c = c as usize;
            self.dist[c] = f64::INFINITY;
            self.done[c] = false;
        }
    }
}

fn refill<T: Clone>(v: &mut Vec<T>, n: usize, value: T) {
    v.clear();
    v.resize(n, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The cheapest total by trying everything.
    fn brute_force(row: usize, cost: &[Vec<Option<f64>>], taken: &mut [bool], limit: f64) -> f64 {
        if row == cost.len() {
            return 0.0;
        }
        let mut best = limit + brute_force(row + 1, cost, taken, limit);
        for c in 0..taken.len() {
            if let (false, Some(k)) = (taken[c], cost[row][c].filter(|&k| k < limit)) {
                taken[c] = true;
                best = best.min(k + brute_force(row + 1, cost, taken, limit));
                taken[c] = false;
            }
        }
        best
    }

    fn matrix() -> impl Strategy<Value = Vec<Vec<Option<f64>>>> {
        (0usize..7, 1usize..7).prop_flat_map(|(r, c)| {
            // Coarse costs, so that ties are common.
            let cell = prop_oneof![2 => (0u32..8).prop_map(|k| Some(k as f64 / 4.0)), 1 => Just(None), 1 => (0.0..3.0).prop_map(Some)];
            prop::collection::vec(prop::collection::vec(cell, c), r)
        })
    }

    proptest! {
        #[test]
        fn the_total_is_as_small_as_brute_force_finds(cost in matrix(), limit in 0.1..10.0f64) {
            let cols = cost.first().map_or(0, Vec::len);
            let edges: Vec<Edge> = cost.iter().enumerate().flat_map(|(r, row)| row.iter().enumerate().filter_map(move |(c, k)| {
                k.map(|cost| Edge { row: r as u32, col: c as u32, cost })
            })).collect();
            let mut solver = Assignment::default();
            solver.solve(cost.len(), cols, &edges, limit);
            let mut taken = vec![false; cols];
            let mut total = 0.0;
            for (r, row) in cost.iter().enumerate() {
                match solver.col_of(r) {
                    None => total += limit,
                    Some(c) => {
                        prop_assert!(!std::mem::replace(&mut taken[c], true), "column {c} given twice");
                        let k = row[c].expect("only pairs that may be assigned");
                        prop_assert!(k < limit);
                        total += k;
                    }
                }
            }
            let best = brute_force(0, &cost, &mut vec![false; cols], limit);
            prop_assert!((total - best).abs() < 1e-9, "{total} against {best}");
        }
    }

    #[test]
    fn a_good_pair_is_not_broken_up_for_two_bad_ones() {
        let edge = |row, col, cost| Edge { row, col, cost };
        let mut solver = Assignment::default();
        solver.solve(2, 2, &[edge(0, 0, 0.05), edge(0, 1, 0.75), edge(1, 0, 0.75)], 0.8);
        assert_eq!((solver.col_of(0), solver.col_of(1)), (Some(0), None));
        solver.solve(2, 2, &[edge(0, 0, 0.05), edge(0, 1, 0.75), edge(1, 0, 0.75)], 100.0);
        assert_eq!((solver.col_of(0), solver.col_of(1)), (Some(1), Some(0)));
    }
}
