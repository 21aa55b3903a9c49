//! Convolutions of any rank: Conv and ConvTranspose.

use super::quantize::{Signed, unsigned};
use super::{Call, CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::{Diagnostic, shown};
use crate::ir::{Dim, Fact, ValueId};
use kiln_kernels::dtype::DType;

/// [Conv](https://onnx.ai/onnx/operators/onnx__Conv.html): operands x `[N, C, ..]`, w `[M, C/groups, ..]`, optional bias `[M]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Conv {
    /// Step of each spatial axis.
    pub strides: Vec<i64>,
    /// Leading pads, then trailing pads.
    pub pads: Vec<i64>,
    /// Distance of taps along each spatial axis.
    pub dilations: Vec<i64>,
    /// Number of groups.
    pub groups: i64,
}

/// A convolution of u8 `[N, C, ..]`, less one zero point, by i8 `[M, C/groups, ..]`, with sums in i32; pads are the zero point.
/// Operands: x, w, the zero point, optional zero points of w, one for all or one for each output channel. Weights of i16 are bytes less
/// their zero points already, -255 to 255.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConvInteger {
    /// Step of each spatial axis.
    pub strides: Vec<i64>,
    /// Leading pads, then trailing pads.
    pub pads: Vec<i64>,
    /// Distance of taps along each spatial axis.
    pub dilations: Vec<i64>,
    /// Number of groups.
    pub groups: i64,
}

/// [ConvTranspose](https://onnx.ai/onnx/operators/onnx__ConvTranspose.html): operands x `[N, C, ..]`, w `[C, M/groups, ..]`,
/// optional bias `[M]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConvTranspose {
    /// Step of each spatial axis of the result.
    pub strides: Vec<i64>,
    /// Leading pads, then trailing pads, cut from the result.
    pub pads: Vec<i64>,
    /// Distance of taps.
    pub dilations: Vec<i64>,
    /// Rows added behind the result.
    pub output_padding: Vec<i64>,
    /// Number of groups.
    pub groups: i64,
}

fn call(cx: &Facts<'_>, entry: &'static str, strides: &[i64], pads: &[i64], dilations: &[i64], groups: i64) -> Lowering {
    Lowering::Call(Call {
        entry,
        types: vec![cx.dtype(0)],
        args: vec![
            CallArg::Out(0),
            CallArg::In(0),
            CallArg::In(1),
            CallArg::OptIn(2),
            CallArg::Dims(cx.shape(0).to_vec()),
            CallArg::Dims(cx.shape(1).to_vec()),
            CallArg::Dims(cx.out_shape(0).to_vec()),
            CallArg::Ints(strides.to_vec()),
            CallArg::Ints(pads[..strides.len()].to_vec()),
            CallArg::Ints(dilations.to_vec()),
            CallArg::Dim(Dim::int(groups)),
        ],
    })
}

/// Checks what both convolutions take for granted; gives the number of spatial axes.
fn check(cx: &Infer<'_>, name: &str, channels_axis: usize, groups: i64) -> Result<usize, Diagnostic> {
    let (x, w) = (cx.shape(0), cx.shape(1));
    if x.len() != w.len() || x.len() < 3 {
        return Err(Diagnostic::new(format!(
            "{name} needs a {}-dimensional input for a {}-dimensional kernel, found {}[{}]",
            w.len(),
            w.len().saturating_sub(2),
            cx.dtype(0),
            super::cx::list(x)
        ))
        .help("was an axis squeezed away before this node?"));
    }
    if cx.dtype(0) != cx.dtype(1)
        || (cx.has(2) && cx.dtype(2) != cx.dtype(0))
        || !matches!(cx.dtype(0), DType::F32 | DType::F64 | DType::I32)
    {
        return Err(Diagnostic::new(format!("{name} needs numbers of one type, found {} and {}", cx.dtype(0), cx.dtype(1))));
    }
    check_channels(cx, name, channels_axis, groups)?;
    let m = if channels_axis == 1 { w[0].clone() } else { w[1].clone() * Dim::int(groups) };
    if cx.has(2) && cx.shape(2) != [m.clone()] {
        return Err(Diagnostic::new(format!("the bias of {name} has shape [{}], expected [{m}]", super::cx::list(cx.shape(2)))));
    }
    Ok(x.len() - 2)
}

