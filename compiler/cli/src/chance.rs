//! Cases whose results the standard leaves to chance: by which law they are drawn, runs of them with other seeds and with none, and
//! whether what was drawn has the type, the shape, the range and the frequencies of that law.

use crate::failure::{At, Result};
use crate::suite::{Case, DataSet};
use kiln_compiler::onnx::proto::{AttributeProto, ModelProto, NodeProto, attribute_type};
use kiln_compiler::onnx::{Attribute, Model, Node};
use kiln_kernels::value::{Tensor, Value};
use prost::Message as _;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// How often results are drawn without a seed.
const DRAWS: usize = 400;
/// How many standard deviations a frequency may be off: beyond chance in any number of runs.
const SIGMAS: f64 = 6.0;
/// What the greatest distance of a distribution function may be, times the root of the number of samples.
const DISTANCE: f64 = 2.6;
const DRAWING: [&str; 6] = ["Bernoulli", "RandomUniform", "RandomUniformLike", "RandomNormal", "RandomNormalLike", "Multinomial"];

/// How a node's results are drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Law {
    /// Each element 1 with this chance, else 0.
    Bernoulli(Vec<f64>),
    /// Between two numbers, the second excluded.
    Uniform(f64, f64),
    /// By mean and standard deviation.
    Normal(f64, f64),
    /// Each element of a row a class, by the row's chances.
    Classes(Vec<Vec<f64>>),
    /// The elements, each 0 with the chance `ratio`, else scaled by `1 / (1 - ratio)`; and which were kept.
    Dropout(Vec<f64>, f64),
}

type Judgement = std::result::Result<(), String>;

/// A number among the values of a graph.
fn first(values: &BTreeMap<&str, &Tensor>, name: Option<&String>) -> Option<f64> {
    let t = values.get(name?.as_str())?;
    if t.dtype == kiln_kernels::dtype::DType::Bool { t.bytes().first().map(|b| *b as f64) } else { t.to_f64s()?.first().copied() }
}

fn float(n: &Node, name: &str, default: f64) -> f64 {
    if let Some(Attribute::Float(f)) = n.attribute(name) { *f as f64 } else { default }
}

/// Whether a node draws, given what is known of the graph's values.
fn draws(n: &Node, values: &BTreeMap<&str, &Tensor>) -> bool {
    let dropping = || first(values, n.inputs.get(2)).is_some_and(|on| on != 0.0) && first(values, n.inputs.get(1)).is_none_or(|r| r > 0.0);
    n.domain.is_empty() && (DRAWING.contains(&n.op_type.as_str()) || (n.op_type == "Dropout" && dropping()))
}

