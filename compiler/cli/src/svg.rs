//! The picture of a roofline: achieved operations a second over operations a byte, on logarithmic axes, as one self-contained SVG.

use crate::roofline::{Layer, Machine, bound};
use std::fmt::Write as _;

/// Text as XML and HTML show it: names in models are data.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML has no way to write these.
            c if (c as u32) < 32 || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

const WIDTH: f64 = 1100.0;
const HEIGHT: f64 = 660.0;
/// The plot: left, top, right, bottom.
const PLOT: [f64; 4] = [78.0, 64.0, 800.0, 590.0];
const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1b1f24}.t{font-size:17px;font-weight:600}.d{fill:#68707a}.g{stroke:#e6e9ed}.m{stroke:#f3f5f7}\
.r{fill:none;stroke:#4b5563;stroke-width:1.6}.c{fill:none;stroke:#4b5563;stroke-width:1.2;stroke-dasharray:6 4}.l{font-size:11px;fill:#4b5563}\
circle{fill-opacity:.55;stroke-width:1.2}circle:hover{fill-opacity:.95}";
/// Colours of algorithms, in the order in which they turn up.
const COLOURS: [&str; 8] = ["#1c7ed6", "#d9480f", "#2b8a3e", "#9c36b5", "#e8a600", "#0c8599", "#c2255c", "#5c5f66"];

/// Both axes, in powers of ten: where they begin and end.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn of(layers: &[Layer], machine: &Machine) -> Axes {
        let around = |least: f64, most: f64| ((least / 1.6).log10(), (most * 1.6).log10());
        let computing = || layers.iter().filter(|l| l.flops > 0.0);
        let most = |xs: &mut dyn Iterator<Item = f64>, otherwise: f64| xs.fold(otherwise, f64::max);
        let least = |xs: &mut dyn Iterator<Item = f64>, otherwise: f64| xs.fold(otherwise, f64::min);
        let top = most(&mut used(layers, machine).iter().map(|r| r.1), 1e9);
        // The highest roof is seen to begin.
        let x = around(
            least(&mut computing().map(Layer::intensity), 1.0),
            most(&mut computing().map(Layer::intensity), (top / machine.memory * 1.5).max(10.0)),
        );
        let rates = || layers.iter().map(|l| l.flops.max(l.bytes * 10f64.powf(x.0)) / l.seconds.max(1e-12));
        let y = around(least(&mut rates().filter(|r| *r > 0.0), top / 100.0), most(&mut rates(), top));
        Axes { x, y }
    }
    /// Where operations a byte lie.
    fn across(&self, intensity: f64) -> f64 {
        let part = (intensity.max(1e-300).log10() - self.x.0) / (self.x.1 - self.x.0);
        PLOT[0] + part.clamp(0.0, 1.0) * (PLOT[2] - PLOT[0])
    }
    /// Where operations a second lie.
    fn up(&self, rate: f64) -> f64 {
        let part = (rate.max(1e-300).log10() - self.y.0) / (self.y.1 - self.y.0);
        PLOT[3] - part.clamp(0.0, 1.0) * (PLOT[3] - PLOT[1])
    }
}

/// The roofs that some layer has, by name, with their rates, the highest first.
fn used(layers: &[Layer], machine: &Machine) -> Vec<(&'static str, f64)> {
    let mut out: Vec<(&'static str, f64)> = Vec::new();
    for r in layers.iter().filter(|l| l.flops > 0.0).filter_map(|l| machine.roof(&l.algorithm)) {
        if r.rate > 0.0 && out.iter().all(|(name, _)| *name != r.name) {
            out.push((r.name, r.rate));
        }
    }
    out.sort_by(|a, b| b.1.total_cmp(&a.1));
    out
}

/// A power of ten of a unit, as it is said: `10 G`, `1 T`.
fn said(power: i32) -> String {
    let (unit, rest) = match power {
        12.. => ("T", power - 12),
        9.. => ("G", power - 9),
        6.. => ("M", power - 6),
        3.. => ("k", power - 3),
        _ => ("", power),
    };
    match rest {
        0.. => format!("{} {unit}", 10i64.pow(rest.min(18) as u32)),
        _ => format!("{:.*} {unit}", rest.unsigned_abs() as usize, 10f64.powi(rest)),
    }
}

/// The picture of a model's layers under the machine's roofs.
pub(crate) fn roofline(title: &str, machine: &Machine, layers: &[Layer]) -> String {
    let a = Axes::of(layers, machine);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
         <title>Roofline of {title}</title><style>{STYLE}</style><rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
         <text class=\"t\" x=\"{x}\" y=\"30\">{title}</text>\
         <text class=\"d\" x=\"{x}\" y=\"49\">{n} layers, {ms:.2} ms of kernels; {threads}, {isa}</text>\n",
        title = escape(title),
        x = PLOT[0],
        n = layers.len(),
        ms = milliseconds(layers),
        threads = machine.said(),
        isa = machine.isa.name(),
    );
    grid(&mut out, &a);
    roofs(&mut out, &a, machine, layers);
    let colours = points(&mut out, &a, layers);
    legend(&mut out, layers, &colours);
    out.push_str("</svg>\n");
    out
}

