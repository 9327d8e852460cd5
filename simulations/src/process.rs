//! Makes this process deterministic: the C library's `getrandom` and `clock_gettime` are replaced
//! for the simulating thread, and addresses are the same each time.
//!
//! Why all three: hash maps seed themselves from `getrandom`; DataFusion's metrics and tokio read the
//! clock; foldhash mixes stack and heap addresses and the clock into seeds that decide the order in
//! which DataFusion emits groups and partitions. Any two without the third still differ.
//!
//! The symbols below replace the C library's in this binary only; the library crate has none of it.
//! Threads that did not enroll reach the kernel as ever.

use apiary_simulations::clock;
use apiary_simulations::rng::Rng;
use libc::{c_int, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};
use std::cell::{Cell, RefCell};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// This program, under a name that does not depend on where it lies: the name is on the stack.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// Where the monotonic clock starts, in seconds: code may subtract from an `Instant`.
const MONOTONIC_START_SECONDS: u64 = 1000;

thread_local! {
    static RANDOM: RefCell<Option<Rng>> = const { RefCell::new(None) };
    static SIMULATED_CLOCK: Cell<bool> = const { Cell::new(false) };
    static READING_CLOCK: Cell<bool> = const { Cell::new(false) };
}

/// From here on this thread's randomness comes from the seed and its clock is the simulation's.
/// Comes before anything that hashes: a thread keeps its first hash keys.
pub fn enroll(seed: u64) {
    RANDOM.with_borrow_mut(|random| *random = Some(Rng::new(seed).fork("process")));
    SIMULATED_CLOCK.set(true);
}

/// Lets later programs of this process start at fixed addresses. Errors where the system forbids it.
pub fn fix_addresses() -> std::io::Result<()> {
    // SAFETY: `personality` takes and returns plain numbers.
    let now = unsafe { libc::personality(0xffff_ffff) };
    if now < 0 {
        return Err(std::io::Error::last_os_error());
    }
    if now & libc::ADDR_NO_RANDOMIZE == 0 {
        // SAFETY: as above.
        let set = unsafe { libc::personality((now | libc::ADDR_NO_RANDOMIZE) as libc::c_ulong) };
        if set < 0 {
            return Err(std::io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Returns when this program runs at fixed addresses with an empty environment; starts it anew that
/// way when it does not. Errors where the system forbids it.
pub fn at_fixed_addresses() -> std::io::Result<()> {
    // SAFETY: `personality` takes and returns plain numbers.
    let now = unsafe { libc::personality(0xffff_ffff) };
    if now >= 0 && now & libc::ADDR_NO_RANDOMIZE != 0 && std::env::vars_os().next().is_none() {
        return Ok(());
    }
    fix_addresses()?;
    let arguments = std::env::args_os().skip(1);
    Err(Command::new(OWN_PROGRAM).arg0(OWN_PROGRAM).args(arguments).env_clear().exec())
}

/// Threads of this process. A simulation has one.
pub fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |entries| entries.count())
}

/// Replaces the C library's: seeded bytes on an enrolled thread.
///
/// # Safety
/// As for getrandom(2): `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    let seeded = RANDOM.try_with(|random| {
        let mut random = random.try_borrow_mut().ok()?;
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        random.as_mut()?.fill(bytes);
        Some(())
    });
    if let Ok(Some(())) = seeded {
        return length as ssize_t;
    }
    // SAFETY: the system call that this function stands for, with its own arguments.
    unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as ssize_t }
}

/// Replaces the C library's: simulated time on an enrolled thread.
///
/// # Safety
/// As for clock_gettime(2): `time` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    if !SIMULATED_CLOCK.try_with(Cell::get).unwrap_or(false) {
        // SAFETY: the system call that this function stands for, with its own arguments.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as c_int };
    }
    // Reading simulated time asks tokio, which may ask here.
    let inside = READING_CLOCK.replace(true);
    let now = if inside { std::time::Duration::ZERO } else { clock::now() };
    READING_CLOCK.set(inside);
    let start = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => clock::EPOCH_SECONDS,
        _ => MONOTONIC_START_SECONDS,
    };
    let reading = timespec {
        tv_sec: (start + now.as_secs()) as libc::time_t,
        tv_nsec: now.subsec_nanos() as libc::c_long,
    };
    // SAFETY: the caller's promise.
    unsafe { time.write(reading) };
    0
}
