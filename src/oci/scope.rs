//! Systemd scopes. If systemd manages the cgroup hierarchy, imrun asks it for the container's cgroup: a cgroup
//! that another program makes inside a slice loses its controllers, and so its limits, as soon as no unit of the
//! slice needs them.
//!
//! ```text
//! SCOPE/imrun        the container's supervisor, with which the scope begins and ends
//! SCOPE/container    the container
//! ```
//! Source: systemd, docs/CGROUP_DELEGATION.md; org.freedesktop.systemd1(5), StartTransientUnit; D-Bus
//! specification, Message Protocol and Authentication Protocol.

use crate::base::error::{Context, Error, Result};
use crate::runtime::cgroup;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Socket on which systemd serves root without a bus.
const SYSTEMD: &str = "/run/systemd/private";
/// Name of the container's cgroup in its scope.
const CONTAINER: &str = "container";
/// Name of the supervisor's cgroup in its scope.
const SUPERVISOR: &str = "imrun";
/// Time limit for systemd.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum length of an answer, in bytes.
const MAX_ANSWER: usize = 1 << 16;

/// A scope unit that systemd creates on request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Name of the slice: `NAME.slice`.
    pub slice: String,
    /// Name of the unit: `NAME.scope`.
    pub unit: String,
}

impl Scope {
    /// Returns the container's cgroup in the scope at `path`, relative to the root of the hierarchy. `None` if
    /// systemd does not run.
    pub fn container_cgroup(path: &Path) -> Option<PathBuf> {
        Path::new(SYSTEMD).exists().then(|| path.join(CONTAINER))
    }

    /// Asks systemd to create the scope with this process in it; `place` is the container's cgroup.
    pub fn enter(&self, place: &Path) -> Result<()> {
        let scope = place.parent().expect("it is within the scope");
        let late = |why| Error::system(format_args!("unit {:?}", self.unit), why);
        // An old scope of the same name may still be ending.
        wait_until(
            || self.start(),
            || late("systemd still has a unit of this name"),
        )?;
        wait_until(
            || is_in(scope),
            || late("systemd did not move imrun into it"),
        )?;
        let own = cgroup::hierarchy()?.join(scope).join(SUPERVISOR);
        std::fs::create_dir(&own).context(|| format!("mkdir({own:?})"))?;
        let processes = own.join("cgroup.procs");
        std::fs::write(&processes, "0").context(|| format!("write({processes:?})"))
    }

    /// Requests the scope. Returns false while systemd has another unit of its name.
    fn start(&self) -> Result<bool> {
        let what = || format!("{SYSTEMD}, StartTransientUnit({:?})", self.unit);
        let mut peer = BufReader::new(connect().context(what)?);
        let message = call("StartTransientUnit", "ssa(sv)a(sa(sv))", &self.request());
        peer.get_mut().write_all(&message).context(what)?;
        match answer(&mut peer).context(what)? {
            Answer::Done => Ok(true),
            Answer::Failed { name, .. } if name.ends_with(".UnitExists") => Ok(false),
            Answer::Failed { text, .. } => Err(Error::system(what(), text)),
        }
    }

    /// Encodes the arguments of `StartTransientUnit`: unit, mode, properties, auxiliary units.
    fn request(&self) -> Vec<u8> {
        let mut body = Buffer::default();
        body.text(&self.unit);
        body.text("fail");
        body.array(8, |list| {
            list.property("Description", "s", |to| to.text("imrun container"));
            list.property("Slice", "s", |to| to.text(&self.slice));
            list.property("Delegate", "b", |to| to.number(1));
            list.property("DefaultDependencies", "b", |to| to.number(0));
            list.property("CollectMode", "s", |to| to.text("inactive-or-failed"));
            list.property("PIDs", "au", |to| {
                to.array(4, |pids| pids.number(std::process::id()));
            });
        });
        body.array(8, |_| {});
        body.0
    }
}

