//! A file that changes while it is hashed or compared gets no memo. strace stops imrun when it first
//! reads the file.

use super::lab::{Lab, Outcome, can_launch};
use super::skip::{is_unpacked, skip, without_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

fn is_over() -> bool {
    if !can_launch() || without_root("strace needs root") {
        return true;
    }
    let mut strace = Command::new("strace");
    let missing = strace.arg("-V").stdout(Stdio::null()).status().is_err();
    if missing {
        skip("strace is not installed");
    }
    missing
}

/// Returns a file that the launch hashes or compares.
fn subject(lab: &Lab) -> PathBuf {
    if is_unpacked() {
        lab.object("/data")
    } else {
        lab.object(&lab.image().layer)
    }
}

/// A launch that is stopped while it reads the file.
struct Stopped<'a> {
    lab: &'a Lab,
    child: Child,
}

impl<'a> Stopped<'a> {
    fn new(lab: &'a Lab) -> Stopped<'a> {
        let path = subject(lab);
        // With -D, the tracer is not imrun's parent.
        let trace = format!(
            "script=$1 && shift && set -- \"$script\" strace -D -f -qq -o '{}' -P '{}' \
             -e trace=read,pread64 -e inject=read,pread64:signal=SIGSTOP:when=1 \"$@\"",
            lab.path("trace").display(),
            path.display()
        );
        fs::write(lab.path("status"), "").unwrap();
        let child = lab.command(&trace, "auto", &["true"]).spawn().unwrap();
        let stopped = Stopped { lab, child };
        let is_stopped = || {
            let status = fs::read_to_string(format!("/proc/{}/status", stopped.child.id()));
            status
                .unwrap()
                .lines()
                .any(|line| line == "State:\tT (stopped)" || line == "State:\tt (tracing stop)")
        };
        let was_read = || {
            fs::read_to_string(lab.path("trace"))
                .is_ok_and(|text| text.contains("stopped by SIGSTOP"))
        };
        for _ in 0..6000 {
            if was_read() && is_stopped() {
                return stopped;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("it never reads {path:?}");
    }

    /// Continues the launch to its end.
    fn goes_on(self) -> Outcome {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGCONT).unwrap();
        self.lab.outcome(self.child.wait_with_output().unwrap())
    }
}

#[test]
fn a_file_that_does_not_change_while_it_is_hashed_gets_a_memo() {
    if is_over() {
        return;
    }
    let lab = Lab::new();
    lab.settle();
    Stopped::new(&lab).goes_on().holds("hashed", "made");
    lab.launch("auto", &["true"]).holds("known", "fits");
}

/// The lease detects the writer, even if the inode's times do not change.
#[test]
fn a_file_that_is_opened_for_writing_while_it_is_hashed_gets_no_memo() {
    if is_over() {
        return;
    }
    let lab = Lab::new();
    lab.settle();
    let stopped = Stopped::new(&lab);
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(libc::O_NONBLOCK);
    let opened = options.open(subject(&lab));
    assert_eq!(
        opened.unwrap_err().raw_os_error(),
        Some(libc::EWOULDBLOCK),
        "imrun has no lease"
    );
    stopped
        .goes_on()
        .holds("hashed", "none: a file was opened for writing");
    assert!(memos(&lab).is_empty());
}

/// The inode's times show changes that leases do not cover.
#[test]
fn a_file_that_is_changed_while_it_is_hashed_gets_no_memo() {
    if is_over() {
        return;
    }
    let lab = Lab::new();
    lab.settle();
    let stopped = Stopped::new(&lab);
    touch(&subject(&lab));
    stopped.goes_on().holds("hashed", "none: a file was ");
    assert!(memos(&lab).is_empty());
}

/// Changes only the ctime.
fn touch(path: &Path) {
    let before = fs::metadata(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(before.mode())).unwrap();
    let ctime = |status: &fs::Metadata| (status.ctime(), status.ctime_nsec());
    assert_ne!(ctime(&fs::metadata(path).unwrap()), ctime(&before));
}

fn memos(lab: &Lab) -> Vec<PathBuf> {
    let list = fs::read_dir(lab.path("run/imrun/verified"))
        .into_iter()
        .flatten();
    list.map(|entry| entry.unwrap().path()).collect()
}
