//! The part of a recurrent layer that goes from step to step: what the input gives is there already, and the product with the state is
//! taken on vectors, some rows of weights at a time, in f32.

use crate::entry::{In, Out};
use crate::isa::{Arith, Isa};
use crate::kernel_fn;
use crate::support::math;

/// Rows of weights that are taken together.
const ROWS: usize = 4;
/// States that are multiplied with them together.
const STATES: usize = 2;

/// Adds the products of [`ROWS`] elements of a state with as many rows of weights.
#[inline(always)]
fn one<A: Arith>(sums: &mut [f32], h: [f32; ROWS], r0: &[f32], r1: &[f32], r2: &[f32], r3: &[f32]) {
    let n = sums.len();
    let (r0, r1, r2, r3) = (&r0[..n], &r1[..n], &r2[..n], &r3[..n]);
    for j in 0..n {
        let sum = A::mul_add(h[1], r1[j], A::mul_add(h[0], r0[j], sums[j]));
        sums[j] = A::mul_add(h[3], r3[j], A::mul_add(h[2], r2[j], sum));
    }
}

/// [`one`] of two states, which share what is read of the weights.
#[inline(always)]
fn two<A: Arith>(s: &mut [f32], t: &mut [f32], [h, g]: [[f32; ROWS]; STATES], r0: &[f32], r1: &[f32], r2: &[f32], r3: &[f32]) {
    let n = s.len();
    let (t, r0, r1, r2, r3) = (&mut t[..n], &r0[..n], &r1[..n], &r2[..n], &r3[..n]);
    for j in 0..n {
        let (a, b, c, d) = (r0[j], r1[j], r2[j], r3[j]);
        s[j] = A::mul_add(h[3], d, A::mul_add(h[2], c, A::mul_add(h[1], b, A::mul_add(h[0], a, s[j]))));
        t[j] = A::mul_add(g[3], d, A::mul_add(g[2], c, A::mul_add(g[1], b, A::mul_add(g[0], a, t[j]))));
    }
}

kernel_fn! {
    /// Adds the products of `batch` states of `hidden` floats with a matrix of `width` columns, rows of which are `pitch` apart, to sums
    /// that are `to` apart.
    fn multiply<A>(
        sums: *mut f32, to: usize, states: *const f32, batch: usize, hidden: usize, r: *const f32, pitch: usize, width: usize,
    ) {
        let whole = hidden - hidden % ROWS;
        for k in (0..whole).step_by(ROWS) {
            // Rows of weights that are near serve every state.
            let row = |q: usize| core::slice::from_raw_parts(r.add((k + q) * pitch), width);
            let part = |b: usize| states.add(b * hidden + k).cast::<[f32; ROWS]>().read_unaligned();
            for b in (0..batch).step_by(STATES) {
                let s = core::slice::from_raw_parts_mut(sums.add(b * to), width);
                if b + 1 < batch {
                    let t = core::slice::from_raw_parts_mut(sums.add((b + 1) * to), width);
                    two::<A>(s, t, [part(b), part(b + 1)], row(0), row(1), row(2), row(3));
                } else {
                    one::<A>(s, part(b), row(0), row(1), row(2), row(3));
                }
            }
        }
        for k in whole..hidden {
            for b in 0..batch {
                let (sums, h, r) = (sums.add(b * to), *states.add(b * hidden + k), r.add(k * pitch));
                for j in 0..width {
                    *sums.add(j) = A::mul_add(h, *r.add(j), *sums.add(j));
                }
            }
        }
    }

    /// `c = σ(f) c + σ(i) tanh(g)`, `h = σ(o) tanh(c)` of sums in the order i, f, g, o.
    fn lstm<A>(sums: *const f32, c: *mut f32, h: *mut f32, hidden: usize) {
        for j in 0..hidden {
            let (i, f) = (math::sigmoid::<A>(*sums.add(j)), math::sigmoid::<A>(*sums.add(hidden + j)));
            let (g, o) = (math::tanh::<A>(*sums.add(2 * hidden + j)), math::sigmoid::<A>(*sums.add(3 * hidden + j)));
            let new = A::mul_add(f, *c.add(j), i * g);
            *c.add(j) = new;
            *h.add(j) = o * math::tanh::<A>(new);
        }
    }

    /// `σ(r) h` of sums that begin with r.
    fn reset<A>(sums: *const f32, h: *const f32, masked: *mut f32, hidden: usize) {
        for j in 0..hidden {
            *masked.add(j) = math::sigmoid::<A>(*sums.add(j)) * *h.add(j);
        }
    }

    /// `h = σ(z) (h - n) + n`, `n = tanh(..)` of sums in the order r, z, n. Where the state's part of n is `apart`, r is its factor.
    fn gru<A>(sums: *const f32, apart: *const f32, h: *mut f32, hidden: usize) {
        for j in 0..hidden {
            let z = math::sigmoid::<A>(*sums.add(hidden + j));
            let x = *sums.add(2 * hidden + j);
            let x = if apart.is_null() { x } else { A::mul_add(math::sigmoid::<A>(*sums.add(j)), *apart.add(j), x) };
            let n = math::tanh::<A>(x);
            *h.add(j) = A::mul_add(z, *h.add(j) - n, n);
        }
    }

    fn plain<A>(sums: *const f32, h: *mut f32, hidden: usize) {
        for j in 0..hidden {
            *h.add(j) = math::tanh::<A>(*sums.add(j));
        }
    }
}

