//! What the steps of a model achieve beside what the machine allows: peaks measured here, steps from a profile of the program.

use kiln_kernels::isa::Isa;
use kiln_kernels::peak::{self, DIGIT_PAIRS};
use serde_json::{Value as Json, json};
use std::fs;

/// Bytes that are read to measure memory, by all threads together: more than the caches near them hold.
const FAR: usize = 256 << 20;

/// The most that a machine does with some instructions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Roof {
    /// What is bounded.
    pub(crate) name: &'static str,
    /// Operations a second.
    pub(crate) rate: f64,
}

/// What bounds steps on this machine, with so many threads under an instruction set.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Threads.
    pub(crate) threads: usize,
    /// The instruction set.
    pub(crate) isa: Isa,
    /// By algorithm, as profiles name it.
    pub(crate) roofs: Vec<(&'static str, Roof)>,
    /// Bytes a second from memory.
    pub(crate) memory: f64,
    /// Bytes a second from the second-level caches.
    pub(crate) cache: f64,
    /// Bytes of the second-level caches of the threads.
    pub(crate) cache_bytes: f64,
}

/// Bytes of a core's second-level cache, 1 MiB where the system does not tell.
fn second_level() -> usize {
    let text = fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").unwrap_or_default();
    let digits = text.trim().trim_end_matches('K');
    digits.parse::<usize>().map_or(1 << 20, |k| k << 10)
}

impl Machine {
    /// Measures this one, for some hundred milliseconds.
    pub(crate) fn measure(isa: Isa, threads: usize) -> Machine {
        let rate = |f: &(dyn Fn() -> f64 + Sync)| peak::together(threads, f);
        let floats = rate(&|| peak::multiply_adds(isa));
        let bytes = rate(&|| peak::bytes(isa, false));
        let tiles = if isa.has_tiles() { rate(&|| peak::bytes(isa, true)) } else { bytes };
        let near = second_level();
        let roof = |algorithm, name, rate| (algorithm, Roof { name, rate });
        let roofs = vec![
            roof("multiply-adds", "multiply-adds of f32", floats),
            roof("vectors", "multiply-adds of f32", floats),
            roof("F(2, 3)", "F(2, 3): 2.25 × multiply-adds", floats * 2.25),
            roof("F(4, 3)", "F(4, 3): 4 × multiply-adds", floats * 4.0),
            roof("digits", "f32 by digits", tiles / DIGIT_PAIRS),
            roof("bytes", "products of bytes", bytes),
            roof("bytes by fours", "products of bytes by fours", bytes),
            roof("bytes by tiles", "products of bytes by tiles", tiles),
        ];
        let memory = rate(&|| peak::reading(FAR / threads.max(1)));
        let cache = rate(&|| peak::reading(near / 2)).max(memory);
        Machine { threads, isa, roofs, memory, cache, cache_bytes: (near * threads) as f64 }
    }
    /// How many threads there are, in words.
    pub(crate) fn said(&self) -> String {
        if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) }
    }
    /// The roof of an algorithm.
    pub(crate) fn roof(&self, algorithm: &str) -> Option<&Roof> {
        self.roofs.iter().find(|(a, _)| *a == algorithm).map(|(_, r)| r)
    }
}

/// A step with what it achieves.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// The names of its ONNX nodes.
    pub(crate) name: String,
    /// The kind of kernel.
    pub(crate) kernel: String,
    /// How it computes.
    pub(crate) algorithm: String,
    /// Operations of one execution.
    pub(crate) flops: f64,
    /// Bytes that it reads and writes.
    pub(crate) bytes: f64,
    /// Seconds of one execution, the least.
    pub(crate) seconds: f64,
    /// Of all steps' time, with how often each runs.
    pub(crate) share: f64,
    /// The least seconds that the machine allows.
    pub(crate) allowed: f64,
    /// Whether that is the time of the operations, rather than of the bytes.
    pub(crate) computes: bool,
    /// Whether its bytes fit the second-level caches.
    pub(crate) near: bool,
}

impl Layer {
    /// Operations a byte.
    pub(crate) fn intensity(&self) -> f64 {
        self.flops / self.bytes.max(1.0)
    }
    /// Of what the machine allows.
    pub(crate) fn achieved(&self) -> f64 {
        self.allowed / self.seconds.max(1e-12)
    }
}

/// The steps of a profile, as `profile` of the program around a model prints it.
pub(crate) fn layers(profile: &Json, machine: &Machine) -> Vec<Layer> {
    let steps = profile["layers"].as_array().map_or(&[][..], Vec::as_slice);
    let number = |s: &Json, key: &str| s[key].as_f64().unwrap_or(0.0);
    let total: f64 = steps.iter().map(|s| number(s, "min_us") * number(s, "calls")).sum();
    let layer = |s: &Json| {
        let text = |key: &str| s[key].as_str().unwrap_or_default().to_string();
        let (flops, bytes) = (number(s, "flops"), number(s, "bytes_read") + number(s, "bytes_written"));
        let algorithm = text("algorithm");
        let rate = machine.roof(&algorithm).map_or(0.0, |r| r.rate);
        let near = bytes <= machine.cache_bytes;
        let computing = if rate > 0.0 { flops / rate } else { 0.0 };
        let moving = bytes / if near { machine.cache } else { machine.memory };
        Layer {
            name: text("name"),
            kernel: text("kernel"),
            algorithm,
            flops,
            bytes,
            seconds: number(s, "min_us") / 1e6,
            share: number(s, "min_us") * number(s, "calls") / total.max(1e-12),
            allowed: computing.max(moving),
            computes: computing >= moving,
            near,
        }
    };
    steps.iter().map(layer).collect()
}

