//! `imrun rm` and `imrun gc` free exactly the data that nothing needs.

use crate::host;
use crate::support::host::Host;
use crate::support::layout::{Layout, Packing, program, tar};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// Imports an image with these layers under its own digest.
fn import(host: &Host, layers: &[&[u8]]) -> String {
    let layout = Layout::new(host.path("layout"));
    layout.publish_image(layers, Packing::Gzip);
    host.import(layout.source())
}

/// Returns the size of all blobs and tree images in bytes.
fn size(host: &Host) -> u64 {
    let trees = fs::read_dir(host.path("store/trees"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let blobs = host.blobs().into_iter().map(|blob| host.blob(&blob));
    let files: Vec<PathBuf> = blobs.chain(trees).collect();
    files
        .iter()
        .map(|path| fs::metadata(path).unwrap().len())
        .sum()
}

/// Runs a command that frees data; checks the number it prints, and that the rest verifies.
fn free(host: &Host, command: &[&str]) -> u64 {
    let before = size(host);
    let freed: u64 = host.imrun(command).exits(0).line().parse().unwrap();
    assert_eq!(before - size(host), freed);
    host.imrun(["verify"]).exits(0);
    freed
}

#[test]
fn removing_an_image_frees_the_data_that_no_other_image_shares() {
    let host = host!();
    let base = program();
    let one = import(&host, &[&base, &tar(&[("a", "1")])]);
    let after_one = (host.blobs(), size(&host));
    let two = import(&host, &[&base, &tar(&[("a", "2")])]);
    assert!(free(&host, &["rm", &two]) > 0);
    assert_eq!((host.blobs(), size(&host)), after_one);
    host.launch_of(&one).run().exits(0).prints("ran\n");
    host.launch_of(&two).run().refused(&two).because("digest");
    free(&host, &["rm", &one]);
    assert_eq!((host.blobs().len(), size(&host)), (0, 0));
    assert!(!host.imrun(["images"]).out.contains("sha256:"));
}

#[test]
fn gc_frees_nothing_that_is_needed_and_nothing_twice() {
    let host = host!();
    import(&host, &[&program()]);
    assert_eq!(free(&host, &["gc"]), 0);
    assert_eq!(free(&host, &["gc"]), 0);
    let empty = host!();
    empty.imrun(["gc"]).exits(0).prints("0\n");
}

#[test]
fn an_unknown_image_cannot_be_removed() {
    let host = host!();
    let image = import(&host, &[&program()]);
    let other = image
        .replace(|digit| ('0'..='8').contains(&digit), "9")
        .replace("sha999", "sha256");
    host.imrun(["rm", &other])
        .refused(&other)
        .hints("imrun images");
    host.imrun(["rm", "app"]).refused("app");
    host.imrun(["rm", &image]).exits(0);
    host.imrun(["rm", &image]).refused(&image);
}

#[test]
fn an_image_keeps_its_data_as_long_as_it_has_a_name() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    let name = |text: &str, name: &str| {
        layout.publish_image(&[&tar(&[("a", text)])], Packing::Plain);
        host.imrun(["import", &layout.source(), "--name", name])
            .exits(0)
            .line()
    };
    let first = name("1", "app");
    name("1", "old");
    let second = name("2", "app");
    let gc = ["gc", "--keep", "1"];
    assert_eq!(
        free(&host, &gc),
        0,
        "the first image still has the name old"
    );
    name("2", "old");
    assert!(free(&host, &gc) > 0);
    assert!(!host.blobs().contains(&first) && host.blobs().contains(&second));
}

/// Imports four images under one name, the last of them a bad release.
fn releases(host: &Host) -> Vec<String> {
    let layout = Layout::new(host.path("layout"));
    let import = |text: &str| {
        layout.publish_image(&[&program(), &tar(&[("release", text)])], Packing::Plain);
        host.imrun(["import", &layout.source(), "--name", "app"])
            .exits(0)
            .line()
    };
    ["1", "2", "3", "4"].map(import).to_vec()
}

#[test]
fn gc_keeps_the_images_that_rollback_needs() {
    let host = host!();
    let all = releases(&host);
    let would = host.imrun(["gc", "--dry-run"]).exits(0).line();
    let before = host.blobs();
    assert!(free(&host, &["gc"]) > 0);
    assert_eq!(host.imrun(["gc", "--dry-run"]).exits(0).line(), "0");
    assert_ne!(would, "0");
    // The oldest of four images is not kept: its manifest, config and own layer are freed.
    assert_eq!(before.len() - host.blobs().len(), 3);
    assert!(!host.blobs().contains(&all[0]));
    host.imrun(["rollback", "app"])
        .exits(0)
        .prints(&format!("{}\n", all[2]));
    host.launch_of(&all[2]).run().exits(0).prints("ran\n");
    host.imrun(["rollback", "app", "--to", &all[1]]).exits(0);
    host.imrun(["rollback", "app", "--to", &all[0]])
        .refused(&all[0])
        .hints("import");
    // The name's digests are now those of 2, 3, 4.
    assert_eq!(free(&host, &["gc", "--keep", "3"]), 0);
    free(&host, &["gc", "--keep", "2"]);
    assert!(host.blobs().contains(&all[2]) && !host.blobs().contains(&all[3]));
    free(&host, &["gc", "--keep", "1"]);
    assert!(host.blobs().contains(&all[1]) && !host.blobs().contains(&all[2]));
    for wrong in ["0", "-1", "x"] {
        host.imrun(["gc", &format!("--keep={wrong}")])
            .refused("at least 1");
    }
}

#[test]
fn a_dry_run_prints_the_bytes_that_gc_would_free_and_removes_nothing() {
    let host = host!();
    releases(&host);
    for keep in ["1", "2", "3"].iter().rev() {
        let all = (host.blobs(), size(&host));
        let dry = host
            .imrun(["gc", "--dry-run", "--keep", keep])
            .exits(0)
            .line();
        assert_eq!((host.blobs(), size(&host)), all);
        assert_eq!(free(&host, &["gc", "--keep", keep]).to_string(), dry);
    }
}

#[test]
fn removing_a_release_leaves_the_one_before_for_rollback() {
    let host = host!();
    let all = releases(&host);
    free(&host, &["rm", &all[3]]);
    assert!(!host.blobs().contains(&all[3]) && host.blobs().contains(&all[2]));
    host.imrun(["rollback", "app"])
        .exits(0)
        .prints(&format!("{}\n", all[2]));
    // An image that a name had earlier is not removed by accident.
    let refused = host
        .imrun(["rm", &all[1]])
        .refused("is an earlier meaning of app");
    refused.hints("imrun gc --keep 1");
    assert!(host.blobs().contains(&all[1]));
}

#[test]
fn gc_names_and_keeps_files_that_do_not_belong_to_the_store() {
    let host = host!();
    let image = import(&host, &[&program()]);
    fs::create_dir(host.path("store/blobs/sha256/stray")).unwrap();
    host.write("store/blobs/sha256/stray/file", "foreign");
    let zeros = "0".repeat(64);
    host.write(&format!("store/trees/{zeros}.erofs"), "an unneeded tree");
    let kept = [
        "blobs/sha256/README",
        "blobs/sha256/0123",
        "trees/notes.txt",
        "trees/0123.erofs",
        "roots/notes",
        "roots/stray/file",
        "roots/0123.all/file",
    ];
    let root = format!("roots/{zeros}.mine/file");
    let tree = format!("trees/{zeros}.txt");
    let kept = kept.iter().copied().chain([&*root, &*tree]);
    let kept: Vec<_> = kept.map(|name| format!("store/{name}")).collect();
    for name in &kept {
        fs::create_dir_all(host.path(name).parent().unwrap()).unwrap();
        host.write(name, "foreign");
    }
    let linked = host.path("elsewhere");
    fs::create_dir(&linked).unwrap();
    for link in ["trees/link".into(), format!("roots/{zeros}.all")] {
        symlink(&linked, host.path("store").join(link)).unwrap();
    }
    let fifo = host.path("store/blobs/sha256/fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let unreadable = std::ffi::OsStr::from_bytes(b"\xff");
    fs::write(host.path("store/trees").join(unreadable), "foreign").unwrap();
    let freed = host.imrun(["gc"]).exits(0);
    for named in [
        "stray\": is a directory",
        "README\": does not belong",
        "sha256/0123\": does not belong",
        "fifo\": does not belong",
        "notes.txt\": does not belong",
        "0123.erofs\": does not belong",
        "link\": does not belong",
        "0.txt\": does not belong",
        "notes\": is not a directory",
        "roots/stray\": is not a directory",
        "0123.all\": is not a directory",
        "0.mine\": is not a directory",
        "0.all\": is not a directory",
        "not UTF-8",
    ] {
        assert!(freed.err.contains(named), "{named} is not in {freed:?}");
    }
    assert_eq!(freed.line(), "16");
    assert!(host.path("store/blobs/sha256/stray/file").exists());
    assert!(kept.iter().all(|name| host.path(name).exists()));
    assert!(fifo.exists() && host.path("store/trees/link").exists() && linked.exists());
    host.imrun(["rm", &image]).exits(0);
    assert!(host.path("store/blobs/sha256/stray/file").exists());
}

/// Neither the damaged line nor following the hint loses an image.
#[test]
fn rm_and_gc_refuse_a_damaged_log_until_it_is_repaired() {
    let host = host!();
    let all = releases(&host);
    let log = fs::read_to_string(host.path("store/refs.log")).unwrap();
    let mut lines: Vec<&str> = log.lines().collect();
    *lines.last_mut().unwrap() = "damaged";
    fs::write(host.path("store/refs.log"), lines.join("\n") + "\n").unwrap();
    host.imrun(["images"]).exits(0).says("line 4 (\"damaged\")");
    host.launch_of(&all[3]).run().exits(0).prints("ran\n");
    for command in [&["gc"][..], &["gc", "--keep", "1"], &["rm", &all[2]]] {
        host.imrun(command)
            .refused("refs.log: line 4")
            .hints("verify --repair");
    }
    host.imrun(["verify"]).exits(1);
    let mended = host.imrun(["verify", "--repair"]).exits(0);
    assert!(
        mended
            .out
            .contains(&format!("{}  named by its digest", all[3])),
        "{mended:?}"
    );
    host.imrun(["gc", "--keep", "1"]).exits(0);
    assert!(host.blobs().contains(&all[3]) && host.blobs().contains(&all[2]));
    host.imrun(["history", "app"]).exits(0);
    host.imrun(["verify", "--repair"]).exits(0);
}

#[test]
fn gc_keeps_the_image_of_a_running_container_until_it_ends() {
    let host = host!();
    let image = host.busybox().to_owned();
    let mut app = host
        .launch()
        .interactive()
        .script("echo up; read line; sha256sum /bin/busybox")
        .spawn();
    app.expect_line("up");
    let all = (host.blobs(), size(&host));
    let removed = host.imrun(["rm", &image]).exits(0);
    assert_eq!(removed.says("runs as").line(), "0");
    assert_eq!(free(&host, &["gc"]), 0);
    assert_eq!((host.blobs(), size(&host)), all);
    app.say("\n");
    let program = imrun::base::digest::Digest::sha256(&fs::read("/bin/busybox").unwrap());
    app.wait()
        .exits(0)
        .prints(&format!("{}  /bin/busybox\n", program.hex()));
    free(&host, &["gc"]);
    assert_eq!(host.blobs().len(), 0);
}

/// Starts a command that waits for the store's lock, which another process holds.
fn waiting(host: &Host, words: &[&str]) -> Child {
    let mut command = Command::new(crate::support::host::IMRUN);
    command.arg("--store").arg(host.path("store"));
    command.arg("--root").arg(host.path("root")).args(words);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let waiter = child.id().to_string();
    // A waiting line in proc_locks(5): "1: -> FLOCK ADVISORY WRITE PID DEVICE:INODE 0 EOF".
    let waits = || {
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let mut lines = locks
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.any(|words| words[1] == "->" && words[5] == waiter)
    };
    while !waits() {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none(), "{words:?} does not wait: {ended:?}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child
}

/// Until an import has written its manifest, no image needs the blobs that it stored.
#[test]
fn gc_waits_for_an_import_and_an_import_for_gc() {
    let host = host!();
    let layout = Layout::new(host.path("layout"));
    layout.publish_image(&[&program()], Packing::Plain);
    host.import(layout.source());
    let layer = format!("store/blobs/sha256/{}", "0".repeat(64));
    let layer = host.write(&layer, "not needed yet");
    let lock = fs::File::open(host.path("store/lock")).unwrap();
    lock.lock_shared().unwrap();
    let mut gc = waiting(&host, &["gc"]);
    assert!(layer.exists());
    lock.unlock().unwrap();
    assert!(gc.wait().unwrap().success());
    assert!(!layer.exists());
    // An import shares the lock with other imports, but not with gc.
    lock.lock_shared().unwrap();
    host.import(layout.source());
    lock.unlock().unwrap();
    lock.lock().unwrap();
    let mut import = waiting(&host, &["import", &layout.source()]);
    lock.unlock().unwrap();
    assert!(import.wait().unwrap().success());
}

#[test]
fn gc_frees_files_that_a_killed_writer_left() {
    let host = host!();
    import(&host, &[&program()]);
    let zeros = "0".repeat(64);
    host.write(&format!("store/blobs/sha256/{zeros}.new-1-2"), "half");
    host.write(&format!("store/trees/{zeros}.new-1-2"), "half");
    host.write(
        &format!("store/blobs/sha256/{zeros}"),
        "not what its name says",
    );
    host.write(&format!("store/trees/{zeros}.erofs"), "an unneeded tree");
    let before = size(&host);
    let freed = host.imrun(["gc"]).exits(0).line().parse::<u64>().unwrap();
    assert_eq!(freed, before - size(&host));
    assert_eq!(freed, 4 + 4 + 22 + 16);
    host.imrun(["verify"]).exits(0);
}

#[test]
fn gc_removes_nothing_while_an_image_is_damaged_but_rm_removes_that_image() {
    let host = host!();
    let image = import(&host, &[&program()]);
    let other = import(&host, &[&tar(&[("a", "1")])]);
    let all = host.blobs();
    fs::write(host.blob(&image), "{}").unwrap();
    host.write(&format!("store/blobs/sha256/{}", "0".repeat(64)), "unused");
    host.imrun(["gc"])
        .refused(&image)
        .hints("nothing was removed");
    assert_eq!(host.blobs().len(), all.len() + 1);
    host.imrun(["rm", &image]).exits(0);
    assert_eq!(host.blobs().len(), 3);
    host.imrun(["verify"])
        .exits(0)
        .prints(&format!("{other}  ok\n"));
}
