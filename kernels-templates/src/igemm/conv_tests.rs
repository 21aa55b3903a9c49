//! Integer convolutions against the plain ones: the same bits on every instruction set, written in place and by epilogues.

use super::conv::PLANES;
use super::*;
use crate::entry::Ints;
use crate::support::testing::Rng;
use alloc::vec;
use alloc::vec::Vec;

/// What a kernel must leave alone.
const UNTOUCHED: i32 = 0x1234_5678;

/// A convolution of random geometry; a depthwise one has as many groups as channels.
fn geometry(rng: &mut Rng, depthwise: bool, large: bool) -> (IntConv, [usize; 3]) {
    let most = if large { 300 } else { 21 };
    let channels = [rng.int(0, 21), 4 * rng.int(1, 9), 64, rng.int(1, most)];
    let c = if depthwise { rng.int(0, most) } else { rng.pick(&channels) };
    let kernel = rng.pick(&[[1, 1, 1], [1, 1, 1], [1, 3, 3], [1, 3, 3], [1, 2, 5], [1, 5, 5], [2, 1, 3]]);
    let (stride, dilation) = ([1, rng.int(1, 2), rng.int(1, 3)], [1, rng.int(1, 2), rng.int(1, 2)]);
    let pad = [rng.int(0, kernel[0] - 1), rng.int(0, 2), rng.int(0, 3)];
    let end = [rng.int(0, 1), rng.int(0, 2), rng.int(0, 2)];
    let span = [0, 1, 2].map(|a| (kernel[a] - 1) * dilation[a] + 1);
    let in_dims = [rng.int(1, 2), rng.int(1, 9), rng.int(1, 12)].map(|d| d + usize::from(large));
    let in_dims = [0, 1, 2].map(|a| in_dims[a].max(span[a].saturating_sub(pad[a] + end[a])));
    let out_dims = [0, 1, 2].map(|a| (in_dims[a] + pad[a] + end[a] - span[a]) / stride[a] + 1);
    let outputs = [rng.int(0, 40), 64, 16 * rng.int(1, 5)];
    let k = if depthwise { c } else { rng.pick(&outputs) };
    let (n, out_pitch, pitch) = (rng.int(0, 2), k + rng.int(0, 3), c + rng.int(0, 1) * rng.int(0, 5));
    let [d, h, w] = in_dims;
    let mut x_strides = [d * h * w * pitch, 1, h * w * pitch, w * pitch, pitch];
    if !depthwise && c <= PLANES && rng.int(0, 1) == 1 {
        // Channels are planes.
        x_strides = [c * d * h * w, d * h * w, h * w, w, 1];
    }
    let out_batch = out_dims.iter().product::<usize>() * out_pitch;
    let shifted = !depthwise && rng.int(0, 2) == 0;
    (IntConv { n, c, in_dims, k, kernel, stride, pad, dilation, out_dims, x_strides, out_pitch, out_batch, shifted }, end)
}

