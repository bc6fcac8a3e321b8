use super::*;
use crate::oci::document;
use serde_json::{Value, json};

/// Returns the handling of one mount as text: a name file with its source, an omitted mount, nothing for a provided
/// one, or the error.
fn handling(mount: &Value) -> std::result::Result<String, String> {
    let context = ParseContext {
        directory: Path::new("/bundle"),
        systemd: false,
        controllers: &[],
        image: None,
        quiet: false,
        is_directory: &|path| path == Path::new("/bundle/data") || path == Path::new("/data"),
    };
    let mount = document::read(mount).unwrap();
    let mut changes = Changes::default();
    let read = read(&[mount], &context, &mut changes);
    let names = read.map_err(|error| error.to_string())?;
    let names = names
        .iter()
        .map(|(name, source)| format!("{name:?} of {}", source.display()));
    let absent = changes
        .0
        .iter()
        .map(|change| format!("no {}", change["asked"].as_str().unwrap()));
    Ok(names.chain(absent).collect::<Vec<_>>().join(", "))
}

fn of_kind(kind: &str, place: &str) -> std::result::Result<String, String> {
    handling(&json!({ "destination": place, "type": kind, "source": kind }))
}

#[test]
fn provided_file_systems_are_accepted_at_their_own_mount_points_only() {
    let own = [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("cgroup", "/sys/fs/cgroup"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("tmpfs", "/dev"),
    ];
    for (kind, place) in own {
        assert_eq!(of_kind(kind, place).unwrap(), "", "{kind} at {place}");
        for other in own.map(|(_, place)| place).into_iter().chain(["/other"]) {
            let is_own = own.contains(&(kind, other));
            let taken = of_kind(kind, other);
            let absent = taken.as_ref().is_ok_and(|taken| !taken.is_empty());
            match kind {
                _ if is_own => {}
                // File systems in memory are omitted at any mount point.
                "tmpfs" => assert!(absent, "{other}: {taken:?}"),
                _ => assert!(taken.is_err(), "{kind} at {other}: {taken:?}"),
            }
        }
    }
}

#[test]
fn writable_file_systems_are_omitted_and_unknown_types_are_refused() {
    for (kind, told) in [
        ("tmpfs", bundle::IN_MEMORY),
        ("ramfs", bundle::IN_MEMORY),
        ("devpts", "terminals"),
        ("mqueue", "message queues"),
    ] {
        assert_eq!(of_kind(kind, "/x").unwrap(), format!("no {told}"));
    }
    for kind in [
        "",
        "none",
        "ext4",
        "overlay",
        "nfs",
        "fuse",
        "hugetlbfs",
        "bpf",
        "debugfs",
        "tracefs",
    ] {
        let error = of_kind(kind, "/x").unwrap_err();
        assert!(error.contains("\"/x\"") && error.contains(kind), "{error}");
    }
}

#[test]
fn a_mount_is_a_bind_by_its_type_or_by_an_option() {
    for bind in [
        json!({ "type": "bind" }),
        json!({ "options": ["bind"] }),
        json!({ "options": ["rbind"] }),
        json!({ "type": "none", "options": ["rbind", "ro"] }),
        // The option decides, not the type.
        json!({ "type": "proc", "options": ["bind"] }),
    ] {
        let mut mount = bind.clone();
        mount["destination"] = json!("/etc/hosts");
        mount["source"] = json!("hosts");
        assert_eq!(
            handling(&mount).unwrap(),
            "Hosts of /bundle/hosts",
            "{bind}"
        );
        mount["destination"] = json!("/etc/app.conf");
        let error = handling(&mount).unwrap_err();
        assert!(error.contains("/etc/app.conf"), "{bind}: {error}");
    }
}

#[test]
fn a_bind_of_a_provided_file_system_is_accepted_only_from_the_same_path() {
    let bind = |source: &str, place: &str, options: &[&str]| {
        handling(
            &json!({ "destination": place, "type": "bind", "source": source, "options": options }),
        )
    };
    for place in ["/proc", "/sys", "/sys/fs/cgroup", "/dev"] {
        assert_eq!(bind(place, place, &["rbind"]).unwrap(), "", "{place}");
        assert!(bind("/etc", place, &["ro"]).is_err(), "{place}");
    }
    for place in ["/run/.containerenv", "/.dockerenv", "/dev/termination-log"] {
        assert_eq!(bind("x", place, &[]).unwrap(), "no a file of the engine");
    }
    let log = "/var/lib/kubelet/pods/1/containers/app/2";
    assert_eq!(
        bind(log, "/log", &["rw"]).unwrap(),
        "no a file of the engine"
    );
    for other in [
        "/var/lib/kubelet/pods/1/volumes/app/2",
        "var/pods/1/containers/a/b",
    ] {
        assert!(bind(other, "/log", &["rw"]).is_err(), "{other}");
    }
    let memory = "no shared memory files";
    assert_eq!(bind("/x", "/dev/shm", &["ro"]).unwrap(), memory);
    // A writable directory is omitted, a read-only one is refused.
    assert_eq!(
        bind("data", "/data", &[]).unwrap(),
        format!("no {}", bundle::WRITABLE)
    );
    assert_eq!(
        bind("/data", "/data", &["rw"]).unwrap(),
        format!("no {}", bundle::WRITABLE)
    );
    for read_only in ["ro", "rro"] {
        assert!(bind("data", "/data", &[read_only]).is_err(), "{read_only}");
    }
    assert!(bind("file", "/data", &["rw"]).is_err());
}
