//! Scalar expressions, and how the reference evaluator computes them.

mod expr;
mod finished;
pub mod interpret;
mod packed;
mod parts;
mod queries;
mod requantize;
mod spec;
pub(crate) mod text;

pub use expr::{At, Binary, Expr, Literal, Scalar, Unary, operands};
pub use finished::Finished;
pub use packed::{Arrangement, Packed, Recipe, ZeroPoints};
pub use parts::{Copy, Epilogue, Method, Operand, Row, Stage, Stride, Window};
pub use requantize::{Added, Each, Requantized, rounded};
pub use spec::Kernel;
