//! The allocator: fast while there is work, small when there is none.
//!
//! Returning freed pages to the system at once costs a sixth of the query time, keeping them for
//! ever costs idle size. So pages are kept for [`PURGE_DELAY_MS`], and a resting node gives all back.
//! A node that has little memory keeps nothing: what it has freed is what it lacks.

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{c_int, c_long};
use std::time::Duration;

/// How long freed pages stay with the process.
const PURGE_DELAY_MS: c_long = 10_000;
/// `mi_option_purge_delay` in mimalloc.h.
const PURGE_DELAY_OPTION: c_int = 15;

/// mimalloc, asked in a way that gives whole pages what they need and no more.
///
/// It places blocks of whole pages at the beginning of one, but only takes that for an alignment when it
/// is asked for just this one. For any other, eight bytes included, it takes room to shift the block: 64
/// KiB, which eight thousand numbers have, become 80.
pub struct Allocator;

/// What it calls `MI_PAGE_OSPAGE_BLOCK_ALIGN2`.
const PAGE_BYTES: usize = 4096;

/// The same size, with the alignment that it comes with.
fn at_page(layout: Layout) -> Layout {
    match layout.size().is_multiple_of(PAGE_BYTES) {
        true => layout.align_to(PAGE_BYTES).unwrap_or(layout),
        false => layout,
    }
}

// SAFETY: all is done by an allocator that is one; it may be asked for more alignment, and frees by the
// address alone.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises hold for a larger alignment.
        unsafe { MiMalloc.alloc(at_page(layout)) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { MiMalloc.alloc_zeroed(at_page(layout)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: it was given by the same allocator.
        unsafe { MiMalloc.dealloc(block, layout) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Up to the alignment of a word it takes no room of its own accord.
        let asked = match layout.align() > align_of::<usize>() && size.is_multiple_of(PAGE_BYTES) {
            true => layout.align_to(PAGE_BYTES).unwrap_or(layout),
            false => layout,
        };
        // SAFETY: as above; it looks at the alignment of the new block alone.
        unsafe { MiMalloc.realloc(block, asked, size) }
    }
}

unsafe extern "C" {
    fn mi_option_set(option: c_int, value: c_long);
    fn mi_collect(force: bool);
}

/// Free pages that are returned to the system together, at least. Without huge pages there is no
/// reason to wait for two MiB of them.
const PURGE_KIB_MIN: c_long = 64;
/// `mi_option_minimal_purge_size` in mimalloc.h.
const PURGE_KIB_MIN_OPTION: c_int = 44;

/// Call once, at the start of the process.
pub fn configure() {
    // SAFETY: sets integers inside the allocator that is linked in.
    unsafe {
        mi_option_set(PURGE_DELAY_OPTION, PURGE_DELAY_MS);
        mi_option_set(PURGE_KIB_MIN_OPTION, PURGE_KIB_MIN);
    }
    // A huge page is resident as a whole from its first byte on.
    #[cfg(target_os = "linux")]
    // SAFETY: changes a flag of this process; where the system does not know it, nothing happens.
    unsafe {
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0)
    };
}

/// At most so much memory is little.
const LITTLE_BYTES: u64 = 1 << 30;

/// Call once it is known how much memory the node may use.
pub fn bound(memory_bytes: u64) {
    if memory_bytes <= LITTLE_BYTES {
        // SAFETY: sets an integer inside the allocator that is linked in.
        unsafe { mi_option_set(PURGE_DELAY_OPTION, 0) };
    }
}

/// Returns this thread's free memory, and what no thread owns, to the system.
pub fn give_back() {
    // SAFETY: may be called at any time by any thread.
    unsafe { mi_collect(true) };
}

/// A line of `/proc/self/status` in bytes: `VmRSS` now, `VmHWM` at its peak. `None` where there is
/// no such file.
pub fn process_bytes(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Processor time that this process has used.
pub fn process_cpu() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is valid, and a zeroed `rusage` is one.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    let spent = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    spent(usage.ru_utime) + spent(usage.ru_stime)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::c_void;

    unsafe extern "C" {
        fn mi_usable_size(block: *const c_void) -> usize;
    }

    #[test]
    fn whole_pages_take_what_they_are_and_stay_aligned_when_they_grow() {
        for align in [1, 8, 16, 64, 128] {
            for pages in [1, 2, 16, 64, 1024] {
                let size = pages * PAGE_BYTES;
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: the layouts are those of the blocks, which are not used once they are freed.
                unsafe {
                    let block = Allocator.alloc(layout);
                    assert_eq!(mi_usable_size(block.cast()), size, "{layout:?}");
                    block.write_bytes(7, size);
                    let larger = Allocator.realloc(block, layout, 2 * size);
                    assert!(larger.addr().is_multiple_of(align));
                    assert_eq!(*larger.add(size - 1), 7);
                    let layout = Layout::from_size_align(2 * size, align).unwrap();
                    assert_eq!(mi_usable_size(larger.cast()), 2 * size, "{layout:?}");
                    Allocator.dealloc(larger, layout);
                    let zeroed = Allocator.alloc_zeroed(layout);
                    assert_eq!(*zeroed.add(2 * size - 1), 0);
                    Allocator.dealloc(zeroed, layout);
                }
            }
        }
    }
}