/// The law of a model's results on these inputs; `None` where nothing is drawn.
///
/// # Errors
/// Something is drawn, and what becomes of it is none of the forms that are known.
pub(crate) fn law(model: &Model, set: &DataSet) -> Option<std::result::Result<Law, String>> {
    let g = &model.graph;
    let mut values: BTreeMap<&str, &Tensor> = g.initializers.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let open = g.inputs.iter().filter(|i| !g.initializers.iter().any(|(n, _)| *n == i.name));
    values.extend(open.zip(&set.inputs).filter_map(|(i, v)| Some((i.name.as_str(), v.as_tensor()?))));
    let drawing: Vec<&Node> = g.nodes.iter().filter(|n| draws(n, &values)).collect();
    let node = match drawing[..] {
        [] => return None,
        [node] => node,
        _ => return Some(Err(format!("no law is known of {} nodes that draw", drawing.len()))),
    };
    let numbers = |name: Option<&String>| values.get(name?.as_str())?.to_f64s();
    let reads = |name: &str| g.nodes.iter().filter(|n| n.inputs.iter().any(|i| i == name)).collect::<Vec<_>>();
    let out = &node.outputs[0];
    let named = g.outputs.iter().any(|o| o.name == *out);
    let found = match node.op_type.as_str() {
        "Bernoulli" if named => numbers(node.inputs.first()).map(Law::Bernoulli),
        "Dropout" if named => {
            let ratio = first(&values, node.inputs.get(1)).unwrap_or(0.5);
            numbers(node.inputs.first()).map(|x| Law::Dropout(x, ratio))
        }
        "RandomNormal" | "RandomNormalLike" if named => Some(Law::Normal(float(node, "mean", 0.0), float(node, "scale", 1.0))),
        "RandomUniform" | "RandomUniformLike" if named => Some(Law::Uniform(float(node, "low", 0.0), float(node, "high", 1.0))),
        "Multinomial" if named => classes(&values, node),
        // Bernoulli written out: a uniform number from 0 to 1 compared with the chance, as a number.
        "RandomUniformLike" => match reads(out)[..] {
            [compare] if float(node, "low", 0.0) == 0.0 && float(node, "high", 1.0) == 1.0 && compare.inputs.len() == 2 => {
                let left = compare.inputs[0] == *out;
                let below = match compare.op_type.as_str() {
                    "Greater" => Some(!left),
                    "Less" => Some(left),
                    _ => None,
                };
                let last = matches!(reads(&compare.outputs[0])[..], [cast] if cast.op_type == "Cast" && g.outputs.iter().any(|o| o.name == cast.outputs[0]));
                let p = numbers(compare.inputs.get(left as usize));
                match (below.filter(|_| last), p) {
                    (Some(below), Some(p)) => Some(Law::Bernoulli(p.into_iter().map(|p| if below { p } else { 1.0 - p }).collect())),
                    _ => None,
                }
            }
            _ => None,
        },
        _ => None,
    };
    Some(found.ok_or_else(|| format!("no law is known of what becomes of {}", node.op_type)))
}

fn classes(values: &BTreeMap<&str, &Tensor>, node: &Node) -> Option<Law> {
    let x = values.get(node.inputs.first()?.as_str())?;
    let (logits, &[_, n]) = (x.to_f64s()?, &x.dims[..]) else { return None };
    let chances = |row: &[f64]| {
        let top = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let e: Vec<f64> = row.iter().map(|l| (l - top).exp()).collect();
        let sum: f64 = e.iter().sum();
        e.into_iter().map(|e| e / sum).collect()
    };
    Some(Law::Classes(logits.chunks_exact(n.max(1)).map(chances).collect()))
}

/// Writes the case anew in `folder` three times: without seeds and many data sets of the same inputs, then with two seeds.
pub(crate) fn variants(case: &Case, set: &DataSet, folder: &Path) -> Result<[Case; 3]> {
    let source = case.path.join("model.onnx");
    let bytes = fs::read(&source).at(&source)?;
    let model = ModelProto::decode(bytes.as_slice()).map_err(|e| crate::failure::Failure::at(&source, e))?;
    let write = |name: &str, seed: Option<i64>, draws: usize| -> Result<Case> {
        let path = folder.join(name);
        fs::create_dir_all(&path).at(&path)?;
        let mut model = model.clone();
        model.graph.iter_mut().flat_map(|g| &mut g.node).for_each(|n| reseed(n, seed));
        let to = path.join("model.onnx");
        fs::write(&to, model.encode_to_vec()).at(&to)?;
        for k in 0..draws {
            let to = path.join(format!("test_data_set_{k}"));
            fs::create_dir_all(&to).at(&to)?;
            for (kind, count) in [("input", set.inputs.len()), ("output", set.outputs.len())] {
                for i in 0..count {
                    let file = format!("{kind}_{i}.pb");
                    fs::copy(case.path.join("test_data_set_0").join(&file), to.join(&file)).at(&to)?;
                }
            }
        }
        Ok(Case { name: name.into(), path, ..case.clone() })
    };
    Ok([write("free", None, DRAWS)?, write("one", Some(1), 2)?, write("two", Some(2), 1)?])
}

/// Gives a node that draws another seed, or none.
fn reseed(n: &mut NodeProto, seed: Option<i64>) {
    let drops = n.op_type == "Dropout";
    if !drops && !DRAWING.contains(&n.op_type.as_str()) {
        return;
    }
    n.attribute.retain(|a| a.name != "seed");
    if let Some(s) = seed {
        let name = "seed".to_string();
        n.attribute.push(match drops {
            true => AttributeProto { name, kind: attribute_type::INT, i: Some(s), ..Default::default() },
            false => AttributeProto { name, kind: attribute_type::FLOAT, f: Some(s as f32), ..Default::default() },
        });
    }
}

