//! Where the boxes go: columns by distance from the sources, order within a column by the neighbours' places.

use super::Drawing;

/// Width of a character in a box, pixels.
const CHARACTER: f64 = 7.3;
/// Height of a line in a box, pixels.
pub(super) const LINE: f64 = 17.0;
/// Between text and border, pixels.
pub(super) const PADDING: f64 = 10.0;
const COLUMN_GAP: f64 = 56.0;
const ROW_GAP: f64 = 22.0;

/// A placed box, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Rectangle {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Rectangle {
    pub(super) fn middle(&self) -> f64 {
        self.y + self.height / 2.0
    }
}

/// Places every box; the first column begins at 0, 0.
pub(super) fn place(drawing: &Drawing) -> Vec<Rectangle> {
    let mut boxes: Vec<Rectangle> = drawing
        .nodes
        .iter()
        .map(|node| {
            let longest = node.lines.iter().chain([&node.title]).map(|l| l.chars().count()).max().unwrap_or(0);
            Rectangle {
                width: longest as f64 * CHARACTER + 2.0 * PADDING,
                height: (node.lines.len() + 1) as f64 * LINE + 2.0 * PADDING,
                ..Rectangle::default()
            }
        })
        .collect();
    let columns = columns(drawing);
    let tallest = columns.iter().map(|c| height(c, &boxes)).fold(0.0, f64::max);
    let mut x = 0.0;
    for column in &columns {
        let mut y = (tallest - height(column, &boxes)) / 2.0;
        let width = column.iter().map(|&n| boxes[n].width).fold(0.0, f64::max);
        for &n in column {
            boxes[n].x = x;
            boxes[n].y = y;
            boxes[n].width = width;
            y += boxes[n].height + ROW_GAP;
        }
        x += width + COLUMN_GAP;
    }
    boxes
}

fn height(column: &[usize], boxes: &[Rectangle]) -> f64 {
    column.iter().map(|&n| boxes[n].height).sum::<f64>() + ROW_GAP * column.len().saturating_sub(1) as f64
}

/// Boxes by column, each column ordered so that few arrows cross.
fn columns(drawing: &Drawing) -> Vec<Vec<usize>> {
    let mut depth = vec![0usize; drawing.nodes.len()];
    // The graph has no circles, so this settles within as many rounds as there are boxes.
    for _ in 0..drawing.nodes.len() {
        for &(from, to) in &drawing.edges {
            depth[to] = depth[to].max(depth[from] + 1);
        }
    }
    let mut columns = vec![Vec::new(); depth.iter().max().map_or(0, |d| d + 1)];
    for (node, d) in depth.iter().enumerate() {
        columns[*d].push(node);
    }
    let mut rank = vec![0.0; drawing.nodes.len()];
    for column in &mut columns {
        let wanted = |node: usize| {
            let before: Vec<f64> =
                drawing.edges.iter().filter(|(_, to)| *to == node).map(|(from, _)| rank[*from]).collect();
            before.iter().sum::<f64>() / before.len().max(1) as f64
        };
        let mut keyed: Vec<(f64, usize)> = column.iter().map(|&n| (wanted(n), n)).collect();
        keyed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        *column = keyed.into_iter().map(|(_, n)| n).collect();
        let count = column.len() as f64;
        for (at, &node) in column.iter().enumerate() {
            rank[node] = (at as f64 + 0.5) / count;
        }
    }
    columns
}
