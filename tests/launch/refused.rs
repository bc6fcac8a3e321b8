//! Options and commands of docker, refused with a reason and an alternative.

use crate::host;

#[test]
fn options_that_would_undo_immutability_are_refused_with_a_hint() {
    let host = host!();
    let table: [(&[&str], &str); 12] = [
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
        (&["--rm", "--read-only"], "--read-only"),
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
    for command in ["exec", "cp", "logs", "attach", "commit", "restart", "load"] {
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
        .hints("omit it");
}
