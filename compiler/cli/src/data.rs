//! Inputs and outputs as files, seeded random inputs, and the extents of open dimensions.

use crate::failure::{At, Failure, Result};
use crate::npy;
use kiln_compiler::diagnostics::shown;
use kiln_compiler::eval;
use kiln_compiler::import::{Dims, Extent};
use kiln_compiler::onnx::{DimInfo, Model, TypeInfo, ValueInfo, read_value, write_value};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};
use std::fs;
use std::path::Path;

/// The inputs that a caller gives, in the graph's order.
pub(crate) fn ports(model: &Model) -> Vec<ValueInfo> {
    let g = &model.graph;
    g.inputs.iter().filter(|i| !g.initializers.iter().any(|(n, _)| *n == i.name)).cloned().collect()
}

/// The value of a file, `.npy` or a message of ONNX.
pub(crate) fn read(path: &Path, ty: Option<&TypeInfo>) -> Result<Value> {
    let bytes = fs::read(path).at(path)?;
    if path.extension().is_some_and(|e| e == "npy") {
        return npy::read(&bytes).map(Value::Tensor).map_err(|e| Failure::at(path, e));
    }
    let tensor = TypeInfo::Tensor { dtype: DType::F32, shape: None };
    read_value(&bytes, ty.unwrap_or(&tensor)).map_err(|e| Failure::at(path, e))
}

/// The values `in_0`, `in_1` .. (or `out_`) of a folder; `None` where there is no file.
pub(crate) fn folder(dir: &Path, kind: &str, types: &[Option<&TypeInfo>]) -> Result<Vec<Option<Value>>> {
    if !dir.is_dir() {
        return Err(Failure::at(dir, "there is no such folder"));
    }
    let one = |(k, ty): (usize, &Option<&TypeInfo>)| {
        let found = ["npy", "pb"].iter().map(|e| dir.join(format!("{kind}_{k}.{e}"))).find(|p| p.is_file());
        found.map(|p| read(&p, *ty)).transpose()
    };
    types.iter().enumerate().map(one).collect()
}

/// Writes outputs in the graph's order, and their names.
pub(crate) fn write_outputs(dir: &Path, names: &[String], values: &[Value]) -> Result<()> {
    fs::create_dir_all(dir).at(dir)?;
    let mut files = Vec::new();
    for (k, v) in values.iter().enumerate() {
        let npy = v.as_tensor().and_then(npy::write);
        let file = format!("out_{k}.{}", if npy.is_some() { "npy" } else { "pb" });
        let name = names.get(k).map_or("", |n| n);
        replace(&dir.join(&file), &npy.unwrap_or_else(|| write_value(name, v)))?;
        files.push(file);
    }
    let json = serde_json::json!({ "schema": 1, "outputs": names, "files": files });
    replace(&dir.join("outputs.json"), format!("{json}\n").as_bytes())
}

/// Writes a file under a temporary name and renames it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = Path::new(&name);
    let done = fs::write(temporary, bytes).and_then(|()| fs::rename(temporary, path));
    if done.is_err() {
        // What could not be written may not exist either.
        let _ = fs::remove_file(temporary);
    }
    done.at(path)
}

/// Closes the dimensions that are still open by the inputs, or where there are none, at 1 for a first axis and 64 for others. Gives a
/// line for each that was chosen here.
pub(crate) fn close(dims: &mut Dims, ports: &[ValueInfo], values: &[Option<Value>]) -> Vec<String> {
    let mut chosen = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let Some(TypeInfo::Tensor { shape: Some(shape), .. }) = &port.ty else { continue };
        for (axis, d) in shape.iter().enumerate() {
            let label = match d {
                DimInfo::Known(_) => continue,
                DimInfo::Named(n) => n.clone(),
                DimInfo::Unknown => format!("{}.{axis}", port.name),
            };
            let own = dims.by_input.get(&port.name).and_then(|s| s.get(axis).copied().flatten());
            if own.is_some() || dims.by_name.contains_key(&label) {
                continue;
            }
            let given = values.get(i).and_then(|v| v.as_ref()?.as_tensor()?.dims.get(axis).copied());
            let n = match given {
                Some(n) => n as i64,
                None => {
                    let n = if axis == 0 { 1 } else { 64 };
                    chosen.push(format!("dimension \"{}\" = {n}", shown(&label)));
                    n
                }
            };
            dims.by_name.insert(label, Extent::Closed(n));
        }
    }
    chosen
}

