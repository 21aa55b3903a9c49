//! Every rule against the reference evaluator on random graphs, and the driver on large and nested ones.

use super::{Class, Rewriter, Rule, apply, merge, prune, rules, simplify};
use crate::eval::{Evaluator, from_f64s};
use crate::ir::{Block, Dim, Graph, Node, NodeId, Port, Range, Symbol, Type, ValueId, verify};
use crate::ops::gather::Gather;
use crate::ops::movement::{Concat, Slice, Split, Transpose};
use crate::ops::pad::Pad;
use crate::ops::reduce::Reduce;
use crate::ops::shape::{Dims, Reshape};
use crate::ops::{Op, control::If, host::Host, pointwise::Pointwise};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};

/// Random numbers that are the same in every run.
pub(super) struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    /// A number below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 33) as usize) % n
    }
    /// One of several.
    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A random graph to which a rule applies.
pub(super) struct Case {
    pub(super) g: Graph,
    pub(super) rng: Rng,
    /// Whether values that are not finite occur.
    special: bool,
    pub(super) inputs: Vec<Value>,
}

/// Builds a case of a rule.
pub(super) type Example = (&'static str, fn(&mut Case));

impl Case {
    pub(super) fn new(seed: u64, special: bool) -> Case {
        let rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Case { g: Graph::default(), rng, special, inputs: vec![] }
    }
    /// A float type.
    pub(super) fn float(&mut self) -> DType {
        self.rng.pick(&[DType::F32, DType::F64, DType::F16, DType::Bf16])
    }
    /// A type wide enough to compare roundings in.
    pub(super) fn wide(&mut self) -> DType {
        self.rng.pick(&[DType::F32, DType::F64])
    }
    /// A shape of few elements; axes of extent 1 and 0 occur.
    pub(super) fn shape(&mut self, rank: usize) -> Vec<usize> {
        (0..rank).map(|_| self.rng.pick(&[1, 1, 2, 3, 4, 5, 0])).collect()
    }
    /// A shape of rank 0 to 4.
    pub(super) fn any_shape(&mut self) -> Vec<usize> {
        let rank = self.rng.below(5);
        self.shape(rank)
    }
    /// A shape that broadcasts to `shape` without changing it, and has elements.
    pub(super) fn narrower(&mut self, shape: &[usize]) -> Vec<usize> {
        let skip = self.rng.below(shape.len() + 1);
        shape[skip..].iter().map(|&d| if d == 0 || self.rng.below(2) == 0 { 1 } else { d }).collect()
    }
    /// Random contents.
    pub(super) fn tensor(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        let n = dims.iter().product();
        let specials = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.0, 1e-40, f64::MAX];
        let x: Vec<f64> = (0..n)
            .map(|_| match (dtype.is_float(), self.rng.below(4)) {
                (true, 0) if self.special => self.rng.pick(&specials),
                (true, 1) => self.rng.pick(&[-0.0, 0.0, 1.0, -1.0, 2.5]),
                (true, _) => self.rng.unit() * 6.0 - 3.0,
                _ if dtype == DType::Bool => self.rng.below(2) as f64,
                _ => {
                    self.rng.below(400) as f64 - if matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64) { 200.0 } else { 0.0 }
                }
            })
            .collect();
        from_f64s(dims, &x, dtype)
    }
    /// A constant of random contents.
    pub(super) fn constant(&mut self, dtype: DType, dims: &[usize]) -> ValueId {
        let t = self.tensor(dtype, dims);
        self.g.add_constant(t, "")
    }
    /// A constant of random finite contents without zeros.
    pub(super) fn factor(&mut self, dtype: DType, dims: &[usize]) -> ValueId {
        let n = dims.iter().product();
        let x: Vec<f64> = (0..n).map(|_| (self.rng.unit() + 0.5) * self.rng.pick(&[-1.0, 1.0])).collect();
        self.g.add_constant(from_f64s(dims, &x, dtype), "")
    }
    /// A constant of equal elements.
    pub(super) fn filled(&mut self, dtype: DType, dims: &[usize], x: f64) -> ValueId {
        self.g.add_constant(from_f64s(dims, &vec![x; dims.iter().product()], dtype), "")
    }
    /// An input of random contents.
    pub(super) fn input(&mut self, dtype: DType, dims: &[usize]) -> ValueId {
        let shape = dims.iter().map(|d| (*d).into()).collect();
        self.bind(dtype, dims, shape)
    }
    /// An input whose extents are symbols.
    pub(super) fn open(&mut self, dtype: DType, dims: &[usize]) -> ValueId {
        let port = self.g.inputs.len();
        let symbol = |axis| Symbol { name: String::new(), range: Range { lo: 0, hi: None }, input: Some((port, axis)) };
        let shape = (0..dims.len()).map(|axis| Dim::sym(self.g.add_symbol(symbol(axis)))).collect();
        self.bind(dtype, dims, shape)
    }
    /// An input of those contents.
    pub(super) fn given(&mut self, t: Tensor) -> ValueId {
        let shape = t.dims.iter().map(|d| (*d).into()).collect();
        self.port(t, shape)
    }
    fn bind(&mut self, dtype: DType, dims: &[usize], shape: Vec<Dim>) -> ValueId {
        let t = self.tensor(dtype, dims);
        self.port(t, shape)
    }
    fn port(&mut self, t: Tensor, shape: Vec<Dim>) -> ValueId {
        let dtype = t.dtype;
        self.inputs.push(t.into());
        let v = self.g.add_value(Type::Tensor(dtype, shape).into(), "");
        self.g.body.inputs.push(v);
        self.g.inputs.push(Port { name: String::new(), field: String::new(), optional: false });
        v
    }
    /// A node with all its results.
    pub(super) fn all(&mut self, op: impl Into<Op>, inputs: &[ValueId], results: usize) -> Vec<ValueId> {
        self.some(op, inputs.iter().map(|v| Some(*v)).collect(), results)
    }
    /// A node with all its results, some operands of which may be left out.
    pub(super) fn some(&mut self, op: impl Into<Op>, inputs: Vec<Option<ValueId>>, results: usize) -> Vec<ValueId> {
        let op = op.into();
        let facts = Rewriter::new(&mut self.g).infer(&op, &inputs, results).expect("the example is well formed");
        let outputs: Vec<ValueId> = facts.into_iter().map(|f| self.g.add_value(f, "")).collect();
        let origins = vec![self.g.nodes.len()];
        let n = self.g.add_node(Node { op, inputs, outputs: outputs.clone(), blocks: vec![], origins });
        self.g.body.nodes.push(n);
        outputs
    }
    /// A node of one result.
    pub(super) fn op(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> ValueId {
        self.all(op, inputs, 1)[0]
    }
    /// An elementwise node.
    pub(super) fn pointwise(&mut self, name: &'static str, inputs: &[ValueId]) -> ValueId {
        let types: Vec<DType> = inputs.iter().map(|v| self.g.dtype(*v)).collect();
        self.op(Pointwise::of(name, &[], &types).expect("the formula is there"), inputs)
    }
    /// Hands a value out, directly or through a reader.
    pub(super) fn output(&mut self, v: ValueId) {
        let read = self.g.dtype(v).is_float() && self.rng.below(2) == 0;
        let out = match read {
            true => vec![self.pointwise("IsNaN", &[v]), self.op(Pointwise::cast(self.g.dtype(v), DType::F64), &[v])],
            false => vec![v],
        };
        out.into_iter().for_each(|v| self.hand_out(v));
    }
    /// Makes a value an output as it is: read as f64, a step of 16 bits would count as an error.
    pub(super) fn hand_out(&mut self, v: ValueId) {
        self.g.body.outputs.push(v);
        self.g.outputs.push(Port { name: String::new(), field: String::new(), optional: false });
    }
}

