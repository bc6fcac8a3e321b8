//! Exit codes of launches.

use crate::host;
use crate::support::bulk::{Answer, Bulk};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::TcpListener;

const ZERO: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

#[test]
fn imrun_exits_with_the_apps_exit_code() {
    let host = host!();
    for code in [0, 1, 7, 124, 255] {
        host.launch()
            .script(&format!("exit {code}"))
            .run()
            .exits(code);
    }
}

#[test]
fn an_app_ended_by_a_signal_exits_with_128_plus_its_number() {
    let host = host!();
    let mut app = host.launch().script("echo up; sleep 100").spawn();
    app.expect_line("up");
    let pid = app.event("started")["pid"].as_i64().unwrap();
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
    let ending = app.wait().exits(137);
    assert_eq!(ending.event("exit")["signal"], 9);
}

#[test]
fn an_unpacked_image_remains_after_successful_and_failed_launches() {
    let host = host!();
    for (program, code) in [("true", 0), ("nosuch", 127), ("false", 1), ("true", 0)] {
        let launch = host.launch().options(["--driver", "overlay"]);
        launch.app([program]).run().of(program).exits(code);
    }
}

#[test]
fn a_missing_digest_exits_with_125_and_is_named() {
    let host = host!();
    let refused = host.launch_of(ZERO).run().refused(ZERO).because("digest");
    refused.hints("imrun import");
    host.launch_of(&format!("app@{ZERO}"))
        .run()
        .refused(ZERO)
        .because("digest");
}

#[test]
fn a_name_is_refused_and_the_hint_has_its_digest() {
    let host = host!();
    let digest = host.busybox();
    host.imrun([
        "bake",
        host.path("image.toml").to_str().unwrap(),
        "--name",
        "app:1",
    ])
    .exits(0);
    for image in ["app:1", "app:2", "app"] {
        host.launch_of(image)
            .run()
            .refused("is a name")
            .because("policy")
            .hints("");
    }
    host.launch_of("app:1")
        .run()
        .hints(&format!("app:1@{digest}"));
}

#[test]
fn an_incomplete_digest_exits_with_125() {
    let host = host!();
    for image in [
        "sha256:",
        "sha256:abc",
        "sha512:00",
        &ZERO.to_uppercase(),
        &ZERO[7..],
    ] {
        host.launch_of(image).run().refused("").because("usage");
    }
    host.launch_of(&ZERO[7..]).run().hints(ZERO);
}

#[test]
fn a_wrong_option_exits_with_125_and_one_line() {
    let host = host!();
    host.launch()
        .options(["--bogus"])
        .run()
        .refused("--bogus")
        .hints("");
    host.launch()
        .options(["--stop-timeout", "5"])
        .run()
        .refused("imrun: duration \"5\": expected a number with a unit");
    host.launch()
        .options(["--on-stall", "wait"])
        .run()
        .refused("'wait'")
        .hints("--help");
    host.launch()
        .options(["--stop-signal", "SIGNONE"])
        .run()
        .refused("signal \"SIGNONE\"");
    host.launch()
        .options(["--net", "bogus"])
        .run()
        .refused("--net bogus")
        .because("usage");
    host.launch()
        .options(["--name", "-"])
        .run()
        .refused("--name");
    host.launch()
        .options(["--hostname", "a b"])
        .run()
        .refused("--hostname")
        .because("usage");
    host.imrun(["bogus"]).refused("bogus").hints("imrun --help");
}

#[test]
fn without_a_sink_nothing_starts() {
    let host = host!();
    let refused = host
        .launch()
        .without_sink()
        .run()
        .refused("sink")
        .because("sink");
    refused.hints("--sink stdio: shows the output here");
    host.launch().sink("").run().refused("sink").because("sink");
}

#[test]
fn a_sink_that_refuses_the_connection_exits_with_125() {
    let host = host!();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let app = host
        .launch()
        .sink(format!("es+http://{address}"))
        .script("echo ran");
    app.run().refused(&address).because("sink");
}

#[test]
fn an_unexecutable_entrypoint_exits_with_126() {
    let host = host!();
    for program in ["/etc/notes", "/etc", "/bin"] {
        let app = host.launch().app([program]).run();
        app.exits(126).prints("").says(program).because("usage");
    }
    let app = host
        .launch()
        .options(["-e", "PATH=/etc:/bin"])
        .app(["notes"]);
    app.run().exits(126).says("notes");
}

#[test]
fn a_missing_entrypoint_or_interpreter_exits_with_127() {
    let host = host!();
    for program in ["/bin/none", "none", "/etc/notes/none", "/bin/orphan"] {
        let app = host.launch().app([program]).run();
        app.exits(127)
            .prints("")
            .says(program)
            .because("usage")
            .hints("imrun inspect");
    }
}

#[test]
fn lost_lines_exit_with_124_unless_the_app_failed() {
    let host = host!();
    let mut bulk = Bulk::start(Answer::Well);
    let launch = |code: i32| {
        let sink = format!("es+http://{}", bulk.address());
        let script = format!("echo up; read line; echo lost; exit {code}");
        host.launch()
            .sink(sink)
            .interactive()
            .script(&script)
            .spawn()
    };
    let (mut well, mut failed) = (launch(0), launch(3));
    bulk.wait("both are up", |documents, _| {
        documents
            .iter()
            .filter(|document| document.source["message"] == "up")
            .count()
            == 2
    });
    bulk.kill();
    well.say("\n");
    failed.say("\n");
    let ending = well.wait().exits(124).says("were acknowledged");
    // The acknowledgement of the first line may have been lost with the server.
    let lines = &ending.event("exit")["lines"];
    assert_eq!(lines["read"], 2);
    assert_ne!(lines["pending"], 0);
    failed
        .wait()
        .exits(3)
        .says("the exit record was not acknowledged");
}

#[test]
fn a_stalled_sink_exits_with_123_under_on_stall_kill() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let mut app = host
        .launch()
        .sink(format!("es+http://{}", bulk.address()))
        .interactive();
    app = app.options([
        "--on-stall",
        "kill",
        "--stall-deadline",
        "200ms",
        "--log-buffer",
        "64K",
    ]);
    let mut app = app.script("trap '' TERM; echo up; read line; yes").spawn();
    bulk.wait("the app is up", |documents, _| documents.len() == 2);
    bulk.answer(Answer::Stall);
    app.say("\n");
    let ending = app.wait().exits(123);
    assert_eq!(ending.event("exit")["stalled"], true);
}
