//! Run-time values of any ONNX type: what the reference evaluator, constants and host steps compute with.

use crate::dtype::{DType, bf16, f16};
use alloc::{boxed::Box, collections::BTreeMap, string::String, sync::Arc, vec, vec::Vec};

/// A dense tensor of any element type, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Element type.
    pub dtype: DType,
    /// Extents; empty for a scalar.
    pub dims: Vec<usize>,
    /// The elements.
    pub data: Data,
}

/// The elements of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Little-endian elements, sub-byte ones packed low bits first.
    Bytes(Bytes),
    /// Strings; shared, since constants of them are copied often.
    Strings(Arc<Vec<String>>),
}

/// Shared bytes that start at a multiple of 64, so that they read as elements of any type.
#[derive(Clone, Debug)]
pub struct Bytes {
    blocks: Arc<Vec<Block>>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Block([u8; 64]);

impl Bytes {
    /// `len` zero bytes.
    pub fn zeroed(len: usize) -> Bytes {
        Bytes { blocks: Arc::new(vec![Block([0; 64]); len.div_ceil(64)]), len }
    }
    /// A copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Bytes {
        let mut out = Bytes::zeroed(bytes.len());
        out.bytes_mut().copy_from_slice(bytes);
        out
    }
    /// The bytes, writable; copies them first when they are shared.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let blocks = Arc::make_mut(&mut self.blocks);
        // SAFETY: `blocks` owns at least `len` initialized bytes (see `zeroed`), and u8 has no alignment.
        unsafe { core::slice::from_raw_parts_mut(blocks.as_mut_ptr().cast(), self.len) }
    }
}

impl core::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `blocks` owns at least `len` initialized bytes (see `zeroed`), and u8 has no alignment.
        unsafe { core::slice::from_raw_parts(self.blocks.as_ptr().cast(), self.len) }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Bytes) -> bool {
        **self == **other
    }
}

/// A Rust type that elements are stored as. Implemented by primitives, the 16-bit floats and `bool`-as-`u8`.
///
/// # Safety
/// The type has no padding and every bit pattern is a value.
pub unsafe trait Element: Copy + PartialEq + core::fmt::Debug + Send + Sync + 'static {
    /// The element type it stores.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => {
        // SAFETY: plain numbers without padding, any bit pattern valid.
        $(unsafe impl Element for $t { const DTYPE: DType = DType::$d; })*
    };
}
elements!(f32 => F32, f64 => F64, f16 => F16, bf16 => Bf16, i8 => I8, u8 => U8, i16 => I16, u16 => U16, i32 => I32, u32 => U32,
    i64 => I64, u64 => U64, u128 => C128);

