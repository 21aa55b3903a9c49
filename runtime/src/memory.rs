//! Aligned memory: arenas and scratch, and the placement of buffers whose sizes are known only at run time.

use crate::error::{Error, Result};
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};

/// Buffers start at multiples of this: a cache line, and a vector register of the widest instruction set.
pub(crate) const ALIGN: usize = 64;
/// Large regions start at a page, so that the system can back them by huge pages.
const PAGE: usize = 4096;

/// Zeroed memory that does not move.
#[derive(Debug)]
pub(crate) struct Region {
    start: *mut u8,
    layout: Option<Layout>,
}

// SAFETY: a region owns its memory alone; access goes through the instance that holds it, which is used by one run at a time.
unsafe impl Send for Region {}
// SAFETY: as above; a shared region hands out no access.
unsafe impl Sync for Region {}

impl Region {
    /// `bytes` zero bytes.
    ///
    /// # Errors
    /// The system has no such memory.
    pub(crate) fn new(bytes: usize) -> Result<Region> {
        if bytes == 0 {
            return Ok(Region { start: std::ptr::without_provenance_mut(ALIGN), layout: None });
        }
        let align = if bytes >= 1 << 16 { PAGE } else { ALIGN };
        let layout = Layout::from_size_align(bytes, align).map_err(|_| Error::Memory { bytes })?;
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc_zeroed(layout) };
        if start.is_null() { Err(Error::Memory { bytes }) } else { Ok(Region { start, layout: Some(layout) }) }
    }
    /// `bytes` bytes of any value, on huge pages where the system gives them: for what is written once and then read by every run.
    ///
    /// # Errors
    /// The system has no such memory.
    pub(crate) fn unwritten(bytes: usize) -> Result<Region> {
        const HUGE: usize = 2 << 20;
        if bytes < HUGE {
            return Region::new(bytes);
        }
        let layout = Layout::from_size_align(bytes, HUGE).map_err(|_| Error::Memory { bytes })?;
        // SAFETY: the layout has a size above zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            return Err(Error::Memory { bytes });
        }
        advise_huge(start, bytes);
        Ok(Region { start, layout: Some(layout) })
    }
    /// The first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start
    }
    /// Size in bytes.
    pub(crate) fn len(&self) -> usize {
        self.layout.map_or(0, |l| l.size())
    }
}

/// Asks the system to back memory by huge pages; one that does not know of them answers with an error, which changes nothing.
fn advise_huge(start: *mut u8, bytes: usize) {
    const HUGEPAGE: usize = 14;
    // SAFETY: this advice changes nothing that a program can read.
    unsafe { advise(start, bytes, HUGEPAGE) }
}

/// Whether memory is part of a file that this process has mapped and cannot write, so that the system can read it again.
pub(crate) fn is_file(start: *const u8, bytes: usize) -> bool {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else { return false };
    maps.lines().any(|line| {
        let mut words = line.split_ascii_whitespace();
        let range = words.next().and_then(|w| w.split_once('-'));
        let (rights, inode) = (words.next().unwrap_or("w"), words.nth(2).unwrap_or("0"));
        let Some((Ok(from), Ok(to))) = range.map(|(a, b)| (usize::from_str_radix(a, 16), usize::from_str_radix(b, 16))) else {
            return false;
        };
        from <= start.addr() && start.addr() + bytes <= to && !rights.contains('w') && inode != "0"
    })
}

/// Lets the system take back the whole pages inside of memory that [`is_file`]: they are read again when they are needed.
///
/// # Safety
/// The memory is part of such a file.
pub(crate) unsafe fn release(start: *const u8, bytes: usize) {
    const DONTNEED: usize = 4;
    let skipped = start.addr().next_multiple_of(PAGE) - start.addr();
    if skipped < bytes {
        // SAFETY: pages of a file that nothing has written have the same contents when they are read again.
        unsafe { advise(start.wrapping_add(skipped).cast_mut(), bytes - skipped, DONTNEED) }
    }
}

