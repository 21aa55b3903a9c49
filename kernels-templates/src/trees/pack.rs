//! Ensembles as the fast kernel reads them: every comparison becomes `x <= split` on a column, children are neighbours, leaves lead to
//! themselves.
//!
//! - `x < split` is `x <= ` the next number below, `>=` and `>` change the branches, and a set of numbers is a search among the borders of
//!   what lies inside and outside of it, so one comparison serves all modes.
//! - A missing value (NaN) is not `<=` anything and goes on to the second branch. Where it has to take the first one, the node reads a column
//!   in which NaN is negative infinity. Columns are the features that the ensemble reads, in one form or both.
//! - A record is a split and a link: the column and the place of the first child, the second one behind it. Records of a tree lie breadth
//!   first. A leaf's split is NaN, so that its walk goes to the "second child", which is the leaf itself; the NaN's low bits say which leaf.
//! - Leaves of equal weights are one.

use super::forest::{Forest, Mode, Next, Node};
use super::untouched;
use crate::num::Float;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::{vec, vec::Vec};

/// Rows of a block, whose columns lie side by side: element `row` of column `c` is `c * COLUMN + row`.
pub const COLUMN: usize = 16;
/// Blocks of rows that meet a tree while it is in the first-level cache, at most.
pub const MOST_BLOCKS: usize = 8;

/// Elements that splits and weights are packed as.
pub(super) trait Split: Float {
    /// Bits of a NaN that say which leaf it is.
    const PAYLOAD: u64;
    /// The NaN of a leaf.
    fn of_leaf(leaf: u32) -> Self;
    /// The leaf of a NaN.
    fn leaf(self) -> u32;
    /// The greatest number that is less.
    fn below(self) -> Self;
    /// Little-endian bytes.
    fn put(self, out: &mut Vec<u8>);
    /// The bits.
    fn bits(self) -> u64;
}
impl Split for f32 {
    const PAYLOAD: u64 = (1 << 22) - 1;
    #[inline(always)]
    fn of_leaf(leaf: u32) -> f32 {
        f32::from_bits(0x7fc0_0000 | leaf)
    }
    #[inline(always)]
    fn leaf(self) -> u32 {
        self.to_bits() & Self::PAYLOAD as u32
    }
    fn below(self) -> f32 {
        self.next_down()
    }
    fn put(self, out: &mut Vec<u8>) {
        out.extend(self.to_le_bytes());
    }
    fn bits(self) -> u64 {
        u64::from(self.to_bits())
    }
}
impl Split for f64 {
    const PAYLOAD: u64 = u32::MAX as u64;
    #[inline(always)]
    fn of_leaf(leaf: u32) -> f64 {
        f64::from_bits(0x7ff8_0000_0000_0000 | u64::from(leaf))
    }
    #[inline(always)]
    fn leaf(self) -> u32 {
        self.to_bits() as u32
    }
    fn below(self) -> f64 {
        self.next_down()
    }
    fn put(self, out: &mut Vec<u8>) {
        out.extend(self.to_le_bytes());
    }
    fn bits(self) -> u64 {
        self.to_bits()
    }
}

/// A node as a piecewise constant function: outcome `i` for values up to `bounds[i]`, the last one beyond; `nan` is the outcome of NaN.
struct Pieces<T> {
    bounds: Vec<T>,
    outcomes: Vec<bool>,
    nan: usize,
}

impl<T: Split> Pieces<T> {
    fn of(forest: &Forest<'_>, n: &Node) -> Option<Pieces<T>> {
        let split = T::from_f64(n.split);
        let (mut bounds, mut outcomes) = match n.mode {
            Mode::Eq => among(&[split], true),
            Mode::Neq => among(&[split], false),
            Mode::Member(set) => among(&forest.set(set)?.map(T::from_f64).collect::<Vec<_>>(), true),
            // Nothing compares with NaN.
            _ if split.nan() => (vec![], vec![false]),
            Mode::Leq => (vec![split], vec![true, false]),
            Mode::Gt => (vec![split], vec![false, true]),
            // Nothing is less than negative infinity.
            Mode::Lt | Mode::Gte if split == T::LOWEST => (vec![], vec![n.mode == Mode::Gte]),
            Mode::Lt => (vec![split.below()], vec![true, false]),
            Mode::Gte => (vec![split.below()], vec![false, true]),
        };
        let wanted = n.tracks || n.mode == Mode::Neq;
        let nan = match outcomes.iter().rposition(|o| *o == wanted) {
            Some(i) => i,
            None => {
                bounds.push(T::HIGHEST);
                outcomes.push(wanted);
                outcomes.len() - 1
            }
        };
        Some(Pieces { bounds, outcomes, nan })
    }
}

