//! Makes a simulating thread deterministic: the C library's `getrandom`, `clock_gettime` and
//! `syscall` are replaced for it, and addresses are the same each time.
//!
//! Why: hash maps seed themselves from `getrandom`; DataFusion's metrics and tokio read the clock;
//! foldhash mixes stack and heap addresses and the clock into seeds that decide the order in which
//! DataFusion emits groups and partitions. Any of these without the others still differs. Of the
//! system calls only the futex wait matters: it is how a thread with nothing to do waits for its next
//! timer, and here the wait is over at once and the clock has moved.
//!
//! The symbols below replace the C library's in this binary only. Threads that did not enroll reach
//! the system as ever.

use crate::clock;
use crate::rng::Rng;
use libc::{c_int, c_long, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};
use std::cell::{Cell, RefCell};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::time::Duration;

/// This program, under a name that does not depend on where it lies: the name is on the stack.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// Where the monotonic clock starts: code may subtract from an `Instant`.
const MONOTONIC_START: Duration = Duration::from_secs(1000);

/// Exit code when a simulation waits for what can never come.
pub const EXIT_STUCK: i32 = 78;

thread_local! {
    static RANDOM: RefCell<Option<Rng>> = const { RefCell::new(None) };
    static ENROLLED: Cell<bool> = const { Cell::new(false) };
}

/// From here on this thread's randomness comes from the seed and its clock is the simulation's.
/// Comes before anything that hashes: a thread keeps its first hash keys.
pub fn enroll(seed: u64) {
    RANDOM.with_borrow_mut(|random| *random = Some(Rng::new(seed).fork("process")));
    ENROLLED.set(true);
}

fn is_enrolled() -> bool {
    ENROLLED.try_with(Cell::get).unwrap_or(false)
}

/// Lets later programs of this process start at fixed addresses. Errors where the system forbids it.
pub fn fix_addresses() -> std::io::Result<()> {
    let now = personality(0xffff_ffff)?;
    if now & libc::ADDR_NO_RANDOMIZE == 0 {
        personality((now | libc::ADDR_NO_RANDOMIZE) as libc::c_ulong)?;
    }
    Ok(())
}

fn personality(persona: libc::c_ulong) -> std::io::Result<c_int> {
    // SAFETY: it takes and returns plain numbers.
    match unsafe { libc::personality(persona) } {
        was if was < 0 => Err(std::io::Error::last_os_error()),
        was => Ok(was),
    }
}

/// Returns when this program runs at fixed addresses with an empty environment; starts it anew that
/// way when it does not. Errors where the system forbids it.
pub fn at_fixed_addresses() -> std::io::Result<()> {
    let is_fixed = personality(0xffff_ffff)? & libc::ADDR_NO_RANDOMIZE != 0;
    if is_fixed && std::env::vars_os().next().is_none() {
        return Ok(());
    }
    fix_addresses()?;
    let arguments = std::env::args_os().skip(1);
    Err(Command::new(OWN_PROGRAM)
        .arg0(OWN_PROGRAM)
        .args(arguments)
        .env_clear()
        .exec())
}

/// Ends this process by SIGXCPU once it has used so much processor time; in whole seconds.
pub fn limit_cpu(most: Duration) -> std::io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: most.as_secs(),
        rlim_max: most.as_secs() + 1,
    };
    // SAFETY: it reads a plain structure of numbers.
    match unsafe { libc::setrlimit(libc::RLIMIT_CPU, &limit) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Threads of this process. A simulation has one.
pub fn thread_count() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(1, |entries| entries.count())
}

type Syscall = unsafe extern "C" fn(c_long, ...) -> c_long;

/// The C library's own `syscall`, which ours hides.
fn system() -> Syscall {
    static FOUND: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
    let mut found = FOUND.load(Ordering::Relaxed);
    if found.is_null() {
        // SAFETY: the name ends with a zero; the result is checked.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"syscall".as_ptr()) };
        if found.is_null() {
            std::process::abort(); // no C library without it
        }
        FOUND.store(found, Ordering::Relaxed);
    }
    // SAFETY: the symbol is a function of this type.
    unsafe { std::mem::transmute::<*mut c_void, Syscall>(found) }
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
    unsafe { system()(libc::SYS_getrandom, buffer, length, flags) as ssize_t }
}

