//! Machines that kernels are chosen for.

pub mod cpu;
