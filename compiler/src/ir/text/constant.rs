//! Constants as text: small ones with their elements, larger ones by a hash of their contents.

use super::cursor::{Cursor, Parsed, quote};
use crate::ir::Graph;
use kiln_kernels::dtype::{DType, bf16, f16};
use kiln_kernels::value::{Bytes, Data, Tensor};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Constants of more elements stand in text by their hash.
pub(super) const MOST_WRITTEN: usize = 64;

/// How many bytes a text may stand for that comes without its constants.
const MOST_FILLED: usize = 1 << 30;

/// Where the constants come from that text names only by their hash.
#[derive(Clone, Debug, Default)]
pub struct Constants {
    by_hash: BTreeMap<u64, Tensor>,
    fill: bool,
}

impl Constants {
    /// Those of a graph.
    pub fn of(g: &Graph) -> Constants {
        let large = g.values.iter().filter_map(|v| v.constant.as_ref()).filter(|t| t.len() > MOST_WRITTEN);
        Constants { by_hash: large.map(|t| (hash(t), t.clone())).collect(), fill: false }
    }
    /// Made up from the hash: floats between -1 and 1, everything else zero or empty. For text without the model it came from.
    pub fn made_up() -> Constants {
        Constants { by_hash: BTreeMap::new(), fill: true }
    }
    /// The constant of that type, shape and hash; `budget` counts the bytes made up so far.
    pub(super) fn find(&self, dtype: DType, dims: &[usize], hash: u64, budget: &mut usize) -> Parsed<Tensor> {
        if let Some(t) = self.by_hash.get(&hash) {
            let same = t.dtype == dtype && t.dims == dims;
            return if same { Ok(t.clone()) } else { Err(format!("the constant {hash:016x} is {}{:?}", t.dtype, t.dims)) };
        }
        if !self.fill {
            return Err(format!("no constant has the hash {hash:016x}"));
        }
        let len = dims.iter().try_fold(1usize, |a, b| a.checked_mul(*b));
        // A string takes its own bytes, though they are none here.
        let bytes = len.and_then(|n| if dtype == DType::Str { n.checked_mul(size_of::<String>()) } else { dtype.bytes(n) });
        *budget =
            bytes.and_then(|n| budget.checked_add(n)).filter(|n| *n <= MOST_FILLED).ok_or("the constants are too large to make up")?;
        let mut t = Tensor::zeros(dtype, dims);
        let mut seed = hash | 1;
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        match dtype {
            DType::F32 => t.slice_mut::<f32>().iter_mut().for_each(|x| *x = next()),
            DType::F64 => t.slice_mut::<f64>().iter_mut().for_each(|x| *x = next().into()),
            DType::F16 => t.slice_mut::<f16>().iter_mut().for_each(|x| *x = f16::from_f32(next())),
            DType::Bf16 => t.slice_mut::<bf16>().iter_mut().for_each(|x| *x = bf16::from_f32(next())),
            _ => {}
        }
        Ok(t)
    }
}

/// A hash of type, shape and contents, the same on every machine.
pub(super) fn hash(t: &Tensor) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    let mut add = |x: u64| {
        h = (h ^ x).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        h ^= h >> 32;
    };
    let mut bytes = |b: &[u8]| {
        add(b.len() as u64);
        let mut chunks = b.chunks_exact(8);
        chunks.by_ref().for_each(|c| add(c.iter().rev().fold(0, |x, b| x << 8 | u64::from(*b))));
        chunks.remainder().iter().for_each(|b| add((*b).into()));
    };
    bytes(t.dtype.name().as_bytes());
    t.dims.iter().for_each(|d| bytes(&(*d as u64).to_le_bytes()));
    bytes(t.bytes());
    t.as_strings().iter().for_each(|s| bytes(s.as_bytes()));
    h
}