/// Replaces the C library's: simulated time on an enrolled thread.
///
/// # Safety
/// As for clock_gettime(2): `time` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    if !is_enrolled() {
        // SAFETY: the system call that this function stands for, with its own arguments.
        return unsafe { system()(libc::SYS_clock_gettime, clock, time) as c_int };
    }
    let start = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            Duration::from_secs(clock::EPOCH_SECONDS)
        }
        _ => MONOTONIC_START,
    };
    let now = start + clock::reading();
    let reading = timespec {
        tv_sec: now.as_secs() as libc::time_t,
        tv_nsec: now.subsec_nanos() as libc::c_long,
    };
    // SAFETY: the caller's promise.
    unsafe { time.write(reading) };
    0
}

/// Replaces the C library's: an enrolled thread that would wait on a futex has waited.
///
/// # Safety
/// As for syscall(2).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    let operation = b as c_int & 0x7f; // without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME
    let is_wait = operation == libc::FUTEX_WAIT || operation == libc::FUTEX_WAIT_BITSET;
    if number == libc::SYS_futex && is_wait && is_enrolled() {
        // SAFETY: as for futex(2): `a` points to the futex, `d` to the time limit if any.
        let (value, limit) = unsafe {
            (
                (*(a as *const AtomicU32)).load(Ordering::SeqCst),
                (d as *const timespec).as_ref(),
            )
        };
        let is_absolute = operation == libc::FUTEX_WAIT_BITSET;
        if let Some(result) = wait(value == c as u32, is_absolute, limit) {
            return result;
        }
    }
    // SAFETY: the caller's promise; superfluous arguments are ignored.
    unsafe { system()(number, a, b, c, d, e, f) }
}

/// The wait of a thread that nobody else can wake: it lasts until its limit. `None` for a wait
/// without a limit in a process with more threads, as that of the tests: it is for a lock that one
/// of them holds, and is left to the system.
fn wait(is_unchanged: bool, is_absolute: bool, limit: Option<&timespec>) -> Option<c_long> {
    let fail = |errno: c_int| {
        // SAFETY: the C library's own place for this thread's errno.
        unsafe { *libc::__errno_location() = errno };
        Some(-1)
    };
    if !is_unchanged {
        return fail(libc::EAGAIN);
    }
    let Some(limit) = limit else {
        if thread_count() > 1 {
            return None;
        }
        eprintln!("stuck: the simulation waits without a timer; nothing can wake it");
        // Not through destructors: they would wait as well.
        // SAFETY: ends the process.
        unsafe { libc::_exit(EXIT_STUCK) };
    };
    let limit = Duration::new(limit.tv_sec as u64, limit.tv_nsec as u32);
    let until = if is_absolute {
        limit.saturating_sub(MONOTONIC_START)
    } else {
        clock::now() + limit
    };
    // Who waits for so long, and not until then, looks at the clock and may wait again.
    clock::wait_until(until, !is_absolute);
    fail(libc::ETIMEDOUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn an_enrolled_thread_repeats_its_random_bytes_and_others_do_not() {
        let draw = |seed: Option<u64>| {
            std::thread::spawn(move || {
                if let Some(seed) = seed {
                    enroll(seed);
                }
                std::collections::hash_map::RandomState::new()
            })
            .join()
            .map(|state| std::hash::BuildHasher::hash_one(&state, 1))
            .unwrap()
        };
        assert_eq!(draw(Some(1)), draw(Some(1)));
        assert_ne!(draw(Some(1)), draw(Some(2)));
        assert_ne!(draw(None), draw(None));
    }

    #[test]
    fn an_enrolled_thread_gets_a_lock_that_another_gives_back() {
        let mutex = std::sync::Mutex::new(());
        std::thread::scope(|scope| {
            let guard = mutex.lock().unwrap();
            let waiting = scope.spawn(|| {
                enroll(1);
                drop(mutex.lock().unwrap());
            });
            std::thread::sleep(Duration::from_millis(50));
            drop(guard);
            waiting.join().unwrap();
        });
    }

    #[test]
    fn waiting_moves_the_clock_of_an_enrolled_thread() {
        std::thread::spawn(|| {
            enroll(1);
            let (mutex, condvar) = (std::sync::Mutex::new(()), std::sync::Condvar::new());
            let before = Instant::now();
            let guard = mutex.lock().unwrap();
            let (_guard, result) = condvar
                .wait_timeout(guard, Duration::from_secs(86_400))
                .unwrap();
            assert!(result.timed_out());
            assert_eq!(before.elapsed(), Duration::from_secs(86_400));
        })
        .join()
        .unwrap();
    }
}