/// The machine and the layers as JSON.
pub(crate) fn as_json(machine: &Machine, layers: &[Layer]) -> Json {
    let roofs: serde_json::Map<String, Json> = machine.roofs.iter().map(|(a, r)| (a.to_string(), json!(r.rate))).collect();
    json!({
        "flops_per_second": roofs,
        "memory_bytes_per_second": machine.memory,
        "cache_bytes_per_second": machine.cache,
        "layers": layers.iter().map(|l| json!({
            "name": l.name,
            "intensity": l.intensity(),
            "flops_per_second": l.flops / l.seconds.max(1e-12),
            "share": l.share,
            "of_attainable": l.achieved(),
            "bound": bound(l),
        })).collect::<Vec<_>>(),
    })
}

/// A name short enough for a line.
fn cut(name: &str) -> String {
    const WIDTH: usize = 72;
    if name.chars().count() <= WIDTH { name.to_string() } else { name.chars().take(WIDTH).chain(['…']).collect() }
}

/// What keeps a layer from being faster.
pub(crate) fn bound(l: &Layer) -> &'static str {
    match (l.computes, l.near) {
        (true, _) => "operations",
        (false, true) => "cache",
        (false, false) => "memory",
    }
}

/// Prints the layers that take most, and all of them together.
pub(crate) fn print(machine: &Machine, layers: &[Layer], most: usize) {
    let giga = |x: f64| x / 1e9;
    println!(
        "\n{}, {}: memory {:.1} GB/s, second-level cache {:.1} GB/s",
        machine.said(),
        machine.isa.name(),
        giga(machine.memory),
        giga(machine.cache)
    );
    println!("{:>9} {:>6} {:>9} {:>9} {:>7}  {:<10}  layer", "µs", "time", "GFLOP/s", "allowed", "of it", "bound by");
    let mut order: Vec<&Layer> = layers.iter().collect();
    order.sort_by(|a, b| b.share.total_cmp(&a.share));
    for l in order.iter().take(most) {
        println!(
            "{:>9.1} {:>5.1}% {:>9.1} {:>9.1} {:>6.0}%  {:<10}  {} ({}): {}",
            l.seconds * 1e6,
            l.share * 100.0,
            giga(l.flops / l.seconds.max(1e-12)),
            giga(l.flops / l.allowed.max(1e-12)),
            l.achieved() * 100.0,
            bound(l),
            l.kernel,
            l.algorithm,
            cut(&l.name)
        );
    }
    if order.len() > most {
        println!("{:>9} {:>5.1}%  {} more layers", "", order.iter().skip(most).map(|l| l.share).sum::<f64>() * 100.0, order.len() - most);
    }
    // Times weigh as often as their layers run, which the shares say.
    let all: f64 = layers.iter().map(|l| l.share * l.achieved()).sum();
    println!("{:>9} {:>5.0}% {:>9} {:>9} {:>6.0}%  all layers", "", 100.0, "", "", all * 100.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of round numbers.
    pub(crate) fn machine() -> Machine {
        let roof = |name, rate| Roof { name, rate };
        Machine {
            threads: 1,
            isa: Isa::Portable,
            roofs: vec![("multiply-adds", roof("multiply-adds of f32", 1e9)), ("F(4, 3)", roof("F(4, 3)", 4e9))],
            memory: 1e8,
            cache: 1e9,
            cache_bytes: 1e6,
        }
    }

    #[test]
    fn what_is_allowed_is_the_slower_of_operations_and_bytes() {
        let step = |algorithm: &str, flops: f64, bytes: f64| {
            json!({"name": "n", "kernel": "conv", "algorithm": algorithm, "flops": flops, "bytes_read": bytes, "bytes_written": 0,
                   "calls": 2, "min_us": 1000.0})
        };
        let profile = json!({"layers": [
            step("multiply-adds", 1e6, 1e5), // 1 ms of operations, 0.1 ms of bytes from the cache
            step("F(4, 3)", 1e6, 1e3),       // 0.25 ms of operations
            step("multiply-adds", 1e4, 1e7), // 100 ms of bytes from memory
            step("multiply-adds", 0.0, 5e5), // 0.5 ms of bytes from the cache
        ]});
        let all = layers(&profile, &machine());
        let found: Vec<(f64, &str)> = all.iter().map(|l| (l.achieved(), bound(l))).collect();
        let expected = [(1.0, "operations"), (0.25, "operations"), (100.0, "memory"), (0.5, "cache")];
        for (f, e) in found.iter().zip(expected) {
            assert!((f.0 - e.0).abs() < 1e-9 * e.0 && f.1 == e.1, "{found:?}");
        }
        assert!(all.iter().all(|l| (l.share - 0.25).abs() < 1e-12));
        assert_eq!(as_json(&machine(), &all)["layers"].as_array().unwrap().len(), 4);
    }
}
