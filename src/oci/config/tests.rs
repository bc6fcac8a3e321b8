use super::*;
use crate::base::error::Reason;
use proptest::prelude::*;

/// Returns the relevant parts of a config.json from containerd.
fn config() -> Value {
    json!({
        "ociVersion": "1.0.2-dev",
        "process": {
            "user": { "uid": 5, "gid": 6, "additionalGids": [6, 7] },
            "args": ["app", "--serve"],
            "env": ["PATH=/bin", "A=b"],
            "cwd": "/srv",
            "capabilities": { "bounding": ["CAP_CHOWN", "CAP_SETUID", "CAP_NET_RAW"] },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 512 }],
            "oomScoreAdj": -5
        },
        "root": { "path": "rootfs", "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm" },
            { "destination": "/etc/hosts", "type": "bind", "source": "hosts", "options": ["rbind"] }
        ],
        "linux": {
            "cgroupsPath": "/default/one",
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
                { "type": "network" }
            ],
            "maskedPaths": ["/proc/kcore", "/proc/special"]
        },
        "future": { "unknown": true }
    })
}

fn read(document: &Value) -> Result<Config> {
    let context = ParseContext {
        directory: Path::new("/bundle"),
        systemd: false,
        controllers: &["cpu".to_owned()],
        image: None,
        quiet: false,
        is_directory: &|path| path.ends_with("data"),
    };
    Config::parse(document.to_string().as_bytes(), &context)
}

/// Returns the document with one member replaced; `parent` is a JSON pointer.
fn with(parent: &str, key: &str, value: Value) -> Value {
    let mut document = config();
    document.pointer_mut(parent).unwrap()[key] = value;
    document
}

fn refusal(parent: &str, key: &str, value: Value) -> Error {
    match read(&with(parent, key, value)) {
        Ok(_) => panic!("{parent}/{key} was taken"),
        Err(error) => error,
    }
}

fn changed(config: &Config) -> Vec<String> {
    let path = |change: &Value| change["path"].as_str().unwrap().to_owned();
    config.bundle.changes.iter().map(path).collect()
}

#[test]
fn a_bundle_is_read_and_what_it_cannot_have_is_listed() {
    let config = read(&config()).unwrap();
    let bundle = &config.bundle;
    assert_eq!(
        bundle.process.args,
        [c"app".to_owned(), c"--serve".to_owned()]
    );
    assert_eq!(
        (
            bundle.process.uid,
            bundle.process.gid,
            &bundle.process.groups[..]
        ),
        (5, 6, &[6, 7][..])
    );
    assert_eq!(bundle.process.env.get("A").unwrap(), "b");
    let limit = bundle.process.rlimits[0];
    assert_eq!(
        (limit.name, limit.resource, limit.soft, limit.hard),
        ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE, 512, 1024)
    );
    assert_eq!(bundle.process.oom_score_adj, Some(-5));
    assert_eq!(bundle.cgroup.as_deref(), Some(Path::new("default/one")));
    assert_eq!(bundle.masked, [c"/proc/special".to_owned()]);
    assert_eq!(config.network, "none");
    assert_eq!(
        config.names,
        [(NameFile::Hosts, PathBuf::from("/bundle/hosts"))]
    );
    assert_eq!(changed(&config), ["/dev/shm"]);
    assert!(
        matches!(config.subject, Subject::Directory(path) if path == Path::new("/bundle/rootfs"))
    );
}

#[test]
fn capabilities_are_an_upper_limit_without_those_no_container_may_have() {
    let names = read(&config()).unwrap().capabilities.names();
    assert_eq!(names, ["CAP_CHOWN", "CAP_NET_RAW"]);
    let none = read(&with("/process", "capabilities", Value::Null)).unwrap();
    assert!(none.capabilities.names().is_empty());
}

