//! Where a box is and how it moves: Kalman filters with constant velocity on its centre, its width and its height.
//!
//! R. E. Kalman, "A new approach to linear filtering and prediction problems", 1960; the state is that of N. Aharon
//! et al., "BoT-SORT", 2022, in continuous time, so that any step between frames is right. The four axes do not
//! depend on each other, which keeps every covariance a 2×2 matrix.

/// x1, y1, x2, y2.
pub type Rect = [f64; 4];

/// One coordinate: its value, its speed, and their covariance.
#[derive(Debug, Clone, Copy)]
struct Axis {
    x: f64,
    v: f64,
    xx: f64,
    xv: f64,
    vv: f64,
}

impl Axis {
    fn new(x: f64, std: f64, speed_std: f64) -> Self {
        Self { x, v: 0.0, xx: std * std, xv: 0.0, vv: speed_std * speed_std }
    }

    /// `accel` is the density of the white noise that accelerates it, units/s^1.5.
    fn predict(&mut self, dt: f64, accel: f64) {
        let q = accel * accel;
        self.x += self.v * dt;
        self.xx += dt * (2.0 * self.xv + dt * self.vv) + q * dt * dt * dt / 3.0;
        self.xv += dt * self.vv + q * dt * dt / 2.0;
        self.vv += q * dt;
    }

    fn update(&mut self, z: f64, std: f64, surprise: f64) {
        // A detection that is further off than the model allows means that the object turned or bounced: the more it
        // surprises, the less the past counts (adaptive fading; Q. Xia et al., Automatica 30, 1994).
        let excess = (z - self.x).powi(2) / ((self.xx + std * std) * surprise * surprise);
        if excess > 1.0 {
            self.xx *= excess;
            self.xv *= excess;
            self.vv *= excess;
        }
        let s = self.xx + std * std;
        let (kx, kv) = (self.xx / s, self.xv / s);
        let y = z - self.x;
        self.x += kx * y;
        self.v += kv * y;
        self.vv -= kv * self.xv;
        self.xv *= 1.0 - kx;
        self.xx *= 1.0 - kx;
    }
}

/// How objects move and how well they are measured, in edge lengths: the mean of a box's width and height.
#[derive(Debug, Clone, Copy, PartialEq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Noise {
    /// Standard deviation of a detected centre, edge lengths. Default 0.1.
    pub position: f64,
    /// Standard deviation of a detected width or height, edge lengths. Default 0.2.
    pub size: f64,
    /// How much the centre's speed wanders, edge lengths/s^1.5. Default 0.3.
    pub acceleration: f64,
    /// How much the speed of growth wanders, edge lengths/s^1.5. Default 0.1.
    pub growth: f64,
    /// Standard deviation of the speed of a box seen for the first time, edge lengths/s. Default 2.
    pub speed: f64,
    /// How many standard deviations a detection may be off before the object is taken to have turned or bounced.
    /// Default 2.
    pub surprise: f64,
}

impl Default for Noise {
    fn default() -> Self {
        Self { position: 0.1, size: 0.2, acceleration: 0.3, growth: 0.1, speed: 2.0, surprise: 2.0 }
    }
}

/// A moving box.
#[derive(Debug, Clone, Copy)]
pub struct Motion {
    axes: [Axis; 4],
}

impl Motion {
    /// A box seen for the first time.
    pub fn new(rect: Rect, noise: &Noise) -> Self {
        let [cx, cy, w, h] = center_size(rect);
        let s = scale(w, h);
        let at = |x| Axis::new(x, noise.position * s, noise.speed * s);
        let by = |x| Axis::new(x, noise.size * s, noise.growth * s);
        Self { axes: [at(cx), at(cy), by(w), by(h)] }
    }

    /// Moves it on by `dt` seconds.
    pub fn predict(&mut self, dt: f64, noise: &Noise) {
        let s = self.scale();
        let before = [self.axes[2].x, self.axes[3].x];
        for (i, axis) in self.axes.iter_mut().enumerate() {
            axis.predict(dt, s * if i < 2 { noise.acceleration } else { noise.growth });
        }
        // A box that shrinks fast must not turn inside out.
        for (axis, before) in self.axes[2..].iter_mut().zip(before) {
            if axis.x < before * 0.5 {
                axis.x = before * 0.5;
                axis.v = 0.0;
            }
        }
    }

    /// Takes in a detected box.
    pub fn update(&mut self, rect: Rect, noise: &Noise) {
        let z = center_size(rect);
        let s = scale(z[2], z[3]);
        for (i, (axis, z)) in self.axes.iter_mut().zip(z).enumerate() {
            axis.update(z, s * if i < 2 { noise.position } else { noise.size }, noise.surprise);
        }
        for axis in &mut self.axes[2..] {
            axis.x = axis.x.max(f64::from(f32::EPSILON));
        }
    }

    /// The box now.
    pub fn rect(&self) -> Rect {
        let [cx, cy, w, h] = self.axes.map(|a| a.x);
        [cx - w / 2.0, cy - h / 2.0, cx + w / 2.0, cy + h / 2.0]
    }

    fn scale(&self) -> f64 {
        scale(self.axes[2].x, self.axes[3].x)
    }
}

fn scale(w: f64, h: f64) -> f64 {
    (w + h) / 2.0
}

/// Centre, width and height.
pub fn center_size([x1, y1, x2, y2]: Rect) -> [f64; 4] {
    [(x1 + x2) / 2.0, (y1 + y2) / 2.0, x2 - x1, y2 - y1]
}

/// Intersection over union.
pub fn iou(a: Rect, b: Rect) -> f64 {
    let w = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let h = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let i = w * h;
    if i <= 0.0 {
        return 0.0;
    }
    i / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - i)
}

/// The box with each side pushed out by `by` of its width or height.
pub fn buffered([x1, y1, x2, y2]: Rect, by: f64) -> Rect {
    let (dx, dy) = ((x2 - x1) * by, (y2 - y1) * by);
    [x1 - dx, y1 - dy, x2 + dx, y2 + dy]
}