fn compare(rng: &mut Rng, depthwise: bool, large: bool) {
    let (g, _) = geometry(rng, depthwise, large);
    let zero = rng.pick(&[0u8, 255, 128, 7]);
    let extremes = rng.int(0, 3) == 0;
    let byte = |rng: &mut Rng, ends: [u8; 2]| if extremes { rng.pick(&ends) } else { rng.next() as u8 };
    let (per, inputs, taps) = (if depthwise { 1 } else { g.c }, g.n * g.x_strides[0], g.taps());
    let x: Vec<u8> = (0..inputs).map(|_| byte(rng, [0, 255])).collect();
    let wide = depthwise && rng.int(0, 2) == 0;
    let ends = if wide { [-255, 255] } else { [-128, 127] };
    let w: Vec<i16> = (0..g.k * per * taps)
        .map(|_| if extremes { rng.pick(&ends) } else { ends[0] + rng.int(0, (ends[1] - ends[0]) as usize) as i16 })
        .collect();
    let bytes: Vec<u8> = w.iter().map(|w| *w as u8).collect();
    let each = if rng.int(0, 1) == 0 { g.k } else { 1 };
    let w_zeros: Vec<u8> = (0..each).map(|_| if g.shifted { byte(rng, [0x80, 0x7f]) } else { 0 }).collect();
    // The operands with channels first.
    let [d, h, wd] = g.in_dims;
    let mut first = Vec::new();
    for (n, c) in (0..g.n).flat_map(|n| (0..g.c).map(move |c| (n, c))) {
        first.extend((0..d * h * wd).map(|p| x[n * g.x_strides[0] + p * g.x_strides[4] + c * g.x_strides[1]]));
    }
    let pixels = g.pixels();
    let signed: Vec<i16> = w_zeros.iter().map(|z| i16::from(*z as i8)).collect();
    let mut dense = vec![0; g.n * g.k * pixels];
    let three = |v: [usize; 3]| v.map(|x| x as i64);
    let dims = |n: usize, c: usize, d: [usize; 3]| [n, c, d[0], d[1], d[2]];
    if g.k > 0 {
        convolve(
            Out(&mut dense),
            In(&first),
            In(&w),
            In(&[zero]),
            Some(In(&signed)),
            &dims(g.n, g.c, g.in_dims),
            &dims(g.k, per, g.kernel),
            &dims(g.n, g.k, g.out_dims),
            Ints(&three(g.stride)),
            Ints(&three(g.pad)),
            Ints(&three(g.dilation)),
            if depthwise { g.c } else { 1 },
        );
    }
    let mut want = vec![UNTOUCHED; g.n * g.out_batch];
    for (i, v) in dense.iter().enumerate() {
        let (n, k, p) = (i / pixels / g.k, i / pixels % g.k, i % pixels);
        want[n * g.out_batch + p * g.out_pitch + k] = *v;
    }
    let alone = IntDepthwise { conv: g, wide };
    let mut packed = vec![0xaa; if depthwise { alone.packed_len() } else { g.packed_len() }];
    if depthwise {
        alone.pack_weights(&w, &mut packed)
    } else {
        g.pack_weights(&bytes, &mut packed)
    }
    let padded = pack_zeros(g.k, &w_zeros, false);
    let (tasks, floats) = match depthwise {
        true => (alone.tasks(), alone.scratch_floats()),
        false => (g.tasks(), g.scratch_floats()),
    };
    for (isa, tiles) in Isa::available().map(|isa| (isa, false)).chain([(Isa::detect(), Isa::detect().has_tiles())]) {
        for scattered in [false, true] {
            let mut got = vec![UNTOUCHED; want.len()];
            let to = got.as_mut_ptr() as usize;
            let scatter = |b: Block| {
                assert!(b.row + b.rows <= g.n * pixels && b.col + b.cols <= g.k);
                for (i, j) in (0..b.rows).flat_map(|i| (0..b.cols).map(move |j| (i, j))) {
                    let at = (b.row + i) / pixels * g.out_batch + (b.row + i) % pixels * g.out_pitch + b.col + j;
                    // SAFETY: the block lies inside of the output.
                    unsafe { *(to as *mut i32).add(at) = *b.out.add(i * b.pitch + j).cast::<i32>() };
                }
            };
            let mut scratch = vec![f32::NAN; floats];
            let out = if scattered { core::ptr::null_mut() } else { got.as_mut_ptr() };
            let epilogue: Epilogue = if scattered { Some(&scatter) } else { None };
            for task in (0..tasks).rev() {
                let (x, w, s) = (x.as_ptr(), packed.as_ptr(), scratch.as_mut_ptr());
                let zeros = if g.shifted { padded.as_ptr() } else { core::ptr::null() };
                // SAFETY: the arrays have the sizes that the kernel asks for.
                unsafe {
                    match depthwise {
                        true => alone.run_task(isa, task, x, zero, w, out, s, epilogue),
                        false => g.run(isa, tiles, task, (x, zero), (w, zeros), out, s, epilogue),
                    }
                }
            }
            assert!(got == want, "{g:?}, zero {zero}, {}, tiles {tiles}, scattered {scattered}", isa.name());
        }
    }
}

#[test]
fn convolutions_equal_the_plain_ones() {
    let mut rng = Rng(11);
    for i in 0..160 {
        compare(&mut rng, false, i % 16 == 0);
    }
}

#[test]
fn depthwise_convolutions_equal_the_plain_ones() {
    let mut rng = Rng(12);
    for i in 0..120 {
        compare(&mut rng, true, i % 16 == 0);
    }
}
