//! What an object looks like: a running mean of its re-identification vectors.

/// Share of the old mean that a new vector leaves.
const KEPT: f64 = 0.9;

/// A running mean of unit vectors; empty until a vector was seen.
#[derive(Debug, Clone, Default)]
pub struct Appearance(Vec<f32>);

impl Appearance {
    /// Whether there is anything to compare with.
    pub fn known(&self) -> bool {
        !self.0.is_empty()
    }

    /// Takes a vector in. One without a direction (zero, NaN) is passed over; one of another length, from another
    /// model, starts anew.
    pub fn learn(&mut self, vector: Option<&[f32]>) {
        let Some(vector) = vector else { return };
        let Some(length) = length(vector) else { return };
        if self.0.len() != vector.len() {
            self.0 = vector.iter().map(|&v| (f64::from(v) / length) as f32).collect();
            return;
        }
        for (mean, &v) in self.0.iter_mut().zip(vector) {
            *mean = (f64::from(*mean) * KEPT + f64::from(v) / length * (1.0 - KEPT)) as f32;
        }
    }

    /// Cosine of the angle to a vector, −1 to 1; `None` where the two cannot be compared.
    pub fn similarity(&self, vector: Option<&[f32]>) -> Option<f64> {
        let vector = vector.filter(|v| !v.is_empty() && v.len() == self.0.len())?;
        let dot: f64 = self.0.iter().zip(vector).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
        Some((dot / (length(&self.0)? * length(vector)?)).clamp(-1.0, 1.0))
    }
}

/// Its length, if it has a direction.
fn length(vector: &[f32]) -> Option<f64> {
    let square: f64 = vector.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (square.is_finite() && square > 0.0).then(|| square.sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_compares_by_angle_whatever_the_length() {
        let mut a = Appearance::default();
        assert_eq!(a.similarity(Some(&[1.0, 0.0])), None);
        a.learn(Some(&[3.0, 0.0]));
        assert_eq!(a.similarity(Some(&[0.5, 0.0])), Some(1.0));
        assert_eq!(a.similarity(Some(&[0.0, 2.0])), Some(0.0));
    }

    #[test]
    fn vectors_without_a_direction_are_passed_over() {
        let mut a = Appearance::default();
        a.learn(Some(&[]));
        a.learn(Some(&[0.0, 0.0]));
        a.learn(Some(&[f32::NAN, 1.0]));
        assert!(!a.known());
        a.learn(Some(&[0.0, 1.0]));
        assert_eq!(a.similarity(Some(&[0.0, f32::INFINITY])), None);
        assert_eq!(a.similarity(Some(&[1.0, 0.0, 0.0])), None);
        assert_eq!(a.similarity(Some(&[0.0, 1.0])), Some(1.0));
    }
}
