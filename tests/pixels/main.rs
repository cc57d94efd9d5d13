//! The fused pixel pass against an independent double-precision implementation of its arithmetic.

#[path = "../common/mod.rs"]
mod common;

mod check;
mod contract;
mod real;
mod reference;
mod synthetic;
