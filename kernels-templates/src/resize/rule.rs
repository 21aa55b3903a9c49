//! Which input positions a position of a resized axis reads, with their weights.

/// How positions of an axis are read, in the words of [Resize](https://onnx.ai/onnx/operators/onnx__Resize.html).
#[derive(Clone, Copy, Debug)]
pub struct Rule<'a> {
    /// `nearest`, `linear` or `cubic`.
    pub mode: &'a str,
    /// Whether the filter widens where the extent shrinks.
    pub antialias: bool,
    /// The coordinate transformation.
    pub coordinates: &'a str,
    /// How `nearest` rounds.
    pub nearest: &'a str,
    /// The coefficient of `cubic`.
    pub cubic: f64,
    /// Whether positions outside count as nothing, rather than as the edge.
    pub exclude: bool,
}

/// An axis that is resized.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// Extent of the input.
    pub from: usize,
    /// Extent of the result.
    pub to: usize,
    /// The factor between them, as the model has it.
    pub scale: f64,
    /// The region of `tf_crop_and_resize`: its start and its end.
    pub region: (f64, f64),
}

impl Rule<'_> {
    /// The most positions that one reads without `antialias`.
    pub const MOST: usize = 4;

    /// Calls `f` with the input positions that position `i` reads, those outside moved to the edge, and their weights; with none where
    /// it is outside of the region.
    #[inline]
    pub fn taps(&self, axis: &Axis, i: usize, mut f: impl FnMut(usize, f64)) {
        let crop = self.coordinates == "tf_crop_and_resize";
        if axis.from == axis.to && axis.scale == 1.0 && !crop {
            return f(i, 1.0);
        }
        let n = axis.from;
        let x = self.coordinate(axis, i);
        if crop && (x < 0.0 || x > n as f64 - 1.0) {
            return;
        }
        let clamp = |p: i64| p.clamp(0, n as i64 - 1) as usize;
        if self.mode == "nearest" {
            let p = match self.nearest {
                "round_prefer_ceil" => (x + 0.5).floor(),
                "floor" => x.floor(),
                "ceil" => x.ceil(),
                _ => (x - 0.5).ceil(),
            };
            return f(clamp(p as i64), 1.0);
        }
        // Antialiasing widens the filter when the extent shrinks.
        let stretch = if self.antialias { axis.scale.min(1.0) } else { 1.0 };
        let radius = if self.mode == "cubic" { 2.0 } else { 1.0 } / stretch;
        let (first, last) = if self.antialias {
            ((x - radius).floor() as i64 + 1, (x + radius).ceil() as i64 - 1)
        } else {
            let base = x.floor() as i64;
            if self.mode == "cubic" { (base - 1, base + 2) } else { (base, base + 1) }
        };
        let weight = |p: i64| match self.exclude && !(0..n as i64).contains(&p) {
            true => 0.0,
            false => self.filter(((p as f64 - x) * stretch).abs()),
        };
        let sum: f64 = if self.exclude || self.antialias { (first..=last).map(weight).sum() } else { 1.0 };
        let sum = if sum == 0.0 { 1.0 } else { sum };
        (first..=last).for_each(|p| f(clamp(p), weight(p) / sum));
    }

    /// The weight of what lies that far off.
    fn filter(&self, d: f64) -> f64 {
        let a = self.cubic;
        match self.mode {
            "cubic" if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            "cubic" if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            "cubic" => 0.0,
            _ => (1.0 - d).max(0.0),
        }
    }

    /// Where in the input a position lies.
    fn coordinate(&self, axis: &Axis, i: usize) -> f64 {
        let (x, n, m, scale) = (i as f64, axis.from as f64, axis.to as f64, axis.scale);
        match self.coordinates {
            "align_corners" => {
                // The extent before it is rounded down, unless only the rounding of the scale makes the difference.
                let exact = scale * n;
                let exact = if (exact - m).abs() < 1e-4 * m { m } else { exact };
                if exact == 1.0 { 0.0 } else { x * (n - 1.0) / (exact - 1.0) }
            }
            "asymmetric" => x / scale,
            "pytorch_half_pixel" if axis.to > 1 => (x + 0.5) / scale - 0.5,
            "pytorch_half_pixel" => 0.0,
            "tf_half_pixel_for_nn" => (x + 0.5) / scale,
            "half_pixel_symmetric" => {
                let adjust = m / (scale * n);
                let center = n / 2.0;
                center * (1.0 - adjust) + (x + 0.5) / scale - 0.5
            }
            "tf_crop_and_resize" => {
                let (start, end) = axis.region;
                match axis.to > 1 {
                    true => start * (n - 1.0) + x * (end - start) * (n - 1.0) / (m - 1.0),
                    false => 0.5 * (start + end) * (n - 1.0),
                }
            }
            _ => (x + 0.5) / scale - 0.5,
        }
    }
}