/// Borders of what is in a set and what is not; `inside` is the outcome in it.
fn among<T: Split>(set: &[T], inside: bool) -> (Vec<T>, Vec<bool>) {
    let mut set: Vec<T> = set.iter().copied().filter(|v| !v.nan()).collect();
    set.sort_by(|a, b| a.partial_cmp(b).unwrap_or(core::cmp::Ordering::Equal));
    let (mut bounds, mut outcomes) = (Vec::new(), Vec::new());
    for v in set {
        if bounds.last() == Some(&v) {
            continue;
        }
        if v != T::LOWEST && bounds.last() != Some(&v.below()) {
            bounds.push(v.below());
            outcomes.push(!inside);
        }
        bounds.push(v);
        outcomes.push(inside);
    }
    outcomes.push(!inside);
    (bounds, outcomes)
}

/// Where a walk can be: at the search for one of several outcomes of a node, or at a leaf.
#[derive(Clone, Copy)]
enum Stop {
    Stage { node: usize, low: usize, high: usize },
    Leaf(usize),
}

/// A comparison: what to compare, and where both branches lead.
struct Stage<T> {
    split: T,
    feature: usize,
    /// Whether NaN takes the first branch.
    low: bool,
    yes: Stop,
    no: Stop,
}

struct Packer<'a, T> {
    forest: Forest<'a>,
    /// Where the stages of each node begin.
    stages: Vec<usize>,
    marker: core::marker::PhantomData<T>,
}

impl<T: Split> Packer<'_, T> {
    fn pieces(&self, node: usize) -> Option<(Node, Pieces<T>)> {
        let n = self.forest.node(node)?;
        let pieces = Pieces::of(&self.forest, &n)?;
        Some((n, pieces))
    }
    /// Where a branch leads, behind nodes whose outcome is always the same.
    fn stop(&self, mut next: Next) -> Option<Stop> {
        for _ in 0..=self.forest.nodes() {
            let node = match next {
                Next::Leaf(leaf) => return (leaf < self.forest.leaves()).then_some(Stop::Leaf(leaf)),
                Next::Node(n) => n,
            };
            let (n, p) = self.pieces(node)?;
            match p.bounds.len() {
                0 => next = if p.outcomes[0] { n.yes } else { n.no },
                high => return Some(Stop::Stage { node, low: 0, high }),
            }
        }
        None
    }
    /// The number of a stage.
    fn id(&self, node: usize, low: usize, high: usize) -> usize {
        self.stages[node] + (low + high - 1) / 2
    }
    fn stage(&self, node: usize, low: usize, high: usize) -> Option<Stage<T>> {
        let (n, p) = self.pieces(node)?;
        let mid = (low + high - 1) / 2;
        let part = |low: usize, high: usize| match low == high {
            true => self.stop(if p.outcomes[low] { n.yes } else { n.no }),
            false => Some(Stop::Stage { node, low, high }),
        };
        Some(Stage { split: p.bounds[mid], feature: n.feature, low: p.nan <= mid, yes: part(low, mid)?, no: part(mid + 1, high)? })
    }
}

/// Features that are read, and whether NaN is negative infinity there.
type Columns = BTreeSet<(usize, bool)>;

