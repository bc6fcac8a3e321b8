//! One launch: how it is typed, what it says while it runs, how it ends.

use super::host::{Host, IMRUN};
use super::outcome::Outcome;
use super::server::PATIENCE;
use imrun::base::sys::process::pidfd_open;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

/// A launch that is being typed: `imrun run OPTIONS IMAGE APP`.
pub struct Launch<'a> {
    host: &'a Host,
    image: String,
    sink: Option<String>,
    options: Vec<OsString>,
    app: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    redirections: String,
    interactive: bool,
    status: PathBuf,
}

impl<'a> Launch<'a> {
    /// A launch whose output is shown here; `status` is the file that gets its status events.
    pub fn new(host: &'a Host, image: &str, status: PathBuf) -> Launch<'a> {
        Launch {
            host,
            image: image.to_owned(),
            sink: Some("stdio:".into()),
            options: Vec::new(),
            app: Vec::new(),
            environment: vec![("IMRUN_FINGERPRINT_KEY".into(), "key".into())],
            redirections: String::new(),
            interactive: false,
            status,
        }
    }

    /// Another sink.
    pub fn sink(mut self, url: impl ToString) -> Self {
        self.sink = Some(url.to_string());
        self
    }

    /// No sink at all.
    pub fn without_sink(mut self) -> Self {
        self.sink = None;
        self
    }

    /// Options in front of the image.
    pub fn options<S: AsRef<OsStr>>(mut self, options: impl IntoIterator<Item = S>) -> Self {
        self.options
            .extend(options.into_iter().map(|option| option.as_ref().to_owned()));
        self
    }

    /// The words behind the image.
    pub fn app<S: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.app = words
            .into_iter()
            .map(|word| word.as_ref().to_owned())
            .collect();
        self
    }

    /// A shell that runs `text`.
    pub fn script(self, text: &str) -> Self {
        self.app(["sh", "-c", text])
    }

    /// A variable of imrun's own environment.
    pub fn environment(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment
            .push((name.into(), value.as_ref().to_owned()));
        self
    }

    /// Descriptors of imrun's own, as a shell opens them.
    pub fn redirections(mut self, text: &str) -> Self {
        self.redirections = text.to_owned();
        self
    }

    /// `-i`, with a pipe that the test writes to.
    pub fn interactive(mut self) -> Self {
        self.interactive = true;
        self.options(["-i"])
    }

    /// Runs it to its end.
    pub fn run(self) -> Outcome {
        self.spawn().wait()
    }

    /// Starts it.
    pub fn spawn(self) -> Running<'a> {
        // A shell opens the descriptors and becomes imrun: the process id stays.
        let script = format!("exec \"$@\" 3>>\"$0\" {}", self.redirections);
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).arg(&self.status).arg(IMRUN);
        command
            .arg("--store")
            .arg(self.host.path("store"))
            .arg("--root")
            .arg(self.host.path("root"));
        command.args(["run", "--status-fd", "3"]);
        command.args(self.sink.iter().flat_map(|url| ["--sink", url]));
        command.args(&self.options).arg(&self.image).args(&self.app);
        command.env_remove("IMRUN_SINK").envs(self.environment);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if self.interactive {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let mut child = command.spawn().unwrap();
        kill_when_late(&child);
        let out = BufReader::new(child.stdout.take().unwrap());
        let (command, status) = (format!("{command:?}"), self.status);
        Running {
            _host: self.host,
            command,
            child,
            out,
            status,
        }
    }
}

/// A test that fails is better than one that hangs.
fn kill_when_late(child: &Child) {
    let pid = child.id() as i32;
    let pidfd = pidfd_open(pid).unwrap();
    std::thread::spawn(move || {
        let mut set = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(PATIENCE).unwrap();
        if poll(&mut set, patience) == Ok(0) {
            kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        }
    });
}

/// An imrun that was started.
pub struct Running<'a> {
    _host: &'a Host,
    command: String,
    child: Child,
    out: BufReader<ChildStdout>,
    status: PathBuf,
}

impl Running<'_> {
    /// imrun's process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Waits for a line on standard output.
    pub fn expect_line(&mut self, text: &str) {
        let mut line = String::new();
        while line.trim_end() != text {
            line.clear();
            if self.out.read_line(&mut line).unwrap() == 0 {
                let mut err = String::new();
                self.child
                    .stderr
                    .take()
                    .unwrap()
                    .read_to_string(&mut err)
                    .unwrap();
                panic!("ended without {text:?}: {} {err}", self.command);
            }
        }
    }

    /// Reads standard output to its end.
    pub fn read_to_end(&mut self, text: &mut String) {
        self.out.read_to_string(text).unwrap();
    }

    /// Waits for the status event of that name.
    pub fn event(&mut self, name: &str) -> Value {
        loop {
            let ended = self.child.try_wait().unwrap().is_some();
            let found = events(&self.status)
                .into_iter()
                .find(|event| event["event"] == name);
            if let Some(event) = found {
                return event;
            }
            assert!(!ended, "ended without {name}: {}", self.command);
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Writes to the standard input of an interactive launch.
    pub fn say(&mut self, text: &str) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Sends a signal to imrun.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Closes its standard input and waits for its end.
    pub fn wait(mut self) -> Outcome {
        drop(self.child.stdin.take());
        let mut err = self.child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            err.read_to_end(&mut bytes).unwrap();
            bytes
        });
        let mut stdout = Vec::new();
        self.out.read_to_end(&mut stdout).unwrap();
        let (stderr, status) = (errors.join().unwrap(), self.child.wait().unwrap());
        let output = Output {
            status,
            stdout,
            stderr,
        };
        Outcome::new(
            std::mem::take(&mut self.command),
            output,
            events(&self.status),
        )
    }
}

impl Drop for Running<'_> {
    /// Ends what a failed test has left running.
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// The events in the file; a last line that is only half there is not one yet.
pub fn events(status: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
