//! `framegate check`: every error and warning of a pipeline file at once.

use super::{Failure, PipelineFile, count, parse_set, print, wrong};
use framegate::config;
use std::path::PathBuf;

/// Arguments of `check`.
#[derive(clap::Args)]
pub struct Check {
    /// The pipeline file
    #[arg(value_name = "FILE.toml", required_unless_present = "schema")]
    file: Option<PathBuf>,
    /// Change a key of the file, as in `run`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_set)]
    set: Vec<(String, String)>,
    /// Findings as a JSON array on standard output
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of pipeline files, for editors
    #[arg(long, conflicts_with_all = ["file", "json", "set"])]
    schema: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Some(file) = self.file else {
            return print(&format!("{:#}\n", config::json_schema()));
        };
        if !self.json {
            let file = PipelineFile { file, set: self.set };
            let pipeline = file.load()?;
            return print(&format!(
                "{} is right: {}, {}, {}, {}\n",
                file.file.display(),
                count(pipeline.sources.len(), "source"),
                count(pipeline.stages.len(), "stage"),
                count(pipeline.sinks.len(), "sink"),
                count(pipeline.rungs.len(), "rung"),
            ));
        }
        let (result, findings) = match config::load(&file, &self.set) {
            Ok((_, warnings)) => (Ok(()), warnings),
            Err(findings) => (Err(Failure::quiet(wrong(&findings))), findings),
        };
        print(&format!("{:#}\n", findings.to_json()))?;
        result
    }
}
