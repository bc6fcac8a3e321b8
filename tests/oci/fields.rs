//! What config.json asks for is there, or its field is named.

use super::{BUSYBOX, Bundle, is_gone, skip};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

impl Bundle {
    /// What `run` says when the member `key` of `parent` is `value`; it must refuse that.
    #[track_caller]
    fn refuses(&self, parent: &str, key: &str, value: Value) -> String {
        self.change(|config| config.pointer_mut(parent).unwrap()[key] = value);
        let (code, text) = self.run();
        assert_eq!(code, Some(125), "{text}");
        assert!(
            text.contains(&format!("config.json `{}", field(parent))),
            "{text}"
        );
        text
    }
}

fn field(parent: &str) -> &str {
    parent.trim_start_matches('/')
}

#[test]
fn a_sysctl_of_the_bundle_is_what_the_app_sees() {
    let bundle = bundle!(
        "cd /proc/sys/net/ipv4; busybox cat ip_unprivileged_port_start ping_group_range \
         ip_local_reserved_ports tcp_keepalive_time"
    );
    bundle.change(|config| {
        config["linux"]["sysctl"] = json!({
            "net.ipv4.ip_unprivileged_port_start": "1024",
            "net.ipv4.ping_group_range": "0 5",
            "net.ipv4.ip_local_reserved_ports": "8080,8081,9000",
            "net/ipv4/tcp_keepalive_time": "0x10",
        });
    });
    let (code, text) = bundle.run();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text, "1024\n0\t5\n8080-8081,9000\n16\n");
}

#[test]
fn a_sysctl_that_cannot_be_set_or_is_not_kept_stops_the_launch_by_its_name() {
    let bundle = bundle!("echo ran");
    for (name, value, why) in [
        ("net.ipv4.no_such", "1", "No such file or directory"),
        (
            "net.ipv4.ip_unprivileged_port_start",
            "x",
            "Invalid argument",
        ),
        // The kernel adds two more.
        ("net.ipv4.tcp_rmem", "4096", "did not keep the value"),
    ] {
        let text = bundle.refuses("/linux", "sysctl", json!({ name: value }));
        assert!(text.contains(&format!("linux.sysctl \"{name}\"")), "{text}");
        assert!(text.contains(why) && !text.contains("ran"), "{text}");
    }
}

#[test]
fn a_time_namespace_is_refused_by_name() {
    let bundle = bundle!("echo ran");
    let text = bundle.refuses("/linux", "namespaces", json!([{ "type": "time" }]));
    assert!(text.contains("`linux.namespaces, time`"), "{text}");
}

#[test]
fn the_names_of_the_uts_namespace_can_be_set_as_sysctls() {
    let bundle = bundle!("busybox cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname");
    bundle.change(|config| {
        config.as_object_mut().unwrap().remove("hostname");
        config["linux"]["sysctl"] = json!({ "kernel.hostname": "me", "kernel.domainname": "x.y" });
    });
    assert_eq!(bundle.run(), (Some(0), "me\nx.y\n".to_owned()));
}

#[test]
fn scheduler_disk_priority_and_execution_domain_are_what_the_bundle_says() {
    let bundle = bundle!("busybox uname -m; exec busybox cat /proc/self/stat");
    bundle.change(|config| {
        config["process"]["scheduler"] = json!({ "policy": "SCHED_BATCH", "nice": 5 });
        config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 });
        config["linux"]["personality"] = json!({ "domain": "LINUX32" });
    });
    let (pid, mut output) = bundle.create("one");
    let pid = pid.to_string();
    let ionice = Command::new("ionice").args(["-p", &pid]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ionice.stdout), "idle\n");
    bundle.succeeds(&["start", "one"]);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut output, &mut text).unwrap();
    let (machine, stat) = text.split_once('\n').unwrap();
    // proc_pid_stat(5): the fields behind the name begin with the third.
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("5", "3"), "{stat}");
    if cfg!(target_arch = "x86_64") {
        assert_eq!(machine, "i686");
    }
}

