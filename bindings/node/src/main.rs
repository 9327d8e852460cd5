//! `apiary-node`: the command line as a program of its own.

use apiary_node::Program;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() {
    std::process::exit(apiary_node::run(
        Program::itself(),
        std::env::args_os().skip(1),
    ));
}
