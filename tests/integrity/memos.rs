//! Conditions for creating a memo and for using it.

use super::lab::{Lab, can_launch};
use crate::skip::{is_unpacked, skip};
use nix::unistd::geteuid;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

#[test]
fn a_file_that_was_written_just_now_gets_no_memo() {
    if !can_launch() {
        return;
    }
    let lab = Lab::new();
    fs::copy(lab.object(&lab.image().tree), lab.path("copy")).unwrap();
    fs::rename(lab.path("copy"), lab.object(&lab.image().tree)).unwrap();
    let outcome = lab
        .launch("auto", &["true"])
        .holds("hashed", "none: tree image");
    assert!(
        format!("{outcome:?}").contains("last 2 seconds"),
        "{outcome:?}"
    );
}

/// A write through a mapping does not change the ctime on a tmpfs, so its files are hashed at each launch.
#[test]
fn a_file_system_without_reliable_ctimes_gets_no_memo() {
    if !can_launch() {
        return;
    }
    if is_unpacked() && geteuid().is_root() && kernel() < (6, 3) {
        return skip("this kernel maps no ids of a tmpfs");
    }
    let lab = Lab::beneath(Path::new("/dev/shm"));
    lab.settle();
    for _ in 0..2 {
        lab.launch("auto", &["true"])
            .holds("hashed", "none: tree image: its file system");
    }
}

/// Returns the version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|word| word.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn rewrite(memo: &Path, text: &str) {
    fs::remove_file(memo).unwrap();
    fs::write(memo, text).unwrap();
}

#[test]
fn a_memo_of_another_boot_is_ignored() {
    if !can_launch() {
        return;
    }
    let lab = Lab::new();
    lab.make_known();
    let memo = fs::read_to_string(lab.memo()).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let other = memo.replace(boot.trim(), "00000000-0000-0000-0000-000000000000");
    assert_ne!(memo, other);
    rewrite(&lab.memo(), &other);
    lab.launch("auto", &["true"]).holds("hashed", "made");
    lab.launch("auto", &["true"]).holds("known", "fits");
    assert_eq!(fs::read_to_string(lab.memo()).unwrap(), memo);
}

/// This also covers a memo of a file whose inode number another file has now.
#[test]
fn a_memo_of_an_older_ctime_is_ignored() {
    if !can_launch() {
        return;
    }
    let lab = Lab::new();
    lab.make_known();
    let layer = lab.object(&lab.image().layer);
    fs::set_permissions(&layer, Permissions::from_mode(0o400)).unwrap();
    lab.launch("auto", &["true"]).holds("hashed", "none");
}

#[test]
fn a_truncated_memo_is_ignored() {
    if !can_launch() {
        return;
    }
    let lab = Lab::new();
    lab.make_known();
    let (path, memo) = (lab.memo(), fs::read_to_string(lab.memo()).unwrap());
    for length in [0, 1, memo.len() / 2, memo.len() - 1] {
        rewrite(&path, &memo[..length]);
        lab.launch("auto", &["true"]).holds("hashed", "made");
    }
}

/// Only the digest in the last line may differ: such a memo stands for another tree image of the same files,
/// which only a user who may write memos can create.
#[test]
fn a_memo_with_a_changed_digit_is_ignored() {
    if !can_launch() {
        return;
    }
    let lab = Lab::new();
    lab.make_known();
    let (path, memo) = (lab.memo(), fs::read_to_string(lab.memo()).unwrap());
    let count = memo.lines().count();
    for number in 0..count - 1 {
        let mut lines: Vec<_> = memo.lines().map(str::to_owned).collect();
        let digit = lines[number].pop().unwrap();
        lines[number].push(if digit == '0' { '1' } else { '0' });
        rewrite(&path, &(lines.join("\n") + "\n"));
        lab.launch("auto", &["true"]).holds("hashed", "made");
        assert_eq!(fs::read_to_string(&path).unwrap(), memo);
    }
}

#[test]
fn a_directory_of_memos_that_others_can_access_is_refused() {
    if !can_launch() {
        return;
    }
    let lab = Lab::new();
    lab.make_known();
    for directory in ["run/imrun", "run/imrun/verified"] {
        let path = lab.path(directory);
        let refused = || {
            for level in ["auto", "known", "hashed"] {
                lab.launch(level, &["true"])
                    .refused("/run/imrun")
                    .because("policy");
            }
        };
        if geteuid().is_root() {
            chown(&path, Some(1000), None).unwrap();
            refused();
            chown(&path, Some(0), None).unwrap();
        }
        for mode in [0o770, 0o702] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            refused();
        }
        fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
    }
    fs::rename(lab.path("run/imrun/verified"), lab.path("elsewhere")).unwrap();
    symlink(lab.path("elsewhere"), lab.path("run/imrun/verified")).unwrap();
    lab.launch("auto", &["true"])
        .refused("/run/imrun/verified")
        .because("policy");
}