/// Least and greatest number of steps from a stage to a leaf, and the columns that are read; `None` when a walk would never end.
fn measure<T: Split>(p: &Packer<'_, T>, roots: &[Stop], stages: usize) -> Option<(Vec<(u32, u32)>, Columns)> {
    let (mut spans, mut columns) = (vec![None; stages], BTreeSet::new());
    let mut open = vec![false; stages];
    for root in roots {
        let mut stack = vec![*root];
        while let Some(&Stop::Stage { node, low, high }) = stack.last() {
            let id = p.id(node, low, high);
            if spans[id].is_some() {
                stack.pop();
                continue;
            }
            let s = p.stage(node, low, high)?;
            let span = |stop: Stop| match stop {
                Stop::Leaf(_) => Some((0, 0)),
                Stop::Stage { node, low, high } => spans[p.id(node, low, high)],
            };
            match (span(s.yes), span(s.no)) {
                (Some(a), Some(b)) => {
                    columns.insert((s.feature, s.low));
                    spans[id] = Some((1 + u32::min(a.0, b.0), 1 + u32::max(a.1, b.1)));
                    stack.pop();
                }
                _ if open[id] => return None,
                (a, b) => {
                    open[id] = true;
                    stack.extend([(a, s.yes), (b, s.no)].into_iter().filter(|(known, _)| known.is_none()).map(|(_, stop)| stop));
                }
            }
        }
    }
    Some((spans.into_iter().map(|s| s.unwrap_or((0, 0))).collect(), columns))
}

/// How weights of leaves are stored.
const SINGLE: u64 = 0;
const DENSE: u64 = 1;
const LISTED: u64 = 2;

/// Words of the header.
const HEADER: usize = 16;

/// A packed ensemble, read where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    bytes: &'a [u8],
    head: [u64; HEADER],
}

impl<'a> Packed<'a> {
    /// The view of what [`pack`] made.
    ///
    /// # Safety
    /// `at` points to all bytes that [`pack`] made, at a multiple of 64, which stay as they are during `'a`.
    pub unsafe fn at(at: *const u8) -> Packed<'a> {
        // SAFETY: the caller vouches for the bytes and their alignment; the first words are the header.
        let head = unsafe { at.cast::<[u64; HEADER]>().read() };
        // SAFETY: as above; the last word of the header is the number of bytes.
        Packed { bytes: unsafe { core::slice::from_raw_parts(at, head[15] as usize) }, head }
    }
    /// How many features rows must have at least.
    pub fn needs(&self) -> usize {
        self.head[6] as usize
    }
    /// The bytes of scratch that a worker needs.
    pub fn scratch(&self) -> usize {
        self.blocks() * self.column_count() * COLUMN * if self.head[0] == 2 { 8 } else { 4 }
    }
    /// Rows that a task takes.
    pub fn rows(&self) -> usize {
        self.blocks() * COLUMN
    }
    /// Steps of a walk through all trees, roughly: what a row costs.
    pub fn steps(&self) -> usize {
        self.head[14] as usize
    }
    /// Blocks of rows that fit into the first-level cache beside a tree, one at least.
    pub(super) fn blocks(&self) -> usize {
        (16384 / (self.column_count() * COLUMN * 4).max(1)).clamp(1, MOST_BLOCKS)
    }
    pub(super) fn column_count(&self) -> usize {
        self.head[5] as usize
    }
    /// 0 for f32 with narrow links, 1 for f32 with wide ones, 2 for f64.
    pub(super) fn kind(&self) -> u64 {
        self.head[0]
    }
    /// Bits of a narrow link below the place of the first child.
    pub(super) fn shift(&self) -> u32 {
        self.head[1] as u32
    }
    pub(super) fn targets(&self) -> usize {
        self.head[3] as usize
    }
    pub(super) fn aggregate(&self) -> i64 {
        self.head[7] as i64
    }
    fn part<T>(&self, i: usize, len: usize) -> &'a [T] {
        let at = self.head[i] as usize;
        let bytes = &self.bytes[at..][..len * size_of::<T>()];
        // SAFETY: the bytes are inside, parts begin at multiples of 64, and are numbers of any bit pattern (records have no padding that is
        // read).
        unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), len) }
    }
    pub(super) fn roots(&self) -> &'a [u32] {
        self.part(8, self.head[4] as usize)
    }
    /// Least and greatest number of steps of each tree.
    pub(super) fn spans(&self) -> &'a [[u32; 2]] {
        self.part(9, self.head[4] as usize)
    }
    /// Twice the feature of each column, and 1 where NaN is negative infinity.
    pub(super) fn columns(&self) -> &'a [u32] {
        self.part(10, self.column_count())
    }
    pub(super) fn records<R>(&self) -> *const R {
        self.bytes[self.head[11] as usize..].as_ptr().cast()
    }
    pub(super) fn leaves<T>(&self) -> Leaves<'a, T> {
        let (targets, trees, rows, entries) = (self.targets(), self.head[4] as usize, self.head[12] as usize, self.head[13] as usize);
        let start = self.bytes.len() - tail_bytes::<T>(self.head[2], targets, trees, rows, entries);
        let at = |offset: usize| start + offset.next_multiple_of(64);
        fn read<U>(bytes: &[u8], at: usize, len: usize) -> &[U] {
            let bytes = &bytes[at..][..len * size_of::<U>()];
            // SAFETY: as in `part`.
            unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), len) }
        }
        match self.head[2] {
            SINGLE => Leaves::Single { to: read(self.bytes, start, trees), weights: read(self.bytes, at(trees * 4), rows) },
            DENSE => Leaves::Dense { table: read(self.bytes, start, rows * targets) },
            _ => {
                let to = (4 * (rows + 1)).next_multiple_of(64);
                Leaves::Listed {
                    starts: read(self.bytes, start, rows + 1),
                    to: read(self.bytes, at(to), entries),
                    weights: read(self.bytes, at(to + 4 * entries), entries),
                }
            }
        }
    }
}

