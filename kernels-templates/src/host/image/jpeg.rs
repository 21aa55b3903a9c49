//! JPEG by Huffman codes, sequential or progressive, of 8 bits, gray or in three components (ITU-T T.81).

use super::{Picture, room};
use alloc::{vec, vec::Vec};

/// Where the coefficients of a block lie, in the order in which they are stored.
const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28, 35, 42, 49, 56,
    57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// A code: of each length, the first word, how many there are, and where their symbols begin.
#[derive(Clone, Default)]
struct Code {
    lengths: Vec<[i32; 3]>,
    symbols: Vec<u8>,
}

struct Component {
    id: u8,
    /// Blocks beside and above each other in a unit.
    h: usize,
    v: usize,
    table: usize,
    /// Blocks of a row and rows, in whole units.
    across: usize,
    down: usize,
    blocks: Vec<[i16; 64]>,
    last: i32,
}

/// Bits of a scan, in which a byte 255 is followed by 0.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u32,
    count: u32,
    /// Bytes read behind the end.
    spent: u32,
}

impl Bits<'_> {
    /// The next bit; 0 behind the end, which a marker is.
    fn bit(&mut self) -> i32 {
        if self.count == 0 {
            self.held = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(255), Some(0)) => {
                    self.at += 2;
                    255
                }
                (Some(255), _) | (None, _) => {
                    self.spent += 1;
                    0
                }
                (Some(byte), _) => {
                    self.at += 1;
                    *byte as u32
                }
            };
            self.count = 8;
        }
        self.count -= 1;
        (self.held >> self.count & 1) as i32
    }
    fn bits(&mut self, n: i32) -> i32 {
        (0..n).fold(0, |v, _| v << 1 | self.bit())
    }
    /// A number of `n` bits, of which the lower half stands for negative ones.
    fn signed(&mut self, n: i32) -> i32 {
        let v = self.bits(n);
        if n > 0 && v < 1 << (n - 1) { v - (1 << n) + 1 } else { v }
    }
    fn symbol(&mut self, code: &Code) -> Option<i32> {
        // A scan may lack its last bits, not more.
        if self.spent > 16 {
            return None;
        }
        let mut word = 0;
        for [first, count, at] in &code.lengths {
            word = word << 1 | self.bit();
            if word - first < *count {
                return code.symbols.get((at + word - first) as usize).map(|s| *s as i32);
            }
        }
        None
    }
    /// Steps over a marker of restart.
    fn restart(&mut self) {
        (self.count, self.spent) = (0, 0);
        if self.data.get(self.at) == Some(&255) && self.data.get(self.at + 1).is_some_and(|b| (0xd0..0xd8).contains(b)) {
            self.at += 2;
        }
    }
}

fn word(data: &[u8], at: usize) -> Option<usize> {
    Some((*data.get(at)? as usize) << 8 | *data.get(at + 1)? as usize)
}

/// What a scan says of itself: the first and last coefficient, and the bits that came before and come now.
#[derive(Clone, Copy)]
struct Scan {
    first: usize,
    last: usize,
    high: i32,
    low: i32,
}

