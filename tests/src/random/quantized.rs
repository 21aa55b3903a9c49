//! Growers of quantized operators, and of operators between DequantizeLinear and QuantizeLinear.

use super::dense::{Window, image};
use super::table::Line;
use super::{Class, Growing, Shape, V, attr, closed, elements, holds_elements, limits, small};
use kiln_kernels::dtype::DType::{self, F32, I8, I32, U8};
use kiln_kernels::value::Tensor;

/// A scale that covers a magnitude by a byte.
fn scale(g: &mut Growing, top: f64) -> V {
    // A little off from what covers it, so that no value lies halfway between two steps by design.
    g.scalar((top / 100.0).max(1e-3) * 1.0123, F32)
}

fn zero(g: &mut Growing, dtype: DType) -> (V, f64) {
    let z = if dtype == U8 { g.rng.pick(&[0.0, 128.0, 117.0]) } else { g.rng.pick(&[0.0, 0.0, -3.0]) };
    (g.scalar(z, dtype), z)
}

/// Bounds of dequantized bytes.
fn real(dtype: DType, z: f64, s: f64) -> super::Range {
    let (lo, hi) = limits(dtype);
    ((lo - z) * s, (hi - z) * s)
}

fn scale_of(g: &Growing, s: V) -> f64 {
    g.magnitude(s)
}

/// A float value, quantized and dequantized again; gives what comes out.
fn round_trip(g: &mut Growing, v: V) -> V {
    let v = g.tame(v, 50.0);
    let shape = g.shape(v);
    let dtype = g.rng.pick(&[U8, U8, I8]);
    let top = g.magnitude(v);
    let (s, (z, at)) = (scale(g, top), zero(g, dtype));
    let q = g.one("QuantizeLinear", &[v, s, z], vec![], (dtype, shape.clone(), limits(dtype)), Class::Exact);
    let range = real(dtype, at, scale_of(g, s));
    g.one("DequantizeLinear", &[q, s, z], vec![], (F32, shape, range), Class::Rounds)
}

/// QuantizeLinear and DequantizeLinear behind each other.
pub fn pair(g: &mut Growing, line: &Line) -> Option<()> {
    let v = g.operand(line.types, 1, 4);
    round_trip(g, v);
    Some(())
}

/// Weights as bytes with a scale, dequantized, for a channel or all.
fn dequantized_weights(g: &mut Growing, shape: Shape, axis: usize) -> V {
    let q = g.placeholder(I8, shape.clone(), (-127.0, 127.0));
    let n = shape[axis][0];
    let taps = (elements(&shape)[0] / n.max(1)).max(1) as f64;
    let top = 2.0 / 127.0 / taps.sqrt();
    if g.once_in(2) || g.opset < 13 {
        let s = g.scalar(top, F32);
        let z = g.scalar(0.0, I8);
        return g.one("DequantizeLinear", &[q, s, z], vec![], (F32, shape, (-127.0 * top, 127.0 * top)), Class::Rounds);
    }
    let s = g.placeholder(F32, vec![closed(n)], (top * 0.5, top));
    let z = g.fixed(Tensor::new(&[n], &vec![0i8; n]));
    g.one("DequantizeLinear", &[q, s, z], vec![attr("axis", axis as i64)], (F32, shape, (-127.0 * top, 127.0 * top)), Class::Rounds)
}

/// A convolution or product in QDQ form, with an activation, quantized behind.
pub fn qdq(g: &mut Growing, _: &Line) -> Option<()> {
    let mut y = if g.once_in(2) {
        let x = image(g, &[F32], 2, 2);
        let x = round_trip(g, x);
        let s = g.shape(x);
        let w = Window::new(g, &s[2..], false)?;
        let c = s[1][0];
        let groups = if g.once_in(4) { c } else { 1 };
        let filters = if groups == 1 { g.rng.pick(&[1, 3, 8, 16, 19]) } else { c };
        let mut shape = vec![closed(filters), closed(c / groups)];
        shape.extend(w.kernel.iter().map(|k| closed(*k)));
        let mut out = vec![s[0], closed(filters)];
        out.extend(w.out(&s[2..], false)?);
        if !small(&out) || !holds_elements(&out) {
            return None;
        }
        let k = dequantized_weights(g, shape, 0);
        let mut inputs = vec![x, k];
        if g.once_in(2) {
            inputs.push(g.placeholder(F32, vec![closed(filters)], (-1.0, 1.0)));
        }
        let mut attributes = w.attributes();
        attributes.push(attr("group", groups as i64));
        let top = g.magnitude(x) * 8.0 + 1.0;
        g.one("Conv", &inputs, attributes, (F32, out, (-top, top)), Class::Sums)
    } else {
        let x = g.operand(&[F32], 2, 3);
        let x = round_trip(g, x);
        let s = g.shape(x);
        let k = *s.last()?;
        if k[0] != k[1] || k[0] == 0 {
            return None;
        }
        let n = closed(g.extent());
        let w = dequantized_weights(g, vec![k, n], 1);
        let mut out = s.clone();
        *out.last_mut()? = n;
        if !small(&out) {
            return None;
        }
        let top = g.magnitude(x) * 8.0 + 1.0;
        g.one("MatMul", &[x, w], vec![], (F32, out, (-top, top)), Class::Sums)
    };
    if g.once_in(2) {
        let out = (F32, g.shape(y), (0.0, g.magnitude(y)));
        y = g.one("Relu", &[y], vec![], out, Class::Exact);
    }
    if !g.once_in(3) {
        round_trip(g, y);
    }
    Some(())
}

