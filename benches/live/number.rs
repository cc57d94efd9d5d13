//! Reading the burnt-in frame number back, inside framegate: a region of the picture shrunk to one value a block.

use anyhow::Result;
use framegate::source::scene::number_code;
use std::path::Path;

const BLOCKS: u64 = 24;
const BLOCK: f64 = 16.0;

/// The number's part of a picture of this size: left, top, right, bottom as shares of the picture.
pub fn region((width, height): (usize, usize)) -> [f64; 4] {
    [0.0, 0.0, BLOCKS as f64 * BLOCK / width as f64, BLOCK / height as f64]
}

/// The number that these luma values of the blocks say; `None` where its check fails.
pub fn read(values: &[f64]) -> Option<u64> {
    if values.len() != BLOCKS as usize {
        return None;
    }
    let code = values.iter().fold(0u32, |code, &v| (code << 1) | u32::from(v > 128.0));
    let n = u64::from(code >> 8);
    (number_code(n) == code).then_some(n)
}

/// Writes a model that gives its input back, and its card: what the `tensor` stage reads the number with.
pub fn write_model(dir: &Path) -> Result<()> {
    std::fs::write(dir.join("number.onnx"), identity(&[1, 1, 1, BLOCKS]))?;
    let card = "[input]\nlayout = \"nchw\"\nchannels = \"gray\"\nfit = \"stretch\"\n";
    Ok(std::fs::write(dir.join("number.toml"), card)?)
}

/// An ONNX model (protocol buffers, opset 13) of one Identity node over float32 of this shape.
fn identity(shape: &[u64]) -> Vec<u8> {
    let dims: Vec<u8> = shape.iter().flat_map(|&d| message(1, &varint(1, d))).collect();
    let tensor = [varint(1, 1), message(2, &dims)].concat();
    let value = |name: &str| [message(1, name.as_bytes()), message(2, &message(1, &tensor))].concat();
    let node = [message(1, b"in"), message(2, b"out"), message(3, b"same"), message(4, b"Identity")].concat();
    let graph =
        [message(1, &node), message(2, b"number"), message(11, &value("in")), message(12, &value("out"))].concat();
    let opset = [message(1, b""), varint(2, 13)].concat();
    [varint(1, 8), message(7, &graph), message(8, &opset)].concat()
}

fn raw(mut v: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
    out
}

fn varint(field: u64, v: u64) -> Vec<u8> {
    [raw(field << 3), raw(v)].concat()
}

fn message(field: u64, bytes: &[u8]) -> Vec<u8> {
    [raw((field << 3) | 2), raw(bytes.len() as u64), bytes.to_vec()].concat()
}
