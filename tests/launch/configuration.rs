//! Configuration through the environment, whose values are never shown.

use crate::host;
use crate::support::bulk::{Answer, Bulk};
use crate::support::host::IMRUN;
use serde_json::{Value, json};
use std::fs;

/// Secret that the tests search for everywhere: only the app may get it.
const SECRET: &str = "correct-horse-battery-staple";
const SECRET_FROM_FILE: &str = "tr0ub4dor-and-3";

const CONTRACT: &str = r#"
[labels]
"dev.imrun.env" = '{"TOKEN":{"required":true,"secret":true,"pattern":"[a-z]+"},"LEVEL":{"pattern":"debug|info"}}'
"#;

#[test]
fn an_option_overrides_files_and_both_override_the_image() {
    let host = host!();
    let image = host.bake_busybox("[env]\nA = \"image\"\nB = \"image\"\nC = \"image\"");
    let (one, two) = (
        host.write("one", "# no\n\nB=one\nC=one\nD=one\n"),
        host.write("two", "D=two x=y\r\n"),
    );
    let files = [
        "--env-file",
        one.to_str().unwrap(),
        "--env-file",
        two.to_str().unwrap(),
    ];
    let app = host
        .launch_of(&image)
        .options(files)
        .options(["-e", "C=typed", "--env=E=", "-e", "C=again"]);
    let app = app
        .script("echo $A $B $C \"$D\" \"${E-unset}\" ${F-unset}")
        .run();
    app.exits(0).prints("image one again two x=y  unset\n");
}

#[test]
fn the_app_sees_configured_variables_and_none_of_the_host() {
    let host = host!();
    let app = host
        .launch()
        .environment("HOST", "secret")
        .options(["-e", "A=1"])
        .app(["env"])
        .run();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    app.exits(0).prints(&format!("{path}\nHOME=/root\nA=1\n"));
}

#[test]
fn an_image_alone_launches_with_the_sink_of_the_environment() {
    let host = host!();
    let mut command = std::process::Command::new(IMRUN);
    command
        .env("IMRUN_SINK", "stdio:")
        .env("IMRUN_STORE", host.path("store"));
    command.arg("--root").arg(host.path("root")).args([
        host.busybox(),
        "echo",
        "-e",
        "A=1",
        "--help",
    ]);
    let output = command.output().unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert_eq!(output.stdout, b"A=1 --help\n");
}

#[test]
fn a_name_without_a_value_copies_the_callers_variable() {
    let host = host!();
    let file = host.write("file", "IN_FILE\nNOT_THERE\n");
    let launch = host
        .launch()
        .environment("TYPED", "one")
        .environment("IN_FILE", "two");
    let launch = launch.options([
        "-e",
        "TYPED",
        "-e",
        "NOT_SET",
        "--env-file",
        file.to_str().unwrap(),
    ]);
    let app = launch
        .script("echo $TYPED $IN_FILE ${NOT_SET-unset} ${NOT_THERE-unset}")
        .run();
    app.exits(0).prints("one two unset unset\n");
}

#[test]
fn declared_variables_without_a_value_are_named_and_no_value_is_shown() {
    let host = host!();
    let image = host.bake_busybox(CONTRACT);
    let launch = |options: &[&str]| {
        host.launch_of(&image)
            .options(options)
            .script("echo ran")
            .run()
    };
    launch(&[])
        .refused("TOKEN is required")
        .because("usage")
        .hints("dev.imrun.env");
    launch(&["-e", "TOKEN=abc", "-e", "LEVEL=info"])
        .exits(0)
        .prints("ran\n");

    let malformed = format!("TOKEN={SECRET}");
    let refused = launch(&["-e", &malformed, "-e", "LEVEL=loud"]).because("usage");
    let refused = refused.refused("LEVEL does not match debug|info; TOKEN does not match [a-z]+");
    assert!(
        !format!("{:?} {}", refused.events, refused.err).contains(SECRET),
        "{refused:?}"
    );
    assert!(!refused.err.contains("loud"), "{refused:?}");
}