#[test]
fn what_holds_anyway_can_be_asked_for_and_what_is_for_the_privileged_cannot() {
    let bundle = bundle!("echo ran");
    bundle.change(|config| {
        config["process"]["scheduler"] = json!({ "policy": "SCHED_OTHER", "nice": 0 });
        config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 4 });
        config["process"]["execCPUAffinity"] = json!({ "initial": "0" });
        config["linux"]["personality"] = json!({ "domain": "LINUX" });
    });
    assert_eq!(bundle.run(), (Some(0), "ran\n".to_owned()));
    let text = bundle.refuses("/process", "scheduler", json!({ "policy": "SCHED_FIFO" }));
    assert!(text.contains("`process.scheduler, SCHED_FIFO`"), "{text}");
}

#[test]
fn ids_beyond_65535_are_the_apps_own_and_unprivileged_on_the_host() {
    let bundle =
        bundle!("busybox id; busybox cat /owned /proc/self/uid_map; exec busybox sleep 100");
    let owned = bundle.path("rootfs/owned");
    std::fs::write(&owned, "read\n").unwrap();
    std::fs::set_permissions(&owned, std::fs::Permissions::from_mode(0o400)).unwrap();
    std::os::unix::fs::chown(&owned, Some(1_000_680_000), Some(0)).unwrap();
    bundle.change(|config| {
        config["process"]["user"] =
            json!({ "uid": 1_000_680_000, "gid": 0, "additionalGids": [1_000_680_000, 70_000, 5] });
    });
    let (pid, output) = bundle.create("one");
    bundle.succeeds(&["start", "one"]);
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(output));
    let mut line = || lines.next().unwrap().unwrap();
    assert_eq!(line(), "uid=1000680000 gid=0 groups=5,70000,1000680000");
    assert_eq!(line(), "read");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let user = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .unwrap();
    let user: u32 = user.split_whitespace().next().unwrap().parse().unwrap();
    // The range that systemd keeps for containers; the number in a container's own range is one that nobody has.
    assert!((524_288..1_879_048_192).contains(&user), "{status}");
    assert_eq!((user - 524_288) % 65_536, 60_578);
    assert!(line().ends_with("60578"));
    bundle.succeeds(&["delete", "--force", "one"]);
    assert!(is_gone(pid));

    bundle.change(|config| config["process"]["user"] = json!({ "uid": 4_294_967_295_u32 }));
    bundle.refused(
        &["run", "--bundle", bundle.dir(), "one"],
        "the highest id of Linux",
    );
}

