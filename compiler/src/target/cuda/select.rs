//! Which kernels of a plan a GPU computes, and how their constants are packed for it.

use super::{Element, Precision};
use crate::ir::{Dim, Graph, Type, ValueId, product};
use crate::kernel::{Arrangement, Kernel, Operand, Packed, Recipe, Row, ZeroPoints};
use crate::ops::{Call, CallArg};
use kiln_kernels::dtype::DType;
use kiln_kernels::gemm::narrow::Coding;

/// Elements of a row that a block keeps in shared memory: what is left of 227 KiB, the most that a block can have on sm_90, is little; on
/// sm_80 it is 163 KiB.
const ROW: i64 = 163 * 256 - 64;

/// Values that a kernel reads and writes at most: launches have room for as many arguments, extents among them.
const VALUES: usize = 40;

/// Blocks of a grid along its second and third axis at most.
const LAYERS: i64 = 65535;

/// Images that one kernel normalizes at most: each has a counter.
const IMAGES: i64 = 1 << 14;

/// Columns of keys and values that attention keeps in registers and shared memory.
const DEPTH: i64 = 256;

/// Why the GPU does not compute a kernel of these operands and results; `None` where it does.
pub fn refusal(g: &Graph, kernel: &Kernel, inputs: &[Option<ValueId>], outputs: &[ValueId]) -> Option<&'static str> {
    let values = || inputs.iter().flatten().chain(outputs);
    if values().any(|v| !matches!(g.ty(*v), Type::Tensor(..)) || !crate::layout::fits(g, *v)) {
        return Some("its operands or results are of sizes that data decides, or no tensors of numbers");
    }
    if values().count() > VALUES {
        return Some("it has more operands than a launch has room for");
    }
    let plain = |d: DType| {
        use DType::*;
        matches!(d, F32 | F16 | Bf16 | F64 | I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64 | Bool)
    };
    if !values().all(|v| plain(g.dtype(*v))) {
        return Some("it has elements of a type that kernels of the GPU do not read");
    }
    let floats = || outputs.iter().all(|v| matches!(g.dtype(*v), DType::F32 | DType::Bool) || kernel.epilogue().is_some());
    let constant = |d: &Dim| d.as_int().is_some();
    let layers = match kernel {
        Kernel::MatMul { batch, .. } | Kernel::Attend { batch, .. } => product(batch),
        Kernel::GlobalMean { n, .. } => n.clone(),
        _ => Dim::int(1),
    };
    if layers.as_int().is_some_and(|n| n > LAYERS) {
        return Some("its batch is larger than a grid of blocks");
    }
    match kernel {
        Kernel::Map { .. } | Kernel::Move { .. } | Kernel::Dims { .. } => None,
        Kernel::Conv { window, .. } | Kernel::IntConv { window, .. } if !constant(&window.c) => Some("its channels are open"),
        Kernel::IntGemm { .. } | Kernel::IntConv { .. } | Kernel::Calibrate { .. } => None,
        Kernel::NarrowGemm { coding: Coding::Fixed, .. } => Some("its weights are of fixed point, which is the CPU's"),
        Kernel::Conv { .. } | Kernel::Gemm { .. } | Kernel::NarrowGemm { .. } | Kernel::MatMul { .. } if floats() => None,
        Kernel::Pool { window, .. } => {
            let [float, byte] = [DType::F32, DType::U8].map(|t| values().all(|v| g.dtype(*v) == t));
            if !float && !byte {
                Some("it pools elements of another type than f32 and u8")
            } else {
                (!constant(&window.c)).then_some("its channels are open")
            }
        }
        Kernel::GlobalMean { .. } | Kernel::Rotary { .. } | Kernel::Resize { .. } => None,
        Kernel::PixelNorm { sizes: [n, _, groups, channels], .. } if floats() => {
            let images = n.as_int().is_some_and(|n| n <= IMAGES);
            (!images || !constant(groups) || !constant(channels)).then_some("its images are open, or too many, or its channels are open")
        }
        Kernel::Softmax { dims: [_, n, _], .. } => long(n),
        Kernel::Rows { op: Row::Reduce(fold), .. } if !FOLDS.contains(fold) => Some("it folds rows in a way that has no kernel"),
        Kernel::Rows { n, .. } => long(n),
        Kernel::Attend { sizes: [_, _, depth, width], q, k, v, out, .. } => {
            let neighbours = |o: &Operand| o.strides.last().is_some_and(|s| s.is(1));
            let last = out.last().is_some_and(|s| s.is(1));
            let small = [depth, width].iter().all(|d| d.as_int().is_some_and(|d| (1..=DEPTH).contains(&d)));
            if !small {
                Some("its heads are open, or wider than 256 columns")
            } else {
                (![q, k, v].into_iter().all(neighbours) || !last).then_some("its columns are no neighbours in memory")
            }
        }
        Kernel::Call(c) => called(c),
        _ => Some("there is no kernel for it"),
    }
}

