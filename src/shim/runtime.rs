//! Calls of imrun's own commands by the shim.

use super::flags::Flags;
use super::pod::Pod;
use super::stdin::Stdin;
use super::{IMAGE, IMRUN, events, socket};
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::oci::container;
use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{Message, MessageField};
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

/// Parent of the runtime state directories, one for each namespace of containerd.
const STATE_ROOT: &str = "/run/imrun-shim";
/// Log file of the commands, in the bundle.
const LOG_FILE: &str = "imrun.log";
const PID_FILE: &str = "init.pid";

/// Locations from the shim's arguments.
pub struct Runtime {
    /// Runtime state of this namespace.
    pub root: PathBuf,
    namespace: String,
    address: String,
}

/// Standard streams of the app: paths of containerd's fifos, or empty.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    /// Standard input.
    pub stdin: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Runtime {
    /// Returns the runtime for containerd's namespace in the arguments.
    pub fn new(flags: &Flags) -> Runtime {
        Runtime {
            root: root(&flags.namespace),
            namespace: flags.namespace.clone(),
            address: flags.address.clone(),
        }
    }

    /// Imports the image of a container into imrun's store. Returns its digest.
    pub fn image(&self, pod: &Pod, id: &str) -> Result<Digest> {
        let mut command = own_program();
        command
            .args([IMAGE, "-namespace", &self.namespace])
            .args(["-address", &self.address, "-id", id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (code, out, err) = pod.run(&mut command)?;
        match code {
            0 => out.trim().parse(),
            _ => Err(reported_error(&format!("image of {id}"), &err)),
        }
    }

    /// Creates a container. Returns the process id of its app, and its standard input.
    pub fn create(
        &self,
        pod: &Pod,
        id: &str,
        bundle: &Path,
        image: &Digest,
        streams: &Streams,
    ) -> Result<(i32, Option<Stdin>)> {
        let (log, pid) = (bundle.join(LOG_FILE), bundle.join(PID_FILE));
        let (stdin, reader) = Stdin::new(&streams.stdin)?.unzip();
        let mut command = imrun(&self.root, &log);
        command
            .args(["create", "--image", &image.to_string(), "--bundle"])
            .arg(bundle)
            .arg("--pid-file")
            .arg(&pid)
            .arg(id)
            .stdin(reader.map_or_else(Stdio::null, Stdio::from))
            .stdout(output(&streams.stdout)?)
            .stderr(output(&streams.stderr)?);
        let (code, ..) = pod.run(&mut command)?;
        if code != 0 {
            return Err(last_error(&log).unwrap_or_else(|| ended("create", id, code)));
        }
        let text = std::fs::read_to_string(&pid).context(|| format!("read({pid:?})"))?;
        let pid = text
            .trim()
            .parse()
            .map_err(|error| Error::system(format_args!("{pid:?}"), error))?;
        Ok((pid, stdin))
    }

    /// Deletes a container, which runs its `poststop` hooks.
    pub fn delete(&self, pod: &Pod, id: &str, bundle: &Path) -> Result<()> {
        let log = bundle.join(LOG_FILE);
        match pod.run(&mut delete(&self.root, &log, id))? {
            (0, ..) => Ok(()),
            (code, ..) => Err(last_error(&log).unwrap_or_else(|| ended("delete", id, code))),
        }
    }
}

fn root(namespace: &str) -> PathBuf {
    Path::new(STATE_ROOT).join(namespace)
}

fn own_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("imrun");
    command
}

fn imrun(root: &Path, log: &Path) -> Command {
    let mut command = own_program();
    command.arg(IMRUN).arg("--root").arg(root);
    command.arg("--log").arg(log);
    command.args(["--log-format", "json"]);
    command
}

fn delete(root: &Path, log: &Path, id: &str) -> Command {
    let mut command = imrun(root, log);
    command.args(["delete", "--force", id]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    command
}

/// Returns the last error in a log file of the commands.
fn last_error(log: &Path) -> Option<Error> {
    let text = std::fs::read_to_string(log).ok()?;
    let line: Value = serde_json::from_str(text.lines().last()?).ok()?;
    let (what, why) = line["msg"].as_str()?.split_once(": ")?;
    Some(Error::system(what, why))
}

/// Parses the error that a command printed to standard error.
fn reported_error(what: &str, text: &str) -> Error {
    let line = |start| text.lines().find_map(|line| line.strip_prefix(start));
    let error = match line("imrun: ").and_then(|line| line.split_once(": ")) {
        Some((what, why)) => Error::system(what, why),
        None => Error::system(what, "ended without an error message"),
    };
    match line("hint: ") {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn ended(command: &str, id: &str, code: u32) -> Error {
    Error::system(
        format_args!("imrun {command} {id}"),
        format_args!("ended with {code}"),
    )
}

/// Cleans up after a shim that was killed, and prints the exit of its container.
pub fn clean_up(flags: &Flags) -> Result<()> {
    let bundle = if flags.bundle.as_os_str().is_empty() {
        std::env::current_dir().context(|| "getcwd()")?
    } else {
        flags.bundle.clone()
    };
    container::delete(&root(&flags.namespace), &flags.id, true)?;
    socket::remove_stale(&bundle)?;
    let pid = std::fs::read_to_string(bundle.join(PID_FILE)).unwrap_or_default();
    let response = DeleteResponse {
        // A container that was never created has no process id.
        pid: pid.trim().parse().unwrap_or(0),
        exit_status: 128 + libc::SIGKILL as u32,
        exited_at: MessageField::some(events::timestamp(SystemTime::now())),
        ..DeleteResponse::default()
    };
    response
        .write_to_writer(&mut std::io::stdout())
        .map_err(|error| Error::system("write(standard output)", error))
}

/// Returns the destination of the app's output under the sink `stdio:`. Under any other sink its reader sees the
/// end of file at once, and nothing is stored.
fn output(path: &str) -> Result<Stdio> {
    let shown = std::env::var("IMRUN_SINK").is_ok_and(|sinks| sinks.contains("stdio:"));
    if path.is_empty() {
        return Ok(Stdio::null());
    }
    if let Some(logger) = logger(path) {
        return refuse_logger(logger, shown).map(|()| Stdio::null());
    }
    let both = fifo(path)?;
    let writer = OpenOptions::new().write(true).open(path);
    let writer = writer.context(|| format!("open({path:?})"))?;
    drop(both);
    Ok(if shown { writer.into() } else { Stdio::null() })
}

/// Returns the logger that a client asks for (containerd's log URIs: `binary://`, `file://`), without its
/// parameters, which may be secret.
fn logger(path: &str) -> Option<&str> {
    let uri = path.split('?').next().unwrap_or_default();
    uri.contains("://").then_some(uri)
}

/// Refuses a logger under the sink `stdio:`, where output would be lost. Under another sink, it warns: output goes
/// to the sink, and the logger gets nothing.
fn refuse_logger(logger: &str, shown: bool) -> Result<()> {
    let why =
        "a container's output goes to the sink: imrun starts no logger and writes no log file";
    if shown {
        let error = Error::policy(format_args!("logger {logger:?}"), why);
        return Err(error.hint("leave the log URI out (nerdctl: do not detach), or set IMRUN_SINK"));
    }
    log::warn!("logger {logger:?}: {why}");
    Ok(())
}

/// Opens a fifo for reading and writing, which never blocks.
pub(super) fn fifo(path: &str) -> Result<File> {
    use std::os::unix::fs::FileTypeExt;
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let open = open.context(|| format!("open({path:?})"))?;
    let kind = open.metadata().context(|| format!("fstat({path:?})"))?;
    if kind.file_type().is_fifo() {
        Ok(open)
    } else {
        Err(
            Error::policy(format_args!("{path:?}"), "is not a fifo of containerd")
                .hint("output goes to the sink, never to a file"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logger_is_refused_by_name_under_stdio_and_its_parameters_are_not_shown() {
        for uri in [
            "binary:///usr/bin/logger?key=secret",
            "file:///var/log/app.log",
        ] {
            let name = logger(uri).unwrap();
            let error = refuse_logger(name, true).unwrap_err();
            assert_eq!(error.reason, crate::base::error::Reason::Policy);
            assert!(
                error.what.contains(name) && !error.what.contains("secret"),
                "{error}"
            );
            refuse_logger(name, false).unwrap();
        }
        assert_eq!(logger("/run/containerd/fifo/1/app-stdout"), None);
        assert_eq!(logger(""), None);
    }
}
