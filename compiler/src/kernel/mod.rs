//! Scalar expressions, and how the reference evaluator computes them.

mod expr;
mod finished;
pub mod interpret;
mod requantize;
mod spec;
pub(crate) mod text;

pub use expr::{At, Binary, Expr, Literal, Scalar, Unary, operands};
pub use finished::Finished;
pub use requantize::{Added, Each, Requantized, rounded};
pub use spec::{Copy, Epilogue, Kernel, Method, Operand, Packed, Recipe, Row, Stage, Stride, Window, ZeroPoints};