/// Appends a constant: type and shape, then its elements or its hash.
pub(super) fn write(out: &mut String, t: &Tensor) {
    let _ = write!(out, "{}", t.dtype);
    if !t.dims.is_empty() || t.len() > MOST_WRITTEN {
        let _ = write!(out, "{:?}", t.dims);
    }
    if t.len() > MOST_WRITTEN {
        let _ = write!(out, "@{:016x}", hash(t));
        return;
    }
    out.push('(');
    macro_rules! go {
        ($t:ty, |$x:ident| $text:expr) => {
            for (i, $x) in t.slice::<$t>().iter().enumerate() {
                let _ = write!(out, "{}{}", if i > 0 { ", " } else { "" }, $text);
            }
        };
    }
    match t.dtype {
        DType::Str => {
            for (i, s) in t.as_strings().iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                quote(out, s);
            }
        }
        DType::F32 => go!(f32, |x| format_args!("{x:?}")),
        DType::F64 => go!(f64, |x| format_args!("{x:?}")),
        DType::F16 => go!(f16, |x| format_args!("{:?}", x.to_f32())),
        DType::Bf16 => go!(bf16, |x| format_args!("{:?}", x.to_f32())),
        DType::I8 => go!(i8, |x| x),
        DType::I16 => go!(i16, |x| x),
        DType::I32 => go!(i32, |x| x),
        DType::I64 => go!(i64, |x| x),
        DType::U8 => go!(u8, |x| x),
        DType::U16 => go!(u16, |x| x),
        DType::U32 => go!(u32, |x| x),
        DType::U64 => go!(u64, |x| x),
        DType::Bool if t.bytes().iter().all(|b| *b < 2) => go!(u8, |x| *x != 0),
        // Types that are only stored are shown as they are stored.
        _ => {
            for (i, b) in t.bytes().iter().enumerate() {
                let _ = write!(out, "{}{b:02x}", if i > 0 { " " } else { "0x " });
            }
        }
    }
    out.push(')');
}

/// Reads a constant.
pub(super) fn read(p: &mut Cursor<'_>, from: &Constants, budget: &mut usize) -> Parsed<(Tensor, Option<u64>)> {
    let dtype = p.dtype()?;
    let dims = if p.sees("[") { p.list("[", "]", |p| p.number::<usize>("an extent"))? } else { vec![] };
    if p.eat("@") {
        let hash = p.hex()?;
        return from.find(dtype, &dims, hash, budget).map(|t| (t, Some(hash)));
    }
    let mut bytes: Vec<u8> = Vec::new();
    let count = dims.iter().try_fold(1usize, |a, b| a.checked_mul(*b)).ok_or("the shape overflows")?;
    if dtype == DType::Str {
        let strings = p.list("(", ")", Cursor::string)?;
        expect_count(count, strings.len())?;
        return Ok((Tensor::strings(&dims, strings), None));
    }
    macro_rules! go {
        ($t:ty, |$x:ident| $of:expr) => {
            p.list("(", ")", |p| {
                let $x = p.number::<$t>(concat!("a number that is ", stringify!($t)))?;
                bytes.extend_from_slice(&$of.to_le_bytes());
                Ok(())
            })?
            .len()
        };
    }
    let raw = |p: &mut Cursor<'_>, bytes: &mut Vec<u8>| -> Parsed<()> {
        p.expect("(")?;
        let _ = p.eat("0x");
        while !p.eat(")") {
            bytes.push(u8::try_from(p.hex()?).map_err(|_| "expected bytes in base 16")?);
        }
        Ok(())
    };
    let found = match dtype {
        DType::F32 => go!(f32, |x| x),
        DType::F64 => go!(f64, |x| x),
        DType::F16 => go!(f32, |x| f16::from_f32(x).0),
        DType::Bf16 => go!(f32, |x| bf16::from_f32(x).0),
        DType::I8 => go!(i8, |x| x),
        DType::I16 => go!(i16, |x| x),
        DType::I32 => go!(i32, |x| x),
        DType::I64 => go!(i64, |x| x),
        DType::U8 => go!(u8, |x| x),
        DType::U16 => go!(u16, |x| x),
        DType::U32 => go!(u32, |x| x),
        DType::U64 => go!(u64, |x| x),
        DType::Bool if !p.sees("(0x") => go!(bool, |x| u8::from(x)),
        _ => {
            raw(p, &mut bytes)?;
            let want = dtype.bytes(count).ok_or("the shape overflows")?;
            if bytes.len() == want { count } else { return Err(format!("expected {want} bytes, found {}", bytes.len())) }
        }
    };
    expect_count(count, found)?;
    Ok((Tensor { dtype, dims, data: Data::Bytes(Bytes::copy_of(&bytes)) }, None))
}

fn expect_count(want: usize, found: usize) -> Parsed<()> {
    if want == found { Ok(()) } else { Err(format!("the shape has {want} elements, found {found}")) }
}
