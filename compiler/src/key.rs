//! `Key`: what names a thing by its content.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Two independent hashes over everything that is fed to them.
pub(crate) struct Key(u64, u64);

impl Key {
    pub(crate) fn new() -> Key {
        Key(0xcbf2_9ce4_8422_2325, 0x6a09_e667_f3bc_c908)
    }
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for w in words {
            let w = u64::from_le_bytes(*w);
            self.0 = (self.0 ^ w).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.0 ^= self.0 >> 29;
            self.1 = (self.1 ^ w).wrapping_mul(0xff51_afd7_ed55_8ccd);
            self.1 ^= self.1 >> 32;
        }
        for b in rest.iter().chain(&(bytes.len() as u64).to_le_bytes()) {
            self.0 = (self.0 ^ *b as u64).wrapping_mul(0x100_0000_01b3);
            self.1 = (self.1 ^ *b as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }
    pub(crate) fn add_file(&mut self, path: &Path) -> std::io::Result<()> {
        let mut file = File::open(path)?;
        let mut block = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut block)?;
            if n == 0 {
                return Ok(());
            }
            self.add(&block[..n]);
        }
    }
    /// Both, in hexadecimal digits.
    pub(crate) fn hex(&self) -> String {
        format!("{:016x}{:016x}", self.0, self.1)
    }
}
