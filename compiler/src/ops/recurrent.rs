//! LSTM, GRU and RNN.

use super::{Call, CallArg, Facts, Infer, Lowering, Operator, Reader, Real};
use crate::diagnostics::{Diagnostic, shown};
use crate::ir::{Dim, Fact, ValueId};
use kiln_kernels::dtype::DType;
use kiln_kernels::rnn::ACTIVATIONS;

/// A recurrent layer; operands x `[S, B, I]`, w, r, optional bias, lengths, initial state, initial cell, peepholes; results the states
/// `[S, D, B, H]`, the last state and, of an LSTM, the last cell `[D, B, H]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Recurrent {
    /// `lstm`, `gru` or `rnn`.
    pub cell: &'static str,
    /// Extent of the state.
    pub hidden: i64,
    /// 1 or 2.
    pub directions: i64,
    /// Whether the only direction is backwards.
    pub reverse: bool,
    /// Three functions a direction, by their position in `kiln_kernels::rnn::ACTIVATIONS`.
    pub activations: Vec<i64>,
    /// Their first coefficients.
    pub alpha: Vec<Real>,
    /// Their second coefficients.
    pub beta: Vec<Real>,
    /// `input_forget` of an LSTM, `linear_before_reset` of a GRU.
    pub flag: bool,
    /// The bound of pre-activations; 0 for none.
    pub clip: Real,
}

impl Operator for Recurrent {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let (x, w) = (cx.shape(0), cx.shape(1));
        let gates = match self.cell {
            "lstm" => 4,
            "gru" => 3,
            _ => 1,
        };
        let [seq, batch, input] = x else { return Err(Diagnostic::new("a recurrent layer needs an input of rank 3")) };
        let int = Dim::int;
        let (d, h) = (int(self.directions), int(self.hidden));
        let rows = int(gates * self.hidden);
        let state = vec![d.clone(), batch.clone(), h.clone()];
        let wanted = [
            (1, vec![d.clone(), rows.clone(), input.clone()]),
            (2, vec![d.clone(), rows, h.clone()]),
            (3, vec![d.clone(), int(2 * gates * self.hidden)]),
            (4, vec![batch.clone()]),
            (5, state.clone()),
            (6, state.clone()),
            (7, vec![d.clone(), int(3 * self.hidden)]),
        ];
        for (i, want) in wanted {
            let found = cx.shape(i);
            let differ = |a: &Dim, b: &Dim| matches!((a.as_int(), b.as_int()), (Some(a), Some(b)) if a != b);
            if cx.has(i) && (found.len() != want.len() || found.iter().zip(&want).any(|(a, b)| differ(a, b))) {
                return Err(Diagnostic::new(format!(
                    "operand {i} of {} has shape [{}], expected [{}]",
                    self.cell,
                    super::cx::list(found),
                    super::cx::list(&want)
                )));
            }
        }
        if w.iter().any(|d| d.as_int().is_none()) {
            return Err(Diagnostic::new("a recurrent layer needs weights of a known shape"));
        }
        let dtype = cx.dtype(0);
        let mut facts = vec![Fact::tensor(dtype, vec![seq.clone(), d, batch.clone(), h])];
        facts.resize(cx.results, Fact::tensor(dtype, state));
        Ok(facts)
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let x = cx.shape(0);
        let floats = |v: &[Real]| CallArg::Floats(v.iter().map(|x| x.get()).collect());
        let mut args = vec![CallArg::OptOut(0), CallArg::OptOut(1), CallArg::OptOut(2), CallArg::In(0), CallArg::In(1), CallArg::In(2)];
        args.extend((3..8).map(CallArg::OptIn));
        args.extend([
            CallArg::Dims(vec![x[0].clone(), x[1].clone(), x[2].clone(), Dim::int(self.hidden), Dim::int(self.directions)]),
            CallArg::Text(self.cell),
            CallArg::Ints(self.activations.clone()),
            floats(&self.alpha),
            floats(&self.beta),
            CallArg::Bool(self.reverse),
            CallArg::Bool(self.flag),
            CallArg::Float(self.clip.get()),
            // State, cell, the next state and, of a GRU, what is reset.
            CallArg::Scratch(DType::F64, Dim::int(5 * self.hidden)),
        ]);
        Lowering::Call(Call { entry: "rnn::recurrent", types: vec![cx.dtype(0)], args })
    }
}

