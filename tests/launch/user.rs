//! Who the app is, where it starts, what it executes, and what it can read and write by itself.

use crate::host;
use crate::support::layout::{Layout, Packing};
use crate::support::skip::without_root;

#[test]
fn users_and_groups_are_those_of_the_images_own_files() {
    if without_root("an ordinary user has one id") {
        return;
    }
    let host = host!();
    let table = [
        ("", "0 0 0"),
        ("0", "0 0 0"),
        ("app", "1000 1001 1001 2000"),
        ("1000", "1000 1001 1001 2000"),
        ("app:logs", "1000 2000 2000"),
        ("app:7", "1000 7 7"),
        ("4000", "4000 0 0"),
        ("4000:4001", "4000 4001 4001"),
        ("65535:65535", "65535 65535 65535"),
        ("1000680000:70000", "1000680000 70000 70000"),
        ("4294967294", "4294967294 0 0"),
    ];
    for (user, ids) in table {
        let app = host
            .launch()
            .options(["--user", user])
            .script("echo $(id -u) $(id -g) $(id -G)");
        app.run().exits(0).prints(&format!("{ids}\n"));
    }
}

#[test]
fn the_images_user_counts_unless_another_is_typed() {
    let host = host!();
    let image = host.bake_busybox("user = \"app\"");
    host.launch_of(&image)
        .app(["id", "-u"])
        .run()
        .exits(0)
        .prints("1000\n");
    host.launch_of(&image)
        .options(["-u", "12"])
        .app(["id", "-u"])
        .run()
        .exits(0)
        .prints("12\n");
}

/// As Docker and containerd read them.
#[test]
fn an_empty_half_of_a_user_is_roots_or_the_users_own() {
    let host = host!();
    for (user, ids) in [
        (":0", "0:0"),
        ("0:", "0:0"),
        (":", "0:0"),
        (":7", "0:7"),
        ("app:", "1000:1001"),
    ] {
        let app = host.launch().options([&format!("--user={user}")]);
        let app = app.script("echo $(id -u):$(id -g)");
        app.run().of(user).exits(0).prints(&format!("{ids}\n"));
    }
}

#[test]
fn a_user_or_group_that_does_not_fit_is_refused_by_name() {
    let host = host!();
    let table = [
        ("4294967295", "user 4294967295"),
        ("4294967296", "user 4294967296"),
        ("18446744073709551616", "user 18446744073709551616"),
        ("0:4294967295", "group 4294967295"),
        ("app:huge", "group huge"),
        ("nobody", "user \"nobody\""),
        ("app:nobody", "group \"nobody\""),
        ("-1", "user \"-1\""),
    ];
    for (user, named) in table {
        let app = host
            .launch()
            .options([&format!("--user={user}")])
            .script("echo ran");
        app.run().refused(named);
    }
    let image = host.bake_busybox("user = \"4294967295\"");
    host.launch_of(&image)
        .run()
        .refused("user 4294967295")
        .because("policy");
}

#[test]
fn home_is_the_users_own_unless_it_is_configured() {
    let host = host!();
    let home = |options: &[&str]| {
        host.launch()
            .options(options)
            .script("echo ${HOME-none}")
            .run()
            .exits(0)
            .out
    };
    assert_eq!(home(&[]), "/root\n");
    assert_eq!(home(&["-u", "app"]), "/home/app\n");
    assert_eq!(home(&["-u", "4000"]), "none\n");
    assert_eq!(home(&["-u", "app", "-e", "HOME=/etc"]), "/etc\n");
}

#[test]
fn any_user_can_open_the_standard_streams_by_name() {
    let host = host!();
    for user in ["0", "app", "4000"] {
        let mut app = host.launch().interactive().options(["-u", user]);
        app = app
            .script("cat /dev/stdin > /dev/stdout; echo err > /dev/stderr; echo null > /dev/null");
        let mut app = app.spawn();
        app.say("in\n");
        let ending = app.wait().exits(0).prints("in\n");
        assert_eq!(ending.err, "err\n");
    }
}

#[test]
fn standard_input_is_dev_null_without_i_and_a_pipe_with_it() {
    let host = host!();
    let look = "ls -l /proc/1/fd/0; cat; echo end";
    let app = host.launch().script(look).run().exits(0);
    assert!(app.out.contains("-> /dev/null\nend\n"), "{app:?}");

    let mut app = host.launch().interactive().script(look).spawn();
    app.say("one\ntwo");
    let app = app.wait().exits(0);
    assert!(
        app.out.contains("-> pipe:[") && app.out.ends_with("]\none\ntwoend\n"),
        "{app:?}"
    );
}