impl Tensor {
    /// A tensor of zeros (empty strings). Panics when the size overflows: dims are checked where they enter.
    pub fn zeros(dtype: DType, dims: &[usize]) -> Tensor {
        let len = dims.iter().product::<usize>();
        let data = match dtype {
            DType::Str => Data::Strings(Arc::new(vec![String::new(); len])),
            _ => Data::Bytes(Bytes::zeroed(dtype.bytes(len).expect("the size was checked; this is a bug"))),
        };
        Tensor { dtype, dims: dims.to_vec(), data }
    }
    /// A tensor of these elements. Panics when the count does not match `dims`.
    pub fn new<T: Element>(dims: &[usize], elements: &[T]) -> Tensor {
        Tensor::with_dtype(T::DTYPE, dims, elements)
    }
    /// A tensor of `dtype` whose elements are stored as `T` (bool as u8, fp8 as u8).
    pub fn with_dtype<T: Element>(dtype: DType, dims: &[usize], elements: &[T]) -> Tensor {
        assert_eq!(dims.iter().product::<usize>(), elements.len(), "elements fill the dims; this is a bug");
        let mut t = Tensor::zeros(dtype, dims);
        t.slice_mut::<T>().copy_from_slice(elements);
        t
    }
    /// A string tensor.
    pub fn strings(dims: &[usize], elements: Vec<String>) -> Tensor {
        assert_eq!(dims.iter().product::<usize>(), elements.len(), "elements fill the dims; this is a bug");
        Tensor { dtype: DType::Str, dims: dims.to_vec(), data: Data::Strings(Arc::new(elements)) }
    }
    /// A scalar.
    pub fn scalar<T: Element>(x: T) -> Tensor {
        Tensor::new(&[], &[x])
    }
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }
    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The raw bytes; empty for strings.
    pub fn bytes(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(b) => b,
            Data::Strings(_) => &[],
        }
    }
    /// The raw bytes, writable; empty for strings.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match &mut self.data {
            Data::Bytes(b) => b.bytes_mut(),
            Data::Strings(_) => &mut [],
        }
    }
    /// The elements as `T`, which must have the size of the dtype (bool reads as u8).
    pub fn slice<T: Element>(&self) -> &[T] {
        let bytes = self.bytes();
        assert_eq!(size_of::<T>(), self.dtype.size(), "{} read as {}; this is a bug", self.dtype, T::DTYPE);
        // SAFETY: the bytes start at a multiple of 64, `T` has no invalid bit pattern (Element), and the length is cut to whole elements.
        unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }
    }
    /// The elements as `T`, writable.
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        assert_eq!(size_of::<T>(), self.dtype.size(), "{} read as {}; this is a bug", self.dtype, T::DTYPE);
        let bytes = self.bytes_mut();
        // SAFETY: as in `slice`, and the borrow is unique.
        unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>()) }
    }
    /// The strings; empty for other types.
    pub fn as_strings(&self) -> &[String] {
        match &self.data {
            Data::Strings(s) => s,
            Data::Bytes(_) => &[],
        }
    }
    /// The strings, writable; empty for other types.
    pub fn strings_mut(&mut self) -> &mut [String] {
        match &mut self.data {
            Data::Strings(s) => &mut Arc::make_mut(s)[..],
            Data::Bytes(_) => &mut [],
        }
    }
    /// Every element as i64; `None` unless the type is an integer or bool of whole bytes.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        macro_rules! go {
            ($t:ty) => {
                self.slice::<$t>().iter().map(|&x| x as i64).collect()
            };
        }
        Some(match self.dtype {
            DType::I64 => go!(i64),
            DType::I32 => go!(i32),
            DType::I16 => go!(i16),
            DType::I8 => go!(i8),
            DType::U64 => go!(u64),
            DType::U32 => go!(u32),
            DType::U16 => go!(u16),
            DType::U8 | DType::Bool => go!(u8),
            _ => return None,
        })
    }
    /// Every element as f64; `None` for strings, complex and sub-byte types.
    pub fn to_f64s(&self) -> Option<Vec<f64>> {
        Some(match self.dtype {
            DType::F32 => self.slice::<f32>().iter().map(|&x| x as f64).collect(),
            DType::F64 => self.slice::<f64>().to_vec(),
            DType::F16 => self.slice::<f16>().iter().map(|x| x.to_f32() as f64).collect(),
            DType::Bf16 => self.slice::<bf16>().iter().map(|x| x.to_f32() as f64).collect(),
            DType::U64 => self.slice::<u64>().iter().map(|&x| x as f64).collect(),
            _ => self.to_i64s()?.into_iter().map(|x| x as f64).collect(),
        })
    }
}

/// A value of any ONNX type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A dense tensor.
    Tensor(Tensor),
    /// A sequence of values of one type.
    Sequence(Vec<Value>),
    /// An optional value.
    Optional(Option<Box<Value>>),
    /// A map from integers.
    IntMap(BTreeMap<i64, Value>),
    /// A map from strings.
    StrMap(BTreeMap<String, Value>),
}

impl Value {
    /// The tensor, if it is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            Value::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

impl Default for Value {
    fn default() -> Value {
        Value::Sequence(Vec::new())
    }
}

impl From<Tensor> for Value {
    fn from(t: Tensor) -> Value {
        Value::Tensor(t)
    }
}
