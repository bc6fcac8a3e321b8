//! Files named on the command line: bounded reads that never block a launch.

use crate::host;
use crate::support::host::Host;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

fn fifo(host: &Host, name: &str) -> PathBuf {
    let path = host.path(name);
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    path
}

#[test]
fn an_environment_file_may_be_a_descriptor_or_a_pipe() {
    let host = host!();
    // The descriptor of a shell's `--env-file <(…)`.
    let file = host.write("file", "A=file\n");
    let opened = format!("7<{}", file.display());
    let launch = host.launch().redirections(&opened);
    let app = launch.options(["--env-file", "/dev/fd/7"]);
    app.script("echo $A; ls /proc/self/fd | wc -l")
        .run()
        .exits(0)
        .prints("file\n4\n");

    let path = fifo(&host, "fifo");
    let launch = host
        .launch()
        .options(["--env-file", path.to_str().unwrap()]);
    let app = launch.script("echo $A").spawn();
    let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
    writer.write_all(b"A=pipe\n").unwrap();
    drop(writer);
    app.wait().exits(0).prints("pipe\n");
}

#[test]
fn a_signal_ends_the_wait_for_an_environment_file() {
    let host = host!();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let path = fifo(&host, signal.as_str());
        let launch = host
            .launch()
            .options(["--env-file", path.to_str().unwrap()]);
        let app = launch.script("echo $A").spawn();
        // This open returns once imrun has the fifo open: from then on imrun waits for bytes.
        let writer = OpenOptions::new().write(true).open(&path).unwrap();
        app.signal(signal);
        app.wait().exits(128 + signal as i32).prints("");
        drop(writer);
    }
}

#[test]
fn an_endless_environment_file_and_a_directory_are_refused_by_name() {
    let host = host!();
    for (path, why) in [
        ("/dev/zero", "is larger than 8388608 bytes"),
        ("/etc", "is a directory"),
    ] {
        let launch = host.launch().options(["--env-file", path]);
        let app = launch.script("echo ran").run();
        app.refused(path).because("usage").says(why).prints("");
    }
}

#[test]
fn a_file_in_a_sink_url_never_blocks() {
    let host = host!();
    let path = fifo(&host, "fifo");
    for sink in [
        "json+tls://127.0.0.1:1?ca=",
        "es+http://127.0.0.1:1?authorization=",
    ] {
        for path in [path.to_str().unwrap(), "/dev/zero"] {
            let app = host
                .launch()
                .sink(format!("{sink}{path}"))
                .script("echo ran");
            let app = app.run().of(sink);
            app.refused(path).says("is not a regular file").prints("");
        }
    }
}
