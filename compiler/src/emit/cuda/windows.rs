//! Kernels over windows of channels-last images on a GPU: convolutions, pools, means of all pixels.

use super::super::Printer;
use super::epilogue::{Ends, Rows};
use super::products::Tiled;
use super::sheet::Sheet;
use super::streams::plain_rows;
use super::{Kernels, Launch};
use crate::ir::{Dim, ValueId, product};
use crate::kernel::{Kernel, Packed, Window};
use crate::target::{Element, Precision};
use quote::quote;

/// Threads of a block of kernels with a thread an element.
pub(super) const THREADS: usize = 256;

/// A convolution by packed filters.
#[derive(Clone, Copy)]
pub(super) struct Filters<'k> {
    /// Its geometry.
    pub(super) window: &'k Window,
    /// Output channels, and groups.
    pub(super) k: usize,
    pub(super) groups: usize,
    /// The image.
    pub(super) x: ValueId,
    /// The filters, and what they are made of.
    pub(super) weights: &'k Packed,
    pub(super) element: Element,
    /// What is taken off the image's elements by the kernel of groups.
    pub(super) zero: Option<ValueId>,
    /// What becomes of the sums.
    pub(super) ends: Ends<'k>,
}

/// The fields of the geometry that templates of windows read.
fn fields(w: &Window) -> Vec<(&'static str, Dim)> {
    let of = |n: usize| Dim::int(n as i64);
    let mut out = vec![("n", w.n.clone()), ("c", w.c.clone())];
    let names = [
        ["in_d", "in_h", "in_w"],
        ["out_d", "out_h", "out_w"],
        ["k_d", "k_h", "k_w"],
        ["s_d", "s_h", "s_w"],
        ["p_d", "p_h", "p_w"],
        ["e_d", "e_h", "e_w"],
        ["d_d", "d_h", "d_w"],
    ];
    for i in 0..3 {
        let values = [
            w.in_dims[i].clone(),
            w.out_dims[i].clone(),
            of(w.kernel[i]),
            of(w.stride[i]),
            of(w.pad[i]),
            of(w.pad_end[i]),
            of(w.dilation[i]),
        ];
        out.extend(names.iter().map(|n| n[i]).zip(values));
    }
    out.extend(["by_n", "by_c", "by_d", "by_h", "by_w"].into_iter().zip(w.x_strides.iter().cloned()));
    out
}

/// Windows over an image, as files of measured forms name them.
fn windows(w: &Window) -> String {
    let by = |list: Vec<String>| list.join("x").replace(' ', "");
    let of = |list: &[usize; 3]| by(list.iter().map(usize::to_string).collect());
    let image = by(w.in_dims.iter().map(Dim::to_string).collect());
    format!("windows image={image} window={} steps={} pads={} apart={}", of(&w.kernel), of(&w.stride), of(&w.pad), of(&w.dilation))
}

