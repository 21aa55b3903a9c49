//! Attention against plain loops in f64.

use super::*;
use crate::entry::{In, Out};
use crate::support::testing::{Rng, assert_close};
use alloc::vec::Vec;

/// Value of the floats that a kernel must leave alone.
const UNTOUCHED: f32 = 12345.0;

/// One matrix of a batch, with its operands one float in, so that nothing is aligned.
struct Case {
    g: Attend,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mask: Vec<f32>,
}

impl Case {
    fn new(rng: &mut Rng, [queries, keys, depth, width]: [usize; 4], masked: bool) -> Case {
        let pads = [0; 5].map(|_: usize| rng.int(0, 5));
        let mask_col = rng.int(0, 1);
        let g = Attend {
            queries,
            keys,
            depth,
            width,
            q_row: depth + pads[0],
            k_row: depth + pads[1],
            v_row: width + pads[2],
            out_row: width + pads[3],
            mask_row: if rng.int(0, 1) == 0 { 0 } else { mask_col * keys + pads[4] + 1 },
            mask_col,
            scale: 0.5,
            reach: keys,
            safe: false,
        };
        let q = rng.floats(1 + queries * g.q_row);
        let k = rng.floats(1 + keys * g.k_row);
        let v = rng.floats(1 + keys * g.v_row);
        let mask = if masked { rng.floats(2 + queries * g.mask_row + keys) } else { vec![] };
        Case { g, q: q.iter().map(|x| x * 4.0).collect(), k, v, mask }
    }
    /// What plain loops give, in rows without gaps.
    fn want(&self) -> Vec<f32> {
        let g = &self.g;
        let rows = |x: &[f32], n: usize, row: usize, cols: usize| -> Vec<f64> {
            (0..n).flat_map(|i| x[1 + i * row..][..cols].iter().map(|v| *v as f64).collect::<Vec<_>>()).collect()
        };
        let (q, k, v) =
            (rows(&self.q, g.queries, g.q_row, g.depth), rows(&self.k, g.keys, g.k_row, g.depth), rows(&self.v, g.keys, g.v_row, g.width));
        let mask: Vec<f64> = match self.mask.is_empty() {
            true => vec![],
            false => (0..g.queries * g.keys).map(|i| self.mask[1 + i / g.keys * g.mask_row + i % g.keys * g.mask_col] as f64).collect(),
        };
        let mut out = vec![0f64; g.queries * g.width];
        let mask = (!mask.is_empty()).then_some(In(&mask[..]));
        attend(
            Out(&mut out),
            In(&q),
            In(&k),
            In(&v),
            mask,
            &[1],
            &[g.queries, g.keys, g.depth, g.width],
            &[1],
            &[1],
            &[1, g.queries, g.keys],
            g.scale,
            g.reach,
            g.safe,
        );
        out.iter().map(|x| *x as f32).collect()
    }
    fn run(&self, isa: Isa, order: &[usize]) -> Vec<f32> {
        let g = &self.g;
        let mut out = vec![UNTOUCHED; 1 + g.queries * g.out_row];
        let mut scratch = vec![f32::NAN; g.scratch_floats()];
        for &task in order {
            // SAFETY: the arrays have the sizes that the kernel asks for.
            unsafe {
                let at = |x: &[f32]| x.as_ptr().add(1);
                let mask = if self.mask.is_empty() { core::ptr::null() } else { at(&self.mask) };
                g.run_task(isa, task, at(&self.q), at(&self.k), at(&self.v), mask, out.as_mut_ptr().add(1), scratch.as_mut_ptr());
            }
        }
        out
    }
    fn check(&self) {
        let (g, want) = (&self.g, self.want());
        for isa in Isa::available() {
            let what = format!("{} {g:?}", isa.name());
            let tasks: Vec<usize> = (0..g.tasks()).collect();
            let got = self.run(isa, &tasks);
            for i in 0..g.queries {
                let row = &got[1 + i * g.out_row..][..g.out_row];
                assert_close(&row[..g.width], &want[i * g.width..][..g.width], 1e-4, &format!("row {i} of {what}"));
                assert!(row[g.width..].iter().all(|x| *x == UNTOUCHED), "{what} writes between its rows");
            }
            // Whichever thread takes which task, and in whatever order: the bits are the same.
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let backward: Vec<usize> = tasks.iter().rev().copied().collect();
            let shares: Vec<usize> = (0..3).flat_map(|t| tasks.iter().copied().filter(move |i| i % 3 == t)).collect();
            for order in [backward, shares] {
                assert_eq!(bits(&self.run(isa, &order)), bits(&got), "{what}");
            }
        }
    }
}