/// The part of a recurrent layer that goes from step to step, in one direction; operands: what input and biases add to the gates
/// `[S, B, G]`, the weights of the state `[H, G]`, a bias `[H]` of a GRU that resets behind the product, initial state and cell `[B, H]`.
/// Gates are i, f, g, o of an LSTM and r, z, n of a GRU. Results: the states `[S, B, H]`, the last state and, of an LSTM, the last cell.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Recurrence {
    /// `lstm`, `gru` or `rnn`, with the functions that ONNX gives them by default.
    pub cell: &'static str,
    /// Extent of the state.
    pub hidden: i64,
    /// Whether the last step is the first.
    pub reverse: bool,
}

impl Recurrence {
    /// Gates of a cell.
    pub fn gates(cell: &str) -> i64 {
        match cell {
            "lstm" => 4,
            "gru" => 3,
            _ => 1,
        }
    }
}

impl Operator for Recurrence {
    fn infer(&self, cx: &mut Infer<'_>) -> Result<Vec<Fact>, Diagnostic> {
        let ([seq, batch, width], h) = (cx.shape(0), Dim::int(self.hidden)) else {
            return Err(Diagnostic::new("a recurrence needs gates of rank 3"));
        };
        let state = vec![batch.clone(), h.clone()];
        let rows = Dim::int(self.hidden * Recurrence::gates(self.cell));
        let fits = |i: usize, want: &[Dim]| !cx.has(i) || cx.shape(i) == want;
        let whole =
            *width == rows && fits(1, &[h.clone(), rows]) && fits(2, std::slice::from_ref(&h)) && fits(3, &state) && fits(4, &state);
        let typed = (0..5).all(|i| !cx.has(i) || cx.dtype(i) == DType::F32);
        if !whole || !typed || !cx.has(1) {
            return Err(Diagnostic::new("the operands of a recurrence do not fit each other"));
        }
        let mut facts = vec![Fact::tensor(DType::F32, vec![seq.clone(), batch.clone(), h])];
        facts.resize(cx.results, Fact::tensor(DType::F32, state));
        Ok(facts)
    }
    fn lower(&self, cx: &Facts<'_>) -> Lowering {
        let x = cx.shape(0);
        let mut args = vec![CallArg::OptOut(0), CallArg::OptOut(1), CallArg::OptOut(2), CallArg::In(0), CallArg::In(1)];
        args.extend((2..5).map(CallArg::OptIn));
        args.push(CallArg::Dims(vec![x[0].clone(), x[1].clone(), Dim::int(self.hidden)]));
        args.extend([CallArg::Text(self.cell), CallArg::Bool(self.reverse)]);
        // For each sequence of the batch its sums, state, cell and, of a GRU, what is reset.
        args.push(CallArg::Scratch(DType::F32, x[1].clone() * Dim::int(self.hidden * (Recurrence::gates(self.cell) + 3))));
        Lowering::Call(Call { entry: "rnn::recurrence", types: vec![], args })
    }
}

/// Function numbers and their coefficients: three for each direction.
type Activations = (Vec<i64>, Vec<Real>, Vec<Real>);

