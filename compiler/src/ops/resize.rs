//! Resize and Upsample.

use super::moved::{One, by_parts, by_position};
use super::{Affine, CallArg, Facts, Infer, Lowering, Operator, Part, Reader, Real};
use crate::diagnostics::Diagnostic;
use crate::ir::{Dim, Fact, Type, ValueId};
use kiln_kernels::dtype::DType;

/// Interpolation to another shape, as `kiln_kernels::resize::resize` does it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resize {
    /// The shape of the result.
    pub shape: Vec<Dim>,
    /// A factor for each axis.
    pub scales: Vec<Real>,
    /// The region of `tf_crop_and_resize`: starts, then ends; empty otherwise.
    pub roi: Vec<Real>,
    /// `nearest`, `linear` or `cubic`, with `+antialias` behind it or not.
    pub mode: &'static str,
    /// The coordinate transformation.
    pub coordinates: &'static str,
    /// How `nearest` rounds.
    pub nearest: &'static str,
    /// The coefficient of `cubic`.
    pub cubic: Real,
    /// The value outside the region.
    pub extrapolation: Real,
    /// Whether weights outside the tensor count as 0.
    pub exclude: bool,
}

/// More copies than this are no cheaper than interpolation.
const MAX_COPIES: i64 = 16;

impl Resize {
    /// How often each axis is repeated, when the result only repeats elements.
    pub fn repeats(&self, from: &[Dim]) -> Option<Vec<i64>> {
        let plain = self.mode == "nearest"
            && ((self.coordinates == "asymmetric" && self.nearest == "floor")
                || (self.coordinates == "half_pixel" && self.nearest.starts_with("round")));
        let repeats: Vec<i64> = from.iter().zip(&self.shape).map(|(a, b)| b.exact_div(a)?.as_int()).collect::<Option<_>>()?;
        let right = repeats.iter().zip(&self.scales).all(|(r, s)| *r >= 1 && s.get() == *r as f32);
        (plain && right && repeats.iter().product::<i64>() <= MAX_COPIES).then_some(repeats)
    }
    /// The copies that make a result of repeated elements.
    pub fn copies(&self, from: &[Dim], to: &[Dim]) -> Option<Vec<Part>> {
        let repeats = self.repeats(from)?;
        let rank = to.len();
        let closed: Vec<usize> = repeats.iter().map(|r| *r as usize).collect();
        let mut parts = Vec::new();
        kiln_kernels::index::for_each(&closed, |at| {
            let to = (0..rank).map(|i| Affine { start: at[i].into(), axis: Some((i, repeats[i])) }).collect();
            parts.push(Part { input: 0, output: 0, dims: from.to_vec(), from: (0..rank).map(Affine::along).collect(), to });
        });
        Some(parts)
    }
}

impl Operator for Resize {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        Ok(vec![Fact::tensor(cx.dtype(0), self.shape.clone())])
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let floats = |v: &[Real]| CallArg::Floats(v.iter().map(|r| r.get()).collect());
        Lowering::call(
            "resize::resize",
            [cx.dtype(0)],
            1,
            [
                cx.extents(0),
                CallArg::Dims(self.shape.clone()),
                floats(&self.scales),
                floats(&self.roi),
                CallArg::Text(self.mode),
                CallArg::Text(self.coordinates),
                CallArg::Text(self.nearest),
                CallArg::Float(self.cubic.get()),
                CallArg::Float(self.extrapolation.get()),
                CallArg::Bool(self.exclude),
            ],
        )
    }
}

type Read = Result<Vec<ValueId>, Diagnostic>;

/// What `Resize::mode` can be.
pub(super) const MODES: &[&str] = &["nearest", "linear", "cubic", "linear+antialias", "cubic+antialias"];
/// What `Resize::coordinates` can be.
pub(super) const COORDINATES: &[&str] = &[
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
];
/// What `Resize::nearest` can be.
pub(super) const NEAREST: &[&str] = &["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"];

