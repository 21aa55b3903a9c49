//! The reference evaluation of `Expr`: instruction by instruction over blocks of elements.

use super::expr::{At, Binary, Expr, Literal, Scalar, Unary};
use kiln_kernels::dtype::{DType, bf16, f16};
use kiln_kernels::isa::Portable;
use kiln_kernels::support::math;
use kiln_kernels::value::Tensor;

/// A block of values of one instruction. 16-bit floats are f32 rounded after every instruction; integers are wrapped to their width.
#[derive(Clone, Debug)]
enum Column {
    F32(Vec<f32>),
    F64(Vec<f64>),
    Int(Vec<i64>),
    Bool(Vec<bool>),
}

const BLOCK: usize = 1024;

/// Computes the expression at every element: `inputs[i]` with the element strides along `dims` given by `strides[i]`.
pub fn run(e: &Expr, dims: &[usize], inputs: &[&Tensor], strides: &[Vec<usize>]) -> Vec<Tensor> {
    let total: usize = dims.iter().product();
    let mut out: Vec<Tensor> = e.results.iter().map(|r| Tensor::zeros(e.ty(*r), dims)).collect();
    let mut offsets = vec![vec![0usize; BLOCK]; inputs.len()];
    let mut at = vec![0usize; dims.len()];
    let mut start = 0;
    while start < total {
        let n = BLOCK.min(total - start);
        for k in 0..n {
            for (o, s) in offsets.iter_mut().zip(strides) {
                o[k] = at.iter().zip(s).map(|(a, s)| a * s).sum();
            }
            for axis in (0..dims.len()).rev() {
                at[axis] += 1;
                if at[axis] < dims[axis] {
                    break;
                }
                at[axis] = 0;
            }
        }
        let mut columns: Vec<Column> = Vec::with_capacity(e.code.len());
        for &(s, ty) in &e.code {
            let column = match s {
                Scalar::In(i) => load(inputs[i as usize], &offsets[i as usize][..n]),
                _ => step(s, ty, e, &columns, n),
            };
            columns.push(column);
        }
        for (t, r) in out.iter_mut().zip(&e.results) {
            store(t, start, &columns[r.0 as usize]);
        }
        start += n;
    }
    out
}

fn load(t: &Tensor, at: &[usize]) -> Column {
    macro_rules! ints {
        ($t:ty) => {{
            let s = t.slice::<$t>();
            Column::Int(at.iter().map(|&i| s[i] as i64).collect())
        }};
    }
    match t.dtype {
        DType::F32 => {
            let s = t.slice::<f32>();
            Column::F32(at.iter().map(|&i| s[i]).collect())
        }
        DType::F64 => {
            let s = t.slice::<f64>();
            Column::F64(at.iter().map(|&i| s[i]).collect())
        }
        DType::F16 => {
            let s = t.slice::<f16>();
            Column::F32(at.iter().map(|&i| s[i].to_f32()).collect())
        }
        DType::Bf16 => {
            let s = t.slice::<bf16>();
            Column::F32(at.iter().map(|&i| s[i].to_f32()).collect())
        }
        DType::Bool => {
            let s = t.slice::<u8>();
            Column::Bool(at.iter().map(|&i| s[i] != 0).collect())
        }
        DType::I8 => ints!(i8),
        DType::I16 => ints!(i16),
        DType::I32 => ints!(i32),
        DType::I64 => ints!(i64),
        DType::U8 => ints!(u8),
        DType::U16 => ints!(u16),
        DType::U32 => ints!(u32),
        DType::U64 => ints!(u64),
        other => unreachable!("expressions do not load {other}; this is a bug in the compiler"),
    }
}

fn store(t: &mut Tensor, start: usize, c: &Column) {
    macro_rules! put {
        ($t:ty, $v:expr, $f:expr) => {
            for (o, x) in t.slice_mut::<$t>()[start..].iter_mut().zip($v) {
                *o = $f(*x);
            }
        };
    }
    match (t.dtype, c) {
        (DType::F32, Column::F32(v)) => put!(f32, v, |x| x),
        (DType::F16, Column::F32(v)) => put!(f16, v, f16::from_f32),
        (DType::Bf16, Column::F32(v)) => put!(bf16, v, bf16::from_f32),
        (DType::F64, Column::F64(v)) => put!(f64, v, |x| x),
        (DType::Bool, Column::Bool(v)) => put!(u8, v, |x| x as u8),
        (DType::I8, Column::Int(v)) => put!(i8, v, |x| x as i8),
        (DType::I16, Column::Int(v)) => put!(i16, v, |x| x as i16),
        (DType::I32, Column::Int(v)) => put!(i32, v, |x| x as i32),
        (DType::I64, Column::Int(v)) => put!(i64, v, |x| x),
        (DType::U8, Column::Int(v)) => put!(u8, v, |x| x as u8),
        (DType::U16, Column::Int(v)) => put!(u16, v, |x| x as u16),
        (DType::U32, Column::Int(v)) => put!(u32, v, |x| x as u32),
        (DType::U64, Column::Int(v)) => put!(u64, v, |x| x as u64),
        (d, c) => unreachable!("{c:?} stored as {d}; this is a bug in the compiler"),
    }
}

