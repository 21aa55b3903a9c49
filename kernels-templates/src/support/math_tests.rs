//! Error bounds of the functions of `math`, against f64 on every instruction set of the machine.

use crate::isa::Isa;

/// A function name, the function over arrays, and its truth in f64.
type Case = (&'static str, unsafe fn(Isa, *const f32, *mut f32, usize), fn(f64) -> f64);

macro_rules! mapped {
    ($($name:ident),*) => {$(
        mod $name {
            crate::kernel_fn! {
                pub(super) fn map<A>(x: *const f32, y: *mut f32, n: usize) {
                    for i in 0..n {
                        *y.add(i) = crate::support::math::$name::<A>(*x.add(i));
                    }
                }
            }
        }
    )*};
}
mapped!(exp, exp_down, exp_m1, ln, ln_1p, tanh, sigmoid, erf, gelu, gelu_tanh, silu, softplus);

/// erf in f64 by its series and its continued fraction.
fn erf64(x: f64) -> f64 {
    let a = x.abs();
    let y = if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        for n in 1..80 {
            term *= -a * a / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        sum * 2.0 / core::f64::consts::PI.sqrt()
    } else {
        let mut f = 0.0;
        for n in (1..200).rev() {
            f = n as f64 / 2.0 / (a + f);
        }
        1.0 - (-a * a).exp() / (a + f) / core::f64::consts::PI.sqrt()
    };
    y.copysign(x)
}

fn gelu_tanh64(x: f64) -> f64 {
    0.5 * x * (1.0 + (core::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

/// The error in units in the last place of `want` as f32 (of the smallest normal where it is subnormal).
fn ulps(got: f32, want: f64) -> f64 {
    let w = want as f32;
    if got == w || (got.is_nan() && w.is_nan()) {
        return 0.0;
    }
    if w.is_infinite() || got.is_infinite() || got.is_nan() {
        // One step from infinity is one ulp.
        return if got.abs() == f32::INFINITY && want.abs() > 3.4028234e38 { 1.0 } else { f64::INFINITY };
    }
    let e = (w.abs().max(f32::MIN_POSITIVE).to_bits() >> 23) as i32 - 127;
    (got as f64 - want).abs() / 2f64.powi(e - 23)
}

/// The largest of `error` over a dense sample of the floats of [lo, hi], for each instruction set.
fn worst(case: Case, lo: f32, hi: f32, error: impl Fn(f32, f64) -> f64) -> f64 {
    let (name, map, truth) = case;
    let mut xs = vec![lo, hi];
    let (mut positive, mut negative) = (0u32, 0u32);
    while positive <= 0x7f80_0000 {
        for x in [f32::from_bits(positive), f32::from_bits(negative | 0x8000_0000)] {
            if x >= lo && x <= hi {
                xs.push(x);
            }
        }
        positive += 30011;
        negative += 30011;
    }
    for i in 0..20000 {
        xs.push(lo.max(-200.0) + (hi.min(200.0) - lo.max(-200.0)) * (i as f32 / 20000.0));
    }
    let mut max = 0.0f64;
    for isa in Isa::available() {
        let mut ys = vec![0.0; xs.len()];
        // SAFETY: both arrays have that length.
        unsafe { map(isa, xs.as_ptr(), ys.as_mut_ptr(), xs.len()) };
        let mut worst = (0.0, 0.0);
        for (&x, &y) in xs.iter().zip(&ys) {
            let e = error(y, truth(x as f64));
            if e > worst.0 || e.is_nan() {
                worst = (e, x);
            }
        }
        println!("{name} {}: {:.3} at {:e}", isa.name(), worst.0, worst.1);
        max = max.max(worst.0);
    }
    max
}

#[test]
fn errors_are_within_their_bounds() {
    let all = (f32::NEG_INFINITY, f32::INFINITY);
    assert!(worst(("exp", exp::map, f64::exp), all.0, all.1, ulps) <= 1.5);
    assert!(worst(("exp_down", exp_down::map, f64::exp), -87.0, 0.0, ulps) <= 1.5);
    let none = |y: f32, _: f64| if y.to_bits() == 0 { 0.0 } else { 1.0 };
    assert!(worst(("exp_down", exp_down::map, f64::exp), all.0, -87.1, none) == 0.0);
    assert!(worst(("exp_m1", exp_m1::map, f64::exp_m1), all.0, all.1, ulps) <= 2.5);
    assert!(worst(("ln", ln::map, f64::ln), 0.0, all.1, ulps) <= 1.5);
    assert!(worst(("ln_1p", ln_1p::map, f64::ln_1p), -1.0, all.1, ulps) <= 3.0);
    assert!(worst(("tanh", tanh::map, f64::tanh), all.0, all.1, ulps) <= 2.5);
    let tiny =
        |bound: f64| move |y: f32, want: f64| if want.abs() < bound && (y as f64 - want).abs() <= bound { 0.0 } else { ulps(y, want) };
    assert!(worst(("sigmoid", sigmoid::map, |x| 1.0 / (1.0 + (-x).exp())), all.0, all.1, tiny(1e-37)) <= 3.0);
    assert!(worst(("erf", erf::map, erf64), -1e6, 1e6, ulps) <= 2.5);
    let silu64 = |x: f64| if x == f64::NEG_INFINITY { 0.0 } else { x / (1.0 + (-x).exp()) };
    assert!(worst(("silu", silu::map, silu64), all.0, all.1, tiny(1e-35)) <= 4.0);
    assert!(worst(("softplus", softplus::map, |x| x.max(0.0) + (-x.abs()).exp().ln_1p()), all.0, all.1, ulps) <= 4.0);
    let relative = |y: f32, want: f64| (y as f64 - want).abs() / want.abs().max(1.0);
    assert!(worst(("gelu", gelu::map, |x| 0.5 * x * (1.0 + erf64(x / 2f64.sqrt()))), -1e5, 1e5, relative) <= 2.5e-7);
    assert!(worst(("gelu_tanh", gelu_tanh::map, gelu_tanh64), -1e5, 1e5, relative) <= 3e-7);
}

#[test]
fn special_values() {
    let xs = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-40, -1e-40];
    let nan = f32::NAN;
    let inf = f32::INFINITY;
    let rows: [(Case, [f32; 7]); 10] = [
        (("exp", exp::map, f64::exp), [nan, inf, 0.0, 1.0, 1.0, 1.0, 1.0]),
        (("exp_down", exp_down::map, f64::exp), [nan, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]),
        (("exp_m1", exp_m1::map, f64::exp_m1), [nan, inf, -1.0, 0.0, -0.0, 1e-40, -1e-40]),
        (("ln", ln::map, f64::ln), [nan, inf, nan, -inf, -inf, -92.1034, nan]),
        (("tanh", tanh::map, f64::tanh), [nan, 1.0, -1.0, 0.0, -0.0, 1e-40, -1e-40]),
        (("sigmoid", sigmoid::map, f64::exp), [nan, 1.0, 0.0, 0.5, 0.5, 0.5, 0.5]),
        (("erf", erf::map, erf64), [nan, 1.0, -1.0, 0.0, -0.0, 1.12838e-40, -1.12838e-40]),
        (("gelu", gelu::map, erf64), [nan, inf, 0.0, 0.0, 0.0, 5e-41, -5e-41]),
        (("silu", silu::map, erf64), [nan, inf, 0.0, 0.0, -0.0, 5e-41, -5e-41]),
        (
            ("softplus", softplus::map, erf64),
            [nan, inf, 0.0, core::f32::consts::LN_2, core::f32::consts::LN_2, core::f32::consts::LN_2, core::f32::consts::LN_2],
        ),
    ];
    for ((name, map, _), want) in rows {
        for isa in Isa::available() {
            let mut ys = [0.0f32; 7];
            // SAFETY: both arrays have seven elements.
            unsafe { map(isa, xs.as_ptr(), ys.as_mut_ptr(), 7) };
            for i in 0..7 {
                let (y, w) = (ys[i], want[i]);
                let close = (y.is_nan() && w.is_nan()) || y == w || (y - w).abs() <= 1e-6 * w.abs() || (y - w).abs() < 1e-44;
                assert!(close && (w != 0.0 || y.to_bits() == w.to_bits()), "{name} of {} on {}: {y:e}, not {w:e}", xs[i], isa.name());
            }
        }
    }
}

#[test]
#[ignore = "prints speeds; run it in release"]
fn speed() {
    let xs: Vec<f32> = (0..4096).map(|i| i as f32 / 400.0 - 5.0).collect();
    let mut ys = vec![0.0; 4096];
    let cases: [Case; 11] = [
        ("exp", exp::map, f64::exp),
        ("exp_m1", exp_m1::map, f64::exp),
        ("ln", ln::map, f64::exp),
        ("ln_1p", ln_1p::map, f64::exp),
        ("tanh", tanh::map, f64::exp),
        ("sigmoid", sigmoid::map, f64::exp),
        ("erf", erf::map, f64::exp),
        ("gelu", gelu::map, f64::exp),
        ("gelu_tanh", gelu_tanh::map, f64::exp),
        ("silu", silu::map, f64::exp),
        ("softplus", softplus::map, f64::exp),
    ];
    for (name, map, _) in cases {
        for isa in Isa::available() {
            let start = std::time::Instant::now();
            for _ in 0..1000 {
                // SAFETY: both arrays have 4096 elements.
                unsafe { map(isa, xs.as_ptr(), ys.as_mut_ptr(), 4096) };
            }
            println!("{name:10} {:9} {:.2} G/s", isa.name(), 4.096e-3 / start.elapsed().as_secs_f64());
        }
    }
}
