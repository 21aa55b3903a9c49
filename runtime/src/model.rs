//! `Model`: what every compiled model can do, whatever its ports are.

use crate::error::{Error, Result};
use crate::instance::{Input, Instance};
use crate::options::Options;
use crate::resident::{DeviceTensor, Source};
use crate::spec::{Port, Spec};
use kiln_kernels::value::Value;

/// A compiled model. Generated code implements it; servers and pools use it.
pub trait Model: Sized + Send + Sync {
    /// What the compiler says of the model.
    const SPEC: &'static Spec;
    /// The model over an instance of [`Model::SPEC`].
    fn from_instance(instance: Instance) -> Self;
    /// Its instance.
    fn instance(&self) -> &Instance;
    /// Its instance.
    fn instance_mut(&mut self) -> &mut Instance;

    /// Its inputs.
    fn inputs() -> &'static [Port] {
        Self::SPEC.inputs
    }
    /// Its outputs.
    fn outputs() -> &'static [Port] {
        Self::SPEC.outputs
    }
    /// A new instance.
    ///
    /// # Errors
    /// Weights that are missing or do not fit, memory that cannot be had.
    fn with(options: &Options) -> Result<Self> {
        Ok(Self::from_instance(Instance::new(Self::SPEC, options)?))
    }
    /// Runs on inputs by name; gives the outputs in order.
    ///
    /// # Errors
    /// See [`Error`].
    fn run_dyn(&mut self, inputs: &[(&str, &Value)]) -> Result<Vec<Value>> {
        let given = by_port(Self::SPEC.inputs, inputs)?.into_iter().map(|v| v.map_or(Input::Absent, |v| Input::Value(v)));
        let given: Vec<Input<'_>> = given.collect();
        self.instance_mut().run(&given)?;
        // SAFETY: the inputs are borrowed until this call returns.
        Ok((0..Self::SPEC.outputs.len()).map(|i| unsafe { self.instance().output_value(i) }).collect())
    }
    /// The same on a GPU, with inputs that may be there already, and outputs that stay there until the next run.
    ///
    /// # Errors
    /// As of [`Instance::run_on_device`], and a name that no input has.
    ///
    /// # Safety
    /// As of [`Instance::run_on_device`].
    unsafe fn run_on_device(&mut self, inputs: &[(&str, Source<'_>)]) -> Result<Vec<DeviceTensor>> {
        let given: Vec<Option<Source<'_>>> = by_port(Self::SPEC.inputs, inputs)?.into_iter().map(|s| s.copied()).collect();
        // SAFETY: passed on from the caller.
        unsafe { self.instance_mut().run_on_device(&given) }
    }
}

/// What is given for each port, by its name.
fn by_port<'v, T>(ports: &[Port], given: &'v [(&str, T)]) -> Result<Vec<Option<&'v T>>> {
    if let Some((name, _)) = given.iter().find(|(n, _)| !ports.iter().any(|p| p.name == *n)) {
        let known: Vec<&str> = ports.iter().map(|p| p.name).collect();
        return Err(Error::Port { port: name.to_string(), message: format!("the model has no such input; it has {}", known.join(", ")) });
    }
    Ok(ports.iter().map(|p| given.iter().find(|(n, _)| *n == p.name).map(|(_, v)| v)).collect())
}