/// The states of a recurrent layer over a sequence, its last state and, of an LSTM, its last cell. `gates` holds, for each step and
/// sequence of the batch, what input and biases add to each gate: i, f, g, o of an `lstm`, r, z, n of a `gru`, one of an `rnn`. `r` is
/// `[hidden, gates * hidden]`. With a `bias`, a GRU resets the state behind the product, to which the bias is added. `dims` are sequence,
/// batch and hidden; `scratch` holds, for each of the batch, `hidden` floats three times and once for each gate.
pub fn recurrence(
    y: Option<Out<'_, f32>>,
    last: Option<Out<'_, f32>>,
    last_cell: Option<Out<'_, f32>>,
    gates: In<'_, f32>,
    r: In<'_, f32>,
    bias: Option<In<'_, f32>>,
    first: Option<In<'_, f32>>,
    first_cell: Option<In<'_, f32>>,
    dims: &[usize],
    cell: &str,
    reverse: bool,
    scratch: Out<'_, f32>,
) {
    let [seq, batch, hidden] = *dims else { return };
    let count = match cell {
        "lstm" => 4,
        "gru" => 3,
        _ => 1,
    };
    let (isa, width) = (Isa::detect(), count * hidden);
    let (sums, rest) = scratch.0[..batch * (width + 3 * hidden)].split_at_mut(batch * width);
    let (h, rest) = rest.split_at_mut(batch * hidden);
    // Of a GRU: the state behind the reset, or what the state adds to n.
    let (c, apart) = rest.split_at_mut(batch * hidden);
    for (to, from) in [(&mut *h, first), (&mut *c, first_cell)] {
        match from {
            Some(from) => to.copy_from_slice(&from.0[..batch * hidden]),
            None => to.fill(0.0),
        }
    }
    let mut y = y;
    // The slices hold what the pointers below walk over.
    let (gates, r) = (&gates.0[..seq * batch * width], &r.0[..hidden * width]);
    for step in 0..seq {
        let t = if reverse { seq - 1 - step } else { step };
        sums.copy_from_slice(&gates[t * batch * width..][..batch * width]);
        // The columns that the whole state is multiplied with.
        let whole = if cell == "gru" { 2 * hidden } else { width };
        // SAFETY: sums, states and weights have the extents that are passed, and the machine has the instruction set that was found.
        unsafe {
            multiply(isa, sums.as_mut_ptr(), width, h.as_ptr(), batch, hidden, r.as_ptr(), width, whole);
            match (cell, bias) {
                ("gru", Some(bias)) => {
                    apart.chunks_mut(hidden.max(1)).for_each(|a| a.copy_from_slice(&bias.0[..hidden]));
                    multiply(isa, apart.as_mut_ptr(), hidden, h.as_ptr(), batch, hidden, r.as_ptr().add(whole), width, hidden);
                }
                ("gru", None) => {
                    for b in 0..batch {
                        let at = b * hidden;
                        reset(isa, sums.as_ptr().add(b * width), h.as_ptr().add(at), apart.as_mut_ptr().add(at), hidden);
                    }
                    let to = sums.as_mut_ptr().add(whole);
                    multiply(isa, to, width, apart.as_ptr(), batch, hidden, r.as_ptr().add(whole), width, hidden);
                }
                _ => {}
            }
            for b in 0..batch {
                let (sums, at) = (sums.as_ptr().add(b * width), b * hidden);
                let h = h.as_mut_ptr().add(at);
                match cell {
                    "lstm" => lstm(isa, sums, c.as_mut_ptr().add(at), h, hidden),
                    "gru" if bias.is_some() => gru(isa, sums, apart.as_ptr().add(at), h, hidden),
                    "gru" => gru(isa, sums, core::ptr::null(), h, hidden),
                    _ => plain(isa, sums, h, hidden),
                }
            }
        }
        if let Some(y) = &mut y {
            y.0[t * batch * hidden..][..batch * hidden].copy_from_slice(h);
        }
    }
    for (to, from) in [(last, &*h), (last_cell, &*c)] {
        if let Some(to) = to {
            to.0.copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::testing::{Rng, assert_close};

    #[test]
    fn products_with_states_are_those_of_plain_loops() {
        let mut rng = Rng(3);
        for _ in 0..60 {
            let (batch, hidden, width) = (rng.int(0, 9), rng.int(1, 11), rng.pick(&[1, 15, 16, 37, 64]));
            let (pitch, to) = (width + rng.int(0, 3), width + rng.int(0, 3));
            let (h, r, start) = (rng.floats(batch * hidden + 1), rng.floats(hidden * pitch), rng.floats(batch * to + 1));
            let mut want = start.clone();
            for b in 0..batch {
                for j in 0..width {
                    want[b * to + j] += (0..hidden).map(|k| h[b * hidden + k] * r[k * pitch + j]).sum::<f32>();
                }
            }
            for isa in Isa::available() {
                let mut got = start.clone();
                // SAFETY: states, weights and sums are there.
                unsafe { multiply(isa, got.as_mut_ptr(), to, h.as_ptr(), batch, hidden, r.as_ptr(), pitch, width) };
                assert_close(&got, &want, 1e-5, "products with states");
            }
        }
    }
}