fn wait_until(mut done: impl FnMut() -> Result<bool>, late: impl FnOnce() -> Error) -> Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    while !done()? {
        if Instant::now() > deadline {
            return Err(late());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Returns true if this process is in the cgroup `place` of the version 2 hierarchy.
fn is_in(place: &Path) -> Result<bool> {
    let path = "/proc/self/cgroup";
    let text = std::fs::read_to_string(path).context(|| format!("read({path:?})"))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(own.map(Path::new) == Some(place))
}

/// Connects to systemd and authenticates as user 0.
fn connect() -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(SYSTEMD)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(b"\0AUTH EXTERNAL 30\r\n")?;
    let mut line = Vec::new();
    // One byte at a time, so as not to read past the line.
    while !line.ends_with(b"\r\n") && line.len() < 256 {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    if !line.starts_with(b"OK ") {
        return Err(io::Error::other("systemd did not accept imrun as root"));
    }
    stream.write_all(b"BEGIN\r\n")?;
    Ok(stream)
}

/// Encodes a method call to systemd's manager.
fn call(member: &str, signature: &str, body: &[u8]) -> Vec<u8> {
    let mut message = Buffer(b"l\x01\x00\x01".to_vec()); // little-endian, a call, no flags, version 1
    message.number(body.len() as u32);
    message.number(1); // serial
    message.array(8, |fields| {
        fields.field(1, "o", |to| to.text("/org/freedesktop/systemd1"));
        fields.field(2, "s", |to| to.text("org.freedesktop.systemd1.Manager"));
        fields.field(3, "s", |to| to.text(member));
        fields.field(8, "g", |to| to.signature(signature));
    });
    message.align(8);
    message.0.extend_from_slice(body);
    message.0
}

enum Answer {
    Done,
    Failed { name: String, text: String },
}

/// Reads the answer to the call; skips signals.
fn answer(peer: &mut impl Read) -> io::Result<Answer> {
    let malformed = || io::Error::other("malformed answer");
    loop {
        let mut head = [0; 16];
        peer.read_exact(&mut head)?;
        let number = |at: usize| {
            let bytes = head[at..at + 4].try_into().expect("it has four bytes");
            u32::from_le_bytes(bytes) as usize
        };
        let (body, fields) = (number(4), number(12));
        if head[0] != b'l' || body > MAX_ANSWER || fields > MAX_ANSWER {
            return Err(malformed());
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        peer.read_exact(&mut rest)?;
        let (fields, body) = rest.split_at(fields.next_multiple_of(8));
        match head[1] {
            2 => return Ok(Answer::Done),
            3 => {
                return Ok(Answer::Failed {
                    name: error_name(fields).ok_or_else(malformed)?,
                    text: text_at(body, 0).ok_or_else(malformed)?,
                });
            }
            // A signal.
            _ => {}
        }
    }
}

/// Finds the header field ERROR_NAME: a code, and a variant of a string.
fn error_name(fields: &[u8]) -> Option<String> {
    let field = b"\x04\x01s\0";
    let at = fields
        .chunks(8)
        .position(|chunk| chunk.starts_with(field))?;
    text_at(fields, at * 8 + field.len())
}

fn text_at(bytes: &[u8], at: usize) -> Option<String> {
    let (length, text) = bytes.get(at..)?.split_first_chunk()?;
    let text = text.get(..u32::from_le_bytes(*length) as usize)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// Buffer of D-Bus values, aligned from its start. A header and a body have a buffer each.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl Buffer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u32);
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(signature.len() as u8);
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    /// Appends an array. Its length does not count the padding before the first element.
    fn array(&mut self, alignment: usize, fill: impl FnOnce(&mut Buffer)) {
        self.number(0);
        let length_at = self.0.len() - 4;
        self.align(alignment);
        let start = self.0.len();
        fill(self);
        let length = (self.0.len() - start) as u32;
        self.0[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Appends a property: a name and a variant.
    fn property(&mut self, name: &str, signature: &str, fill: impl FnOnce(&mut Buffer)) {
        self.align(8);
        self.text(name);
        self.signature(signature);
        fill(self);
    }

    /// Appends a header field.
    fn field(&mut self, code: u8, signature: &str, fill: impl FnOnce(&mut Buffer)) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        fill(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_encoded_as_in_the_d_bus_specification() {
        let message = call("Reload", "s", b"\x01\0\0\0a\0");
        let (head, rest) = message.split_at(16);
        // 40, 48 and 16 bytes of fields, and seven of the last one, which is padded to eight.
        assert_eq!(head, b"l\x01\x00\x01\x06\0\0\0\x01\0\0\0\x6f\0\0\0");
        assert!(rest.starts_with(b"\x01\x01o\0\x19\0\0\0/org/freedesktop/systemd1\0"));
        assert!(rest.ends_with(b"\x08\x01g\0\x01s\0\0\x01\0\0\0a\0"));
    }

    #[test]
    fn an_error_of_systemd_is_reported_with_its_text() {
        let mut fields = Buffer::default();
        fields.field(5, "u", |to| to.number(1));
        fields.field(4, "s", |to| to.text("org.freedesktop.systemd1.UnitExists"));
        let mut body = Buffer::default();
        body.text("Unit x.scope was already loaded.");
        let mut message = b"l\x03\x01\x01".to_vec();
        for number in [body.0.len(), 7, fields.0.len()] {
            message.extend((number as u32).to_le_bytes());
        }
        fields.align(8);
        let bytes = [message, fields.0, body.0].concat();
        let Ok(Answer::Failed { name, text }) = answer(&mut &bytes[..]) else {
            panic!("it was taken for a success");
        };
        assert_eq!(name, "org.freedesktop.systemd1.UnitExists");
        assert_eq!(text, "Unit x.scope was already loaded.");
        assert!(answer(&mut &bytes[..20]).is_err());
        assert!(answer(&mut &b"B\x02\0\x01\0\0\0\0\0\0\0\0\0\0\0\0"[..]).is_err());
    }
}