/// Largest difference that a class allows, relative to the greatest magnitude of the tensor (at least 1).
fn bound(class: Class, dtype: DType) -> f64 {
    match (class, dtype) {
        (Class::Exact | Class::ExactOnFinite, _) => 0.0,
        (_, DType::F32 | DType::F64) => 1e-4,
        _ => 2e-2,
    }
}

pub(super) fn agree(class: Class, a: &Value, b: &Value) -> Result<(), String> {
    let (Value::Tensor(a), Value::Tensor(b)) = (a, b) else { return if a == b { Ok(()) } else { Err("values differ".into()) } };
    if (a.dtype, &a.dims) != (b.dtype, &b.dims) {
        return Err(format!("{}{:?} became {}{:?}", a.dtype, a.dims, b.dtype, b.dims));
    }
    if let (Some(x), Some(y)) = (a.to_i64s(), b.to_i64s()) {
        let step = i64::from(class == Class::Quantizing);
        let near = x.iter().zip(&y).all(|(p, q)| (p - q).abs() <= step);
        return if near { Ok(()) } else { Err(format!("{x:?} became {y:?}")) };
    }
    let (x, y) = (a.to_f64s().expect("numbers"), b.to_f64s().expect("numbers"));
    let scale = x.iter().filter(|v| v.is_finite()).fold(1.0f64, |m, v| m.max(v.abs()));
    for (p, q) in x.iter().zip(&y) {
        let same = (p.is_nan() && q.is_nan())
            || match class {
                Class::Exact => p.to_bits() == q.to_bits(),
                _ => p == q || (p - q).abs() <= bound(class, a.dtype) * scale,
            };
        if !same {
            return Err(format!("{p} became {q}"));
        }
    }
    Ok(())
}