impl Printer<'_> {
    /// Where the pixels of a window's results go.
    fn pixels(&self, w: &Window, cols: Dim) -> Rows {
        let pixels = product(&w.out_dims);
        let even = w.n.is(1) || w.out_batch == pixels.clone() * w.out_pitch.clone();
        Rows { pitch: w.out_pitch.clone(), images: (!even).then(|| (pixels, w.out_batch.clone())), cols, batch: Vec::new() }
    }
    /// Whether `by` neighbouring channels of the operand are read at once.
    fn channels_by(&self, w: &Window, x: ValueId, by: usize) -> bool {
        let [n, c, d, h, width] = &w.x_strides;
        c.is(1) && self.multiple(&w.c, by) && [n, d, h, width].into_iter().all(|s| self.multiple(s, by)) && self.begins_at(x, by)
    }

    pub(super) fn conv_on_gpu(&self, s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Conv { window, k, groups, x, weights, bias, epilogue, .. } = &s.step.kernel else { return Vec::new() };
        let (ends, element) = (Ends::of(bias.as_ref(), epilogue.as_ref()), Element::from(self.precision()));
        self.filters_on_gpu(s, &Filters { window, k: *k, groups: *groups, x: *x, weights, element, zero: None, ends }, kernels)
    }
    pub(super) fn filters_on_gpu(&self, mut s: Sheet<'_>, f: &Filters<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Filters { window, k, groups, x, weights, element, ends, .. } = *f;
        let pixels = window.n.clone() * product(&window.out_dims);
        let rows = self.pixels(window, Dim::int(k as i64));
        if groups > 1 {
            return self.groups_on_gpu(s, f, &pixels, &rows, kernels);
        }
        let (source, at) = (s.stored(x), s.reads(x));
        let taps: usize = window.kernel.iter().product();
        let c = window.c.as_int().unwrap_or(0) as usize;
        let chunk = element.chunk();
        let whole = self.lies_as(x, element) && self.channels_by(window, x, chunk);
        let step = if whole { chunk } else { 1 };
        let geometry = s.geometry("A", &fields(window), "");
        let ty = format!("Windows<{source}, {step}, @_::A>");
        let mut left = format!("{ty}{{{at}, {geometry}}}");
        // Padding counts as the zero point; where there is none, nothing that is absent meets other weights than zeros.
        if ends.of_rows() || window.pad.iter().chain(&window.pad_end).any(|p| *p > 0) {
            left = self.filled(&mut s, ends, &ty, left);
        }
        let right = self.packed_loader(&mut s, (weights, element), k, c * taps);
        let most = Printer::neighbours_of(element);
        let (functor, stored) = self.functor(&mut s, &rows, ends, most);
        let (cols, depth) = (Dim::int(k as i64), Dim::int((c * taps) as i64));
        let stream =
            plain_rows(window).and_then(|pitch| self.stream_of(&s, element, (x, pitch), weights, [&pixels, &cols, &depth], (&rows, ends)));
        let tiled = Tiled {
            element,
            of_rows: ends.of_rows(),
            rows: pixels,
            cols,
            depth,
            loaders: [left, right],
            before: String::new(),
            splits: true,
            batch: None,
            gathers: !whole || stored < most,
            stream,
            what: format!("rows={} cols=packed {}", windows(window), self.told_tail(s.step.outputs[0], ends, stored)),
        };
        self.tiled_on_gpu(s, &tiled, &functor, kernels)
    }

    fn groups_on_gpu(&self, mut s: Sheet<'_>, f: &Filters<'_>, pixels: &Dim, rows: &Rows, kernels: &mut Kernels) -> Vec<Launch> {
        let Filters { window, k, groups, x, weights, element, zero, ends } = *f;
        let at = s.reads(x);
        let alone = window.c.is(groups as i64) && k == groups && window.x_strides[1].is(1);
        let per_group = k / groups;
        // Neighbours go together where the weights, and the image where a channel reads its own, lie so.
        let most = if let Element::Float(_) = element { 4 } else { 8 };
        let by = [8, 4, 2].into_iter().filter(|v| *v <= most).find(|v| {
            let neighbours = if alone { k % v == 0 && self.channels_by(window, x, *v) } else { per_group % v == 0 };
            neighbours && self.multiple(&rows.pitch, *v)
        });
        let by = by.unwrap_or(1);
        let mut list = fields(window);
        list.extend([("k", Dim::int(k as i64)), ("groups", Dim::int(groups as i64))]);
        let geometry = s.geometry("A", &list, &format!(" static constexpr bool alone = {alone};"));
        let word = match element {
            // Sums of f32, whatever is stored: tf32 has the bits of f32.
            Element::Float(Precision::Tf32) => "float",
            // A zero point is taken off here, so nothing is left of unsigned bytes.
            Element::Byte => "int8_t",
            e => e.word(),
        };
        let w = s.packed(weights, word);
        // The functor knows whether fewer neighbours can be stored at once.
        let (functor, by) = self.functor(&mut s, rows, ends, by);
        let zero = zero.map_or(String::new(), |z| format!(", {}", self.zero_point(&mut s, z)));
        let all = pixels.clone() * Dim::int((k / by) as i64);
        let body = format!("grouped_convolution<{by}>({at}, {w}, {functor}, {geometry}{zero});");
        let grid = [self.blocks(&all, THREADS), quote!(1), quote!(1)];
        s.launch(kernels, grid, THREADS, 0, &body)
    }

    pub(super) fn pool_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Pool { window, kind, x } = &s.step.kernel else { return Vec::new() };
        let out = s.step.outputs[0];
        let at = s.reads(*x);
        let rows = self.pixels(window, window.c.clone());
        let batch = rows.images.as_ref();
        let by = [8, 4, 2].into_iter().find(|v| {
            self.channels_by(window, *x, *v)
                && self.multiple(&rows.pitch, *v)
                && batch.is_none_or(|(_, b)| self.multiple(b, *v))
                && self.begins_at(out, *v)
                && self.plan.stored(*x).size() * v <= 16
                && self.plan.stored(out).size() * v <= 16
        });
        let by = by.unwrap_or(1);
        let geometry = s.geometry("A", &fields(window), "");
        s.begin();
        let (o, ty, pitch) = (s.writes(out), s.stored(out), s.extent(&rows.pitch));
        let place = match batch {
            Some((pixels, batch)) => {
                let (pixels, batch) = (s.extent(pixels), s.extent(batch));
                format!("row / {pixels} * {batch} + row % {pixels} * {pitch} + col")
            }
            None => format!("row * {pitch} + col"),
        };
        let put = s.end(
            "P",
            &format!(
                "template <class F, int V>\nKILN_DEVICE void operator()(long long row, int col, F (&v)[V]) const {{ Vec<{ty}, V> y; KILN_UNROLL\nfor (int i = 0; i < V; i++) y.at[i] = Narrow<{ty}>::of(v[i]); store<V>({o} + ({place}), y); }}\n"
            ),
        );
        let all = window.n.clone() * product(&window.out_dims) * window.c.clone();
        let grid = [self.blocks(&all, THREADS * by), quote!(1), quote!(1)];
        s.launch(kernels, grid, THREADS, 0, &format!("pool<Pool::{kind}, {by}>({at}, {geometry}, {put});"))
    }

    pub(super) fn mean_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::GlobalMean { n, pixels, c, x, x_pitch, x_batch } = &s.step.kernel else { return Vec::new() };
        let out = s.step.outputs[0];
        let at = s.reads(*x);
        s.begin();
        let (o, ty, channels) = (s.writes(out), s.stored(out), s.extent(c));
        let body = format!(
            "KILN_DEVICE void operator()(long long row, int col, float y) const {{ {o}[row * {channels} + col] = Narrow<{ty}>::of(y); }}\n"
        );
        let put = s.end("P", &body);
        let [pixels, channels, pitch, batch] = [pixels, c, x_pitch, x_batch].map(|d| s.extent(d));
        let images = s.layers('y', n);
        // Two neighbours of 16 bits fill the lines of memory that a warp reads, and leave more blocks than four would.
        let by = if self.plan.stored(*x).size() == 2
            && [c, x_pitch, x_batch].into_iter().all(|d| self.multiple(d, 2))
            && self.begins_at(*x, 2)
        {
            2
        } else {
            1
        };
        let grid = [self.blocks(c, 32 * by), images, quote!(1)];
        let body = format!("global_mean<{by}>({at}, {pixels}, int({channels}), {pitch}, {batch}, {put});");
        s.launch(kernels, grid, 256, 256 * by * size_of::<f32>(), &body)
    }
}
