//! `apiary-node`: the command line as a program of its own.

use apiary_node::{Allocator, Program};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn main() {
    std::process::exit(apiary_node::run(
        Program::itself(),
        std::env::args_os().skip(1),
    ));
}