#[test]
fn an_annotation_selects_a_verified_image() {
    let digest = format!("sha256:{}", "ab".repeat(32));
    let document = with(
        "",
        "annotations",
        json!({ "dev.imrun.image": digest, "other": "x" }),
    );
    let config = read(&document).unwrap();
    assert!(matches!(config.subject, Subject::Image(image) if image.to_string() == digest));
    assert_eq!(config.annotations["other"], "x");
    let error = refusal(
        "",
        "annotations",
        json!({ "dev.imrun.image": "busybox:latest" }),
    );
    assert!(error.what.contains("dev.imrun.image"), "{error}");
}

#[test]
fn writable_mounts_become_read_only_or_are_omitted() {
    let writable = read(&with("/root", "readonly", json!(false))).unwrap();
    assert_eq!(changed(&writable), ["/", "/dev/shm"]);
    let mounts = json!([
        { "destination": "/tmp", "type": "tmpfs" },
        { "destination": "/data", "source": "data", "options": ["rbind", "rw"] },
        { "destination": "/run/.containerenv", "type": "bind", "source": "x" },
        { "destination": "/log", "type": "bind", "options": ["bind"],
          "source": "/var/lib/kubelet/pods/1/containers/app/2" },
    ]);
    let absent = read(&with("", "mounts", mounts)).unwrap();
    assert_eq!(
        changed(&absent),
        ["/tmp", "/data", "/run/.containerenv", "/log"]
    );
}

#[test]
fn a_bind_mount_of_configuration_is_refused_by_name() {
    for (place, source, options) in [
        ("/etc/app.conf", "app.conf", json!(["bind"])),
        ("/data", "data", json!(["rbind", "ro"])),
        (
            "/var/run/secrets/kubernetes.io/serviceaccount",
            "data",
            json!(["ro", "bind"]),
        ),
    ] {
        let mount = json!({ "destination": place, "source": source, "options": options });
        let error = refusal("", "mounts", json!([mount]));
        assert_eq!(error.reason, Reason::Policy);
        assert!(error.what.contains(place), "{error}");
    }
}

#[test]
fn settings_that_no_container_can_have_are_refused_by_name() {
    for (parent, key, value, name) in [
        ("/process", "terminal", json!(true), "process.terminal"),
        (
            "/process",
            "scheduler",
            json!({ "policy": "SCHED_FIFO" }),
            "process.scheduler",
        ),
        (
            "/linux",
            "namespaces",
            json!([{ "type": "pid", "path": "/proc/1/ns/pid" }]),
            "pid",
        ),
        (
            "/linux",
            "namespaces",
            json!([{ "type": "time" }]),
            "linux.namespaces, time",
        ),
        (
            "/linux",
            "timeOffsets",
            json!({ "boottime": { "secs": 1 } }),
            "linux.timeOffsets",
        ),
        (
            "/linux",
            "netDevices",
            json!({ "eth0": {} }),
            "linux.netDevices",
        ),
        (
            "/linux",
            "devices",
            json!([{ "path": "/dev/fuse" }]),
            "/dev/fuse",
        ),
        (
            "/linux",
            "sysctl",
            json!({ "vm.swappiness": "1" }),
            "vm.swappiness",
        ),
        (
            "/linux",
            "personality",
            json!({ "domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"] }),
            "linux.personality, flags",
        ),
        (
            "/linux",
            "resources",
            json!({ "unified": { "cgroup.procs": "1" } }),
            "unified",
        ),
        (
            "/linux",
            "seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s" }),
            "listenerPath",
        ),
        (
            "",
            "mounts",
            json!([{ "destination": "/x", "type": "nfs", "source": "a:/b" }]),
            "/x",
        ),
    ] {
        let error = refusal(parent, key, value);
        assert_eq!(error.reason, Reason::Policy, "{error}");
        assert!(error.what.contains(name), "{error}");
    }
}

