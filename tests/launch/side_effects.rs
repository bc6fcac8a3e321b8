//! What an app tried to change is counted and told, whoever in the container tried it.

use crate::host;
use crate::support::bulk::{Answer, Bulk};
use crate::support::host::IMRUN;
use crate::support::outcome::Outcome;
use serde_json::Value;
use std::process::Command;

fn effects(app: &Outcome) -> Vec<&Value> {
    let events = app.events.iter();
    events
        .filter(|event| event["event"] == "side-effect")
        .collect()
}

#[test]
fn an_attempt_is_told_with_who_made_it_and_which_layer_it_was_about() {
    let host = host!();
    let app = host
        .launch()
        .options(["-u", "app"])
        .script("exec 2>/dev/null; { echo x > /home/app/../notes; }; { echo x > /etc/notes; }")
        .run()
        .exits(1)
        .says("side effects: 2 attempts: \"/home/notes\" (1), \"/etc/notes\" (1)");
    let [_, notes] = effects(&app)[..] else {
        panic!("{app:?}")
    };
    assert_eq!(notes["syscall"], "openat");
    assert_eq!(notes["path"], "/etc/notes");
    assert_eq!(notes["errno"], "EROFS");
    assert_eq!(notes["flags"], "O_WRONLY|O_CREAT|O_TRUNC");
    assert_eq!(notes["executable"], "/bin/busybox");
    assert_eq!(notes["thread"], "sh");
    assert_eq!(notes["user"], 1000);
    assert_eq!(notes["layer"]["index"], 0);
    assert!(
        notes["layer"]["diffId"]
            .as_str()
            .unwrap()
            .starts_with("sha256:")
    );
}

#[test]
fn what_is_meant_to_be_written_is_no_side_effect() {
    let host = host!();
    let script = "for file in /dev/null /dev/stdout /dev/stderr /dev/fd/1 /proc/self/fd/2; do echo x > $file; done
        : > /dev/zero; cd /dev; echo x > null; mkdir -p /etc /home/app; ls / | while read name; do :; done";
    let app = host.launch().script(script).run().exits(0);
    assert!(!app.err.contains("side effects"), "{app:?}");
    assert!(effects(&app).is_empty());
}

#[test]
fn one_name_in_three_directories_is_three_attempts_and_so_is_another_second_path() {
    let host = host!();
    let script = "exec 2>/dev/null; for place in /home /etc /; do cd $place; { echo x > y; }; { echo x > y; }; done
        mv /bin/sh /home/a; mv /bin/sh /home/b";
    let app = host.launch().script(script).run();
    let places = effects(&app).into_iter().map(|event| {
        let word = |name: &str| event[name].as_str().unwrap_or_default();
        (word("path"), word("resolved"), word("other"))
    });
    let places: Vec<_> = places.collect();
    for place in [
        ("y", "/home/y", ""),
        ("y", "/etc/y", ""),
        ("y", "/y", ""),
        ("/bin/sh", "/bin/sh", "/home/a"),
        ("/bin/sh", "/bin/sh", "/home/b"),
    ] {
        let told = places.iter().filter(|told| **told == place).count();
        assert_eq!(told, 1, "{place:?} in {places:?}");
    }
}

#[test]
fn a_link_of_the_image_to_the_apps_own_output_is_no_side_effect() {
    let host = host!();
    let definition = r#"
        [[file]]
        source = "log"
        path = "/var/log"
    "#;
    std::fs::create_dir_all(host.path("log")).unwrap();
    std::os::unix::fs::symlink("/dev/stdout", host.path("log/access.log")).unwrap();
    let image = host.bake_busybox(definition);
    for how in ["report", "kill"] {
        let script = "echo line >> /var/log/access.log; echo x > /proc/self/root/dev/null; mkdir -p /var/log";
        let app = host
            .launch_of(&image)
            .options(["--on-write", how])
            .script(script);
        let app = app.run().exits(0).prints("line\n");
        assert!(effects(&app).is_empty(), "{app:?}");
    }
}

