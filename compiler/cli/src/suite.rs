//! The ONNX backend test suite as folders (see `conformance/prepare.py`): cases found, values read, and results compared by the
//! suite's own rule.

use kiln_compiler::onnx::{self, Limits, Model, TypeInfo, ValueInfo, read_value};
use kiln_kernels::dtype::DType;
use kiln_kernels::host::pairs;
use kiln_kernels::narrow;
use kiln_kernels::value::{Tensor, Value};
use std::any::Any;
use std::cell::RefCell;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};

/// One case: a folder with a model and its data sets.
#[derive(Clone, Debug)]
pub struct Case {
    /// The folder of the suite that it stands in, such as `node`.
    pub group: String,
    /// Its own folder's name.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// How far results may be from those expected.
    pub tolerance: Tolerance,
}

/// `|found - expected| <= absolute + relative · |expected|`, as `numpy.testing.assert_allclose` has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// Relative to the value expected.
    pub relative: f64,
    /// Absolute.
    pub absolute: f64,
}

/// Inputs and the results expected of them, in the order of the graph's ports.
#[derive(Clone, Debug)]
pub struct DataSet {
    /// Values of the inputs that are not initializers.
    pub inputs: Vec<Value>,
    /// Values of the outputs.
    pub outputs: Vec<Value>,
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut out: Vec<PathBuf> = entries.map(|e| e.path()).filter(|p| p.is_dir()).collect();
    out.sort();
    out
}

fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned())
}

/// The case that a folder is, or every case below it by folder and name, at most two folders deep.
pub fn cases(root: &Path) -> Vec<Case> {
    fn walk(path: PathBuf, depth: usize, out: &mut Vec<Case>) {
        if path.join("model.onnx").is_file() {
            let text = fs::read_to_string(path.join("tolerance.json")).unwrap_or_default();
            let tolerance = Tolerance { relative: number(&text, "rtol").unwrap_or(1e-3), absolute: number(&text, "atol").unwrap_or(1e-7) };
            out.push(Case { group: path.parent().map_or_else(String::new, name), name: name(&path), path, tolerance });
        } else if depth > 0 {
            folders(&path).into_iter().for_each(|p| walk(p, depth - 1, out));
        }
    }
    let mut out = Vec::new();
    walk(std::path::absolute(root).unwrap_or(root.to_path_buf()), 2, &mut out);
    out
}

/// The number behind `"key":` in a flat JSON object.
fn number(json: &str, key: &str) -> Option<f64> {
    let rest = json.split_once(&format!("\"{key}\""))?.1.trim_start().strip_prefix(':')?;
    rest.split([',', '}']).next()?.trim().parse().ok()
}

impl Case {
    /// The model.
    ///
    /// # Errors
    /// The file cannot be read as a model.
    pub fn model(&self) -> Result<Model, String> {
        model(&self.path)
    }
    /// The data sets of the model.
    ///
    /// # Errors
    /// A file is missing or holds no value of its port's type.
    pub fn data(&self, model: &Model) -> Result<Vec<DataSet>, String> {
        data(&self.path, model)
    }
}

/// The model of the case in a folder.
pub(crate) fn model(folder: &Path) -> Result<Model, String> {
    onnx::read_file(&folder.join("model.onnx"), &Limits::default()).map_err(|e| e.to_string())
}

/// The data sets of the case in a folder.
pub(crate) fn data(folder: &Path, model: &Model) -> Result<Vec<DataSet>, String> {
    let g = &model.graph;
    let inputs: Vec<&ValueInfo> = g.inputs.iter().filter(|i| !g.initializers.iter().any(|(n, _)| *n == i.name)).collect();
    let outputs: Vec<&ValueInfo> = g.outputs.iter().collect();
    let sets = folders(folder).into_iter().filter(|p| name(p).starts_with("test_data_set_"));
    sets.map(|set| Ok(DataSet { inputs: values(&set, "input", &inputs)?, outputs: values(&set, "output", &outputs)? })).collect()
}

/// The inputs of each data set of the case in a folder.
pub(crate) fn inputs(folder: &Path, model: &Model) -> Result<Vec<Vec<Value>>, String> {
    let ports = crate::data::ports(model);
    let ports: Vec<&ValueInfo> = ports.iter().collect();
    let sets = folders(folder).into_iter().filter(|p| name(p).starts_with("test_data_set_"));
    sets.map(|set| values(&set, "input", &ports)).collect()
}

fn values(set: &Path, kind: &str, ports: &[&ValueInfo]) -> Result<Vec<Value>, String> {
    let one = |(k, port): (usize, &&ValueInfo)| {
        let file = set.join(format!("{kind}_{k}.pb"));
        let bytes = fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let ty = port.ty.clone().unwrap_or(TypeInfo::Tensor { dtype: DType::F32, shape: None });
        read_value(&bytes, &ty).map_err(|e| format!("{}: {e}", file.display()))
    };
    ports.iter().enumerate().map(one).collect()
}

/// Whether a list of results is the one expected.
///
/// # Errors
/// The first difference.
pub fn compare_all(found: &[Value], expected: &[Value], tolerance: Tolerance) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} results, expected {}", found.len(), expected.len()));
    }
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        compare(f, e, tolerance).map_err(|d| format!("output {i}: {d}"))?;
    }
    Ok(())
}

