//! Models that keep state: runs against the reference evaluator, to which the same state is handed; what instances do with it; what the
//! compiler refuses.

mod refused;

use kiln::{DType, Error, Model, Options, Result, Tensor, Threads, Value};
use kiln_compiler::kernel::Kernel;
use kiln_compiler::{Pairing, compile, eval::Evaluator, import, onnx};
use kiln_tests::samples;
use std::collections::BTreeMap;

kiln::model! {
    pub struct Cached = "models/cached.onnx";
    dims  { batch = 2, rows in 1..=4, total in 0..=20 }
    state { "past_*" -> "present_*", capacity = 20 }
}
kiln::model! {
    pub struct OpenCached = "models/cached.onnx";
    dims  { batch = 2 }
    state { "past_*" -> "present_*", capacity = 20, }
}
// One clause a pair, and some of the cache among inputs and outputs.
kiln::model! {
    pub struct Mixed = "models/cached.onnx";
    dims  { batch = 2 }
    state { "past_a_k" -> "present_a_k", "past_b_*" -> "present_b_*", capacity = 20 }
}

const BATCH: usize = 2;

/// Names and values.
type Named = Vec<(String, Value)>;

/// The model without state, as the evaluator runs it, and what it has seen.
struct Reference {
    graph: kiln_compiler::ir::Graph,
    past: BTreeMap<String, Value>,
    length: usize,
}

impl Reference {
    fn new() -> Reference {
        let model = onnx::read(&samples::cached(), None, &Default::default()).unwrap();
        let graph = import::import(&model, &Default::default()).unwrap();
        let mut out = Reference { graph, past: BTreeMap::new(), length: 0 };
        out.clear();
        out
    }
    fn clear(&mut self) {
        self.length = 0;
        let shapes: [(&str, &[usize]); 5] = [
            ("a_k", &[BATCH, 2, 0, 4]),
            ("a_v", &[BATCH, 2, 0, 4]),
            ("b_k", &[BATCH, 2, 4, 0]),
            ("b_v", &[BATCH, 0, 2, 4]),
            ("mean", &[2, 8]),
        ];
        self.past = shapes.iter().map(|(n, d)| (format!("past_{n}"), Tensor::zeros(DType::F32, d).into())).collect();
        self.past.insert("past_ids".into(), Tensor::zeros(DType::I64, &[BATCH, 0]).into());
    }
    /// The outputs that are no state.
    fn run(&mut self, given: &[(&str, &Value)]) -> Named {
        let all: Vec<Value> = self
            .graph
            .inputs
            .iter()
            .map(|p| given.iter().find(|(n, _)| *n == p.name).map_or_else(|| self.past[&p.name].clone(), |(_, v)| (*v).clone()))
            .collect();
        self.length += given[0].1.as_tensor().unwrap().dims[1];
        let outputs = Evaluator::new(&self.graph, all).unwrap().run().unwrap();
        let mut rest = Named::new();
        for (p, v) in self.graph.outputs.iter().zip(outputs) {
            match p.name.strip_prefix("present_") {
                Some(n) => drop(self.past.insert(format!("past_{n}"), v)),
                None => rest.push((p.name.clone(), v)),
            }
        }
        rest
    }
}

