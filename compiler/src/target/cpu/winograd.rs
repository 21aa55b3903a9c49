//! Which convolutions run by Winograd's minimal filtering: those where what it saves in products is more than what its transforms and its
//! larger weights cost.

use super::cost::{RATES, upper};
use crate::ir::{Dim, Graph};
use crate::kernel::{Kernel, Method, Recipe, Window};
use crate::target::{Accuracy, Choice, Tuning};
use kiln_kernels::gemm::PANEL;

/// A float of a matrix that a transform writes or reads, with its share of the transform's arithmetic, in picoseconds on one core.
const TRANSFORMED: f64 = 90.0;

/// A byte of transformed weights, which every block of tiles reads.
const WEIGHT: f64 = 27.0;

/// How much longer a product takes that has a few rows, for each matrix of a tile, than the direct sum's long ones.
const SHORT: f64 = 1.1;

/// What must be gained at least: below it, direct sums need fewer bytes of weights.
const PAYS: f64 = 0.9;

/// Has a direct convolution computed by the method that was measured to be the fastest of those that the level allows, or else by the one that
/// should be. Says what the choice was about, where there was one.
pub fn quicken(g: &Graph, kernel: &mut Kernel, accuracy: Accuracy, tuning: &Tuning) -> Option<Choice> {
    let Kernel::Conv { window, k, groups: 1, method: method @ Method::Direct, weights, .. } = kernel else { return None };
    let Recipe::Conv { method: packed, c, .. } = &mut weights.recipe else { return None };
    if accuracy == Accuracy::Exact || !applies(window) {
        return None;
    }
    let spec = spec(window, *c, *k, accuracy);
    let measured = tuning.method(&spec);
    let chosen = measured.unwrap_or_else(|| cheapest(g, window, *c, *k));
    (*method, *packed) = (chosen, chosen);
    Some(Choice { spec, method: chosen, measured: measured.is_some(), origins: Vec::new() })
}

/// What a convolution computes, as files of measured methods name it.
fn spec(w: &Window, c: usize, k: usize, accuracy: Accuracy) -> String {
    let plane = |d: &[Dim; 3]| format!("{}x{}", d[1], d[2]).replace(' ', "");
    let pads = format!("{}x{}", w.pad[1], w.pad[2]);
    let n = w.n.to_string().replace(' ', "");
    format!(
        "conv accuracy={} c={c} in={} k={k} n={n} out={} pads={pads} window=3x3",
        accuracy.name(),
        plane(&w.in_dims),
        plane(&w.out_dims)
    )
}

/// The method that should take least.
fn cheapest(g: &Graph, window: &Window, c: usize, k: usize) -> Method {
    let direct = direct(g, window, c, k);
    let tiles = [2, 4].map(|m| (m, tiled(g, window, c, k, m)));
    match tiles.into_iter().min_by(|a, b| a.1.total_cmp(&b.1)) {
        Some((m, cost)) if cost < PAYS * direct => Method::Winograd(m),
        _ => Method::Direct,
    }
}

/// Whether it is a plane of 3x3 windows, without steps between them or inside, over pixels whose channels are neighbours.
fn applies(w: &Window) -> bool {
    let plane = w.in_dims[0].is(1) && w.out_dims[0].is(1);
    plane && w.kernel == [1, 3, 3] && w.stride == [1; 3] && w.dilation == [1; 3] && w.x_strides[1].is(1)
}

/// Images, as few as there may be: weights cost most then.
fn images(g: &Graph, n: &Dim) -> f64 {
    g.range(n).lo.max(1) as f64
}

/// What the direct sums cost.
fn direct(g: &Graph, w: &Window, c: usize, k: usize) -> f64 {
    let pixels: f64 = images(g, &w.n) * w.out_dims.iter().map(|d| upper(&g.symbols, d)).product::<f64>();
    let weights = (9 * c * k.next_multiple_of(PANEL)) as f64;
    weights * (pixels * RATES.multiply_add + 4.0 * RATES.weight)
}

/// What tiles of `m` x `m` outputs cost.
fn tiled(g: &Graph, w: &Window, c: usize, k: usize, m: usize) -> f64 {
    let along = |d: &Dim| (upper(&g.symbols, d) / m as f64).ceil();
    let tiles = images(g, &w.n) * along(&w.out_dims[1]) * along(&w.out_dims[2]);
    let products = ((m + 2) * (m + 2)) as f64;
    // Few channels cost as much as a whole vector of them.
    let vectors = (c.next_multiple_of(PANEL) + k.next_multiple_of(PANEL)) as f64;
    let weights = products * (c * k.next_multiple_of(PANEL)) as f64;
    weights * (tiles * RATES.multiply_add * SHORT + 4.0 * WEIGHT) + tiles * products * vectors * TRANSFORMED
}
