//! The program itself in a folder of its own.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// The program in a folder, not started.
pub fn program(folder: &Path, arguments: &[&str]) -> Command {
    let runtime = Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime/onnxruntime/libonnxruntime.so");
    let mut command = Command::new(env!("CARGO_BIN_EXE_framegate"));
    command.args(arguments).current_dir(folder);
    if std::env::var_os("ORT_DYLIB_PATH").is_none() && runtime.exists() {
        command.env("ORT_DYLIB_PATH", runtime);
    }
    command
}

/// A folder with the pipeline in it.
pub struct Bench(TempDir);

impl Bench {
    /// A folder with this pipeline, in which `MODEL` stands for the demonstration model.
    pub fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/pitch.toml");
        let text = text.replace("MODEL", model.to_str().expect("UTF-8"));
        std::fs::write(folder.path().join("yard.toml"), text).expect("written");
        Self(folder)
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs the program in the folder.
    pub fn framegate(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("started")
    }

    /// The program in the folder, not started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program(self.0.path(), arguments);
        command.env("RUST_LOG", "warn");
        command
    }

    /// Standard output of a call that succeeds.
    pub fn says(&self, arguments: &[&str]) -> String {
        let output = self.framegate(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Exit code and standard error of a call that fails.
    pub fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.framegate(arguments);
        assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
        (output.status.code().expect("ended"), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// A file that the program wrote.
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&std::fs::read_to_string(self.path(name)).expect("written")).expect("JSON")
    }
}
