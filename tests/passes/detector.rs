//! A detector in two spellings: one plan, of few kernels, that computes what the network did.

use super::{graph, optimized, outline, plan, run};
use kiln::{Tensor, Value};
use kiln_compiler::plan::Arena;
use kiln_tests::detector::{BOXES, CONVOLUTIONS, HEADS, NUMBERS, POOLS, RESIZES, SIDE, Spelling, detector};

const SPELLINGS: [Spelling; 2] = [Spelling::Traced, Spelling::Captured];

fn image() -> Vec<Value> {
    let n = 3 * SIDE * SIDE;
    vec![Tensor::new(&[1, 3, SIDE, SIDE], &kiln_tests::samples::noise(5, n)).into()]
}

#[test]
fn a_detector_keeps_what_it_computes() {
    let found = SPELLINGS.map(|s| {
        let model = detector(s);
        let (before, after) = (run(&graph(&model), &image()), run(&optimized(&model).0, &image()));
        assert_eq!(before.len(), BOXES * NUMBERS);
        let scale = before.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
        for (a, b) in before.iter().zip(&after) {
            assert!((a - b).abs() <= 1e-5 * scale, "{s:?}: {a} became {b}");
        }
        after
    });
    let scale = found[0].iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    assert!(found[0].iter().zip(&found[1]).all(|(a, b)| (a - b).abs() <= 1e-5 * scale), "both spellings are of one network");
}

#[test]
fn spellings_of_a_detector_have_one_plan() {
    let [a, b] = SPELLINGS.map(|s| outline(&plan(&detector(s))));
    assert_eq!(a, b);
}

#[test]
fn a_detector_is_its_convolutions_and_pools_and_a_decoding_of_few_kernels() {
    for s in SPELLINGS {
        let p = plan(&detector(s));
        let copies = p.kernels().iter().filter(|k| k.origins.is_empty()).count();
        let kernels = p.kernels().len() - copies;
        // Each convolution has its activation, and a residual sum, in it; the two that read one image become one, for which the other
        // half of that stage is copied beside the residual. A head's sigmoid is part of its convolution: what is left for each scale
        // are places, sizes, and the scores that go beside them as they are.
        assert!(kernels <= CONVOLUTIONS + POOLS + RESIZES + 3 * HEADS, "{s:?}: {kernels} kernels {:#?}", outline(&p));
        assert_eq!(copies, 0, "{s:?}: {:#?}", outline(&p));
        let Arena::Fixed { bytes, bound, .. } = p.arena else { panic!("every extent is closed") };
        assert!(bytes as f64 <= 1.02 * bound as f64, "{s:?}: an arena of {bytes} bytes for {bound}");
    }
}