#[test]
fn a_program_that_may_not_become_another_user_is_told_of_and_lives() {
    let host = host!();
    let script = "su app -c true 2>/dev/null; chroot /home true 2>/dev/null; echo lived";
    for how in ["report", "kill"] {
        let app = host.launch().options(["--on-write", how]).script(script);
        let app = app.run().exits(0).prints("lived\n");
        let told: Vec<_> = effects(&app)
            .iter()
            .map(|event| {
                (
                    event["syscall"].as_str().unwrap(),
                    event["errno"].as_str().unwrap(),
                )
            })
            .collect();
        assert!(told.contains(&("setgroups", "EPERM")), "{app:?}");
        assert!(told.contains(&("chroot", "EPERM")), "{app:?}");
        assert!(
            app.err
                .contains("hint: setuid, setgid and setgroups always fail (EPERM)"),
            "{app:?}"
        );
    }
}

#[test]
fn the_name_of_a_thread_is_no_side_effect() {
    let host = host!();
    let script = "exec 2>/dev/null; for file in comm oom_score_adj timerslack_ns task/1/comm; do { echo 1 > /proc/self/$file; }; done; echo lived";
    for how in ["report", "kill"] {
        let app = host.launch().options(["--on-write", how]).script(script);
        let app = app.run().exits(0).prints("lived\n");
        assert!(effects(&app).is_empty(), "{app:?}");
        assert!(!app.err.contains("side effects"), "{app:?}");
    }
}

