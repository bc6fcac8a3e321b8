//! Options and commands of docker, refused with a reason and an alternative.

use crate::host;
use crate::support::outcome::Outcome;
use crate::support::skip::without_root;

#[test]
fn options_that_would_undo_immutability_are_refused_with_a_hint() {
    let host = host!();
    let table: [(&[&str], &str); 17] = [
        (&["-v", "/etc:/etc"], "-v"),
        (&["--volume=/etc:/etc"], "-v"),
        (&["--mount", "type=bind,source=/etc,target=/etc"], "--mount"),
        (&["--tmpfs", "/tmp"], "--tmpfs"),
        (&["-p", "80:80"], "-p"),
        (&["--publish", "80:80"], "-p"),
        (&["-d"], "-d"),
        (&["--detach"], "-d"),
        (&["-t"], "-t"),
        (&["-it"], "-t"),
        (&["--privileged"], "--privileged"),
        (&["--rm", "--read-only"], "--rm"),
        (&["--read-only"], "--read-only"),
        (&["--log-driver", "journald"], "--log-driver"),
        (&["--gpus=all"], "--gpus"),
        (&["--cap-drop", "ALL"], "--cap-drop"),
        (&["--restart=always"], "--restart"),
    ];
    for (options, named) in table {
        let refused = host.launch().options(options).script("echo ran").run();
        refused
            .refused(&format!("imrun: {named}: "))
            .because("policy")
            .hints("");
    }
}

#[test]
fn commands_that_would_enter_a_container_are_refused_with_a_hint() {
    let host = host!();
    for command in [
        "exec", "cp", "logs", "attach", "commit", "restart", "load", "rmi", "top", "volume",
        "network",
    ] {
        let refused = host.imrun([command, "-it", "web", "sh"]);
        refused.refused(&format!("imrun: {command}: ")).hints("");
    }
}

#[test]
fn options_after_the_image_belong_to_the_app() {
    let host = host!();
    host.launch()
        .app(["echo", "-v", "--privileged", "-t"])
        .run()
        .exits(0)
        .prints("-v --privileged -t\n");
    let refused = host.launch().options(["--rm"]).run();
    refused
        .refused("imrun: --rm: nothing of a container is left behind")
        .hints("leave it out");
}

#[test]
fn every_word_behind_the_image_is_the_apps_in_the_long_form_and_the_short_one() {
    let host = host!();
    let words = [
        "echo",
        "-e",
        "stderr",
        "--on-write",
        "quiet",
        "--net",
        "-h",
        "--log",
        "F",
        "--",
        "-p",
    ];
    let expected = words[1..].join(" ") + "\n";
    // BusyBox's echo knows -e, and leaves it out.
    let expected = expected.replace("-e ", "");
    host.launch().app(words).run().exits(0).prints(&expected);
    let image = host.busybox();
    let short = ["--sink", "stdio:", image].into_iter().chain(words);
    host.imrun(short).exits(0).prints(&expected);
}

#[test]
fn a_mistyped_command_is_told_with_the_one_that_was_meant() {
    let host = host!();
    host.imrun(["verfy"])
        .refused("command \"verfy\"")
        .hints("imrun verify");
    host.imrun(["redis"])
        .refused("command \"redis\"")
        .hints("sha256:");
}

#[test]
fn a_check_has_no_policy_for_writes_and_a_deadline_needs_its_policy() {
    let host = host!();
    let image = host.busybox();
    let check = host.imrun(["check", "--on-write", "kill", image, "true"]);
    check.refused("--on-write").hints("leave it out");
    let launch = host
        .launch()
        .options(["--stall-deadline", "1s"])
        .script("echo ran");
    launch
        .run()
        .refused("--stall-deadline")
        .because("usage")
        .hints("--on-stall kill");
}

#[test]
fn a_name_of_the_store_is_no_bundle_of_the_working_directory() {
    let host = host!();
    host.busybox();
    let image = host.path("image.toml");
    host.imrun([
        "bake".as_ref(),
        image.as_os_str(),
        "--name".as_ref(),
        "named".as_ref(),
    ])
    .exits(0);
    let directory = host.write("bundle/config.json", "{}");
    let directory = directory.parent().unwrap();
    let run = |id: &str| {
        let mut command = host.command(["run", id]);
        let output = command
            .current_dir(directory)
            .env("IMRUN_SINK", "stdio:")
            .output()
            .unwrap();
        Outcome::new(format!("{command:?}"), output, Vec::new())
    };
    run("named").refused("\"named\"").hints("--bundle .");
    run("other").refused("config.json");
    if without_root("another user's config.json takes root to make") {
        return;
    }
    let file = directory.join("config.json");
    std::os::unix::fs::lchown(file, Some(1000), None).unwrap();
    run("other").refused("image \"other\"");
}
