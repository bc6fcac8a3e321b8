//! The `features` document (runtime-spec, features.md), and an example of a bundle's config.json. Both are literals:
//! the types of `oci_spec` would need more lines, and their `Spec` links the crate `regex`.

use serde_json::{Value, json};

/// Returns the features of this runtime.
pub fn features() -> Value {
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": super::VERSION,
        "hooks": [
            "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"
        ],
        "mountOptions": ["bind", "rbind", "ro", "rw", "rro", "nosuid", "nodev", "noexec"],
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
            "capabilities": crate::runtime::capabilities::names(),
            "cgroup": { "v1": false, "v2": true, "systemd": true, "systemdUser": false, "rdma": false },
            "seccomp": {
                "enabled": true,
                "actions": [
                    "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
                    "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP"
                ],
                "operators": [
                    "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT",
                    "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"
                ],
                "archs": ["SCMP_ARCH_X86_64"],
                "knownFlags": [],
                "supportedFlags": []
            },
            "apparmor": { "enabled": false },
            "selinux": { "enabled": false },
            "intelRdt": { "enabled": false },
            "netDevices": { "enabled": false },
            "mountExtensions": { "idmap": { "enabled": false } }
        },
        "annotations": { "dev.imrun.version": env!("CARGO_PKG_VERSION") },
        "potentiallyUnsafeConfigAnnotations": ["dev.imrun.image"]
    })
}

/// Returns a config.json that runs `sh` in the directory `rootfs`.
pub fn example() -> Value {
    let mount = |kind: &str, destination: &str| {
        json!({ "type": kind, "source": kind, "destination": destination,
            "options": ["nosuid", "noexec", "nodev", "ro"] })
    };
    let namespaces = ["pid", "network", "ipc", "uts", "mount", "user", "cgroup"];
    json!({
        "ociVersion": super::VERSION,
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "imrun",
        "mounts": [
            mount("proc", "/proc"), mount("sysfs", "/sys"), mount("cgroup", "/sys/fs/cgroup")
        ],
        "linux": { "namespaces": namespaces.map(|kind| json!({ "type": kind })) }
    })
}