/// What all steps of a run take: each one's time stands for its share.
fn milliseconds(layers: &[Layer]) -> f64 {
    let (most, share) = layers.iter().fold((0.0, 0.0), |m, l| if l.share > m.1 { (l.seconds, l.share) } else { m });
    if share > 0.0 { most / share * 1e3 } else { 0.0 }
}

/// Whether a value is on an axis.
fn inside(v: f64, axis: (f64, f64)) -> bool {
    (axis.0..=axis.1).contains(&v.log10())
}

fn grid(out: &mut String, a: &Axes) {
    let [left, top, right, bottom] = PLOT;
    for power in a.x.0.floor() as i32..=a.x.1.floor() as i32 {
        for step in 1..10 {
            let v = f64::from(step) * 10f64.powi(power);
            if !inside(v, a.x) {
                continue;
            }
            let (x, class) = (a.across(v), if step == 1 { "g" } else { "m" });
            let _ = writeln!(out, "<path class=\"{class}\" d=\"M{x:.1} {top}V{bottom}\"/>");
        }
        if !inside(10f64.powi(power), a.x) {
            continue;
        }
        let label =
            if power >= 0 { format!("{}", 10f64.powi(power)) } else { format!("{:.*}", power.unsigned_abs() as usize, 10f64.powi(power)) };
        let _ =
            writeln!(out, "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>", a.across(10f64.powi(power)), bottom + 18.0);
    }
    for power in a.y.0.floor() as i32..=a.y.1.floor() as i32 {
        for step in 1..10 {
            let v = f64::from(step) * 10f64.powi(power);
            if !inside(v, a.y) {
                continue;
            }
            let (y, class) = (a.up(v), if step == 1 { "g" } else { "m" });
            let _ = writeln!(out, "<path class=\"{class}\" d=\"M{left} {y:.1}H{right}\"/>");
        }
        if !inside(10f64.powi(power), a.y) {
            continue;
        }
        let y = a.up(10f64.powi(power)) + 4.0;
        let _ = writeln!(out, "<text x=\"{}\" y=\"{y:.1}\" text-anchor=\"end\">{}</text>", left - 8.0, said(power));
    }
    let middle = (top + bottom) / 2.0;
    let _ = writeln!(
        out,
        "<rect x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#adb5bd\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">operations a byte</text>\
         <text x=\"20\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 20 {middle})\">operations a second</text>",
        right - left,
        bottom - top,
        (left + right) / 2.0,
        bottom + 40.0
    );
}

fn roofs(out: &mut String, a: &Axes, machine: &Machine, layers: &[Layer]) {
    let used = used(layers, machine);
    let top = used.first().map_or(1e9, |r| r.1);
    let floor = 10f64.powf(a.y.0);
    for (name, bandwidth, class) in [("memory", machine.memory, "r"), ("second-level cache", machine.cache, "c")] {
        // From the left or the lower border up to the highest roof.
        let from = (floor / bandwidth).max(10f64.powf(a.x.0));
        let to = (top / bandwidth).min(10f64.powf(a.x.1));
        let (x1, y1, x2, y2) = (a.across(from), a.up(from * bandwidth), a.across(to), a.up(to * bandwidth));
        let angle = (y2 - y1).atan2(x2 - x1).to_degrees();
        let (x, y) = (x1 + (x2 - x1) * 0.08, y1 + (y2 - y1) * 0.08 - 6.0);
        let _ = writeln!(
            out,
            "<path class=\"{class}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>\
             <text class=\"l\" x=\"{x:.1}\" y=\"{y:.1}\" transform=\"rotate({angle:.1} {x:.1} {y:.1})\">{name}, {:.1} GB/s</text>",
            bandwidth / 1e9
        );
    }
    let mut last = f64::NEG_INFINITY;
    for (name, rate) in used {
        let (x, y) = (a.across(rate / machine.cache), a.up(rate));
        // A label stands above its roof, or below it where another roof is close.
        let label = if y - last < 18.0 { y + 13.0 } else { y - 5.0 };
        last = y;
        let _ = writeln!(
            out,
            "<path class=\"r\" d=\"M{x:.1} {y:.1}H{right}\"/><text class=\"l\" x=\"{at}\" y=\"{label:.1}\" text-anchor=\"end\">{name}, {:.0} GFLOP/s</text>",
            rate / 1e9,
            right = PLOT[2],
            at = PLOT[2] - 6.0
        );
    }
}