pub(super) fn run(g: &Graph, inputs: &[Value]) -> Vec<Value> {
    Evaluator::new(g, inputs.to_vec()).and_then(|mut e| e.run()).expect("the graph runs")
}

/// Holds that a rule does not apply to graphs that fail its condition.
pub(super) fn refused(name: &str, build: fn(&mut Case)) {
    let all = [rules::all(), rules::exploring()].concat();
    let rule: &Rule = all.iter().find(|r| r.name == name).expect("there is such a rule");
    for seed in 1..=16 {
        let mut case = Case::new(seed, true);
        build(&mut case);
        verify(&case.g).expect("the example is well formed");
        let mut one = case.g.clone();
        let report = apply(&mut one, &[rule]);
        assert!(report.rules.is_empty(), "{name} applies, seed {seed}:\n{}\nbecame\n{}", crate::ir::print(&case.g), crate::ir::print(&one));
    }
}

fn examples() -> Vec<Example> {
    use rules::{
        activations, algebra, attention, causal, constants, conv, experts, filters, gather, groups, gru, integer, layout, matmul, narrow,
        norms, pads, quantize, recognise, recurrent, reductions, rotary, signs, slices, transposed, transposes,
    };
    let tables: [&[Example]; 26] = [
        constants::tests::EXAMPLES,
        algebra::tests::EXAMPLES,
        layout::tests::EXAMPLES,
        slices::tests::EXAMPLES,
        transposes::tests::EXAMPLES,
        reductions::tests::EXAMPLES,
        pads::tests::EXAMPLES,
        conv::tests::EXAMPLES,
        filters::tests::EXAMPLES,
        transposed::tests::EXAMPLES,
        matmul::tests::EXAMPLES,
        quantize::tests::EXAMPLES,
        signs::tests::EXAMPLES,
        integer::tests::EXAMPLES,
        narrow::tests::EXAMPLES,
        recognise::tests::EXAMPLES,
        norms::tests::EXAMPLES,
        attention::tests::EXAMPLES,
        activations::tests::EXAMPLES,
        groups::tests::EXAMPLES,
        rotary::tests::EXAMPLES,
        causal::tests::EXAMPLES,
        recurrent::tests::EXAMPLES,
        gather::tests::EXAMPLES,
        gru::tests::EXAMPLES,
        experts::tests::EXAMPLES,
    ];
    tables.concat()
}

#[test]
fn every_rule_has_an_example() {
    let rules: Vec<&str> = rules::all().iter().map(|r| r.name).collect();
    let mut unique = rules.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), rules.len(), "rules have names of their own");
    for r in &rules {
        assert!(examples().iter().any(|(name, _)| name == r), "the rule {r} has no example");
    }
    for (name, _) in examples() {
        assert!(rules.contains(&name), "there is no rule {name}");
    }
}

#[test]
fn rules_keep_what_they_claim() {
    let rules = rules::all();
    for (name, build) in examples() {
        let rule: &Rule = rules.iter().find(|r| r.name == name).expect("the example has a rule");
        for seed in 1..=64 {
            let mut case = Case::new(seed, rule.class == Class::Exact);
            build(&mut case);
            let before = run(&case.g, &case.inputs);
            verify(&case.g).expect("the example is well formed");
            let mut one = case.g.clone();
            let report = apply(&mut one, &[rule]);
            let shown = || format!("{name}, seed {seed}:\n{}\nbecame\n{}", crate::ir::print(&case.g), crate::ir::print(&one));
            assert!(report.rules.get(name).is_some_and(|n| *n > 0), "the rule does not apply: {}", shown());
            verify(&one).unwrap_or_else(|e| panic!("{e}: {}", shown()));
            for (a, b) in before.iter().zip(run(&one, &case.inputs)) {
                agree(rule.class, a, &b).unwrap_or_else(|e| panic!("{e}: {}", shown()));
            }
            // All rules together, on finite operands.
            if rule.class != Class::Exact {
                let mut all = case.g.clone();
                merge(&mut all);
                simplify(&mut all);
                prune(&mut all);
                verify(&all).unwrap_or_else(|e| panic!("{e}: {}", shown()));
                for (a, b) in before.iter().zip(run(&all, &case.inputs)) {
                    let class = if rule.class == Class::Quantizing { rule.class } else { Class::Reassociating };
                    agree(class, a, &b).unwrap_or_else(|e| panic!("{e}: {}", shown()));
                }
            }
        }
    }
}

