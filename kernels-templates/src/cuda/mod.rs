//! The sources of CUDA kernels, as text: templates that printed kernels instantiate, and the emulator that stands in for a GPU.

/// A source file by the name that others include it by.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// Its name, such as `gemm/tile.cuh`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! sources {
    ($($name:literal in $path:literal),* $(,)?) => { &[$(Source { name: $name, text: include_str!($path) }),*] };
}

/// The templates, each behind those that it includes.
pub const TEMPLATES: &[Source] = sources![
    "prims/elements.cuh" in "prims/elements.cuh",
    "prims/threads.cuh" in "prims/threads.cuh",
    "prims/copies.cuh" in "prims/copies.cuh",
    "prims/units.cuh" in "prims/units.cuh",
    "prims/groups.cuh" in "prims/groups.cuh",
    "prims/bulk.cuh" in "prims/bulk.cuh",
    "prims.cuh" in "prims.cuh",
    "scalar.cuh" in "scalar.cuh",
    "each.cuh" in "each.cuh",
    "split.cuh" in "split.cuh",
    "gemm/tile.cuh" in "../gemm/tile.cuh",
    "gemm/stream.cuh" in "../gemm/stream.cuh",
    "gemm/few_rows.cuh" in "../gemm/few_rows.cuh",
    "gemm/narrow/codes.cuh" in "../gemm/narrow/codes.cuh",
    "conv/pixels.cuh" in "../conv/pixels.cuh",
    "conv/grouped.cuh" in "../conv/grouped.cuh",
    "rows/rows.cuh" in "../rows/rows.cuh",
    "attention/attend.cuh" in "../attention/attend.cuh",
    "attention/parts.cuh" in "../attention/parts.cuh",
    "attention/few.cuh" in "../attention/few.cuh",
    "attention/tiles.cuh" in "../attention/tiles.cuh",
    "pool/pool.cuh" in "../pool/pool.cuh",
    "norm/pixels.cuh" in "../norm/pixels.cuh",
    "resize/image.cuh" in "../resize/image.cuh",
    "rotary/rotate.cuh" in "../rotary/rotate.cuh",
    "gather/gather.cuh" in "../gather/gather.cuh",
    "scatter/scatter.cuh" in "../scatter/scatter.cuh",
    "sort/top.cuh" in "../sort/top.cuh",
    "quantize/range.cuh" in "../quantize/range.cuh",
];

/// What a host compiler needs to run kernels without a GPU: the emulator, and the driver library that stands in for `libcuda.so.1`.
pub const EMULATOR: &[Source] = sources![
    "emulator.h" in "emulator.h",
    "emulator_host.h" in "emulator_host.h",
    "emulator_races.h" in "emulator_races.h",
    "emulator_async.h" in "emulator_async.h",
    "emulator.cpp" in "emulator.cpp",
    "driver.cpp" in "driver.cpp",
];
