//! What models take and give: borrowed tensors whose shapes the compiler checks where it knows them.

use crate::instance::Input;
use crate::spec::{Port, PortDim};
use kiln_kernels::dtype::{DType, bf16, f16};
use std::ops::Deref;

/// A Rust type that elements of a port have.
///
/// # Safety
/// It has the size and alignment of the elements of [`Scalar::DTYPE`], and every value that a kernel stores is one of it.
pub unsafe trait Scalar: Copy + Send + Sync + std::fmt::Debug + 'static {
    /// The element type.
    const DTYPE: DType;
}

macro_rules! scalars {
    ($($t:ty => $d:ident),*) => {
        // SAFETY: the storage types of the kernels; bools are stored as 0 or 1.
        $(unsafe impl Scalar for $t { const DTYPE: DType = DType::$d; })*
    };
}
scalars!(f32 => F32, f64 => F64, f16 => F16, bf16 => Bf16, bool => Bool, i8 => I8, u8 => U8, i16 => I16, u16 => U16, i32 => I32,
    u32 => U32, i64 => I64, u64 => U64);

/// A tensor of rank `R` borrowed from an instance: its elements in row-major order, and its extents.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T, const R: usize> {
    data: &'a [T],
    dims: [usize; R],
}

impl<'a, T, const R: usize> View<'a, T, R> {
    /// Elements under extents whose product is their number. Panics otherwise.
    pub fn new(data: &'a [T], dims: [usize; R]) -> Self {
        assert_eq!(dims.iter().product::<usize>(), data.len(), "the extents {dims:?} do not fit {} elements", data.len());
        View { data, dims }
    }
    /// The extents.
    pub fn shape(&self) -> [usize; R] {
        self.dims
    }
    /// The elements in row-major order.
    pub fn as_slice(&self) -> &'a [T] {
        self.data
    }
    /// A copy of the elements, which frees the instance for the next run.
    pub fn to_owned(&self) -> Vec<T>
    where
        T: Clone,
    {
        self.data.to_vec()
    }
}

impl<T, const R: usize> Deref for View<'_, T, R> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        self.data
    }
}

/// An input whose extents the model leaves open: elements with extents, nested arrays, or elements alone where one extent is open.
#[derive(Clone, Copy, Debug)]
pub struct Open<'a, T, const R: usize> {
    data: &'a [T],
    dims: Option<[usize; R]>,
}

impl<'a, T, const R: usize> From<(&'a [T], [usize; R])> for Open<'a, T, R> {
    fn from((data, dims): (&'a [T], [usize; R])) -> Self {
        Open { data, dims: Some(dims) }
    }
}
impl<'a, T, const R: usize> From<(&'a Vec<T>, [usize; R])> for Open<'a, T, R> {
    fn from((data, dims): (&'a Vec<T>, [usize; R])) -> Self {
        Open { data, dims: Some(dims) }
    }
}
impl<'a, T, const R: usize> From<&'a [T]> for Open<'a, T, R> {
    fn from(data: &'a [T]) -> Self {
        Open { data, dims: None }
    }
}
impl<'a, T, const R: usize> From<&'a Vec<T>> for Open<'a, T, R> {
    fn from(data: &'a Vec<T>) -> Self {
        Open { data, dims: None }
    }
}
impl<'a, T, const R: usize> From<View<'a, T, R>> for Open<'a, T, R> {
    fn from(v: View<'a, T, R>) -> Self {
        Open { data: v.data, dims: Some(v.dims) }
    }
}
impl<'a, T, const A: usize> From<&'a [T; A]> for Open<'a, T, 1> {
    fn from(data: &'a [T; A]) -> Self {
        Open { data, dims: Some([A]) }
    }
}
impl<'a, T, const A: usize, const B: usize> From<&'a [[T; B]; A]> for Open<'a, T, 2> {
    fn from(data: &'a [[T; B]; A]) -> Self {
        Open { data: data.as_flattened(), dims: Some([A, B]) }
    }
}
impl<'a, T, const A: usize, const B: usize, const C: usize> From<&'a [[[T; C]; B]; A]> for Open<'a, T, 3> {
    fn from(data: &'a [[[T; C]; B]; A]) -> Self {
        Open { data: data.as_flattened().as_flattened(), dims: Some([A, B, C]) }
    }
}
impl<'a, T, const A: usize, const B: usize, const C: usize, const D: usize> From<&'a [[[[T; D]; C]; B]; A]> for Open<'a, T, 4> {
    fn from(data: &'a [[[[T; D]; C]; B]; A]) -> Self {
        Open { data: data.as_flattened().as_flattened().as_flattened(), dims: Some([A, B, C, D]) }
    }
}

/// An input of closed extents: `LEN` elements in all, of shape `N` (a nested array type that only names the shape).
///
/// Arrays of another size do not compile; slices are checked when the model runs.
#[derive(Clone, Copy, Debug)]
pub struct Closed<'a, T, const LEN: usize, N> {
    data: &'a [T],
    shape: std::marker::PhantomData<fn() -> N>,
}

