//! Supervision: imrun forwards signals to its container and stops it in time, and nothing outlives imrun.

use crate::host;
use crate::support::bulk::{Answer, Bulk};
use crate::support::host::Host;
use crate::support::launch::{Launch, Running};
use crate::support::skip::without_root;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

/// Script that prints the signals it gets; SIGUSR2 ends it.
const LISTENER: &str = "
    for signal in HUP INT QUIT TERM USR1 ALRM CONT WINCH; do trap \"echo $signal\" $signal; done
    trap 'echo USR2; exit 5' USR2
    echo up
    while :; do sleep 100 & wait; done";
/// Script that ignores all signals that can be ignored.
const DEAF: &str = "trap '' TERM INT HUP; echo up; while :; do sleep 100; done";

fn up<'a>(launch: Launch<'a>, script: &str) -> Running<'a> {
    let mut app = launch.script(script).spawn();
    app.expect_line("up");
    app
}

fn is_alive(pid: &Value) -> bool {
    fs::exists(format!("/proc/{pid}")).unwrap()
}

fn ps(host: &Host) -> Value {
    let listed = host.imrun(["ps", "--json"]).exits(0);
    serde_json::from_str(&listed.out).unwrap()
}

#[test]
fn signals_reach_the_app() {
    let host = host!();
    let mut app = up(host.launch().options(["--stop-timeout", "1h"]), LISTENER);
    let signals = [
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGQUIT, "QUIT"),
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGALRM, "ALRM"),
        (Signal::SIGCONT, "CONT"),
        (Signal::SIGWINCH, "WINCH"),
    ];
    for (signal, name) in signals {
        app.signal(signal);
        app.expect_line(name);
    }
    app.signal(Signal::SIGUSR2);
    app.wait().exits(5).prints("USR2\n");
}

#[test]
fn sigterm_becomes_the_stop_signal_of_the_image_or_the_option() {
    let host = host!();
    let image = host.bake_busybox("stop-signal = \"SIGUSR2\"");
    let app = up(host.launch_of(&image), LISTENER);
    app.signal(Signal::SIGTERM);
    app.wait().exits(5).prints("USR2\n");

    let mut app = up(
        host.launch_of(&image).options(["--stop-signal", "HUP"]),
        LISTENER,
    );
    app.signal(Signal::SIGTERM);
    app.expect_line("HUP");
    app.signal(Signal::SIGUSR2);
    app.wait().exits(5);
}

#[test]
fn an_app_that_ignores_its_stop_signal_is_killed_after_the_timeout() {
    let host = host!();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let app = up(host.launch().options(["--stop-timeout", "300ms"]), DEAF);
        let sent = Instant::now();
        app.signal(signal);
        let ending = app.wait().exits(137);
        assert!(sent.elapsed() >= Duration::from_millis(300));
        assert_eq!(ending.event("exit")["signal"], 9);
    }
}

#[test]
fn stop_ends_a_container_by_name_and_waits_for_its_end() {
    let host = host!();
    let mut app = up(
        host.launch().options(["--name", "web"]),
        "trap 'exit 4' TERM; echo up; sleep 100 & wait",
    );
    let pid = app.event("started")["pid"].clone();
    host.imrun(["stop", "web"]).exits(0).prints("");
    assert!(!is_alive(&pid) && ps(&host).as_array().unwrap().is_empty());
    app.wait().exits(4);
    host.imrun(["stop", "web"]).refused("web").hints("imrun ps");
}

#[test]
fn stop_accepts_a_timeout_and_a_prefix_of_an_id() {
    let host = host!();
    let mut app = up(host.launch().options(["--stop-timeout", "1h"]), DEAF);
    let id = app.event("started")["id"].as_str().unwrap()[..8].to_owned();
    host.imrun(["stop", &id, "-t", "200ms"]).exits(0);
    app.wait().exits(137);
}

#[test]
fn ps_lists_running_containers_only() {
    let host = host!();
    assert_eq!(ps(&host), Value::Array(Vec::new()));
    let mut app = up(host.launch().options(["--name", "web"]), LISTENER);
    let started = app.event("started");
    let shown = ps(&host)[0].clone();
    for field in ["id", "pid", "launch"] {
        assert_eq!(shown[field], started[field]);
    }
    assert_eq!(shown["name"], "web");
    assert_eq!(shown["image"], host.busybox());
    assert_eq!(shown["integrity"], "hashed");
    assert_eq!(shown["sink"], "stdio:");
    assert_eq!(shown["supervisor"], app.pid());
    assert_eq!(shown["args"].as_array().unwrap()[..2], ["sh", "-c"]);
    let started = shown["started"].as_str().unwrap();
    assert!(started.starts_with("20") && started.ends_with('Z'));
    let table = host.imrun(["ps"]).exits(0);
    let row = table.out.lines().nth(1).unwrap();
    assert!(
        row.starts_with(&shown["id"].as_str().unwrap()[..12]) && row.contains(" web "),
        "{row}"
    );
    assert_eq!(
        table.out.lines().count(),
        2,
        "what the app is called takes one line"
    );
    app.signal(Signal::SIGUSR2);
    app.wait().exits(5);
    assert_eq!(ps(&host), Value::Array(Vec::new()));
}