/// The functions of each direction; coefficients are consumed in order by the functions that have them.
fn activations(r: &Reader<'_, '_>, defaults: &[&str], directions: usize) -> Result<Activations, Diagnostic> {
    let count = defaults.len();
    let names: Vec<String> = match r.strs("activations")? {
        Some(n) if n.len() == count * directions => n.iter().map(|s| s.to_lowercase()).collect(),
        Some(n) => {
            return Err(Diagnostic::new(format!("attribute activations names {} functions, expected {}", n.len(), count * directions)));
        }
        None => defaults.iter().cycle().take(count * directions).map(|s| s.to_string()).collect(),
    };
    let (mut alphas, mut betas) =
        (r.floats("activation_alpha")?.unwrap_or_default().into_iter(), r.floats("activation_beta")?.unwrap_or_default().into_iter());
    let mut out = (Vec::new(), Vec::new(), Vec::new());
    for d in 0..directions {
        for k in 0..3 {
            let name = if k < count { names[d * count + k].as_str() } else { "tanh" };
            let Some(number) = ACTIVATIONS.iter().position(|a| *a == name) else {
                return Err(Diagnostic::new(format!("there is no activation \"{}\"", shown(name)))
                    .help(format!("the functions are {}", ACTIVATIONS.join(", "))));
            };
            let (alpha, beta): (Option<f32>, Option<f32>) = match name {
                "affine" | "scaledtanh" => (Some(1.0), Some(if name == "affine" { 0.0 } else { 1.0 })),
                "leakyrelu" => (Some(0.01), None),
                "thresholdedrelu" | "elu" => (Some(1.0), None),
                "hardsigmoid" => (Some(0.2), Some(0.5)),
                _ => (None, None),
            };
            out.0.push(number as i64);
            out.1.push(alpha.map_or(0.0, |a| alphas.next().unwrap_or(a)).into());
            out.2.push(beta.map_or(0.0, |b| betas.next().unwrap_or(b)).into());
        }
    }
    Ok(out)
}

/// Reads the three; `layout` 1 has the batch first.
pub fn read(r: &mut Reader<'_, '_>) -> Result<Vec<ValueId>, Diagnostic> {
    let (x, w, weights) = (r.ranked(0, 3)?, r.ranked(1, 3)?, r.ranked(2, 3)?);
    let (cell, defaults): (&'static str, &[&str]) = match r.node.op_type.as_str() {
        "LSTM" | "DynamicQuantizeLSTM" => ("lstm", &["sigmoid", "tanh", "tanh"]),
        "GRU" => ("gru", &["sigmoid", "tanh"]),
        _ => ("rnn", &["tanh"]),
    };
    let direction = r.word("direction", &["forward", "reverse", "bidirectional"])?;
    let directions = if direction == "bidirectional" { 2 } else { 1 };
    let hidden = r.shape(weights)?[2].as_int().filter(|h| *h > 0).ok_or_else(|| Diagnostic::new("the size of the state is not known"))?;
    let batch_first = r.int("layout", 0)? != 0;
    let (numbers, alpha, beta) = activations(r, defaults, directions)?;
    let op = Recurrent {
        cell,
        hidden,
        directions: directions as i64,
        reverse: direction == "reverse",
        activations: numbers,
        alpha,
        beta,
        flag: r.int(if cell == "lstm" { "input_forget" } else { "linear_before_reset" }, 0)? != 0,
        clip: r.float("clip", 0.0)?.into(),
    };
    let dtype = r.dtype(x);
    let wide = if dtype == DType::F64 { dtype } else { DType::F32 };
    let mut inputs = vec![Some(x), Some(w), Some(weights), r.opt(3), r.opt(4), r.opt(5), None, None];
    if cell == "lstm" {
        (inputs[6], inputs[7]) = (r.opt(6), r.opt(7));
    }
    for (i, v) in inputs.iter_mut().enumerate() {
        if let Some(v) = v {
            *v = r.cast(*v, if i == 4 { DType::I32 } else { wide })?;
            if batch_first && matches!(i, 0 | 5 | 6) {
                *v = r.transpose(*v, vec![1, 0, 2])?;
            }
        }
    }
    let results = if cell == "lstm" { 3 } else { 2 };
    let mut out = r.emit_all(op, inputs, results)?;
    for (i, v) in out.iter_mut().enumerate() {
        *v = r.cast(*v, dtype)?;
        if batch_first {
            *v = r.transpose(*v, if i == 0 { vec![2, 0, 1, 3] } else { vec![1, 0, 2] })?;
        }
    }
    Ok(out)
}
