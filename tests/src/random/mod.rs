//! Random models that are valid: operators are composed under constraints on types and shapes, placeholders become inputs or constants,
//! then values are drawn. The way is that of NNSmith (Liu et al., ASPLOS 2023).
//!
//! A value has its extents in two runs, so that a model with open dims is one graph whose constraints hold at both sizes. It also has
//! bounds on its elements, by which operators that are not defined everywhere get operands that they are defined on.

pub mod blocks;
pub mod control;
pub mod dense;
pub mod elementwise;
pub mod indexing;
pub mod judge;
pub mod movement;
pub mod ort;
pub mod quantized;
pub mod recurrent;
pub mod reduction;
pub mod table;
pub mod write;

use crate::models::IntoAttribute;
use crate::samples::Rng;
use kiln_compiler::onnx::proto::AttributeProto;
use kiln_kernels::dtype::DType;
use kiln_kernels::value::Tensor;

/// An extent in the first run and in the second; they differ where the dim is open.
pub type Extent = [usize; 2];
/// Extents of a value.
pub type Shape = Vec<Extent>;
/// Bounds on the elements of a value, both included.
pub type Range = (f64, f64);
/// A value of a growing graph, by number.
pub type V = usize;
/// In a list of inputs: an optional one that is left out.
pub const NONE: V = usize::MAX;

/// No value has more elements.
const MOST_ELEMENTS: usize = 16_384;
/// What floats stay below, so that f32 keeps digits where values are subtracted.
const MOST: f64 = 1e4;
/// The same for f16.
const MOST_F16: f64 = 200.0;

/// How results differ between right implementations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Not at all: elements are moved, chosen, or computed exactly.
    Exact,
    /// By a rounding of each element.
    Rounds,
    /// By the order of sums, too: each operand counts as rounded.
    Sums,
}

/// What is known of a value.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its name in the model.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its extents; `None` where they depend on data, and nothing but the end of the graph may read it.
    pub shape: Option<Shape>,
    /// Bounds on its elements. Those of sums are what random terms reach, not what the worst do.
    pub range: Range,
    /// Where it comes from.
    pub source: Source,
    /// Whether a node reads it.
    pub read: bool,
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// It becomes an input or a constant; values are drawn between its bounds.
    Placeholder,
    /// These elements, always.
    Fixed(Tensor),
    /// A node.
    Node,
}

/// A node of a random model.
#[derive(Clone, Debug)]
pub struct Step {
    /// The operator.
    pub op: String,
    /// Its domain.
    pub domain: &'static str,
    /// Operands; [`NONE`] is left out.
    pub inputs: Vec<V>,
    /// Results.
    pub outputs: Vec<V>,
    /// Attributes.
    pub attributes: Vec<AttributeProto>,
    /// How its results may differ.
    pub class: Class,
}

/// The type, shape and bounds of a result.
pub type Out = (DType, Shape, Range);

/// An attribute of that name.
pub fn attr(name: &str, value: impl IntoAttribute) -> AttributeProto {
    AttributeProto { name: name.into(), ..value.into_attribute() }
}

/// The same extent in both runs.
pub fn closed(n: usize) -> Extent {
    [n, n]
}

/// Elements of a shape in either run.
pub fn elements(shape: &[Extent]) -> Extent {
    [0, 1].map(|run| shape.iter().map(|e| e[run]).product())
}

/// Whether a dim of the shape is open.
pub fn is_open(shape: &[Extent]) -> bool {
    shape.iter().any(|e| e[0] != e[1])
}

/// Whether there is an element in both runs.
pub fn holds_elements(shape: &[Extent]) -> bool {
    elements(shape).iter().all(|n| *n > 0)
}

/// Applies a function to an extent of either run.
pub fn each(e: Extent, f: impl Fn(usize) -> Option<usize>) -> Option<Extent> {
    Some([f(e[0])?, f(e[1])?])
}

/// The shape that both broadcast to.
pub fn broadcast(a: &[Extent], b: &[Extent]) -> Option<Shape> {
    let rank = a.len().max(b.len());
    let at = |s: &[Extent], i: usize| if i + s.len() < rank { closed(1) } else { s[i + s.len() - rank] };
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (x, [1, 1]) => Some(x),
            ([1, 1], y) => Some(y),
            _ => None,
        })
        .collect()
}