/// One block of a scan; `run` counts blocks that have nothing more.
fn block(bits: &mut Bits<'_>, s: Scan, dc: &Code, ac: &Code, c: &mut [i16; 64], last: &mut i32, run: &mut i32) -> Option<()> {
    let mut k = s.first;
    if k == 0 {
        if s.high == 0 {
            let n = bits.symbol(dc)?;
            if n > 15 {
                return None;
            }
            *last = last.wrapping_add(bits.signed(n));
            c[0] = (*last << s.low) as i16;
        } else if bits.bit() == 1 {
            c[0] |= 1 << s.low;
        }
        k = 1;
    }
    if s.last == 0 {
        return Some(());
    }
    if s.high == 0 {
        if *run > 0 {
            *run -= 1;
            return Some(());
        }
        while k <= s.last {
            let v = bits.symbol(ac)?;
            let (zeros, n) = (v >> 4, v & 15);
            if n == 0 {
                if zeros < 15 {
                    *run = (1 << zeros) - 1 + bits.bits(zeros);
                    break;
                }
                k += 16;
                continue;
            }
            k += zeros as usize;
            *c.get_mut(*ZIGZAG.get(k)?)? = (bits.signed(n) << s.low) as i16;
            k += 1;
        }
        return Some(());
    }
    // One more bit of those that are there, and new ones of one bit between them.
    let one = 1i16 << s.low;
    let refine = |bits: &mut Bits<'_>, x: &mut i16| {
        if bits.bit() == 1 && *x & one == 0 {
            *x = x.wrapping_add(if *x > 0 { one } else { -one });
        }
    };
    if *run == 0 {
        while k <= s.last {
            let v = bits.symbol(ac)?;
            let (mut zeros, n) = (v >> 4, v & 15);
            let mut new = 0;
            if n == 0 {
                if zeros < 15 {
                    *run = (1 << zeros) + bits.bits(zeros);
                    break;
                }
            } else {
                new = if bits.bit() == 1 { one } else { -one };
            }
            while k <= s.last {
                let x = &mut c[ZIGZAG[k]];
                k += 1;
                if *x != 0 {
                    refine(bits, x);
                } else if zeros == 0 {
                    *x = new;
                    break;
                } else {
                    zeros -= 1;
                }
            }
        }
    }
    if *run > 0 {
        while k <= s.last {
            let x = &mut c[ZIGZAG[k]];
            if *x != 0 {
                refine(bits, x);
            }
            k += 1;
        }
        *run -= 1;
    }
    Some(())
}

/// Eight numbers transformed, 2^13 times: the scheme of Loeffler, Ligtenberg and Moschytz in whole numbers, which decoders agree on.
fn octet(x: [i64; 8]) -> [i64; 8] {
    let z = (x[2] + x[6]) * 4433;
    let (a, b) = (z - x[6] * 15137, z + x[2] * 6270);
    let (c, d) = ((x[0] + x[4]) << 13, (x[0] - x[4]) << 13);
    let even = [c + b, d + a, d - a, c - b];
    let all = (x[7] + x[3] + x[5] + x[1]) * 9633;
    let (p, q) = ((x[7] + x[1]) * -7373, (x[5] + x[3]) * -20995);
    let (r, s) = ((x[7] + x[3]) * -16069 + all, (x[5] + x[1]) * -3196 + all);
    let odd = [x[1] * 12299 + p + s, x[3] * 25172 + q + r, x[5] * 16819 + q + s, x[7] * 2446 + p + r];
    core::array::from_fn(|i| if i < 4 { even[i] + odd[i] } else { even[7 - i] - odd[7 - i] })
}

/// The pixels of a block, from its coefficients.
fn inverse(c: &[i16; 64], table: &[u16; 64]) -> [u8; 64] {
    let mut rows = [0i64; 64];
    for x in 0..8 {
        let column = octet(core::array::from_fn(|v| c[v * 8 + x] as i64 * table[v * 8 + x] as i64));
        for (y, v) in column.into_iter().enumerate() {
            rows[y * 8 + x] = (v + (1 << 10)) >> 11;
        }
    }
    let mut out = [0u8; 64];
    for y in 0..8 {
        let row = octet(core::array::from_fn(|u| rows[y * 8 + u]));
        for (x, v) in row.into_iter().enumerate() {
            out[y * 8 + x] = (((v + (1 << 17)) >> 18) + 128).clamp(0, 255) as u8;
        }
    }
    out
}

/// A component widened: each sample stands for `h` by `v` pixels. Between two samples lie a quarter and three quarters of each.
fn widened(plane: &[u8], w: usize, height: usize, pitch: usize, h: usize, v: usize) -> (Vec<u8>, usize) {
    let at = |y: usize, x: usize| plane[y * pitch + x] as i32;
    let mut out = vec![0u8; w * h * height * v];
    let wide = w * h;
    for y in 0..height * v {
        let near = y / v;
        for x in 0..wide {
            let (i, right) = (x / h, x % 2 == 1);
            let beside = if right { (i + 1).min(w - 1) } else { i.saturating_sub(1) };
            out[y * wide + x] = match (h, v) {
                (2, 1) if beside == i => at(near, i) as u8,
                (2, 1) => ((3 * at(near, i) + at(near, beside) + 1 + right as i32) >> 2) as u8,
                (2, 2) => {
                    let far = if y % 2 == 1 { (near + 1).min(height - 1) } else { near.saturating_sub(1) };
                    let sum = |x: usize| 3 * at(near, x) + at(far, x);
                    ((3 * sum(i) + sum(beside) + if right { 7 } else { 8 }) >> 4) as u8
                }
                _ => at(near, i) as u8,
            };
        }
    }
    (out, wide)
}

