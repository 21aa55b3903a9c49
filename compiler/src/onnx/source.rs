//! A file as prost reads it: streamed through a small buffer, with large byte strings read straight into the memory of the tensor they become.

use kiln_kernels::value::Bytes;
use prost::bytes::{self, Buf};
use std::collections::BTreeMap;
use std::io::{self, Read};

const BUFFER: usize = 1 << 16;
/// Byte strings from this length on are kept aligned, to be handed to a tensor as they are.
const LARGE: usize = 4096;
/// Bytes of the start of the file that are kept for a hint on what the file may be.
const HEAD: usize = 512;

/// Bytes that arrive from a reader of known length.
///
/// A reader that fails or ends early gives zeros from there on, which stops the decoder soon (0 is no field number); [`Source::failure`] then has
/// the reason.
pub(super) struct Source<R> {
    reader: R,
    /// Bytes the reader has yet to give.
    unread: u64,
    len: u64,
    buffer: Vec<u8>,
    at: usize,
    head: Vec<u8>,
    failure: Option<io::Error>,
    large: Large,
}

/// The large byte strings of a file by the address of their first byte: the tensors' memory, which the decoded messages share until they are taken.
#[derive(Default)]
pub(super) struct Large(BTreeMap<usize, Bytes>);

impl Large {
    /// The bytes of `raw`, without a copy where they are a large byte string of the file.
    pub(super) fn take(&mut self, raw: bytes::Bytes) -> Bytes {
        match self.0.remove(&(raw.as_ptr() as usize)) {
            Some(kept) if kept.len() == raw.len() => kept,
            _ => Bytes::copy_of(&raw),
        }
    }
}

struct Owner(Bytes);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl<R: Read> Source<R> {
    /// The `len` bytes that `reader` gives.
    pub(super) fn new(reader: R, len: u64) -> Source<R> {
        let mut source =
            Source { reader, unread: len, len, buffer: Vec::new(), at: 0, head: Vec::new(), failure: None, large: Large::default() };
        source.refill();
        source.head = source.buffer.iter().copied().take(HEAD).collect();
        source
    }
    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.len - self.unread - (self.buffer.len() - self.at) as u64
    }
    /// Bytes in all.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
    /// The start of the file.
    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }
    /// Why the reader stopped before the end, if it did.
    pub(super) fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }
    /// The large byte strings read.
    pub(super) fn take_large(&mut self) -> Large {
        std::mem::take(&mut self.large)
    }

    fn fill(&mut self, start: usize) {
        if self.failure.is_none()
            && let Err(e) = self.reader.read_exact(&mut self.buffer[start..])
        {
            self.failure = Some(e);
            self.buffer[start..].fill(0);
        }
    }
    fn refill(&mut self) {
        let n = self.unread.min(BUFFER as u64);
        self.buffer.clear();
        self.buffer.resize(n as usize, 0);
        self.at = 0;
        self.unread -= n;
        self.fill(0);
    }
}

impl<R: Read> Buf for Source<R> {
    fn remaining(&self) -> usize {
        usize::try_from(self.unread).unwrap_or(usize::MAX).saturating_add(self.buffer.len() - self.at)
    }
    fn chunk(&self) -> &[u8] {
        &self.buffer[self.at..]
    }
    fn advance(&mut self, mut n: usize) {
        assert!(n <= self.remaining(), "the decoder checks the length first; this is a bug");
        loop {
            let here = n.min(self.buffer.len() - self.at);
            self.at += here;
            n -= here;
            if self.at == self.buffer.len() && self.unread > 0 {
                self.refill();
            }
            if n == 0 {
                return;
            }
        }
    }
    fn copy_to_bytes(&mut self, n: usize) -> bytes::Bytes {
        assert!(n <= self.remaining(), "the decoder checks the length first; this is a bug");
        if n < LARGE {
            let mut out = vec![0; n];
            self.copy_to_slice(&mut out);
            return out.into();
        }
        let mut out = Bytes::zeroed(n);
        let buffered = n.min(self.buffer.len() - self.at);
        let (front, back) = out.as_mut().split_at_mut(buffered);
        front.copy_from_slice(&self.buffer[self.at..self.at + buffered]);
        if self.failure.is_none()
            && let Err(e) = self.reader.read_exact(back)
        {
            self.failure = Some(e);
        }
        self.unread -= back.len() as u64;
        self.advance(buffered);
        self.large.0.insert(out.as_ptr() as usize, out.clone());
        bytes::Bytes::from_owner(Owner(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_in_order_across_buffers() {
        let data: Vec<u8> = (0..3 * BUFFER + 17).map(|i| (i % 251) as u8).collect();
        let mut source = Source::new(&data[..], data.len() as u64);
        let mut at = 0;
        for step in [0, 1, 5, LARGE - 1, LARGE, 7, BUFFER + 3, 9, LARGE + 1] {
            assert_eq!(source.position(), at as u64);
            assert_eq!(source.copy_to_bytes(step)[..], data[at..at + step]);
            at += step;
            source.advance(3);
            at += 3;
        }
        source.advance(source.remaining());
        assert_eq!((source.position(), source.remaining()), (data.len() as u64, 0));
    }

    #[test]
    fn a_large_string_is_taken_without_a_copy() {
        let data = vec![7; LARGE];
        let mut source = Source::new(&data[..], LARGE as u64);
        let raw = source.copy_to_bytes(LARGE);
        let (address, mut large) = (raw.as_ptr(), source.take_large());
        let mut taken = large.take(raw);
        assert_eq!(taken.as_ptr(), address);
        assert_eq!(taken.as_mut().as_ptr(), address, "nothing else holds it");
    }

    #[test]
    fn an_early_end_gives_zeros_and_a_reason() {
        let mut source = Source::new(&[1u8; 10][..], 3 * BUFFER as u64);
        source.advance(2 * BUFFER);
        assert_eq!(source.chunk()[0], 0);
        assert!(source.failure().is_some());
    }
}