/// Bytes of the weights of leaves, each part padded to 64.
fn tail_bytes<T>(form: u64, targets: usize, trees: usize, rows: usize, entries: usize) -> usize {
    let pad = |n: usize| n.next_multiple_of(64);
    let size = size_of::<T>();
    match form {
        SINGLE => pad(trees * 4) + pad(rows * size),
        DENSE => pad(rows * targets * size),
        _ => pad(4 * (rows + 1)) + pad(4 * entries) + pad(size * entries),
    }
}

/// The weights of leaves.
#[derive(Clone, Copy)]
pub(super) enum Leaves<'a, T> {
    /// One weight, for the same target all over a tree.
    Single { to: &'a [u32], weights: &'a [T] },
    /// A weight for every target; -0 where there is none.
    Dense { table: &'a [T] },
    /// Targets and weights from one start to the next.
    Listed { starts: &'a [u32], to: &'a [u32], weights: &'a [T] },
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(64), 0);
}

/// What [`pack`] makes.
#[derive(Clone, Debug)]
pub struct Made {
    /// What [`Packed`] reads, at a multiple of 64.
    pub bytes: Vec<u8>,
    /// As [`Packed::scratch`].
    pub scratch: usize,
    /// As [`Packed::steps`].
    pub steps: usize,
}

/// Packs an ensemble for [`walk`](super::walk): rows of f64 where `double`, else of f32; `aggregate` is an index into
/// [`AGGREGATES`](super::AGGREGATES). `None` when the words are no sound ensemble, or it is too large.
pub fn pack(words: &[i64], double: bool, targets: usize, aggregate: i64) -> Option<Made> {
    let bytes = match double {
        true => pack_as::<f64>(words, 2, targets, aggregate)?,
        false => pack_as::<f32>(words, 0, targets, aggregate)?,
    };
    let head = core::array::from_fn(|i| u64::from_le_bytes(core::array::from_fn(|k| bytes[8 * i + k])));
    let (scratch, steps) = {
        let p = Packed { bytes: &[], head };
        (p.scratch(), p.steps())
    };
    Some(Made { bytes, scratch, steps })
}

