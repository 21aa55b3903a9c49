//! Quantized values on a GPU: products and convolutions of bytes less their zero points, and the range that values are quantized by.

use super::super::{Printer, int};
use super::epilogue::{Centre, Ends, First};
use super::products::{Dense, Right};
use super::sheet::Sheet;
use super::windows::Filters;
use super::{COUNTERS, Kernels, Launch};
use crate::kernel::Kernel;
use crate::plan::sums_at;
use crate::target::Element;
use quote::quote;

/// Threads of a block that looks for the ends of a range, values that each looks at, and blocks at most.
const THREADS: usize = 256;
const EACH: usize = 16;
const BLOCKS: usize = 512;

impl Printer<'_> {
    pub(super) fn int_gemm_on_gpu(&self, s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::IntGemm { m, n, k, a, a_row, a_zero, out_row, b, zeros, epilogue } = &s.step.kernel else { return Vec::new() };
        let first = First::Centre(Centre { zero: *a_zero, columns: (b, sums_at(*n, *k)), zeros: zeros.as_ref() });
        let ends = Ends { first, epilogue: epilogue.as_ref() };
        let dense = Dense { sizes: (m, *n, *k), left: (*a, a_row), right: Right::Columns(b), element: Element::Byte, out_row, ends };
        self.dense_on_gpu(s, &dense, kernels)
    }

    pub(super) fn int_conv_on_gpu(&self, s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::IntConv { window, k, depthwise, x, zero, weights, zeros, epilogue } = &s.step.kernel else { return Vec::new() };
        let depth = window.c.as_int().unwrap_or(0) as usize * window.kernel.iter().product::<usize>();
        let (groups, element, first) = match depthwise {
            // What is not in the image is left out there, so nothing is left of zero points behind.
            Some(wide) => (*k, if *wide { Element::Short } else { Element::Byte }, First::Nothing),
            None => {
                (1, Element::Byte, First::Centre(Centre { zero: *zero, columns: (weights, sums_at(*k, depth)), zeros: zeros.as_ref() }))
            }
        };
        let ends = Ends { first, epilogue: epilogue.as_ref() };
        self.filters_on_gpu(s, &Filters { window, k: *k, groups, x: *x, weights, element, zero: Some(*zero), ends }, kernels)
    }

    pub(super) fn calibrate_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Calibrate { x, n } = &s.step.kernel else { return Vec::new() };
        let (x, count) = (s.reads(*x), s.extent(n));
        let (scale, zero) = (s.writes(s.step.outputs[0]), s.writes(s.step.outputs[1]));
        kernels.partial = kernels.partial.max(BLOCKS * 2 * size_of::<f32>());
        let behind = int(COUNTERS * size_of::<u32>());
        let counter = s.word("unsigned*", quote!(f.device_scratch(0)));
        let partial = s.word("float*", quote!(f.device_scratch(#behind)));
        let (blocks, most) = (self.blocks(n, THREADS * EACH), int(BLOCKS));
        let grid = [quote!((#blocks).clamp(1, #most)), quote!(1), quote!(1)];
        let shared = THREADS / 32 * size_of::<f32>();
        s.launch(kernels, grid, THREADS, shared, &format!("calibrate({x}, {count}, {scale}, {zero}, {partial}, {counter});"))
    }
}
