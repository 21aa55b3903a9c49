//! Pooling: MaxPool, AveragePool, LpPool and their global forms.

use super::conv::Window;
use super::{Call, CallArg, Facts, Infer, Lowering, Operator, Reader, reduce::Reduce};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, ValueId};
use crate::onnx::Attribute;
use kiln_kernels::dtype::DType;

/// A pool over windows of the spatial axes of `[N, C, ..]`; `max` may also give the positions of the maxima.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pool {
    /// `max`, `average` (of the elements inside), `average_pads` (of the padded window), or `lp1` to `lp8`.
    pub mode: &'static str,
    /// Extent of the window.
    pub kernel: Vec<i64>,
    /// Steps.
    pub strides: Vec<i64>,
    /// Leading, then trailing pads.
    pub pads: Vec<i64>,
    /// Dilations.
    pub dilations: Vec<i64>,
    /// Whether a window that starts inside but ends outside counts.
    pub ceil: bool,
    /// Whether positions count along columns first.
    pub column_major: bool,
}

impl Operator for Pool {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let x = cx.shape(0);
        let axes = self.kernel.len();
        if x.len() != axes + 2 {
            return Err(Diagnostic::new(format!("a pool over {axes} axes needs rank {}, found {}", axes + 2, x.len())));
        }
        let mut shape = x[..2].to_vec();
        for i in 0..axes {
            let window = (self.kernel[i] - 1) * self.dilations[i] + 1;
            let span = x[2 + i].clone() + Dim::int(self.pads[i] + self.pads[axes + i] - window);
            if span.as_int().is_some_and(|s| s < 0) {
                return Err(Diagnostic::new(format!("the window spans {window} of axis {}, which has only {}", 2 + i, x[2 + i])));
            }
            let stride = Dim::int(self.strides[i]);
            let mut n = if self.ceil { span.ceil_div(&stride) } else { span.floor_div(&stride) } + Dim::int(1);
            // The last window must start inside the input or its leading pad.
            if self.ceil && self.strides[i] > 1 {
                let last = (x[2 + i].clone() + Dim::int(self.pads[i] - 1)).floor_div(&stride);
                n = n.least(&(last + Dim::int(1)));
            }
            shape.push(n);
        }
        let mut facts = vec![Fact::tensor(cx.dtype(0), shape.clone())];
        if cx.results > 1 {
            facts.push(Fact::tensor(DType::I64, shape));
        }
        Ok(facts)
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::Call(Call {
            entry: "plain::pool",
            types: vec![cx.dtype(0)],
            args: vec![
                CallArg::Out(0),
                CallArg::OptOut(1),
                CallArg::In(0),
                CallArg::Dims(cx.shape(0).to_vec()),
                CallArg::Dims(cx.out_shape(0).to_vec()),
                CallArg::Dims(self.kernel.iter().map(|k| Dim::int(*k)).collect()),
                CallArg::Ints(self.strides.clone()),
                CallArg::Ints(self.pads.clone()),
                CallArg::Ints(self.dilations.clone()),
                CallArg::Text(self.mode),
                CallArg::Bool(self.column_major),
            ],
        })
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// What `Pool::mode` can be.
pub(super) const MODES: &[&str] = &["max", "average", "average_pads", "lp1", "lp2", "lp3", "lp4", "lp5", "lp6", "lp7", "lp8"];

fn read(r: &mut Reader<'_, '_>, mode: &'static str, results: usize) -> Read {
    let x = r.input(0)?;
    let (shape, dtype) = (r.shape(x)?, r.dtype(x));
    if shape.len() < 3 {
        return Err(Diagnostic::new(format!("a pool needs a batch, channels and spatial axes, found [{}]", super::cx::list(&shape))));
    }
    let mut window = Window::read(r, shape.len() - 2, None)?;
    window.resolve(&shape[2..])?;
    let op = Pool {
        mode,
        kernel: window.kernel,
        strides: window.strides,
        pads: window.pads,
        dilations: window.dilations,
        ceil: r.int("ceil_mode", 0)? != 0,
        column_major: r.int("storage_order", 0)? != 0,
    };
    let half = matches!(dtype, DType::F16 | DType::Bf16);
    let x = if half { r.cast(x, DType::F32)? } else { x };
    let mut out = r.emit_all(op, vec![Some(x)], results)?;
    if half {
        out[0] = r.cast(out[0], dtype)?;
    }
    Ok(out)
}

/// Reads `MaxPool`.
pub fn read_max(r: &mut Reader<'_, '_>) -> Read {
    let results = if r.wants(1) { 2 } else { 1 };
    read(r, "max", results)
}

/// Reads `AveragePool`.
pub fn read_average(r: &mut Reader<'_, '_>) -> Read {
    let mode = if r.int("count_include_pad", 0)? != 0 { "average_pads" } else { "average" };
    read(r, mode, 1)
}

/// The order of a norm, which opset 1 has as a float.
fn order(r: &Reader<'_, '_>) -> Result<f64, Diagnostic> {
    let p = match r.node.attribute("p") {
        Some(Attribute::Float(p)) if r.version < 2 => *p as f64,
        _ => r.int("p", 2)? as f64,
    };
    if p.is_finite() && p > 0.0 { Ok(p) } else { Err(Diagnostic::new(format!("the order p is {p}, expected more than 0"))) }
}

/// `|x|^p`.
fn power(r: &mut Reader<'_, '_>, x: ValueId, p: f64) -> Result<ValueId, Diagnostic> {
    let y = r.pointwise("Abs", &[x])?;
    let p = r.scalar(p, r.dtype(x));
    super::pointwise::power(r, y, p)
}

/// Reads `LpPool`: whole orders up to 8 have a kernel, others are a mean of powers.
pub fn read_lp(r: &mut Reader<'_, '_>) -> Read {
    let p = order(r)?;
    if let Some((mode, _)) = MODES[3..].iter().zip(1..).find(|(_, order)| *order as f64 == p) {
        return read(r, mode, 1);
    }
    if r.int("ceil_mode", 0)? != 0 {
        return Err(Diagnostic::new(format!("LpPool of order {p} with ceil_mode is not supported; orders 1 to 8 are")));
    }
    let (x, dtype) = (r.input(0)?, r.dtype(r.input(0)?));
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let y = r.cast(x, wide)?;
    let y = power(r, y, p)?;
    r.inputs[0] = Some(y);
    // The mean over whole windows, times their elements, is the sum.
    let y = read(r, "average_pads", 1)?[0];
    let window: i64 = r.ints("kernel_shape")?.unwrap_or_default().iter().product();
    let y = r.times(y, window as f64)?;
    let y = power(r, y, 1.0 / p)?;
    Ok(vec![r.cast(y, dtype)?])
}

/// Reads the global pools, which are reductions over the spatial axes.
pub fn read_global(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let rank = r.rank(x)?;
    if rank < 2 {
        return Err(Diagnostic::new(format!("a global pool needs a batch and channels, found rank {rank}")));
    }
    let mode = match r.node.op_type.as_str() {
        "GlobalMaxPool" => "max",
        "GlobalLpPool" => match order(r)? {
            1.0 => "l1",
            2.0 => "l2",
            p => {
                let dtype = r.dtype(x);
                let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
                let y = r.cast(x, wide)?;
                let y = power(r, y, p)?;
                let y = r.reduce(y, "sum", &(2..rank).collect::<Vec<_>>(), true)?;
                let y = power(r, y, 1.0 / p)?;
                return Ok(vec![r.cast(y, dtype)?]);
            }
        },
        _ => "mean",
    };
    super::reduce::emit(r, x, Reduce { mode, axes: (2..rank).collect(), keep: true }).map(|v| vec![v])
}
