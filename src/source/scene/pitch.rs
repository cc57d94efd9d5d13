//! The pitch, the boards and the stand behind it: what does not move, painted once.

use super::PlanesMut;
use super::camera::Camera;
use super::look::{Ground, Mowing};
use super::raster::yuv;
use super::rng::{cell, smooth};

/// Depth of the penalty area, half its width; the same of the goal area; the goal's half width and height; metres,
/// for a pitch as long as a full one. Smaller pitches shrink them.
const FULL_LENGTH: f32 = 105.0;
const PENALTY: [f32; 2] = [16.5, 20.16];
const GOAL_AREA: [f32; 2] = [5.5, 9.16];
const CIRCLE: f32 = 9.15;
const SPOT: f32 = 11.0;
const GOAL_HALF: f32 = 3.66;
const GOAL_HEIGHT: f32 = 2.44;
const NET_DEPTH: f32 = 1.3;

/// Paints everything that does not move.
pub(super) fn paint(out: &mut PlanesMut<'_>, camera: &Camera, ground: &Ground) {
    let pitch = Pitch::new(ground, camera);
    let n = ground.oversample.max(1);
    let width = out.width;
    let mut rows = vec![[0f32; 3]; width * 2];
    for y in (0..out.height).step_by(2) {
        for dy in 0..2 {
            for x in 0..width {
                let mut sum = [0f32; 3];
                for s in 0..n * n {
                    let (sx, sy) = ((s % n) as f32 + 0.5, (s / n) as f32 + 0.5);
                    let rgb = pitch.colour(camera, x as f32 + sx / n as f32, (y + dy) as f32 + sy / n as f32);
                    sum = std::array::from_fn(|i| sum[i] + rgb[i]);
                }
                let colour = yuv(sum.map(|v| v / (n * n) as f32));
                out.y[(y + dy) * out.strides[0] + x] = (colour[0] + 0.5) as u8;
                rows[dy * width + x] = colour;
            }
        }
        for x in 0..width / 2 {
            let mean = |i: usize| {
                let four = rows[2 * x][i] + rows[2 * x + 1][i] + rows[width + 2 * x][i] + rows[width + 2 * x + 1][i];
                (four / 4.0 + 0.5) as u8
            };
            out.u[y / 2 * out.strides[1] + x] = mean(1);
            out.v[y / 2 * out.strides[2] + x] = mean(2);
        }
    }
}

/// Length of a vector; `hypot` guards against overflows that cannot happen here, at a price.
fn norm(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// Half the width of a goal and its height, metres.
fn goal_size(shrink: f32) -> (f32, f32) {
    let scale = shrink.max(0.42);
    (GOAL_HALF * scale, GOAL_HEIGHT * scale.max(0.6))
}

struct Pitch<'a> {
    ground: &'a Ground,
    shrink: f32,
    /// Boards stand this far from the middle.
    edge: f32,
    /// Where each goal can show, x1, y1, x2, y2 in pixels, and the sign of its side.
    goals: [([f32; 4], f32); 2],
}

impl<'a> Pitch<'a> {
    fn new(ground: &'a Ground, camera: &Camera) -> Self {
        let shrink = ground.half[0] * 2.0 / FULL_LENGTH * 1.25;
        let goals = [-1.0f32, 1.0].map(|sign| {
            let (half, high) = goal_size(shrink);
            let mut bounds = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
            for corner in 0..8 {
                let x = sign * (ground.half[0] + if corner & 1 == 0 { 0.0 } else { NET_DEPTH * 1.4 });
                let y = if corner & 2 == 0 { -half } else { half };
                let z = if corner & 4 == 0 { 0.0 } else { high };
                let ([px, py], _) = camera.project([x, y, z]);
                bounds = [bounds[0].min(px), bounds[1].min(py), bounds[2].max(px), bounds[3].max(py)];
            }
            ([bounds[0] - 8.0, bounds[1] - 8.0, bounds[2] + 8.0, bounds[3] + 8.0], sign)
        });
        Self { ground, shrink, edge: ground.half[1] + 2.2, goals }
    }

