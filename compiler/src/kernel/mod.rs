//! Scalar expressions, and how the reference evaluator computes them.

mod expr;
mod spec;
pub mod interpret;

pub use spec::{Copy, Epilogue, Kernel, Operand, Packed, Recipe, Stride, Window};
pub use expr::{At, Binary, Expr, Literal, Scalar, Unary, operands};
