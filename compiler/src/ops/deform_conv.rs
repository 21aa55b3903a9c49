//! DeformConv.

use super::conv::Window;
use super::{Call, CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use kiln_kernels::dtype::DType;

/// [DeformConv](https://onnx.ai/onnx/operators/onnx__DeformConv.html) of images: operands x, w, offset, optional bias, optional mask.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeformConv {
    /// Steps.
    pub strides: Vec<i64>,
    /// Leading, then trailing pads.
    pub pads: Vec<i64>,
    /// Distances of taps.
    pub dilations: Vec<i64>,
    /// Number of groups.
    pub groups: i64,
    /// Groups of channels that share offsets.
    pub offset_groups: i64,
}

impl Operator for DeformConv {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (x, w, offset) = (cx.shape(0), cx.shape(1), cx.shape(2));
        let known: Option<Vec<i64>> = w.iter().chain(x.get(1)).map(Dim::as_int).collect();
        let (Some(known), 4, 4, 4) = (known, x.len(), w.len(), offset.len()) else {
            return Err(Diagnostic::new("DeformConv needs images, weights and offsets of rank 4, and weights of a known shape"));
        };
        let [m, c, kh, kw, channels] = known[..] else { return Err(Diagnostic::new("DeformConv needs weights of rank 4")) };
        let (g, o) = (self.groups, self.offset_groups);
        if g < 1 || o < 1 || c * g != channels || m % g != 0 || channels % o != 0 || !offset[1].is(2 * o * kh * kw) {
            return Err(Diagnostic::new(format!(
                "DeformConv of {channels} channels in {g} groups and {o} offset groups does not fit weights [{}] and offsets [{}]",
                super::cx::list(w),
                super::cx::list(offset)
            )));
        }
        let mut shape = vec![x[0].clone(), w[0].clone()];
        for i in 0..2 {
            let window = ([kh, kw][i] - 1) * self.dilations[i] + 1;
            let span = x[2 + i].clone() + Dim::int(self.pads[i] + self.pads[2 + i] - window);
            let n = span.floor_div(&Dim::int(self.strides[i])) + Dim::int(1);
            if let (Some(a), Some(b)) = (n.as_int(), offset[2 + i].as_int())
                && (a != b || a < 0)
            {
                return Err(Diagnostic::new(format!("DeformConv gives the extent {a} at axis {}, its offsets have {b}", 2 + i)));
            }
            shape.push(n);
        }
        if cx.has(4) && (cx.rank(4) != 4 || cx.shape(4)[1].as_int().is_some_and(|n| n != o * kh * kw)) {
            return Err(Diagnostic::new(format!("the mask of DeformConv has shape [{}]", super::cx::list(cx.shape(4)))));
        }
        if cx.has(3) && cx.shape(3) != &w[..1] {
            return Err(Diagnostic::new(format!("the bias of DeformConv has shape [{}]", super::cx::list(cx.shape(3)))));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::Call(Call {
            entry: "sample::deform_conv",
            types: vec![cx.dtype(0)],
            args: vec![
                CallArg::Out(0),
                CallArg::In(0),
                CallArg::In(1),
                CallArg::In(2),
                CallArg::OptIn(3),
                CallArg::OptIn(4),
                CallArg::Dims(cx.shape(0).to_vec()),
                CallArg::Dims(cx.shape(1).to_vec()),
                CallArg::Dims(cx.out_shape(0).to_vec()),
                CallArg::Ints(self.strides.clone()),
                CallArg::Ints(self.pads[..2].to_vec()),
                CallArg::Ints(self.dilations.clone()),
                CallArg::Dim(Dim::int(self.groups)),
                CallArg::Dim(Dim::int(self.offset_groups)),
            ],
        })
    }
}

/// Reads `DeformConv`.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let (x, w) = (r.ranked(0, 4)?, r.ranked(1, 4)?);
    let kernel: Option<Vec<i64>> = r.shape(w)?[2..].iter().map(Dim::as_int).collect();
    let window = Window::read(r, 2, kernel)?;
    let op = DeformConv {
        strides: window.strides,
        pads: window.pads,
        dilations: window.dilations,
        groups: r.int("group", 1)?,
        offset_groups: r.int("offset_group", 1)?,
    };
    let dtype = r.dtype(x);
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let mut inputs = vec![Some(x), Some(w), Some(r.input(2)?), r.opt(3), r.opt(4)];
    for v in inputs.iter_mut().flatten() {
        *v = r.cast(*v, wide)?;
    }
    let y = r.emit_all(op, inputs, 1)?[0];
    Ok(vec![r.cast(y, dtype)?])
}