#[test]
fn invalid_settings_are_refused() {
    for (parent, key, value) in [
        ("", "ociVersion", json!("2.0.0")),
        ("/process", "args", json!([])),
        ("/process", "args", json!(["a\0b"])),
        ("/process", "cwd", Value::Null),
        ("/process", "oomScoreAdj", json!(1001)),
        (
            "/process",
            "rlimits",
            json!([{ "type": "RLIMIT_X", "soft": 1, "hard": 1 }]),
        ),
        (
            "/process",
            "rlimits",
            json!([{ "type": "RLIMIT_AS", "soft": 2, "hard": 1 }]),
        ),
        ("", "ociVersion", json!("1.2")),
        ("", "ociVersion", json!("invalid")),
        ("/process", "user", json!({ "uid": 4_294_967_296_u64 })),
        ("/process", "user", json!({ "gid": 4_294_967_295_u64 })),
        ("/linux", "personality", json!({ "domain": "BSD" })),
        (
            "/process",
            "ioPriority",
            json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }),
        ),
        ("/linux", "cgroupsPath", json!("/a/../../b")),
        ("/linux", "namespaces", json!([{ "type": "net" }])),
        (
            "/linux",
            "namespaces",
            json!([{ "type": "uts" }, { "type": "uts" }]),
        ),
        (
            "/linux",
            "uidMappings",
            json!([{ "containerID": 0, "hostID": 1, "size": 1 }]),
        ),
        ("/linux", "maskedPaths", json!(["/proc/../etc"])),
        ("/linux", "rootfsPropagation", json!("sideways")),
    ] {
        refusal(parent, key, value);
    }
}

#[test]
fn limits_are_translated_to_cgroup_version_2() {
    let resources = json!({
        "memory": { "limit": 67_108_864, "swap": -1, "reservation": 1 << 20 },
        "cpu": { "quota": 50_000, "period": 200_000, "burst": 20_000, "shares": 2, "cpus": "0-1", "mems": "" },
        "pids": { "limit": 0 },
        "blockIO": { "weight": 0 },
        "devices": [{ "allow": false, "access": "rwm" }],
        "hugepageLimits": [{ "pageSize": "2MB", "limit": 0 }],
        "unified": { "memory.high": "1048576" }
    });
    let Config { limits, bundle, .. } = read(&with("/linux", "resources", resources)).unwrap();
    assert_eq!(limits.memory, Some(64 << 20));
    assert_eq!(limits.cpus, Some("0.25".parse().unwrap()));
    assert_eq!(limits.pids, None);
    let settings: Vec<_> = limits
        .settings
        .iter()
        .map(|setting| (setting.file.as_str(), setting.value.as_str()))
        .collect();
    let expected = [
        ("memory.low", "1048576"),
        ("cpu.weight", "1"),
        ("cpu.max.burst", "10000"),
        ("cpuset.cpus", "0-1"),
        ("memory.high", "1048576"),
    ];
    assert_eq!(settings, expected);
    // The controllers in `read` do not include hugetlb.
    let change = json!({
        "syscall": "request", "path": "linux.resources.hugepageLimits", "asked": "0", "became": "none"
    });
    assert!(bundle.changes.contains(&change), "{:?}", bundle.changes);
}

#[test]
fn invalid_limits_are_refused() {
    for resources in [
        json!({ "cpu": { "cpus": "0\n1" } }),
        json!({ "cpu": { "realtimeRuntime": 1 } }),
        json!({ "cpu": { "quota": 1, "period": 100_000 } }),
        json!({ "memory": { "limit": -2 } }),
        json!({ "memory": { "disableOOMKiller": true } }),
        json!({ "hugepageLimits": [{ "pageSize": "../MB", "limit": 1 }] }),
        json!({ "hugepageLimits": [{ "pageSize": "MB", "limit": 1 }] }),
        json!({ "unified": { "memory/high": "1" } }),
        json!({ "unified": { "memory.": "1" } }),
        json!({ "unified": { "memory.high": "1\n2" } }),
    ] {
        refusal("/linux", "resources", resources);
    }
}

#[test]
fn a_duplicate_key_is_refused() {
    let text = config()
        .to_string()
        .replacen('{', "{\"hostname\":\"a\",\"hostname\":\"b\",", 1);
    let context = ParseContext {
        directory: Path::new("/"),
        systemd: false,
        controllers: &[],
        image: None,
        quiet: false,
        is_directory: &|_| false,
    };
    assert!(Config::parse(text.as_bytes(), &context).is_err());
}

