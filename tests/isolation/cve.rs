//! Vulnerabilities of other runtimes.

use crate::attempts::sets_memfd_noexec;
use crate::host::{Host, assert_refused};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

#[test]
fn cve_2019_5736_imruns_own_program_is_never_executed_in_a_container() {
    let host = host!();
    let image = host.bake(
        |top| {
            symlink("/proc/self/exe", top.join("self")).unwrap();
            fs::write(top.join("script"), "#!/proc/self/exe\n").unwrap();
            fs::set_permissions(top.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
        },
        "",
    );
    for entrypoint in ["/self", "/script", "/proc/self/exe", "/proc/1/exe"] {
        let output = host
            .launch_of(&image, &["--entrypoint", entrypoint], &["images"])
            .output()
            .unwrap();
        assert_refused(
            &output,
            126,
            &format!("entrypoint {entrypoint:?}: cannot be executed"),
        );
    }
    host.expect(
        &[],
        &[
            ("link:/proc/1/exe", "/probe"),
            ("write:/proc/1/exe", "EROFS"),
        ],
    );
}

#[test]
fn cve_2024_21626_no_descriptor_leads_out_and_the_working_directory_lies_in_the_root() {
    let host = host!();
    for fd in 0..32 {
        let workdir = format!("/proc/self/fd/{fd}");
        let output = host
            .launch(&["--workdir", &workdir], &["memfd"])
            .output()
            .unwrap();
        assert_refused(&output, 125, "working directory");
    }
    let script = "exec 7</ 8</etc; exec \"$@\"";
    let launch = host.launch(&[], &["ls:/proc/self/fd"]);
    let mut shell = std::process::Command::new("/bin/sh");
    shell
        .args(["-c", script, "sh"])
        .arg(launch.get_program())
        .args(launch.get_args());
    let output = shell
        .env("IMRUN_SINK", "stdio:")
        .env("IMRUN_FINGERPRINT_KEY", "key")
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "ls:/proc/self/fd: 0 1 2 3\n",
        "{output:?}"
    );
}

/// Fills `dev` with files that an attacker could put into an image.
fn trap_in_dev(top: &Path) {
    fs::create_dir(top.join("dev")).unwrap();
    symlink("/proc/sys/kernel/core_pattern", top.join("dev/null")).unwrap();
    symlink("/proc/sysrq-trigger", top.join("dev/console")).unwrap();
}

#[test]
fn cve_2025_31133_masks_never_come_from_the_image() {
    let host = host!();
    let image = host.bake(trap_in_dev, "");
    let names = "fd full null random stderr stdin stdout tty urandom zero";
    let covered = if fs::exists("/proc/keys").unwrap() {
        ""
    } else {
        "ENOENT"
    };
    host.expect_of(
        &image,
        &[],
        &[
            ("ls:/dev", names),
            ("link:/dev/null", "EINVAL"),
            ("cat:/proc/keys", covered),
        ],
    );
}

#[test]
fn cve_2025_52565_no_console_is_mounted() {
    let host = host!();
    let image = host.bake(trap_in_dev, "");
    host.expect_of(
        &image,
        &[],
        &[
            ("link:/dev/console", "ENOENT"),
            ("write:/dev/console", "EROFS"),
        ],
    );
}