/// Checks that the weights are of a known shape, which fits the channels.
fn check_channels(cx: &Infer<'_>, name: &str, channels_axis: usize, groups: i64) -> Result<(), Diagnostic> {
    let (x, w) = (cx.shape(0), cx.shape(1));
    if w.iter().any(|d| d.as_int().is_none()) {
        return Err(Diagnostic::new(format!("{name} needs weights of a known shape, found [{}]", super::cx::list(w))));
    }
    if groups < 1 {
        return Err(Diagnostic::new(format!("{name} has group = {groups}")));
    }
    let expected = w[channels_axis].clone() * Dim::int(if channels_axis == 1 { groups } else { 1 });
    if let (Some(c), Some(e)) = (x[1].as_int(), expected.as_int())
        && (c != e || c % groups != 0)
    {
        return Err(Diagnostic::new(format!("{name} has an input of {c} channels and weights for {e} in {groups} groups")));
    }
    if channels_axis == 1 && w[0].as_int().is_some_and(|m| m % groups != 0) {
        return Err(Diagnostic::new(format!("{name} has {} output channels in {groups} groups", w[0])));
    }
    Ok(())
}

/// The shape of a convolution's result.
fn windows(cx: &Infer<'_>, [strides, pads, dilations]: [&[i64]; 3]) -> Result<Vec<Dim>, Diagnostic> {
    let (x, w) = (cx.shape(0), cx.shape(1));
    let axes = x.len() - 2;
    let mut shape = vec![x[0].clone(), w[0].clone()];
    for i in 0..axes {
        let window = (w[2 + i].clone() - Dim::int(1)) * Dim::int(dilations[i]) + Dim::int(1);
        let span = x[2 + i].clone() + Dim::int(pads[i] + pads[axes + i]) - window.clone();
        if span.as_int().is_some_and(|s| s < 0) {
            return Err(Diagnostic::new(format!("the kernel spans {window} of axis {}, which has only {} with its pads", 2 + i, x[2 + i])));
        }
        shape.push(span.floor_div(&Dim::int(strides[i])) + Dim::int(1));
    }
    Ok(shape)
}

