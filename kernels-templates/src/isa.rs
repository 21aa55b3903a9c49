//! Instruction sets: which one the machine has, and one kernel body compiled for each of them.

/// An instruction set that kernel bodies are compiled for. Later ones include earlier ones.
#[derive(Copy, Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Isa {
    /// What every machine of the architecture has.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// x86-64 with AVX-512 and matrix registers of bytes (AMX), where sums of f32 products are those of their digits' products: not the
    /// same bits as others, and an error by the largest elements of a row.
    Amx,
}

impl Isa {
    /// Every instruction set, the least capable first.
    pub const ALL: [Isa; 4] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx];

    /// The best instruction set of this machine.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                    return if crate::tiles::available() { Isa::Amx } else { Isa::Avx512 };
                }
                return Isa::Avx2;
            }
        }
        Isa::Portable
    }
    /// This instruction set, or `max` where that is less.
    pub fn capped(self, max: Isa) -> Isa {
        self.min(max)
    }
    /// Whether this machine, under this instruction set, adds products of bytes by fours in one instruction (AVX512-VNNI). It is a
    /// property of machines, not an instruction set to choose: integer sums are the same with and without.
    pub fn adds_fours(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self >= Isa::Avx512 && std::arch::is_x86_feature_detected!("avx512vnni")
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }
    /// Whether this machine, under this instruction set, has matrix registers of bytes (AMX) that the system lets the process use;
    /// the first call asks for that. A property of machines as [`Self::adds_fours`] is.
    pub fn has_tiles(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self >= Isa::Avx512 && crate::tiles::available()
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }
    /// The instruction sets this machine can run, the least capable first.
    pub fn available() -> impl Iterator<Item = Isa> {
        let best = Isa::detect();
        Isa::ALL.into_iter().filter(move |&isa| isa <= best)
    }
    /// The name that options and reports use, such as `avx2`.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
        }
    }
    /// The instruction set of that name.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }
}

/// The scalar operations whose best form depends on the instruction set. Loops over them vectorize inside [`kernel_fn!`](crate::kernel_fn).
pub trait Arith: Copy {
    /// `a * b + c`, rounded once where the machine has such an instruction.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
    /// The largest integer that is not above `x`; keeps the sign of zero.
    fn floor(x: f32) -> f32;
    /// The smallest integer that is not below `x`; keeps the sign of zero.
    fn ceil(x: f32) -> f32;
    /// `x` without its fraction.
    fn trunc(x: f32) -> f32;
    /// The nearest integer, ties to even.
    fn round_even(x: f32) -> f32;
}

/// [`Arith`] for the baseline of the architecture.
#[derive(Copy, Clone, Debug)]
pub struct Portable;

/// [`Arith`] where fused multiply-add and rounding are single instructions.
#[derive(Copy, Clone, Debug)]
pub struct Fma;

/// Whether the baseline this crate is compiled for has the instructions of [`Fma`].
const BASELINE_FMA: bool = cfg!(any(target_arch = "aarch64", target_feature = "fma"));

/// The nearest integer by the carry of an addition: exact below 2^23, above which every float is an integer.
#[inline(always)]
fn nearest(x: f32) -> f32 {
    const BIG: f32 = 8388608.0;
    let a = x.abs();
    let r = (a + BIG) - BIG;
    if a < BIG { r.copysign(x) } else { x }
}

impl Arith for Portable {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        if BASELINE_FMA { a.mul_add(b, c) } else { a * b + c }
    }
    #[inline(always)]
    fn floor(x: f32) -> f32 {
        if BASELINE_FMA {
            return x.floor();
        }
        let r = nearest(x);
        if r > x { r - 1.0 } else { r }
    }
    #[inline(always)]
    fn ceil(x: f32) -> f32 {
        if BASELINE_FMA {
            return x.ceil();
        }
        let r = nearest(x);
        (if r < x { r + 1.0 } else { r }).copysign(x)
    }
    #[inline(always)]
    fn trunc(x: f32) -> f32 {
        if BASELINE_FMA {
            return x.trunc();
        }
        let a = x.abs();
        let r = nearest(a);
        (if r > a { r - 1.0 } else { r }).copysign(x)
    }
    #[inline(always)]
    fn round_even(x: f32) -> f32 {
        if BASELINE_FMA { x.round_ties_even() } else { nearest(x) }
    }
}

