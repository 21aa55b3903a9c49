//! The speed of the kernels on shapes of real networks, one thread, beside what this machine can do at the most: GFLOP/s or GB/s, and percents.
//!
//! Names begin with the instruction set, so `cargo bench -p kiln-kernels -- 'avx512/gemm'` measures some of them; `--quick` is enough for a look.

mod families;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Bencher, Criterion, Throughput};
use kiln_kernels::isa::Isa;
use kiln_kernels::peak::{self, DIGIT_PAIRS};
use std::time::Duration;

/// Bytes that are read to measure memory.
const FAR: usize = 256 << 20;
/// Bytes that fit the second-level cache.
const NEAR: usize = 512 << 10;

/// Time as it is, with rates beside the most that there can be.
struct Beside {
    wall: WallTime,
    most: Most,
}

/// What a rate is held against, for a nanosecond.
#[derive(Clone, Copy)]
struct Most {
    rate: f64,
    unit: &'static str,
}

fn amount(throughput: &Throughput) -> f64 {
    match throughput {
        Throughput::Elements(n) | Throughput::Bytes(n) | Throughput::BytesDecimal(n) => *n as f64,
        _ => 0.0,
    }
}

impl ValueFormatter for Most {
    fn format_value(&self, nanoseconds: f64) -> String {
        format!("{:.2} µs", nanoseconds / 1e3)
    }
    fn format_throughput(&self, throughput: &Throughput, nanoseconds: f64) -> String {
        let rate = amount(throughput) / nanoseconds;
        format!("{rate:.1} {} = {:.0}%", self.unit, rate / self.rate * 100.0)
    }
    fn scale_values(&self, _: f64, values: &mut [f64]) -> &'static str {
        values.iter_mut().for_each(|v| *v /= 1e3);
        "µs"
    }
    fn scale_throughputs(&self, _: f64, throughput: &Throughput, values: &mut [f64]) -> &'static str {
        values.iter_mut().for_each(|v| *v = amount(throughput) / *v);
        self.unit
    }
    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        "ns"
    }
}

impl Measurement for Beside {
    type Intermediate = <WallTime as Measurement>::Intermediate;
    type Value = Duration;
    fn start(&self) -> Self::Intermediate {
        self.wall.start()
    }
    fn end(&self, start: Self::Intermediate) -> Duration {
        self.wall.end(start)
    }
    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }
    fn zero(&self) -> Duration {
        Duration::ZERO
    }
    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        &self.most
    }
}

/// Measures kernels under one instruction set.
pub(crate) struct Bench {
    /// The instruction set.
    pub(crate) isa: Isa,
    floats: Criterion<Beside>,
    digits: Criterion<Beside>,
    bytes: Criterion<Beside>,
    near: Criterion<Beside>,
    far: Criterion<Beside>,
}

/// What bounds a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// Multiply-adds of f32.
    Floats,
    /// Products of f32 by the digits of their operands.
    Digits,
    /// Products of bytes.
    Bytes,
    /// Reading from the second-level cache.
    Near,
    /// Reading from memory.
    Far,
}

impl Bench {
    fn new(isa: Isa, near: f64, far: f64) -> Bench {
        let criterion = |rate: f64, unit| {
            let most = Most { rate: rate / 1e9, unit };
            Criterion::default()
                .with_measurement(Beside { wall: WallTime, most })
                .warm_up_time(Duration::from_millis(100))
                .measurement_time(Duration::from_millis(400))
                .sample_size(20)
                .without_plots()
                .configure_from_args()
        };
        let (floats, bytes) = (peak::multiply_adds(isa), peak::bytes(isa, isa.has_tiles()));
        println!(
            "{}: {:.1} GFLOP/s of multiply-adds, {:.1} GOP/s of products of bytes, {:.1} GB/s from the cache, {:.1} GB/s from memory",
            isa.name(),
            floats / 1e9,
            bytes / 1e9,
            near / 1e9,
            far / 1e9
        );
        Bench {
            isa,
            floats: criterion(floats, "GFLOP/s"),
            digits: criterion(bytes / DIGIT_PAIRS, "GFLOP/s"),
            bytes: criterion(bytes, "GOP/s"),
            near: criterion(near, "GB/s"),
            far: criterion(far, "GB/s"),
        }
    }
    /// Measures a kernel: `work` is operations, or bytes where those bound it. What `f` makes before it calls `iter` is made only where the
    /// name is asked for.
    pub(crate) fn measure(&mut self, bound: Bound, family: &str, shape: &str, work: usize, f: impl FnMut(&mut Bencher<'_, Beside>)) {
        let (criterion, throughput) = match bound {
            Bound::Floats => (&mut self.floats, Throughput::Elements(work as u64)),
            Bound::Digits => (&mut self.digits, Throughput::Elements(work as u64)),
            Bound::Bytes => (&mut self.bytes, Throughput::Elements(work as u64)),
            Bound::Near => (&mut self.near, Throughput::Bytes(work as u64)),
            Bound::Far => (&mut self.far, Throughput::Bytes(work as u64)),
        };
        let mut group = criterion.benchmark_group(format!("{}/{family}", self.isa.name()));
        group.throughput(throughput).bench_function(shape, f);
        group.finish();
    }
}

fn main() {
    let (near, far) = (peak::reading(NEAR), peak::reading(FAR));
    for isa in Isa::available() {
        let mut bench = Bench::new(isa, near, far);
        families::products(&mut bench);
        families::narrow(&mut bench);
        families::convolutions(&mut bench);
        families::bytes(&mut bench);
        families::rows(&mut bench);
    }
}
