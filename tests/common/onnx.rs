//! Writes small ONNX models for tests: one node, one input, one output.

/// An axis: a number or a name.
#[derive(Clone, Copy)]
pub enum Dim {
    Fixed(u64),
    Named(&'static str),
}

/// Element types by their numbers in the format.
pub const F32: u64 = 1;
pub const U8: u64 = 2;
pub const F16: u64 = 10;

fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn number(out: &mut Vec<u8>, field: u64, v: u64) {
    varint(out, field << 3);
    varint(out, v);
}

fn bytes(out: &mut Vec<u8>, field: u64, data: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, data.len() as u64);
    out.extend_from_slice(data);
}

fn value(name: &str, element: u64, dims: &[Dim]) -> Vec<u8> {
    let mut shape = Vec::new();
    for d in dims {
        let mut dim = Vec::new();
        match d {
            Dim::Fixed(n) => number(&mut dim, 1, *n),
            Dim::Named(s) => bytes(&mut dim, 2, s.as_bytes()),
        }
        bytes(&mut shape, 1, &dim);
    }
    let mut tensor = Vec::new();
    number(&mut tensor, 1, element);
    bytes(&mut tensor, 2, &shape);
    let mut kind = Vec::new();
    bytes(&mut kind, 1, &tensor);
    let mut out = Vec::new();
    bytes(&mut out, 1, name.as_bytes());
    bytes(&mut out, 2, &kind);
    out
}

/// A model that applies `op` to `x` and gives `y`.
pub fn model(op: &str, x: (u64, &[Dim]), y: (u64, &[Dim])) -> Vec<u8> {
    let mut node = Vec::new();
    bytes(&mut node, 1, b"x");
    bytes(&mut node, 2, b"y");
    bytes(&mut node, 4, op.as_bytes());
    let mut graph = Vec::new();
    bytes(&mut graph, 1, &node);
    bytes(&mut graph, 2, b"test");
    bytes(&mut graph, 11, &value("x", x.0, x.1));
    bytes(&mut graph, 12, &value("y", y.0, y.1));
    let mut opset = Vec::new();
    number(&mut opset, 2, 17);
    let mut out = Vec::new();
    number(&mut out, 1, 8);
    bytes(&mut out, 7, &graph);
    bytes(&mut out, 8, &opset);
    out
}