fn floats(r: &Reader<'_, '_>, v: Option<ValueId>, what: &str) -> Result<Option<Vec<f32>>, Diagnostic> {
    let Some(v) = v else { return Ok(None) };
    if r.shape(v).is_ok_and(|s| s == [Dim::int(0)]) {
        return Ok(None);
    }
    match r.constant(v).and_then(|t| t.to_f64s()) {
        Some(x) => Ok(Some(x.into_iter().map(|x| x as f32).collect())),
        None => Err(Diagnostic::new(format!("the {what} of Resize are computed at run time")).help("export with constant sizes")),
    }
}

fn finish(r: &mut Reader<'_, '_>, x: ValueId, op: Resize) -> Read {
    let picks = op.mode == "nearest" && op.coordinates != "tf_crop_and_resize";
    in_floats(r, x, picks, |r, x| r.emit(op.clone(), &[x]))
}

/// What `f` makes of a tensor of floats: types that no interpolation is compiled for go through those, as in the reference implementation.
/// Where it only `picks` elements, those that no float holds are moved by their positions.
fn in_floats(r: &mut Reader<'_, '_>, x: ValueId, picks: bool, mut f: impl FnMut(&mut Reader<'_, '_>, ValueId) -> One) -> Read {
    let mut cast = |r: &mut Reader<'_, '_>, x: ValueId| {
        let dtype = r.dtype(x);
        let wide = match dtype {
            DType::F64 | DType::I32 | DType::U32 | DType::I64 | DType::U64 => DType::F64,
            _ => DType::F32,
        };
        let x = r.cast(x, wide)?;
        let y = f(r, x)?;
        r.cast(y, dtype)
    };
    Ok(vec![match r.dtype(x) {
        DType::I64 | DType::U64 | DType::Str if picks => by_position(r, &[x], |r, x| cast(r, x[0]))?,
        _ => by_parts(r, x, cast)?,
    }])
}