/// A node of a random kind over values that are there; gives its results, or nothing where they would be large.
fn some_node(c: &mut Case, pool: &[ValueId]) -> Vec<ValueId> {
    let x = c.rng.pick(pool);
    let shape: Vec<i64> = c.g.shape(x).iter().map(|d| d.as_int().expect("extents are closed")).collect();
    let rank = shape.len();
    let axis = c.rng.below(rank.max(1));
    let closed = |v: &[i64]| v.iter().map(|d| Dim::int(*d)).collect::<Vec<Dim>>();
    let elements: i64 = shape.iter().product();
    let alike = |c: &Case, y: &ValueId, off: Option<usize>| {
        let other = c.g.shape(*y);
        other.len() == rank && (0..rank).all(|i| Some(i) == off || other[i].is(shape[i]))
    };
    match c.rng.below(10) {
        0 if rank > 1 => {
            let mut perm: Vec<usize> = (0..rank).collect();
            (1..rank).for_each(|i| perm.swap(i, c.rng.below(i + 1)));
            vec![c.op(Transpose { perm }, &[x])]
        }
        1 if rank > 0 => {
            let mut s = Slice::whole(&closed(&shape));
            let size = 1 + c.rng.below(shape[axis] as usize) as i64;
            let start = c.rng.below((shape[axis] - size + 1) as usize) as i64;
            let back = c.rng.below(4) == 0;
            (s.starts[axis], s.sizes[axis]) = ((if back { start + size - 1 } else { start }).into(), size.into());
            s.steps[axis] = if back { -1 } else { 1 };
            vec![c.op(s, &[x])]
        }
        2 if rank > 0 && elements < 500 => {
            let others: Vec<ValueId> = pool.iter().copied().filter(|y| alike(c, y, Some(axis))).collect();
            let parts: Vec<ValueId> = (0..2 + c.rng.below(2)).map(|_| c.rng.pick(&others)).collect();
            vec![c.op(Concat { axis }, &parts)]
        }
        3 => {
            let flat = [vec![elements], vec![1, elements], shape.iter().rev().copied().collect()];
            let to = c.rng.below(3);
            vec![c.op(Reshape { shape: closed(&flat[to]) }, &[x])]
        }
        4 if rank > 0 => {
            let (mode, keep) = (c.rng.pick(&["sum", "max", "mean"]), c.rng.below(2) == 0);
            vec![c.op(Reduce { mode, axes: vec![axis], keep }, &[x])]
        }
        5 if rank > 0 && shape[axis] > 1 => {
            let first = 1 + c.rng.below(shape[axis] as usize - 1) as i64;
            c.all(Split { axis, sizes: closed(&[first, shape[axis] - first]) }, &[x], 2)
        }
        6 if rank > 0 => {
            let at: Vec<i64> = (0..3).map(|_| c.rng.below(shape[axis] as usize) as i64).collect();
            let i = c.g.add_constant(Tensor::new(&[3], &at), "");
            vec![c.op(Gather { axis }, &[x, i])]
        }
        7 if elements < 500 => {
            let pads = (0..2 * rank).map(|_| c.rng.below(2) as i64).collect();
            let zero = c.filled(DType::F64, &[], 0.0);
            vec![c.op(Pad { pads, mode: "constant" }, &[x, zero])]
        }
        8 => {
            let others: Vec<ValueId> = pool.iter().copied().filter(|y| alike(c, y, None)).collect();
            let y = if c.rng.below(3) == 0 { c.filled(DType::F64, &[], 0.5) } else { c.rng.pick(&others) };
            let name = c.rng.pick(&["Add", "Max", "Mul", "Sub"]);
            vec![c.pointwise(name, &[x, y])]
        }
        _ => {
            let name = c.rng.pick(&["Neg", "Abs", "Relu", "Sigmoid", "Tanh"]);
            vec![c.pointwise(name, &[x])]
        }
    }
}