/// An integer cut to the width of its type.
pub fn wrap(x: i64, ty: DType) -> i64 {
    match ty {
        DType::I8 => x as i8 as i64,
        DType::I16 => x as i16 as i64,
        DType::I32 => x as i32 as i64,
        DType::U8 => x as u8 as i64,
        DType::U16 => x as u16 as i64,
        DType::U32 => x as u32 as i64,
        _ => x,
    }
}

fn round16(x: f32, ty: DType) -> f32 {
    match ty {
        DType::F16 => f16::from_f32(x).to_f32(),
        DType::Bf16 => bf16::from_f32(x).to_f32(),
        _ => x,
    }
}

fn step(s: Scalar, ty: DType, e: &Expr, done: &[Column], n: usize) -> Column {
    let col = |a: At| &done[a.0 as usize];
    match s {
        Scalar::In(_) => unreachable!("inputs are loaded before; this is a bug in the compiler"),
        Scalar::Const(c) => match ty {
            DType::F32 | DType::F16 | DType::Bf16 => Column::F32(vec![round16(c.as_f64() as f32, ty); n]),
            DType::F64 => Column::F64(vec![c.as_f64(); n]),
            DType::Bool => Column::Bool(vec![c == Literal::Bool(true); n]),
            _ => Column::Int(vec![if let Literal::Int(i) = c { i } else { c.as_f64() as i64 }; n]),
        },
        Scalar::Unary(f, a) => unary(f, col(a), e.ty(a)),
        Scalar::Binary(f, a, b) => binary(f, col(a), col(b), e.ty(a)),
        Scalar::Select(c, a, b) => {
            let Column::Bool(c) = col(c) else { unreachable!("a condition is bool; this is a bug in the compiler") };
            macro_rules! pick {
                ($v:ident, $x:expr, $y:expr) => {
                    Column::$v(c.iter().zip($x).zip($y).map(|((c, x), y)| if *c { *x } else { *y }).collect())
                };
            }
            match (col(a), col(b)) {
                (Column::F32(x), Column::F32(y)) => pick!(F32, x, y),
                (Column::F64(x), Column::F64(y)) => pick!(F64, x, y),
                (Column::Int(x), Column::Int(y)) => pick!(Int, x, y),
                (Column::Bool(x), Column::Bool(y)) => pick!(Bool, x, y),
                _ => unreachable!("the sides of a select differ; this is a bug in the compiler"),
            }
        }
        Scalar::Cast(a) => cast(col(a), e.ty(a), ty),
    }
}

/// A float as an integer of that type: truncated and saturated, NaN to 0.
pub fn float_to_int(x: f64, ty: DType) -> i64 {
    match ty {
        DType::I8 => x as i8 as i64,
        DType::I16 => x as i16 as i64,
        DType::I32 => x as i32 as i64,
        DType::U8 => x as u8 as i64,
        DType::U16 => x as u16 as i64,
        DType::U32 => x as u32 as i64,
        DType::U64 => x as u64 as i64,
        _ => x as i64,
    }
}

