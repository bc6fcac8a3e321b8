//! The command: maps the outcome to an exit code, nothing else.

fn main() {}
