//! The action `start`: finds the shim of a pod, or starts it.

use super::flags::Flags;
use crate::base::digest::Digest;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::json::{self, Node};
use crate::oci::container::MAX_CONFIG;
use nix::sys::stat::{Mode, umask};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Directory of all shims' sockets (containerd, pkg/shim, socketRoot).
const SOCKETS: &str = "/run/containerd/s";
/// Annotation with the pod's ID, which its containers share.
const SANDBOX: &str = "io.kubernetes.cri.sandbox-id";
/// File in the bundle with the shim's address. containerd reads it after a restart.
const ADDRESS: &str = "address";

/// Starts the pod's shim, unless it runs, and prints its address.
pub fn start(flags: &Flags) -> Result<()> {
    // The working directory is the bundle.
    let group = sandbox(Path::new("config.json"))?.unwrap_or_else(|| flags.id.clone());
    let socket = socket_of(flags, &group);
    umask(Mode::from_bits_truncate(0o077));
    std::fs::create_dir_all(SOCKETS).context(|| format!("mkdir({SOCKETS:?})"))?;
    if let Some(listener) = bind(&socket)?
        && let Err(error) = spawn_shim(flags, &socket, listener)
    {
        return remove(&socket).and(Err(error));
    }
    let address = format!("unix://{}", socket.display());
    files::replace(Path::new(ADDRESS), address.as_bytes(), files::PRIVATE)?;
    std::io::stdout()
        .write_all(address.as_bytes())
        .context(|| "write(standard output)")
}

/// Returns the pod's ID from a bundle, if it has one.
fn sandbox(config: &Path) -> Result<Option<String>> {
    let bytes = files::read(config, MAX_CONFIG)?;
    let document = json::parse("config.json", &bytes)?;
    let annotations = Node::root("config.json", &document).get("annotations")?;
    Ok(annotations
        .map(|node| node.text_map())
        .transpose()?
        .and_then(|mut annotations| annotations.remove(SANDBOX)))
}

/// Returns the socket of a pod's shim. Its name is a hash, because paths of sockets must be short.
fn socket_of(flags: &Flags, group: &str) -> PathBuf {
    let Flags {
        address, namespace, ..
    } = flags;
    let name = format!("imrun\0{address}\0{namespace}\0{group}");
    Path::new(SOCKETS).join(Digest::sha256(name.as_bytes()).hex())
}

/// Binds the socket; `None` if another shim serves it.
fn bind(socket: &Path) -> Result<Option<UnixListener>> {
    match UnixListener::bind(socket) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {}
        bound => return bound.map(Some).context(|| format!("bind({socket:?})")),
    }
    if serves(socket) {
        return Ok(None);
    }
    remove(socket)?;
    let bound = UnixListener::bind(socket);
    bound.map(Some).context(|| format!("bind({socket:?})"))
}

fn serves(socket: &Path) -> bool {
    UnixStream::connect(socket).is_ok()
}

/// Removes a socket, if it exists.
pub fn remove(socket: &Path) -> Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context(|| format!("unlink({socket:?})"))
        }
        _ => Ok(()),
    }
}

/// Removes the socket that a bundle names, if no shim serves it.
pub fn remove_stale(bundle: &Path) -> Result<()> {
    let file = bundle.join(ADDRESS);
    let address = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        address => address.context(|| format!("read({file:?})"))?,
    };
    match address.trim().strip_prefix("unix://").map(Path::new) {
        Some(socket) if socket.starts_with(SOCKETS) && !serves(socket) => remove(socket),
        _ => Ok(()),
    }
}

/// Starts the shim, with the listening socket as its standard input.
fn spawn_shim(flags: &Flags, socket: &Path, listener: UnixListener) -> Result<()> {
    let mut shim = Command::new("/proc/self/exe");
    shim.arg0("containerd-shim-imrun-v1")
        .args(["-namespace", &flags.namespace, "-id", &flags.id])
        .args(["-address", &flags.address, "-socket"])
        .arg(socket)
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(log()?)
        .current_dir("/")
        .process_group(0);
    shim.spawn()
        .map(drop)
        .context(|| "execve(\"/proc/self/exe\")")
}

/// Opens the bundle's fifo from which containerd reads the shim's log; /dev/null without a reader.
fn log() -> Result<Stdio> {
    let open = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("log");
    match open {
        Ok(fifo) if is_fifo(&fifo)? => Ok(fifo.into()),
        _ => Ok(Stdio::null()),
    }
}

fn is_fifo(file: &File) -> Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    let metadata = file.metadata().context(|| "fstat(\"log\")")?;
    Ok(metadata.file_type().is_fifo())
}

/// Returns the listening socket that the shim got as its standard input.
pub fn listener() -> Result<OwnedFd> {
    let listener =
        crate::base::sys::process::inherited(0).context(|| "fcntl(0, F_DUPFD_CLOEXEC)")?;
    let status = nix::sys::stat::fstat(&listener).context(|| "fstat(0)")?;
    if status.st_mode & libc::S_IFMT != libc::S_IFSOCK {
        return Err(Error::usage("standard input", "is not a socket")
            .hint("containerd starts this program: docs/containerd.md"));
    }
    let null = File::open("/dev/null").context(|| "open(\"/dev/null\")")?;
    nix::unistd::dup2_stdin(null).context(|| "dup2(/dev/null, 0)")?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_one_pod_have_one_socket() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        let sandbox_of = |text: &str| {
            std::fs::write(&config, text).unwrap();
            sandbox(&config)
        };
        let annotated = r#"{"annotations": {"io.kubernetes.cri.sandbox-id": "pod", "a": "b"}}"#;
        assert_eq!(sandbox_of(annotated).unwrap().as_deref(), Some("pod"));
        assert_eq!(sandbox_of("{}").unwrap(), None);
        assert!(sandbox_of("{").is_err());

        let words = ["-namespace", "a", "-id", "one"].map(Into::into);
        let flags = Flags::parse(&words).unwrap();
        let (one, other) = (socket_of(&flags, "pod"), socket_of(&flags, "other"));
        assert_ne!(one, other);
        assert!(one.as_os_str().len() < 108, "{one:?}");
    }

    #[test]
    fn an_unserved_socket_is_replaced_and_a_served_one_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("socket");
        let listener = bind(&socket).unwrap().unwrap();
        assert!(bind(&socket).unwrap().is_none());
        drop(listener);
        assert!(bind(&socket).unwrap().is_some());
    }
}