#[test]
fn repeats_are_one_attempt_with_a_count() {
    let host = host!();
    let script =
        "i=0; while [ $i -lt 120 ]; do mkdir /new 2>/dev/null; i=$((i+1)); done; rmdir /home/app";
    let app = host.launch().script(script).run().exits(1);
    let counts: Vec<_> = effects(&app)
        .iter()
        .map(|event| {
            (
                event["path"].as_str().unwrap(),
                event["count"].as_u64().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        counts,
        [("/new", 1), ("/new", 10), ("/new", 100), ("/home/app", 1)]
    );
    let exit = app.events.last().unwrap();
    assert_eq!(exit["sideEffects"]["attempts"], 121);
    assert_eq!(exit["sideEffects"]["different"], 2);
}

#[test]
fn children_and_what_they_leave_behind_are_watched_too() {
    let host = host!();
    // cat reads to the end of the orphan.
    let script = "(mkdir /a) & (setsid sh -c 'sleep 0.1; mkdir /b' &) | cat; wait; env -i /bin/busybox mkdir /c";
    let app = host.launch().script(script).run().exits(1);
    let mut paths: Vec<_> = effects(&app)
        .iter()
        .map(|event| event["path"].as_str().unwrap())
        .collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/a", "/b", "/c"]);
}

#[test]
fn the_first_attempt_ends_the_container_and_nothing_comes_after_it() {
    let host = host!();
    let script = "trap '' TERM; sleep 1000 & echo before; mkdir /new; echo after";
    let app = host.launch().options(["--on-write", "kill"]).script(script);
    let app = app.run().exits(122).prints("before\n");
    let [effect] = effects(&app)[..] else {
        panic!("{app:?}")
    };
    assert_eq!(effect["path"], "/new");
    assert_eq!(app.events.last().unwrap()["code"], 122);
}

#[test]
fn attempts_reach_the_sink_in_their_place_among_the_lines() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let launch = host.launch().sink(format!("es+http://{}", bulk.address()));
    let script = "echo one; read line; mkdir /new 2>/dev/null; read line; echo two";
    let mut app = launch.interactive().script(script).spawn();
    for count in [2, 3] {
        bulk.wait("what came before", |documents, _| documents.len() == count);
        app.say("\n");
    }
    app.wait().exits(0);
    let order: Vec<_> = bulk
        .documents()
        .iter()
        .map(|document| document.source["message"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        order,
        [
            "imrun: launch",
            "one",
            "imrun: side-effect",
            "two",
            "imrun: exit"
        ]
    );
}

#[test]
fn a_sink_that_stalls_holds_no_attempt_up() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let launch = host.launch().sink(format!("es+http://{}", bulk.address()));
    let script = "echo up; read line; i=0; while [ $i -lt 1000 ]; do mkdir /new-$i 2>/dev/null; i=$((i+1)); done; exit 7";
    let mut app = launch
        .options(["--log-buffer", "16K"])
        .interactive()
        .script(script)
        .spawn();
    bulk.wait("the first line", |documents, _| documents.len() == 2);
    bulk.answer(Answer::Stall);
    app.say("go\n");
    let app = app.wait().exits(7);
    let exit = app.events.last().unwrap();
    assert_eq!(exit["sideEffects"]["attempts"], 1000);
}

#[test]
fn a_check_lists_what_was_tried_and_says_so_by_its_exit_code() {
    let host = host!();
    let image = host.busybox().to_owned();
    let check = |script: &str| {
        let mut command = Command::new(IMRUN);
        command
            .arg("--store")
            .arg(host.path("store"))
            .arg("--root")
            .arg(host.path("root"));
        command.args([
            "check",
            "--json",
            "--for",
            "500ms",
            "--stop-timeout",
            "100ms",
            &image,
        ]);
        command.args(["sh", "-c", script]).env_remove("IMRUN_SINK");
        let output = command.output().unwrap();
        Outcome::new(format!("{command:?}"), output, Vec::new())
    };
    let clean: Value = serde_json::from_str(&check("echo said").exits(0).out).unwrap();
    assert_eq!((&clean["attempts"], &clean["exit"]), (&0.into(), &0.into()));
    let report = check("mkdir /new; mkdir /new; sleep 100").exits(1);
    let report: Value = serde_json::from_str(&report.out).unwrap();
    assert_eq!(report["sideEffects"][0]["path"], "/new");
    assert_eq!(report["sideEffects"][0]["count"], 2);
    assert_eq!(report["exit"], 137, "it was stopped");
    assert_eq!(report["endedAfter"], Value::Null);
    let failed: Value = serde_json::from_str(&check("exit 3").exits(1).out).unwrap();
    assert_eq!(
        (&failed["attempts"], &failed["exit"]),
        (&0.into(), &3.into())
    );
    assert!(failed["endedAfter"].is_number(), "{failed}");
}

#[test]
fn a_check_says_how_an_app_ended_by_itself_and_fails_with_it() {
    let host = host!();
    let image = host.busybox().to_owned();
    let check = |options: &[&str], script: &str| {
        let store = [
            ("--store", host.path("store")),
            ("--root", host.path("root")),
        ];
        let mut command = Command::new(IMRUN);
        for (option, path) in &store {
            command.arg(option).arg(path);
        }
        command
            .args(["check", "--for", "1h"])
            .args(options)
            .arg(&image);
        command.args(["sh", "-c", script]).env_remove("IMRUN_SINK");
        let output = command.output().unwrap();
        let outcome = Outcome::new(format!("{command:?}"), output, Vec::new());
        (outcome.code, outcome.out)
    };
    for options in [&[][..], &["--init"]] {
        let (code, out) = check(options, "exit 1");
        assert!(
            code == 1 && out.starts_with("ended with 1 after "),
            "{code} {out}"
        );
        let (code, out) = check(options, "exit 0");
        assert!(
            code == 0 && out.starts_with("ended with 0 after "),
            "{code} {out}"
        );
        assert!(
            out.contains("hint: a server must stay in the foreground"),
            "{out}"
        );
    }
    let (code, out) = check(&["--init"], "kill -SEGV $$");
    assert!(
        code == 1 && out.starts_with("ended by SIGSEGV after "),
        "{code} {out}"
    );
}

#[test]
fn attempts_behind_a_process_1_of_imruns_name_the_app() {
    let host = host!();
    let app = host.launch().options(["--init"]).script("mkdir /new").run();
    let attempt = app.event("side-effect");
    assert_eq!(
        (&attempt["path"], &attempt["syscall"]),
        (&"/new".into(), &"mkdir".into())
    );
    assert_eq!(
        (&attempt["executable"], &attempt["thread"]),
        (&"/bin/busybox".into(), &"mkdir".into())
    );
}
