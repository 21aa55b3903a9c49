//! How far results are from those expected.

use crate::data::ulps;
use crate::suite::floats;
use kiln_kernels::value::{Tensor, Value};

/// What is close enough.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct Tolerance {
    /// Absolute tolerance; by default 1e-3 of the standard deviation of the expected output.
    #[arg(long)]
    atol: Option<f64>,
    /// Relative tolerance.
    #[arg(long, default_value_t = 1e-3)]
    rtol: f64,
    /// Allow this many units in the last place instead.
    #[arg(long)]
    ulp: Option<u64>,
}

/// How far an output is from the one expected.
#[derive(Debug)]
pub(crate) struct Difference {
    /// The largest absolute difference.
    pub(crate) worst: f64,
    /// The standard deviation of what was expected.
    pub(crate) sd: f64,
    /// The largest difference in units in the last place.
    pub(crate) ulps: u64,
    /// Elements outside of the tolerance.
    pub(crate) wrong: usize,
    /// Elements.
    pub(crate) count: usize,
}

impl Difference {
    /// Between values of which nothing but equality is known.
    pub(crate) fn whole(equal: bool, count: usize) -> Difference {
        Difference { worst: f64::from(u8::from(!equal)), sd: 1.0, ulps: 0, wrong: usize::from(!equal), count }
    }
    /// The largest difference over the standard deviation.
    pub(crate) fn relative(&self) -> f64 {
        self.worst / if self.sd > 0.0 { self.sd } else { 1.0 }
    }
}

impl Tolerance {
    /// How far a value is from the one expected.
    ///
    /// # Errors
    /// Another type or shape, or another value where there is no distance.
    pub(crate) fn between(&self, found: &Value, expected: &Value) -> Result<Difference, String> {
        match (found, expected) {
            (Value::Tensor(f), Value::Tensor(e)) => self.difference(f, e),
            _ if found == expected => Ok(Difference::whole(true, 1)),
            _ => Err("another value than expected".into()),
        }
    }
    /// How far a tensor is from the one expected.
    ///
    /// # Errors
    /// Another type or shape.
    pub(crate) fn difference(&self, found: &Tensor, expected: &Tensor) -> Result<Difference, String> {
        if (found.dtype, &found.dims) != (expected.dtype, &expected.dims) {
            return Err(format!("{}{:?}, expected {}{:?}", found.dtype, found.dims, expected.dtype, expected.dims));
        }
        let (Some(f), Some(e)) = (floats(found), floats(expected)) else {
            return Ok(Difference::whole(found == expected, found.len()));
        };
        let finite: Vec<f64> = e.iter().copied().filter(|x| x.is_finite()).collect();
        let n = finite.len().max(1) as f64;
        let mean = finite.iter().sum::<f64>() / n;
        let sd = (finite.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
        let exact = !found.dtype.is_float() && !found.dtype.is_complex();
        let atol = self.atol.unwrap_or(if exact { 0.0 } else { 1e-3 * sd });
        let rtol = if exact && self.atol.is_none() { 0.0 } else { self.rtol };
        let mut out = Difference { worst: 0.0, sd, ulps: 0, wrong: 0, count: f.len() };
        for (&f, &e) in f.iter().zip(&e) {
            if f == e || (f.is_nan() && e.is_nan()) {
                continue;
            }
            let d = (f - e).abs();
            let steps = ulps(found.dtype, f, e);
            out.worst = if d > out.worst || d.is_nan() { d } else { out.worst };
            out.ulps = out.ulps.max(steps);
            let close = self.ulp.map_or(d <= atol + rtol * e.abs(), |n| steps <= n);
            out.wrong += usize::from(!close);
        }
        Ok(out)
    }
}
