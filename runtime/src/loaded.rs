//! `Loaded`: the weights of a model as its instances share them, in the file's form and in those that this machine works faster with.

use crate::error::{Error, Result};
use crate::memory::{Region, is_file, release};
use crate::options::Weights;
use crate::spec::Spec;
use crate::threads::Threads;
use kiln_kernels::gemm::{PANEL, digits_len, pack_digits};
use kiln_kernels::isa::Isa;

/// The bytes of the weights, wherever they are.
#[derive(Debug)]
enum Blob {
    Embedded(*const u8),
    Owned(Region),
}

/// Panels of such a depth that a task writes in digits: about a megabyte.
fn together(k: usize) -> usize {
    (1usize << 20).div_ceil((k * PANEL * size_of::<f32>()).max(1))
}

/// Weights that are never written again.
#[derive(Debug)]
pub(crate) struct Loaded {
    blob: Blob,
    /// The digits of packed matrices, in the order of [`Spec::digits`]; empty where the machine does not work with them.
    starts: Vec<*const u8>,
    /// Where they are.
    _digits: Region,
}

// SAFETY: weights are never written after they are made.
unsafe impl Send for Loaded {}
// SAFETY: as above.
unsafe impl Sync for Loaded {}

impl Loaded {
    /// The weights of a model, as the options give them.
    ///
    /// # Errors
    /// Weights that are missing or do not fit, memory that cannot be had.
    pub(crate) fn new(spec: &Spec, weights: &Weights, isa: Isa, threads: &Threads) -> Result<Loaded> {
        let blob = match (weights, spec.weights) {
            (Weights::Default, Some(embedded)) => Blob::Embedded(embedded()),
            (Weights::Default, None) => {
                return Err(Error::Weights { message: "this model was compiled without its weights; hand them over in Options".into() });
            }
            (Weights::Bytes(bytes), _) => Blob::Owned(copied(bytes, spec)?),
            (Weights::File(path), _) => {
                let bytes = std::fs::read(path).map_err(|e| Error::Weights { message: format!("{}: {e}", path.display()) })?;
                Blob::Owned(copied(&bytes, spec)?)
            }
        };
        let mut out = Loaded { blob, starts: Vec::new(), _digits: Region::new(0)? };
        if isa >= Isa::Amx {
            out.take_digits(spec, threads)?;
        }
        Ok(out)
    }
    /// Writes packed matrices in digits.
    fn take_digits(&mut self, spec: &Spec, threads: &Threads) -> Result<()> {
        // Tasks before each matrix, and bytes of digits.
        let (mut before, mut bytes) = (vec![0], vec![0]);
        for d in spec.digits {
            before.push(before[before.len() - 1] + d.panels.div_ceil(together(d.k)));
            bytes.push(bytes[bytes.len() - 1] + d.panels * digits_len(d.k));
        }
        let region = Region::unwritten(bytes[bytes.len() - 1])?;
        let start = Unshared(region.start());
        let weights = Unshared(self.start().cast_mut());
        // Every run reads the digits and hardly ever the floats, whose pages need not stay.
        let from_file = matches!(self.blob, Blob::Embedded(_)) && is_file(self.start(), spec.weights_bytes);
        let take = |task: usize, _: usize| {
            let (start, weights) = (&start, &weights);
            let i = before.partition_point(|&b| b <= task) - 1;
            let (d, first) = (&spec.digits[i], (task - before[i]) * together(spec.digits[i].k));
            let count = together(d.k).min(d.panels - first);
            // SAFETY: the specification lists whole panels of the weights, and the region has a place for each.
            unsafe {
                let from = weights.0.add(d.at).cast::<f32>().add(first * d.k * PANEL);
                for p in 0..count {
                    pack_digits(d.k, from.add(p * d.k * PANEL), start.0.add(bytes[i] + (first + p) * digits_len(d.k)));
                }
                if from_file {
                    release(from.cast(), count * d.k * PANEL * size_of::<f32>());
                }
            }
        };
        threads.run(before[before.len() - 1], &take).map_err(|_| Error::Poisoned)?;
        self.starts = bytes[..spec.digits.len()].iter().map(|&b| region.start().wrapping_add(b).cast_const()).collect();
        self._digits = region;
        Ok(())
    }
    /// The first byte.
    pub(crate) fn start(&self) -> *const u8 {
        match &self.blob {
            Blob::Embedded(p) => *p,
            Blob::Owned(r) => r.start(),
        }
    }
    /// Where the digits of packed matrices begin.
    pub(crate) fn digits(&self) -> &[*const u8] {
        &self.starts
    }
}

/// A pointer that tasks share, each of which uses its own part of what it points to.
struct Unshared(*mut u8);
// SAFETY: see the type.
unsafe impl Sync for Unshared {}

fn copied(bytes: &[u8], spec: &Spec) -> Result<Region> {
    if bytes.len() != spec.weights_bytes {
        let message = format!("{} bytes were given, the model has {}", bytes.len(), spec.weights_bytes);
        return Err(Error::Weights { message });
    }
    let r = Region::new(bytes.len())?;
    // SAFETY: the region was just made with as many bytes.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), r.start(), bytes.len()) };
    Ok(r)
}
