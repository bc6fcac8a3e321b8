//! The program `containerd-shim-imrun-v1`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(imrun::shim::main(std::env::args_os().collect()))
}
