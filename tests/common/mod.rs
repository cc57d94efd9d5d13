//! What the integration tests share.

use std::path::{Path, PathBuf};

/// Finds a file or folder of the test data that lies beside the checkout (`../shared/data`), or where
/// `FRAMEGATE_SHARED_DATA` says.
///
/// Absent data prints a line that starts with `SKIPPED` and gives `None`, so that the caller can return.
///
/// # Panics
/// Where data is absent and `CI=true`: there a skipped test would be a check that cannot fail.
#[allow(dead_code, reason = "each test binary uses its own part of this module")]
pub fn shared_data(relative: impl AsRef<Path>) -> Option<PathBuf> {
    let relative = relative.as_ref();
    let root = match std::env::var_os("FRAMEGATE_SHARED_DATA") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data"),
    };
    let path = root.join(relative);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "test data is missing: {}", path.display());
    eprintln!("SKIPPED: {} is not here", path.display());
    None
}