/// The picture that a file holds; `None` where it is damaged or of another kind.
pub(super) fn jpeg(data: &[u8]) -> Option<Picture> {
    let mut tables = [[1u16; 64]; 4];
    let mut codes = [vec![Code::default(); 4], vec![Code::default(); 4]];
    let mut parts: Vec<Component> = Vec::new();
    let (mut width, mut height, mut every, mut rgb) = (0, 0, 0, false);
    let (mut most_h, mut most_v) = (1, 1);
    let mut at = 2;
    loop {
        // Bytes between markers are skipped.
        while data.get(at)? != &255 || matches!(data.get(at + 1)?, 0 | 255) {
            at += 1;
        }
        let marker = data[at + 1];
        if marker == 0xd9 {
            break;
        }
        if (0xd0..=0xd8).contains(&marker) || marker == 1 {
            at += 2;
            continue;
        }
        let len = word(data, at + 2)?;
        let body = data.get(at + 4..(at + 2 + len).max(at + 4))?;
        at += 2 + len;
        match marker {
            0xdb => {
                let mut k = 0;
                while k < body.len() {
                    let (size, id) = ((body[k] >> 4) as usize + 1, body[k] as usize & 3);
                    for (i, z) in ZIGZAG.iter().enumerate() {
                        tables[id][*z] = if size == 2 { word(body, k + 1 + 2 * i)? as u16 } else { *body.get(k + 1 + i)? as u16 };
                    }
                    k += 1 + 64 * size;
                }
            }
            0xc4 => {
                let mut k = 0;
                while k < body.len() {
                    let (class, id) = ((body[k] >> 4) as usize & 1, body[k] as usize & 3);
                    let counts = body.get(k + 1..k + 17)?;
                    let (mut first, mut from) = (0i32, 0i32);
                    let mut code = Code::default();
                    for n in counts {
                        code.lengths.push([first, *n as i32, from]);
                        first = (first + *n as i32) << 1;
                        from += *n as i32;
                    }
                    code.symbols = body.get(k + 17..k + 17 + from as usize)?.to_vec();
                    codes[class][id] = code;
                    k += 17 + from as usize;
                }
            }
            0xc0..=0xc2 => {
                (height, width) = (word(body, 1)?, word(body, 3)?);
                let count = *body.get(5)? as usize;
                if body[0] != 8 || !matches!(count, 1 | 3) || !parts.is_empty() || width == 0 || height == 0 {
                    return None;
                }
                room(width, height, 3)?;
                let fields = body.get(6..6 + 3 * count)?;
                let factors = |p: &[u8]| ((p[1] >> 4) as usize, (p[1] & 15) as usize);
                let sound = |(h, v): (usize, usize)| (1..=4).contains(&h) && (1..=4).contains(&v);
                if !fields.chunks_exact(3).all(|p| sound(factors(p))) {
                    return None;
                }
                // One component has no units: its blocks follow each other.
                let lone = count == 1;
                let of = |p: &[u8]| if lone { (1, 1) } else { factors(p) };
                most_h = fields.chunks_exact(3).map(|p| of(p).0).max()?;
                most_v = fields.chunks_exact(3).map(|p| of(p).1).max()?;
                for p in fields.chunks_exact(3) {
                    let (h, v) = of(p);
                    let (across, down) = (width.div_ceil(8 * most_h) * h, height.div_ceil(8 * most_v) * v);
                    let blocks = vec![[0; 64]; across * down];
                    parts.push(Component { id: p[0], h, v, table: p[2] as usize & 3, across, down, blocks, last: 0 });
                }
            }
            0xc3 | 0xc5..=0xcf => return None,
            0xdd => every = word(body, 0)?,
            0xee if body.starts_with(b"Adobe") => rgb = body.get(11) == Some(&0),
            0xda => {
                let count = *body.first()? as usize;
                let mut members = Vec::new();
                for k in 0..count {
                    let (id, t) = (*body.get(1 + 2 * k)?, *body.get(2 + 2 * k)? as usize);
                    members.push((parts.iter().position(|p| p.id == id)?, t >> 4 & 3, t & 3));
                }
                let p = body.get(1 + 2 * count..4 + 2 * count)?;
                let s = Scan { first: p[0] as usize, last: p[1] as usize, high: (p[2] >> 4) as i32, low: (p[2] & 15) as i32 };
                if s.last > 63 || s.low > 13 || s.first > s.last || members.is_empty() {
                    return None;
                }
                let mut bits = Bits { data, at, held: 0, count: 0, spent: 0 };
                let mut run = 0;
                parts.iter_mut().for_each(|p| p.last = 0);
                let units = match members[..] {
                    [(i, ..)] => {
                        // A scan of one component has only the blocks that the image touches.
                        let p = &parts[i];
                        let (w, h) = ((width * p.h).div_ceil(most_h), (height * p.v).div_ceil(most_v));
                        (w.div_ceil(8), h.div_ceil(8))
                    }
                    _ => (width.div_ceil(8 * most_h), height.div_ceil(8 * most_v)),
                };
                for u in 0..units.0 * units.1 {
                    if every > 0 && u > 0 && u % every == 0 {
                        bits.restart();
                        run = 0;
                        parts.iter_mut().for_each(|p| p.last = 0);
                    }
                    let (ux, uy) = (u % units.0, u / units.0);
                    for &(i, dc, ac) in &members {
                        let part = &mut parts[i];
                        let (h, v) = if members.len() == 1 { (1, 1) } else { (part.h, part.v) };
                        for k in 0..h * v {
                            let b = (uy * v + k / h) * part.across + ux * h + k % h;
                            let c = part.blocks.get_mut(b)?;
                            block(&mut bits, s, &codes[0][dc], &codes[1][ac], c, &mut part.last, &mut run)?;
                        }
                    }
                }
                at = bits.at;
            }
            _ => {}
        }
    }
    let mut planes = Vec::new();
    for p in &parts {
        let pitch = p.across * 8;
        let mut plane = vec![0u8; pitch * p.down * 8];
        for (b, c) in p.blocks.iter().enumerate() {
            let pixels = inverse(c, &tables[p.table]);
            for (i, v) in pixels.into_iter().enumerate() {
                plane[(b / p.across * 8 + i / 8) * pitch + b % p.across * 8 + i % 8] = v;
            }
        }
        let (w, h) = ((width * p.h).div_ceil(most_h), (height * p.v).div_ceil(most_v));
        planes.push(widened(&plane, w, h, pitch, most_h / p.h, most_v / p.v));
    }
    let channels = planes.len();
    let mut pixels = Vec::with_capacity(room(width, height, channels)?);
    for y in 0..height {
        for x in 0..width {
            let at = |(plane, pitch): &(Vec<u8>, usize)| plane.get(y * pitch + x).map(|v| *v as i32);
            match &planes[..] {
                [gray] => pixels.push(at(gray)? as u8),
                [a, b, c] if rgb => pixels.extend([at(a)? as u8, at(b)? as u8, at(c)? as u8]),
                [luma, blue, red] => {
                    // Factors of BT.601 in sixteen bits behind the point.
                    let (l, b, r) = (at(luma)?, at(blue)? - 128, at(red)? - 128);
                    let clamp = |v: i32| v.clamp(0, 255) as u8;
                    let half = 1 << 15;
                    pixels.push(clamp(l + ((91881 * r + half) >> 16)));
                    pixels.push(clamp(l + ((-22554 * b - 46802 * r + half) >> 16)));
                    pixels.push(clamp(l + ((116130 * b + half) >> 16)));
                }
                _ => return None,
            }
        }
    }
    Some(Picture { height, width, channels, pixels })
}