#[test]
fn cve_2025_52881_sysctls_are_written_despite_files_in_the_images_proc() {
    let host = host!();
    let trap = |top: &Path| {
        fs::create_dir_all(top.join("proc/sys/kernel")).unwrap();
        fs::create_dir_all(top.join("proc/sys/vm")).unwrap();
        fs::write(top.join("proc/sys/kernel/shmmni"), "4096").unwrap();
        symlink("../../sysrq-trigger", top.join("proc/sys/vm/memfd_noexec")).unwrap();
    };
    let image = host.bake(trap, "");
    let memfd_noexec = match fs::exists("/proc/sys/vm/memfd_noexec").unwrap() {
        _ if sets_memfd_noexec() => "2",
        true => "0",
        false => "ENOENT",
    };
    let settings = [
        ("cat:/proc/sys/kernel/shmmni", "0"),
        ("cat:/proc/sys/kernel/shmall", "0"),
        ("cat:/proc/sys/kernel/msgmni", "0"),
        ("cat:/proc/sys/kernel/sem", "0\t0\t0\t0"),
        ("cat:/proc/sys/fs/mqueue/queues_max", "0"),
        ("cat:/proc/sys/user/max_user_namespaces", "0"),
        ("cat:/proc/sys/vm/memfd_noexec", memfd_noexec),
        ("cat:/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ];
    host.expect_of(&image, &[], &settings);
}

fn assert_no_link(host: &Host, name: &str) {
    let target = host.path("outside");
    fs::create_dir_all(&target).unwrap();
    let output = host.try_bake(|top| symlink(&target, top.join(name)).unwrap(), "");
    assert_refused(
        &output,
        125,
        &format!("/{name}: it is not a directory in the image"),
    );
    assert_eq!(
        fs::read_dir(&target).unwrap().count(),
        0,
        "something was made outside"
    );
}

#[test]
fn cve_2026_41579_an_image_whose_dev_is_a_symlink_is_refused() {
    assert_no_link(&host!(), "dev");
}

#[test]
fn cve_2026_47766_an_image_whose_proc_or_sys_is_a_symlink_is_refused() {
    let host = host!();
    assert_no_link(&host, "proc");
    assert_no_link(&host, "sys");
}

#[test]
fn cve_2024_45310_no_placeholder_is_made_through_an_images_link() {
    let host = host!();
    let outside = host.path("outside");
    fs::create_dir(&outside).unwrap();
    let trap = |top: &Path| {
        fs::create_dir(top.join("etc")).unwrap();
        symlink(outside.join("resolv.conf"), top.join("etc/resolv.conf")).unwrap();
        symlink(
            "../../../../../../../../etc/hostname",
            top.join("etc/hosts"),
        )
        .unwrap();
    };
    let image = host.bake(trap, "");
    host.launch_of(&image, &["--net", "host"], &["memfd"])
        .output()
        .unwrap();
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "something was made outside"
    );
}

#[test]
fn cve_2025_47290_no_path_of_a_layer_becomes_a_path_of_the_host() {
    let host = host!();
    let outside = host.path("outside");
    fs::create_dir(&outside).unwrap();
    // `top` is a link to the outside in the first layer, and a directory in the second.
    let base = host.bake(|top| symlink(&outside, top.join("swap")).unwrap(), "");
    let fill = |top: &Path| {
        fs::create_dir(top.join("swap")).unwrap();
        fs::write(top.join("swap/file"), "x").unwrap();
    };
    let image = host.bake(fill, &format!("base = {base:?}"));
    host.expect_of(&image, &[], &[("ls:/swap", "file")]);
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        0,
        "something was made outside"
    );
}

#[test]
fn cve_2024_40635_a_user_id_out_of_range_is_refused() {
    let host = host!();
    for user in ["4294967296", "4294967295", "-1", "0:4294967295"] {
        let output = host
            .launch(&[&format!("--user={user}")], &["memfd"])
            .output()
            .unwrap();
        assert_refused(&output, 125, "");
    }
}

#[test]
fn cve_2026_46680_a_number_is_never_looked_up_as_a_name() {
    let host = host!();
    let passwd = |top: &Path| {
        fs::create_dir(top.join("etc")).unwrap();
        fs::write(
            top.join("etc/passwd"),
            "1000:x:0:0::/:/\n4294967296:x:0:0::/:/\n",
        )
        .unwrap();
    };
    let image = host.bake(passwd, "");
    let output = host
        .launch_of(&image, &["-u", "1000"], &["cat:/proc/self/status"])
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("Uid:\t1000\t1000\t1000\t1000"),
        "{output:?}"
    );
    let output = host
        .launch_of(&image, &["-u", "4294967296"], &["memfd"])
        .output()
        .unwrap();
    assert_refused(&output, 125, "");
}

#[test]
fn containerd_1368_every_mount_is_read_only_including_those_below_sys() {
    let host = host!();
    for options in [&[][..], &["--net", "host"]] {
        let output = host
            .launch(options, &["cat:/proc/self/mountinfo"])
            .output()
            .unwrap();
        let table = String::from_utf8_lossy(&output.stdout);
        let table = table.strip_prefix("cat:/proc/self/mountinfo: ").unwrap();
        let mut points = Vec::new();
        for line in table.lines() {
            let fields: Vec<_> = line.split(' ').collect();
            assert!(fields[5].split(',').any(|option| option == "ro"), "{line}");
            points.push(fields[4]);
        }
        let sys = if options.is_empty() {
            "/sys"
        } else {
            "/etc/hosts"
        };
        for point in ["/", "/proc", "/sys/fs/cgroup", sys] {
            assert!(points.contains(&point), "{point} is not in {points:?}");
        }
    }
}
