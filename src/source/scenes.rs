//! The test scenes there are: those that GStreamer's `videotestsrc` draws.

/// Patterns of `videotestsrc`, by the name in `test://NAME`.
const PATTERNS: [&str; 10] =
    ["ball", "smpte", "snow", "black", "white", "checkers-8", "circular", "gradient", "pinwheel", "zone-plate"];

/// All names, for messages.
pub fn names() -> Vec<&'static str> {
    PATTERNS.to_vec()
}

/// Whether there is such a scene.
pub fn exists(name: &str) -> bool {
    names().contains(&name)
}
