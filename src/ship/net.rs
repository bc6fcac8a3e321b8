//! One connection over TCP, plain or with TLS, that never waits longer than it was told to.

#[cfg(not(feature = "tls"))]
#[path = "net/no_session.rs"]
mod session;
#[cfg(feature = "tls")]
mod session;

use super::sink::{Failure, FailureKind};
use crate::error::{Result as Checked, reason_of};
use crate::sys::socket::unacknowledged;
use crate::tls::Settings;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use session::{Session, Terms};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::linux::net::TcpStreamExt;
use std::time::{Duration, Instant};

/// Who is connected to, and how.
#[derive(Clone)]
pub struct Peer {
    /// `HOST:PORT`.
    pub address: String,
    /// With TLS where there is this.
    tls: Option<Tls>,
    /// How long the peer may take: to accept, to shake hands, to take the next byte, to answer.
    pub timeout: Duration,
}

/// Terms of TLS, and the files that they come from.
#[derive(Clone)]
struct Tls {
    settings: Settings,
    host: String,
    terms: Terms,
    /// Whether a connection was made by these terms.
    used: bool,
    /// Fault of the files when they were read last; the earlier terms are kept then.
    fault: Option<String>,
}

impl Tls {
    /// Reads the files again: certificates are replaced while a container runs.
    fn renew(&mut self) {
        if !std::mem::replace(&mut self.used, true) || !self.settings.has_files() {
            return;
        }
        self.fault = match Terms::new(&self.settings, &self.host) {
            Ok(terms) => {
                self.terms = terms;
                None
            }
            Err(error) => Some(error.to_string()),
        };
    }
}

impl Peer {
    /// A peer at `HOST:PORT`, with TLS where there are settings for it.
    pub fn new(address: &str, tls: Option<&Settings>, timeout: Duration) -> Checked<Peer> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let tls = tls.map(|settings| {
            Ok(Tls {
                settings: settings.clone(),
                host: host.to_owned(),
                terms: Terms::new(settings, host)?,
                used: false,
                fault: None,
            })
        });
        Ok(Peer {
            address: address.to_owned(),
            tls: tls.transpose()?,
            timeout,
        })
    }

    /// The connection that was kept; another one where there is none, or where it was closed while
    /// nothing was in flight: then nothing is lost, so that is no failure.
    pub fn connected(&mut self, kept: Option<Connection>) -> Result<Connection, Failure> {
        let Some(mut kept) = kept else {
            return self.connect();
        };
        match kept.closed() {
            Ok(false) => Ok(kept),
            Ok(true) | Err(_) => self.connect(),
        }
    }

    /// Connects, and shakes hands by what the files of certificates say now.
    fn connect(&mut self) -> Result<Connection, Failure> {
        if let Some(tls) = &mut self.tls {
            tls.renew();
        }
        let fault = self.tls.as_ref().and_then(|tls| tls.fault.as_ref());
        self.try_connect().map_err(|mut failure| {
            if let Some(fault) = fault {
                failure.why += &format!("; {fault}");
            }
            failure
        })
    }

    fn try_connect(&self) -> Result<Connection, Failure> {
        let addresses = self.address.to_socket_addrs();
        let addresses = addresses.map_err(|error| of_io(&error))?;
        let mut failure = Failure::new(FailureKind::Refused, "the host has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, self.timeout).and_then(prepared) {
                Ok(socket) => return self.greet(socket),
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    failure = Failure::again("no connection before the timeout");
                }
                Err(error) => failure = of_io(&error),
            }
        }
        Err(failure)
    }

    fn greet(&self, socket: TcpStream) -> Result<Connection, Failure> {
        let mut connection = Connection {
            socket,
            tls: None,
            timeout: self.timeout,
            written: 0,
            is_fresh: true,
            has_spoken: false,
        };
        if let Some(tls) = &self.tls {
            connection.tls = Some(Box::new(Session::new(&tls.terms)?));
            connection.handshake()?;
        }
        Ok(connection)
    }
}

/// Batches are written whole: nothing is gained by waiting for more.
fn prepared(socket: TcpStream) -> std::io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// So many bytes.
    Bytes(usize),
    /// The peer has closed.
    Closed,
    /// Nothing, so far.
    Nothing,
}

/// An open connection. After a failure it is of no use any more.
pub struct Connection {
    socket: TcpStream,
    tls: Option<Box<Session>>,
    timeout: Duration,
    /// Bytes written to the socket.
    written: u64,
    /// Whether nothing was written but the handshake.
    is_fresh: bool,
    /// Whether the peer has sent anything but its part of the handshake.
    has_spoken: bool,
}

impl Connection {
    /// How long the peer may take nothing from now on.
    pub fn wait_for(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Whether nothing was written to it yet.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Whether the peer may yet refuse this side's certificate. In TLS 1.3 its verdict comes after the
    /// handshake: an alert, or a session ticket, or nothing at all.
    pub fn awaits_verdict(&self) -> bool {
        let tls = self.tls.as_ref();
        !self.has_spoken && tls.is_some_and(|tls| tls.awaits_verdict())
    }

    /// The reason that the peer gave before it closed, where there is one; else the failure of this
    /// side's own call.
    pub fn last_words(&mut self, failure: Failure) -> Failure {
        match self.read(&mut [0; 512], Duration::ZERO) {
            Err(alert) if self.tls.is_some() => alert,
            _ => failure,
        }
    }

    /// Writes all of it; the peer may take any time as long as it takes something.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        self.is_fresh = false;
        if self.tls.is_none() {
            return self.send(bytes);
        }
        while !bytes.is_empty() {
            let tls = self.tls.as_mut().expect("looked at above");
            let taken = tls.write(bytes).map_err(|error| of_io(&error))?;
            bytes = &bytes[taken..];
            self.flush()?;
        }
        Ok(())
    }

