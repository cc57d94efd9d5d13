//! Draws scenes by lot, with their labels: the training data of the demonstration model.
//!
//! ```text
//! cargo run --example draw_scenes -- --seed 1 --count 100 --size 1280x720 -o DIR [--live] [--step N]
//! ```
//!
//! `DIR/frames.i420` holds the pictures one behind the other, each `width * height * 3 / 2` bytes (Y, U, V; BT.709,
//! limited range). `DIR/labels.json` holds their size and, per picture, its objects: class number, x1, y1, x2, y2 in
//! pixels, visible share. Picture i has seed `seed + i`. With `--live` all pictures are frames of the one live scene
//! of that seed, every N-th of them.

use anyhow::{Context, Result, bail};
use clap::Parser;
use framegate::source::scene::{Class, PlanesMut, Scene, SceneConfig};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::PathBuf;

#[derive(Parser)]
struct Args {
    /// Seed of the first scene.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many pictures.
    #[arg(long, default_value_t = 100)]
    count: u64,
    /// Width and height, pixels.
    #[arg(long, default_value = "1280x720")]
    size: String,
    /// Folder to write to.
    #[arg(short, long)]
    output: PathBuf,
    /// Frames of the live scene instead of scenes by lot.
    #[arg(long)]
    live: bool,
    /// Of the live scene, every so many frames.
    #[arg(long, default_value_t = 1)]
    step: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let Some((width, height)) = args.size.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)))
    else {
        bail!("--size {}: expected WIDTHxHEIGHT", args.size);
    };
    fs::create_dir_all(&args.output).with_context(|| format!("cannot make {}", args.output.display()))?;
    let mut frames = BufWriter::with_capacity(1 << 20, File::create(args.output.join("frames.i420"))?);
    let mut labels = Vec::new();
    let mut buffer = vec![0; width * height * 3 / 2];
    let live = if args.live { Some(Scene::new(SceneConfig::live(width, height, 30.0), args.seed)?) } else { None };
    for i in 0..args.count {
        let random;
        let (scene, n) = match &live {
            Some(scene) => (scene, i * args.step),
            None => {
                random = Scene::new(SceneConfig::random(width, height), args.seed + i)?;
                (&random, 0)
            }
        };
        scene.draw(n, &mut PlanesMut::tight((width, height), &mut buffer)?)?;
        frames.write_all(&buffer)?;
        let objects: Vec<_> = scene
            .truth(n)
            .iter()
            .map(|t| {
                let [x1, y1, x2, y2] = t.bbox;
                (t.class as u32, x1, y1, x2, y2, (t.visible * 1000.0).round() / 1000.0)
            })
            .collect();
        labels.push(objects);
    }
    frames.flush()?;
    let names: Vec<_> = Class::ALL.iter().map(|c| c.name()).collect();
    let all = serde_json::json!({"size": [width, height], "seed": args.seed, "classes": names, "pictures": labels});
    fs::write(args.output.join("labels.json"), serde_json::to_vec(&all)?)?;
    Ok(())
}