#[test]
fn a_name_belongs_to_one_container_at_a_time() {
    let host = host!();
    let named = || host.launch().options(["--name", "web"]);
    let app = up(named(), LISTENER);
    named()
        .script("echo ran")
        .run()
        .refused("--name web")
        .because("usage")
        .hints("imrun stop web");
    app.signal(Signal::SIGUSR2);
    app.wait().exits(5);
    named().script("echo ran").run().exits(0).prints("ran\n");
}

#[test]
fn a_name_is_reserved_when_a_launch_begins() {
    let host = host!();
    let bulk = Bulk::start(Answer::Stall);
    let launch = || {
        let sink = format!("es+http://{}", bulk.address());
        host.launch().options(["--name", "web"]).sink(sink)
    };
    let first = launch().app(["true"]).spawn();
    bulk.wait("the launch record", |_, requests| requests == 1);
    launch().app(["true"]).run().refused("--name web");
    bulk.answer(Answer::Well);
    first.wait().exits(0);
}

#[test]
fn processes_that_the_app_leaves_running_end_with_it() {
    if without_root("no cgroup is delegated here") {
        return;
    }
    let host = host!();
    let script = "sleep 1000 & setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & sleep 1000' & echo up; read line";
    let mut app = host.launch().interactive().script(script).spawn();
    app.expect_line("up");
    let id = app.event("started")["id"].as_str().unwrap().to_owned();
    let cgroup = imrun::runtime::cgroup::hierarchy()
        .unwrap()
        .join("imrun")
        .join(id);
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
    assert!(processes.lines().count() >= 3, "{processes}");
    app.wait().exits(1);
    assert!(
        processes
            .lines()
            .all(|pid| !is_alive(&pid.parse().unwrap()))
    );
    assert!(!cgroup.exists());
}

#[test]
fn a_container_dies_with_its_imrun_and_the_next_command_sweeps() {
    if without_root("no cgroup is delegated here") {
        return;
    }
    let host = host!();
    for sweep in [["ps", "--json"], ["stop", "nobody"]] {
        let mut app = up(host.launch(), DEAF);
        let started = app.event("started");
        let id = started["id"].as_str().unwrap();
        let cgroup = imrun::runtime::cgroup::hierarchy()
            .unwrap()
            .join("imrun")
            .join(id);
        let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap();
        app.signal(Signal::SIGKILL);
        app.wait().exits(137);
        let deadline = Instant::now() + Duration::from_secs(60);
        while processes.lines().any(|pid| is_alive(&pid.parse().unwrap())) {
            assert!(
                Instant::now() < deadline,
                "the container outlives its imrun"
            );
        }
        assert!(
            host.path("root").join(id).exists() && cgroup.exists(),
            "there is something to sweep"
        );
        host.imrun(sweep);
        assert!(!host.path("root").join(id).exists() && !cgroup.exists());
    }
}

#[test]
fn a_launch_can_reuse_the_name_of_a_killed_container() {
    let host = host!();
    let app = up(host.launch().options(["--name", "web"]), DEAF);
    app.signal(Signal::SIGKILL);
    app.wait().exits(137);
    host.launch()
        .options(["--name", "web"])
        .script("echo ran")
        .run()
        .exits(0)
        .prints("ran\n");
}

#[test]
fn killing_imrun_before_the_start_leaves_no_process() {
    let host = host!();
    let bulk = Bulk::start(Answer::Stall);
    let app = host
        .launch()
        .sink(format!("es+http://{}", bulk.address()))
        .script("echo ran")
        .spawn();
    bulk.wait("the launch record", |_, requests| requests == 1);
    kill(Pid::from_raw(app.pid()), Signal::SIGKILL).unwrap();
    app.wait().exits(137);
    host.sweep();
}

#[test]
fn a_failed_launch_leaves_no_cgroup() {
    let host = host!();
    for (options, code) in [(["-w", "/"], 127), (["-w", "/none"], 125)] {
        let bulk = Bulk::start(Answer::Well);
        let sink = format!("es+http://{}", bulk.address());
        let launch = host.launch().sink(sink).options(options);
        launch.app(["/none"]).run().exits(code);
        let parent = imrun::runtime::cgroup::hierarchy().unwrap().join("imrun");
        // A launch that fails early may not report its id, so the test checks the host for leftovers, too.
        for document in bulk.documents() {
            let id = document.source["container.id"].as_str().unwrap();
            assert!(!parent.join(id).exists());
        }
    }
}

#[test]
fn a_signal_during_the_wait_for_the_sink_ends_the_start() {
    let host = host!();
    let bulk = Bulk::start(Answer::Stall);
    let app = host
        .launch()
        .sink(format!("es+http://{}", bulk.address()))
        .options(["--stop-timeout", "200ms"]);
    let app = app.script("sleep 100").spawn();
    bulk.wait("the launch record", |_, requests| requests == 1);
    app.signal(Signal::SIGTERM);
    app.wait().exits(128 + 15).says("SIGTERM");
}

