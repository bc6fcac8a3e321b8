//! Isolation: the app cannot change the file system, and does not see the host.

use crate::host;
use crate::support::host::IMRUN;
use crate::support::skip::{skip, without_root};
use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::process::{Command, Stdio};

/// Script that tries to change everything, and prints attempts that did not fail with the right error.
const WRITE_EVERYWHERE: &str = r#"
fails() {
    said=$("$@" 2>&1) && { echo "was done: $*"; return; }
    case $said in *"Read-only file system"*) ;; *) echo "$*: $said" ;; esac
}
writes() { { echo 1 > "$1"; } 2>&1; }
for directory in / /bin /dev /etc /home /home/app /sys /sys/fs/cgroup; do
    fails touch $directory/new
    fails mkdir $directory/new
    fails ln -s x $directory/new
    fails mkfifo $directory/new
    fails chmod 777 $directory
done
fails rm /etc/notes
fails mv /etc/notes /etc/other
fails ln /etc/notes /etc/other
fails chmod 777 /etc/notes
fails chown 0 /etc/notes
fails touch /etc/notes
fails truncate -s 0 /etc/notes
fails rmdir /home/app
for file in /etc/notes /etc/hosts /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_forward /proc/self/comm \
    /proc/self/oom_score_adj /sys/class/net/lo/mtu /sys/fs/cgroup/cgroup.procs; do
    fails writes $file
done
"#;

#[test]
fn every_attempt_to_write_fails_with_erofs() {
    let host = host!();
    let app = host
        .launch()
        .script(WRITE_EVERYWHERE)
        .run()
        .exits(0)
        .prints("");
    app.says("side effects: ");
}

#[test]
fn writes_to_standard_devices_are_allowed() {
    let host = host!();
    let app = host.launch().options(["-u", "app"]).script(
        "echo x > /dev/null; echo x > /dev/zero; echo x > /dev/full; head -c 4 /dev/zero | od -An -tx1; \
         test $(head -c 8 /dev/urandom | wc -c) = 8; echo $?",
    );
    let app = app.run().exits(0).prints(" 00 00 00 00\n0\n");
    assert!(app.err.contains("No space left on device"), "{app:?}");
}

#[test]
fn a_mount_cannot_be_made_writable_or_added() {
    let host = host!();
    let attempts = "for how in 'remount,rw /' 'remount,rw /proc' 'remount,bind,rw /sys'; do
            mount -o $how 2>/dev/null && echo \"mount -o $how\"
        done
        mount -t tmpfs none /home 2>/dev/null && echo tmpfs
        mount -o bind /etc /home 2>/dev/null && echo bind
        umount /proc 2>/dev/null && echo umount
        mknod /dev/sda b 8 0 2>/dev/null && echo mknod
        hostname other 2>/dev/null && echo hostname
        chroot / true 2>/dev/null && echo chroot
        true";
    for user in ["0", "app"] {
        host.launch()
            .options(["-u", user])
            .script(attempts)
            .run()
            .exits(0)
            .prints("");
    }
}

/// Mount options forbid set-user-ID programs, devices except those of the root, and execution outside the root.
#[test]
fn the_options_of_every_mount_are_exactly_these() {
    let host = host!();
    let table = |options: &[&str]| {
        let launch = host
            .launch()
            .options(options)
            .app(["cat", "/proc/self/mountinfo"]);
        launch.run().exits(0).out
    };
    // The device nodes of an ordinary user's root are separate mounts.
    let ordinary = !nix::unistd::geteuid().is_root();
    let root = if ordinary {
        "ro,nosuid,nodev"
    } else {
        "ro,nosuid"
    };
    let closed = "ro,nosuid,nodev,noexec";
    let expected = |point: &str| match point {
        "/" => root,
        "/proc" | "/sys" | "/sys/fs/cgroup" | "/etc/hosts" | "/etc/resolv.conf" => closed,
        _ if point.starts_with("/dev/") && ordinary => "ro,nosuid,noexec",
        // A mask is a bind mount of a part of the root.
        _ => root,
    };
    for (options, count) in [(&[][..], 4), (&["--net", "host"], 5)] {
        let table = table(options);
        let mut seen = 0;
        for line in table.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            let (point, options) = (fields[4], fields[5].split(','));
            // Id mapping and access times may differ.
            let options: Vec<_> = options
                .filter(|word| !["relatime", "idmapped"].contains(word))
                .collect();
            assert_eq!(options.join(","), expected(point), "{line}");
            seen += usize::from(expected(point) == closed || point == "/");
        }
        assert_eq!(seen, count, "{table}");
    }
}