/// Whether what the three variants drew fits the law.
///
/// # Errors
/// What does not.
pub(crate) fn judge(law: &Law, expected: &[Value], [free, one, two]: [&[Vec<Value>]; 3]) -> Judgement {
    for found in free.iter().chain(one).chain(two) {
        shapes(found, expected)?;
    }
    match (one, two) {
        ([a, b], [_]) if a != b => return Err("two runs with one seed differ".into()),
        ([a, _], [c]) if a == c && varies(law) => return Err("two seeds give the same values".into()),
        ([_, _], [_]) => {}
        _ => return Err("a run with a seed is missing".into()),
    }
    if free.len() != DRAWS {
        return Err(format!("{} of {DRAWS} draws were made", free.len()));
    }
    if varies(law) && free.iter().all(|f| *f == free[0]) {
        return Err("every run without a seed gives the same values".into());
    }
    [one, two].iter().flat_map(|s| s.iter()).try_for_each(|f| fits(law, std::slice::from_ref(f), false))?;
    fits(law, free, true)
}

/// Whether two draws may be expected to differ somewhere.
fn varies(law: &Law) -> bool {
    let open = |p: &f64| (0.05..0.95).contains(p);
    match law {
        Law::Bernoulli(p) => p.iter().filter(|p| open(p)).count() >= 5,
        Law::Uniform(a, b) => a < b,
        Law::Normal(_, scale) => *scale != 0.0,
        Law::Classes(rows) => rows.iter().flatten().filter(|p| open(p)).count() >= 5,
        Law::Dropout(x, ratio) => x.len() >= 5 && open(ratio),
    }
}

fn shapes(found: &[Value], expected: &[Value]) -> Judgement {
    let of = |v: &Value| v.as_tensor().map(|t| (t.dtype, t.dims.clone()));
    if found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| of(f).is_some() && of(f) == of(e)) {
        return Ok(());
    }
    let list =
        |v: &[Value]| v.iter().map(|v| of(v).map_or("no tensor".into(), |(d, s)| format!("{d}{s:?}"))).collect::<Vec<_>>().join(", ");
    Err(format!("{}, expected {}", list(found), list(expected)))
}

/// The elements of an output at each draw.
fn elements(draws: &[Vec<Value>], output: usize) -> std::result::Result<Vec<Vec<f64>>, String> {
    let one = |d: &Vec<Value>| {
        let t = d.get(output).and_then(Value::as_tensor)?;
        if t.dtype == kiln_kernels::dtype::DType::Bool { Some(t.bytes().iter().map(|b| *b as f64).collect()) } else { t.to_f64s() }
    };
    draws.iter().map(|d| one(d).ok_or_else(|| format!("output {output} holds no numbers"))).collect()
}

/// Whether an event of this chance came about as often as it should.
fn often(what: impl Fn() -> String, count: f64, of: f64, p: f64) -> Judgement {
    let (mean, sigma) = (of * p, (of * p * (1.0 - p)).max(0.0).sqrt());
    // A rare event has a longer tail than its deviation says; what has no chance never comes about.
    let slack = if p <= 0.0 || p >= 1.0 { 0.0 } else { SIGMAS };
    if (count - mean).abs() <= SIGMAS * sigma + slack {
        Ok(())
    } else {
        Err(format!("{} {count} times of {of}, expected {mean:.1}", what()))
    }
}

