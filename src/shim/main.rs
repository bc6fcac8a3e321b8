//! The command: maps the outcome to an exit code, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(imrun::shim::main(std::env::args_os().collect()))
}
