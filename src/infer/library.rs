//! Asks an ONNX Runtime library for its version before it is used.

use std::ffi::CStr;
use std::path::Path;

/// The version string of the library at `path`, such as `1.24.4`.
///
/// # Errors
/// The loader's message, or that the file is not ONNX Runtime.
pub fn version(path: &Path) -> Result<String, String> {
    // SAFETY: loading a library runs its initialisers. The path is one that the operator chose or where only
    // ONNX Runtime is installed, and the same library is loaded for good right afterwards.
    let library = unsafe { libloading::Library::new(path) }.map_err(|e| reason(&e))?;
    // SAFETY: `OrtGetApiBase` has had this signature in every release of ONNX Runtime.
    let base = unsafe { library.get::<unsafe extern "C" fn() -> *const ort::sys::OrtApiBase>(b"OrtGetApiBase") }
        .map_err(|_| "not ONNX Runtime: it does not export OrtGetApiBase".to_owned())?;
    // SAFETY: takes no arguments and returns a pointer to a static table, or null.
    let table = unsafe { base() };
    if table.is_null() {
        return Err("OrtGetApiBase returned nothing".to_owned());
    }
    // SAFETY: the table was checked and lives as long as the library, which is held until this function ends.
    let text = unsafe { ((*table).GetVersionString)() };
    if text.is_null() {
        return Err("GetVersionString returned nothing".to_owned());
    }
    // SAFETY: a static, NUL-terminated string of the library, copied before the library is let go.
    Ok(unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// The loader's own words, which the error keeps in its source.
fn reason(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), ToString::to_string)
}