#[test]
fn an_id_that_the_bundles_own_mappings_lack_is_refused_by_its_field() {
    let bundle = bundle!("echo ran");
    bundle.change(|config| {
        let map = json!([{ "containerID": 0, "hostID": 1_000_000_000, "size": 10 }]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
    });
    let user = json!({ "uid": 5, "gid": 5, "additionalGids": [70_000] });
    let text = bundle.refuses("/process", "user", user);
    assert!(text.contains("process.user`, group 70000"), "{text}");
    bundle.change(|config| config["process"]["user"] = json!({ "uid": 9, "gid": 9 }));
    assert_eq!(bundle.run(), (Some(0), "ran\n".to_owned()));
}

#[test]
fn a_masked_path_masks_what_it_leads_to_inside_the_root() {
    let bundle = bundle!(
        "exec 2>/dev/null; for file in /secret/f /other/g /hidden/*; do busybox cat $file; done; \
         busybox ls /dir; busybox cat /etc/passwd; busybox cat /plain; echo end"
    );
    for directory in ["secret", "other", "hidden", "dir", "etc"] {
        std::fs::create_dir(bundle.path("rootfs").join(directory)).unwrap();
    }
    for file in [
        "secret/f",
        "other/g",
        "hidden/h",
        "dir/d",
        "etc/passwd",
        "plain",
    ] {
        std::fs::write(bundle.path("rootfs").join(file), format!("{file}\n")).unwrap();
    }
    let link = |to: &str, name: &str| symlink(to, bundle.path("rootfs").join(name)).unwrap();
    link("/secret", "one");
    link("secret/f", "two");
    link("/dir", "directory");
    link("../../../../etc/passwd", "outward");
    bundle.change(|config| {
        config["linux"]["maskedPaths"] = json!([
            "/one/f",
            "/two",
            "/other/g",
            "/other",
            "/hidden",
            "/hidden/h",
            "/directory",
            "/outward",
            "/nowhere",
            "/plain/beneath",
            "/dev/null",
            "/proc/kcore"
        ]);
    });
    let (code, text) = bundle.run();
    assert_eq!(code, Some(0), "{text}");
    for shown in ["f\n", "g\n", "h\n", "d\n", "passwd\n"] {
        assert!(!text.contains(&format!("/{shown}")), "{text}");
    }
    assert!(
        !text.contains("\nd\n") && text.ends_with("plain\nend\n"),
        "{text}"
    );
}

#[test]
fn a_masked_path_that_cannot_be_resolved_is_named() {
    let bundle = bundle!("echo ran");
    symlink("loop", bundle.path("rootfs/loop")).unwrap();
    let text = bundle.refuses("/linux", "maskedPaths", json!(["/one", "/loop"]));
    assert!(text.contains("linux.maskedPaths \"/loop\""), "{text}");
}

#[test]
fn a_limit_that_the_host_does_not_give_is_named() {
    let bundle = bundle!("echo ran");
    // Beyond fs.nr_open, for whoever it is.
    let limit = json!([{ "type": "RLIMIT_NOFILE", "soft": 1, "hard": u64::MAX }]);
    let text = bundle.refuses("/process", "rlimits", limit);
    assert!(text.contains("process.rlimits RLIMIT_NOFILE"), "{text}");
}

#[test]
fn a_capability_that_linux_does_not_have_is_a_warning() {
    let bundle = bundle!("echo ran");
    bundle.change(|config| {
        config["process"]["capabilities"] =
            json!({ "bounding": ["CAP_UNKNOWN", "CAP_SYS_ADMIN"], "ambient": ["CAP_UNKNOWN"] });
    });
    let (code, text) = bundle.run();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(text.matches("CAP_UNKNOWN").count(), 1, "{text}");
    assert!(
        text.contains("ran\n") && !text.contains("SYS_ADMIN"),
        "{text}"
    );
}

#[test]
fn a_program_that_cannot_be_executed_is_told_to_who_creates_it_in_the_words_that_engines_know() {
    let bundle = bundle!("true");
    std::fs::write(bundle.path("rootfs/bin/plain"), "x").unwrap();
    std::fs::copy(BUSYBOX, bundle.path("rootfs/private")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(bundle.path("rootfs/private"), mode).unwrap();
    for (program, user, code, words) in [
        ("/no/such", 0, 127, "no such file or directory"),
        ("./such", 0, 127, "no such file or directory"),
        ("nothing", 0, 127, "executable file not found in $PATH"),
        ("plain", 0, 126, "permission denied"),
        ("/bin", 0, 126, "permission denied"),
        ("/private", 5, 126, "permission denied"),
    ] {
        bundle.change(|config| {
            config["process"]["args"] = json!([program]);
            config["process"]["env"] = json!(["PATH=/bin"]);
            config["process"]["user"] = json!({ "uid": user, "gid": user });
        });
        let output = bundle.imrun(&["create", "--bundle", bundle.dir(), "one"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{program}: {text}");
        assert!(text.contains(words), "{program}: {text}");
        assert!(
            text.contains(&format!("`process.args` {program:?}")),
            "{text}"
        );
        assert_eq!(bundle.succeeds(&["list", "--quiet"]), "");
    }
    // Only execve(2) finds out.
    std::fs::write(bundle.path("rootfs/bin/plain"), "#!/no/interpreter\n").unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bundle.path("rootfs/bin/plain"), mode).unwrap();
    bundle.change(|config| config["process"]["args"] = json!(["plain"]));
    let (_, _output) = bundle.create("one");
    assert_eq!(bundle.imrun(&["start", "one"]).status.code(), Some(127));
    bundle.succeeds(&["delete", "--force", "one"]);
}

#[test]
fn a_working_directory_that_is_not_there_is_named() {
    let bundle = bundle!("echo ran");
    bundle.refuses("/process", "cwd", json!("/nowhere"));
}

#[test]
fn a_link_in_the_root_where_the_runtimes_own_file_systems_go_is_named() {
    let bundle = bundle!("echo ran");
    for point in ["proc", "sys"] {
        let link = bundle.path("rootfs").join(point);
        symlink("bin", &link).unwrap();
        let (code, text) = bundle.run();
        assert_eq!(code, Some(125), "{text}");
        assert!(
            text.contains(&format!("`root.path`: /{point} must be mounted")),
            "{text}"
        );
        std::fs::remove_file(link).unwrap();
    }
}