/// Whether values are of the law's range and, where `frequencies` says so, come as often as it says.
fn fits(law: &Law, draws: &[Vec<Value>], frequencies: bool) -> Judgement {
    let found = elements(draws, 0)?;
    let n = draws.len() as f64;
    match law {
        Law::Bernoulli(p) => {
            if let Some(x) = found.iter().flatten().find(|x| **x != 0.0 && **x != 1.0) {
                return Err(format!("{x} was drawn, expected 0 or 1"));
            }
            let ones: Vec<f64> = (0..p.len()).map(|i| found.iter().map(|f| f[i]).sum()).collect();
            if frequencies {
                for (i, (count, p)) in ones.iter().zip(p).enumerate() {
                    often(|| format!("element {i} was 1"), *count, n, *p)?;
                }
            }
        }
        Law::Dropout(x, ratio) => {
            let kept = |i: usize, y: f64| (y - x[i] / (1.0 - ratio)).abs() <= 1e-5 * y.abs();
            let wrong = found.iter().flat_map(|f| f.iter().enumerate()).find(|(i, y)| **y != 0.0 && !kept(*i, **y));
            if let Some((i, y)) = wrong {
                return Err(format!("element {i} became {y}, expected 0 or {}", x[i] / (1.0 - ratio)));
            }
            if draws.first().is_some_and(|d| d.len() > 1) {
                let masks = elements(draws, 1)?;
                let differ = found
                    .iter()
                    .zip(&masks)
                    .any(|(f, m)| f.iter().zip(m).zip(x).any(|((y, m), x)| *x != 0.0 && (*y != 0.0) != (*m != 0.0)));
                if differ {
                    return Err("the mask does not say which elements were kept".into());
                }
            }
            if frequencies {
                let live: Vec<usize> = (0..x.len()).filter(|i| x[*i] != 0.0).collect();
                let count = |i: usize| found.iter().filter(|f| f[i] == 0.0).count() as f64;
                for &i in &live {
                    often(|| format!("element {i} was dropped"), count(i), n, *ratio)?;
                }
                often(|| "an element was dropped".into(), live.iter().map(|i| count(*i)).sum(), n * live.len() as f64, *ratio)?;
            }
        }
        Law::Uniform(a, b) => {
            if let Some(x) = found.iter().flatten().find(|x| **x < *a || (**x >= *b && a < b)) {
                return Err(format!("{x} was drawn, expected {a} or more and below {b}"));
            }
            if frequencies && a < b {
                distributed(found.concat(), |x| (x - a) / (b - a))?;
            }
        }
        Law::Normal(mean, scale) => {
            if let Some(x) = found.iter().flatten().find(|x| !x.is_finite()) {
                return Err(format!("{x} was drawn, expected a number"));
            }
            if frequencies && *scale > 0.0 {
                distributed(found.concat(), |x| normal((x - mean) / scale))?;
            }
        }
        Law::Classes(rows) => {
            let wide = found.first().map_or(0, |f| f.len() / rows.len().max(1));
            for (r, chances) in rows.iter().enumerate() {
                let drawn: Vec<f64> = found.iter().flat_map(|f| f[r * wide..(r + 1) * wide].iter().copied()).collect();
                if let Some(c) = drawn.iter().find(|c| !(0.0..chances.len() as f64).contains(*c)) {
                    return Err(format!("class {c} of {} was drawn", chances.len()));
                }
                for (c, p) in chances.iter().enumerate().filter(|_| frequencies) {
                    let count = drawn.iter().filter(|d| **d == c as f64).count();
                    often(|| format!("class {c} of row {r} was drawn"), count as f64, drawn.len() as f64, *p)?;
                }
            }
        }
    }
    Ok(())
}

/// The distribution function of the standard normal law, to 1e-7: formula 7.1.26 of Abramowitz and Stegun.
fn normal(z: f64) -> f64 {
    let x = z.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.3275911 * x);
    let poly = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    let upper = 0.5 * poly * (-x * x).exp();
    if z > 0.0 { 1.0 - upper } else { upper }
}