fn cast(c: &Column, from: DType, to: DType) -> Column {
    let unsigned = from == DType::U64;
    match to {
        DType::F32 | DType::F16 | DType::Bf16 => {
            let narrow = |x: f32| round16(x, to);
            Column::F32(match c {
                Column::F32(v) => v.iter().map(|x| narrow(*x)).collect(),
                Column::F64(v) => v.iter().map(|x| narrow(*x as f32)).collect(),
                Column::Int(v) => v.iter().map(|x| narrow(if unsigned { *x as u64 as f32 } else { *x as f32 })).collect(),
                Column::Bool(v) => v.iter().map(|x| *x as u8 as f32).collect(),
            })
        }
        DType::F64 => Column::F64(match c {
            Column::F32(v) => v.iter().map(|x| *x as f64).collect(),
            Column::F64(v) => v.clone(),
            Column::Int(v) => v.iter().map(|x| if unsigned { *x as u64 as f64 } else { *x as f64 }).collect(),
            Column::Bool(v) => v.iter().map(|x| *x as u8 as f64).collect(),
        }),
        DType::Bool => Column::Bool(match c {
            Column::F32(v) => v.iter().map(|x| *x != 0.0).collect(),
            Column::F64(v) => v.iter().map(|x| *x != 0.0).collect(),
            Column::Int(v) => v.iter().map(|x| *x != 0).collect(),
            Column::Bool(v) => v.clone(),
        }),
        _ => Column::Int(match c {
            Column::F32(v) => v.iter().map(|x| float_to_int(*x as f64, to)).collect(),
            Column::F64(v) => v.iter().map(|x| float_to_int(*x, to)).collect(),
            Column::Int(v) => v.iter().map(|x| wrap(*x, to)).collect(),
            Column::Bool(v) => v.iter().map(|x| *x as i64).collect(),
        }),
    }
}

fn unary(f: Unary, c: &Column, ty: DType) -> Column {
    match c {
        Column::F32(v) => match f {
            Unary::IsNan => Column::Bool(v.iter().map(|x| x.is_nan()).collect()),
            Unary::IsInf => Column::Bool(v.iter().map(|x| x.is_infinite()).collect()),
            _ => Column::F32(v.iter().map(|x| round16(unary_f32(f, *x), ty)).collect()),
        },
        Column::F64(v) => match f {
            Unary::IsNan => Column::Bool(v.iter().map(|x| x.is_nan()).collect()),
            Unary::IsInf => Column::Bool(v.iter().map(|x| x.is_infinite()).collect()),
            _ => Column::F64(v.iter().map(|x| kiln_kernels::support::scalar::unary(f.text(), *x)).collect()),
        },
        Column::Int(v) => Column::Int(
            v.iter()
                .map(|x| {
                    wrap(
                        match f {
                            Unary::Neg => x.wrapping_neg(),
                            Unary::Not => !x,
                            Unary::Abs if ty != DType::U64 => x.wrapping_abs(),
                            Unary::Sign if ty != DType::U64 => x.signum(),
                            Unary::Sign => (*x != 0) as i64,
                            Unary::Abs | Unary::Ceil | Unary::Floor | Unary::Round | Unary::Trunc => *x,
                            _ => float_to_int(kiln_kernels::support::scalar::unary(f.text(), *x as f64), ty),
                        },
                        ty,
                    )
                })
                .collect(),
        ),
        Column::Bool(v) => Column::Bool(v.iter().map(|x| !*x).collect()),
    }
}

fn unary_f32(f: Unary, x: f32) -> f32 {
    match f {
        Unary::Exp => math::exp::<Portable>(x),
        Unary::Log => math::ln::<Portable>(x),
        Unary::Tanh => math::tanh::<Portable>(x),
        Unary::Erf => math::erf::<Portable>(x),
        Unary::Sigmoid => math::sigmoid::<Portable>(x),
        Unary::Softplus => math::softplus::<Portable>(x),
        _ => kiln_kernels::support::scalar::unary(f.text(), x as f64) as f32,
    }
}

