//! What belongs to one process.
//!
//! A fork copies the memory of a node and none of its threads. Whatever the child would do with it
//! waits for ever, its end included.

use crate::errors;
use pyo3::prelude::*;
use std::mem::ManuallyDrop;

/// A value that only the process that made it uses and drops.
pub struct Own<T> {
    value: ManuallyDrop<T>,
    process: u32,
}

impl<T> Own<T> {
    pub fn new(value: T) -> Self {
        Self {
            value: ManuallyDrop::new(value),
            process: std::process::id(),
        }
    }

    /// # Errors
    /// In a process that was forked since.
    pub fn get(&self, py: Python<'_>) -> PyResult<&T> {
        self.check()
            .map_err(|message| errors::new(py, "NotStartedError", message))?;
        Ok(&self.value)
    }

    /// [`Own::get`] for who has no GIL; the error is its message.
    pub fn get_mut(&mut self) -> Result<&mut T, String> {
        self.check()?;
        Ok(&mut self.value)
    }

    /// The value itself; the whole comes back from another process, with the exception to raise.
    pub fn take(mut self, py: Python<'_>) -> Result<T, (Self, PyErr)> {
        if let Err(message) = self.check() {
            return Err((self, errors::new(py, "NotStartedError", message)));
        }
        // SAFETY: our drop, which would use it once more, does not run.
        let value = unsafe { ManuallyDrop::take(&mut self.value) };
        std::mem::forget(self);
        Ok(value)
    }

    fn check(&self) -> Result<(), String> {
        let process = std::process::id();
        if process == self.process {
            return Ok(());
        }
        Err(format!(
            "this Apiary was started by process {} and cannot be used in its fork {process}; start \
             one after the fork, or let multiprocessing spawn instead of fork",
            self.process
        ))
    }
}

impl<T> Drop for Own<T> {
    fn drop(&mut self) {
        if std::process::id() == self.process {
            // SAFETY: it is dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}