/// A graph while it grows.
pub struct Growing {
    /// Where choices come from.
    pub rng: Rng,
    /// The operator set.
    pub opset: i64,
    /// Open extents that inputs may have; none in a closed model.
    pub open: Vec<Extent>,
    /// Whether values are drawn from the edges of their bounds.
    pub edges: bool,
    /// Whether lists and numbers that operators read beside their data may be inputs, which only run time knows.
    pub computed: bool,
    /// Whether extents are long enough for kernels of vectors to have more than remainders.
    pub long: bool,
    /// Values.
    pub values: Vec<Known>,
    /// Values that are never inputs.
    pub settled: Vec<V>,
    /// Nodes.
    pub steps: Vec<Step>,
}

impl Growing {
    /// Begins a graph.
    pub fn new(seed: u64) -> Growing {
        let mut rng = Rng::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ 0x5bd1_e995);
        for _ in 0..8 {
            rng.below(2);
        }
        let opset = rng.pick(&[11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 18, 19, 20, 20, 21, 21, 22, 22, 23, 24]);
        let pairs = [[2, 5], [1, 4], [3, 1], [7, 2], [4, 16], [0, 3], [6, 33]];
        let count = rng.pick(&[0, 0, 0, 0, 0, 1, 1, 1, 2]);
        let open = (0..count).map(|_| rng.pick(&pairs)).collect();
        let edges = rng.below(5) == 0;
        let (computed, long) = (rng.below(8) == 0, rng.below(8) == 0);
        Growing { rng, opset, open, edges, computed, long, values: vec![], settled: vec![], steps: vec![] }
    }
    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.rng.below(n) == 0
    }
    /// Between two numbers, both included.
    pub fn between(&mut self, least: usize, most: usize) -> usize {
        least + self.rng.below(most + 1 - least)
    }
    /// The shape of a value whose shape is known.
    pub fn shape(&self, v: V) -> Shape {
        self.values[v].shape.clone().unwrap_or_default()
    }
    /// The rank of a value.
    pub fn rank(&self, v: V) -> usize {
        self.shape(v).len()
    }
    /// The element type of a value.
    pub fn dtype(&self, v: V) -> DType {
        self.values[v].dtype
    }
    /// The bounds of a value.
    pub fn range(&self, v: V) -> Range {
        self.values[v].range
    }
    /// The largest magnitude that a value's bounds allow.
    pub fn magnitude(&self, v: V) -> f64 {
        let (lo, hi) = self.range(v);
        lo.abs().max(hi.abs())
    }
    fn define(&mut self, dtype: DType, shape: Option<Shape>, range: Range, source: Source) -> V {
        let kind = if matches!(source, Source::Node) { 't' } else { 'p' };
        self.values.push(Known { name: format!("{kind}{}", self.values.len()), dtype, shape, range, source, read: false });
        self.values.len() - 1
    }
    /// A value that becomes an input or a constant, of elements between bounds.
    pub fn placeholder(&mut self, dtype: DType, shape: Shape, range: Range) -> V {
        self.define(dtype, Some(shape), range, Source::Placeholder)
    }
    /// A value of these elements.
    pub fn fixed(&mut self, t: Tensor) -> V {
        let shape = t.dims.iter().map(|d| closed(*d)).collect();
        let x = t.to_f64s().unwrap_or_default();
        let range = x.iter().fold((0.0f64, 0.0f64), |(lo, hi), x| (lo.min(*x), hi.max(*x)));
        self.define(t.dtype, Some(shape), range, Source::Fixed(t))
    }
    /// A list of integers.
    pub fn list(&mut self, x: &[i64]) -> V {
        self.fixed(Tensor::new(&[x.len()], x))
    }
    /// A list of integers that is a constant in every model: ranks are settled when a model is compiled.
    pub fn known(&mut self, x: &[i64]) -> V {
        let v = self.list(x);
        self.settled.push(v);
        v
    }
    /// A float as a tensor of no dims.
    pub fn scalar(&mut self, x: f64, dtype: DType) -> V {
        self.fixed(kiln_compiler::eval::scalar(x, dtype))
    }
    /// Bounds that placeholders of a type get.
    pub fn bounds(&mut self, dtype: DType) -> Range {
        match dtype {
            DType::Bool => (0.0, 1.0),
            DType::U8 => self.rng.pick(&[(0.0, 255.0), (0.0, 12.0)]),
            DType::I8 => self.rng.pick(&[(-128.0, 127.0), (-9.0, 9.0)]),
            d if d.is_float() => self.rng.pick(&[(-1.0, 1.0), (-2.0, 2.0), (-6.0, 6.0), (0.1, 3.0), (-3.0, -0.5)]),
            _ => self.rng.pick(&[(-10.0, 10.0), (0.0, 100.0), (-1000.0, 1000.0)]),
        }
    }
    /// An extent of a new value; small, often odd.
    pub fn extent(&mut self) -> usize {
        if self.long && self.once_in(3) {
            return self.rng.pick(&[31, 48, 64, 65, 96, 100, 128]);
        }
        self.rng.pick(&[1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 20, 33])
    }
    /// Extents of a new value.
    pub fn new_shape(&mut self, rank: usize) -> Shape {
        let mut shape: Shape = Vec::new();
        for i in 0..rank {
            let open = !self.open.is_empty() && self.rng.below(if i == 0 { 2 } else { 6 }) == 0;
            let n = match self.once_in(120) {
                true => 0,
                false => self.extent(),
            };
            let e = if open { self.rng.pick(&self.open.clone()) } else { closed(n) };
            let with: Shape = shape.iter().copied().chain([e]).collect();
            shape.push(if fits(&with, if self.long { 8192 } else { 2048 }) { e } else { closed(1) });
        }
        shape
    }
    /// A placeholder of a type among these, and of that rank.
    pub fn new_value(&mut self, types: &[DType], rank: usize) -> V {
        let dtype = self.rng.pick(types);
        let (shape, range) = (self.new_shape(rank), self.bounds(dtype));
        self.placeholder(dtype, shape, range)
    }
    /// One of the values there are, later ones rather than earlier.
    pub fn existing(&mut self, types: &[DType], ok: impl Fn(&Growing, V) -> bool) -> Option<V> {
        let usable = |v: &V| {
            let k = &self.values[*v];
            k.shape.is_some() && types.contains(&k.dtype) && !matches!(k.source, Source::Fixed(_)) && ok(self, *v)
        };
        let found: Vec<V> = (0..self.values.len()).filter(usable).collect();
        if found.is_empty() {
            return None;
        }
        let (a, b) = (self.rng.below(found.len()), self.rng.below(found.len()));
        Some(found[a.max(b)])
    }
    /// A value of a type among these: mostly one there is, else a placeholder of a rank that `ranks` allows.
    pub fn operand(&mut self, types: &[DType], least: usize, most: usize) -> V {
        if !self.once_in(7)
            && let Some(v) = self.existing(types, |g, v| (least..=most).contains(&g.rank(v)))
        {
            return v;
        }
        let rank = self.between(least, most.min(4).max(least));
        self.new_value(types, rank)
    }
    /// A float or integer within bounds: the value itself, or a node that bounds it.
    pub fn within(&mut self, v: V, least: f64, most: f64) -> V {
        let (lo, hi) = self.range(v);
        if lo >= least && hi <= most {
            return v;
        }
        let (dtype, shape) = (self.dtype(v), self.shape(v));
        // A middle part of the bounds: rounding does not leave it.
        let (least, most) = match dtype.is_float() {
            true => (least + (most - least) * 0.01, most - (most - least) * 0.01),
            false => (least.ceil(), most.floor()),
        };
        let kind = if dtype.is_float() && most - least < 100.0 { self.rng.below(3) } else { 0 };
        if kind > 0 {
            let s = self.one("Sigmoid", &[v], vec![], (dtype, shape.clone(), (0.0, 1.0)), Class::Rounds);
            let (scale, shift) = (self.scalar(most - least, dtype), self.scalar(least, dtype));
            let s = self.one("Mul", &[s, scale], vec![], (dtype, shape.clone(), (0.0, most - least)), Class::Rounds);
            return self.one("Add", &[s, shift], vec![], (dtype, shape, (least, most)), Class::Rounds);
        }
        let (a, b) = (self.scalar(least, dtype), self.scalar(most, dtype));
        let wide = dtype.is_float() || self.opset >= 12;
        if !wide || self.once_in(2) {
            let range = (lo.max(least).min(most), hi.min(most).max(least));
            let low = self.one("Max", &[v, a], vec![], (dtype, shape.clone(), (least, hi.max(least))), Class::Exact);
            return self.one("Min", &[low, b], vec![], (dtype, shape, range), Class::Exact);
        }
        let range = (lo.max(least).min(most), hi.min(most).max(least));
        self.one("Clip", &[v, a, b], vec![], (dtype, shape, range), Class::Exact)
    }
    /// The value, or a node that keeps its magnitude at a number.
    pub fn tame(&mut self, v: V, most: f64) -> V {
        if self.dtype(v).is_float() { self.within(v, -most, most) } else { v }
    }
    /// Adds a node; gives its results.
    pub fn node(&mut self, op: &str, inputs: &[V], attributes: Vec<AttributeProto>, outs: Vec<Out>, class: Class) -> Vec<V> {
        let outs = outs.into_iter().map(|(d, s, r)| (d, Some(s), r)).collect();
        self.node_of(op, "", inputs, attributes, outs, class)
    }
    /// Adds a node of a domain, also one whose results have unknown extents.
    pub fn node_of(
        &mut self,
        op: &str,
        domain: &'static str,
        inputs: &[V],
        attributes: Vec<AttributeProto>,
        outs: Vec<(DType, Option<Shape>, Range)>,
        class: Class,
    ) -> Vec<V> {
        for v in inputs.iter().filter(|v| **v != NONE) {
            self.values[*v].read = true;
        }
        let outputs: Vec<V> = outs.into_iter().map(|(d, s, r)| self.define(d, s, wrapped(d, r), Source::Node)).collect();
        self.steps.push(Step { op: op.into(), domain, inputs: inputs.to_vec(), outputs: outputs.clone(), attributes, class });
        outputs
    }
    /// Adds a node of one result.
    pub fn one(&mut self, op: &str, inputs: &[V], attributes: Vec<AttributeProto>, out: Out, class: Class) -> V {
        self.node(op, inputs, attributes, vec![out], class)[0]
    }
    /// Axes as the operator set has them: an attribute, or from that version on an input behind the others.
    pub fn axes(&mut self, since: i64, axes: &[i64]) -> (Option<V>, Vec<AttributeProto>) {
        if self.opset >= since { (Some(self.known(axes)), vec![]) } else { (None, vec![attr("axes", axes)]) }
    }
    /// An axis of a rank, counted from the front or from the back.
    pub fn spelled(&mut self, axis: usize, rank: usize) -> i64 {
        if self.once_in(2) { axis as i64 } else { axis as i64 - rank as i64 }
    }
    /// A shape that broadcasts into another: some axes of one element, some in front left out.
    pub fn narrower(&mut self, shape: &[Extent]) -> Shape {
        let skip = if self.once_in(3) { self.rng.below(shape.len() + 1) } else { 0 };
        let all = self.once_in(2);
        let mut own: Shape = shape[skip..].to_vec();
        for e in &mut own {
            if !all && self.once_in(2) {
                *e = closed(1);
            }
        }
        own
    }
}