#[test]
fn a_slice_is_inside_the_slices_of_its_prefixes() {
    let document = with("/linux", "cgroupsPath", json!("a-b.slice:cri:one"));
    let context = ParseContext {
        directory: Path::new("/"),
        systemd: true,
        controllers: &[],
        image: None,
        quiet: false,
        is_directory: &|_| false,
    };
    let config = Config::parse(document.to_string().as_bytes(), &context).unwrap();
    let path = Path::new("a.slice/a-b.slice/cri-one.scope");
    assert_eq!(config.bundle.cgroup.as_deref(), Some(path));
}

#[test]
fn the_callers_image_overrides_the_bundle() {
    let image = Digest::sha256(b"the caller's");
    let read = |document: &Value| {
        let context = ParseContext {
            directory: Path::new("/bundle"),
            systemd: false,
            controllers: &[],
            image: Some(image),
            quiet: false,
            is_directory: &|_| false,
        };
        Config::parse(document.to_string().as_bytes(), &context).map(|config| config.subject)
    };
    let annotated = |digest: Digest| with("", "annotations", json!({ IMAGE: digest.to_string() }));
    for document in [config(), annotated(image)] {
        assert!(matches!(read(&document).unwrap(), Subject::Image(digest) if digest == image));
    }
    let Err(error) = read(&annotated(Digest::sha256(b"the pod's"))) else {
        panic!("a pod has chosen another image");
    };
    assert_eq!(error.reason, Reason::Policy);
    assert!(error.what.contains(IMAGE), "{error}");
}

#[test]
fn a_filter_may_notify_an_agent_only_if_imruns_own_has_no_listener() {
    let asking = |names: &[&str], path: Option<&str>| {
        let document = with(
            "/linux",
            "seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "listenerPath": path,
                "syscalls": [{ "names": names, "action": "SCMP_ACT_NOTIFY" }]
            }),
        );
        let context = ParseContext {
            directory: Path::new("/bundle"),
            systemd: false,
            controllers: &[],
            image: None,
            quiet: true,
            is_directory: &|_| false,
        };
        Config::parse(document.to_string().as_bytes(), &context)
    };
    let config = asking(&["mkdir"], Some("/run/agent")).unwrap();
    assert!(config.bundle.filter.unwrap().has_listener);
    assert_eq!(config.agent.unwrap().socket, Path::new("/run/agent"));
    // The call does not exist on this architecture, so the filter needs no agent.
    let config = asking(&["of_another_machine"], Some("/run/agent")).unwrap();
    assert!(!config.bundle.filter.unwrap().has_listener && config.agent.is_none());
    for (names, path) in [
        (&["mkdir"][..], None),
        (&["mkdir"], Some("agent")),
        (&["mkdir", "sendmsg"], Some("/run/agent")),
    ] {
        assert!(asking(names, path).is_err(), "{names:?}, {path:?}");
    }
}

#[test]
fn network_sysctls_are_set_in_the_containers_network_and_never_in_the_hosts() {
    let read = |network: Value| {
        let mut document = with("/linux", "sysctl", json!({ "net.ipv4.ip_forward": "1" }));
        let namespaces = document.pointer_mut("/linux/namespaces").unwrap();
        let list = namespaces.as_array_mut().unwrap();
        list.retain(|one| one["type"] != "network");
        list.extend((!network.is_null()).then_some(network));
        read(&document)
    };
    let setting = [Setting {
        name: "net.ipv4.ip_forward".into(),
        path: c"sys/net/ipv4/ip_forward".to_owned(),
        value: b"1".to_vec(),
    }];
    let own = read(json!({ "type": "network" })).unwrap();
    assert_eq!(own.bundle.sysctls, setting);
    assert!(own.network_sysctls.is_empty());
    let given = read(json!({ "type": "network", "path": "/run/netns/pod" })).unwrap();
    assert_eq!(given.network_sysctls, setting);
    assert!(given.bundle.sysctls.is_empty());
    let host = read(Value::Null).err().unwrap();
    assert_eq!(
        host.what,
        "config.json `linux.sysctl \"net.ipv4.ip_forward\"`"
    );
}