/// Reads `Resize`; opset 10 has only scales.
pub fn read_resize(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let rank = shape.len();
    let (roi, scales, sizes) = if r.version < 11 { (None, r.opt(1), None) } else { (r.opt(1), r.opt(2), r.opt(3)) };
    let axes = match r.ints("axes")? {
        Some(a) => r.axes(&a, rank)?,
        None => (0..rank).collect(),
    };
    let coordinates = if r.version < 11 { "asymmetric" } else { r.word("coordinate_transformation_mode", COORDINATES)? };
    let antialias = r.int("antialias", 0)? != 0;
    let mode = match (r.word("mode", &["nearest", "linear", "cubic"])?, antialias) {
        ("linear", true) => "linear+antialias",
        ("cubic", true) => "cubic+antialias",
        (m, _) => m,
    };
    let nearest = if r.version < 11 { "floor" } else { r.word("nearest_mode", NEAREST)? };
    let policy = r.word("keep_aspect_ratio_policy", &["stretch", "not_larger", "not_smaller"])?;
    let open =
        |r: &Reader<'_, '_>, v: Option<ValueId>| v.is_some_and(|v| r.constant(v).is_none() && r.shape(v).is_ok_and(|s| s != [Dim::int(0)]));
    if open(r, scales) || open(r, roi) || sizes.is_some_and(|v| open(r, Some(v)) && r.dims(v).is_none()) {
        return computed(r, [roi, scales, sizes], &axes, None, [mode, coordinates, nearest, policy]);
    }
    let operands = [roi, scales, sizes];
    let words = [mode, coordinates, nearest, policy];
    let scales = floats(r, scales, "scales")?;
    let sizes = match sizes.filter(|v| r.shape(*v).is_ok_and(|s| s != [Dim::int(0)])) {
        Some(v) => Some(
            r.dims(v)
                .ok_or_else(|| Diagnostic::new("the sizes of Resize are computed at run time").help("export with constant sizes"))?
                .to_vec(),
        ),
        None => None,
    };
    let mut out = shape.clone();
    let mut factor = vec![1.0f32; rank];
    let count = scales.as_ref().map(Vec::len).or(sizes.as_ref().map(Vec::len));
    if count != Some(axes.len()) {
        return Err(Diagnostic::new(format!("Resize needs {} scales or sizes, found {}", axes.len(), count.unwrap_or(0))));
    }
    let roi_values = floats(r, roi.filter(|_| coordinates == "tf_crop_and_resize"), "regions")?;
    let mut region = Vec::new();
    if let Some(v) = &roi_values {
        if v.len() != 2 * axes.len() {
            return Err(Diagnostic::new(format!("roi has {} numbers for {} axes", v.len(), axes.len())));
        }
        region = [vec![0.0; rank], vec![1.0; rank]].concat();
        for (k, &a) in axes.iter().enumerate() {
            (region[a], region[rank + a]) = (v[k], v[axes.len() + k]);
        }
    }
    if let Some(scales) = &scales {
        for (k, &a) in axes.iter().enumerate() {
            let s = scales[k];
            if s.is_nan() || s <= 0.0 {
                return Err(Diagnostic::new(format!("the scale of axis {a} is {s}")));
            }
            factor[a] = s;
            let span = if region.is_empty() { 1.0 } else { (region[rank + a] - region[a]) as f64 };
            out[a] = match shape[a].as_int() {
                Some(n) => Dim::int((n as f64 * span * s as f64).floor() as i64),
                None if span != 1.0 => return computed(r, operands, &axes, None, words),
                None if s.fract() == 0.0 => shape[a].clone() * Dim::int(s as i64),
                None if (1.0 / s).fract() == 0.0 => shape[a].floor_div(&Dim::int((1.0 / s) as i64)),
                None => match ratio(s) {
                    Some((p, q)) => (shape[a].clone() * Dim::int(p)).floor_div(&Dim::int(q)),
                    None => return computed(r, operands, &axes, None, words),
                },
            };
        }
    } else if let Some(sizes) = &sizes {
        let ratio = |k: usize| -> Option<f64> { Some(sizes[k].as_int()? as f64 / shape[axes[k]].as_int()? as f64) };
        if policy == "stretch" {
            for (k, &a) in axes.iter().enumerate() {
                out[a] = sizes[k].clone();
                factor[a] = match (ratio(k), sizes[k].exact_div(&shape[a]).and_then(|d| d.as_int())) {
                    (Some(s), _) => s as f32,
                    (None, Some(s)) => s as f32,
                    _ if sizes[k] == shape[a] => 1.0,
                    // To the size of another image, say: what the ratio is, only run time can tell.
                    _ => return computed(r, operands, &axes, Some(sizes), words),
                };
            }
        } else {
            let all: Option<Vec<f64>> = (0..axes.len()).map(ratio).collect();
            let Some(all) = all else { return computed(r, operands, &axes, None, words) };
            let pick = if policy == "not_larger" { f64::min } else { f64::max };
            let s = all.iter().copied().reduce(pick).unwrap_or(1.0);
            for &a in &axes {
                factor[a] = s as f32;
                out[a] = Dim::int((s * shape[a].as_int().unwrap_or(1) as f64 + 0.5).floor() as i64);
            }
        }
    }
    if let Some(a) = (0..rank).find(|a| shape[*a].is(0) && !out[*a].is(0)) {
        return Err(Diagnostic::new(format!("axis {a} is empty and cannot be resized to {}", out[a])));
    }
    let op = Resize {
        shape: out,
        scales: factor.into_iter().map(Real::from).collect(),
        roi: region.into_iter().map(Real::from).collect(),
        mode,
        coordinates,
        nearest,
        cubic: r.float("cubic_coeff_a", -0.75)?.into(),
        extrapolation: r.float("extrapolation_value", 0.0)?.into(),
        exclude: r.int("exclude_outside", 0)? != 0,
    };
    finish(r, x, op)
}