/// Whether a value of that shape may have a place in the model.
pub fn fits(shape: &[Extent], most: usize) -> bool {
    elements(shape).iter().all(|n| *n <= most) && shape.len() <= 6
}

/// Whether a result of that shape may have a place in the model.
pub fn small(shape: &[Extent]) -> bool {
    fits(shape, MOST_ELEMENTS)
}

/// Where floats of a type stay below.
pub fn most(dtype: DType) -> f64 {
    if dtype == DType::F16 { MOST_F16 } else { MOST }
}

/// The limits of an integer type.
pub fn limits(dtype: DType) -> Range {
    match dtype {
        DType::Bool => (0.0, 1.0),
        DType::U8 => (0.0, 255.0),
        DType::I8 => (-128.0, 127.0),
        DType::U16 => (0.0, 65535.0),
        DType::I16 => (-32768.0, 32767.0),
        DType::U32 => (0.0, u32::MAX as f64),
        DType::I32 => (i32::MIN as f64, i32::MAX as f64),
        DType::U64 => (0.0, u64::MAX as f64),
        DType::I64 => (i64::MIN as f64, i64::MAX as f64),
        _ => (f64::NEG_INFINITY, f64::INFINITY),
    }
}

/// Bounds of integers that may have wrapped around.
fn wrapped(dtype: DType, range: Range) -> Range {
    let (lo, hi) = limits(dtype);
    if range.0 < lo || range.1 > hi { (lo, hi) } else { range }
}

/// Grows a graph of some operators.
pub fn grow(seed: u64) -> Growing {
    let mut g = Growing::new(seed);
    let wanted = g.rng.pick(&[1, 2, 3, 3, 4, 5, 5, 6, 7, 8, 10, 12, 16]);
    let total: usize = table::TABLE.iter().map(|l| l.weight).sum();
    let (mut grown, mut tries) = (0, 0);
    while grown < wanted && tries < wanted * 12 {
        tries += 1;
        let mut at = g.rng.below(total);
        let line = table::TABLE.iter().find(|l| {
            let here = at < l.weight;
            at = at.saturating_sub(l.weight);
            here
        });
        let Some(line) = line.filter(|l| l.since <= g.opset) else { continue };
        // What an operator wanted before it found that it cannot be is left to nobody.
        let before = (g.values.len(), g.steps.len());
        let read: Vec<bool> = g.values.iter().map(|k| k.read).collect();
        if (line.grow)(&mut g, line).is_some() {
            grown += 1;
        } else {
            g.values.truncate(before.0);
            g.steps.truncate(before.1);
            g.values.iter_mut().zip(read).for_each(|(k, r)| k.read = r);
        }
    }
    g
}