    /// Writes to the socket.
    fn send(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(written) => {
                    self.written += written as u64;
                    bytes = &bytes[written..];
                }
                Err(error) => self.wait_to_write(&error)?,
            }
        }
        Ok(())
    }

    /// Writes what TLS has ready.
    fn flush(&mut self) -> Result<(), Failure> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            match tls.write_tls(&mut self.socket) {
                Ok(written) => self.written += written as u64,
                Err(error) => self.wait_to_write(&error)?,
            }
        }
        Ok(())
    }

    fn wait_to_write(&self, error: &std::io::Error) -> Result<(), Failure> {
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::WouldBlock if self.ready(PollFlags::POLLOUT, self.timeout)? => Ok(()),
            ErrorKind::WouldBlock => Err(Failure::again("takes no more bytes")),
            _ => Err(of_io(error)),
        }
    }

    /// Bytes that the peer's kernel has acknowledged, of those that were written.
    pub fn acknowledged(&self) -> Result<u64, Failure> {
        let left = unacknowledged(&self.socket)
            .map_err(|errno| Failure::again(format!("ioctl(SIOCOUTQ): {errno}")))?;
        Ok(self.written - (left as u64).min(self.written))
    }

    /// Bytes written so far, those of TLS included.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Reads what there is, or waits for something.
    pub fn read(&mut self, to: &mut [u8], wait: Duration) -> Result<Incoming, Failure> {
        let deadline = Instant::now() + wait;
        loop {
            match self.read_now(to)? {
                Incoming::Nothing => {}
                something => {
                    self.has_spoken |= matches!(something, Incoming::Bytes(_));
                    return Ok(something);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Incoming::Nothing);
            }
            // A peer that sends its answer in two pieces waits for the first one's acknowledgement
            // (Nagle), which the kernel would put off for 40 ms.
            self.socket
                .set_quickack(true)
                .map_err(|error| of_io(&error))?;
            if !self.ready(PollFlags::POLLIN, left)? {
                return Ok(Incoming::Nothing);
            }
        }
    }

    fn read_now(&mut self, to: &mut [u8]) -> Result<Incoming, Failure> {
        if self.tls.is_some() {
            return self.read_tls_now(to);
        }
        loop {
            return match self.socket.read(to) {
                Ok(0) => Ok(Incoming::Closed),
                Ok(read) => Ok(Incoming::Bytes(read)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Incoming::Nothing),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(of_io(&error)),
            };
        }
    }

    fn read_tls_now(&mut self, to: &mut [u8]) -> Result<Incoming, Failure> {
        loop {
            let tls = self.tls.as_mut().expect("the caller has looked");
            match tls.read(to) {
                Ok(0) => return Ok(Incoming::Closed),
                Ok(read) => return Ok(Incoming::Bytes(read)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(of_io(&error)),
            }
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Ok(Incoming::Closed),
                Ok(_) => self.process()?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Incoming::Nothing);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(of_io(&error)),
            }
        }
    }

    /// Whether the peer has closed. What it sends is read and thrown away.
    pub fn closed(&mut self) -> Result<bool, Failure> {
        // A peer that talks without end must not hold anything up: one read only.
        Ok(self.read(&mut [0; 512], Duration::ZERO)? == Incoming::Closed)
    }

    fn handshake(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.flush()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.ready(PollFlags::POLLIN, left)? {
                return Err(Failure::again("no TLS handshake before the timeout"));
            }
            let tls = self.tls.as_mut().expect("looked at above");
            match tls.read_tls(&mut self.socket) {
                Ok(0) => return Err(Failure::again("closed the connection in the TLS handshake")),
                Ok(_) => self.process()?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(of_io(&error)),
            }
        }
        self.flush()
    }

    /// Takes in what was read, and tells the peer what was wrong with it.
    fn process(&mut self) -> Result<(), Failure> {
        let tls = self.tls.as_mut().expect("the caller has looked");
        tls.process(&mut self.socket)
    }

    fn ready(&self, what: PollFlags, wait: Duration) -> Result<bool, Failure> {
        let mut set = [PollFd::new(self.socket.as_fd(), what)];
        // Rounded up, or the last millisecond would be spent spinning.
        let wait = PollTimeout::try_from(wait + Duration::from_micros(999));
        match poll(&mut set, wait.unwrap_or(PollTimeout::MAX)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(Failure::again(format!("poll(): {}", errno.desc()))),
        }
    }
}

/// What an error of a connection means.
pub fn of_io(error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        // Names that cannot be resolved have no kind of their own in the standard library.
        _ if error.to_string().starts_with("failed to lookup address") => FailureKind::Refused,
        ErrorKind::ConnectionRefused
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable => FailureKind::Refused,
        _ => FailureKind::Again,
    };
    Failure::new(kind, reason_of(error))
}

#[cfg(test)]
mod tests;
