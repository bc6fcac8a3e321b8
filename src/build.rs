//! The build script: names the build by its commit, and compiles the programs of `--init` and `imrun demo`.

use std::env::var;
use std::process::Command;

const REAPER: &str = "src/sys/reaper/main.rs";
const HELLO: &str = "images/hello/main.rs";

fn main() {
    println!("cargo::rerun-if-changed=src/build.rs");
    println!("cargo::rerun-if-changed=.git/logs/HEAD");
    println!("cargo::rerun-if-changed={HELLO}");
    println!("cargo::rerun-if-changed={REAPER}");
    println!("cargo::rustc-env=IMRUN_BUILD={}", commit());
    if set("OPT_LEVEL") == "z" {
        link_small();
    }
    // Without any library: the kernel enters it at `_start`.
    let alone = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-Wl,--build-id=none",
        "-Wl,-z,norelro",
    ];
    let alone = alone.map(|argument| format!("-Clink-arg={argument}"));
    compile(
        "reaper",
        REAPER,
        &[&["-Crelocation-model=static".to_string()][..], &alone].concat(),
    );
    if var("CARGO_FEATURE_IMPORT").is_ok() {
        compile("hello", HELLO, &[]);
    }
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

fn set(name: &str) -> String {
    var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

/// Nothing unwinds where a panic aborts: the tables for it are a tenth of the program. Relocations
/// are packed (glibc 2.36 reads that).
fn link_small() {
    const SCRIPT: &str = "SECTIONS { /DISCARD/ : { *(.eh_frame .gcc_except_table .gcc_except_table.*) } }\nINSERT BEFORE .init;\n";
    let script = format!("{}/small.ld", set("OUT_DIR"));
    std::fs::write(&script, SCRIPT).expect("OUT_DIR can be written to");
    for argument in [
        "--no-eh-frame-hdr",
        "-zpack-relative-relocs",
        &format!("-T{script}"),
    ] {
        println!("cargo::rustc-link-arg-bins=-Wl,{argument}");
    }
}

/// Cargo has no way to give one program of a package to another at compile time.
fn compile(name: &str, source: &str, more: &[String]) {
    let program = format!("{}/{name}", set("OUT_DIR"));
    let status = Command::new(set("RUSTC"))
        .args([
            "--edition",
            "2024",
            "--crate-name",
            name,
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
        .args(var("RUSTC_LINKER").map(|linker| format!("-Clinker={linker}")))
        .args(more)
        .args(["-o", &program, source])
        .status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{source} does not compile"
    );
}
