//! What generated code uses: not for people, and not stable.

pub use crate::__single_input as single_input;
pub use crate::cuda::{DeviceSpec, Rows};
pub use crate::error::Fail;
pub use crate::frame::{Frame, Shared};
pub use crate::instance::{Input, Instance};
pub use crate::memory::Life;
pub use crate::model::Model;
pub use crate::spec::{Algorithm, ArenaSpec, Digits, Kernel, OutPlace, Port, PortDim, PortKind, Spec, Symbol, Work};
pub use crate::state::{Next, Pair, StateSpec};
pub use crate::view::AsInput;
pub use kiln_kernels as kernels;
pub use kiln_kernels::dtype::DType;
pub use kiln_kernels::isa::Isa;

use kiln_kernels::entry::Answer;
use kiln_kernels::fault::Fault;
use kiln_kernels::index::for_each;
use kiln_kernels::transpose::Copy;
use kiln_kernels::value::{Tensor, Value};

/// What a step answers.
pub type Done = Result<(), Fail>;

/// The version of the contract between generated code and this runtime.
const ABI: u32 = 4;

/// Stops the build when generated code was made for another runtime.
pub const fn abi(wanted: u32, _compiler: &'static str) {
    assert!(
        wanted == ABI,
        "this model was compiled by another version of kiln than the runtime it is linked to; use the same version of both"
    );
}

/// The elements at an address.
///
/// # Safety
/// As of [`core::slice::from_raw_parts`], except that `len` 0 goes with any address.
pub unsafe fn slice<'a, T>(at: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: passed on from the caller.
    unsafe { core::slice::from_raw_parts(at, len) }
}

/// The elements at an address, to be written.
///
/// # Safety
/// As of [`core::slice::from_raw_parts_mut`], except that `len` 0 goes with any address.
pub unsafe fn slice_mut<'a, T>(at: *mut T, len: usize) -> &'a mut [T] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: passed on from the caller.
    unsafe { core::slice::from_raw_parts_mut(at, len) }
}

/// A kernel's answer with the line of its node.
///
/// # Errors
/// The kernel's fault.
pub fn answer(line: u32, a: impl Answer) -> Done {
    a.answer().map_err(|f| Fail::Fault(line, f))
}

/// A fault that only text describes.
pub fn fault(line: u32, text: &str) -> Fail {
    Fail::Fault(line, Fault::Domain(text.into()))
}

/// A string tensor.
pub fn strings(dims: &[usize], text: &[&str]) -> Value {
    Tensor::strings(dims, text.iter().map(|s| s.to_string()).collect()).into()
}

/// Copies a region between two tensors, over the threads when it is large.
///
/// # Errors
/// A worker panicked.
pub fn copy<T: core::marker::Copy>(
    f: &Frame<'_>,
    out: *mut T,
    out_steps: &[isize],
    x: *const T,
    x_steps: &[isize],
    dims: &[usize],
) -> Done {
    let (out, x) = (Shared(out), Shared(x));
    let isa = f.isa;
    match Copy::new(dims, out_steps, x_steps) {
        Some(c) => f.spread(c.tasks(), c.len(), &|task, _| {
            let (out, x) = ({ out }, { x });
            // SAFETY: the plan keeps both regions inside of their tensors, and tasks write disjoint parts.
            unsafe { c.run_task(isa, task, x.0, out.0) }
        }),
        None => {
            // SAFETY: as above.
            unsafe { kiln_kernels::transpose::copy_strided(isa, out.0, out_steps, x.0, x_steps, dims) };
            Ok(())
        }
    }
}

/// A tensor of empty strings, for [`copy_strings`] to fill.
pub fn no_strings(dims: &[usize]) -> Tensor {
    Tensor::zeros(DType::Str, dims)
}

/// Copies a region between two string tensors.
///
/// # Errors
/// `x` is no string tensor, or the region leaves one of the two.
#[allow(clippy::too_many_arguments, reason = "two strided views and what they share")]
pub fn copy_strings(
    line: u32,
    out: &mut Tensor,
    out_start: isize,
    out_steps: &[isize],
    x: &Value,
    x_start: isize,
    x_steps: &[isize],
    dims: &[usize],
) -> Done {
    let Some(x) = x.as_tensor().filter(|x| x.dtype == DType::Str) else {
        return Err(fault(line, "a tensor of strings is needed"));
    };
    let (from, to) = (x.as_strings(), out.strings_mut());
    let at = |start: isize, steps: &[isize], index: &[usize]| {
        let offset: isize = index.iter().zip(steps).map(|(i, s)| *i as isize * s).sum();
        usize::try_from(start + offset).ok()
    };
    let mut inside = true;
    for_each(dims, |index| {
        let source = at(x_start, x_steps, index).and_then(|i| from.get(i));
        let target = at(out_start, out_steps, index).and_then(|i| to.get_mut(i));
        match (target, source) {
            (Some(target), Some(source)) => target.clone_from(source),
            _ => inside = false,
        }
    });
    if inside { Ok(()) } else { Err(fault(line, "a copied region leaves its tensor")) }
}

/// Embeds the file of that path as the function `embedded`, aligned to a cache line. The symbol is named by the contents, weak and
/// in a group of its own, so that two uses of a model in one program share it.
#[macro_export]
#[doc(hidden)]
macro_rules! __embed {
    ($symbol:literal, $path:expr) => {
        core::arch::global_asm!(
            concat!(".pushsection .rodata.", $symbol, ",\"aG\",@progbits,", $symbol, ",comdat"),
            concat!(".weak ", $symbol),
            concat!(".hidden ", $symbol),
            ".balign 4096",
            concat!($symbol, ":"),
            concat!(".incbin \"", $path, "\""),
            ".balign 64",
            ".zero 64",
            ".popsection"
        );

        fn embedded() -> *const u8 {
            unsafe extern "C" {
                #[link_name = $symbol]
                static WEIGHTS: u8;
            }
            &raw const WEIGHTS
        }
    };
}
pub use crate::__embed as embed;

/// Refuses to build a model that needs the feature `images` where it is off.
#[cfg(feature = "images")]
#[macro_export]
#[doc(hidden)]
macro_rules! __images {
    ($why:literal) => {};
}
/// Refuses to build a model that needs the feature `images` where it is off.
#[cfg(not(feature = "images"))]
#[macro_export]
#[doc(hidden)]
macro_rules! __images {
    ($why:literal) => {
        compile_error!($why);
    };
}
pub use crate::__images as images;