fn pack_as<T: Split>(words: &[i64], kind: u64, targets: usize, aggregate: i64) -> Option<Vec<u8>> {
    let forest = Forest::of(words)?;
    let mut p = Packer::<T> { forest, stages: Vec::with_capacity(forest.nodes()), marker: core::marker::PhantomData };
    let mut stages = 0;
    for n in 0..forest.nodes() {
        p.stages.push(stages);
        stages += Pieces::<T>::of(&forest, &forest.node(n)?)?.bounds.len();
    }
    let roots: Vec<Stop> = forest.roots.iter().map(|r| p.stop(Next::of(*r))).collect::<Option<_>>()?;
    let (spans, columns) = measure(&p, &roots, stages)?;
    let column: BTreeMap<(usize, bool), usize> = columns.iter().enumerate().map(|(i, c)| (*c, i)).collect();

    // Records, breadth first; the first one is nobody's, so that each has one before it.
    let mut records: Vec<(T, usize, usize)> = vec![(T::of_leaf(0), 0, 0)];
    let (mut pairs, mut used, mut starts, mut lengths) = (vec![None; stages], BTreeSet::new(), Vec::new(), Vec::new());
    let mut of_tree: Vec<BTreeSet<usize>> = Vec::new();
    // Whether a tree goes on in the nodes of one before it, so that the leaves it has seen are not all of its own.
    let mut shares = false;
    for (tree, root) in roots.iter().enumerate() {
        let mut seen = BTreeSet::new();
        let at = records.len();
        records.push(records[0]);
        starts.push(at as u32);
        lengths.push(match *root {
            Stop::Leaf(_) => (0, 0),
            Stop::Stage { node, low, high } => spans[p.id(node, low, high)],
        });
        let mut queue = VecDeque::from([(at, *root)]);
        while let Some((at, stop)) = queue.pop_front() {
            records[at] = match stop {
                Stop::Leaf(leaf) => {
                    used.insert(leaf);
                    seen.insert(leaf);
                    (T::of_leaf(0), leaf, usize::MAX)
                }
                Stop::Stage { node, low, high } => {
                    let (s, id) = (p.stage(node, low, high)?, p.id(node, low, high));
                    let pair = match pairs[id] {
                        Some((pair, owner)) => {
                            shares |= owner != tree;
                            pair
                        }
                        None => {
                            let pair = records.len();
                            records.extend([records[0]; 2]);
                            queue.extend([(pair, s.yes), (pair + 1, s.no)]);
                            pairs[id] = Some((pair, tree));
                            pair
                        }
                    };
                    (s.split, column[&(s.feature, s.low)], pair)
                }
            };
        }
        of_tree.push(seen);
    }

    // The weights of leaves.
    let weights = |leaf: usize| -> Option<Vec<(usize, T)>> { Some(forest.leaf(leaf)?.map(|(t, w)| (t, T::from_f64(w))).collect()) };
    let mut all = BTreeMap::new();
    for &leaf in &used {
        let w = weights(leaf)?;
        if w.iter().any(|(t, w)| *t >= targets || untouched(*w)) {
            return None;
        }
        all.insert(leaf, w);
    }
    shares |= of_tree.iter().map(BTreeSet::len).sum::<usize>() != used.len();
    let target = |leaves: &BTreeSet<usize>| {
        let mut to = leaves.iter().map(|l| if let [(t, _)] = all[l][..] { Some(t) } else { None });
        let first = to.next()??;
        to.all(|t| t == Some(first)).then_some(first)
    };
    let to: Option<Vec<usize>> = of_tree.iter().map(target).collect();
    let entries: usize = all.values().map(Vec::len).sum();
    let distinct = all.values().all(|w| w.iter().map(|(t, _)| *t).collect::<BTreeSet<_>>().len() == w.len());
    let form = if to.is_some() && !shares {
        SINGLE
    } else if aggregate < 2 && distinct && 2 * entries >= all.len() * targets {
        DENSE
    } else {
        LISTED
    };
    let mut rows: BTreeMap<Vec<(usize, u64)>, u32> = BTreeMap::new();
    let mut order: Vec<&[(usize, T)]> = Vec::new();
    let mut row_of = BTreeMap::new();
    for (leaf, w) in &all {
        let key: Vec<(usize, u64)> = w.iter().map(|(t, w)| (if form == SINGLE { 0 } else { *t }, w.bits())).collect();
        let row = *rows.entry(key).or_insert_with(|| {
            order.push(w);
            order.len() as u32 - 1
        });
        row_of.insert(*leaf, row);
    }
    if order.len() as u64 > T::PAYLOAD {
        return None;
    }

    // Links, narrow where both parts fit.
    let shift = usize::BITS - (columns.len().max(1) * COLUMN - 1).leading_zeros();
    let narrow = kind == 0 && shift < 31 && records.len() < 1 << (32 - shift);
    let kind = if kind == 0 && !narrow { 1 } else { kind };
    let needs = columns.iter().map(|(f, _)| f + 1).max().unwrap_or(0);
    if u32::try_from(records.len()).is_err() || needs > 1 << 30 || columns.len() * COLUMN > 1 << 30 {
        return None;
    }
    let steps: usize = lengths.iter().map(|(least, most)| 1 + (*least as usize + *most as usize) / 2).sum();
    let mut head = [kind, shift.into(), form, targets as u64, starts.len() as u64, columns.len() as u64, needs as u64, aggregate as u64]
        .into_iter()
        .chain([0; 4])
        .chain([order.len() as u64, order.iter().map(|w| w.len()).sum::<usize>() as u64, steps as u64, 0])
        .collect::<Vec<u64>>();
    let mut out = vec![0; HEADER * 8];
    let mut begin = |i: usize, out: &mut Vec<u8>| {
        pad(out);
        head[i] = out.len() as u64;
    };
    begin(8, &mut out);
    out.extend(starts.iter().flat_map(|s| s.to_le_bytes()));
    begin(9, &mut out);
    out.extend(lengths.iter().flat_map(|(least, most)| [*least, *most]).flat_map(u32::to_le_bytes));
    begin(10, &mut out);
    out.extend(columns.iter().flat_map(|(feature, low)| (2 * *feature as u32 + u32::from(*low)).to_le_bytes()));
    begin(11, &mut out);
    for (i, &(split, what, pair)) in records.iter().enumerate() {
        // A leaf leads to itself: its "first child" is the record before it.
        let leaf = pair == usize::MAX;
        let split = if leaf { T::of_leaf(row_of[&what]) } else { split };
        let (column, child) = if leaf { (0, i - 1) } else { (what * COLUMN, pair) };
        split.put(&mut out);
        match kind {
            0 => out.extend(((child << shift | column) as u32).to_le_bytes()),
            _ => {
                out.extend((column as u32).to_le_bytes());
                out.extend((child as u32).to_le_bytes());
                if kind == 1 {
                    out.extend([0; 4]);
                }
            }
        }
    }
    // A vector load at the last record may read past it.
    out.extend([0; 64]);
    pad(&mut out);
    match form {
        SINGLE => {
            out.extend(to.into_iter().flatten().flat_map(|t| (t as u32).to_le_bytes()));
            pad(&mut out);
            order.iter().for_each(|w| w[0].1.put(&mut out));
        }
        DENSE => {
            for w in &order {
                let mut row = vec![T::from_f64(-0.0); targets];
                w.iter().for_each(|(t, w)| row[*t] = *w);
                row.into_iter().for_each(|w| w.put(&mut out));
            }
        }
        _ => {
            let mut at = 0u32;
            for w in &order {
                out.extend(at.to_le_bytes());
                at += w.len() as u32;
            }
            out.extend(at.to_le_bytes());
            pad(&mut out);
            out.extend(order.iter().flat_map(|w| w.iter()).flat_map(|(t, _)| (*t as u32).to_le_bytes()));
            pad(&mut out);
            order.iter().flat_map(|w| w.iter()).for_each(|(_, w)| w.put(&mut out));
        }
    }
    pad(&mut out);
    head[15] = out.len() as u64;
    for (i, word) in head.iter().enumerate() {
        out[8 * i..][..8].copy_from_slice(&word.to_le_bytes());
    }
    Some(out)
}
