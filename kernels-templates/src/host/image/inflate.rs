//! Deflate, as PNG and TIFF store it (RFC 1950 and 1951).

use alloc::vec::Vec;

struct Bits<'a> {
    data: &'a [u8],
    at: usize,
    held: u32,
    count: u32,
}

impl Bits<'_> {
    fn take(&mut self, n: u32) -> Option<u32> {
        while self.count < n {
            self.held |= (*self.data.get(self.at)? as u32) << self.count;
            self.at += 1;
            self.count += 8;
        }
        let v = self.held & ((1u32 << n) - 1);
        self.held >>= n;
        self.count -= n;
        Some(v)
    }
}

/// A canonical code: how many words of each length, and the symbols in the order of their words.
struct Code {
    counts: [u16; 16],
    symbols: Vec<u16>,
}

impl Code {
    fn new(lengths: &[u8]) -> Code {
        let mut counts = [0u16; 16];
        lengths.iter().for_each(|l| counts[*l as usize] += 1);
        counts[0] = 0;
        let mut symbols: Vec<u16> = (0..lengths.len() as u16).filter(|s| lengths[*s as usize] > 0).collect();
        symbols.sort_by_key(|s| lengths[*s as usize]);
        Code { counts, symbols }
    }
    fn read(&self, bits: &mut Bits<'_>) -> Option<u16> {
        let (mut word, mut first, mut index) = (0i32, 0i32, 0i32);
        for n in &self.counts[1..] {
            word |= bits.take(1)? as i32;
            let n = *n as i32;
            if word - first < n {
                return self.symbols.get((index + word - first) as usize).copied();
            }
            index += n;
            first = (first + n) << 1;
            word <<= 1;
        }
        None
    }
}

/// The order in which lengths of the code of lengths are stored.
const ORDER: [usize; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

fn codes(bits: &mut Bits<'_>) -> Option<[Code; 2]> {
    let (literals, distances, own) = (bits.take(5)? as usize + 257, bits.take(5)? as usize + 1, bits.take(4)? as usize + 4);
    let mut lengths = [0u8; 19];
    for o in &ORDER[..own] {
        lengths[*o] = bits.take(3)? as u8;
    }
    let code = Code::new(&lengths);
    let mut all: Vec<u8> = Vec::new();
    while all.len() < literals + distances {
        let (value, times) = match code.read(bits)? {
            16 => (*all.last()?, 3 + bits.take(2)?),
            17 => (0, 3 + bits.take(3)?),
            18 => (0, 11 + bits.take(7)?),
            l => (l as u8, 1),
        };
        all.resize(all.len() + times as usize, value);
    }
    Some([Code::new(&all[..literals]), Code::new(&all[literals..literals + distances])])
}

/// The data that a zlib stream holds, of which there may be `most` bytes; `None` where it is damaged.
pub(super) fn zlib(data: &[u8], most: usize) -> Option<Vec<u8>> {
    let mut bits = Bits { data: data.get(2..)?, at: 0, held: 0, count: 0 };
    let mut out: Vec<u8> = Vec::new();
    loop {
        let last = bits.take(1)? == 1;
        let [literals, distances] = match bits.take(2)? {
            0 => {
                (bits.held, bits.count) = (0, 0);
                let len = bits.take(16)? as usize;
                bits.take(16)?;
                out.extend(bits.data.get(bits.at..bits.at + len)?);
                bits.at += len;
                if out.len() > most {
                    return None;
                }
                if last {
                    return Some(out);
                }
                continue;
            }
            1 => {
                let fixed: Vec<u8> = (0..288)
                    .map(|i| match i {
                        0..144 => 8,
                        144..256 => 9,
                        256..280 => 7,
                        _ => 8,
                    })
                    .collect();
                [Code::new(&fixed), Code::new(&[5; 30])]
            }
            2 => codes(&mut bits)?,
            _ => return None,
        };
        loop {
            match literals.read(&mut bits)? {
                256 => break,
                byte @ 0..256 => out.push(byte as u8),
                symbol => {
                    // Lengths and distances grow by powers of two, four lengths and two distances to each.
                    let k = (symbol - 257) as u32;
                    let len = match k {
                        0..8 => 3 + k,
                        8..28 => {
                            let extra = k / 4 - 1;
                            3 + ((4 + k % 4) << extra) + bits.take(extra)?
                        }
                        _ => 258,
                    };
                    let d = distances.read(&mut bits)? as u32;
                    let back = match d {
                        0..4 => 1 + d,
                        _ => {
                            let extra = d / 2 - 1;
                            1 + ((2 + d % 2) << extra) + bits.take(extra)?
                        }
                    } as usize;
                    let from = out.len().checked_sub(back)?;
                    for i in 0..len as usize {
                        out.push(out[from + i]);
                    }
                }
            }
            if out.len() > most {
                return None;
            }
        }
        if last {
            return Some(out);
        }
    }
}