#[test]
fn a_cgroups_path_of_a_slice_selects_a_scope_with_or_without_the_option() {
    let of = |path: &str| {
        let config = read(&with("/linux", "cgroupsPath", json!(path))).unwrap();
        (config.bundle.cgroup.unwrap(), config.scope)
    };
    let (path, scope) = of("kubepods-pod1.slice:cri-containerd:ab");
    let unit = "cri-containerd-ab.scope".to_owned();
    assert_eq!(
        path,
        Path::new("kubepods.slice/kubepods-pod1.slice").join(&unit)
    );
    let slice = "kubepods-pod1.slice".to_owned();
    assert_eq!(scope, Some(Scope { slice, unit }));
    for plain in ["/default/one", "/a.slice:b/c:d", "a:b:c", "a.slice:b"] {
        let (path, scope) = of(plain);
        assert_eq!(path, Path::new(plain.trim_start_matches('/')));
        assert_eq!(scope, None);
    }
}

/// Returns a document with all settings that engines use.
fn whole() -> Value {
    let mut document = config();
    document["hooks"] = json!({ "prestart": [{ "path": "/hook", "args": ["hook"], "env": ["A=b"], "timeout": 3 }] });
    document["annotations"] = json!({ "one": "two" });
    document["hostname"] = json!("name");
    let linux = &mut document["linux"];
    linux["namespaces"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "type": "user" }));
    linux["uidMappings"] = json!([{ "containerID": 0, "hostID": 1000, "size": 100 }]);
    linux["gidMappings"] = json!([{ "containerID": 0, "hostID": 1000, "size": 100 }]);
    linux["sysctl"] = json!({ "net.core.somaxconn": "1", "kernel.shmmax": "2" });
    linux["devices"] = json!([{ "path": "/dev/null", "type": "c", "major": 1, "minor": 3 }]);
    linux["resources"] = json!({
        "devices": [{ "allow": false, "access": "rwm" }],
        "memory": { "limit": 1 << 24, "swap": 1 << 25 },
        "cpu": { "shares": 1024, "quota": 100_000, "period": 100_000, "cpus": "0-1" },
        "pids": { "limit": 100 },
        "unified": { "memory.high": "max" }
    });
    linux["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": ["read", "write"], "action": "SCMP_ACT_ALLOW",
            "args": [{ "index": 1, "value": 7, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ" }] }]
    });
    document
}

fn read_whole(document: &Value, systemd: bool) -> Result<Config> {
    let controllers = ["cpu", "cpuset", "memory", "pids"].map(str::to_owned);
    let context = ParseContext {
        directory: Path::new("/bundle"),
        systemd,
        controllers: &controllers,
        image: None,
        quiet: false,
        is_directory: &|_| false,
    };
    Config::parse(document.to_string().as_bytes(), &context)
}

#[test]
fn a_document_with_all_settings_of_engines_is_accepted() {
    let mut document = whole();
    read_whole(&document, false).unwrap();
    document["linux"]["cgroupsPath"] = json!("one.slice:two:three");
    read_whole(&document, true).unwrap();
}

/// Returns the JSON pointers of all parts of a document.
fn pointers(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Array(list) => {
            for (place, value) in list.iter().enumerate() {
                pointers(value, &format!("{path}/{place}"), found);
            }
        }
        Value::Object(members) => {
            for (key, value) in members {
                let key = key.replace('~', "~0").replace('/', "~1");
                pointers(value, &format!("{path}/{key}"), found);
            }
        }
        _ => {}
    }
}

fn strange() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        prop_oneof![
            "\\PC{0,12}",
            "(/|\\.\\.|[a-z]){0,6}",
            "[a-z.-]{0,9}:[a-z]{0,9}:(/|\\.|[a-z]){0,9}"
        ]
        .prop_map(Value::from),
        Just(json!("")),
        Just(json!("a\0b")),
        Just(json!([])),
        Just(json!([null])),
        Just(json!({})),
        Just(json!({ "a": "b" })),
    ]
}

