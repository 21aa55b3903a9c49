//! Outputs of an instance after a run.

use super::{Instance, NOTHING, find};
use crate::frame::Frame;
use crate::spec::OutPlace;
use kiln_kernels::value::{Tensor, Value};

impl Instance {
    /// The extents of an output after a run.
    pub fn output_dims(&self, i: usize) -> Vec<usize> {
        let mut dims = Vec::new();
        match (self.spec.out_places[i], self.spec.outputs[i].kind) {
            (OutPlace::Slot(k), _) => {
                if let Value::Tensor(t) = &self.slots[k] {
                    dims.clone_from(&t.dims);
                }
            }
            _ => {
                dims.resize(self.spec.outputs[i].dims.len(), 0);
                (self.spec.out_dims)(i, &self.syms, &mut dims);
            }
        }
        dims
    }
    /// Writes the extents of a tensor output of known rank; whether it has that rank.
    pub fn output_extents(&self, i: usize, dims: &mut [usize]) -> bool {
        if let OutPlace::Slot(k) = self.spec.out_places[i] {
            return match &self.slots[k] {
                Value::Tensor(t) if t.dims.len() == dims.len() => {
                    dims.copy_from_slice(&t.dims);
                    true
                }
                _ => false,
            };
        }
        self.spec.outputs[i].dims.len() == dims.len() && {
            (self.spec.out_dims)(i, &self.syms, dims);
            true
        }
    }
    /// The value of an output that is no dense tensor; an empty sequence before the first run.
    pub fn value(&self, i: usize) -> &Value {
        match self.spec.out_places[i] {
            OutPlace::Slot(k) => &self.slots[k],
            _ => &NOTHING,
        }
    }
    /// The first element of a dense output after a run.
    pub fn output_ptr(&self, i: usize) -> *const u8 {
        let place = self.spec.out_places[i];
        find(place, self.arena.start(), &self.offsets, self.weights.start(), &self.inputs, &self.slots).0
    }
    /// Where a dense output lies on the device after a run, if it does.
    pub(crate) fn output_on_device(&self, i: usize) -> Option<u64> {
        self.machine.as_ref()?.lies(self.spec.out_places[i], &self.offsets)
    }
    /// A copy of an output after a run. Outputs that are inputs handed through are copied from where the inputs were, so this must
    /// be called while they still are there.
    ///
    /// # Safety
    /// The inputs of the last run are still alive.
    pub unsafe fn output_value(&self, i: usize) -> Value {
        match self.spec.out_places[i] {
            OutPlace::Slot(k) => self.slots[k].clone(),
            OutPlace::Input(k) if self.values[k].is_some() => self.values[k].clone().unwrap_or(Value::Sequence(Vec::new())),
            _ => {
                let dims = self.output_dims(i);
                let dtype = self.spec.outputs[i].dtype;
                if dtype == kiln_kernels::dtype::DType::Str {
                    return Tensor::zeros(dtype, &dims).into();
                }
                // SAFETY: the plan keeps the output's elements there until the next run.
                unsafe { Frame::tensor(self.output_ptr(i), dtype, &dims) }
            }
        }
    }
}
