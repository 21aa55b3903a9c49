//! What an instance does before its first run, so that that takes no longer than others.

use super::{Input, Instance};
use crate::error::{Error, Result};
use crate::spec::{Port, PortDim, PortKind};
use kiln_kernels::value::{Tensor, Value};

impl Instance {
    /// Touches every page of the arena and of the scratch, and starts the threads. On a GPU, a model of closed extents runs on zeros until its
    /// launches are recorded; what it keeps is not changed by that.
    ///
    /// # Errors
    /// A worker panicked, the device failed, memory that cannot be had.
    pub fn warm_up(&mut self) -> Result<()> {
        for r in [&self.arena, &self.scratch] {
            for at in (0..r.len()).step_by(4096) {
                // SAFETY: `at` is inside of the region, which this instance owns.
                unsafe { r.start().add(at).write_volatile(0) };
            }
        }
        for at in (0..self.kept.len()).step_by(4096) {
            // SAFETY: as above; what is there stays.
            unsafe { self.kept.start().add(at).write_volatile(self.kept.start().add(at).read_volatile()) };
        }
        let weights = self.weights.start();
        let mut sum = 0u8;
        for at in (0..self.spec.weights_bytes).step_by(4096) {
            // SAFETY: the weights hold that many bytes.
            sum = sum.wrapping_add(unsafe { weights.add(at).read_volatile() });
        }
        std::hint::black_box(sum);
        self.threads.run(self.threads.workers(), &|_, _| {}).map_err(|_| Error::Poisoned)?;
        if self.machine.is_some() { self.record() } else { Ok(()) }
    }
    /// Runs on zeros, as often as it takes until launches are recorded, where the ports leave no extent open.
    fn record(&mut self) -> Result<()> {
        const RUNS: usize = 2;
        let zeros = |p: &Port| {
            let closed = |d: &PortDim| if let PortDim::Closed(n) = d { Some(*n) } else { None };
            let dims: Option<Vec<usize>> = p.dims.iter().map(closed).collect();
            dims.filter(|_| p.kind == PortKind::Tensor).map(|dims| Tensor::zeros(p.dtype, &dims).into())
        };
        let Some(values) = self.spec.inputs.iter().map(zeros).collect::<Option<Vec<Value>>>() else { return Ok(()) };
        let inputs: Vec<Input<'_>> = values.iter().map(Input::Value).collect();
        for _ in 0..RUNS {
            match self.compute(&inputs, false) {
                // Zeros need not make sense to a model, and there need not be room for more of what it keeps.
                Ok(_) | Err(Error::Index { .. } | Error::Domain { .. } | Error::StateFull { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
