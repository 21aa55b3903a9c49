//! Matrix products on a GPU: by tiles, or row by row of the weights where few rows meet them.

use super::super::{Printer, int};
use super::epilogue::{Ends, Rows};
use super::rows::indices;
use super::sheet::Sheet;
use super::streams::Stream;
use super::{COUNTERS, Kernels, Launch};
use crate::ir::{Dim, ValueId, product};
use crate::kernel::{Kernel, Packed, Stride, ZeroPoints};
use crate::plan::codes_pitch;
use crate::target::cuda::{Form, Product, Supply, Tile, Wanted};
use crate::target::{Element, Precision};
use kiln_kernels::gemm::narrow::Coding;
use proc_macro2::TokenStream;
use quote::quote;

/// Rows that a product by rows of the weights has at most.
const FEW: i64 = 8;
/// Threads of its blocks, and columns of a warp.
const THREADS: usize = 128;
const COLUMNS: usize = 2;
/// Elements that rows are filled up to multiples of where they meet integers of few bits: as many as 16 bytes have at most.
const CODES: usize = 64;

/// The constant side of a product.
#[derive(Clone, Copy)]
pub(super) enum Right<'k> {
    /// Packed columns of the elements that are multiplied.
    Columns(&'k Packed),
    /// Columns of integers of few bits: bits, elements of a block, the integers, their scales and zero points.
    Codes([usize; 2], &'k Packed, &'k Packed, &'k ZeroPoints),
}

/// A product of rows with packed columns.
pub(super) struct Dense<'k> {
    /// Rows, columns and depth.
    pub(super) sizes: (&'k Dim, usize, usize),
    /// The left side, and elements from row to row of it.
    pub(super) left: (ValueId, &'k Dim),
    /// The columns.
    pub(super) right: Right<'k>,
    /// What is multiplied.
    pub(super) element: Element,
    /// Elements from row to row of the result.
    pub(super) out_row: &'k Dim,
    /// What becomes of the sums.
    pub(super) ends: Ends<'k>,
}

/// A product that a tile computes: loaders as C++ expressions, and what surrounds them.
pub(super) struct Tiled<'p> {
    /// What is multiplied.
    pub(super) element: Element,
    /// Whether sums of rows are handed out too.
    pub(super) of_rows: bool,
    pub(super) rows: Dim,
    pub(super) cols: Dim,
    pub(super) depth: Dim,
    /// The makers of the two loaders.
    pub(super) loaders: [String; 2],
    /// Statements before them.
    pub(super) before: String,
    /// Whether the depth may be split among blocks.
    pub(super) splits: bool,
    /// Matrices of a batch, a layer of blocks each; then both sides are computed, else the right one is constant.
    pub(super) batch: Option<TokenStream>,
    /// Whether a loader finds its elements one by one, or results are stored so.
    pub(super) gathers: bool,
    /// Its streamed form, where it has one.
    pub(super) stream: Option<Stream<'p>>,
    /// What is computed beside that, as files of measured forms name it.
    pub(super) what: String,
}

impl Printer<'_> {
    pub(super) fn precision(&self) -> Precision {
        self.plan.device.as_ref().map_or(Precision::F32, |d| d.precision)
    }
    /// An extent that a choice is made by: its upper bound, or 64.
    pub(super) fn likely(&self, d: &Dim) -> usize {
        self.plan.graph.range(d).hi.unwrap_or(64).max(1) as usize
    }
    /// Neighbours that a functor is handed at a time by the units that multiply such elements.
    pub(super) fn neighbours_of(e: Element) -> usize {
        if e.by_scalars() { 1 } else { 2 }
    }

    /// An extent in a file of measured forms: one that only run time knows with the likely value, by which a form is chosen.
    pub(super) fn told(&self, d: &Dim) -> String {
        let text = d.to_string().replace(' ', "");
        if d.as_int().is_some() { text } else { format!("{text}~{}", self.likely(d)) }
    }

    /// The launch of a product by tiles; a streamed one has the best of the others beside it, for other devices.
    pub(super) fn tiled_on_gpu(&self, s: Sheet<'_>, t: &Tiled<'_>, functor: &str, kernels: &mut Kernels) -> Vec<Launch> {
        let closed = [&t.rows, &t.cols, &t.depth].into_iter().all(|d| d.as_int().is_some());
        let [m, n, depth] = [&t.rows, &t.cols, &t.depth].map(|d| self.likely(d));
        let (split, streams) = (t.splits && closed && !t.of_rows, t.stream.is_some());
        let product = Product { element: t.element, m, n, depth, split, gathers: t.gathers, streams };
        let wanted = Wanted::Product(product);
        let [rows, cols, deep] = [&t.rows, &t.cols, &t.depth].map(|d| self.told(d));
        let flags = [(t.gathers, " gathers"), (t.of_rows, " sums=rows"), (streams, " streams")];
        let flags: String = flags.into_iter().filter(|f| f.0).map(|f| f.1).collect();
        let spec = format!("product m={rows} n={cols} k={deep} of={}{flags} {}", t.element.word(), t.what);
        let staged = |tile: Tile, kernels: &mut Kernels| self.staged_on_gpu(s.clone(), t, tile, functor, kernels);
        self.in_form(s.step, (spec, &wanted), kernels, |form, kernels| match (form, &t.stream) {
            (Form::Product(tile), Some(stream)) if tile.supply == Supply::Streamed => {
                let Form::Product(other) = Wanted::Product(Product { streams: false, ..product }).estimate() else { return Vec::new() };
                let other = staged(other, kernels);
                vec![Launch { otherwise: Some(Box::new(other)), ..self.streamed_on_gpu(stream.clone(), t, *tile, kernels) }]
            }
            (Form::Product(tile), _) => vec![staged(*tile, kernels)],
            (Form::Attention(_), _) => Vec::new(),
        })
    }
    fn staged_on_gpu(&self, mut s: Sheet<'_>, t: &Tiled<'_>, tile: Tile, functor: &str, kernels: &mut Kernels) -> Launch {
        self.tile_constants(&mut s, t, tile);
        s.waits_itself();
        let split = self.split_of(&mut s, t, tile, kernels);
        let [em, en, ek] = [&t.rows, &t.cols, &t.depth].map(|d| s.extent(d));
        let [a, b] = &t.loaders;
        let before = &t.before;
        let of_rows = if t.of_rows { ", true" } else { "" };
        let body = format!("{before}product<@_::C{of_rows}>({a}, {b}, {functor}, int({em}), int({en}), int({ek}), {split});");
        let grid = [self.blocks(&t.rows, tile.rows), self.blocks(&t.cols, tile.cols), self.layers(t, tile)];
        s.made(kernels, grid, tile.threads(t.element), tile.shared(), &body)
    }
    /// The struct of a tile.
    pub(super) fn tile_constants(&self, s: &mut Sheet<'_>, t: &Tiled<'_>, tile: Tile) {
        let Tile { rows, cols, chunks, warp: [wm, wn], stages, .. } = tile;
        let (word, constant) = (t.element.word(), t.batch.is_none());
        s.constants(
            "C",
            &format!(
                "using Type = {word}; static constexpr int BM = {rows}, BN = {cols}, CHUNKS = {chunks}, WM = {wm}, WN = {wn}, STAGES = {stages}; static constexpr bool CONSTANT = {constant};"
            ),
        );
    }
    /// The part of the depth that a block has, as a C++ expression.
    pub(super) fn split_of(&self, s: &mut Sheet<'_>, t: &Tiled<'_>, tile: Tile, kernels: &mut Kernels) -> String {
        let splits = tile.splits;
        if splits == 1 {
            return "Split{0, 1, nullptr, nullptr}".to_string();
        }
        let [m, n] = [&t.rows, &t.cols].map(|d| self.likely(d));
        kernels.partial = kernels.partial.max(splits * m * n * size_of::<f32>());
        let behind = int(COUNTERS * size_of::<u32>());
        let counters = s.word("unsigned*", quote!(f.device_scratch(0)));
        let partial = s.word("void*", quote!(f.device_scratch(#behind)));
        format!("Split{{int(blockIdx.z), {splits}, {partial}, {counters}}}")
    }
    /// Layers of blocks: matrices of a batch, or splits of the depth.
    pub(super) fn layers(&self, t: &Tiled<'_>, tile: Tile) -> TokenStream {
        t.batch.clone().unwrap_or_else(|| {
            let splits = int(tile.splits);
            quote!(#splits)
        })
    }

    /// The loader of packed columns or filters.
    pub(super) fn packed_loader(&self, s: &mut Sheet<'_>, (weights, element): (&Packed, Element), n: usize, depth: usize) -> String {
        let (element, chunk) = (element.word(), element.chunk());
        let pitch = Dim::int(depth.next_multiple_of(chunk) as i64);
        let w = s.packed(weights, element);
        let g =
            s.geometry("B", &[("rows", Dim::int(n as i64)), ("depth", pitch.clone()), ("by_row", pitch), ("by_depth", Dim::int(1))], "");
        format!("Matrix<{element}, {chunk}, @_::B>{{{w}, {g}}}")
    }

    /// A loader of the left side whose absent elements count as the zero point, where there is one.
    pub(super) fn filled(&self, s: &mut Sheet<'_>, ends: Ends<'_>, ty: &str, made: String) -> String {
        match ends.centre().map(|c| self.zero_point(s, c.zero)) {
            Some(zero) if zero != "0" => format!("Filled<{ty}>({made}, uint8_t({zero}))"),
            _ => made,
        }
    }

    pub(super) fn gemm_on_gpu(&self, s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Gemm { m, n, k, a, a_row, out_row, b, bias, epilogue } = &s.step.kernel else { return Vec::new() };
        let ends = Ends::of(bias.as_ref(), epilogue.as_ref());
        let element = self.precision().into();
        self.dense_on_gpu(s, &Dense { sizes: (m, *n, *k), left: (*a, a_row), right: Right::Columns(b), element, out_row, ends }, kernels)
    }
    pub(super) fn narrow_gemm_on_gpu(&self, s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::NarrowGemm { m, n, k, a, a_row, out_row, coding, codes, scales, zeros, bias, epilogue } = &s.step.kernel else {
            return Vec::new();
        };
        // Packing has made another kernel of floats of 16 bits, and selection lets no others through.
        let (Coding::Blocks { bits, block }, Some(scales)) = (coding, scales) else { return Vec::new() };
        let right = Right::Codes([*bits, *block], codes, scales, zeros);
        let (ends, element) = (Ends::of(bias.as_ref(), epilogue.as_ref()), self.precision().into());
        self.dense_on_gpu(s, &Dense { sizes: (m, *n, *k), left: (*a, a_row), right, element, out_row, ends }, kernels)
    }
    /// The loader of the constant side of a product.
    fn right_loader(&self, s: &mut Sheet<'_>, right: Right<'_>, element: Element, n: usize, k: usize) -> String {
        let ([bits, block], codes, scales, zeros) = match right {
            Right::Columns(packed) => return self.packed_loader(s, (packed, element), n, k),
            Right::Codes(sizes, codes, scales, zeros) => (sizes, codes, scales, zeros),
        };
        let (w, scales) = (s.packed(codes, "uint8_t"), s.packed(scales, "float"));
        let (ty, zeros) = match zeros {
            ZeroPoints::Same(z) => ("SameZero", format!("SameZero{{{z}.0f}}")),
            ZeroPoints::Each(z) => ("EachZero<uint8_t>", format!("EachZero<uint8_t>{{{}}}", s.packed(z, "uint8_t"))),
            ZeroPoints::Floats(z) => ("EachZero<float>", format!("EachZero<float>{{{}}}", s.packed(z, "float"))),
        };
        let of = |n: usize| Dim::int(n as i64);
        let fields = [("rows", of(n)), ("depth", of(k)), ("pitch", of(codes_pitch(k, bits))), ("blocks", of(k.div_ceil(block)))];
        let g = s.geometry("B", &fields, "");
        format!("Codes<{bits}, {block}, {ty}, @_::B>{{{w}, {scales}, {zeros}, {g}}}")
    }
    pub(super) fn dense_on_gpu(&self, mut s: Sheet<'_>, d: &Dense<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Dense { sizes: (m, n, k), left: (a, a_row), right, element, out_row, ends } = *d;
        let (source, x) = (s.stored(a), s.reads(a));
        let out_of = s.step.outputs[0];
        let fields = [("rows", m.clone()), ("depth", Dim::int(k as i64)), ("by_row", a_row.clone()), ("by_depth", Dim::int(1))];
        let geometry = s.geometry("A", &fields, "");
        let cols = Dim::int(n as i64);
        let chunk = element.chunk();
        let coded = matches!(right, Right::Codes(..));
        let pitch = k.next_multiple_of(if coded { CODES } else { chunk });
        // The left side lies in shared memory there, as f32 or as the bytes that it is.
        let floats = element != Element::Byte;
        let shared = |rows: i64| (rows as usize).next_power_of_two() * pitch * if floats { size_of::<f32>() } else { 1 };
        let few = m.as_int().filter(|m| (1..=FEW).contains(m) && !ends.of_rows() && shared(*m) <= 160 << 10);
        let most = if few.is_some() { 1 } else { Printer::neighbours_of(element) };
        let rows = Rows { pitch: out_row.clone(), images: None, cols: cols.clone(), batch: Vec::new() };
        let (functor, stored) = self.functor(&mut s, &rows, ends, most);
        // Whole chunks are copied as they are where they lie so.
        let whole = self.lies_as(a, element) && k % chunk == 0 && self.multiple(a_row, chunk) && self.begins_at(a, chunk);
        if let Some(few) = few {
            let of = (few as usize).next_power_of_two();
            // tf32 is f32 here: its products are exact to more bits, at no cost.
            let word = if element == Element::Float(Precision::Tf32) { "float" } else { element.word() };
            let (name, w) = match right {
                Right::Columns(packed) => ("few_rows", s.packed(packed, word)),
                Right::Codes(..) => ("few_rows_of_codes", self.right_loader(&mut s, right, element, n, k)),
            };
            let step = if whole && !coded { chunk } else { 1 };
            if !coded {
                s.waits_itself();
            }
            let body = format!(
                "{name}<{of}, {COLUMNS}>(Matrix<{source}, {step}, @_::A>{{{x}, {geometry}}}, {w}, {functor}, {few}, {n}, {k}, {pitch});"
            );
            let grid = [self.blocks(&cols, THREADS / 32 * COLUMNS), quote!(1), quote!(1)];
            return s.launch(kernels, grid, THREADS, shared(few), &body);
        }
        let step = if whole { chunk } else { 1 };
        let ty = format!("Matrix<{source}, {step}, @_::A>");
        let mut left = format!("{ty}{{{x}, {geometry}}}");
        if ends.of_rows() {
            left = self.filled(&mut s, ends, &ty, left);
        }
        let depth = Dim::int(k as i64);
        let stream = match right {
            Right::Columns(packed) => self.stream_of(&s, element, (a, a_row), packed, [m, &cols, &depth], (&rows, ends)),
            Right::Codes(..) => None,
        };
        let right = self.right_loader(&mut s, right, element, n, k);
        let tiled = Tiled {
            element,
            of_rows: ends.of_rows(),
            rows: m.clone(),
            cols,
            depth,
            loaders: [left, right],
            before: String::new(),
            splits: true,
            batch: None,
            gathers: !whole || coded || stored < most,
            stream,
            what: format!("rows=matrix cols={} {}", if coded { "codes" } else { "packed" }, self.told_tail(out_of, ends, stored)),
        };
        self.tiled_on_gpu(s, &tiled, &functor, kernels)
    }

    pub(super) fn matmul_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::MatMul { batch, m, n, k, a, b, to, epilogue } = &s.step.kernel else { return Vec::new() };
        let p = self.precision();
        let element = Element::from(p);
        let chunk = element.chunk();
        let axes = batch.len();
        // The indices of the batch, from the number of the matrix.
        let before = format!("const long long matrix = blockIdx.z; {}", indices(&mut s, "matrix", batch, ('b', 0)));
        let offset = |s: &mut Sheet<'_>, strides: &[Stride]| -> Option<String> {
            let mut terms = Vec::new();
            for (axis, by) in strides.iter().enumerate().filter(|(_, by)| !by.is(0)) {
                let by = s.stride(by);
                terms.push(format!("b{axis} * {by}"));
            }
            (!terms.is_empty()).then(|| terms.join(" + "))
        };
        let loader = |s: &mut Sheet<'_>, name: &str, o: &crate::kernel::Operand, rows: &Dim, by_row: &Stride, by_depth: &Stride| {
            let (source, x) = (s.stored(o.value), s.reads(o.value));
            let dim = |st: &Stride| match st {
                Stride::By(d) => Some(d.clone()),
                Stride::Unless1 { .. } => None,
            };
            let at = offset(s, &o.strides[..axes]).unwrap_or("0".into());
            // A step that depends on an extent being 1 is a word of its own.
            let words: Vec<String> = [by_row, by_depth].map(|st| s.stride(st)).into();
            let open = " long long by_row, by_depth;";
            let (geometry, whole) = match (dim(by_row), dim(by_depth)) {
                (Some(r), Some(d)) => {
                    let even = o.strides[..axes].iter().all(|st| matches!(st, Stride::By(d) if self.multiple(d, chunk)));
                    let whole = d.is(1) && self.multiple(&r, chunk) && even && self.begins_at(o.value, chunk) && self.multiple(k, chunk);
                    (s.geometry(name, &[("rows", rows.clone()), ("depth", k.clone()), ("by_row", r), ("by_depth", d)], ""), whole)
                }
                _ => {
                    let g = s.geometry(name, &[("rows", rows.clone()), ("depth", k.clone())], open);
                    let g = g.strip_suffix('}').unwrap_or(&g).to_string();
                    let comma = if g.ends_with('{') { "" } else { ", " };
                    (format!("{g}{comma}{}}}", words.join(", ")), false)
                }
            };
            let step = if whole && self.plan.stored(o.value) == p.stored() { chunk } else { 1 };
            format!("Matrix<{source}, {step}, @_::{name}>{{{x} + {at}, {geometry}}}")
        };
        let left = loader(&mut s, "A", a, m, &a.strides[axes], &a.strides[axes + 1]);
        let right = loader(&mut s, "B", b, n, &b.strides[axes + 1], &b.strides[axes]);
        // The functor's operands and results are shifted by the matrix, whose indices it is handed.
        let index: Vec<String> = (0..axes).map(|i| format!("b{i}")).collect();
        let to_steps: Vec<Stride> = to[..axes].iter().cloned().map(Stride::By).collect();
        let pitch = to.last().cloned().unwrap_or_else(|| n.clone());
        let even = to[..axes].iter().all(|d| self.multiple(d, 2));
        let rows = Rows { pitch, images: None, cols: n.clone(), batch: to_steps };
        let most = if even { Printer::neighbours_of(element) } else { 1 };
        let ends = Ends::of(None, epilogue.as_ref());
        let (functor, stored) = self.functor_of_batch(&mut s, &rows, ends, most, &offset, &index);
        let matrices = s.layers('z', &product(batch));
        let tiled = Tiled {
            element,
            of_rows: false,
            rows: m.clone(),
            cols: n.clone(),
            depth: k.clone(),
            loaders: [left, right],
            before,
            splits: false,
            batch: Some(matrices),
            gathers: true,
            stream: None,
            what: format!(
                "matrices={} rows=matrix cols=computed {}",
                self.told(&product(batch)),
                self.told_tail(s.step.outputs[0], ends, stored)
            ),
        };
        self.tiled_on_gpu(s, &tiled, &functor, kernels)
    }
}
