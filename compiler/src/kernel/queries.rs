//! What passes ask of a kernel, whichever it is: its name, the values that it reads, its packed constants, its tail.

use super::{Epilogue, Kernel, Method, Packed, Row, ZeroPoints};
use crate::ir::ValueId;

impl Kernel {
    /// A word for reports and comments.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Map { .. } => "map",
            Kernel::Conv { method: Method::Depthwise, .. } => "depthwise conv",
            Kernel::Conv { method: Method::Winograd(_), .. } => "winograd conv",
            Kernel::Conv { .. } => "conv",
            Kernel::Strips { .. } => "strips",
            Kernel::Gemm { .. } => "gemm",
            Kernel::NarrowGemm { .. } => "narrow gemm",
            Kernel::GroupedGemm { .. } => "grouped gemm",
            Kernel::IntGemm { .. } => "integer gemm",
            Kernel::IntConv { depthwise: Some(_), .. } => "depthwise integer conv",
            Kernel::IntConv { .. } => "integer conv",
            Kernel::Calibrate { .. } => "range",
            Kernel::MatMul { .. } => "matmul",
            Kernel::Pool { .. } => "pool",
            Kernel::GlobalMean { .. } => "global mean",
            Kernel::Response { .. } => "local response",
            Kernel::Resize { .. } => "resize",
            Kernel::Softmax { .. } => "softmax",
            Kernel::Attend { .. } => "attend",
            Kernel::Rows { op: Row::Norm { .. }, .. } => "layer norm",
            Kernel::Rows { op: Row::GroupNorm { .. }, .. } | Kernel::PixelNorm { .. } => "group norm",
            Kernel::Rows { op: Row::Softmax { .. }, .. } => "softmax",
            Kernel::Rows { op: Row::LpNorm { .. }, .. } => "lp norm",
            Kernel::Rows { op: Row::Reduce(_), .. } => "reduce",
            Kernel::Rotary { .. } => "rotary",
            Kernel::Trees { .. } => "trees",
            Kernel::Move { .. } => "copy",
            Kernel::Call(c) => c.entry,
            Kernel::Dims { .. } => "dims",
            Kernel::Host(h) => h.name,
        }
    }
    /// The packed constants it reads.
    pub fn packed(&self) -> Vec<&Packed> {
        match self {
            Kernel::Conv { weights, bias, .. }
            | Kernel::Gemm { b: weights, bias, .. }
            | Kernel::IntGemm { b: weights, zeros: bias, .. }
            | Kernel::IntConv { weights, zeros: bias, .. } => std::iter::once(weights).chain(bias).collect(),
            Kernel::NarrowGemm { codes, scales, zeros, bias, .. } => {
                let zeros = match zeros {
                    ZeroPoints::Same(_) => None,
                    ZeroPoints::Each(z) | ZeroPoints::Floats(z) => Some(z),
                };
                std::iter::once(codes).chain(scales).chain(zeros).chain(bias).collect()
            }
            Kernel::GroupedGemm { b: weights, .. } | Kernel::Trees { forest: weights, .. } => vec![weights],
            Kernel::Strips { .. } => self.parts().into_iter().flat_map(Kernel::packed).collect(),
            _ => Vec::new(),
        }
    }
    /// The kernels that it computes one behind the other: itself, or the parts it has.
    pub fn parts(&self) -> Vec<&Kernel> {
        match self {
            Kernel::Strips { before, middle, behind } => before.iter().chain([middle]).chain(behind).map(|k| &**k).collect(),
            _ => vec![self],
        }
    }
    /// The pointwise tail.
    pub fn epilogue(&self) -> Option<&Epilogue> {
        match self {
            Kernel::Conv { epilogue, .. }
            | Kernel::Gemm { epilogue, .. }
            | Kernel::GroupedGemm { epilogue, .. }
            | Kernel::NarrowGemm { epilogue, .. }
            | Kernel::IntGemm { epilogue, .. }
            | Kernel::IntConv { epilogue, .. }
            | Kernel::MatMul { epilogue, .. }
            | Kernel::PixelNorm { epilogue, .. } => epilogue.as_ref(),
            Kernel::Strips { middle, behind, .. } => behind.as_ref().unwrap_or(middle).epilogue(),
            _ => None,
        }
    }

    /// Replaces the values it reads.
    pub fn map_values(&mut self, of: &dyn Fn(ValueId) -> ValueId) {
        let operands = |e: &mut Option<Epilogue>| {
            for o in e.iter_mut().flat_map(|e| &mut e.operands) {
                o.value = of(o.value);
            }
        };
        match self {
            Kernel::Map { operands, .. } => operands.iter_mut().for_each(|o| o.value = of(o.value)),
            Kernel::Rotary { operands, .. } => operands.iter_mut().for_each(|o| o.value = of(o.value)),
            Kernel::Conv { x, epilogue, .. } => {
                *x = of(*x);
                operands(epilogue);
            }
            Kernel::Strips { before, middle, behind } => {
                before.iter_mut().chain([middle]).chain(behind).for_each(|k| k.map_values(of));
            }
            Kernel::Gemm { a, epilogue, .. } | Kernel::NarrowGemm { a, epilogue, .. } => {
                *a = of(*a);
                operands(epilogue);
            }
            Kernel::GroupedGemm { a, indices, epilogue, .. } => {
                (a.value, *indices) = (of(a.value), of(*indices));
                operands(epilogue);
            }
            Kernel::IntGemm { a, a_zero, epilogue, .. } | Kernel::IntConv { x: a, zero: a_zero, epilogue, .. } => {
                (*a, *a_zero) = (of(*a), of(*a_zero));
                operands(epilogue);
            }
            Kernel::PixelNorm { x, scale, bias, epilogue, .. } => {
                (*x, *scale, *bias) = (of(*x), of(*scale), of(*bias));
                operands(epilogue);
            }
            Kernel::MatMul { a, b, epilogue, .. } => {
                a.value = of(a.value);
                b.value = of(b.value);
                operands(epilogue);
            }
            Kernel::Pool { x, .. } | Kernel::GlobalMean { x, .. } | Kernel::Response { x, .. } | Kernel::Resize { x, .. } => *x = of(*x),
            Kernel::Softmax { x, .. } | Kernel::Calibrate { x, .. } | Kernel::Trees { x, .. } => *x = of(*x),
            Kernel::Attend { q, k, v, mask, .. } => {
                [q, k, v].into_iter().chain(mask).for_each(|o| o.value = of(o.value));
            }
            Kernel::Rows { op, x, head, tail, .. } => {
                let stages = head.iter_mut().chain(tail).flat_map(|s| &mut s.operands).map(|o| &mut o.value);
                x.iter_mut().chain(op.values_mut()).chain(stages).for_each(|v| *v = of(*v));
            }
            Kernel::Move { .. } | Kernel::Call(_) | Kernel::Dims { .. } | Kernel::Host(_) => {}
        }
    }
    /// The values it reads by pointer, beside the operands of its step.
    pub fn values(&self) -> Vec<ValueId> {
        let tail = || self.epilogue().into_iter().flat_map(|e| e.operands.iter().map(|o| o.value));
        match self {
            Kernel::Map { operands, .. } => operands.iter().map(|o| o.value).collect(),
            Kernel::Rotary { operands, .. } => operands.iter().map(|o| o.value).collect(),
            Kernel::Conv { x, .. } | Kernel::Gemm { a: x, .. } | Kernel::NarrowGemm { a: x, .. } => {
                std::iter::once(*x).chain(tail()).collect()
            }
            Kernel::Strips { .. } => {
                // The first part's operand, and what is beside the others'.
                let parts = self.parts();
                let of = |(i, k): (usize, &&Kernel)| k.values().into_iter().skip(usize::from(i > 0)).collect::<Vec<_>>();
                parts.iter().enumerate().flat_map(of).collect()
            }
            Kernel::GroupedGemm { a, indices, .. } => [a.value, *indices].into_iter().chain(tail()).collect(),
            Kernel::IntGemm { a, a_zero, .. } | Kernel::IntConv { x: a, zero: a_zero, .. } => {
                [*a, *a_zero].into_iter().chain(tail()).collect()
            }
            Kernel::PixelNorm { x, scale, bias, .. } => [*x, *scale, *bias].into_iter().chain(tail()).collect(),
            Kernel::MatMul { a, b, .. } => [a.value, b.value].into_iter().chain(tail()).collect(),
            Kernel::Pool { x, .. } | Kernel::GlobalMean { x, .. } | Kernel::Response { x, .. } | Kernel::Resize { x, .. } => vec![*x],
            Kernel::Softmax { x, .. } | Kernel::Calibrate { x, .. } | Kernel::Trees { x, .. } => vec![*x],
            Kernel::Attend { q, k, v, mask, .. } => [q, k, v].into_iter().chain(mask).map(|o| o.value).collect(),
            Kernel::Rows { op, x, head, tail, .. } => {
                let stages = head.iter().chain(tail).flat_map(|s| &s.operands).map(|o| o.value);
                x.iter().copied().chain(op.values()).chain(stages).collect()
            }
            Kernel::Move { .. } | Kernel::Call(_) | Kernel::Dims { .. } | Kernel::Host(_) => Vec::new(),
        }
    }
    /// Whether it reads the operands of its step by position, rather than the values it names.
    pub fn by_position(&self) -> bool {
        matches!(self, Kernel::Move { .. } | Kernel::Call(_) | Kernel::Dims { .. } | Kernel::Host(_))
    }
}