#[test]
fn no_value_appears_in_a_command_line_a_state_file_a_record_or_an_event() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let file = host.write("file", format!("FILED={SECRET_FROM_FILE}\n"));
    let typed = ["-e", "A=", "--env", "B=", "--env=C=", "-eD="];
    let typed = typed.map(|text| {
        if text.ends_with('=') {
            format!("{text}{SECRET}")
        } else {
            text.into()
        }
    });
    let launch = host
        .launch()
        .interactive()
        .sink(format!("es+http://{}", bulk.address()));
    let launch = launch
        .options(["--env-file", file.to_str().unwrap()])
        .options(typed);
    let launch = launch.options(["-e", "F"]).environment("F", SECRET);
    let app = launch.script(
        "for v in $A $B $C $D $F $FILED; do test ${#v} -gt 14 || exit 1; done; read line; true",
    );
    let mut app = app.spawn();
    let started = app.event("started");

    let id = started["id"].as_str().unwrap();
    let state = fs::read_to_string(host.path(&format!("root/{id}/state.json"))).unwrap();
    let command_line = fs::read(format!("/proc/{}/cmdline", app.pid())).unwrap();
    let command_line = String::from_utf8_lossy(&command_line).into_owned();
    assert!(
        command_line.contains("\0run\0") && command_line.contains("read line"),
        "{command_line:?}"
    );
    let shown = [
        state,
        command_line,
        host.imrun(["ps"]).out,
        host.imrun(["ps", "--json"]).out,
    ];
    let ending = app.wait().exits(0);
    let documents = format!("{:?}", bulk.documents());
    assert!(documents.contains("FILED"));
    let events = format!("{:?} {}", ending.events, ending.err);
    for text in shown.iter().chain([&documents, &events]) {
        assert!(
            !text.contains(SECRET) && !text.contains(SECRET_FROM_FILE),
            "{text}"
        );
    }
}

#[test]
fn no_value_appears_in_an_error() {
    let host = host!();
    let launch = |options: [&str; 2]| host.launch().options(options).script("echo ran").run();
    let file = |text: &str| {
        host.write("file", format!("{text}{SECRET}\n"))
            .display()
            .to_string()
    };
    let refusals = [
        launch(["-e", &format!("={SECRET}")]),
        launch(["--env-file", &file("=")]),
        launch(["--env-file", &file("A B=")]),
        launch(["--env-file", &file("A=\0")]),
    ];
    for refused in refusals {
        let refused = refused.refused("").because("usage");
        assert!(
            !format!("{refused:?}")
                .replace(&format!("\"={SECRET}\\\""), "")
                .contains(&format!("{SECRET}\\n"))
        );
        assert!(!refused.err.contains(SECRET), "{refused:?}");
    }
}

#[test]
fn the_record_has_keyed_fingerprints_of_all_variables() {
    let host = host!();
    let fingerprints = |key: &str, value: &str| -> Value {
        let bulk = Bulk::start(Answer::Well);
        let launch = host.launch().sink(format!("es+http://{}", bulk.address()));
        let launch = launch.environment("IMRUN_FINGERPRINT_KEY", key);
        launch
            .options(["-e", &format!("TOKEN={value}")])
            .app(["true"])
            .run()
            .exits(0);
        let env = bulk.documents()[0].source["imrun.record"]["env"].clone();
        let variables = env.as_array().unwrap().iter();
        let named = |v: &Value| (v["name"].as_str().unwrap().to_owned(), v["hmac"].clone());
        Value::Object(variables.map(named).collect())
    };
    let first = fingerprints("key", "one");
    assert_eq!(first, fingerprints("key", "one"));
    assert_eq!(first["TOKEN"], hmac("key", "TOKEN=one"));
    assert_eq!(first["HOME"], hmac("key", "HOME=/root"));
    assert_eq!(first.as_object().unwrap().len(), 3, "PATH, HOME and TOKEN");
    assert_ne!(first["TOKEN"], fingerprints("key", "two")["TOKEN"]);
    assert_ne!(first["TOKEN"], fingerprints("other", "one")["TOKEN"]);
}

/// Computes HMAC-SHA-256, in hex.
fn hmac(key: &str, text: &str) -> Value {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    json!(imrun::base::digest::hex(&mac.finalize().into_bytes()))
}

#[test]
fn a_variable_that_execve_would_refuse_is_refused_by_name() {
    let host = host!();
    let launch = |length: usize| {
        let value = "x".repeat(length - "HUGE=".len());
        let file = host.write("file", format!("HUGE={value}\n"));
        let launch = host
            .launch()
            .options(["--env-file", file.to_str().unwrap()]);
        launch.script("echo ${#HUGE}").run()
    };
    launch(131_071).exits(0).prints("131066\n");
    let refused = launch(131_072).refused("HUGE").because("usage");
    assert!(refused.err.len() < 500, "{refused:?}");
}

#[test]
fn an_environment_larger_than_execve_accepts_is_refused() {
    let host = host!();
    let lines = (0..20).map(|number| format!("V{number}={}\n", "x".repeat(120_000)));
    let file = host.write("file", lines.collect::<String>());
    let launch = host
        .launch()
        .options(["--env-file", file.to_str().unwrap()]);
    launch
        .script("echo ran")
        .run()
        .refused("arguments and environment")
        .because("usage");
}