proptest! {
    #[test]
    fn arbitrary_values_are_accepted_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), strange()), 1..4),
        systemd: bool,
    ) {
        let mut document = whole();
        for (place, value) in changes {
            let mut places = Vec::new();
            pointers(&document, "", &mut places);
            *document.pointer_mut(place.get::<String>(&places)).unwrap() = value;
        }
        let Ok(config) = read_whole(&document, systemd) else {
            return Ok(());
        };
        let bundle = config.bundle;
        prop_assert!(!bundle.process.args.is_empty());
        prop_assert!(bundle.masked.iter().all(|path| path.to_bytes().starts_with(b"/")));
        let cgroup = bundle.cgroup.unwrap_or_default();
        let normal = |part| matches!(part, std::path::Component::Normal(_));
        prop_assert!(cgroup.components().all(normal));
        prop_assert!(bundle.filter.is_none_or(|filter| filter.program.len() <= 4096));
    }
}

#[test]
fn scheduling_that_needs_no_privileges_is_accepted() {
    let scheduler = |value: Value| read(&with("/process", "scheduler", value));
    let taken = |value: Value| {
        let found = scheduler(value).unwrap().bundle.process.scheduler.unwrap();
        (found.policy, found.flags, found.nice)
    };
    assert_eq!(taken(json!({ "policy": "SCHED_OTHER" })), (0, 0, 0));
    assert_eq!(
        taken(json!({ "policy": "SCHED_BATCH", "nice": 5, "priority": 0,
            "flags": ["SCHED_FLAG_RESET_ON_FORK"] })),
        (libc::SCHED_BATCH, 1, 5)
    );
    for (value, name) in [
        (json!({ "policy": "SCHED_RR", "priority": 1 }), "SCHED_RR"),
        (json!({ "policy": "SCHED_OTHER", "nice": -1 }), "nice -1"),
        (json!({ "policy": "SCHED_OTHER", "runtime": 1 }), "runtime"),
        (
            json!({ "policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RECLAIM"] }),
            "SCHED_FLAG_RECLAIM",
        ),
    ] {
        let Err(error) = scheduler(value) else {
            panic!("{name} was taken");
        };
        assert_eq!(error.reason, Reason::Policy);
        assert!(error.what.contains(name), "{error}");
    }
    let io = |class: &str| {
        read(&with(
            "/process",
            "ioPriority",
            json!({ "class": class, "priority": 7 }),
        ))
    };
    let taken = io("IOPRIO_CLASS_IDLE").unwrap().bundle.process.io_priority;
    assert_eq!(taken, Some((3, 7)));
    let Err(error) = io("IOPRIO_CLASS_RT") else {
        panic!("a real-time class was taken");
    };
    assert!(error.what.contains("IOPRIO_CLASS_RT"), "{error}");
}

#[test]
fn names_of_the_uts_namespace_can_be_sysctls() {
    let named = |sysctl: Value, hostname: Value| {
        let mut document = with("/linux", "sysctl", sysctl);
        document["hostname"] = hostname;
        read(&document).map(|config| (config.bundle.hostname, config.bundle.domainname))
    };
    let both = json!({ "kernel.hostname": "a", "kernel/domainname": "b.c" });
    let (hostname, domainname) = named(both.clone(), Value::Null).unwrap();
    assert_eq!(hostname.as_deref(), Some("a"));
    assert_eq!(domainname.as_deref(), Some(c"b.c"));
    named(both.clone(), json!("a")).unwrap();
    let error = named(both, json!("other")).err().unwrap();
    assert!(error.what.contains("kernel.hostname"), "{error}");
}

#[test]
fn a_sysctl_in_two_spellings_is_refused_whatever_it_belongs_to() {
    for name in [
        "kernel.domainname",
        "kernel.hostname",
        "net.core.somaxconn",
        "kernel.shmmax",
    ] {
        let other = name.replace('.', "/");
        let error = refusal("/linux", "sysctl", json!({ name: "1", &other: "1" }));
        assert!(error.what.contains("linux.sysctl"), "{error}");
        assert!(error.why.contains("given twice"), "{error}");
    }
}

