//! Scalar expressions, and how the reference evaluator computes them.

mod expr;
pub mod interpret;

pub use expr::{At, Binary, Expr, Literal, Scalar, Unary, operands};
