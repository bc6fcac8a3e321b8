//! Changes of unpacked files that are hidden, or that happen between their comparison and the mount.

use super::lab::{IMRUN, Lab, can_launch, without_unpacked};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

fn is_over() -> bool {
    without_unpacked() || !can_launch()
}

/// Copies everything except the inode numbers.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(copied.unwrap().success());
}

/// Changes the file or directory at a path, without regard to names, attributes and times.
fn change(path: &Path) {
    if fs::symlink_metadata(path).unwrap().is_dir() {
        fs::write(path.join("more"), "more").unwrap()
    } else {
        fs::remove_file(path).unwrap();
        fs::write(path, "changed").unwrap();
    }
}

/// A mount over a file is not part of the container's root: the container sees the file beneath.
#[test]
fn a_mount_over_an_unpacked_file_does_not_hide_its_change() {
    if is_over() {
        return;
    }
    for path in [
        "root",
        "empty",
        "root/etc",
        "root/data",
        "root/bin",
        "root/dev/null",
    ] {
        let lab = Lab::new();
        let (target, good) = (lab.unpacked().join(path), lab.path("good"));
        copy(&target, &good);
        let script = format!("mount --bind '{}' '{}'", good.display(), target.display());
        change(&target);
        for level in ["auto", "known", "hashed"] {
            let outcome = lab.launch_after(&script, level, &["true"]);
            assert_eq!(outcome.code, 125, "{path}, {level}: {outcome:?}");
            outcome.refused("unpacked").because("digest");
        }
    }
}

/// Numbers of poll(2) and ppoll(2).
#[cfg(target_arch = "x86_64")]
const POLLS: [i64; 2] = [libc::SYS_poll, libc::SYS_ppoll];
#[cfg(not(target_arch = "x86_64"))]
const POLLS: [i64; 1] = [libc::SYS_ppoll];

/// A launch that blocks after comparing its files, because nothing reads its event.
struct Stopped {
    pipe: File,
    child: std::process::Child,
}

impl Stopped {
    fn new(lab: &Lab) -> Stopped {
        let path = lab.path("full");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut options = OpenOptions::new();
        let options = options
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK);
        let mut pipe = options.open(&path).unwrap();
        while pipe.write(&[b'\n'; 4096]).is_ok() {}
        while pipe.write(b"\n").is_ok() {}
        let script = format!("exec 3>'{}'", path.display());
        let mut command = lab.telling(&script, "auto");
        command.arg(&lab.image().manifest).args(["echo", "ran"]);
        let pipes = std::process::Stdio::piped;
        let child = command.stdout(pipes()).stderr(pipes()).spawn().unwrap();
        let stopped = Stopped { pipe, child };
        stopped.wait_until_it_tells(&path);
        stopped
    }

    /// Waits until the process has the pipe and waits for room in it (proc_pid_syscall(5)).
    fn wait_until_it_tells(&self, pipe: &Path) {
        let process = Path::new("/proc").join(self.child.id().to_string());
        for _ in 0..1000 {
            let program = fs::read_link(process.join("exe")).unwrap();
            let call = fs::read_to_string(process.join("syscall")).unwrap();
            let number = call.split(' ').next().and_then(|word| word.parse().ok());
            let waits = number.is_some_and(|number: i64| POLLS.contains(&number));
            let has_pipe = fs::read_link(process.join("fd/3")).is_ok_and(|to| to == pipe);
            if program == Path::new(IMRUN) && waits && has_pipe {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("the launch does not report the verified image");
    }

    /// Continues the launch to its end. Returns exit status, output and error.
    fn goes_on(mut self) -> (Option<i32>, String, String) {
        let mut bytes = [0; 4096];
        while self.pipe.read(&mut bytes).is_ok() {}
        let output = self.child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }
}

#[test]
fn a_directory_that_is_replaced_between_comparison_and_mount_is_refused() {
    if is_over() {
        return;
    }
    let lab = Lab::new();
    let (code, out, err) = Stopped::new(&lab).goes_on();
    assert_eq!((code, &*out), (Some(0), "ran\n"), "{err}");
    for name in ["", "root", "empty"] {
        let lab = Lab::new();
        let path = lab.unpacked().join(name);
        copy(&path, &lab.path("copy"));
        let stopped = Stopped::new(&lab);
        fs::rename(&path, lab.path("compared")).unwrap();
        fs::rename(lab.path("copy"), &path).unwrap();
        let (code, out, err) = stopped.goes_on();
        assert_eq!((code, &*out), (Some(125), ""), "{name}: {err}");
        assert!(err.contains("was replaced after it was compared"), "{err}");
    }
}