/// Why the GPU does not compute a kernel of the table; `None` where it does.
fn called(c: &Call) -> Option<&'static str> {
    let float = c.types.first() == Some(&DType::F32);
    let extents = |of: usize| c.args.iter().filter_map(|a| if let CallArg::Dims(d) = a { Some(&d[..]) } else { None }).nth(of);
    let within = |d: Option<Dim>, most: i64| d.and_then(|d| d.as_int()).is_some_and(|n| n <= most);
    match c.entry {
        "gather::gather" | "gather::lookup" if float => None,
        "sort::top_k" if c.types.iter().all(|t| *t == DType::F32 || t.is_int() && t.size() <= 4) => {
            let axis = c.args.iter().filter_map(|a| if let CallArg::Dim(d) = a { Some(d.clone()) } else { None }).nth(1);
            (!within(axis, SORTED)).then_some("its axis is open, or does not fit shared memory")
        }
        "scatter::scatter_elements" => {
            let axis = c.args.iter().find_map(|a| if let CallArg::Dim(d) = a { d.as_int() } else { None });
            let count = axis.and_then(|axis| extents(1)?.get(axis as usize).cloned());
            (!within(count, UPDATES)).then_some("its updates of a line are open, or too many to look for")
        }
        "scatter::scatter_nd" => {
            let rows = extents(1).and_then(|i| Some(product(i.split_last()?.1)));
            (!within(rows, UPDATES)).then_some("its updates are open, or too many to look for")
        }
        _ => Some("there is no kernel for it"),
    }
}

/// Elements of an axis that a block sorts in shared memory at most.
const SORTED: i64 = 1 << 14;

/// Updates that an element of the result looks through at most.
const UPDATES: i64 = 1 << 12;

/// The folds of rows that have a kernel.
const FOLDS: [&str; 7] = ["Sum", "Mean", "Max", "Min", "SumSquare", "L1", "L2"];

fn long(n: &Dim) -> Option<&'static str> {
    match n.as_int() {
        Some(n) if n <= ROW => None,
        Some(_) => Some("its rows do not fit shared memory"),
        None => Some("its rows are of an open length"),
    }
}

/// Has the constants of a kernel packed as the GPU reads them.
pub fn pack(kernel: &mut Kernel, precision: Precision) {
    let element = Element::from(precision);
    match kernel {
        Kernel::Gemm { n, k, b, bias, .. } => {
            b.recipe = Recipe::Columns { k: *k, n: *n, axis: 0, element };
            raw(bias);
        }
        Kernel::NarrowGemm { coding: Coding::Blocks { .. }, codes, scales, zeros, bias, .. } => {
            let zeros = match zeros {
                ZeroPoints::Same(_) => None,
                ZeroPoints::Each(z) | ZeroPoints::Floats(z) => Some(z),
            };
            for p in std::iter::once(codes).chain(scales).chain(zeros) {
                if let Recipe::Codes { arrangement, .. } | Recipe::Blocks { arrangement, .. } = &mut p.recipe {
                    *arrangement = Arrangement::Columns;
                }
            }
            raw(bias);
        }
        // Floats of 16 bits become those of the precision.
        Kernel::NarrowGemm { m, n, k, a, a_row, out_row, codes, bias, epilogue, .. } => {
            let axis = if let Recipe::Halves { axis, .. } = codes.recipe { axis } else { 0 };
            let b = Packed { value: codes.value, recipe: Recipe::Columns { k: *k, n: *n, axis, element } };
            raw(bias);
            *kernel = Kernel::Gemm {
                m: m.clone(),
                n: *n,
                k: *k,
                a: *a,
                a_row: a_row.clone(),
                out_row: out_row.clone(),
                b,
                bias: bias.take(),
                epilogue: epilogue.take(),
            };
        }
        Kernel::IntGemm { n, k, b, .. } => b.recipe = Recipe::Columns { k: *k, n: *n, axis: 0, element: Element::Byte },
        Kernel::IntConv { window, k, depthwise, weights, .. } => {
            let (c, k, taps) = (window.c.as_int().unwrap_or(0) as usize, *k, window.kernel.iter().product());
            weights.recipe = match depthwise {
                None => Recipe::Filters { c, k, taps, element: Element::Byte },
                Some(wide) => Recipe::Taps { c: 1, k, taps, element: if *wide { Element::Short } else { Element::Byte } },
            };
        }
        Kernel::Conv { window, k, groups, weights, bias, .. } => {
            let (c, taps) = (window.c.as_int().unwrap_or(0) as usize / (*groups).max(1), window.kernel.iter().product());
            weights.recipe = match *groups {
                1 => Recipe::Filters { c, k: *k, taps, element },
                _ => Recipe::Taps { c, k: *k, taps, element },
            };
            raw(bias);
        }
        _ => {}
    }
}

fn raw(bias: &mut Option<Packed>) {
    if let Some(b) = bias {
        b.recipe = Recipe::Raw;
    }
}
