//! Pad and Tile.

use super::moved::{has_bytes, moved};
use super::{CallArg, Facts, Infer, Lowering, Operator, Reader};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, Type, ValueId};

/// Elements added around (or, with negative pads, cut from) every axis; operands x and the value to fill with.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pad {
    /// Leading, then trailing pads.
    pub pads: Vec<i64>,
    /// `constant`, `edge`, `reflect` or `wrap`.
    pub mode: &'static str,
}

impl Operator for Pad {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let x = cx.shape(0);
        let rank = x.len();
        let shape: Vec<Dim> = (0..rank).map(|i| x[i].clone() + Dim::int(self.pads[i]) + Dim::int(self.pads[rank + i])).collect();
        if let Some(i) = shape.iter().position(|d| d.as_int().is_some_and(|n| n < 0)) {
            return Err(Diagnostic::new(format!("the pads of axis {i} cut more than its {} elements", x[i])));
        }
        Ok(vec![Fact::tensor(cx.dtype(0), shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::call("copy::pad", [cx.dtype(0)], 2, [cx.extents(0), CallArg::Ints(self.pads.clone()), CallArg::Text(self.mode)])
    }
}

/// The tensor repeated along each axis.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tile {
    /// How often, for each axis.
    pub repeats: Vec<Dim>,
}

impl Operator for Tile {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let shape = cx.shape(0).iter().zip(&self.repeats).map(|(d, r)| d.clone() * r.clone()).collect();
        Ok(vec![Fact::tensor(cx.dtype(0), shape)])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        Lowering::call("copy::tile", [cx.dtype(0)], 1, [cx.extents(0), CallArg::Dims(cx.out_shape(0).to_vec())])
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// What `Pad::mode` can be.
pub(super) const MODES: &[&str] = &["constant", "reflect", "edge", "wrap"];

/// Reads `Pad`: pads and value are attributes before opset 11, operands since; axes may be named since 18.
pub fn read_pad(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let dtype = r.dtype(x);
    let value = if r.version < 11 { r.float("value", 0.0)? } else { 0.0 };
    let value = match r.opt(2) {
        Some(v) if r.version >= 11 => v,
        _ => r.scalar(value as f64, dtype),
    };
    Ok(vec![moved(r, &[x, value], has_bytes, |r, x| padded(r, x[0], x[1]))?])
}

fn padded(r: &mut Reader<'_, '_>, x: ValueId, value: ValueId) -> Result<ValueId, Diagnostic> {
    let (rank, dtype) = (r.rank(x)?, r.dtype(x));
    let mode = r.word("mode", MODES)?;
    let pads: Option<Vec<Dim>> = if r.version < 11 {
        let pads = r.ints(if r.version < 2 { "paddings" } else { "pads" })?.ok_or_else(|| Diagnostic::new("the pads are missing"))?;
        Some(pads.into_iter().map(Dim::int).collect())
    } else {
        let p = r.input(1)?;
        r.const_ints(p).map(|p| p.into_iter().map(Dim::int).collect()).or_else(|| r.dims(p).map(<[Dim]>::to_vec))
    };
    let axes = match r.opt(3) {
        Some(v) => r.const_ints(v).map(|axes| r.axes(&axes, rank)).transpose()?,
        None => Some((0..rank).collect()),
    };
    let mut full = None;
    if let (Some(pads), Some(axes)) = (pads, axes) {
        if pads.len() != 2 * axes.len() {
            return Err(Diagnostic::new(format!("Pad has {} pads for {} axes", pads.len(), axes.len())));
        }
        if pads.iter().any(|p| p.as_int().is_some_and(|p| p.unsigned_abs() > 1 << 40)) {
            return Err(Diagnostic::new("a pad is too large"));
        }
        let all = full.insert(vec![Dim::int(0); 2 * rank]);
        for (k, &a) in axes.iter().enumerate() {
            all[a] = pads[k].clone();
            all[rank + a] = pads[axes.len() + k].clone();
        }
    }
    if let Some(pads) = full.iter().find_map(|p| p.iter().map(Dim::as_int).collect::<Option<Vec<i64>>>()) {
        return r.emit(Pad { pads, mode }, &[x, value]);
    }
    let ty = match (full, r.shape(x)) {
        // Pads that follow from extents, as those of images to whole windows do: so does the shape.
        (Some(pads), Ok(shape)) => {
            let padded = |(i, d): (usize, Dim)| d + pads[i].clone() + pads[rank + i].clone();
            Type::Tensor(dtype, shape.into_iter().enumerate().map(padded).collect())
        }
        _ => super::host::rank_type(r, dtype, Some(rank)),
    };
    let inputs = vec![Some(x), r.opt(1), Some(value), r.opt(3)];
    Ok(super::host::call_with(r, "pad", inputs, vec![], vec![mode.to_string()], vec![ty])?[0])
}

/// Reads `Tile`; opset 1 repeats one axis.
pub fn read_tile(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    Ok(vec![moved(r, &[x], has_bytes, |r, x| tiled(r, x[0]))?])
}

fn tiled(r: &mut Reader<'_, '_>, x: ValueId) -> Result<ValueId, Diagnostic> {
    let rank = r.rank(x)?;
    let repeats = if r.version < 6 {
        let (tiles, axis) = (r.input(1)?, r.input(2)?);
        let one = |r: &Reader<'_, '_>, v| r.constant(v).and_then(|t| t.to_f64s()).and_then(|v| v.first().map(|x| *x as i64));
        let (Some(tiles), Some(axis)) = (one(r, tiles), one(r, axis)) else {
            return Err(Diagnostic::new("tiles and axis are computed at run time"));
        };
        let mut repeats = vec![Dim::int(1); rank];
        repeats[r.axis(axis, rank)?] = Dim::int(tiles);
        repeats
    } else {
        let v = r.input(1)?;
        match r.dims(v).map(<[Dim]>::to_vec) {
            Some(d) => d,
            None => return Ok(super::host::of_rank(r, "tile", &[x, v], Some(rank))?[0]),
        }
    };
    if repeats.len() != rank || repeats.iter().any(|d| d.as_int().is_some_and(|n| n < 0)) {
        return Err(Diagnostic::new(format!("Tile needs {rank} repeats that are not negative")));
    }
    r.emit(Tile { repeats }, &[x])
}
