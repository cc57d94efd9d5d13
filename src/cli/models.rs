//! `framegate models`: the model cards there are, and what one says.

use super::{Code, Failure, print};
use framegate::config::search_folders;
use framegate::infer::card::{Card, Labels, Named};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Arguments of `models`.
#[derive(clap::Args)]
pub struct Models {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Name every model card in the search folders
    List,
    /// Show what a card says, and whether its model is there and the right one
    Show {
        /// A card's name, or the path of a card or a model
        #[arg(value_name = "NAME|PATH")]
        model: String,
    },
}

/// Folders with cards: `models/` in each of those in which a pipeline here would look.
fn folders() -> Vec<PathBuf> {
    search_folders(Path::new("pipeline.toml")).into_iter().map(|f| f.join("models")).filter(|f| f.is_dir()).collect()
}

/// The cards in the folders, by name; one that stands in several is the first folder's.
fn cards() -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for folder in folders() {
        // A folder that cannot be read holds nothing for us.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
            if path.extension().is_some_and(|e| e == "toml") && !found.iter().any(|(n, _)| *n == name) {
                found.push((name, path));
            }
        }
    }
    found.sort();
    found
}

/// What a model is for, as far as its card says.
fn purpose(card: &Card) -> String {
    match (&card.decode, &card.locator) {
        (Some(decode), _) => format!("detector, {}", decode.family()),
        (None, Some(locator)) => {
            format!("locator, within {} m by its confidence, of {}", locator.within_m, locator.world.display())
        }
        (None, None) => "no detector, or recognised by itself".into(),
    }
}

impl Models {
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::List => list(),
            Command::Show { model } => show(&model),
        }
    }
}

fn list() -> Result<(), Failure> {
    let cards = cards();
    let width = cards.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = String::new();
    for (name, path) in &cards {
        let state = match (Card::read(path), Named::read(path)) {
            (Err(error), _) => format!("the card is wrong: {error}"),
            (Ok(card), Ok(_)) => format!("there       {}", purpose(&card)),
            (Ok(card), Err(_)) => format!("not there   {}", purpose(&card)),
        };
        let _ = writeln!(out, "{name:width$}  {state}");
    }
    if cards.is_empty() {
        let searched = search_folders(Path::new("pipeline.toml"));
        let searched: Vec<_> = searched.iter().map(|f| f.join("models").display().to_string()).collect();
        tracing::warn!("no model cards in {}", searched.join(", "));
    }
    print(&out)
}

fn show(model: &str) -> Result<(), Failure> {
    let known = cards();
    let path = match known.iter().find(|(name, _)| name == model) {
        Some((_, path)) => path.clone(),
        None if Path::new(model).is_file() => model.into(),
        None => {
            let names: Vec<_> = known.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Failure::wrong(format_args!("no card `{model}`; there are: {}", names.join(", "))));
        }
    };
    let is_card = path.extension().is_some_and(|e| e == "toml");
    let card = if is_card { Card::read(&path).map_err(|e| Failure::new(Code::Unusable, e))? } else { Card::default() };
    let mut out = format!("{}\n", path.display());
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let _ = writeln!(out, "  {key:<10} {value}");
        }
    };
    line("kind", is_card.then(|| purpose(&card)));
    line("input", card.input.size.map(|[w, h]| format!("{w}x{h}")));
    line(
        "labels",
        card.labels.as_ref().map(|labels| match labels {
            Labels::File(file) => file.display().to_string(),
            Labels::List(names) => names.join(", "),
        }),
    );
    line("threshold", card.threshold.map(|t| t.to_string()));
    line("accuracy", card.accuracy.clone());
    line("licence", card.licence.clone());
    line("source", card.source.clone());
    line("notes", card.notes.clone());
    let usable = Named::read(&path).and_then(|named| Ok((named.verify()?, named.file)));
    match &usable {
        Ok((sha256, file)) => {
            line("file", Some(file.display().to_string()));
            line("sha256", Some(sha256.clone()));
        }
        Err(error) => line("file", Some(format!("cannot be used: {error}"))),
    }
    print(&out)?;
    // A script that asks for a model learns from the code whether it can be used.
    usable.map(|_| ()).map_err(|_| Failure::quiet(Code::Unusable))
}
