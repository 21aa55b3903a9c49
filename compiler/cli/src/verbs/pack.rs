//! `kiln pack`: a program for a GPU with what it needs to be measured on a machine that has no cargo, and its large weights left out.

use crate::args::ModelArgs;
use crate::cache;
use crate::data;
use crate::failure::{At, Failure, Result};
use crate::job;
use crate::model::{self, InputArgs, compile_guarded};
use kiln_compiler::kernel::Recipe;
use kiln_compiler::plan::{Blob, Plan};
use kiln_compiler::target::Element;
use kiln_kernels::dtype::DType;
use serde_json::json;
use std::fs;
use std::path::PathBuf;

/// Write a program for a GPU, to be measured where there is no cargo, without its large weights: random ones serve a measurement as well.
#[derive(clap::Args, Debug)]
pub(crate) struct Pack {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    inputs: InputArgs,
    /// The folder: `model` is the program, `in` its inputs, `weights.bin` the weights that are kept, and `weights.json` says where others belong.
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
}

/// Bytes from which on floats are left out.
const LARGE: usize = 1 << 14;

impl Pack {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let ready = model::ready(&self.model, &self.inputs)?;
        let Some((_, machine)) = ready.gpu else { return Err(Failure::Usage("pack: expected --target cuda".into())) };
        let output = compile_guarded(&model::options(&self.model, &ready)?)?;
        let Some(plan) = &output.device else { return Err(Failure::Usage("pack: expected --target cuda".into())) };
        let key = format!("{}-packed", cache::key(&self.model.model, &ready)?);
        let _lock = cache::lock(&key)?;
        let built = model::build_without_weights(&output, &self.model.model, &key, &cache::root()?.join("models").join(&key), machine)?;
        fs::create_dir_all(&self.output).at(&self.output)?;
        let to = |name: &str| self.output.join(name);
        for name in ["model", "libcuda.so.1"].into_iter().filter(|n| built.binary.with_file_name(n).is_file()) {
            fs::copy(built.binary.with_file_name(name), to(name)).at(&to(name))?;
        }
        job::save(&to("in"), &job::set(&ready.values))?;
        let mut whole = Vec::with_capacity(plan.weights.bytes);
        output.write_device_weights(&mut whole).at(&to("weights.bin"))?;
        let (mut kept, mut holes, mut at) = (Vec::new(), Vec::new(), 0);
        for b in plan.weights.blobs.iter().filter(|b| b.bytes >= LARGE) {
            let Some((element, depth)) = floats(plan, b) else { continue };
            kept.extend_from_slice(&whole[at..b.offset]);
            at = b.offset + b.bytes;
            holes.push(json!([b.offset, b.bytes, element, depth]));
        }
        kept.extend_from_slice(&whole[at..]);
        data::replace(&to("weights.bin"), &kept)?;
        let list = json!({ "schema": 1, "bytes": whole.len(), "holes": holes });
        data::replace(&to("weights.json"), list.to_string().as_bytes())?;
        eprintln!("{}: {} of {} bytes of weights are left out", self.output.display(), whole.len() - kept.len(), whole.len());
        Ok(())
    }
}

/// The type of a blob of floats alone, and how many of them a sum has about.
fn floats(plan: &Plan, b: &Blob) -> Option<(&'static str, usize)> {
    let (element, depth) = match b.packed.recipe {
        Recipe::Columns { k, element, .. } => (element, k),
        Recipe::Filters { c, taps, element, .. } | Recipe::Taps { c, taps, element, .. } => (element, c * taps),
        Recipe::Raw => {
            let name = match plan.graph.dtype(b.packed.value) {
                DType::F32 => "f32",
                DType::F16 => "f16",
                DType::Bf16 => "bf16",
                _ => return None,
            };
            return Some((name, 1));
        }
        _ => return None,
    };
    match element {
        Element::Float(p) => Some((p.name(), depth.max(1))),
        _ => None,
    }
}
