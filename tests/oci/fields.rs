//! Every setting of config.json takes effect, or an error names its field.

use super::{BUSYBOX, Bundle, is_gone, skip};
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

impl Bundle {
    /// Returns the error of `run` with `value` as the member `key` of `parent`.
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
fn the_app_sees_the_bundles_sysctls() {
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
fn a_sysctl_that_cannot_be_set_or_changes_back_is_refused_by_name() {
    let bundle = bundle!("echo ran");
    for (name, value, why) in [
        ("net.ipv4.no_such", "1", "No such file or directory"),
        (
            "net.ipv4.ip_unprivileged_port_start",
            "x",
            "Invalid argument",
        ),
        // The kernel expands the value to three numbers.
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
fn scheduler_io_priority_and_execution_domain_are_those_of_the_bundle() {
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
    // proc_pid_stat(5): the fields after the name begin with field 3.
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!((fields[19 - 3], fields[41 - 3]), ("5", "3"), "{stat}");
    if cfg!(target_arch = "x86_64") {
        assert_eq!(machine, "i686");
    }
}

#[test]
fn scheduling_defaults_are_accepted_and_privileged_scheduling_is_refused() {
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
fn ids_above_65535_are_mapped_to_unprivileged_ids_of_the_host() {
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
    // The range that systemd reserves for containers; the id inside it is unused.
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
fn an_id_outside_the_bundles_mappings_is_refused_by_its_field() {
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
fn a_masked_path_is_resolved_inside_the_root() {
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
fn a_limit_that_the_host_refuses_is_named() {
    let bundle = bundle!("echo ran");
    // Above fs.nr_open, which applies to all users.
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
fn create_reports_an_unexecutable_program_in_the_words_of_runc() {
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
    // Only execve(2) detects this.
    std::fs::write(bundle.path("rootfs/bin/plain"), "#!/no/interpreter\n").unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(bundle.path("rootfs/bin/plain"), mode).unwrap();
    bundle.change(|config| config["process"]["args"] = json!(["plain"]));
    let (_, _output) = bundle.create("one");
    assert_eq!(bundle.imrun(&["start", "one"]).status.code(), Some(127));
    bundle.succeeds(&["delete", "--force", "one"]);
}

#[test]
fn a_missing_working_directory_is_named() {
    let bundle = bundle!("echo ran");
    bundle.refuses("/process", "cwd", json!("/nowhere"));
}

#[test]
fn a_link_at_a_mount_point_of_the_runtime_is_named() {
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

#[test]
fn all_of_dev_can_be_masked() {
    let bundle = bundle!("busybox ls -a /dev; busybox readlink /proc/self/fd/0");
    bundle.change(|config| config["linux"]["maskedPaths"] = json!(["/dev"]));
    assert_eq!(bundle.run(), (Some(0), ".\n..\n/dev/null\n".to_owned()));
}

#[test]
fn a_root_with_something_else_at_a_mount_point_is_refused_by_its_field() {
    let bundle = bundle!("echo ran");
    for (place, field) in [
        ("dev", "config.json `root.path`: /dev"),
        ("proc", "config.json `root.path`: /proc"),
        ("sys", "config.json `root.path`: /sys"),
        ("etc", "config.json `mounts, \"/etc/hosts\"`"),
    ] {
        let path = bundle.path("rootfs").join(place);
        bundle.change(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| mount["destination"] != "/etc/hosts");
            mounts.push(json!({
                "destination": "/etc/hosts", "type": "bind", "source": "/etc/hosts", "options": ["ro"]
            }));
        });
        symlink("/bin", &path).unwrap();
        let (code, text) = bundle.run();
        assert_eq!(code, Some(125), "{place}: {text}");
        assert!(text.contains(field) && !text.contains("ran"), "{text}");
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_masked_path_through_a_link_of_the_root_to_a_process_is_refused_by_its_field() {
    let bundle = bundle!("echo ran");
    symlink("/proc/self/status", bundle.path("rootfs/link")).unwrap();
    bundle.change(|config| config["linux"]["maskedPaths"] = json!(["/absent", "/link"]));
    let (code, text) = bundle.run();
    assert_eq!(code, Some(125), "{text}");
    assert!(
        text.contains("linux.maskedPaths") && !text.contains("ran"),
        "{text}"
    );
}