/// Gives the system advice about whole pages, where it is one whose calls are known here.
///
/// # Safety
/// The advice is harmless for that memory.
unsafe fn advise(start: *mut u8, bytes: usize, advice: usize) {
    #[cfg(all(target_os = "linux", target_arch = "x86_64", not(miri)))]
    {
        const MADVISE: usize = 28;
        // SAFETY: the caller vouches for the advice; the call changes no registers but these.
        unsafe {
            std::arch::asm!(
                "syscall", inlateout("rax") MADVISE => _, in("rdi") start, in("rsi") bytes & !(PAGE - 1), in("rdx") advice,
                out("rcx") _, out("r11") _, options(nostack),
            );
        }
    }
    let _ = (start, bytes, advice);
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(layout) = self.layout {
            // SAFETY: the memory came from the allocator with this layout and is freed once.
            unsafe { dealloc(self.start, layout) }
        }
    }
}

/// When a buffer of an open model is in use: from the step that writes it to the last one that reads it.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    /// The first step.
    pub from: u32,
    /// The last step.
    pub to: u32,
}

/// Places buffers of the given sizes so that no two that live at once overlap, largest first, each at the lowest offset that is
/// free for its whole life. Writes the offsets; gives the size of the arena. `order` is working memory of the same length.
pub(crate) fn place(sizes: &[usize], lives: &[Life], offsets: &mut [usize], order: &mut [u32]) -> usize {
    for (i, o) in order.iter_mut().enumerate() {
        *o = i as u32;
    }
    order.sort_unstable_by_key(|&i| (std::cmp::Reverse(sizes[i as usize]), i));
    let mut total = 0;
    for (done, &i) in order.iter().enumerate() {
        let (size, life) = (sizes[i as usize].next_multiple_of(ALIGN), lives[i as usize]);
        let mut at = 0;
        // A conflict moves the candidate behind the buffer it meets; the scan starts again until none is left.
        loop {
            let hit = order[..done].iter().find(|&&j| {
                let (l, o, s) = (lives[j as usize], offsets[j as usize], sizes[j as usize].next_multiple_of(ALIGN));
                l.from <= life.to && life.from <= l.to && at < o + s && o < at + size
            });
            match hit {
                Some(&j) if size > 0 => at = offsets[j as usize] + sizes[j as usize].next_multiple_of(ALIGN),
                _ => break,
            }
        }
        offsets[i as usize] = at;
        total = total.max(at + size);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(target_os = "linux", not(miri)))]
    fn pages_of_the_program_are_a_file_and_others_are_not() {
        static CONSTANT: [u64; 4096] = [7; 4096];
        let (start, bytes) = (CONSTANT.as_ptr().cast::<u8>(), size_of_val(&CONSTANT));
        assert!(is_file(start, bytes));
        // SAFETY: it was just asked.
        unsafe { release(start, bytes) };
        assert!(std::hint::black_box(&CONSTANT).iter().all(|x| *x == 7), "the pages come back as they were");
        let own = vec![1u8; 1 << 16];
        assert!(!is_file(own.as_ptr(), own.len()));
    }

    #[test]
    fn buffers_that_live_at_once_do_not_overlap() {
        let mut seed = 7u64;
        let mut next = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        for _ in 0..200 {
            let n = next(40) as usize + 1;
            let sizes: Vec<usize> = (0..n).map(|_| next(1000) as usize).collect();
            let lives: Vec<Life> = (0..n)
                .map(|_| {
                    let from = next(30) as u32;
                    Life { from, to: from + next(8) as u32 }
                })
                .collect();
            let (mut offsets, mut order) = (vec![0; n], vec![0; n]);
            let total = place(&sizes, &lives, &mut offsets, &mut order);
            for i in 0..n {
                assert!(offsets[i] + sizes[i] <= total && offsets[i] % ALIGN == 0);
                for j in 0..i {
                    let meet = lives[i].from <= lives[j].to && lives[j].from <= lives[i].to;
                    let apart = offsets[i] + sizes[i] <= offsets[j] || offsets[j] + sizes[j] <= offsets[i];
                    assert!(!meet || apart || sizes[i] == 0 || sizes[j] == 0);
                }
            }
        }
    }
}
