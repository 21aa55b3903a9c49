//! Recurrent layers: LSTM, GRU and RNN over whole sequences, in one or both directions.

mod steps;

pub use steps::recurrence;

use crate::entry::{In, Ints, Out};
use crate::num::Float;

/// The activation functions in the order of their numbers.
pub const ACTIVATIONS: [&str; 11] =
    ["relu", "tanh", "sigmoid", "affine", "leakyrelu", "thresholdedrelu", "scaledtanh", "hardsigmoid", "elu", "softsign", "softplus"];

fn activate(which: i64, x: f64, alpha: f64, beta: f64) -> f64 {
    match which {
        0 => x.max(0.0),
        1 => x.tanh(),
        2 => 1.0 / (1.0 + (-x).exp()),
        3 => alpha * x + beta,
        4 => {
            if x < 0.0 {
                alpha * x
            } else {
                x
            }
        }
        5 => {
            if x > alpha {
                x
            } else {
                0.0
            }
        }
        6 => alpha * (beta * x).tanh(),
        7 => (alpha * x + beta).clamp(0.0, 1.0),
        8 => {
            if x < 0.0 {
                alpha * (x.exp() - 1.0)
            } else {
                x
            }
        }
        9 => x / (1.0 + x.abs()),
        _ => crate::support::scalar::softplus(x),
    }
}

/// One recurrent layer: [LSTM](https://onnx.ai/onnx/operators/onnx__LSTM.html), [GRU](https://onnx.ai/onnx/operators/onnx__GRU.html)
/// or [RNN](https://onnx.ai/onnx/operators/onnx__RNN.html), which `cell` names. `dims` are sequence, batch, input, hidden, directions.
/// `activations` numbers three functions of [`ACTIVATIONS`] for each direction, with three `alpha` and `beta`. `reverse` runs the only
/// direction backwards; `flag` couples input and forget gates of an LSTM and resets a GRU after its linear part. Pre-activations are
/// clamped to `clip` unless it is 0. `scratch` holds five elements for each of a state.
pub fn recurrent<T: Float>(
    y: Option<Out<'_, T>>,
    last: Option<Out<'_, T>>,
    last_cell: Option<Out<'_, T>>,
    x: In<'_, T>,
    w: In<'_, T>,
    r: In<'_, T>,
    bias: Option<In<'_, T>>,
    lengths: Option<In<'_, i32>>,
    first: Option<In<'_, T>>,
    first_cell: Option<In<'_, T>>,
    peepholes: Option<In<'_, T>>,
    dims: &[usize],
    cell: &str,
    activations: Ints<'_>,
    alpha: &[f32],
    beta: &[f32],
    reverse: bool,
    flag: bool,
    clip: f32,
    scratch: Out<'_, f64>,
) {
    let [seq, batch, input, hidden, directions] = *dims else { return };
    let gates = match cell {
        "lstm" => 4,
        "gru" => 3,
        _ => 1,
    };
    let (mut y, mut last, mut last_cell) = (y, last, last_cell);
    let (mut h, rest) = scratch.0.split_at_mut(hidden);
    let (c, rest) = rest.split_at_mut(hidden);
    let (mut next, rest) = rest.split_at_mut(hidden);
    let (reset, masked) = rest[..2 * hidden].split_at_mut(hidden);
    if let Some(y) = &mut y {
        y.0.fill(T::ZERO);
    }
    for d in 0..directions {
        let function = |k: usize, v: f64| {
            let v = if clip > 0.0 { v.clamp(-clip as f64, clip as f64) } else { v };
            activate(activations.0[3 * d + k], v, alpha[3 * d + k] as f64, beta[3 * d + k] as f64)
        };
        let w = &w.0[d * gates * hidden * input..][..gates * hidden * input];
        let r = &r.0[d * gates * hidden * hidden..][..gates * hidden * hidden];
        let bias_at = |i: usize| bias.map_or(0.0, |b| b.0[d * 2 * gates * hidden + i].to_f64());
        let hole = |k: usize, i: usize| peepholes.map_or(0.0, |p| p.0[(d * 3 + k) * hidden + i].to_f64());
        for b in 0..batch {
            let start = |to: &mut [f64], v: Option<In<'_, T>>| {
                to.iter_mut().enumerate().for_each(|(i, x)| *x = v.map_or(0.0, |v| v.0[(d * batch + b) * hidden + i].to_f64()));
            };
            start(h, first);
            start(c, first_cell);
            let len = lengths.map_or(seq, |l| (l.0[b].max(0) as usize).min(seq));
            for step in 0..len {
                let t = if reverse || d == 1 { len - 1 - step } else { step };
                let x = &x.0[(t * batch + b) * input..][..input];
                let from_x = |row: usize| -> f64 {
                    x.iter().zip(&w[row * input..][..input]).map(|(a, b)| a.to_f64() * b.to_f64()).sum::<f64>() + bias_at(row)
                };
                let from_h = |row: usize, h: &[f64]| -> f64 {
                    let sum = h.iter().zip(&r[row * hidden..][..hidden]).map(|(a, b)| a * b.to_f64()).sum::<f64>();
                    sum + bias_at(gates * hidden + row)
                };
                let gate = |k: usize, i: usize, h: &[f64]| from_x(k * hidden + i) + from_h(k * hidden + i, h);
                match cell {
                    "lstm" => {
                        for i in 0..hidden {
                            let open = function(0, gate(0, i, h) + hole(0, i) * c[i]);
                            let keep = if flag { 1.0 - open } else { function(0, gate(2, i, h) + hole(2, i) * c[i]) };
                            let new = keep * c[i] + open * function(1, gate(3, i, h));
                            let out = function(0, gate(1, i, h) + hole(1, i) * new);
                            c[i] = new;
                            next[i] = out * function(2, new);
                        }
                    }
                    "gru" => {
                        (0..hidden).for_each(|i| reset[i] = function(0, gate(1, i, h)));
                        (0..hidden).for_each(|i| masked[i] = reset[i] * h[i]);
                        for i in 0..hidden {
                            let update = function(0, gate(0, i, h));
                            let row = 2 * hidden + i;
                            let part = if flag { reset[i] * from_h(row, h) } else { from_h(row, masked) };
                            next[i] = (1.0 - update) * function(1, from_x(row) + part) + update * h[i];
                        }
                    }
                    _ => (0..hidden).for_each(|i| next[i] = function(0, gate(0, i, h))),
                }
                core::mem::swap(&mut h, &mut next);
                if let Some(y) = &mut y {
                    for (o, v) in y.0[((t * directions + d) * batch + b) * hidden..][..hidden].iter_mut().zip(&*h) {
                        *o = T::from_f64(*v);
                    }
                }
            }
            for (slot, state) in [(&mut last, &*h), (&mut last_cell, &*c)] {
                if let Some(slot) = slot {
                    for (o, v) in slot.0[(d * batch + b) * hidden..][..hidden].iter_mut().zip(state) {
                        *o = T::from_f64(*v);
                    }
                }
            }
        }
    }
}
