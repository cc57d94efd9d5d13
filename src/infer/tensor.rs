//! Tensors that the engine passes around: a batch's inputs, its outputs, and how picture and tensor relate.

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// Unsigned byte.
    U8,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::U8 => 1,
        }
    }
}

/// How a model's pixels map to the picture's, as viewed: `picture = (model - offset) / scale`, per axis.
///
/// Coordinates are continuous: the first pixel reaches from 0 to 1 and its centre is at 0.5.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Geometry {
    /// Model pixels per picture pixel, x and y.
    pub scale: [f32; 2],
    /// Model coordinates of the picture's top left corner.
    pub offset: [f32; 2],
    /// Width and height of the picture as viewed.
    pub picture: [f32; 2],
}

impl Geometry {
    /// A box in model pixels as a box in pixels of the source picture.
    pub fn to_picture(&self, b: [f32; 4]) -> [f32; 4] {
        let x = |v: f32| (v - self.offset[0]) / self.scale[0];
        let y = |v: f32| (v - self.offset[1]) / self.scale[1];
        [x(b[0]), y(b[1]), x(b[2]), y(b[3])]
    }

    /// A point (a landmark) in model pixels as a point in pixels of the source picture.
    pub fn point_to_picture(&self, p: [f32; 2]) -> [f32; 2] {
        [(p[0] - self.offset[0]) / self.scale[0], (p[1] - self.offset[1]) / self.scale[1]]
    }

    /// A box in pixels of the source picture as a box in model pixels.
    pub fn to_model(&self, b: [f32; 4]) -> [f32; 4] {
        let x = |v: f32| v * self.scale[0] + self.offset[0];
        let y = |v: f32| v * self.scale[1] + self.offset[1];
        [x(b[0]), y(b[1]), x(b[2]), y(b[3])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_and_points_go_to_the_model_and_back() {
        let g = Geometry { scale: [0.65, 277.0 / 427.0], offset: [0.0, 69.0], picture: [640.0, 427.0] };
        for b in [[0.0, 0.0, 640.0, 427.0], [-30.5, 17.25, 800.0, 23.0], [1.0, 2.0, 1.0, 2.0]] {
            let model = g.to_model(b);
            let back = g.to_picture(model);
            assert!(back.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3), "{b:?} came back as {back:?}");
            let corner = g.point_to_picture([model[2], model[3]]);
            assert_eq!(corner, [back[2], back[3]]);
        }
    }

    #[test]
    fn the_whole_picture_covers_what_is_not_padding() {
        let g = Geometry { scale: [0.5, 0.5], offset: [0.0, 140.0], picture: [1280.0, 720.0] };
        assert_eq!(g.to_model([0.0, 0.0, 1280.0, 720.0]), [0.0, 140.0, 640.0, 500.0]);
        assert_eq!(g.to_picture([0.0, 140.0, 640.0, 500.0]), [0.0, 0.0, 1280.0, 720.0]);
    }
}
