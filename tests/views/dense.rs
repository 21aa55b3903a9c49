//! Dense blocks, whose layers read everything before them: each Concat is a part of the next one, in whichever way they are written.

use super::{F32, ModelBuilder, Value, compiled, noise, write};
use kiln_compiler::pipeline::{Ablation, optimize};
use kiln_compiler::plan::{Plan, schedule};
use kiln_compiler::{import, onnx};
use kiln_tests::models::Dim;
use kiln_tests::writer::Writer;

/// How the layers of a block come together.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spelling {
    /// One Concat of all layers before each.
    Flat,
    /// The Concat before, and the new layer.
    Nested,
    /// One Concat, of which a layer reads a part from the middle.
    Middle,
}

/// Layers of `width` channels or columns, in planes or in rows; `x` has a symbol for its first axis.
fn block(spelling: Spelling, planes: bool, layers: usize) -> ModelBuilder {
    let shape: &[usize] = if planes { &[6, 7, 5] } else { &[6] };
    let dims: Vec<Dim> = std::iter::once(Dim::from("n")).chain(shape.iter().map(|d| Dim::from(*d))).collect();
    let mut w = Writer::new(ModelBuilder::new().opset(18).input("x", F32, dims), (), 3);
    let layer = |w: &mut Writer, x: &str, from: usize| {
        let by_channel: &[usize] = if planes { &[from, 1, 1] } else { &[from] };
        let scale = w.noise(by_channel, |v| v + 1.5);
        let y = w.node("Mul", &[x, &scale]);
        let y = w.node("Relu", &[&y]);
        if planes {
            let weights = w.noise(&[4, from, 3, 3], |v| v / 9.0);
            let y = w.node("Conv", &[&y, &weights]);
            w.attr("pads", vec![1i64; 4]);
            y
        } else {
            let weights = w.noise(&[from, 4], |v| v);
            w.node("MatMul", &[&y, &weights])
        }
    };
    let join = |w: &mut Writer, parts: &[String]| {
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let y = w.node("Concat", &parts);
        w.attr("axis", 1);
        y
    };
    let mut features = vec![layer(&mut w, "x", 6)];
    let mut all = features[0].clone();
    for l in 1..layers {
        let (from, of) = match spelling {
            Spelling::Flat if l > 1 => (join(&mut w, &features), 4 * l),
            Spelling::Middle if l == 3 => (join(&mut w, &features[1..3]), 8),
            Spelling::Middle => (features[l - 1].clone(), 4),
            _ => (all.clone(), 4 * l),
        };
        let y = layer(&mut w, &from, of);
        if spelling == Spelling::Nested {
            all = join(&mut w, &[all.clone(), y.clone()]);
        }
        features.push(y);
    }
    if spelling != Spelling::Nested {
        all = join(&mut w, &features);
    }
    let y = layer(&mut w, &all, 4 * layers);
    w.into_builder().output(&y)
}

fn plan(model: &[u8]) -> Plan {
    let mut g = import::import(&onnx::read(model, None, &Default::default()).unwrap(), &Default::default()).unwrap();
    optimize(&mut g, Ablation::Nothing, &mut |_, _| {}).unwrap();
    schedule(g, Ablation::Nothing, Default::default(), Default::default())
}

const SPELLINGS: [Spelling; 3] = [Spelling::Flat, Spelling::Nested, Spelling::Middle];

#[test]
fn dense_blocks_have_no_copies() {
    for spelling in SPELLINGS {
        for planes in [false, true] {
            let plan = plan(&block(spelling, planes, 5).build());
            let copies = plan.kernels().iter().filter(|s| s.kernel.name() == "copy").count();
            // What the model hands out is row-major, and pixels are not.
            assert_eq!(copies, usize::from(planes), "{spelling:?}, planes {planes}");
        }
    }
}

#[test]
fn dense_blocks_equal_their_graphs() {
    let dir = compiled::folder(env!("CARGO_TARGET_TMPDIR"), "dense");
    for spelling in SPELLINGS {
        for planes in [false, true] {
            let shape: &[usize] = if planes { &[6, 7, 5] } else { &[6] };
            let set = |n: usize| -> Vec<Value> { vec![noise(n as u64, &[&[n], shape].concat())] };
            write(&dir.join(format!("{spelling:?}_{planes}")), &block(spelling, planes, 5).build(), vec![set(1), set(3), set(0)]);
        }
    }
    compiled::check(&dir);
}
