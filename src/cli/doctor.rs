//! `framegate doctor`: what is missing on this machine, and the command that installs it.

mod checks;

use super::{Code, Failure, count, print};
use std::fmt::Write;

/// Arguments of `doctor`.
#[derive(clap::Args)]
pub struct Doctor {
    /// Findings as a JSON array
    #[arg(long)]
    json: bool,
}

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is there.
    Good,
    /// It is not there, and something that not everybody needs will not work.
    Absent,
    /// It is not there, and framegate cannot work without it.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    /// What was looked at.
    name: String,
    /// How it stands.
    state: State,
    /// What was found, or what does not work without it.
    detail: String,
    /// The command that helps.
    fix: Option<String>,
}

impl Finding {
    fn good(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), state: State::Good, detail: detail.into(), fix: None }
    }
    fn bad(name: impl Into<String>, state: State, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.into(), state, detail: detail.into(), fix: Some(fix.into()) }
    }
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Failure> {
        let findings = checks::all();
        print(&if self.json { json(&findings) } else { text(&findings) })?;
        if findings.iter().any(|f| f.state == State::Missing) {
            return Err(Failure::quiet(Code::Unusable));
        }
        Ok(())
    }
}

fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|f| f.name.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in findings {
        let mark = match finding.state {
            State::Good => "ok     ",
            State::Absent => "absent ",
            State::Missing => "MISSING",
        };
        let _ = writeln!(out, "{mark}  {:width$}  {}", finding.name, finding.detail);
        if let Some(fix) = &finding.fix {
            let _ = writeln!(out, "         {:width$}  > {fix}", "");
        }
    }
    let of = |state| findings.iter().filter(|f| f.state == state).count();
    let verdict = match of(State::Missing) {
        0 => "everything that is required is there".to_owned(),
        n => format!("{} missing", count(n, "required thing")),
    };
    let _ = writeln!(out, "{verdict}; {} absent", count(of(State::Absent), "optional thing"));
    out
}

fn json(findings: &[Finding]) -> String {
    let list: Vec<_> = findings
        .iter()
        .map(|f| {
            serde_json::json!({
                "name": f.name,
                "state": match f.state {
                    State::Good => "ok",
                    State::Absent => "absent",
                    State::Missing => "missing",
                },
                "detail": f.detail,
                "fix": f.fix,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(list))
}
