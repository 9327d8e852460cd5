//! Bytes that grow without being copied, and go back to the system as soon as nobody holds them.
//!
//! A vector that doubles is there twice while it does, and an allocator keeps what was freed for a
//! while: either makes a large answer take its size twice. Here pages change their address instead.

use apiary::arrow::buffer::Buffer;
use std::io::{self, Write};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// What is mapped at first. Pages that nothing was written to take no memory.
const MAPPED_BYTES_MIN: usize = 1 << 20;

/// A mapping of this process's own.
#[derive(Debug)]
pub struct Pages {
    start: NonNull<u8>,
    mapped_bytes: usize,
    /// Written so far, from the start on.
    written_bytes: usize,
}

// SAFETY: the mapping is owned, and what is shared is only read.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// # Errors
    /// When the system gives no more memory, as for every other call.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            start: map(MAPPED_BYTES_MIN)?,
            mapped_bytes: MAPPED_BYTES_MIN,
            written_bytes: 0,
        })
    }

    /// What was written, without a copy; the mapping goes with the last part of it.
    pub fn into_buffer(self) -> Buffer {
        let (start, length) = (self.start, self.written_bytes);
        // SAFETY: so many bytes were written there, and the owner unmaps them when it goes.
        unsafe { Buffer::from_custom_allocation(start, length, Arc::new(self)) }
    }

    fn reserve(&mut self, more_bytes: usize) -> io::Result<()> {
        let wanted = self.written_bytes + more_bytes;
        if wanted > self.mapped_bytes {
            let mapped_bytes = wanted.next_power_of_two();
            self.start = moved(self.start, self.mapped_bytes, mapped_bytes)?;
            self.mapped_bytes = mapped_bytes;
        }
        Ok(())
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.reserve(bytes.len())?;
        // SAFETY: there is room for them behind what was written, and nobody else has the mapping.
        unsafe {
            let end = self.start.as_ptr().add(self.written_bytes);
            ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len());
        }
        self.written_bytes += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: it is ours, and unmapped once, here.
        unsafe { unmap(self.start, self.mapped_bytes) };
    }
}

fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping touches nothing that is there.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    mapped(start)
}

fn mapped(start: *mut libc::c_void) -> io::Result<NonNull<u8>> {
    match NonNull::new(start.cast::<u8>()) {
        Some(mapped) if start != libc::MAP_FAILED => Ok(mapped),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A mapping with more room; the one that it was made of is gone unless this fails.
#[cfg(target_os = "linux")]
fn moved(start: NonNull<u8>, from_bytes: usize, to_bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: it is mapped with so many bytes, and the caller uses the new address from here on.
    let start = unsafe {
        libc::mremap(
            start.as_ptr().cast(),
            from_bytes,
            to_bytes,
            libc::MREMAP_MAYMOVE,
        )
    };
    mapped(start)
}

/// The same for systems that cannot move pages.
#[cfg(not(target_os = "linux"))]
fn moved(start: NonNull<u8>, from_bytes: usize, to_bytes: usize) -> io::Result<NonNull<u8>> {
    let larger = map(to_bytes)?;
    // SAFETY: both are mapped with at least so many bytes and do not overlap; the old one is given up.
    unsafe {
        ptr::copy_nonoverlapping(start.as_ptr(), larger.as_ptr(), from_bytes);
        unmap(start, from_bytes);
    }
    Ok(larger)
}

/// # Safety
/// Of a mapping of so many bytes that nobody uses any more.
unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise.
    let code = unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    debug_assert_eq!(code, 0, "{}", io::Error::last_os_error());
}