    fn colour(&self, camera: &Camera, x: f32, y: f32) -> [f32; 3] {
        let (ray, eye) = (camera.ray(x, y), camera.eye());
        // Metres of depth to the ground and to the boards.
        let down = if ray[2] < -1e-4 { -eye[2] / ray[2] } else { f32::MAX };
        let wall = if ray[1] > 1e-4 { (self.edge - eye[1]) / ray[1] } else { f32::MAX };
        let ground = || self.grass([eye[0] + ray[0] * down, eye[1] + ray[1] * down], down / camera.focal());
        let base = if down <= wall {
            ground()
        } else {
            let (px, pz) = (eye[0] + ray[0] * wall, eye[2] + ray[2] * wall);
            if pz < self.ground.board_height { self.board(px, pz) } else { self.stand(camera, ray) }
        };
        let mut rgb = base;
        for ([x1, y1, x2, y2], sign) in &self.goals {
            if (*x1..*x2).contains(&x) && (*y1..*y2).contains(&y) {
                rgb = self.goal(camera, ray, rgb, down.min(wall), *sign);
            }
        }
        rgb
    }

    /// The ground at a place; a pixel spans `pixel` metres there.
    fn grass(&self, p: [f32; 2], pixel: f32) -> [f32; 3] {
        let g = self.ground;
        let [hx, hy] = g.half;
        let inside = p[0].abs() < hx + 1.5 && p[1].abs() < hy + 1.5;
        let mut rgb = if inside { g.grass } else { g.surround };
        let wave = |v: f32| ((v / g.stripe * std::f32::consts::PI).sin() * g.stripe / pixel.max(0.02)).clamp(-1.0, 1.0);
        let mown = match g.mowing {
            _ if !inside => 0.0,
            Mowing::Plain => 0.0,
            Mowing::Across => wave(p[0]),
            Mowing::Along => wave(p[1]),
            Mowing::Chequered => (wave(p[0]) + wave(p[1])) / 2.0,
        };
        let patches = smooth(p[0] * 0.45, p[1] * 0.45, g.salt) - 0.5;
        let tufts = smooth(p[0] * 5.0, p[1] * 3.5, g.salt ^ 1) - 0.5;
        let blades = cell((p[0] * 28.0) as i32, (p[1] * 18.0) as i32, g.salt ^ 2) - 0.5;
        let light = 1.0 + g.contrast * mown + 0.10 * patches + 0.07 * tufts + 0.06 * blades;
        // Worn places show earth, most of all before the goals and in the middle.
        let near_goal = (1.0 - norm((p[0].abs() - hx + 2.0) / 5.0, p[1] / 4.0)).max(0.0);
        let worn = (g.wear * (0.5 * (patches + 0.1).max(0.0) + near_goal * (0.6 + tufts))).clamp(0.0, 0.8);
        let earth = [128.0, 108.0, 72.0];
        rgb = std::array::from_fn(|i| (rgb[i] + (earth[i] - rgb[i]) * worn) * light);
        let line = self.line(p, pixel) * 0.92;
        rgb = std::array::from_fn(|i| rgb[i] + (g.line[i] * (0.94 + 0.12 * tufts) - rgb[i]) * line);
        let [a, b, c, dark] = g.shade;
        let shaded = ((a * p[0] + b * p[1] - c) * 2.5 + 0.5).clamp(0.0, 1.0);
        rgb.map(|v| v * (1.0 + (dark - 1.0) * shaded))
    }