/// Ids and a mask for some rows behind others; every fifth key is hardly seen.
fn inputs(seed: usize, past: usize, rows: usize) -> [(&'static str, Value); 2] {
    let ids: Vec<i64> = (0..BATCH * rows).map(|i| ((seed * 7 + i * 5) % 11) as i64).collect();
    let total = past + rows;
    let mask: Vec<f32> = (0..BATCH * total).map(|i| if i % 5 == 4 { -3.0 } else { 0.25 }).collect();
    [("ids", Tensor::new(&[BATCH, rows], &ids).into()), ("mask", Tensor::new(&[BATCH, total], &mask).into())]
}

fn close(got: &[Value], want: &Named) {
    assert_eq!(got.len(), want.len());
    for (got, (name, want)) in got.iter().zip(want) {
        let (got, want) = (got.as_tensor().unwrap(), want.as_tensor().unwrap());
        assert_eq!(got.dims, want.dims, "{name}");
        for (x, y) in got.slice::<f32>().iter().zip(want.slice::<f32>()) {
            assert!((x - y).abs() <= 1e-5 * (1.0 + y.abs()), "{name}: {x} and {y}");
        }
    }
}

/// A run of both; panics where they differ.
fn step<M: Model>(net: &mut M, reference: &mut Reference, seed: usize, rows: usize) -> Vec<Value> {
    assert_eq!(net.instance().state().len(), reference.length);
    let values = inputs(seed, reference.length, rows);
    let given: Vec<(&str, &Value)> = values.iter().map(|(n, v)| (*n, v)).collect();
    let got = net.run_dyn(&given).unwrap();
    close(&got, &reference.run(&given));
    assert_eq!(net.instance().state().len(), reference.length);
    got
}

fn run<M: Model>(net: &mut M, seed: usize, rows: usize) -> Result<Vec<Value>> {
    let past = net.instance().state().len();
    let values = inputs(seed, past, rows);
    net.run_dyn(&values.iter().map(|(n, v)| (*n, v)).collect::<Vec<_>>())
}

fn on(threads: usize, isa: kiln::Isa) -> Options {
    Options::default().threads(Threads::new(threads)).isa(isa)
}

#[test]
fn any_cut_of_a_sequence_gives_what_the_evaluator_gives() {
    for isa in kiln::Isa::available() {
        let mut bits: Vec<Vec<Vec<Value>>> = Vec::new();
        for threads in [1, 3] {
            let (mut bounded, mut open) = (Cached::with(&on(threads, isa)).unwrap(), OpenCached::with(&on(threads, isa)).unwrap());
            let mut all = Vec::new();
            for cut in [&[4, 1, 1, 3, 2, 4, 4, 1][..], &[1; 20], &[2, 4]] {
                let (mut a, mut b) = (Reference::new(), Reference::new());
                bounded.state_mut().clear();
                open.state_mut().clear();
                for (i, rows) in cut.iter().enumerate() {
                    all.push(step(&mut bounded, &mut a, i, *rows));
                    step(&mut open, &mut b, i, *rows);
                }
            }
            bits.push(all);
        }
        assert!(bits.windows(2).all(|w| w[0] == w[1]), "{} depends on threads", isa.name());
    }
    assert!(Cached::ARENA_BYTES.is_some() && OpenCached::ARENA_BYTES.is_none());
    let ports = |ports: &[kiln::Port]| ports.iter().map(|p| p.name).collect::<Vec<_>>();
    assert_eq!((ports(Cached::INPUTS), ports(Cached::OUTPUTS)), (vec!["ids", "mask"], vec!["y", "sum", "keys"]));
}

#[test]
fn an_open_model_takes_a_long_prompt() {
    let (mut net, mut reference) = (OpenCached::new().unwrap(), Reference::new());
    for (i, rows) in [17, 1, 2].into_iter().enumerate() {
        step(&mut net, &mut reference, i, rows);
    }
}

#[test]
fn a_full_state_is_an_error_and_nothing_else() {
    let (mut net, mut reference) = (Cached::new().unwrap(), Reference::new());
    for (i, rows) in [4, 4, 4, 4, 2].into_iter().enumerate() {
        step(&mut net, &mut reference, i, rows);
    }
    let before = net.state().save().unwrap();
    // The mask fits its own bound, so that only the state stands against it.
    let ids: Value = Tensor::new(&[BATCH, 3], &[1i64; 6]).into();
    let mask: Value = Tensor::new(&[BATCH, 20], &[0f32; 40]).into();
    let Err(Error::StateFull { port, message }) = net.run_dyn(&[("ids", &ids), ("mask", &mask)]) else { panic!("the state is full") };
    assert_eq!((port.as_str(), message.as_str()), ("past_a_k", "18 of 20 rows are taken, and the run adds 3"));
    assert_eq!(net.state().save().unwrap(), before);
    step(&mut net, &mut reference, 9, 2);
    assert_eq!((net.state().len(), net.state().capacity(), net.state().is_empty()), (20, 20, false));
    assert!(matches!(run(&mut OpenCached::new().unwrap(), 0, 21), Err(Error::StateFull { .. })));
}

#[test]
fn a_run_that_fails_moves_nothing_on() {
    let (mut net, mut reference) = (Cached::new().unwrap(), Reference::new());
    step(&mut net, &mut reference, 0, 3);
    let before = net.state().save().unwrap();
    let mask: Value = Tensor::new(&[BATCH, 5], &[0f32; 10]).into();
    let ids = |x: &[i64]| Value::from(Tensor::new(&[BATCH, 2], x));
    assert!(matches!(net.run_dyn(&[("ids", &ids(&[1, 2, 3, 11])), ("mask", &mask)]), Err(Error::Index { .. })));
    // A mask of another length than past and new rows together.
    let short: Value = Tensor::new(&[BATCH, 4], &[0f32; 8]).into();
    assert!(net.run_dyn(&[("ids", &ids(&[1, 2, 3, 4])), ("mask", &short)]).is_err());
    assert!(net.run_dyn(&[("ids", &mask), ("mask", &mask)]).is_err());
    assert_eq!((net.state().len(), net.state().save().unwrap()), (3, before));
    step(&mut net, &mut reference, 5, 2);
}

#[test]
fn states_are_cleared_saved_loaded_and_forked() {
    let (mut net, mut reference) = (Cached::new().unwrap(), Reference::new());
    assert!(net.state().is_empty());
    let empty = net.state().save().unwrap();
    step(&mut net, &mut reference, 0, 4);
    step(&mut net, &mut reference, 1, 1);
    let saved = net.state().save().unwrap();
    let mut fork = net.fork().unwrap();
    assert_eq!(fork.state().save().unwrap(), empty, "a fork begins anew");
    step(&mut fork, &mut Reference::new(), 3, 2);
    fork.state_mut().load(&saved).unwrap();
    assert_eq!(fork.state().len(), 5);
    let (a, b) = (run(&mut net, 2, 3).unwrap(), run(&mut fork, 2, 3).unwrap());
    assert_eq!(a, b);
    assert_eq!(net.state().save().unwrap(), fork.state().save().unwrap());
    net.state_mut().clear();
    assert_eq!(net.state().save().unwrap(), empty);
    reference.clear();
    step(&mut net, &mut reference, 4, 2);
    // What replaces a state has no past to return to; rows beyond the last are no rows.
    assert!(matches!(net.state_mut().truncate(1), Err(Error::State { .. })));
    assert_eq!((net.state_mut().truncate(2), net.state_mut().truncate(99), net.state().len()), (Ok(()), Ok(()), 2));
    net.state_mut().load(&empty).unwrap();
    assert_eq!(net.state().save().unwrap(), empty);
}

#[test]
fn what_is_no_state_of_the_model_is_not_loaded() {
    let mut net = Cached::new().unwrap();
    run(&mut net, 0, 3).unwrap();
    let saved = net.state().save().unwrap();
    let mut other = OpenCached::new().unwrap();
    run(&mut other, 0, 3).unwrap();
    let foreign = other.state().save().unwrap();
    let mut bad: Vec<Vec<u8>> = vec![vec![], b"kilnst01".to_vec(), foreign, saved[..saved.len() - 1].to_vec(), [&saved[..], &[0]].concat()];
    for at in [0, 9, 16, 40, saved.len() / 2, saved.len() - 1] {
        let mut changed = saved.clone();
        changed[at] ^= 0x40;
        bad.push(changed);
    }
    for bytes in bad {
        assert!(matches!(net.state_mut().load(&bytes), Err(Error::State { .. })));
        assert_eq!(net.state().save().unwrap(), saved);
    }
    net.state_mut().load(&saved).unwrap();
}

/// Its cache grows and nothing is replaced, so that it can be cut.
#[test]
fn a_state_is_cut_where_all_of_it_grows() {
    let mut net = Mixed::new().unwrap();
    let outside = |past: usize, rows: usize, v: &Tensor, ids: &Tensor| {
        let mut all: Vec<(&str, Value)> = inputs(rows, past, rows).into_iter().collect();
        all.push(("past_a_v", v.clone().into()));
        all.push(("past_ids", ids.clone().into()));
        all.push(("past_mean", Tensor::zeros(DType::F32, &[2, 8]).into()));
        all
    };
    let run = |net: &mut Mixed, all: &[(&str, Value)]| net.run_dyn(&all.iter().map(|(n, v)| (*n, v)).collect::<Vec<_>>());
    let (none_v, none_ids) = (Tensor::zeros(DType::F32, &[BATCH, 2, 0, 4]), Tensor::zeros(DType::I64, &[BATCH, 0]));
    let first = run(&mut net, &outside(0, 3, &none_v, &none_ids)).unwrap();
    let names: Vec<&str> = Mixed::OUTPUTS.iter().map(|p| p.name).collect();
    let named = |name: &str| first[names.iter().position(|n| *n == name).unwrap()].as_tensor().unwrap().clone();
    let (v, ids) = (named("present_a_v"), named("present_ids"));
    let again = outside(3, 2, &v, &ids);
    let want = run(&mut net, &again).unwrap();
    net.state_mut().truncate(3).unwrap();
    assert_eq!(net.state().len(), 3);
    assert_eq!(run(&mut net, &again).unwrap(), want, "rows that were cut off leave no trace");
    // What is handed in must be as long as what is kept.
    net.state_mut().truncate(2).unwrap();
    assert!(matches!(run(&mut net, &again), Err(Error::Dim { .. })));
    assert_eq!(net.state().len(), 2);
    net.state_mut().truncate(0).unwrap();
    assert_eq!(run(&mut net, &outside(0, 3, &none_v, &none_ids)).unwrap(), first);
}

#[test]
fn no_kernel_copies_the_past() {
    let patterns = vec![("past_*".to_string(), "present_*".to_string())];
    let mut options = compile::Options {
        model: concat!(env!("CARGO_MANIFEST_DIR"), "/models/cached.onnx").into(),
        state: Pairing { patterns, capacity: Some(20) },
        ..Default::default()
    };
    options.dims.by_name.insert("batch".into(), import::Extent::Closed(2));
    let plan = compile::compile(&options).unwrap().plan;
    let past = plan.states.lengths[0];
    let long = |k: &Kernel| {
        let Kernel::Move { copies, .. } = k else { return false };
        copies.iter().any(|c| {
            c.dims.iter().any(|d| {
                let mut symbols = Default::default();
                d.symbols(&mut symbols);
                symbols.contains(&past)
            })
        })
    };
    let copies = plan.kernels().iter().filter(|s| long(&s.kernel)).count();
    // The output `keys` shows what is kept, side by side.
    assert_eq!(copies, 1);
    assert_eq!(plan.states.pairs.iter().filter(|p| p.grows.is_some()).count(), 5);
}
