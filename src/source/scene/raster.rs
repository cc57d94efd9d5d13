//! Antialiased shapes, painted into I420 planes or, for the ground truth, into a map of who covers which pixel.

use super::PlanesMut;

/// A colour as limited-range BT.709 code values.
pub(super) type Yuv = [f32; 3];

/// The code values of an sRGB colour, 0–255 each.
pub(super) fn yuv(rgb: [f32; 3]) -> Yuv {
    let [r, g, b] = rgb.map(|v| v.clamp(0.0, 255.0) / 255.0);
    let y = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    [16.0 + 219.0 * y, 128.0 + 224.0 * (b - y) / 1.8556, 128.0 + 224.0 * (r - y) / 1.5748]
}

/// What a shape is at one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Signed distance to the edge in pixels, negative inside.
    pub(super) distance: f32,
    /// Share of the second colour, 0 to 1.
    pub(super) second: f32,
    /// Added to the luma: shading.
    pub(super) light: f32,
}

/// Two colours and how much they cover.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint {
    pub(super) first: Yuv,
    pub(super) second: Yuv,
    pub(super) alpha: f32,
}

impl Paint {
    pub(super) fn solid(colour: Yuv) -> Self {
        Self { first: colour, second: colour, alpha: 1.0 }
    }
}

/// Something that shapes can be painted on.
pub(super) trait Surface {
    /// Paints the shape that `at` describes (in pixels, pixel centres at .5) within `bounds` (x1, y1, x2, y2).
    fn shape(&mut self, bounds: [f32; 4], paint: &Paint, at: impl Fn(f32, f32) -> Sample);
}

/// Whole pixels of a range that lie within 0..limit.
fn span(low: f32, high: f32, limit: usize) -> std::ops::Range<usize> {
    let clamp = |v: f32| v.clamp(0.0, limit as f32) as usize;
    clamp(low.floor())..clamp(high.ceil() + 1.0)
}

impl Surface for PlanesMut<'_> {
    fn shape(&mut self, b: [f32; 4], paint: &Paint, at: impl Fn(f32, f32) -> Sample) {
        let [stride, stride_u, stride_v] = self.strides;
        let columns = span(b[0], b[2], self.width);
        for y in span(b[1], b[3], self.height) {
            let row = &mut self.y[y * stride..][columns.clone()];
            for (x, p) in columns.clone().zip(row) {
                let s = at(x as f32 + 0.5, y as f32 + 0.5);
                let cover = (0.5 - s.distance).clamp(0.0, 1.0) * paint.alpha;
                if cover > 0.0 {
                    let value = paint.first[0] + (paint.second[0] - paint.first[0]) * s.second + s.light;
                    *p = (*p as f32 + (value.clamp(16.0, 235.0) - *p as f32) * cover + 0.5) as u8;
                }
            }
        }
        let columns = span(b[0] / 2.0, b[2] / 2.0, self.width / 2);
        for y in span(b[1] / 2.0, b[3] / 2.0, self.height / 2) {
            for x in columns.clone() {
                let s = at(x as f32 * 2.0 + 1.0, y as f32 * 2.0 + 1.0);
                let cover = (0.5 - s.distance / 2.0).clamp(0.0, 1.0) * paint.alpha;
                if cover > 0.0 {
                    let blend = |p: &mut u8, i: usize| {
                        let value = paint.first[i] + (paint.second[i] - paint.first[i]) * s.second;
                        *p = (*p as f32 + (value - *p as f32) * cover + 0.5) as u8;
                    };
                    blend(&mut self.u[y * stride_u + x], 1);
                    blend(&mut self.v[y * stride_v + x], 2);
                }
            }
        }
    }
}

/// Who covers which pixel, in the picture and in a margin around it.
#[derive(Debug)]
pub(super) struct Owners {
    owners: Vec<u16>,
    size: [usize; 2],
    margin: usize,
    current: u16,
    extents: Vec<Extent>,
}

/// What one object covers, hidden or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// x1, y1, x2, y2 in pixels.
    pub(super) bounds: [f32; 4],
    /// Pixels covered, the margin's included.
    pub(super) pixels: u32,
    /// Pixels of them that show in the picture.
    pub(super) visible: u32,
}

