//! Einsum, as transposes, reductions and matrix products.

use super::Reader;
use crate::diagnostics::{Diagnostic, shown};
use crate::ir::{Dim, ValueId, product};

type Read = Result<Vec<ValueId>, Diagnostic>;

/// An axis: a letter, or the n-th axis from the end of the ellipsis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// A tensor with a label for each axis.
#[derive(Clone, Debug)]
struct Term {
    value: ValueId,
    labels: Vec<Label>,
}

/// The labels that a part of the equation gives to `rank` axes (or, without a rank, with the ellipsis standing for `dots` axes).
fn labels(part: &str, rank: Option<usize>, dots: usize) -> Result<Vec<Label>, Diagnostic> {
    let wrong = |why: &str| Diagnostic::new(format!("the part \"{}\" of the equation {why}", shown(part)));
    let letters = |s: &str| -> Result<Vec<Label>, Diagnostic> {
        s.chars()
            .map(|c| if c.is_ascii_alphabetic() { Ok(Label::Letter(c)) } else { Err(wrong("has other characters than letters")) })
            .collect()
    };
    let (before, after) = match part.split_once("...") {
        None => (letters(part)?, None),
        Some((a, b)) => (letters(a)?, Some(letters(b)?)),
    };
    let named = before.len() + after.as_ref().map_or(0, Vec::len);
    let dots = match (rank, &after) {
        (None, _) => dots,
        (Some(r), Some(_)) if r >= named => r - named,
        (Some(r), None) if r == named => 0,
        (Some(r), _) => return Err(wrong(&format!("does not fit a tensor of rank {r}"))),
    };
    let mut out = before;
    if let Some(after) = after {
        out.extend((0..dots).rev().map(Label::Ellipsis));
        out.extend(after);
    }
    Ok(out)
}

/// Replaces a label that occurs twice by the diagonal.
fn diagonal(r: &mut Reader<'_, '_>, mut t: Term) -> Result<Term, Diagnostic> {
    while let Some(j) = (0..t.labels.len()).find(|&j| t.labels[..j].contains(&t.labels[j])) {
        let i = t.labels.iter().position(|l| *l == t.labels[j]).unwrap_or(0);
        let shape = r.shape(t.value)?;
        let n = match (shape[i].as_int(), shape[j].as_int()) {
            (Some(a), Some(b)) if a == b => a,
            _ => return Err(Diagnostic::new(format!("the diagonal of a matrix [{}, {}] needs known equal extents", shape[i], shape[j]))),
        };
        let rest: Vec<usize> = (0..shape.len()).filter(|k| *k != i && *k != j).collect();
        let y = r.transpose(t.value, [rest.clone(), vec![i, j]].concat())?;
        let mut flat: Vec<Dim> = rest.iter().map(|&k| shape[k].clone()).collect();
        flat.push(Dim::int(n) * Dim::int(n));
        let y = r.reshape(y, flat)?;
        let value = r.cut(y, rest.len(), Dim::int(0), Dim::int(n), n + 1)?;
        let mut labels: Vec<Label> = rest.iter().map(|&k| t.labels[k]).collect();
        labels.push(t.labels[j]);
        t = Term { value, labels };
    }
    Ok(t)
}

/// Sums over the labels that nothing else needs.
fn summed(r: &mut Reader<'_, '_>, t: Term, needed: &[Label]) -> Result<Term, Diagnostic> {
    let axes: Vec<usize> = (0..t.labels.len()).filter(|i| !needed.contains(&t.labels[*i])).collect();
    if axes.is_empty() {
        return Ok(t);
    }
    let value = r.reduce(t.value, "sum", &axes, false)?;
    Ok(Term { value, labels: t.labels.into_iter().filter(|l| needed.contains(l)).collect() })
}

/// The term with its axes in this order; labels it lacks get an axis of extent 1.
fn ordered(r: &mut Reader<'_, '_>, t: &Term, order: &[Label]) -> Result<ValueId, Diagnostic> {
    let perm: Vec<usize> = order.iter().filter_map(|l| t.labels.iter().position(|x| x == l)).collect();
    let y = r.transpose(t.value, perm)?;
    let mut shape = r.shape(y)?.into_iter();
    let full = order.iter().map(|l| if t.labels.contains(l) { shape.next().unwrap_or(Dim::int(1)) } else { Dim::int(1) }).collect();
    r.reshape(y, full)
}