#[test]
fn attention_equals_plain_loops() {
    let mut rng = Rng(11);
    let mut shapes = vec![
        [1, 1, 1, 1],
        [1, 300, 64, 64],
        [3, 70, 17, 130],
        [5, 1, 3, 2],
        [64, 64, 64, 64],
        [130, 2000, 24, 40],
        [260, 130, 64, 64],
        [2, 2000, 33, 7],
        [7, 0, 4, 5],
        [1, 0, 4, 5],
        [4, 9, 0, 5],
        [9, 3, 5, 0],
    ];
    for _ in 0..60 {
        shapes.push([rng.int(1, 50), rng.int(1, 150), rng.int(1, 80), rng.int(1, 80)]);
    }
    for shape in shapes {
        let masked = rng.int(0, 1) == 0;
        let mut case = Case::new(&mut rng, shape, masked);
        case.check();
        case.g.reach = rng.pick(&[0, 0, 1, shape[1].saturating_sub(shape[0]), shape[1] / 2]);
        case.check();
    }
}

#[test]
fn keys_of_several_blocks_are_rescaled() {
    let mut rng = Rng(12);
    for reach in [3000, 0, 700] {
        let mut case = Case::new(&mut rng, [50, 3000, 200, 50], true);
        assert!(case.g.block() < 1000);
        (case.g.reach, case.g.mask_row, case.g.mask_col) = (reach, 0, 1);
        case.mask = rng.floats(3001);
        // Scores that grow with the key: every block has a new maximum.
        case.mask.iter_mut().enumerate().for_each(|(i, m)| *m += i as f32 * 0.05);
        case.check();
        // The first blocks hold nothing, and so does the last.
        case.mask[..2000].fill(f32::NEG_INFINITY);
        case.mask[2900..].fill(f32::NEG_INFINITY);
        if reach >= 3000 {
            case.check();
        }
    }
}

#[test]
fn rows_that_see_nothing_are_nan() {
    let mut rng = Rng(13);
    for (queries, keys) in [(1, 40), (20, 40), (20, 2500)] {
        let mut case = Case::new(&mut rng, [queries, keys, 100, 30], true);
        (case.g.mask_row, case.g.mask_col) = (keys, 1);
        case.mask = vec![0.0; 1 + queries * keys];
        for i in (0..queries).step_by(2) {
            case.mask[1 + i * keys..][..keys].fill(f32::NEG_INFINITY);
        }
        case.check();
        assert!(case.run(Isa::detect(), &[0])[1].is_nan());
        case.g.safe = true;
        case.check();
        assert_eq!(case.run(Isa::detect(), &[0])[1].to_bits(), 0);
        case.g.safe = false;
        // The least float masks too, but leaves a row of nothing else uniform.
        case.mask.iter_mut().for_each(|m| *m = m.max(f32::MIN));
        let wholly = case.run(Isa::detect(), &(0..case.g.tasks()).collect::<Vec<_>>());
        let mean: f32 = (0..keys).map(|j| case.v[1 + j * case.g.v_row]).sum::<f32>() / keys as f32;
        assert!((wholly[1] - mean).abs() < 1e-4, "{} and {mean}", wholly[1]);
    }
}

#[test]
fn nan_reaches_its_row_alone() {
    let mut rng = Rng(14);
    for queries in [2, 30] {
        let mut case = Case::new(&mut rng, [queries, 90, 20, 20], false);
        case.q[1] = f32::NAN;
        for safe in [false, true] {
            case.g.safe = safe;
            case.check();
        }
    }
}

#[test]
fn threads_give_the_bits_of_one() {
    let mut rng = Rng(15);
    let mut case = Case::new(&mut rng, [400, 200, 64, 64], false);
    case.g.reach = 0;
    assert!(case.g.tasks() >= 3);
    let all: Vec<usize> = (0..case.g.tasks()).collect();
    let one = case.run(Isa::detect(), &all);
    for threads in [2, 3] {
        let shares: Vec<Vec<f32>> = std::thread::scope(|s| {
            let case = &case;
            let handles: Vec<_> = (0..threads)
                .map(|t| {
                    let mine: Vec<usize> = all.iter().copied().filter(|i| i % threads == t).collect();
                    s.spawn(move || case.run(Isa::detect(), &mine))
                })
                .collect();
            handles.into_iter().map(|h| h.join().unwrap()).collect()
        });
        for (i, want) in one.iter().enumerate() {
            let got = shares.iter().map(|s| s[i]).find(|x| *x != UNTOUCHED).unwrap_or(UNTOUCHED);
            assert_eq!(got.to_bits(), want.to_bits());
        }
    }
}

#[test]
fn lesser_extents_need_no_more_scratch() {
    let mut rng = Rng(16);
    for _ in 0..2000 {
        let most = [rng.int(0, 5000), rng.int(0, 5000), rng.int(0, 300), rng.int(0, 300)];
        let with = |[queries, keys, depth, width]: [usize; 4]| {
            let g = Case::new(&mut Rng(1), [1, 1, 1, 1], false).g;
            Attend { queries, keys, depth, width, ..g }
        };
        let less = with(most.map(|n| rng.int(0, n)));
        let used = if less.few() { a_pitch(less.keys) + strip::STATE } else { less.parts(less.block(), less.tall()).end };
        assert!(used <= less.scratch_floats() && less.scratch_floats() <= with(most).scratch_floats(), "{less:?} in {most:?}");
    }
}
