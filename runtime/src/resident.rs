//! Runs whose inputs come from the memory of a GPU, and whose outputs stay there.

use crate::error::{Error, Result};
use crate::instance::{Input, Instance};
use kiln_kernels::dtype::DType;
use kiln_kernels::value::{Tensor, Value};

/// A dense tensor in the memory of the device that an instance runs on, in row-major order. Addresses are those of the device's primary context,
/// which the CUDA runtime and the libraries on it use too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTensor {
    /// The address of the first element.
    pub address: u64,
    /// The element type.
    pub dtype: DType,
    /// The extents.
    pub dims: Vec<usize>,
}

impl DeviceTensor {
    /// Its bytes.
    pub fn bytes(&self) -> usize {
        (self.dims.iter().product::<usize>() * self.dtype.bits()).div_ceil(8)
    }
}

/// Where an input is.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// In the program's memory.
    Host(&'a Value),
    /// On the device.
    Device(&'a DeviceTensor),
}

impl Instance {
    /// Runs on inputs in the order of the ports, and leaves the outputs on the device: they lie where they are said to until the next run, and
    /// are complete. An input that is left out is `None`.
    ///
    /// # Errors
    /// As of [`run`](Instance::run); the instance runs on the CPU, or an output is no tensor that the GPU has.
    ///
    /// # Safety
    /// Tensors on the device are as long as their extents say, belong to the device that the instance runs on, and nothing writes them any more.
    pub unsafe fn run_on_device(&mut self, inputs: &[Option<Source<'_>>]) -> Result<Vec<DeviceTensor>> {
        let Some(machine) = &self.machine else {
            return Err(Error::Device {
                message: format!("the instance runs on the CPU ({}): it has no tensors on a device", self.device().why),
            });
        };
        // What the CPU reads of the inputs it reads here.
        let mut here: Vec<Option<Value>> = Vec::with_capacity(inputs.len());
        for (i, s) in inputs.iter().enumerate() {
            here.push(match s {
                Some(Source::Device(t)) if machine.reads_here(i) => {
                    let mut copy = Tensor::zeros(t.dtype, &t.dims);
                    // SAFETY: the caller's tensor is as long as its extents say.
                    unsafe { machine.read(t.address, copy.bytes_mut())? };
                    Some(copy.into())
                }
                _ => None,
            });
        }
        let given = inputs.iter().zip(&here).map(|(s, here)| match (s, here) {
            (_, Some(v)) => Input::Value(v),
            (Some(Source::Host(v)), None) => Input::Value(v),
            (Some(Source::Device(t)), None) => Input::Device { address: t.address, dtype: t.dtype, dims: &t.dims },
            (None, None) => Input::Absent,
        });
        let given: Vec<Input<'_>> = given.collect();
        self.run_where(&given, true)?;
        let spec = self.spec();
        let lies = |(i, port): (usize, &crate::spec::Port)| match self.output_on_device(i) {
            Some(address) => Ok(DeviceTensor { address, dtype: port.dtype, dims: self.output_dims(i) }),
            None => {
                let message = "the CPU computes this output, so it is not on the device; `run` gives it".into();
                Err(Error::Port { port: port.name.into(), message })
            }
        };
        spec.outputs.iter().enumerate().map(lies).collect()
    }
}