/// Overlay xattrs in the layers belong to another overlay: following them would show other files.
#[test]
fn an_overlay_follows_no_overlay_xattrs_in_its_layers() {
    let host = host!();
    let mut strace = Command::new("strace");
    if strace.arg("-V").stdout(Stdio::null()).status().is_err() {
        return skip("strace is not installed");
    }
    let trace = host.path("trace");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-e", "trace=fsconfig", "-o"])
        .arg(&trace);
    command.arg(IMRUN).arg("--store").arg(host.path("store"));
    command.arg("--root").arg(host.path("root"));
    command.args([
        "run",
        "--sink",
        "stdio:",
        "--driver",
        "overlay",
        host.busybox(),
        "true",
    ]);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let trace = fs::read_to_string(trace).unwrap();
    let set: Vec<_> = trace
        .lines()
        .filter(|line| line.ends_with(" = 0"))
        .collect();
    for option in ["\"redirect_dir\", \"nofollow\"", "\"metacopy\", \"off\""] {
        assert!(
            set.iter().any(|line| line.contains(option)),
            "{option}: {trace}"
        );
    }
}

#[test]
fn all_mounts_are_read_only_and_expected() {
    let host = host!();
    let table = |options: &[&str]| {
        let app = host
            .launch()
            .options(options)
            .app(["cat", "/proc/self/mountinfo"])
            .run()
            .exits(0);
        let fields = app
            .out
            .lines()
            .map(|line| line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let read_only = |fields: Vec<String>| {
            assert!(
                fields[5].split(',').any(|option| option == "ro"),
                "{fields:?}"
            );
            fields
        };
        // Masks of files about the host are the root's null device or empty directory.
        // Without root each device is a bind mount of the host's.
        let is_device = |fields: &Vec<String>| {
            !nix::unistd::geteuid().is_root() && fields[4].starts_with("/dev/")
        };
        let is_cover = |fields: &Vec<String>| {
            let of_the_root = ["/dev/null", "/null", "/sys/fs/cgroup"];
            of_the_root.contains(&fields[3].as_str())
        };
        let (covers, mounts): (Vec<_>, Vec<_>) = fields
            .map(read_only)
            .filter(|fields| !is_device(fields))
            .partition(is_cover);
        assert!(covers.iter().any(|fields| fields[4] == "/proc/keys"));
        let point = |fields: Vec<String>| fields[4].clone();
        mounts.into_iter().map(point).collect::<BTreeSet<_>>()
    };
    assert_eq!(
        table(&[]),
        ["/", "/proc", "/sys", "/sys/fs/cgroup"]
            .map(String::from)
            .into()
    );
    let host_net = [
        "/",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/proc",
        "/sys/fs/cgroup",
    ];
    assert_eq!(table(&["--net", "host"]), host_net.map(String::from).into());
}

#[test]
fn the_app_has_no_privileges_and_cannot_gain_any() {
    let host = host!();
    for user in ["0", "app"] {
        let look = "grep -E '^(Cap|NoNewPrivs)' /proc/self/status | tr -d '\\t'; umask";
        let app = host
            .launch()
            .options(["-u", user])
            .script(look)
            .run()
            .exits(0);
        let none = "0000000000000000";
        let capabilities =
            ["Inh", "Prm", "Eff", "Bnd", "Amb"].map(|set| format!("Cap{set}:{none}\n"));
        app.prints(&format!("{}NoNewPrivs:1\n0022\n", capabilities.concat()));
    }
}

#[test]
fn the_app_has_limits_that_prevent_core_dumps() {
    let host = host!();
    // The limit is one block of 512 bytes.
    let look = "grep 'core file' /proc/self/limits | tr -s ' '; cat /proc/self/coredump_filter";
    let raise = "ulimit -c unlimited 2>&1; echo 3f >/proc/self/coredump_filter";
    let script = format!("{raise}; {look}");
    let app = host.launch().script(&script).run().exits(0);
    let shown = app.out;
    assert!(shown.contains("Max core file size 1 1 bytes"), "{shown}");
    assert!(shown.ends_with("00000000\n"), "{shown}");
}

#[test]
fn no_descriptor_of_the_callers_reaches_the_app() {
    let host = host!();
    let opened = "4</etc/passwd 5>/dev/null 7</ 9<>/dev/zero";
    let app = host
        .launch()
        .redirections(opened)
        .script("ls /proc/1/fd; true")
        .run();
    let descriptors: BTreeSet<_> = app.out.lines().map(String::from).collect();
    assert_eq!(
        descriptors,
        ["0", "1", "2"].map(String::from).into(),
        "{app:?}"
    );
}

#[test]
fn every_namespace_is_the_containers_own() {
    let host = host!();
    let app = host
        .launch()
        .script("ls -l /proc/self/ns | sed -n 's/.* \\([a-z]*\\) -> \\(.*\\)/\\1 \\2/p'");
    let app = app.run().exits(0);
    for name in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let own = app
            .out
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} ")));
        let hosts = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(own.unwrap(), hosts.to_str().unwrap(), "{name}");
    }
}