/// The rules meet each other here: whatever the order they apply in, they come to an end soon, and keep what is computed.
#[test]
fn random_networks_settle() {
    for seed in 1..=400 {
        let mut c = Case::new(seed, false);
        let mut pool: Vec<ValueId> = [[2usize, 3, 4], [2, 3, 4], [3, 1, 4]].iter().map(|s| c.input(DType::F64, s)).collect();
        for _ in 0..24 {
            let results = some_node(&mut c, &pool);
            pool.extend(results);
        }
        for v in pool.split_off(pool.len() - 3) {
            c.hand_out(v);
        }
        prune(&mut c.g);
        verify(&c.g).expect("the network is well formed");
        let before = run(&c.g, &c.inputs);
        let shown = |g: &Graph| format!("seed {seed}:\n{}\nbecame\n{}", crate::ir::print(&c.g), crate::ir::print(g));
        let mut settled = c.g.clone();
        let report = simplify(&mut settled);
        assert!(report.work < 1000, "{} visits and moves: {}", report.work, shown(&settled));
        // What a rule changed far behind a node is seen when the rules run again.
        let rounds = (0..4).take_while(|_| !simplify(&mut settled).rules.is_empty()).count();
        assert!(rounds < 3, "something applies again and again: {}", shown(&settled));
        let mut all = c.g.clone();
        crate::pipeline::optimize(&mut all, Default::default(), &mut |_, _| {}).unwrap_or_else(|e| panic!("{e}: {}", shown(&all)));
        for g in [&settled, &all] {
            for (a, b) in before.iter().zip(run(g, &c.inputs)) {
                agree(Class::Reassociating, a, &b).unwrap_or_else(|e| panic!("{e}: {}", shown(g)));
            }
        }
    }
}

#[test]
fn equal_nodes_and_constants_are_merged() {
    let mut c = Case::new(1, false);
    let x = c.input(DType::F32, &[4, 4]);
    let (p, q) = (c.filled(DType::F32, &[4, 4], 3.0), c.filled(DType::F32, &[4, 4], 3.0));
    let other = c.filled(DType::F32, &[4, 4], 4.0);
    let (a, b) = (c.pointwise("Mul", &[x, p]), c.pointwise("Mul", &[q, x]));
    let d = c.pointwise("Mul", &[x, other]);
    for v in [a, b, d] {
        c.hand_out(v);
    }
    let before = run(&c.g, &c.inputs);
    let report = merge(&mut c.g);
    verify(&c.g).unwrap();
    assert_eq!((report.rules["merge-constants"], report.rules["merge-nodes"]), (1, 1));
    assert_eq!(c.g.body.outputs[0], c.g.body.outputs[1]);
    assert_eq!(c.g.body.nodes.len(), 2);
    assert_eq!(c.g[c.g.body.nodes[0]].origins, vec![0, 1]);
    assert_eq!(run(&c.g, &c.inputs), before);
    prune(&mut c.g);
    assert_eq!(c.g.values.iter().filter(|v| v.constant.is_some()).count(), 2);
}

/// A model with an If whose branches read values from outside; `then` builds the first branch.
fn branches(then: impl FnOnce(&mut Case, ValueId) -> ValueId) -> Case {
    let mut c = Case::new(7, false);
    let cond = c.input(DType::Bool, &[]);
    let x = c.input(DType::F32, &[3]);
    let outside = c.pointwise("Exp", &[x]);
    let outer = std::mem::take(&mut c.g.body.nodes);
    let a = then(&mut c, x);
    let yes = Block { inputs: vec![], nodes: std::mem::take(&mut c.g.body.nodes), outputs: vec![a] };
    let b = c.pointwise("Neg", &[x]);
    let no = Block { inputs: vec![], nodes: std::mem::replace(&mut c.g.body.nodes, outer), outputs: vec![b] };
    let out = c.g.add_value(c.g[x].fact.clone(), "");
    let n = c.g.add_node(Node { op: If.into(), inputs: vec![Some(cond)], outputs: vec![out], blocks: vec![yes, no], origins: vec![] });
    c.g.body.nodes.push(n);
    for v in [out, outside] {
        c.hand_out(v);
    }
    c
}

