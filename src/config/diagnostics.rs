//! Everything that is wrong with a pipeline file, with places, and how it is shown.

use crate::issue::Severity;
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource};
use std::fmt;
use std::sync::Arc;

/// One error or warning, at its place.
#[derive(Debug, Clone)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// The file as it was named, or `--set` for a flag.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Dotted key that it is about; empty for the file as a whole.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// The file is right, but something that it names (a model, a file) cannot be used on this machine.
    pub absent: bool,
    /// The text around it, secrets masked.
    pub(super) source: Arc<NamedSource<String>>,
    /// Byte offset and length in the text.
    pub(super) span: (usize, usize),
}

impl Diagnostic {
    /// Whether the pipeline cannot run because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn severity(&self) -> Option<miette::Severity> {
        Some(if self.is_error() { miette::Severity::Error } else { miette::Severity::Warning })
    }
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        (!self.source.inner().is_empty()).then_some(&*self.source as &dyn miette::SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        (!self.source.inner().is_empty())
            .then(|| Box::new(std::iter::once(LabeledSpan::underline(self.span))) as Box<dyn Iterator<Item = _>>)
    }
}

/// How findings are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// For files and pipes: ASCII, no colours.
    Plain,
    /// For terminals.
    Fancy,
}

/// Every finding about a pipeline file, in the file's order, flags last.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// How many errors there are.
    pub fn errors(&self) -> usize {
        self.0.iter().filter(|d| d.is_error()).count()
    }

    /// How many warnings there are.
    pub fn warnings(&self) -> usize {
        self.0.len() - self.errors()
    }

    /// Whether the file itself is right, and only things that it names cannot be used on this machine.
    pub fn only_absent(&self) -> bool {
        self.0.iter().filter(|d| d.is_error()).all(|d| d.absent)
    }

    /// All of them as text, each with its line and a caret.
    pub fn render(&self, style: Style) -> String {
        let theme = match style {
            Style::Plain => GraphicalTheme::none(),
            Style::Fancy => GraphicalTheme::unicode(),
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_links(false).with_width(120);
        let mut out = String::new();
        for diagnostic in &self.0 {
            // Writing to a string fails only where the text cannot be read; the bare line then still says it all.
            if handler.render_report(&mut out, diagnostic).is_err() {
                out.push_str(&format!("{}:{}:{}: {diagnostic}\n", diagnostic.file, diagnostic.line, diagnostic.column));
            }
            out.push('\n');
        }
        out
    }

    /// All of them for programs: an array of `severity`, `file`, `line`, `column`, `message`, `help`, `key`.
    pub fn to_json(&self) -> serde_json::Value {
        self.0
            .iter()
            .map(|d| {
                serde_json::json!({
                    "severity": if d.is_error() { "error" } else { "warning" },
                    "file": d.file,
                    "line": d.line,
                    "column": d.column,
                    "message": d.message,
                    "help": d.help,
                    "key": d.key,
                })
            })
            .collect()
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, d) in self.0.iter().enumerate() {
            let kind = if d.is_error() { "error" } else { "warning" };
            let separator = if n == 0 { "" } else { "\n" };
            write!(f, "{separator}{}:{}:{}: {kind}: {}", d.file, d.line, d.column, d.message)?;
            if let Some(help) = &d.help {
                write!(f, " ({help})")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}