    /// How much of a pixel a line covers.
    fn line(&self, p: [f32; 2], pixel: f32) -> f32 {
        let [hx, hy] = self.ground.half;
        let (x, y) = (p[0].abs(), p[1].abs());
        let k = self.shrink;
        // Distance to the outline of a box |x| in x1..x2, |y| < y2, without its side at x2.
        let area = |x1: f32, y2: f32| {
            let front = if y < y2 { (x - x1).abs() } else { f32::MAX };
            let side = if x > x1 && x < hx { (y - y2).abs() } else { f32::MAX };
            front.min(side)
        };
        let mut d = f32::MAX;
        if y < hy {
            d = d.min((x - hx).abs()).min(x);
        }
        if x < hx {
            d = d.min((y - hy).abs());
        }
        let r = norm(x, y);
        d = d.min((r - CIRCLE * k).abs()).min((r - 0.15).max(0.0));
        d = d.min(area(hx - PENALTY[0] * k, PENALTY[1] * k)).min(area(hx - GOAL_AREA[0] * k, GOAL_AREA[1] * k));
        let from_spot = norm(x - hx + SPOT * k, y);
        d = d.min((from_spot - 0.13).max(0.0));
        if x < hx - PENALTY[0] * k {
            d = d.min((from_spot - CIRCLE * k).abs());
        }
        if x < hx && y < hy {
            d = d.min((norm(x - hx, y - hy) - k.max(0.5)).abs());
        }
        let width = self.ground.line_width;
        ((width / 2.0 - d) / pixel.max(0.01) + 0.5).clamp(0.0, 1.0) * (width / pixel).min(1.0)
    }

    fn board(&self, x: f32, z: f32) -> [f32; 3] {
        let g = self.ground;
        let panel = (x / 5.5).floor() as i32;
        let back = (cell(panel, 0, g.salt ^ 3) * 4.0) as usize;
        let other = 1 + (cell(panel, 0, g.salt ^ 4) * 3.0) as usize;
        let (back, ink) = (g.boards[back % 4], g.boards[(back + other) % 4]);
        let height = z / g.board_height;
        if height > 0.93 {
            return [205.0, 208.0, 212.0];
        }
        // Something like lettering.
        let local = x - panel as f32 * 5.5;
        let glyph = (local / 0.42).floor() as i32;
        let (u, v) = (local / 0.42 - glyph as f32, (height - 0.2) / 0.55);
        let letter = (1..12).contains(&glyph)
            && u < 0.78
            && (0.0..1.0).contains(&v)
            && cell(glyph * 3 + (u * 3.0) as i32, (v * 4.0) as i32 + panel * 7, g.salt) > 0.42;
        let rgb = if letter { ink } else { back };
        rgb.map(|c| c * (0.86 + 0.12 * height))
    }

    /// The stand rises behind the boards at 35 degrees, a row to every 0.85 m.
    fn stand(&self, camera: &Camera, ray: [f32; 3]) -> [f32; 3] {
        const RISE: f32 = 0.7;
        let g = self.ground;
        let eye = camera.eye();
        let (foot_y, foot_z) = (self.edge + 1.0, g.board_height + 0.3);
        let slope = ray[2] - RISE * ray[1];
        let depth = (foot_z - eye[2] - RISE * (foot_y - eye[1])) / slope;
        let height = (ray[2] / ray[1].max(1e-3) * 2.0).clamp(0.0, 1.0);
        let sky = g.sky.map(|v| v * (1.0 - 0.25 * height));
        if !(depth > 0.0 && depth < 1e4) {
            return sky;
        }
        let (x, y) = (eye[0] + ray[0] * depth, eye[1] + ray[1] * depth);
        let along = (y - foot_y) / 0.85;
        if along < 0.0 {
            return g.stand.map(|v| v * 0.6);
        }
        let row = along.floor();
        if row >= g.rows {
            let roof = (row - g.rows) < 2.0;
            return if roof { g.stand.map(|v| v * 0.45) } else { sky };
        }
        let aisle = (x / 9.0).rem_euclid(1.0) < 0.07;
        let step = along - row;
        let seat = g.stand.map(|v| v * (0.62 + 0.3 * step));
        if aisle {
            return seat.map(|v| v * 1.25 + 8.0);
        }
        let shifted = x / 0.56 + row * 0.37;
        let (i, r) = (shifted.floor() as i32, row as i32);
        if cell(i, r, g.salt ^ 5) > g.crowd {
            return seat;
        }
        let mood = cell(i, r, g.salt ^ 6);
        let (u, v) = (shifted - shifted.floor() - 0.5, step);
        let cloth = match mood {
            m if m < 0.34 => g.fans[0],
            m if m < 0.62 => g.fans[1],
            m => {
                let v = 60.0 + 175.0 * cell(i, r, g.salt ^ 7);
                [v, v * (0.8 + 0.3 * m), v * (1.25 - 0.5 * cell(i, r, g.salt ^ 8))]
            }
        };
        let shade = 0.55 + 0.4 * cell(i, r, g.salt ^ 9);
        let tone = cell(i, r, g.salt ^ 10);
        let (head, body) = (norm(u, (v - 0.72) * 1.2) < 0.2, u.abs() < 0.4 && v < 0.58);
        if head {
            [232.0 - 130.0 * tone, 188.0 - 120.0 * tone, 158.0 - 110.0 * tone].map(|c| c * (0.6 + 0.35 * shade))
        } else if body {
            cloth.map(|c| c * shade)
        } else {
            seat.map(|c| c * 0.75)
        }
    }

