//! The pinhole camera above the touchline.

/// A point of the world in metres: x along the pitch, y away from the camera, z up; the centre spot is the origin.
pub(super) type Point = [f32; 3];

/// A camera that looks down on the pitch.
#[derive(Debug, Clone)]
pub(super) struct Camera {
    eye: Point,
    forward: Point,
    right: Point,
    up: Point,
    focal: f32,
    centre: [f32; 2],
}

fn dot(a: Point, b: Point) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

impl Camera {
    /// A camera that sees `target` (on the ground) in the middle of a `size` picture from `distance` metres away,
    /// looking down by `elevation` and turned by `yaw` (radians); `width` metres span the picture there.
    pub(super) fn new(size: [f32; 2], target: [f32; 2], distance: f32, elevation: f32, yaw: f32, width: f32) -> Self {
        let (se, ce) = elevation.sin_cos();
        let (sy, cy) = yaw.sin_cos();
        let forward = [sy * ce, cy * ce, -se];
        let right = [cy, -sy, 0.0];
        let up = [sy * se, cy * se, ce];
        let eye = [target[0] - forward[0] * distance, target[1] - forward[1] * distance, -forward[2] * distance];
        Self { eye, forward, right, up, focal: size[0] * distance / width, centre: [size[0] / 2.0, size[1] / 2.0] }
    }

    /// Where a point shows in the picture (pixels, y down), and how many pixels a metre spans there.
    pub(super) fn project(&self, p: Point) -> ([f32; 2], f32) {
        let d = [p[0] - self.eye[0], p[1] - self.eye[1], p[2] - self.eye[2]];
        let scale = self.focal / dot(d, self.forward).max(0.1);
        ([self.centre[0] + dot(d, self.right) * scale, self.centre[1] - dot(d, self.up) * scale], scale)
    }

    /// Distance of a point along the line of sight, metres.
    pub(super) fn depth(&self, p: Point) -> f32 {
        dot([p[0] - self.eye[0], p[1] - self.eye[1], p[2] - self.eye[2]], self.forward)
    }

    /// Direction into the world of a place in the picture; as long as one metre of depth.
    pub(super) fn ray(&self, x: f32, y: f32) -> Point {
        let (a, b) = ((x - self.centre[0]) / self.focal, (self.centre[1] - y) / self.focal);
        std::array::from_fn(|i| self.forward[i] + self.right[i] * a + self.up[i] * b)
    }

    pub(super) fn eye(&self) -> Point {
        self.eye
    }

    /// Pixels that a metre spans at a depth of one metre.
    pub(super) fn focal(&self) -> f32 {
        self.focal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ray_through_a_projected_point_hits_it() {
        let camera = Camera::new([1280.0, 720.0], [1.0, -2.0], 60.0, 0.6, 0.1, 40.0);
        let ([x, y], scale) = camera.project([4.0, 3.0, 0.0]);
        let (ray, eye) = (camera.ray(x, y), camera.eye());
        let k = -eye[2] / ray[2];
        assert!((eye[0] + ray[0] * k - 4.0).abs() < 1e-2 && (eye[1] + ray[1] * k - 3.0).abs() < 1e-2);
        assert!((camera.project([1.0, -2.0, 0.0]).0[0] - 640.0).abs() < 1e-2);
        assert!((scale - camera.focal() / camera.depth([4.0, 3.0, 0.0])).abs() < 1e-3);
    }
}