#[test]
fn the_app_sees_only_its_own_processes_host_name_and_cgroup() {
    let host = host!();
    let app = host.launch().options(["--hostname", "web-1.test"]);
    let app = app
        .script("echo $$; ls -d /proc/[0-9]* | wc -l; hostname; grep ^0: /proc/self/cgroup; true");
    let app = app.run().exits(0);
    assert!(
        app.out.starts_with("1\n") && app.out.ends_with("\nweb-1.test\n0::/\n"),
        "{app:?}"
    );
    let processes: u32 = app.out.lines().nth(1).unwrap().parse().unwrap();
    assert!(processes <= 3, "{app:?}");

    let from_digest = &host.busybox()["sha256:".len()..][..12];
    host.launch()
        .app(["hostname"])
        .run()
        .exits(0)
        .prints(&format!("{from_digest}\n"));
}

#[test]
fn each_container_has_65536_ids_of_its_own() {
    if without_root("an ordinary user has one id") {
        return;
    }
    let host = host!();
    let launch = || {
        let mut app = host
            .launch()
            .interactive()
            .script("cat /proc/self/uid_map /proc/self/gid_map; read line");
        app = app.options(["-u", "app"]);
        app.spawn()
    };
    let mut apps = [launch(), launch()];
    for app in &mut apps {
        app.event("started");
    }
    let firsts = apps.map(|app| {
        let map = app.wait().exits(1).out;
        let lines: Vec<Vec<_>> = map
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[0], lines[1], "users and groups alike");
        assert_eq!((lines[0][0], lines[0][2], lines.len()), ("0", "65536", 2));
        lines[0][1].parse::<u32>().unwrap()
    });
    assert!(firsts[0].abs_diff(firsts[1]) >= 65_536, "{firsts:?}");
    assert!(firsts.iter().all(|first| *first >= 524_288), "{firsts:?}");
}

#[test]
fn the_process_on_the_host_has_the_containers_ids() {
    if without_root("an ordinary user has one id") {
        return;
    }
    let host = host!();
    let mut app = host
        .launch()
        .interactive()
        .options(["-u", "app"])
        .script("echo up; read line")
        .spawn();
    app.expect_line("up");
    let status =
        fs::read_to_string(format!("/proc/{}/status", app.event("started")["pid"])).unwrap();
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap()
            .to_owned()
    };
    let uid: u32 = field("Uid:")
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let gid: u32 = field("Gid:")
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!((uid % 65_536, gid % 65_536), (1000, 1001));
    assert!(uid >= 524_288);
    app.wait().exits(1);
}

#[test]
fn without_a_network_only_loopback_is_up() {
    let host = host!();
    let app = host
        .launch()
        .script("ls /sys/class/net; ip -o link show up | cut -d: -f2; ip route | wc -l");
    app.run().exits(0).prints("lo\n lo\n0\n");
}

#[test]
fn an_app_without_privileges_can_listen_on_port_80_of_its_own_network() {
    let host = host!();
    let script = "nc -l -p 80 -e echo hello & until nc 127.0.0.1 80 </dev/null 2>/dev/null; do sleep 0.02; done";
    host.launch()
        .options(["-u", "app"])
        .script(script)
        .run()
        .exits(0)
        .prints("hello\n");
}

#[test]
fn the_hosts_loopback_cannot_be_reached_without_net_host() {
    let host = host!();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("echo hello | nc 127.0.0.1 {port}");
    host.launch().script(&script).run().exits(1).prints("");

    let app = host
        .launch()
        .options(["--net", "host"])
        .script(&script)
        .spawn();
    let mut text = String::new();
    let (mut connection, _) = listener.accept().unwrap();
    connection.read_to_string(&mut text).unwrap();
    drop(connection);
    assert_eq!(text, "hello\n");
    app.wait().exits(0);
}

#[test]
fn with_net_host_the_hosts_name_files_are_present_and_read_only() {
    let host = host!();
    let script = "cat /etc/resolv.conf; echo --; cat /etc/hosts; echo --; \
        for file in /etc/resolv.conf /etc/hosts; do (echo x > $file) 2>&1; done; readlink -f /etc/hosts";
    let app = host
        .launch()
        .options(["--net", "host"])
        .script(script)
        .run()
        .exits(0);
    let parts: Vec<_> = app.out.split("--\n").collect();
    assert_eq!(parts[0].as_bytes(), fs::read("/etc/resolv.conf").unwrap());
    assert_eq!(parts[1].as_bytes(), fs::read("/etc/hosts").unwrap());
    assert_eq!(
        parts[2].matches("Read-only file system").count(),
        2,
        "{app:?}"
    );
    let own = host
        .launch()
        .script("cat /etc/resolv.conf /etc/hosts")
        .run();
    own.exits(0).prints("");
}

#[test]
fn no_system_v_object_or_queue_outlives_its_container() {
    let host = host!();
    let look = "cat /proc/sysvipc/shm | wc -l; cat /proc/sysvipc/msg | wc -l; cat /proc/sysvipc/sem | wc -l";
    host.launch()
        .script(look)
        .run()
        .exits(0)
        .prints("1\n1\n1\n");
}