/// The product of two terms, summed over what neither the result nor a later term needs.
fn contract(r: &mut Reader<'_, '_>, a: Term, b: Term, needed: &[Label]) -> Result<Term, Diagnostic> {
    let only_in = |t: &Term, other: &Term| -> Vec<Label> { t.labels.iter().filter(|l| !other.labels.contains(l)).copied().collect() };
    let (left, right) = (only_in(&a, &b), only_in(&b, &a));
    let shared: Vec<Label> = a.labels.iter().filter(|l| b.labels.contains(l)).copied().collect();
    let (batch, gone): (Vec<Label>, Vec<Label>) = shared.into_iter().partition(|l| needed.contains(l));
    let extent = |r: &Reader<'_, '_>, t: &Term, l: &Label| -> Result<Dim, Diagnostic> {
        let at = t.labels.iter().position(|x| x == l);
        Ok(at.and_then(|i| r.shape(t.value).ok()?.get(i).cloned()).unwrap_or(Dim::int(1)))
    };
    // Extents of 1 broadcast.
    let mut sizes = std::collections::BTreeMap::new();
    for l in a.labels.iter().chain(&b.labels) {
        let (x, y) = (extent(r, &a, l)?, extent(r, &b, l)?);
        sizes.insert(*l, super::broadcast(&[x], &[y])?.remove(0));
    }
    let group = |r: &mut Reader<'_, '_>, t: &Term, parts: [&[Label]; 3]| -> Result<ValueId, Diagnostic> {
        let order = parts.concat();
        let y = ordered(r, t, &order)?;
        let y = r.expand(y, order.iter().map(|l| sizes[l].clone()).collect())?;
        let shape: Vec<Dim> = parts.iter().map(|p| product(p.iter().map(|l| &sizes[l]))).collect();
        r.reshape(y, shape)
    };
    let x = group(r, &a, [&batch, &left, &gone])?;
    let y = group(r, &b, [&batch, &gone, &right])?;
    let z = r.matmul(x, y)?;
    let labels = [batch, left, right].concat();
    let value = r.reshape(z, labels.iter().map(|l| sizes[l].clone()).collect())?;
    Ok(Term { value, labels })
}

/// Reads [Einsum](https://onnx.ai/onnx/operators/onnx__Einsum.html).
pub fn read(r: &mut Reader<'_, '_>) -> Read {
    let equation: String = r.str("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match equation.split_once("->") {
        Some((l, o)) => (l, Some(o)),
        None => (equation.as_str(), None),
    };
    let parts: Vec<&str> = left.split(',').collect();
    if parts.len() != r.inputs.len() {
        return Err(Diagnostic::new(format!(
            "the equation \"{}\" has {} operands, the node {}",
            shown(&equation),
            parts.len(),
            r.inputs.len()
        )));
    }
    let mut terms = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let value = r.input(i)?;
        let rank = r.rank(value)?;
        let t = Term { value, labels: labels(part, Some(rank), 0)? };
        terms.push(diagonal(r, t)?);
    }
    let all: Vec<Label> = terms.iter().flat_map(|t| t.labels.clone()).collect();
    let dots = all.iter().filter_map(|l| if let Label::Ellipsis(n) = l { Some(n + 1) } else { None }).max().unwrap_or(0);
    let output = match right {
        Some(o) => labels(o, None, dots)?,
        None => {
            // The ellipsis, then every letter that occurs once, in alphabetical order.
            let counted = parts.concat();
            let mut once: Vec<Label> =
                all.iter().filter(|l| matches!(l, Label::Letter(c) if counted.matches(*c).count() == 1)).copied().collect();
            once.sort();
            [(0..dots).rev().map(Label::Ellipsis).collect(), once].concat()
        }
    };
    if let Some(l) = output.iter().find(|l| !all.contains(l)) {
        return Err(Diagnostic::new(format!("the result of \"{}\" has an axis {l:?} that no operand has", shown(&equation))));
    }
    let mut rest = terms.into_iter();
    let Some(mut acc) = rest.next() else { return Err(Diagnostic::new("Einsum has no operand")) };
    let mut rest: Vec<Term> = rest.collect();
    loop {
        let needed: Vec<Label> = rest.iter().flat_map(|t| t.labels.clone()).chain(output.clone()).collect();
        acc = summed(r, acc, &needed)?;
        if rest.is_empty() {
            break;
        }
        let next = rest.remove(0);
        let later: Vec<Label> = rest.iter().flat_map(|t| t.labels.clone()).chain(output.clone()).collect();
        let own = [later.clone(), acc.labels.clone()].concat();
        let next = summed(r, next, &own)?;
        acc = contract(r, acc, next, &later)?;
    }
    Ok(vec![ordered(r, &acc, &output)?])
}
