//! Products whose operands the tensor memory accelerator streams (sm_90a), printed beside those whose threads bring them.

use super::super::{Printer, int};
use super::epilogue::{Ends, Rows};
use super::products::Tiled;
use super::sheet::Sheet;
use super::{Kernels, Launch};
use crate::ir::{Dim, ValueId};
use crate::kernel::{Packed, Window};
use crate::target::cuda::Tile;
use crate::target::{Element, Precision};
use proc_macro2::TokenStream;
use quote::quote;

/// Rows that the accelerator steps through: the address of the first, how many there are, elements of each, and from one to the next.
#[derive(Clone)]
struct Lines {
    at: TokenStream,
    rows: Dim,
    depth: Dim,
    pitch: Dim,
}

/// What the streamed form of a product has for itself: a sheet with the functor of its sums, and the rows of both sides.
#[derive(Clone)]
pub(super) struct Stream<'p> {
    sheet: Sheet<'p>,
    functor: String,
    sides: [Lines; 2],
}

/// The steps from row to row, if the windows of a convolution are plain rows: one tap, no steps, no padding, and pixels that lie one behind
/// the other.
pub(super) fn plain_rows(w: &Window) -> Option<&Dim> {
    let alone = |list: &[usize; 3], n: usize| list.iter().all(|x| *x == n);
    let [by_n, by_c, by_d, by_h, by_w] = &w.x_strides;
    let [d, h, width] = &w.in_dims;
    let taps = alone(&w.kernel, 1) && alone(&w.stride, 1) && alone(&w.pad, 0) && alone(&w.pad_end, 0);
    // The step of an extent of 1 says nothing.
    let mut lie = by_c.is(1);
    let mut step = by_w.clone();
    for (inner, outer, by) in [(width, h, by_h), (h, d, by_d), (d, &w.n, by_n)] {
        step = step * inner.clone();
        lie &= outer.is(1) || *by == step;
    }
    (taps && lie).then_some(by_w)
}

impl Printer<'_> {
    /// The streamed form of a product of rows of `a`, which lie `pitch` elements apart, by packed columns, where the accelerator can bring them.
    pub(super) fn stream_of<'p>(
        &self,
        s: &Sheet<'p>,
        element: Element,
        (a, pitch): (ValueId, &Dim),
        packed: &Packed,
        [m, n, k]: [&Dim; 3],
        (rows, ends): (&Rows, Ends<'_>),
    ) -> Option<Stream<'p>> {
        let (most, chunk) = (Printer::neighbours_of(element), element.chunk());
        let floats = matches!(element, Element::Float(Precision::F16 | Precision::Bf16));
        // It steps by 16 bytes.
        let lies = self.lies_as(a, element) && self.multiple(pitch, chunk) && self.begins_at(a, chunk);
        let depth = k.as_int().filter(|k| *k > 0)?;
        // A recording holds its maps, which must not change from run to run then.
        let live = [m, n, k, pitch].into_iter().chain(self.plan.starts.get(&a)).any(|d| self.plan.is_live(d));
        if !floats || !lies || ends.of_rows() || live {
            return None;
        }
        let mut sheet = s.again();
        let (functor, stored) = self.functor(&mut sheet, rows, ends, most);
        if stored < most {
            return None;
        }
        let columns = Lines {
            at: self.packed_at(packed, 0),
            rows: n.clone(),
            depth: k.clone(),
            pitch: Dim::int((depth as usize).next_multiple_of(chunk) as i64),
        };
        let lines = Lines { at: self.on_device(a), rows: m.clone(), depth: k.clone(), pitch: pitch.clone() };
        Some(Stream { sheet, functor, sides: [lines, columns] })
    }

    /// The launch of the streamed form of a product with a tile.
    pub(super) fn streamed_on_gpu(&self, stream: Stream<'_>, t: &Tiled<'_>, tile: Tile, kernels: &mut Kernels) -> Launch {
        let Stream { sheet: mut s, functor, sides } = stream;
        s.waits_itself();
        self.tile_constants(&mut s, t, tile);
        s.bounds("Stream<@_::C>::THREADS, Stream<@_::C>::BLOCKS");
        let split = self.split_of(&mut s, t, tile, kernels);
        let [em, en, ek] = [&t.rows, &t.cols, &t.depth].map(|d| s.extent(d));
        for (name, lines, of_box) in sides.into_iter().zip([tile.rows, tile.cols]).zip(["a", "b"]).map(|((l, b), n)| (n, l, b)) {
            let rt = super::super::names::rt();
            let Lines { at, rows, depth, pitch } = lines;
            let [rows, depth, pitch] = [rows, depth, pitch].map(|d| self.dim(&d));
            let of_box = int(of_box);
            s.map(name, quote!(#rt::Rows { at: #at, rows: #rows, depth: #depth, pitch: #pitch, of_box: #of_box }));
        }
        let body = format!("streamed_product<@_::C>(a, b, {functor}, int({em}), int({en}), int({ek}), {split});");
        let grid = [self.blocks(&t.rows, tile.rows), self.blocks(&t.cols, tile.cols), self.layers(t, tile)];
        s.made(kernels, grid, tile.threads(t.element), tile.shared(), &body)
    }
}
