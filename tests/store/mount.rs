//! `imrun mount` shows the root of a container; `imrun umount` unmounts it and nothing else.

use crate::host;
use crate::support::host::BUSYBOX;
use crate::support::layout::{Layout, Packing, program};
use nix::mount::{MntFlags, MsFlags, umount2};
use std::fs;
use std::process::Command;

/// Lists the status and digest of every file below the working directory, except for other mounts.
const LIST: &str = "
    find . -xdev ! -path './proc*' ! -path './sys*' -exec stat -c '%n %f %u %g %s %t:%T %Y %N' {} + | sort
    find . -xdev ! -path './proc*' ! -path './sys*' -type f -exec sha256sum {} + | sort";

#[test]
fn a_mount_shows_the_same_root_as_a_container_sees() {
    let host = host!();
    let directory = host.path("mnt");
    fs::create_dir(&directory).unwrap();
    host.imrun(["mount", host.busybox(), directory.to_str().unwrap()])
        .exits(0)
        .prints("");
    let listed = Command::new(BUSYBOX)
        .args(["sh", "-c", LIST])
        .current_dir(&directory)
        .output()
        .unwrap();
    let refused = fs::write(directory.join("new"), "x").unwrap_err();
    host.imrun(["umount", directory.to_str().unwrap()])
        .exits(0)
        .prints("");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("./bin/busybox") && listed.contains("./dev/null"),
        "{listed}"
    );
    let seen = host.launch().script(LIST).run().exits(0);
    assert_eq!(seen.out.lines().count(), listed.lines().count());
    seen.out
        .lines()
        .zip(listed.lines())
        .for_each(|(seen, listed)| assert_eq!(seen, listed));
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn gc_keeps_the_image_of_a_mount() {
    let host = host!();
    let directory = host.path("mnt");
    fs::create_dir(&directory).unwrap();
    host.imrun(["mount", host.busybox(), directory.to_str().unwrap()])
        .exits(0);
    host.imrun(["rm", host.busybox()]).exits(0);
    let read = fs::read(directory.join("bin/busybox"));
    host.imrun(["umount", directory.to_str().unwrap()]).exits(0);
    assert_eq!(read.unwrap(), fs::read(BUSYBOX).unwrap());
}

#[test]
fn an_unsuitable_mount_point_is_refused() {
    let host = host!();
    let file = host.write("file", "");
    for target in [host.path("none"), file] {
        host.imrun(["mount", host.busybox(), target.to_str().unwrap()])
            .refused(target.to_str().unwrap());
    }
    let zero = format!("sha256:{}", "0".repeat(64));
    fs::create_dir(host.path("mnt")).unwrap();
    host.imrun(["mount", &zero, host.path("mnt").to_str().unwrap()])
        .refused(&zero);
}

#[test]
fn only_the_mount_of_an_image_is_unmounted() {
    let host = host!();
    let umount = |name: &str| host.imrun(["umount", host.path(name).to_str().unwrap()]);
    fs::create_dir(host.path("plain")).unwrap();
    umount("plain").refused("is not the mount of an image");
    umount("none").refused("none");

    let tmpfs = host.path("tmpfs");
    fs::create_dir(&tmpfs).unwrap();
    nix::mount::mount(
        Some("none"),
        &tmpfs,
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let refused = umount("tmpfs");
    umount2(&tmpfs, MntFlags::MNT_DETACH).unwrap();
    refused.refused("is not the mount of an image");

    fs::create_dir(host.path("mnt")).unwrap();
    host.imrun(["mount", host.busybox(), host.path("mnt").to_str().unwrap()])
        .exits(0);
    let inside = umount("mnt/etc");
    let still_there = host.path("mnt/etc").exists();
    umount("mnt").exits(0);
    inside.refused("mnt/etc");
    assert!(still_there);
}

#[test]
fn a_device_node_of_an_image_is_dropped_and_counted() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Block);
    header.set_mode(0o666);
    header.set_device_major(7).unwrap();
    header.set_device_minor(0).unwrap();
    header.set_size(0);
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_data(&mut header, "disk", &[][..]).unwrap();
    let layer = layer.into_inner().unwrap();
    layout.publish_image(&[&program(), &layer], Packing::Gzip);
    let image = host.import(layout.source());
    let shown: serde_json::Value =
        serde_json::from_str(&host.imrun(["inspect", &image]).exits(0).out).unwrap();
    assert_eq!(shown["layers"][1]["dropped"]["devices"], 1);
    assert_eq!(shown["layers"][0]["dropped"]["devices"], 0);
    let listed = host
        .launch_of(&image)
        .app(["/busybox", "ls", "/"])
        .run()
        .exits(0);
    listed.prints("busybox\ndev\netc\nproc\nsys\n");
}
