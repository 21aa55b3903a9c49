//! Kernels over the pixels of channels-last images on a GPU: normalizations of groups of channels, and resizing.

use super::super::expr::cuda as expr;
use super::super::{Printer, int};
use super::epilogue::{Ends, Rows};
use super::sheet::Sheet;
use super::windows::THREADS;
use super::{COUNTERS, Kernels, Launch};
use crate::ir::{Dim, ValueId, product};
use crate::kernel::Kernel;
use quote::quote;

/// Channels of a block that looks for means and variances, and its threads.
const CHANNELS: usize = 32;
const WIDE: usize = 256;
/// Pixels that a share of them has at least, and shares at most.
const SHARE: usize = 512;
const SHARES: usize = 64;
/// Bytes of what is known of some numbers: how many, their mean, the squares of their distances from it.
const MOMENTS: usize = 3 * size_of::<f32>();

impl Printer<'_> {
    /// Whether `by` neighbouring channels of pixels with these steps are read or written at once.
    fn neighbours_by(&self, v: ValueId, channels: &Dim, steps: &[Dim], by: usize) -> bool {
        let even = self.multiple(channels, by) && steps.iter().all(|s| self.multiple(s, by));
        even && self.begins_at(v, by) && self.plan.stored(v).size() * by <= 16
    }

    pub(super) fn pixel_norm_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::PixelNorm { epsilon, sizes, x, x_steps, out_steps, scale, bias, epilogue } = &s.step.kernel else { return Vec::new() };
        let [n, pixels, groups, channels] = sizes;
        let all = groups.clone() * channels.clone();
        let [images, group_count, channel_count] = [n, groups, &all].map(|d| d.as_int().unwrap_or(0).max(0) as usize);
        let shares = (self.likely(pixels) / SHARE).clamp(1, SHARES);
        // Behind the counters lie mean and inverse of each group, then what the blocks have found.
        let found = COUNTERS * size_of::<u32>();
        let means = images * group_count * 2 * size_of::<f32>();
        kernels.partial = kernels.partial.max(means + images * shares * channel_count * MOMENTS);
        let fields = [
            ("n", n.clone()),
            ("pixels", pixels.clone()),
            ("groups", groups.clone()),
            ("channels", channels.clone()),
            ("by_n", x_steps[1].clone()),
            ("by_p", x_steps[0].clone()),
        ];
        let more = format!(" static constexpr float epsilon = {};", expr::float(*epsilon));
        let (first, second) = (int(found), int(found + means));
        let mut before = Sheet::new(self, s.step);
        let (at, geometry) = (before.reads(*x), before.geometry("G", &fields, &more));
        let counters = before.word("unsigned*", quote!(f.device_scratch(0)));
        let known = before.word("float*", quote!(f.device_scratch(#first)));
        let partial = before.word("Moments*", quote!(f.device_scratch(#second)));
        let grid = [self.blocks(&all, CHANNELS), before.layers('y', n), {
            let shares = int(shares);
            quote!(#shares)
        }];
        let body = format!("moments_of_pixels({at}, {geometry}, {partial}, {known}, {counters});");
        let mut launches = before.launch(kernels, grid, WIDE, WIDE * MOMENTS, &body);

        let even = n.is(1) || out_steps[1] == pixels.clone() * out_steps[0].clone();
        let rows = Rows {
            pitch: out_steps[0].clone(),
            images: (!even).then(|| (pixels.clone(), out_steps[1].clone())),
            cols: all.clone(),
            batch: Vec::new(),
        };
        let by = [4, 2].into_iter().find(|v| self.neighbours_by(*x, &all, x_steps, *v)).unwrap_or(1);
        // The functor knows whether fewer neighbours can be stored at once.
        let (functor, by) = self.functor(&mut s, &rows, Ends::of(None, epilogue.as_ref()), by);
        let (at, geometry) = (s.reads(*x), s.geometry("G", &fields, &more));
        let known = s.word("const float*", quote!(f.device_scratch(#first)));
        let (scale, bias) = (s.reads(*scale), s.reads(*bias));
        let threads = n.clone() * pixels.clone() * Dim::int((channel_count / by) as i64);
        let grid = [self.blocks(&threads, THREADS), quote!(1), quote!(1)];
        let body = format!("norm_of_pixels<{by}>({at}, {known}, {scale}, {bias}, {geometry}, {functor});");
        launches.extend(s.launch(kernels, grid, THREADS, 0, &body));
        launches
    }

    pub(super) fn resize_on_gpu(&self, mut s: Sheet<'_>, kernels: &mut Kernels) -> Vec<Launch> {
        let Kernel::Resize { words, cubic, exclude, scales, sizes, x, x_steps, out_steps } = &s.step.kernel else { return Vec::new() };
        let [n, height, width, to_height, to_width, c] = sizes;
        let mode = match words[0] {
            "nearest" => "Nearest",
            "cubic" => "Cubic",
            _ => "Linear",
        };
        let coordinates = match words[1] {
            "align_corners" => "AlignCorners",
            "asymmetric" => "Asymmetric",
            "pytorch_half_pixel" => "PytorchHalfPixel",
            "tf_half_pixel_for_nn" => "TfHalfPixelForNn",
            "half_pixel_symmetric" => "HalfPixelSymmetric",
            _ => "HalfPixel",
        };
        let rounding = match words[2] {
            "round_prefer_ceil" => "PreferCeil",
            "floor" => "Floor",
            "ceil" => "Ceil",
            _ => "PreferFloor",
        };
        s.constants(
            "R",
            &format!(
                "static constexpr Mode mode = Mode::{mode}; static constexpr Coordinates coordinates = Coordinates::{coordinates}; static constexpr Rounding rounding = Rounding::{rounding}; static constexpr float cubic = {}; static constexpr bool exclude = {exclude};",
                expr::float(*cubic)
            ),
        );
        let of = [
            ("n", n),
            ("c", c),
            ("height", height),
            ("width", width),
            ("to_height", to_height),
            ("to_width", to_width),
            ("x_pixel", &x_steps[0]),
            ("x_image", &x_steps[1]),
            ("out_pixel", &out_steps[0]),
            ("out_image", &out_steps[1]),
        ];
        let fields: Vec<(&str, Dim)> = of.into_iter().map(|(name, d)| (name, d.clone())).collect();
        let [vertical, horizontal] = scales.map(expr::float);
        let more = format!(" static constexpr float scale_h = {vertical}, scale_w = {horizontal};");
        let out = s.step.outputs[0];
        let by = [8, 4, 2].into_iter().find(|v| self.neighbours_by(*x, c, x_steps, *v) && self.neighbours_by(out, c, out_steps, *v));
        let by = by.unwrap_or(1);
        let (at, o, geometry) = (s.reads(*x), s.writes(out), s.geometry("G", &fields, &more));
        let all = product(&[n, to_height, to_width, c].map(Clone::clone));
        let grid = [self.blocks(&all, THREADS * by), quote!(1), quote!(1)];
        s.launch(kernels, grid, THREADS, 0, &format!("resize<@_::R, {by}>({at}, {o}, {geometry});"))
    }
}
