//! The ONNX Runtime library: finds it, loads it once for the process, and sends its log to `tracing`.

use super::{InferError, library};
use ort::environment::Environment;
use ort::logging::LogLevel;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// Where `scripts/setup` puts the library, beside the working directory.
const LOCAL: &str = ".runtime/onnxruntime";
/// Where packages put it.
const INSTALLED: [&str; 2] = ["/usr/lib/framegate", "/opt/framegate/lib"];
#[cfg(target_os = "macos")]
const STEM: (&str, &str) = ("libonnxruntime", "dylib");
#[cfg(not(target_os = "macos"))]
const STEM: (&str, &str) = ("libonnxruntime", "so");
/// Oldest version whose interface this program was built for.
const OLDEST: (u32, u32) = (1, 24);

/// ONNX Runtime as loaded into this process.
pub struct Runtime {
    pub(super) environment: Environment,
    /// Its version, such as `1.24.4`.
    pub version: String,
    /// The file it was loaded from.
    pub path: PathBuf,
}

static RUNTIME: OnceLock<Runtime> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// The process's ONNX Runtime; the first call loads it.
///
/// Looked for in this order: the file that `ORT_DYLIB_PATH` names (nothing else if it is set), `.runtime/onnxruntime/`
/// in the working directory, `/usr/lib/framegate/`, `/opt/framegate/lib/`, the system's loader path.
///
/// # Errors
/// [`InferError::Library`] with every place that was tried and why it was not that.
pub fn runtime() -> Result<&'static Runtime, InferError> {
    if let Some(r) = RUNTIME.get() {
        return Ok(r);
    }
    let _one_at_a_time = LOADING.lock();
    if let Some(r) = RUNTIME.get() {
        return Ok(r);
    }
    let loaded = load(std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from))?;
    tracing::info!(version = %loaded.version, path = %loaded.path.display(), "ONNX Runtime loaded");
    Ok(RUNTIME.get_or_init(|| loaded))
}

/// The process's ONNX Runtime if it is loaded already.
pub fn loaded() -> Option<&'static Runtime> {
    RUNTIME.get()
}

/// The library that [`runtime`] would load, and its version, without keeping it.
///
/// # Errors
/// As [`runtime`].
pub fn locate() -> Result<(PathBuf, String), InferError> {
    find(std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from), Path::new("."))
}

fn load(named: Option<PathBuf>) -> Result<Runtime, InferError> {
    let (path, version) = find(named, Path::new("."))?;
    let fail = |e: &dyn std::fmt::Display| InferError::Library(format!("  {}: {e}", path.display()));
    let environment = ort::init_from(&path)
        .map_err(|e| fail(&e))?
        .with_name("framegate")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|e| fail(&e))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(Runtime { environment, version, path })
}

fn find(named: Option<PathBuf>, beside: &Path) -> Result<(PathBuf, String), InferError> {
    let mut tried = Vec::new();
    let mut attempt = |path: PathBuf| match usable(&path) {
        Ok(version) => Some((path, version)),
        Err(why) => {
            tried.push(format!("  {}: {why}", path.display()));
            None
        }
    };
    if let Some(path) = named.filter(|p| !p.as_os_str().is_empty()) {
        return attempt(path.clone()).ok_or_else(|| InferError::Library(tried.join("\n")));
    }
    for dir in std::iter::once(beside.join(LOCAL)).chain(INSTALLED.map(PathBuf::from)) {
        // An absolute path, so that the loader does not look for it anywhere else.
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        let files = libraries_in(&dir);
        if files.is_empty() {
            attempt(dir.join(format!("{}.{}", STEM.0, STEM.1)));
        }
        for file in files {
            if let Some(found) = attempt(file) {
                return Ok(found);
            }
        }
    }
    for name in [format!("{}.{}", STEM.0, STEM.1), format!("{}.{}.1", STEM.0, STEM.1)] {
        if let Some(found) = attempt(PathBuf::from(name)) {
            return Ok(found);
        }
    }
    Err(InferError::Library(tried.join("\n")))
}

/// Files in `dir` that are the library under any version, the highest file name first.
fn libraries_in(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|e| e.path())
        .filter(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or("");
            name.strip_prefix(STEM.0).is_some_and(|rest| {
                // `libonnxruntime_providers_shared.so` is not it.
                rest.starts_with('.') && rest.contains(STEM.1)
            })
        })
        .collect();
    found.sort();
    found.reverse();
    found
}

fn usable(path: &Path) -> Result<String, String> {
    // The loader would say the same of a missing file, only longer.
    if path.components().count() > 1 && !path.exists() {
        return Err("no such file".to_owned());
    }
    let version = library::version(path)?;
    let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) < OLDEST {
        return Err(format!("version {version} is older than {}.{}", OLDEST.0, OLDEST.1));
    }
    Ok(version)
}

fn log(level: LogLevel, category: &str, id: &str, place: &str, message: &str) {
    match level {
        LogLevel::Verbose | LogLevel::Info => {}
        // Said of every weight of an older export, hundreds of times, and nothing a user could act on.
        LogLevel::Warning if message.contains("appears in graph inputs") => {
            tracing::debug!(target: "onnxruntime", category, id, place, "{message}");
        }
        LogLevel::Warning => tracing::warn!(target: "onnxruntime", category, id, place, "{message}"),
        LogLevel::Error | LogLevel::Fatal => tracing::error!(target: "onnxruntime", category, id, place, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_library_is_an_error_that_names_what_was_tried() {
        let e = find(Some("/nowhere/libonnxruntime.so".into()), Path::new(".")).unwrap_err().to_string();
        assert!(e.contains("/nowhere/libonnxruntime.so: no such file") && e.contains("scripts/setup"), "{e}");
    }

    #[test]
    fn a_file_that_is_not_the_library_is_refused_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join(LOCAL);
        std::fs::create_dir_all(&home).unwrap();
        std::fs::write(home.join("libonnxruntime.so.1.99.0"), b"not an ELF file").unwrap();
        std::fs::write(home.join("libonnxruntime_providers_shared.so"), b"").unwrap();
        assert_eq!(libraries_in(&home).len(), 1);
        let e = usable(&home.join("libonnxruntime.so.1.99.0")).unwrap_err();
        assert!(e.contains("libonnxruntime.so.1.99.0"), "{e}");
    }
}
