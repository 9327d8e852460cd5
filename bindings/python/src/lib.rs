//! `apiary._apiary`: the part of the Python package that is not Python.
//!
//! Rows cross here through the Arrow C data interface, without a copy. Everything that a user sees
//! (names of methods, objects, conversions) is in `python/apiary`, over the few classes of this one.
//!
//! Invariants: the GIL is released whenever Rust works or waits; no lock of ours is held while it is
//! asked for; nothing of a node is touched in a process that was forked from the one that started it.

mod errors;
mod fork;
mod information;
mod input;
mod logging;
mod node;
mod pages;
mod parameters;
mod places;
mod queries;
mod rows;
mod types;
mod wait;
mod writes;

use apiary_node::Allocator;
use pyo3::prelude::pymodule;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

#[pymodule]
mod _apiary {
    use apiary_node::Program;
    use pyo3::prelude::*;
    use std::ffi::OsString;

    #[pymodule_export]
    use crate::logging::{close_log, next_record, set_log_level};
    #[pymodule_export]
    use crate::node::Node;
    #[pymodule_export]
    use crate::rows::Rows;
    #[pymodule_export]
    use crate::wait::wait_for_calls;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }

    /// Runs the command line; gives the exit code. `words` start this program anew.
    #[pyfunction]
    fn run_command(
        py: Python<'_>,
        name: &str,
        words: Vec<OsString>,
        arguments: Vec<OsString>,
    ) -> i32 {
        let program = Program::started_by(name, words);
        py.detach(|| apiary_node::run(program, arguments))
    }
}
