//! The build script: names the build by its commit, and compiles the program of `imrun demo`.

use std::env::var;
use std::process::Command;

const HELLO: &str = "images/hello/main.rs";

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    println!("cargo::rerun-if-changed={HELLO}");
    println!("cargo::rustc-env=IMRUN_BUILD={}", commit());
    compile_hello();
}

fn commit() -> String {
    let git = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .output();
    match git {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

/// Cargo has no way to give one program of a package to another at compile time.
fn compile_hello() {
    let set = |name: &str| var(name).unwrap_or_else(|_| panic!("cargo sets {name}"));
    let hello = format!("{}/hello", set("OUT_DIR"));
    let status = Command::new(set("RUSTC"))
        .args([
            "--edition",
            "2024",
            "--crate-name",
            "hello",
            "--target",
            &set("TARGET"),
        ])
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
        ])
        .args(["-C", "lto", "-C", "codegen-units=1", "-C", "strip=symbols"])
        .args(["-o", &hello, HELLO])
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{HELLO} does not compile"
    );
}
