//! A store with an image of the probe, and calls of imrun.

use crate::skip::missing;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The imrun that was built for this test.
const IMRUN: &str = env!("CARGO_BIN_EXE_imrun");

/// Directory on a disk, because EROFS cannot mount a file of a tmpfs.
pub struct Host {
    directory: tempfile::TempDir,
    probe: String,
}

/// Makes a host for the test. Skips the test with a reason if the machine cannot run it.
macro_rules! host {
    () => {
        match $crate::host::Host::new() {
            Ok(host) => host,
            Err(why) => return $crate::skip::skip(why),
        }
    };
}

/// Returns the probe, which is compiled once; an ordinary user uses the one that root has compiled.
fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("probe");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/probe/main.rs");
        let made = program.metadata().and_then(|status| status.modified());
        if made.is_ok_and(|made| made > last_written(source.parent().unwrap())) {
            return program;
        }
        let mut rustc = Command::new(option_env!("RUSTC").unwrap_or("rustc"));
        rustc.args([
            "--edition",
            "2024",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "strip=symbols",
        ]);
        let status = rustc.arg("-o").arg(&program).arg(source).status().unwrap();
        assert!(status.success(), "the probe does not compile");
        program
    })
}

/// Returns the time of the last write to a file below a directory.
fn last_written(directory: &Path) -> SystemTime {
    let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
    let written = entries.map(|entry| {
        if entry.file_type().unwrap().is_dir() {
            last_written(&entry.path())
        } else {
            entry.metadata().unwrap().modified().unwrap()
        }
    });
    written.max().unwrap()
}

impl Host {
    /// Makes a host, or returns the reason why it cannot.
    pub fn new() -> Result<Host, &'static str> {
        if let Some(why) = missing() {
            return Err(why);
        }
        let directory = tempfile::Builder::new()
            .prefix("imrun-test-")
            .tempdir_in("/var/tmp")
            .unwrap();
        let mut host = Host {
            directory,
            probe: String::new(),
        };
        host.probe = host.bake(|_| {}, "");
        Ok(host)
    }

    /// Returns a path in the host's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Bakes an image of the probe and of the files that `fill` adds; `more` is appended to the definition. Returns
    /// its digest.
    pub fn bake(&self, fill: impl Fn(&Path), more: &str) -> String {
        let output = self.try_bake(fill, more);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Bakes an image as [`Host::bake`] does, but returns the output: the bake may be refused.
    pub fn try_bake(&self, fill: impl Fn(&Path), more: &str) -> Output {
        let definition = tempfile::tempdir_in(self.directory.path()).unwrap();
        let top = definition.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::fs::copy(probe(), top.join("probe")).unwrap();
        fill(&top);
        let file = definition.path().join("image.toml");
        let text = format!(
            "entrypoint = [\"/probe\"]\n{more}\n[[file]]\nsource = \"top\"\npath = \"/\"\n"
        );
        std::fs::write(&file, text).unwrap();
        self.imrun([OsStr::new("bake"), file.as_os_str()])
            .output()
            .unwrap()
    }

    /// Returns a command of imrun on this host.
    pub fn imrun<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(IMRUN);
        command
            .arg("--store")
            .arg(self.path("store"))
            .arg("--root")
            .arg(self.path("root"));
        command
            .args(arguments)
            .env("IMRUN_SINK", "stdio:")
            .env("IMRUN_FINGERPRINT_KEY", "key");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Returns a launch of the probe with options and attempts.
    pub fn launch(&self, options: &[&str], attempts: &[&str]) -> Command {
        self.launch_of(&self.probe, options, attempts)
    }

    /// Returns a launch of another image.
    pub fn launch_of(&self, image: &str, options: &[&str], attempts: &[&str]) -> Command {
        self.imrun([&["run"], options, &[image], attempts].concat())
    }

    /// Launches the probe, and checks the result of each attempt.
    #[track_caller]
    pub fn expect(&self, options: &[&str], expected: &[(&str, &str)]) {
        self.expect_of(&self.probe, options, expected);
    }

    /// Launches another image, and checks the result of each attempt.
    #[track_caller]
    pub fn expect_of(&self, image: &str, options: &[&str], expected: &[(&str, &str)]) {
        let attempts: Vec<_> = expected.iter().map(|(attempt, _)| *attempt).collect();
        let output = self.launch_of(image, options, &attempts).output().unwrap();
        let lines = expected
            .iter()
            .map(|(attempt, answer)| format!("{attempt}: {answer}\n"));
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            lines.collect::<String>(),
            "{output:?}"
        );
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

/// Checks that nothing ran, with this exit code and an error that contains the text.
#[track_caller]
pub fn assert_refused(output: &Output, code: i32, text: &str) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert_eq!(output.stdout, b"", "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        error.starts_with("imrun: ") && error.contains(text),
        "{text:?} is not in {error:?}"
    );
}