/// Whether samples have this distribution function, by their greatest distance from it (Kolmogorov and Smirnov).
fn distributed(mut x: Vec<f64>, cdf: impl Fn(f64) -> f64) -> Judgement {
    x.sort_by(f64::total_cmp);
    let n = x.len() as f64;
    let distance =
        x.iter().enumerate().map(|(i, x)| (cdf(*x) - i as f64 / n).abs().max((cdf(*x) - (i + 1) as f64 / n).abs())).fold(0.0, f64::max);
    if distance * n.sqrt() <= DISTANCE {
        Ok(())
    } else {
        Err(format!("{n} samples are {distance:.4} from the distribution they should have"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that are spread evenly over [0, 1), in no order: multiples of the golden ratio.
    fn even(n: usize) -> impl Iterator<Item = f64> {
        (0..n).map(|i| (i as f64 * 0.618_033_988_749_895).fract())
    }
    fn draws(each: usize, from: impl Fn(f64, usize) -> f32) -> Vec<Vec<Value>> {
        let all: Vec<f32> = even(DRAWS * each).enumerate().map(|(i, u)| from(u, i % each)).collect();
        all.chunks(each).map(|c| vec![Tensor::new(&[each], c).into()]).collect()
    }

    #[test]
    fn what_fits_a_law_is_told_from_what_does_not() {
        let uniform = draws(7, |u, _| u as f32);
        assert_eq!(fits(&Law::Uniform(0.0, 1.0), &uniform, true), Ok(()));
        assert!(fits(&Law::Uniform(0.0, 1.1), &uniform, true).is_err());
        assert!(fits(&Law::Uniform(0.0, 0.9), &uniform, false).is_err());
        assert!(fits(&Law::Normal(0.5, 0.29), &uniform, true).is_err(), "mean and deviation alone do not tell them apart");
        let p = [0.1, 0.5, 0.9, 0.0, 1.0];
        let coins = draws(5, |u, i| (u < p[i]) as u8 as f32);
        assert_eq!(fits(&Law::Bernoulli(p.to_vec()), &coins, true), Ok(()));
        assert!(fits(&Law::Bernoulli(vec![0.3, 0.5, 0.9, 0.0, 1.0]), &coins, true).is_err());
        assert!(fits(&Law::Bernoulli(vec![0.1, 0.5, 0.9, 0.0, 0.99]), &draws(5, |u, i| (u < p[i]) as u8 as f32 * 2.0), false).is_err());
        let dropped = draws(4, |u, i| if u < 0.25 { 0.0 } else { (i + 1) as f32 / 0.75 });
        assert_eq!(fits(&Law::Dropout(vec![1.0, 2.0, 3.0, 4.0], 0.25), &dropped, true), Ok(()));
        assert!(fits(&Law::Dropout(vec![1.0, 2.0, 3.0, 4.0], 0.5), &dropped, true).is_err());
        let picked = draws(6, |u, _| if u < 0.2 { 0.0 } else { 2.0 });
        assert_eq!(fits(&Law::Classes(vec![vec![0.2, 0.0, 0.8]; 2]), &picked, true), Ok(()));
        assert!(fits(&Law::Classes(vec![vec![0.2, 0.2, 0.6]; 2]), &picked, true).is_err());
        assert!(
            (normal(0.0) - 0.5).abs() < 1e-7 && (normal(1.0) - 0.841_344_746).abs() < 1e-6 && (normal(-3.0) - 0.001_349_898).abs() < 1e-6
        );
    }

    #[test]
    fn seeds_decide() {
        let law = Law::Uniform(0.0, 1.0);
        let (free, three) = (draws(7, |u, _| u as f32), draws(7, |u, _| (u * 0.9) as f32));
        let expected = vec![Tensor::new(&[7], &[0f32; 7]).into()];
        let (a, b) = (free[0].clone(), three[1].clone());
        assert_eq!(judge(&law, &expected, [&free, &[a.clone(), a.clone()], std::slice::from_ref(&b)]), Ok(()));
        assert!(judge(&law, &expected, [&free, &[a.clone(), b.clone()], std::slice::from_ref(&b)]).is_err());
        assert!(judge(&law, &expected, [&free, &[a.clone(), a.clone()], std::slice::from_ref(&a)]).is_err());
        assert!(judge(&law, &expected, [&vec![a.clone(); DRAWS], &[a.clone(), a.clone()], std::slice::from_ref(&b)]).is_err());
        assert!(judge(&law, &expected, [&three, &[a.clone(), a], &[b]]).is_err());
    }
}
