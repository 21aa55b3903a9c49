//! The `model!` macro: arguments with spans in, the compiler's output out.