impl Operator for Conv {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        check(cx, "Conv", 1, self.groups)?;
        let shape = windows(cx, [&self.strides, &self.pads, &self.dilations])?;
        Ok(vec![Fact::tensor(cx.dtype(0), shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        call(cx, "plain::conv", &self.strides, &self.pads, &self.dilations, self.groups)
    }
}

impl Operator for ConvInteger {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (x, w) = (cx.shape(0), cx.shape(1));
        let weights = cx.dtype(1) == DType::I8 || cx.dtype(1) == DType::I16 && !cx.has(3);
        let zeros =
            !cx.has(3) || cx.dtype(3) == DType::I8 && (cx.shape(3).is_empty() || w.first().is_some_and(|m| *cx.shape(3) == [m.clone()]));
        let types = cx.dtype(0) == DType::U8 && cx.dtype(2) == DType::U8 && weights && zeros;
        if !types || x.len() != w.len() || x.len() < 3 || !cx.shape(2).is_empty() {
            return Err(Diagnostic::new(format!(
                "a convolution of bytes needs u8, i8 of as many axes, one zero point, and fitting ones of the weights, found {}[{}], {}[{}] and {}[{}]",
                cx.dtype(0),
                super::cx::list(x),
                cx.dtype(1),
                super::cx::list(w),
                cx.dtype(2),
                super::cx::list(cx.shape(2))
            )));
        }
        check_channels(cx, "ConvInteger", 1, self.groups)?;
        Ok(vec![Fact::tensor(DType::I32, windows(cx, [&self.strides, &self.pads, &self.dilations])?)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let axes = self.strides.len();
        let args = vec![
            CallArg::Out(0),
            CallArg::In(0),
            CallArg::In(1),
            CallArg::In(2),
            CallArg::OptIn(3),
            CallArg::Dims(cx.shape(0).to_vec()),
            CallArg::Dims(cx.shape(1).to_vec()),
            CallArg::Dims(cx.out_shape(0).to_vec()),
            CallArg::Ints(self.strides.clone()),
            CallArg::Ints(self.pads[..axes].to_vec()),
            CallArg::Ints(self.dilations.clone()),
            CallArg::Dim(Dim::int(self.groups)),
        ];
        Lowering::Call(Call { entry: "igemm::convolve", types: vec![cx.dtype(1)], args })
    }
}

impl Operator for ConvTranspose {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let axes = check(cx, "ConvTranspose", 0, self.groups)?;
        let (x, w) = (cx.shape(0), cx.shape(1));
        let mut shape = vec![x[0].clone(), w[1].clone() * Dim::int(self.groups)];
        for i in 0..axes {
            let window = (w[2 + i].clone() - Dim::int(1)) * Dim::int(self.dilations[i]) + Dim::int(1);
            let span = (x[2 + i].clone() - Dim::int(1)) * Dim::int(self.strides[i]) + window;
            let size = span + Dim::int(self.output_padding[i] - self.pads[i] - self.pads[axes + i]);
            if size.as_int().is_some_and(|s| s < 0) {
                return Err(Diagnostic::new(format!("the pads of axis {} leave an extent of {size}", 2 + i)));
            }
            shape.push(size);
        }
        Ok(vec![Fact::tensor(cx.dtype(0), shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        call(cx, "plain::conv_transpose", &self.strides, &self.pads, &self.dilations, self.groups)
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// Attributes that convolutions and pools share, checked and completed.
pub struct Window {
    /// Extent of the kernel along each spatial axis.
    pub kernel: Vec<i64>,
    /// Steps.
    pub strides: Vec<i64>,
    /// Dilations.
    pub dilations: Vec<i64>,
    /// Leading pads, then trailing pads; for `auto_pad` still to be computed when `auto` is set.
    pub pads: Vec<i64>,
    /// `SAME_UPPER` or `SAME_LOWER`.
    pub auto: Option<bool>,
}

impl Window {
    /// Reads `kernel_shape`, `strides`, `dilations`, `pads` and `auto_pad`.
    ///
    /// # Errors
    /// A list of the wrong length, a step or extent that is not positive, an unknown `auto_pad`.
    pub fn read(r: &Reader<'_, '_>, axes: usize, kernel: Option<Vec<i64>>) -> Result<Window, Diagnostic> {
        let get = |name: &str, len: usize, default: i64| -> Result<Vec<i64>, Diagnostic> {
            match r.ints(name)? {
                None => Ok(vec![default; len]),
                Some(v) if v.len() == len => Ok(v),
                Some(v) => Err(Diagnostic::new(format!("attribute {name} has {} numbers, expected {len}", v.len()))),
            }
        };
        let kernel = match (r.ints("kernel_shape")?, kernel) {
            (Some(k), Some(w)) if k != w => {
                return Err(Diagnostic::new(format!("kernel_shape is {k:?}, the weights say {w:?}")));
            }
            (Some(k), _) | (None, Some(k)) => k,
            (None, None) => return Err(Diagnostic::new("attribute kernel_shape is missing")),
        };
        if kernel.len() != axes {
            return Err(Diagnostic::new(format!("kernel_shape has {} numbers for {axes} spatial axes", kernel.len())));
        }
        let (strides, dilations) = (get("strides", axes, 1)?, get("dilations", axes, 1)?);
        if [&kernel, &strides, &dilations].iter().any(|v| v.iter().any(|x| *x < 1 || *x > i32::MAX as i64)) {
            return Err(Diagnostic::new(format!(
                "kernel_shape {kernel:?}, strides {strides:?} and dilations {dilations:?} must be positive 32-bit numbers"
            )));
        }
        let auto = match r.str("auto_pad", "NOTSET")?.as_str() {
            "NOTSET" | "" => None,
            "VALID" => return Ok(Window { pads: vec![0; 2 * axes], kernel, strides, dilations, auto: None }),
            "SAME_UPPER" => Some(true),
            "SAME_LOWER" => Some(false),
            other => return Err(Diagnostic::new(format!("attribute auto_pad is \"{}\"", shown(other)))),
        };
        let pads = get("pads", 2 * axes, 0)?;
        if pads.iter().any(|p| p.unsigned_abs() > i32::MAX as u64) {
            return Err(Diagnostic::new(format!("the pads {pads:?} are too large")));
        }
        Ok(Window { pads, kernel, strides, dilations, auto })
    }
    /// Computes the pads that `auto_pad` asks for, which keep `ceil(extent / stride)`.
    ///
    /// # Errors
    /// An extent that only run time can tell.
    pub fn resolve(&mut self, spatial: &[Dim]) -> Result<(), Diagnostic> {
        let Some(upper) = self.auto else { return Ok(()) };
        let axes = self.kernel.len();
        for (i, extent) in spatial.iter().enumerate().take(axes) {
            let window = (self.kernel[i] - 1) * self.dilations[i] + 1;
            let total = match extent.as_int() {
                Some(n) => ((n + self.strides[i] - 1) / self.strides[i] - 1) * self.strides[i] + window - n,
                None if self.strides[i] == 1 => window - 1,
                None => {
                    return Err(Diagnostic::new(format!("auto_pad needs the extent of axis {}, which is {extent}", 2 + i))
                        .help("close the dimension, with --dim or --shape"));
                }
            }
            .max(0);
            self.pads[i] = if upper { total / 2 } else { total - total / 2 };
            self.pads[axes + i] = total - self.pads[i];
        }
        Ok(())
    }
}

/// Whether the type is computed in f32 and rounded back.
fn widened(r: &mut Reader<'_, '_>, inputs: &mut [Option<ValueId>]) -> Result<Option<DType>, Diagnostic> {
    let Some(x) = inputs[0] else { return Ok(None) };
    let dtype = r.dtype(x);
    if !matches!(dtype, DType::F16 | DType::Bf16) {
        return Ok(None);
    }
    for v in inputs.iter_mut().flatten() {
        *v = r.cast(*v, DType::F32)?;
    }
    Ok(Some(dtype))
}

/// Reads `Conv`.
pub fn read_conv(r: &mut Reader<'_, '_>) -> Read {
    let (x, w) = (r.input(0)?, r.input(1)?);
    let mut inputs = vec![Some(x), Some(w), r.opt(2)];
    let half = widened(r, &mut inputs)?;
    let (shape, kernel) = (r.shape(x)?, r.shape(w)?);
    if shape.len() < 3 || shape.len() != kernel.len() {
        return Err(Diagnostic::new(format!(
            "Conv needs a {}-dimensional input for a {}-dimensional kernel, found {}[{}]",
            kernel.len(),
            kernel.len().saturating_sub(2),
            r.dtype(x),
            super::cx::list(&shape)
        ))
        .help("was an axis squeezed away before this node?"));
    }
    let kernel: Option<Vec<i64>> = kernel[2..].iter().map(Dim::as_int).collect();
    let mut window = Window::read(r, shape.len() - 2, kernel)?;
    window.resolve(&shape[2..])?;
    let op = Conv { strides: window.strides, pads: window.pads, dilations: window.dilations, groups: r.int("group", 1)? };
    let y = r.emit_all(op, inputs, 1)?[0];
    Ok(vec![match half {
        Some(d) => r.cast(y, d)?,
        None => y,
    }])
}

/// An integer operand as i32 with its zero point subtracted, which `i` gives: one for all, or one per index of the first axis.
pub fn centered(r: &mut Reader<'_, '_>, x: ValueId, zero: Option<ValueId>) -> Result<ValueId, Diagnostic> {
    let wide = r.cast(x, DType::I32)?;
    let Some(zero) = zero else { return Ok(wide) };
    let (mut shape, zero) = (r.shape(zero)?, r.cast(zero, DType::I32)?);
    if shape == [Dim::int(1)] {
        shape.clear();
    }
    if shape.len() == 1 {
        shape.resize(r.rank(x)?, Dim::int(1));
    }
    let zero = r.reshape(zero, shape)?;
    r.sub(wide, zero)
}

/// A convolution in i32 with the attributes of the node.
pub fn integer(r: &mut Reader<'_, '_>, x: ValueId, w: ValueId, bias: Option<ValueId>) -> Result<ValueId, Diagnostic> {
    let (shape, kernel) = (r.shape(x)?, r.shape(w)?);
    if shape.len() < 3 || shape.len() != kernel.len() {
        return Err(Diagnostic::new(format!("a convolution needs {} dimensions, found {}", kernel.len(), shape.len())));
    }
    let kernel: Option<Vec<i64>> = kernel[2..].iter().map(Dim::as_int).collect();
    let mut window = Window::read(r, shape.len() - 2, kernel)?;
    window.resolve(&shape[2..])?;
    let op = Conv { strides: window.strides, pads: window.pads, dilations: window.dilations, groups: r.int("group", 1)? };
    Ok(r.emit_all(op, vec![Some(x), Some(w), bias], 1)?[0])
}

/// The node as [`ConvInteger`], where the weights are constant, of one group or each of one channel, and x has one zero point.
fn of_bytes(r: &mut Reader<'_, '_>) -> Result<Option<ValueId>, Diagnostic> {
    let (mut x, w, groups) = (r.input(0)?, r.input(1)?, r.int("group", 1)?);
    let known = |v: Option<ValueId>| v.map(|v| r.constant(v)).map_or(Some(None), |t| t.map(Some));
    let (Some(Some(t)), Some(zeros)) = (known(Some(w)), known(r.opt(3))) else { return Ok(None) };
    let alone = groups > 1 && t.dims.get(1) == Some(&1) && t.dims.first().map(|n| *n as i64) == Some(groups);
    let signed = if groups == 1 || alone { Signed::of(t, zeros, 0, alone) } else { None };
    let (shape, kernel) = (r.shape(x)?, r.shape(w)?);
    let fits = (3..=5).contains(&shape.len()) && shape.len() == kernel.len();
    let zero = match r.opt(2) {
        Some(z) if r.shape(z)?.iter().all(|d| d.is(1)) => r.reshape(z, vec![])?,
        Some(_) => return Ok(None),
        None => r.scalar(0.0, r.dtype(x)),
    };
    let (Some(signed), true) = (signed, fits && matches!(r.dtype(x), DType::U8 | DType::I8) && r.dtype(x) == r.dtype(zero)) else {
        return Ok(None);
    };
    let extents: Option<Vec<i64>> = kernel[2..].iter().map(Dim::as_int).collect();
    let mut window = Window::read(r, shape.len() - 2, extents)?;
    window.resolve(&shape[2..])?;
    if window.pads.iter().any(|p| *p < 0) {
        return Ok(None);
    }
    let mut zero = zero;
    if r.dtype(x) == DType::I8 {
        (x, zero) = (r.emit(unsigned(DType::I8), &[x])?, r.emit(unsigned(DType::I8), &[zero])?);
    }
    let w = signed.weights.map_or(w, |t| r.tensor(t));
    let zeros = signed.zeros.map(|z| r.tensor(z));
    let op = ConvInteger { strides: window.strides, pads: window.pads, dilations: window.dilations, groups };
    let operands: Vec<ValueId> = [x, w, zero].into_iter().chain(zeros).collect();
    Ok(Some(r.emit(op, &operands)?))
}

/// Reads [ConvInteger](https://onnx.ai/onnx/operators/onnx__ConvInteger.html).
pub fn read_integer(r: &mut Reader<'_, '_>) -> Read {
    if let Some(y) = of_bytes(r)? {
        return Ok(vec![y]);
    }
    let (x, w) = (r.input(0)?, r.input(1)?);
    let (x, w) = (centered(r, x, r.opt(2))?, centered(r, w, r.opt(3))?);
    Ok(vec![integer(r, x, w, None)?])
}

/// Reads `ConvTranspose`, whose `output_shape` sets the pads.
pub fn read_transpose(r: &mut Reader<'_, '_>) -> Read {
    let (x, w) = (r.input(0)?, r.input(1)?);
    let mut inputs = vec![Some(x), Some(w), r.opt(2)];
    let half = widened(r, &mut inputs)?;
    let (shape, kernel) = (r.shape(x)?, r.shape(w)?);
    if shape.len() < 3 || shape.len() != kernel.len() {
        return Err(Diagnostic::new(format!("ConvTranspose needs {} dimensions, found {}", kernel.len(), shape.len())));
    }
    let axes = shape.len() - 2;
    let kernel: Option<Vec<i64>> = kernel[2..].iter().map(Dim::as_int).collect();
    let window = Window::read(r, axes, kernel)?;
    let mut output_padding = r.ints("output_padding")?.unwrap_or_else(|| vec![0; axes]);
    let output_shape = r.ints("output_shape")?;
    if output_padding.len() != axes || output_shape.as_ref().is_some_and(|s| s.len() < axes) {
        return Err(Diagnostic::new(format!("output_padding and output_shape must have {axes} numbers")));
    }
    let mut pads = window.pads.clone();
    if output_shape.is_some() || window.auto.is_some() {
        for i in 0..axes {
            let n = shape[2 + i].as_int().ok_or_else(|| Diagnostic::new("output_shape and auto_pad need closed extents"))?;
            let want = output_shape.as_ref().map_or(n * window.strides[i], |s| s[s.len() - axes + i]);
            let full = (n - 1) * window.strides[i] + (window.kernel[i] - 1) * window.dilations[i] + 1 + output_padding[i];
            // A larger extent than the taps reach is filled with the bias.
            output_padding[i] += (want - full).max(0);
            let total = (full - want).max(0);
            let upper = window.auto == Some(true);
            pads[i] = if upper { total / 2 } else { total - total / 2 };
            pads[axes + i] = total - pads[i];
        }
    }
    let op = ConvTranspose { strides: window.strides, pads, dilations: window.dilations, output_padding, groups: r.int("group", 1)? };
    let y = r.emit_all(op, inputs, 1)?[0];
    Ok(vec![match half {
        Some(d) => r.cast(y, d)?,
        None => y,
    }])
}