#[test]
fn inner_blocks_are_rewritten() {
    let mut c = branches(|c, x| {
        let one = c.filled(DType::F32, &[], 1.0);
        let y = c.pointwise("Mul", &[one, x]);
        let e = c.pointwise("Exp", &[y]);
        c.pointwise("Add", &[e, e])
    });
    let before = run(&c.g, &c.inputs);
    simplify(&mut c.g);
    verify(&c.g).unwrap();
    let report = merge(&mut c.g);
    verify(&c.g).unwrap();
    // The branch reads the exponential that the body computes anyway.
    assert_eq!(report.rules["merge-nodes"], 1);
    prune(&mut c.g);
    verify(&c.g).unwrap();
    assert_eq!(c.g.live_nodes().len(), 4);
    assert_eq!(run(&c.g, &c.inputs), before);
}

#[test]
fn a_branch_may_hand_out_what_a_rule_forwards() {
    let mut c = branches(|c, x| {
        let one = c.filled(DType::F32, &[], 1.0);
        let y = c.pointwise("Mul", &[x, one]);
        let z = c.pointwise("Neg", &[y]);
        c.pointwise("Neg", &[z])
    });
    c.inputs[0] = Tensor::with_dtype(DType::Bool, &[], &[1u8]).into();
    let before = run(&c.g, &c.inputs);
    simplify(&mut c.g);
    verify(&c.g).unwrap();
    assert_eq!(c.g[c.g.body.nodes[1]].blocks[0].outputs, vec![c.g.body.inputs[1]]);
    assert_eq!(run(&c.g, &c.inputs), before);
}

#[test]
fn nodes_that_define_symbols_in_use_stay() {
    let mut c = Case::new(3, false);
    let x = c.input(DType::F32, &[5]);
    let s = c.g.add_symbol(Symbol { name: "n".into(), range: Range { lo: 0, hi: None }, input: None });
    let ty = Type::Tensor(DType::I64, vec![Dim::int(1), Dim::sym(s)]);
    c.op(Host { name: "nonzero", ints: vec![], text: vec![], results: vec![ty.clone()] }, &[x]);
    c.op(Host { name: "nonzero", ints: vec![], text: vec![], results: vec![Type::Tensor(DType::I64, vec![1.into(), 3.into()])] }, &[x]);
    let n = c.op(Dims { elements: vec![Dim::sym(s)], scalar: true, dtype: DType::I64 }, &[]);
    c.hand_out(n);
    prune(&mut c.g);
    verify(&c.g).unwrap();
    // The count is read, the indices are not; the other search is needed by nobody.
    assert_eq!(c.g.body.nodes, vec![NodeId(0), NodeId(2)]);
}

#[test]
fn extents_do_not_grow_without_bound() {
    let mut c = Case::new(1, false);
    let x = c.open(DType::F32, &[3]);
    let mut rw = Rewriter::new(&mut c.g);
    let own = rw.shape(x)[0].clone();
    let mut n = own.clone();
    for round in 0.. {
        assert!(round < 4096, "an expression of any length is taken");
        n = (n.clone() * own.clone() + Dim::int(1)).floor_div(&Dim::int(2));
        if rw.add(Reshape { shape: vec![n.clone()] }, &[x]).is_none() {
            break;
        }
    }
}

#[test]
fn long_chains_take_linear_work() {
    let n = 100_000;
    for kind in 0..4 {
        let mut c = Case::new(9, false);
        let x = c.input(DType::F32, &[2]);
        let one = c.filled(DType::F32, &[], if kind == 1 { 1.0 + 1e-6 } else { 1.0 });
        let mut v = x;
        // Built by hand: a rewriter a node would be quadratic itself.
        let (mul, neg) = (Pointwise::of("Mul", &[], &[DType::F32; 2]).unwrap(), Pointwise::of("Neg", &[], &[DType::F32]).unwrap());
        for _ in 0..n {
            let out = c.g.add_value(c.g[x].fact.clone(), "");
            let (op, inputs): (Op, Vec<_>) = match kind {
                0 | 1 => (mul.clone().into(), vec![Some(v), Some(one)]),
                2 => (neg.clone().into(), vec![Some(v)]),
                _ => (mul.clone().into(), vec![Some(x), Some(one)]),
            };
            let node = c.g.add_node(Node { op, inputs, outputs: vec![out], blocks: vec![], origins: vec![] });
            c.g.body.nodes.push(node);
            v = out;
        }
        c.hand_out(v);
        let report = simplify(&mut c.g);
        verify(&c.g).unwrap();
        assert!(report.work < 8 * n as u64, "kind {kind}: {} visits and moves", report.work);
        merge(&mut c.g);
        prune(&mut c.g);
        assert!(c.g.live_nodes().len() <= 1, "kind {kind} leaves {} nodes", c.g.live_nodes().len());
    }
}
