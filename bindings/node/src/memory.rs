//! The allocator: fast while there is work, small when there is none.
//!
//! Returning freed pages to the system at once costs a sixth of the query time, keeping them for
//! ever costs idle size. So pages are kept for [`PURGE_DELAY_MS`], and a resting node gives all back.
//! A node that has little memory keeps nothing: what it has freed is what it lacks.

// Links the allocator that the functions below belong to; programs make it theirs.
use mimalloc as _;
use std::ffi::{c_int, c_long};
use std::time::Duration;

/// How long freed pages stay with the process.
const PURGE_DELAY_MS: c_long = 10_000;
/// `mi_option_purge_delay` in mimalloc.h.
const PURGE_DELAY_OPTION: c_int = 15;

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