/// Under `kill` and `check` imrun sets the length of the app's files, with the limit that it inherited.
#[test]
fn a_limit_on_file_sizes_does_not_end_imrun() {
    let host = host!();
    let mut app = host
        .launch()
        .interactive()
        .script("echo up; read line")
        .spawn();
    app.expect_line("up");
    let status = fs::read_to_string(format!("/proc/{}/status", app.pid())).unwrap();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert!(ignored & 1 << (libc::SIGXFSZ - 1) != 0, "{ignored:x}");
    app.say("on\n");
    app.wait().exits(0);
}

#[test]
fn a_status_descriptor_that_nobody_reads_holds_no_launch_up_for_ever() {
    let host = host!();
    let (reader, writer) = std::io::pipe().unwrap();
    let long = format!("/{}", "x".repeat(200));
    let script = format!("for n in $(seq 1000); do echo > {long}$n; done 2>/dev/null");
    let mut command = host.command(["run", "--sink", "stdio:", "--status-fd", "1"]);
    let mut app = command
        .args([host.busybox(), "sh", "-c", &script])
        .stdout(writer)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    drop(command);
    // It ends by itself, while the pipe stays full.
    assert_eq!(app.wait().unwrap().code(), Some(121));
    drop(reader);
}

#[test]
fn an_app_without_a_handler_for_its_stop_signal_is_killed_at_once_and_one_line_says_so() {
    let host = host!();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let app = up(
            host.launch().options(["--stop-timeout", "1h"]),
            "echo up; sleep 10000",
        );
        app.signal(signal);
        let ending = app.wait().exits(137);
        let line = format!(
            "imrun: stop: the app has no handler for {}",
            signal.as_str()
        );
        assert!(ending.err.contains(&line), "{ending:?}");
    }
}

#[test]
fn behind_a_process_1_of_imruns_signals_end_the_app_as_they_would_anywhere() {
    let host = host!();
    let launch = || host.launch().options(["--init", "--stop-timeout", "1h"]);
    for (signal, code) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGINT, 130),
        (Signal::SIGUSR1, 138),
    ] {
        let app = up(launch(), "echo up; exec sleep 10000");
        app.signal(signal);
        let ending = app.wait().exits(code);
        assert_eq!(ending.event("exit")["signal"], signal as i32);
        assert_eq!(ending.err, "");
    }
    let mut app = up(launch(), LISTENER);
    for (signal, name) in [
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGWINCH, "WINCH"),
    ] {
        app.signal(signal);
        app.expect_line(name);
    }
    app.signal(Signal::SIGUSR2);
    app.wait().exits(5).prints("USR2\n");
}

#[test]
fn behind_a_process_1_of_imruns_exit_codes_are_the_apps_own_and_orphans_are_reaped() {
    let host = host!();
    let launch = || host.launch().options(["--init"]);
    launch().script("exit 7").run().exits(7);
    let killed = launch().script("kill -9 $$").run().exits(137);
    assert_eq!(killed.event("exit")["signal"], 9);
    let plain = launch().script("exit 137").run().exits(137);
    assert_eq!(plain.event("exit")["signal"], Value::Null);
    launch().app(["/etc/nothing"]).run().exits(127).prints("");
    launch().app(["/etc"]).run().exits(126).prints("");
    let script = "
        (sleep 0.1 & echo $! >&2)
        while grep -q sleep /proc/[0-9]*/comm 2>/dev/null; do sleep 0.01; done
        grep -h State: /proc/[0-9]*/status | grep -c Z; cat /proc/1/comm";
    launch()
        .script(script)
        .run()
        .exits(0)
        .prints("0\nimrun-init\n");
}

#[test]
fn a_process_1_of_imruns_has_no_more_rights_than_the_app_and_cannot_be_reached() {
    let host = host!();
    let script = "
        for field in CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Uid Gid; do
            [ \"$(grep ^$field: /proc/1/status)\" = \"$(grep ^$field: /proc/self/status)\" ] || echo $field differs
        done
        for file in exe root cwd fd/3; do readlink /proc/1/$file && echo $file is seen; done
        head -c 1 /proc/1/mem && echo memory is seen
        ls /proc/self/fd | grep -c .";
    let app = host.launch().options(["--init", "--on-write", "quiet"]);
    let app = app.script(script).run();
    // 0, 1, 2, and the directory that is listed.
    assert_eq!(app.out, "4\n", "{app:?}");
}

/// Without a process 1 of imrun's, no signal but SIGKILL ends an app that has no handler for it.
#[test]
fn behind_a_process_1_of_imruns_a_realtime_signal_ends_the_app_like_any_other() {
    let host = host!();
    for signal in [34, 37, 64] {
        let script = format!("kill -{signal} $$; sleep 1000");
        let launch = host.launch().options(["--init"]).script(&script);
        let ending = launch.run().exits(128 + signal);
        assert_eq!(ending.event("exit")["signal"], signal);
        assert_eq!(ending.err, "");
    }
}