    /// Posts, bar and net of a goal over what lies behind, `limit` metres of depth away.
    fn goal(&self, camera: &Camera, ray: [f32; 3], behind: [f32; 3], limit: f32, sign: f32) -> [f32; 3] {
        let mut rgb = behind;
        let eye = camera.eye();
        let (half, high) = goal_size(self.shrink);
        let line_x = sign * self.ground.half[0];
        let depth_m = NET_DEPTH * sign;
        let net = |u: f32, v: f32, pixel: f32| {
            let grid = |a: f32| {
                let d = ((a / 0.22).rem_euclid(1.0) - 0.5).abs() * 0.22;
                ((0.016 - (0.11 - d)) / pixel.max(0.008) + 0.5).clamp(0.0, 1.0)
            };
            0.5 * grid(u).max(grid(v)) + 0.06
        };
        // Side nets and the back net, far to near is not told apart: all are translucent.
        for side in [half, -half] {
            if ray[1].abs() > 1e-4 {
                let k = (side - eye[1]) / ray[1];
                let (x, z) = (eye[0] + ray[0] * k - line_x, eye[2] + ray[2] * k);
                let out = x / depth_m;
                if k > 0.0 && k < limit && (0.0..1.0).contains(&out) && z > 0.0 && z < high * (1.0 - 0.45 * out) {
                    let cover = net(x, z, k / camera.focal());
                    rgb = std::array::from_fn(|i| rgb[i] + (225.0 - rgb[i]) * cover);
                }
            }
        }
        // The sloping back and top, taken as one plane from the bar to the ground behind.
        let slope = high / (depth_m * 1.25);
        let down = ray[2] + slope * ray[0];
        if down.abs() > 1e-5 {
            let k = (high - eye[2] - slope * (eye[0] - line_x)) / down;
            let (x, y, z) = (eye[0] + ray[0] * k - line_x, eye[1] + ray[1] * k, eye[2] + ray[2] * k);
            if k > 0.0 && k < limit * 1.001 && y.abs() < half && z > 0.0 && x / depth_m > 0.0 {
                let cover = net(y, z * 1.4, k / camera.focal());
                rgb = std::array::from_fn(|i| rgb[i] + (225.0 - rgb[i]) * cover);
            }
        }
        // Posts and bar: thin, so the distance in the plane of the goal line is enough.
        let mut cover = 0f32;
        let r = 0.06;
        for side in [half, -half] {
            // Distance of the ray to the post's axis.
            let n = norm(ray[0], ray[1]).max(1e-6);
            let (dx, dy) = (line_x - eye[0], side - eye[1]);
            let off = (dx * ray[1] - dy * ray[0]).abs() / n;
            let k = (dx * ray[0] + dy * ray[1]) / (n * n);
            let z = eye[2] + ray[2] * k;
            if (0.0..high + r).contains(&z) {
                cover = cover.max(((r - off) / (k / camera.focal()) + 0.5).clamp(0.0, 1.0));
            }
        }
        let n = norm(ray[0], ray[2]).max(1e-6);
        let (dx, dz) = (line_x - eye[0], high - eye[2]);
        let off = (dx * ray[2] - dz * ray[0]).abs() / n;
        let k = (dx * ray[0] + dz * ray[2]) / (n * n);
        if (eye[1] + ray[1] * k).abs() < half + r {
            cover = cover.max(((r - off) / (k / camera.focal()) + 0.5).clamp(0.0, 1.0));
        }
        rgb = std::array::from_fn(|i| rgb[i] + (244.0 - rgb[i]) * cover);
        rgb
    }
}