/// The extents of a port under the choices.
fn extents(port: &ValueInfo, shape: &[DimInfo], dims: &Dims) -> Vec<usize> {
    let own = dims.by_input.get(&port.name);
    let one = |(axis, d): (usize, &DimInfo)| {
        let label = match d {
            DimInfo::Named(n) => n.clone(),
            _ => format!("{}.{axis}", port.name),
        };
        let first = if axis == 0 { 1 } else { 64 };
        match (own.and_then(|s| s.get(axis).copied().flatten()).or_else(|| dims.by_name.get(&label).copied()), d) {
            (Some(Extent::Closed(n)), _) => n,
            (Some(Extent::Bounded(lo, hi)), _) => first.clamp(lo, hi),
            (None, DimInfo::Known(n)) => *n,
            (None, _) => first,
        }
    };
    shape.iter().enumerate().map(one).map(|n| n.max(0) as usize).collect()
}

/// A small generator of numbers: the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// Seeded inputs: normal floats, integers below 100, true, ones for a mask, zeros for token types.
pub(crate) fn random(ports: &[ValueInfo], dims: &Dims) -> Result<Vec<Option<Value>>> {
    let mut random = Random(1);
    let mut one = |port: &ValueInfo| -> Result<Option<Value>> {
        let (dtype, sizes) = match &port.ty {
            Some(TypeInfo::Tensor { dtype, shape: Some(shape) }) => (*dtype, extents(port, shape, dims)),
            Some(TypeInfo::Tensor { dtype, shape: None }) => match dims.by_input.get(&port.name) {
                Some(s) => (*dtype, s.iter().map(|e| if let Some(Extent::Closed(n)) = e { *n as usize } else { 64 }).collect()),
                None => {
                    let help = "its rank is open: give it a shape (--shape) or a value (--input)";
                    return Err(Failure::Fault(format!("input \"{}\": {help}", shown(&port.name))));
                }
            },
            Some(TypeInfo::Optional(_)) => return Ok(Some(Value::Optional(None))),
            Some(TypeInfo::Sequence(_)) => return Ok(Some(Value::Sequence(Vec::new()))),
            _ => return Err(Failure::Fault(format!("input \"{}\" needs a value (--input)", shown(&port.name)))),
        };
        let count = sizes.iter().try_fold(1usize, |a, d| a.checked_mul(*d)).filter(|n| *n <= 1 << 33);
        let count = count.ok_or_else(|| Failure::Fault(format!("input \"{}\" would be too large", shown(&port.name))))?;
        let name = port.name.to_lowercase();
        let whole = if name.contains("mask") {
            Some(1.0)
        } else if name.contains("token_type") || name.contains("segment") {
            Some(0.0)
        } else {
            None
        };
        let t = match dtype {
            DType::Str => Tensor::strings(&sizes, (0..count).map(|_| format!("s{}", random.next() % 100)).collect()),
            d if d.bits() < 8 || (d.is_float() && d.bits() == 8) || matches!(d, DType::C64 | DType::C128) => {
                let mut t = Tensor::zeros(d, &sizes);
                t.bytes_mut().iter_mut().for_each(|b| *b = (random.next() % 64) as u8);
                t
            }
            d => {
                let element = |_| match (whole, d.is_float(), d) {
                    (Some(x), ..) => x,
                    (None, true, _) => random.normal(),
                    (None, false, DType::Bool) => 1.0,
                    _ => (random.next() % 100) as f64,
                };
                eval::from_f64s(&sizes, &(0..count).map(element).collect::<Vec<f64>>(), d)
            }
        };
        Ok(Some(t.into()))
    };
    ports.iter().map(&mut one).collect()
}

/// The size that makes an error of one step in the last place, and how many of them lie between two floats.
pub(crate) fn ulps(dtype: DType, a: f64, b: f64) -> u64 {
    fn order(bits: i64, sign: i64) -> i64 {
        if bits & sign != 0 { sign.wrapping_sub(bits) } else { bits }
    }
    if a == b || (a.is_nan() && b.is_nan()) {
        return 0;
    }
    if a.is_nan() || b.is_nan() {
        return u64::MAX;
    }
    if dtype.bits() <= 8 {
        // So few values that they are counted.
        let codes = (0..1u16 << dtype.bits()).map(|c| kiln_kernels::narrow::value(dtype, c as u8) as f64);
        let mut between: Vec<u64> = codes.filter(|v| *v != 0.0 && *v > a.min(b) && *v <= a.max(b)).map(f64::to_bits).collect();
        between.sort_unstable();
        between.dedup();
        return between.len() as u64 + (a.min(b) < 0.0 && a.max(b) >= 0.0) as u64;
    }
    let key = |x: f64| match dtype {
        DType::F64 | DType::C128 => {
            let bits = x.to_bits() as i64;
            if bits < 0 { i64::MIN.wrapping_sub(bits) } else { bits }
        }
        DType::F16 => order(kiln_kernels::dtype::f16::from_f32(x as f32).0 as i64, 0x8000),
        DType::Bf16 => order(kiln_kernels::dtype::bf16::from_f32(x as f32).0 as i64, 0x8000),
        _ => order((x as f32).to_bits() as i64, 0x8000_0000),
    };
    key(a).abs_diff(key(b))
}