impl Owners {
    pub(super) fn new(width: usize, height: usize, margin: usize) -> Self {
        let size = [width + 2 * margin, height + 2 * margin];
        Self { owners: vec![0; size[0] * size[1]], size, margin, current: 0, extents: Vec::new() }
    }

    /// Shapes from here on belong to the next object, in front of all before.
    pub(super) fn next_object(&mut self) {
        self.current += 1;
        self.extents.push(Extent { bounds: [f32::MAX, f32::MAX, f32::MIN, f32::MIN], pixels: 0, visible: 0 });
    }

    /// What each object covers, in the order of [`next_object`](Self::next_object).
    pub(super) fn finish(mut self) -> Vec<Extent> {
        let inside = self.margin..self.size[0] - self.margin;
        for row in self.owners.chunks(self.size[0]).skip(self.margin).take(self.size[1] - 2 * self.margin) {
            for &owner in &row[inside.clone()] {
                if owner > 0 {
                    self.extents[owner as usize - 1].visible += 1;
                }
            }
        }
        self.extents
    }
}

impl Surface for Owners {
    fn shape(&mut self, b: [f32; 4], _: &Paint, at: impl Fn(f32, f32) -> Sample) {
        let Some(extent) = self.extents.last_mut() else { return };
        let m = self.margin as f32;
        let columns = span(b[0] + m, b[2] + m, self.size[0]);
        for row in span(b[1] + m, b[3] + m, self.size[1]) {
            for column in columns.clone() {
                let (x, y) = (column as f32 - m, row as f32 - m);
                let owner = &mut self.owners[row * self.size[0] + column];
                if *owner != self.current && at(x + 0.5, y + 0.5).distance < 0.0 {
                    *owner = self.current;
                    extent.pixels += 1;
                    let [x1, y1, x2, y2] = extent.bounds;
                    extent.bounds = [x1.min(x), y1.min(y), x2.max(x + 1.0), y2.max(y + 1.0)];
                }
            }
        }
    }
}

/// A limb: a line from `a` to `b` with a round end of its own radius at each side, pixels. `look` turns the place
/// across (−1 to 1) and along (0 to 1) into share of the second colour and shading.
pub(super) fn capsule(
    surface: &mut impl Surface,
    (a, ra): ([f32; 2], f32),
    (b, rb): ([f32; 2], f32),
    paint: &Paint,
    look: impl Fn(f32, f32) -> (f32, f32),
) {
    let reach = ra.max(rb) + 1.5;
    let bounds = [a[0].min(b[0]) - reach, a[1].min(b[1]) - reach, a[0].max(b[0]) + reach, a[1].max(b[1]) + reach];
    let d = [b[0] - a[0], b[1] - a[1]];
    let length2 = (d[0] * d[0] + d[1] * d[1]).max(1e-6);
    let (per_length2, per_length) = (1.0 / length2, 1.0 / length2.sqrt());
    surface.shape(bounds, paint, |x, y| {
        let p = [x - a[0], y - a[1]];
        let along = ((p[0] * d[0] + p[1] * d[1]) * per_length2).clamp(0.0, 1.0);
        let q = [p[0] - d[0] * along, p[1] - d[1] * along];
        let radius = ra + (rb - ra) * along;
        let across = (p[0] * d[1] - p[1] * d[0]) * per_length / radius;
        let (second, light) = look(across, along);
        Sample { distance: (q[0] * q[0] + q[1] * q[1]).sqrt() - radius, second, light }
    });
}

/// An upright ellipse. `look` gets the place across and down (−1 to 1 each).
pub(super) fn ellipse(
    surface: &mut impl Surface,
    centre: [f32; 2],
    radius: [f32; 2],
    paint: &Paint,
    look: impl Fn(f32, f32) -> (f32, f32),
) {
    let [cx, cy] = centre;
    let bounds = [cx - radius[0] - 1.5, cy - radius[1] - 1.5, cx + radius[0] + 1.5, cy + radius[1] + 1.5];
    let least = radius[0].min(radius[1]);
    surface.shape(bounds, paint, |x, y| {
        let (u, v) = ((x - cx) / radius[0], (y - cy) / radius[1]);
        let (second, light) = look(u, v);
        Sample { distance: ((u * u + v * v).sqrt() - 1.0) * least, second, light }
    });
}