#[test]
fn a_terminal_as_standard_input_is_refused() {
    let host = host!();
    let terminal = nix::pty::openpty(None, None).unwrap();
    let name = nix::unistd::ttyname(&terminal.slave).unwrap();
    let from_terminal = format!("<{}", name.display());
    let refused = host
        .launch()
        .options(["-i"])
        .redirections(&from_terminal)
        .script("echo ran")
        .run();
    refused
        .refused("-i: standard input is a terminal")
        .because("policy")
        .hints("pipe it");
    let app = host
        .launch()
        .redirections(&from_terminal)
        .script("ls -l /proc/1/fd/0; true")
        .run();
    assert!(app.exits(0).out.ends_with("-> /dev/null\n"));
}

#[test]
fn an_app_that_ignores_its_input_ends_while_the_caller_still_has_some() {
    let host = host!();
    let mut app = host.launch().interactive().script("echo done").spawn();
    app.say("not read\n");
    // Its input is still open here.
    assert_eq!(app.event("exit")["code"], 0);
    app.wait().exits(0).prints("done\n");
}

#[test]
fn the_working_directory_is_the_images_unless_another_is_typed() {
    let host = host!();
    let image = host.bake_busybox("workdir = \"/home\"");
    host.launch().app(["pwd"]).run().exits(0).prints("/\n");
    host.launch_of(&image)
        .app(["pwd"])
        .run()
        .exits(0)
        .prints("/home\n");
    host.launch_of(&image)
        .options(["-w", "/home/app"])
        .app(["pwd"])
        .run()
        .exits(0)
        .prints("/home/app\n");
}

#[test]
fn a_working_directory_that_cannot_be_entered_is_refused_and_never_made() {
    if without_root("all files are the app's") {
        return;
    }
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o700);
    header.set_size(0);
    let mut layer = tar::Builder::new(Vec::new());
    layer
        .append_data(&mut header, "private/closed", &[][..])
        .unwrap();
    layout.publish_image(&[&layer.into_inner().unwrap()], Packing::Plain);
    let base = host.import(layout.source());
    host.busybox();
    let busybox = "[[file]]\nsource = \"busybox\"\npath = \"/\"";
    let image = host.bake(&format!("base = {base:?}\n{busybox}"));
    let closed = host
        .launch_of(&image)
        .options(["-u", "app", "-w", "/private/closed"]);
    closed
        .script("echo ran")
        .run()
        .refused("working directory")
        .hints("--workdir");
    for (directory, named) in [
        ("/none", "working directory"),
        ("/etc/notes", "working directory"),
        ("home", "\"home\""),
    ] {
        let app = host.launch().options(["-w", directory]).script("echo ran");
        app.run().refused(named).because("usage");
    }
}

#[test]
fn entrypoint_and_command_are_combined_as_docker_does() {
    let host = host!();
    let image = host.bake_busybox("entrypoint = [\"echo\", \"e\"]\ncmd = [\"c\", \"d\"]");
    let run =
        |options: &[&str], app: &[&str]| host.launch_of(&image).options(options).app(app).run();
    run(&[], &[]).exits(0).prints("e c d\n");
    run(&[], &["a"]).exits(0).prints("e a\n");
    run(&["--entrypoint", "echo"], &[]).exits(0).prints("\n");
    run(&["--entrypoint", "echo"], &["a"])
        .exits(0)
        .prints("a\n");
    run(&["--entrypoint", ""], &["echo", "b"])
        .exits(0)
        .prints("b\n");
    run(&["--entrypoint", ""], &[])
        .refused("names no program to run")
        .because("usage")
        .hints("--entrypoint");
    let none = host.bake_busybox("entrypoint = []\ncmd = []");
    host.launch_of(&none)
        .run()
        .refused("names no program to run");
}

#[test]
fn the_program_is_looked_for_in_the_apps_own_path() {
    let host = host!();
    let run = |path: &str, program: &str| {
        let app = host
            .launch()
            .options(["-e", &format!("PATH={path}")])
            .app([program, "-c", "echo ran"]);
        app.run()
    };
    run("/bin", "sh").exits(0).prints("ran\n");
    run("/none:/etc:/bin", "sh").exits(0).prints("ran\n");
    run("/bin/sh", "/bin/sh").exits(0).prints("ran\n");
    run("/etc", "sh").exits(127);
    // Relative directories would be found or not by where the app starts.
    run("bin:.:", "sh").exits(127);
    // `sh` is a link in /bin: the program's own name is what was typed.
    host.launch()
        .script("echo $0")
        .run()
        .exits(0)
        .prints("sh\n");
}