#[test]
fn id_mappings_that_no_container_can_have_are_refused_by_their_field() {
    let range = |inside: u32, outside: u32, size: u32| json!({ "containerID": inside, "hostID": outside, "size": size });
    let good = json!([range(0, 100_000, 10)]);
    for bad in [
        json!([range(0, 1, 5), range(4, 100, 1)]),
        json!([range(1, 100_000, 10)]),
    ] {
        for (users, groups, field) in [(&bad, &good, "uidMappings"), (&good, &bad, "gidMappings")] {
            let mut document = with("/linux", "uidMappings", users.clone());
            document["linux"]["gidMappings"] = groups.clone();
            let namespaces = document.pointer_mut("/linux/namespaces").unwrap();
            namespaces
                .as_array_mut()
                .unwrap()
                .push(json!({ "type": "user" }));
            let error = read(&document).err().unwrap();
            assert_eq!(error.what, format!("config.json `linux.{field}`"));
        }
    }
}

#[test]
fn a_masked_path_that_is_each_processs_own_is_refused_by_its_field() {
    for path in [
        "/proc/self/status",
        "/proc/thread-self/comm",
        "/proc/mounts",
        "/proc/net/tcp",
        "/proc/1/maps",
    ] {
        let error = refusal("/linux", "maskedPaths", json!([path]));
        assert_eq!(
            error.what,
            format!("config.json `linux.maskedPaths {path:?}`")
        );
    }
    let shared = json!(["/proc/selfish", "/proc/sys/net", "/proc/12x"]);
    let config = read(&with("/linux", "maskedPaths", shared)).unwrap();
    assert_eq!(config.bundle.masked.len(), 3);
}

#[test]
fn an_execution_domain_is_linux_or_linux32() {
    let domain = |value: Value| {
        let config = read(&with("/linux", "personality", value)).unwrap();
        config.bundle.personality
    };
    assert_eq!(domain(Value::Null), 0);
    assert_eq!(domain(json!({ "domain": "LINUX", "flags": [] })), 0);
    assert_eq!(domain(json!({ "domain": "LINUX32" })), 8);
}

#[test]
fn a_failed_poststart_hook_ends_the_container_from_version_1_3_on() {
    let strict = |version: &str| {
        let mut document = with("", "hooks", json!({ "poststart": [{ "path": "/hook" }] }));
        document["ociVersion"] = json!(version);
        read(&document).unwrap().hooks.poststart_is_strict
    };
    assert!(!strict("1.0.2-dev") && !strict("1.2.1"));
    assert!(strict("1.3.0") && strict("1.3.0-rc.1") && strict("1.10.0"));
}

#[test]
fn a_hook_may_have_any_timeout_that_is_greater_than_zero() {
    let hooks = |timeout: i64| json!({ "poststop": [{ "path": "/a" }, { "path": "/b", "timeout": timeout }] });
    for timeout in [1, i64::MAX] {
        let config = read(&with("", "hooks", hooks(timeout))).unwrap();
        assert_eq!(config.hooks.poststop.len(), 2);
    }
    for timeout in [0, -1] {
        let error = refusal("", "hooks", hooks(timeout));
        assert_eq!(
            error.why,
            "`hooks.poststop[1].timeout` is not greater than zero"
        );
    }
}

#[test]
fn errors_name_the_invalid_element() {
    let limit = json!([{ "type": "RLIMIT_NOFILE", "soft": 2, "hard": 1 }]);
    let error = refusal("/process", "rlimits", limit);
    assert_eq!(error.what, "config.json `process.rlimits RLIMIT_NOFILE`");
    let error = refusal("/linux", "maskedPaths", json!(["/proc/../etc"]));
    assert_eq!(
        error.what,
        "config.json `linux.maskedPaths \"/proc/../etc\"`"
    );
    let error = refusal("/linux", "sysctl", json!({ "vm.swappiness": "1" }));
    assert_eq!(error.what, "config.json `linux.sysctl \"vm.swappiness\"`");
}
