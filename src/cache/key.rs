//! Addresses of values.

use sha2::{Digest, Sha256};
use std::fmt;

/// The address of a value: SHA-256 over what it was made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key([u8; 32]);

impl Key {
    /// Of these parts. Where one ends and the next begins is part of the address.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// Of a stage's result: its input, its configuration, and the SHA-256 of its model (empty where it has none).
    pub fn of_result(input: &[u8], configuration: &str, model: &str) -> Self {
        Self::of(&[b"result", input, configuration.as_bytes(), model.as_bytes()])
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_and_its_length_count() {
        let keys = [
            Key::of(&[b"ab", b"c"]),
            Key::of(&[b"a", b"bc"]),
            Key::of(&[b"abc"]),
            Key::of(&[b"abc", b""]),
            Key::of_result(b"abc", "", ""),
            Key::of_result(b"", "abc", ""),
            Key::of_result(b"", "", "abc"),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key), "{n}");
        }
        assert_eq!(keys[0].to_string().len(), 64);
        assert_eq!(keys[0], Key::of(&[b"ab", b"c"]));
    }
}