impl<'a, T, const LEN: usize, N> Closed<'a, T, LEN, N> {
    fn of(data: &'a [T]) -> Self {
        Closed { data, shape: std::marker::PhantomData }
    }
}
impl<'a, T, const LEN: usize, N> From<&'a [T; LEN]> for Closed<'a, T, LEN, N> {
    fn from(data: &'a [T; LEN]) -> Self {
        Closed::of(data)
    }
}
impl<'a, T, const LEN: usize, N> From<&'a [T]> for Closed<'a, T, LEN, N> {
    fn from(data: &'a [T]) -> Self {
        Closed::of(data)
    }
}
impl<'a, T, const LEN: usize, N> From<&'a Vec<T>> for Closed<'a, T, LEN, N> {
    fn from(data: &'a Vec<T>) -> Self {
        Closed::of(data)
    }
}
impl<'a, T, const LEN: usize, N, const R: usize> From<View<'a, T, R>> for Closed<'a, T, LEN, N> {
    fn from(v: View<'a, T, R>) -> Self {
        Closed::of(v.data)
    }
}
impl<'a, T, const LEN: usize, const A: usize, const B: usize> From<&'a [[T; B]; A]> for Closed<'a, T, LEN, [[T; B]; A]> {
    fn from(data: &'a [[T; B]; A]) -> Self {
        Closed::of(data.as_flattened())
    }
}
impl<'a, T, const LEN: usize, const A: usize, const B: usize, const C: usize> From<&'a [[[T; C]; B]; A]>
    for Closed<'a, T, LEN, [[[T; C]; B]; A]>
{
    fn from(data: &'a [[[T; C]; B]; A]) -> Self {
        Closed::of(data.as_flattened().as_flattened())
    }
}
impl<'a, T, const LEN: usize, const A: usize, const B: usize, const C: usize, const D: usize> From<&'a [[[[T; D]; C]; B]; A]>
    for Closed<'a, T, LEN, [[[[T; D]; C]; B]; A]>
{
    fn from(data: &'a [[[[T; D]; C]; B]; A]) -> Self {
        Closed::of(data.as_flattened().as_flattened().as_flattened())
    }
}

/// An input as the instance takes it; `dims` is working memory for the extents.
pub trait AsInput {
    /// The elements and extents, for that port.
    ///
    /// # Errors
    /// A number of elements that does not fit the port.
    fn as_input<'d>(&'d self, port: &Port, dims: &'d mut [usize]) -> crate::Result<Input<'d>>;
}

fn misfit(port: &Port, message: String) -> crate::Error {
    crate::Error::Shape { port: port.name.into(), message }
}

impl<T: Scalar, const LEN: usize, N> AsInput for Closed<'_, T, LEN, N> {
    fn as_input<'d>(&'d self, port: &Port, dims: &'d mut [usize]) -> crate::Result<Input<'d>> {
        if self.data.len() != LEN {
            return Err(misfit(port, format!("found {} elements, expected {LEN}", self.data.len())));
        }
        for (d, p) in dims.iter_mut().zip(port.dims) {
            *d = if let PortDim::Closed(n) = p { *n } else { 0 };
        }
        Ok(Input::Tensor { data: self.data.as_ptr().cast(), dtype: T::DTYPE, dims: &dims[..port.dims.len()] })
    }
}

impl<T: Scalar, const R: usize> AsInput for Open<'_, T, R> {
    fn as_input<'d>(&'d self, port: &Port, dims: &'d mut [usize]) -> crate::Result<Input<'d>> {
        let dims = &mut dims[..R];
        match self.dims {
            Some(d) => {
                dims.copy_from_slice(&d);
                if d.iter().product::<usize>() != self.data.len() {
                    return Err(misfit(port, format!("found {} elements, the extents {d:?} ask for others", self.data.len())));
                }
            }
            None => {
                // One open extent follows from the number of elements.
                let mut open = None;
                let mut rest = 1;
                for (i, p) in port.dims.iter().enumerate() {
                    match p {
                        PortDim::Closed(n) => {
                            dims[i] = *n;
                            rest *= n;
                        }
                        _ if open.is_some() => {
                            return Err(misfit(port, "more than one extent is open: pass (elements, [extents])".into()));
                        }
                        _ => open = Some(i),
                    }
                }
                if let Some(i) = open {
                    if rest == 0 || !self.data.len().is_multiple_of(rest) {
                        return Err(misfit(port, format!("found {} elements, expected a multiple of {rest}", self.data.len())));
                    }
                    dims[i] = self.data.len() / rest;
                }
            }
        }
        Ok(Input::Tensor { data: self.data.as_ptr().cast(), dtype: T::DTYPE, dims })
    }
}

impl AsInput for &crate::Value {
    fn as_input<'d>(&'d self, _: &Port, _: &'d mut [usize]) -> crate::Result<Input<'d>> {
        Ok(Input::Value(self))
    }
}

impl<X: AsInput> AsInput for Option<X> {
    fn as_input<'d>(&'d self, port: &Port, dims: &'d mut [usize]) -> crate::Result<Input<'d>> {
        self.as_ref().map_or(Ok(Input::Absent), |x| x.as_input(port, dims))
    }
}

impl crate::Instance {
    /// A dense output of the last run.
    ///
    /// # Errors
    /// The output has another type or rank.
    #[doc(hidden)]
    pub fn view<T: Scalar, const R: usize>(&self, i: usize) -> crate::Result<View<'_, T, R>> {
        let port = &self.spec().outputs[i];
        let mut dims = [0; R];
        if port.dtype != T::DTYPE || !self.output_extents(i, &mut dims) {
            return Err(misfit(port, format!("the output is no {}[{R} extents]", T::DTYPE)));
        }
        let len = dims.iter().product();
        let at = self.output_ptr(i).cast::<T>();
        // SAFETY: the plan keeps that many elements of the port's type there until the next run, which needs the instance uniquely.
        let data = if len == 0 { &[][..] } else { unsafe { std::slice::from_raw_parts(at, len) } };
        Ok(View { data, dims })
    }
}

/// The conversions into the inputs of a model with one input.
#[macro_export]
#[doc(hidden)]
macro_rules! __single_input {
    ($inputs:ident, $field:ident, $ty:ty, $($from:ty $(where $($extent:ident)*)?),*) => {$(
        impl<'a $($(, const $extent: usize)*)?> From<$from> for $inputs<'a> {
            fn from(x: $from) -> Self { $inputs { $field: x.into() } }
        }
    )*};
}
