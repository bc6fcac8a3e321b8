//! Names the build: the commit it was made from.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    let commit = Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let build = match commit {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    };
    println!("cargo::rustc-env=IMRUN_BUILD={build}");
}
