//! What is wrong with a pipeline file, said by the component that knows: the finding names a key, and `config` finds
//! the line and column of that key.

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The pipeline cannot run.
    Error,
    /// It can run, and probably not as meant.
    Warning,
}

/// One finding about a component's table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Error or warning.
    pub severity: Severity,
    /// Dotted key within the component's table; empty for the table itself.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The table is right, but something that it names (a model, a file) cannot be used on this machine.
    pub absent: bool,
}

impl Issue {
    /// An error at `key`.
    pub fn error(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, key: key.into(), message: message.into(), help: None, absent: false }
    }
    /// A warning at `key`.
    pub fn warning(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(key, message) }
    }
    /// Says that the table is right, and what it names cannot be used on this machine.
    #[must_use]
    pub fn absent(mut self) -> Self {
        self.absent = true;
        self
    }
    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