/// A Resize whose region, scales or sizes only run time can tell.
fn computed(r: &mut Reader<'_, '_>, operands: [Option<ValueId>; 3], axes: &[usize], sizes: Option<&[Dim]>, words: [&str; 4]) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    let (cubic, extrapolation) = (r.float("cubic_coeff_a", -0.75)?, r.float("extrapolation_value", 0.0)?);
    let (cubic, extrapolation) = (r.scalar(cubic as f64, DType::F32), r.scalar(extrapolation as f64, DType::F32));
    let mut ints = vec![r.int("exclude_outside", 0)?];
    ints.extend(axes.iter().map(|a| *a as i64));
    let mut out = shape;
    for (k, &a) in axes.iter().enumerate() {
        out[a] = sizes.map_or_else(|| r.b.fresh("resized"), |s| s[k].clone());
    }
    let text: Vec<String> = words.iter().map(|w| w.to_string()).collect();
    in_floats(r, x, words[0] == "nearest" && words[1] != "tf_crop_and_resize", |r, x| {
        let inputs = [Some(x)].into_iter().chain(operands).chain([Some(cubic), Some(extrapolation)]).collect();
        let ty = Type::Tensor(r.dtype(x), out.clone());
        Ok(super::host::call_with(r, "resize", inputs, ints.clone(), text.clone(), vec![ty])?[0])
    })
}

/// A positive float as a ratio of integers, as each is; not those far from 1, by which extents would overflow.
fn ratio(x: f32) -> Option<(i64, i64)> {
    let (mut p, mut q) = (f64::from(x), 1);
    while p.fract() != 0.0 && q < 1 << 30 {
        (p, q) = (p * 2.0, q * 2);
    }
    (p.fract() == 0.0 && p < f64::from(1 << 30)).then_some((p as i64, q))
}

/// Reads `Upsample`, the forerunner of Resize.
pub fn read_upsample(r: &mut Reader<'_, '_>) -> Read {
    let x = r.input(0)?;
    let shape = r.shape(x)?;
    if let Some(v) = r.opt(1).filter(|v| r.version >= 9 && r.constant(*v).is_none()) {
        let mode = r.word("mode", &["nearest", "linear", "cubic"])?;
        let axes: Vec<usize> = (0..shape.len()).collect();
        return computed(r, [None, Some(v), None], &axes, None, [mode, "asymmetric", "floor", "stretch"]);
    }
    let mode = if r.version < 7 {
        match r.word("mode", &["nearest", "bilinear"])? {
            "bilinear" => "linear",
            m => m,
        }
    } else {
        r.word("mode", &["nearest", "linear", "cubic"])?
    };
    let scales = match r.version {
        ..7 => r.float_opt("height_scale")?.zip(r.float_opt("width_scale")?).map(|(h, w)| vec![1.0, 1.0, h, w]),
        7..9 => r.floats("scales")?,
        _ => floats(r, r.opt(1), "scales")?,
    };
    let scales = scales.filter(|s| s.len() == shape.len()).ok_or_else(|| Diagnostic::new("Upsample needs a scale for each axis"))?;
    let out = shape
        .iter()
        .zip(&scales)
        .map(|(d, s)| match d.as_int() {
            Some(n) => Ok(Dim::int((n as f64 * *s as f64).floor() as i64)),
            None if s.fract() == 0.0 => Ok(d.clone() * Dim::int(*s as i64)),
            None => Err(Diagnostic::new(format!("an open axis has the scale {s}"))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let op = Resize {
        shape: out,
        scales: scales.into_iter().map(Real::from).collect(),
        roi: vec![],
        mode,
        coordinates: "asymmetric",
        nearest: "floor",
        cubic: (-0.75).into(),
        extrapolation: 0.0.into(),
        exclude: false,
    };
    finish(r, x, op)
}
