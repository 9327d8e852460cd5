//! Bytes that grow without being copied: a vector that doubles holds three times its bytes while it does.

use std::collections::VecDeque;
use std::io::{self, Write};

const CHUNK_BYTES: usize = 8 << 20;

/// Written in chunks, and put together once their number is known.
#[derive(Default)]
pub struct Chunks {
    full: VecDeque<Vec<u8>>,
    open: Vec<u8>,
}

impl Chunks {
    /// All bytes in one. A chunk goes when it was copied, so there are never many more bytes than these.
    pub fn into_one(mut self) -> Vec<u8> {
        self.full.push_back(self.open);
        let total = self.full.iter().map(Vec::len).sum();
        let mut one = Vec::with_capacity(total);
        while let Some(chunk) = self.full.pop_front() {
            one.extend_from_slice(&chunk);
        }
        one
    }
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.open.len() >= CHUNK_BYTES {
            self.full.push_back(std::mem::take(&mut self.open));
        }
        let count = bytes.len().min(CHUNK_BYTES - self.open.len());
        self.open.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