/// A point a layer, the large ones first so that small ones are not hidden; gives the colour of each algorithm.
fn points(out: &mut String, a: &Axes, layers: &[Layer]) -> Vec<(String, &'static str)> {
    let mut colours: Vec<(String, &'static str)> = Vec::new();
    let mut order: Vec<&Layer> = layers.iter().collect();
    order.sort_by(|a, b| b.share.total_cmp(&a.share));
    for l in &order {
        let kind = shown(l);
        if colours.iter().all(|(k, _)| *k != kind) {
            let next = COLOURS[colours.len() % COLOURS.len()];
            colours.push((kind, next));
        }
    }
    for l in order {
        let kind = shown(l);
        let colour = colours.iter().find(|(k, _)| *k == kind).map_or(COLOURS[0], |c| c.1);
        // What only moves bytes stands at the left border, as high above or below the lines of bytes as it is faster or slower.
        let (intensity, rate) = match l.flops > 0.0 {
            true => (l.intensity(), l.flops / l.seconds.max(1e-12)),
            false => (10f64.powf(a.x.0), 10f64.powf(a.x.0) * l.bytes / l.seconds.max(1e-12)),
        };
        let fill = if l.flops > 0.0 { colour } else { "none" };
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{:.1}\" fill=\"{fill}\" stroke=\"{colour}\"><title>{}\n{} ({})\n{:.1} µs, {:.1}% of the time\n\
             {:.2} GFLOP/s at {:.2} FLOP/B\n{:.0}% of what {} allow</title></circle>",
            a.across(intensity),
            a.up(rate),
            radius(l.share),
            escape(&l.name),
            escape(&l.kernel),
            escape(&l.algorithm),
            l.seconds * 1e6,
            l.share * 100.0,
            l.flops / l.seconds.max(1e-12) / 1e9,
            l.intensity(),
            l.achieved() * 100.0,
            match bound(l) {
                "operations" => "the operations",
                "cache" => "the bytes of the cache",
                _ => "the bytes of memory",
            }
        );
    }
    colours
}

/// Areas are shares of the time.
fn radius(share: f64) -> f64 {
    2.5 + 36.0 * share.max(0.0).sqrt()
}

/// What colours tell apart.
fn shown(l: &Layer) -> String {
    if l.algorithm == "vectors" { l.algorithm.clone() } else { format!("{}, {}", l.kernel, l.algorithm) }
}

fn legend(out: &mut String, layers: &[Layer], colours: &[(String, &'static str)]) {
    let x = PLOT[2] + 22.0;
    let mut y = PLOT[1] + 10.0;
    for (kind, colour) in colours {
        let of = || layers.iter().filter(|l| shown(l) == *kind);
        let (share, allowed) = (of().map(|l| l.share).sum::<f64>(), of().map(|l| l.share * l.achieved()).sum::<f64>());
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"5\" fill=\"{colour}\" stroke=\"{colour}\"/><text x=\"{:.1}\" y=\"{y:.1}\">{}</text>\
             <text class=\"d\" x=\"{:.1}\" y=\"{:.1}\">{:.1}% of the time, at {:.0}% of attainable</text>",
            x + 5.0,
            y - 4.0,
            x + 18.0,
            escape(kind),
            x + 18.0,
            y + 15.0,
            share * 100.0,
            allowed / share.max(1e-12) * 100.0
        );
        y += 38.0;
    }
    y += 12.0;
    for share in [0.01, 0.05, 0.2] {
        let r = radius(share);
        y += r.max(8.0);
        let _ = writeln!(
            out,
            "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"{r:.1}\" fill=\"none\" stroke=\"#68707a\"/><text class=\"d\" x=\"{:.1}\" y=\"{:.1}\">{:.0}% of the time</text>",
            x + 20.0,
            x + 48.0,
            y + 4.0,
            share * 100.0
        );
        y += r.max(8.0) + 6.0;
    }
    let _ = writeln!(out, "<text class=\"d\" x=\"{x:.1}\" y=\"{:.1}\">hollow: moves bytes only</text>", y + 14.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_said() {
        assert_eq!([said(12), said(10), said(0), said(-2)], ["1 T", "10 G", "1 ", "0.01 "]);
    }

    #[test]
    fn text_cannot_leave_its_place() {
        assert_eq!(escape("<a href=\"x\">&\u{1}\n"), "&lt;a href=&quot;x&quot;&gt;&amp;  ");
    }
}