/// MatMulInteger and ConvInteger.
pub fn integer(g: &mut Growing, line: &Line) -> Option<()> {
    let (a, b) = (g.rng.pick(&[U8, U8, I8]), g.rng.pick(&[U8, I8, I8]));
    if line.op == "MatMulInteger" {
        let x = g.operand(&[a], 2, 3);
        let s = g.shape(x);
        let k = *s.last()?;
        if k[0] != k[1] || k[0] == 0 {
            return None;
        }
        let n = closed(g.extent());
        let range = limits(b);
        let w = g.placeholder(b, vec![k, n], range);
        let mut inputs = vec![x, w];
        if g.once_in(2) {
            inputs.push(zero(g, a).0);
            if g.once_in(2) {
                inputs.push(zero(g, b).0);
            }
        }
        let mut out = s;
        *out.last_mut()? = n;
        if !small(&out) {
            return None;
        }
        g.one(line.op, &inputs, vec![], (I32, out, (-3e6, 3e6)), Class::Exact);
    } else {
        let x = image(g, &[U8], 2, 2);
        // What images are made of are floats; bytes have all of their range.
        let (lo, hi) = limits(U8);
        if let super::Source::Placeholder = g.values[x].source {
            g.values[x].range = (lo, hi);
        }
        let s = g.shape(x);
        let w = Window::new(g, &s[2..], false)?;
        let filters = g.rng.pick(&[1, 3, 8, 16]);
        let mut shape = vec![closed(filters), s[1]];
        shape.extend(w.kernel.iter().map(|k| closed(*k)));
        let range = limits(b);
        let k = g.placeholder(b, shape, range);
        let mut inputs = vec![x, k];
        if g.once_in(2) {
            inputs.push(zero(g, U8).0);
        }
        let mut out = vec![s[0], closed(filters)];
        out.extend(w.out(&s[2..], false)?);
        if !small(&out) || !holds_elements(&out) {
            return None;
        }
        g.one(line.op, &inputs, w.attributes(), (I32, out, (-3e7, 3e7)), Class::Exact);
    }
    Some(())
}

/// DynamicQuantizeLinear.
pub fn dynamic(g: &mut Growing, line: &Line) -> Option<()> {
    // The scale of nothing but zeros is 1/255 in the standard's reference and 1 in ONNX Runtime: what is quantized is drawn.
    let v = g.existing(line.types, |g, v| matches!(g.values[v].source, super::Source::Placeholder))?;
    let shape = g.shape(v);
    if !holds_elements(&shape) {
        return None;
    }
    let top = g.magnitude(v);
    let outs = vec![(U8, shape, (0.0, 255.0)), (F32, vec![], (0.0, top / 100.0)), (U8, vec![], (0.0, 255.0))];
    g.node(line.op, &[v], vec![], outs, Class::Rounds);
    Some(())
}

/// QLinearConv and QLinearMatMul.
pub fn qlinear(g: &mut Growing, line: &Line) -> Option<()> {
    let a = g.rng.pick(&[U8, I8]);
    let (sx, sw) = (g.scalar(0.0217, F32), g.scalar(0.0131, F32));
    let ((zx, _), (zw, _), (zy, _)) = (zero(g, a), (g.scalar(0.0, I8), 0.0), zero(g, a));
    let range = limits(a);
    let (inputs, attributes, out) = if line.op == "QLinearMatMul" {
        let x = g.operand(&[a], 2, 3);
        let s = g.shape(x);
        let k = *s.last()?;
        if k[0] != k[1] || k[0] == 0 {
            return None;
        }
        let n = closed(g.extent());
        let w = g.placeholder(I8, vec![k, n], (-127.0, 127.0));
        let sy = g.scalar(0.0317 * (k[0] as f64).sqrt(), F32);
        let mut out = s;
        *out.last_mut()? = n;
        (vec![x, sx, zx, w, sw, zw, sy, zy], vec![], out)
    } else {
        let n = closed(g.between(1, 2));
        let (c, h) = (closed(g.rng.pick(&[1, 3, 4, 8, 16])), closed(g.between(3, 9)));
        let x = g.placeholder(a, vec![n, c, h, h], range);
        let w = Window::new(g, &[h, h], false)?;
        let filters = g.rng.pick(&[1, 3, 8, 16]);
        let mut shape = vec![closed(filters), c];
        shape.extend(w.kernel.iter().map(|k| closed(*k)));
        let taps = elements(&shape[1..])[0] as f64;
        let k = g.placeholder(I8, shape, (-127.0, 127.0));
        let sy = g.scalar(0.0317 * taps.sqrt(), F32);
        let mut out = vec![n, closed(filters)];
        out.extend(w.out(&[h, h], false)?);
        let mut inputs = vec![x, sx, zx, k, sw, zw, sy, zy];
        if g.once_in(2) {
            inputs.push(g.placeholder(I32, vec![closed(filters)], (-1000.0, 1000.0)));
        }
        (inputs, w.attributes(), out)
    };
    if !small(&out) || !holds_elements(&out) {
        return None;
    }
    g.one(line.op, &inputs, attributes, (a, out, range), Class::Exact);
    Some(())
}