impl Arith for Fma {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn floor(x: f32) -> f32 {
        x.floor()
    }
    #[inline(always)]
    fn ceil(x: f32) -> f32 {
        x.ceil()
    }
    #[inline(always)]
    fn trunc(x: f32) -> f32 {
        x.trunc()
    }
    #[inline(always)]
    fn round_even(x: f32) -> f32 {
        x.round_ties_even()
    }
}

/// Compiles one body for every instruction set and makes a dispatcher of it.
///
/// `kernel_fn! { pub fn name<A>(args..) { body } }` becomes `pub unsafe fn name(isa: Isa, args..)`. The body is generic over
/// `A: Arith`, may return a value, and is in an unsafe context already; functions that it calls must be `#[inline(always)]`
/// to be compiled for the instruction set too. The caller vouches for what the body does with its pointers, and that the
/// machine has `isa`.
#[macro_export]
macro_rules! kernel_fn {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident<$A:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$meta])*
        #[inline]
        $vis unsafe fn $name(isa: $crate::isa::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(unsafe_op_in_unsafe_fn, clippy::missing_safety_doc, clippy::extra_unused_type_parameters)]
            unsafe fn body<$A: $crate::isa::Arith>($($arg: $ty),*) $(-> $ret)? {
                $body
            }
            #[inline(never)]
            unsafe fn portable($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: passed on from the caller.
                unsafe { body::<$crate::isa::Portable>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
            #[inline(never)]
            unsafe fn avx2($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: passed on from the caller.
                unsafe { body::<$crate::isa::Fma>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
            #[inline(never)]
            unsafe fn avx512($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: passed on from the caller.
                unsafe { body::<$crate::isa::Fma>($($arg),*) }
            }
            // SAFETY: the caller vouches for the pointers and for the machine having `isa`.
            unsafe {
                match isa {
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Isa::Avx512 | $crate::isa::Isa::Amx => avx512($($arg),*),
                    #[cfg(target_arch = "x86_64")]
                    $crate::isa::Isa::Avx2 => avx2($($arg),*),
                    _ => portable($($arg),*),
                }
            }
        }
    )*};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portable_rounding_is_the_machines() {
        let mut xs =
            vec![0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 8388607.5, -8388607.5, 8388608.0, 1e30, f32::INFINITY, f32::NEG_INFINITY, 1e-40];
        for i in 0..4_000_000u32 {
            xs.push(f32::from_bits(i.wrapping_mul(1073)));
        }
        for x in xs.into_iter().filter(|x| !x.is_nan()) {
            assert_eq!(Portable::floor(x).to_bits(), floor_of(x).to_bits(), "floor {x:e}");
            assert_eq!(Portable::ceil(x).to_bits(), x.ceil().to_bits(), "ceil {x:e}");
            assert_eq!(Portable::trunc(x).to_bits(), x.trunc().to_bits(), "trunc {x:e}");
            assert_eq!(Portable::round_even(x).to_bits(), x.round_ties_even().to_bits(), "round {x:e}");
        }
        assert!(Portable::floor(f32::NAN).is_nan() && Portable::trunc(f32::NAN).is_nan());
    }

    fn floor_of(x: f32) -> f32 {
        x.floor()
    }

    #[test]
    fn names_round_trip() {
        for isa in Isa::ALL {
            assert_eq!(Isa::from_name(isa.name()), Some(isa));
        }
        assert_eq!(Isa::Avx512.capped(Isa::Avx2), Isa::Avx2);
        assert_eq!(Isa::available().next(), Some(Isa::Portable));
    }
}