fn binary(f: Binary, a: &Column, b: &Column, ty: DType) -> Column {
    macro_rules! floats {
        ($v:ident, $x:expr, $y:expr, $round:expr) => {{
            let it = $x.iter().zip($y).map(|(x, y)| (*x, *y));
            match f {
                Binary::Eq => Column::Bool(it.map(|(x, y)| x == y).collect()),
                Binary::Lt => Column::Bool(it.map(|(x, y)| x < y).collect()),
                Binary::Le => Column::Bool(it.map(|(x, y)| x <= y).collect()),
                _ => Column::$v(
                    it.map(|(x, y)| {
                        $round(match f {
                            Binary::Add => x + y,
                            Binary::Sub => x - y,
                            Binary::Mul => x * y,
                            Binary::Div => x / y,
                            Binary::Rem => x % y,
                            Binary::Mod => {
                                let r = x % y;
                                if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
                            }
                            Binary::Pow => x.powf(y),
                            Binary::Min => {
                                if x.is_nan() || x < y {
                                    x
                                } else {
                                    y
                                }
                            }
                            Binary::Max => {
                                if x.is_nan() || x > y {
                                    x
                                } else {
                                    y
                                }
                            }
                            _ => unreachable!("{f:?} of floats; this is a bug in the compiler"),
                        })
                    })
                    .collect(),
                ),
            }
        }};
    }
    match (a, b) {
        (Column::F32(x), Column::F32(y)) => floats!(F32, x, y, |v| round16(v, ty)),
        (Column::F64(x), Column::F64(y)) => floats!(F64, x, y, |v| v),
        (Column::Bool(x), Column::Bool(y)) => {
            let it = x.iter().zip(y).map(|(x, y)| (*x, *y));
            Column::Bool(match f {
                Binary::And | Binary::Mul | Binary::Min => it.map(|(x, y)| x & y).collect(),
                Binary::Or | Binary::Add | Binary::Max => it.map(|(x, y)| x | y).collect(),
                Binary::Xor => it.map(|(x, y)| x ^ y).collect(),
                Binary::Eq => it.map(|(x, y)| x == y).collect(),
                Binary::Lt => it.map(|(x, y)| !x & y).collect(),
                Binary::Le => it.map(|(x, y)| x <= y).collect(),
                _ => unreachable!("{f:?} of bools; this is a bug in the compiler"),
            })
        }
        (Column::Int(x), Column::Int(y)) => {
            let unsigned = ty == DType::U64;
            let less = move |x: i64, y: i64| if unsigned { (x as u64) < (y as u64) } else { x < y };
            let it = x.iter().zip(y).map(|(x, y)| (*x, *y));
            match f {
                Binary::Eq => Column::Bool(it.map(|(x, y)| x == y).collect()),
                Binary::Lt => Column::Bool(it.map(|(x, y)| less(x, y)).collect()),
                Binary::Le => Column::Bool(it.map(|(x, y)| !less(y, x)).collect()),
                _ => Column::Int(it.map(|(x, y)| wrap(integer(f, x, y, ty), ty)).collect()),
            }
        }
        _ => unreachable!("the operands of {f:?} differ; this is a bug in the compiler"),
    }
}

fn integer(f: Binary, x: i64, y: i64, ty: DType) -> i64 {
    let unsigned = ty == DType::U64;
    let bits = ty.bits() as i64;
    match f {
        Binary::Add => x.wrapping_add(y),
        Binary::Sub => x.wrapping_sub(y),
        Binary::Mul => x.wrapping_mul(y),
        Binary::Div | Binary::Rem | Binary::Mod if y == 0 => 0,
        Binary::Div if unsigned => ((x as u64) / (y as u64)) as i64,
        Binary::Rem | Binary::Mod if unsigned => ((x as u64) % (y as u64)) as i64,
        Binary::Div => x.wrapping_div(y),
        Binary::Rem => x.wrapping_rem(y),
        Binary::Mod => {
            let r = x.wrapping_rem(y);
            if r != 0 && (r < 0) != (y < 0) { r.wrapping_add(y) } else { r }
        }
        Binary::Pow => power(x, y),
        Binary::Min if unsigned => (x as u64).min(y as u64) as i64,
        Binary::Max if unsigned => (x as u64).max(y as u64) as i64,
        Binary::Min => x.min(y),
        Binary::Max => x.max(y),
        Binary::And => x & y,
        Binary::Or => x | y,
        Binary::Xor => x ^ y,
        Binary::Shl => {
            if (0..bits).contains(&y) {
                x.wrapping_shl(y as u32)
            } else {
                0
            }
        }
        Binary::Shr => {
            if !(0..bits).contains(&y) {
                if x < 0 && !unsigned { -1 } else { 0 }
            } else if unsigned {
                ((x as u64) >> y) as i64
            } else {
                x >> y
            }
        }
        Binary::Eq | Binary::Lt | Binary::Le => unreachable!("comparisons yield bool; this is a bug in the compiler"),
    }
}

/// x to the power y over wrapping integers; negative exponents give 0 unless the base is 1 or -1.
fn power(x: i64, y: i64) -> i64 {
    if y < 0 {
        return match x {
            1 => 1,
            -1 => {
                if y % 2 == 0 {
                    1
                } else {
                    -1
                }
            }
            _ => 0,
        };
    }
    let (mut base, mut exp, mut out) = (x, y, 1i64);
    while exp > 0 {
        if exp & 1 == 1 {
            out = out.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exp >>= 1;
    }
    out
}
