//! `kiln inspect`: what a model takes, gives and needs.

use crate::args::ModelArgs;
use crate::data;
use crate::failure::Result;
use crate::model::compile_guarded;
use kiln_compiler::diagnostics::shown;
use kiln_compiler::emit::signatures;
use kiln_compiler::import::import;
use kiln_compiler::names_of;
use kiln_compiler::onnx::{self, DimInfo, Limits, Model, TypeInfo, ValueInfo};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// Show what a model takes, gives and needs.
#[derive(clap::Args, Debug)]
pub(crate) struct Inspect {
    #[command(flatten)]
    model: ModelArgs,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    /// Print the struct that `model!` would make.
    #[arg(long, conflicts_with = "json")]
    api: bool,
}

fn type_text(t: Option<&TypeInfo>) -> String {
    let dims = |shape: &Option<Vec<DimInfo>>| match shape {
        Some(s) => s.iter().map(dim_text).collect::<Vec<_>>().join(", "),
        None => "..".into(),
    };
    match t {
        Some(TypeInfo::Tensor { dtype, shape }) => format!("{dtype}[{}]", dims(shape)),
        Some(TypeInfo::SparseTensor { dtype, shape }) => format!("sparse {dtype}[{}]", dims(shape)),
        Some(TypeInfo::Sequence(t)) => format!("seq({})", type_text(Some(t))),
        Some(TypeInfo::Optional(t)) => format!("optional({})", type_text(Some(t))),
        Some(TypeInfo::Map { key, value }) => format!("map({key}, {})", type_text(Some(value))),
        Some(TypeInfo::Opaque { domain, name }) => format!("{}.{}", shown(domain), shown(name)),
        None => "no type".into(),
    }
}

fn dim_text(d: &DimInfo) -> String {
    match d {
        DimInfo::Known(n) => n.to_string(),
        DimInfo::Named(n) => shown(n),
        DimInfo::Unknown => "?".into(),
    }
}

fn operators(model: &Model) -> BTreeMap<String, usize> {
    fn walk(g: &onnx::Graph, out: &mut BTreeMap<String, usize>) {
        for n in &g.nodes {
            let domain = if n.domain.is_empty() { String::new() } else { format!("{}.", shown(&n.domain)) };
            *out.entry(format!("{domain}{}", shown(&n.op_type))).or_default() += 1;
            n.attributes.iter().for_each(|(_, a)| a.graphs().iter().for_each(|g| walk(g, out)));
        }
    }
    let mut out = BTreeMap::new();
    walk(&model.graph, &mut out);
    out
}

impl Inspect {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let mut dims = self.model.parsed()?;
        if self.api {
            let output = compile_guarded(&self.model.options(dims)?)?;
            print!("{}", signatures(&output.plan, &names_of(&self.model.model))?);
            return Ok(());
        }
        let model = onnx::read_file(&self.model.model, &Limits::default())?;
        let inputs = data::ports(&model);
        let weights: usize = model.graph.initializers.iter().map(|(_, t)| t.bytes().len()).sum();
        let names = |ports: &[ValueInfo]| -> Vec<Json> {
            ports.iter().map(|p| json!({ "name": p.name, "type": type_text(p.ty.as_ref()) })).collect()
        };
        let mut open: Vec<String> = Vec::new();
        for p in &inputs {
            if let Some(TypeInfo::Tensor { shape: Some(s), .. }) = &p.ty {
                for (axis, d) in s.iter().enumerate() {
                    let label = match d {
                        DimInfo::Known(_) => continue,
                        DimInfo::Named(n) => n.clone(),
                        DimInfo::Unknown => format!("{}.{axis}", p.name),
                    };
                    if !open.contains(&label) {
                        open.push(label);
                    }
                }
            }
        }
        let chosen = data::close(&mut dims, &inputs, &[]);
        let (flops, intermediates, unsupported) = match import(&model, &dims) {
            Ok(g) => {
                let (flops, bytes) = super::cost::cost(&g);
                (Some(flops), Some(bytes), None)
            }
            Err(d) => (None, None, Some(d)),
        };
        let findings: Vec<String> = unsupported.iter().flat_map(|d| &d.items).map(|d| d.message.clone()).collect();
        let counts = operators(&model);
        if self.json {
            let out = json!({
                "schema": 1, "opsets": model.opsets, "producer": model.producer, "inputs": names(&inputs),
                "outputs": names(&model.graph.outputs), "dims": open, "chosen": chosen, "operators": counts, "unsupported": findings,
                "flops": flops, "weights_bytes": weights, "intermediates_bytes": intermediates,
            });
            println!("{out}");
            return Ok(());
        }
        let opsets: Vec<String> =
            model.opsets.iter().map(|(d, v)| format!("{}{v}", if d.is_empty() { String::new() } else { shown(d) + " " })).collect();
        println!("opset      {}", opsets.join(", "));
        for (what, ports) in [("input", &inputs), ("output", &model.graph.outputs)] {
            for p in ports {
                println!("{what:<10} \"{}\" {}", shown(&p.name), type_text(p.ty.as_ref()));
            }
        }
        if !open.is_empty() {
            println!("open dims  {}", open.iter().map(|d| shown(d)).collect::<Vec<_>>().join(", "));
        }
        for c in &chosen {
            println!("counted at {c}");
        }
        println!("operators  {}", counts.iter().map(|(k, n)| format!("{k} {n}")).collect::<Vec<_>>().join(", "));
        println!("weights    {weights} bytes");
        if let (Some(f), Some(b)) = (flops, intermediates) {
            println!("flops      {f}\nresults    {b} bytes");
        }
        match unsupported {
            Some(mut d) => {
                d.file = self.model.model.display().to_string();
                println!("unsupported:\n{d}");
            }
            None => println!("unsupported: nothing"),
        }
        Ok(())
    }
}