/// Whether a value is the one expected: types and shapes exactly, floats within the tolerance, everything else exactly.
///
/// # Errors
/// The first difference.
pub fn compare(found: &Value, expected: &Value, tolerance: Tolerance) -> Result<(), String> {
    match (found, expected) {
        (Value::Tensor(f), Value::Tensor(e)) => compare_tensors(f, e, tolerance),
        (Value::Sequence(f), Value::Sequence(e)) if f.len() != e.len() => Err(format!("{} elements, expected {}", f.len(), e.len())),
        (Value::Sequence(f), Value::Sequence(e)) => {
            f.iter().zip(e).enumerate().try_for_each(|(i, (f, e))| compare(f, e, tolerance).map_err(|d| format!("element {i}: {d}")))
        }
        (Value::Optional(None), Value::Optional(None)) => Ok(()),
        (Value::Optional(Some(f)), Value::Optional(Some(e))) => compare(f, e, tolerance),
        (Value::IntMap(f), Value::IntMap(e)) if f.keys().eq(e.keys()) => f.iter().try_for_each(|(k, v)| compare(v, &e[k], tolerance)),
        (Value::StrMap(f), Value::StrMap(e)) if f.keys().eq(e.keys()) => f.iter().try_for_each(|(k, v)| compare(v, &e[k], tolerance)),
        _ => Err(format!("{}, expected {}", kind(found), kind(expected))),
    }
}

fn kind(v: &Value) -> String {
    match v {
        Value::Tensor(t) => format!("{}{:?}", t.dtype, t.dims),
        Value::Sequence(s) => format!("a sequence of {}", s.len()),
        Value::Optional(None) => "nothing".into(),
        Value::Optional(Some(v)) => format!("optional {}", kind(v)),
        Value::IntMap(m) => format!("a map of {} integers", m.len()),
        Value::StrMap(m) => format!("a map of {} strings", m.len()),
    }
}

fn compare_tensors(found: &Tensor, expected: &Tensor, tolerance: Tolerance) -> Result<(), String> {
    if found.dtype != expected.dtype || found.dims != expected.dims {
        return Err(format!("{}{:?}, expected {}{:?}", found.dtype, found.dims, expected.dtype, expected.dims));
    }
    match (floats(found), floats(expected)) {
        (Some(f), Some(e)) if found.dtype.is_float() || found.dtype.is_complex() => {
            // The suite's runner widens the tolerance of bfloat16 to two of its steps.
            let relative = if found.dtype == DType::Bf16 { tolerance.relative.max(1.0 / 64.0) } else { tolerance.relative };
            let close = |f: f64, e: f64| {
                f == e || (f.is_nan() && e.is_nan()) || (f.is_finite() && (f - e).abs() <= tolerance.absolute + relative * e.abs())
            };
            let wrong: Vec<usize> = (0..f.len()).filter(|&i| !close(f[i], e[i])).collect();
            match wrong.first() {
                Some(&i) => Err(format!("{} of {} elements differ, first [{i}]: {}, expected {}", wrong.len(), f.len(), f[i], e[i])),
                None => Ok(()),
            }
        }
        _ if found.dtype == DType::Str => first_difference(found.as_strings(), expected.as_strings()),
        _ => match (found.to_i64s(), expected.to_i64s()) {
            (Some(f), Some(e)) => first_difference(&f, &e),
            _ => first_difference(found.bytes(), expected.bytes()),
        },
    }
}

/// The elements as f64, those of floats of up to 8 bits and the two parts of complex numbers too.
pub(crate) fn floats(t: &Tensor) -> Option<Vec<f64>> {
    let bits = t.dtype.bits();
    if t.dtype.is_complex() {
        return Some(pairs(t).into_iter().flat_map(|(re, im)| [re, im]).collect());
    }
    if !t.dtype.is_float() || bits > 8 {
        return t.to_f64s();
    }
    Some((0..t.len()).map(|i| narrow::value(t.dtype, narrow::code_at(t.bytes(), bits, i)) as f64).collect())
}

fn first_difference<T: PartialEq + std::fmt::Debug>(found: &[T], expected: &[T]) -> Result<(), String> {
    let wrong = found.iter().zip(expected).filter(|(f, e)| f != e).count();
    match found.iter().zip(expected).position(|(f, e)| f != e) {
        Some(i) => Err(format!("{wrong} of {} elements differ, first [{i}]: {:?}, expected {:?}", found.len(), found[i], expected[i])),
        None => Ok(()),
    }
}

thread_local! {
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics off standard error: [`guarded`] reports them instead. For programs that run cases.
pub fn quiet_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, |l| format!("{}:{}", l.file(), l.line()));
        PLACE.with(|p| *p.borrow_mut() = place);
    }));
}

/// Runs a case on a thread of its own; a panic becomes an error that starts with `panic`.
///
/// # Errors
/// What `run` answers, or the panic.
pub fn guarded(run: impl FnOnce() -> Result<(), String> + Send) -> Result<(), String> {
    let text = |e: &(dyn Any + Send)| match (e.downcast_ref::<&str>(), e.downcast_ref::<String>()) {
        (Some(s), _) => s.to_string(),
        (_, Some(s)) => s.clone(),
        _ => String::new(),
    };
    let caught = || match panic::catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result,
        Err(e) => Err(format!("panic at {}: {}", PLACE.with(|p| p.borrow().clone()), text(&*e))),
    };
    std::thread::scope(|s| s.spawn(caught).join()).unwrap_or_else(|_| Err("panic outside of the case".into()))
}
