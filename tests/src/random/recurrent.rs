//! Growers of recurrent layers.

use super::table::Line;
use super::{Class, Growing, NONE, attr, closed};

/// RNN, GRU and LSTM in all directions, with and without what they may have.
pub fn layer(g: &mut Growing, line: &Line) -> Option<()> {
    let dtype = g.rng.pick(line.types);
    let gates = match line.op {
        "LSTM" => 4,
        "GRU" => 3,
        _ => 1,
    };
    let batch = if !g.open.is_empty() && g.once_in(2) { g.rng.pick(&g.open.clone()) } else { closed(g.between(1, 3)) };
    if batch.contains(&0) {
        return None;
    }
    let (steps, size, hidden) = (g.between(1, 5), closed(g.rng.pick(&[1, 3, 4, 8])), g.rng.pick(&[1, 3, 5, 8, 16]));
    let direction = g.rng.pick(&["forward", "reverse", "bidirectional"]);
    let d = closed(if direction == "bidirectional" { 2 } else { 1 });
    let fitting = vec![closed(steps), batch, size];
    let x = g.existing(&[dtype], |g, v| g.shape(v) == fitting);
    let x = x.unwrap_or_else(|| g.placeholder(dtype, fitting, (-1.0, 1.0)));
    let x = g.tame(x, 4.0);
    let h = closed(hidden);
    let w = g.placeholder(dtype, vec![d, closed(gates * hidden), size], (-0.5, 0.5));
    let r = g.placeholder(dtype, vec![d, closed(gates * hidden), h], (-0.5, 0.5));
    let mut inputs = vec![x, w, r];
    inputs.push(if g.once_in(2) { g.placeholder(dtype, vec![d, closed(2 * gates * hidden)], (-0.5, 0.5)) } else { NONE });
    let ragged = g.once_in(4);
    inputs.push(if ragged { g.placeholder(kiln_kernels::dtype::DType::I32, vec![batch], (1.0, steps as f64)) } else { NONE });
    inputs.push(if g.once_in(2) { g.placeholder(dtype, vec![d, batch, h], (-1.0, 1.0)) } else { NONE });
    if line.op == "LSTM" {
        inputs.push(if g.once_in(2) { g.placeholder(dtype, vec![d, batch, h], (-1.0, 1.0)) } else { NONE });
        if g.once_in(4) {
            inputs.push(g.placeholder(dtype, vec![d, closed(3 * hidden)], (-0.5, 0.5)));
        }
    }
    while inputs.last() == Some(&NONE) {
        inputs.pop();
    }
    let mut attributes = vec![attr("hidden_size", hidden as i64), attr("direction", direction)];
    if line.op == "GRU" && g.once_in(2) {
        attributes.push(attr("linear_before_reset", 1i64));
    }
    let all = vec![closed(steps), d, batch, h];
    let last = vec![d, batch, h];
    let mut outs = vec![(dtype, all, (-1.0, 1.0)), (dtype, last.clone(), (-1.0, 1.0))];
    if line.op == "LSTM" {
        outs.push((dtype, last, (-(steps as f64) - 1.0, steps as f64 + 1.0)));
    }
    g.node(line.op, &inputs, attributes, outs, Class::Sums);
    Some(())
}
