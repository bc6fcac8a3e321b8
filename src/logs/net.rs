//! A TCP connection, plain or with TLS, whose waits all have a limit.

#[cfg(not(feature = "tls"))]
#[path = "net/no_session.rs"]
mod session;
#[cfg(feature = "tls")]
mod session;

use super::sink::{Failure, FailureKind};
use crate::base::error::{Result as Checked, reason_of};
use crate::base::sys::socket::unacknowledged;
use crate::base::tls::Settings;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use session::{Session, Terms};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::linux::net::TcpStreamExt;
use std::time::{Duration, Instant};

/// A peer and the settings to connect to it.
#[derive(Clone)]
pub struct Peer {
    /// `HOST:PORT`.
    pub address: String,
    /// TLS settings; `None` connects without TLS.
    tls: Option<Tls>,
    /// Maximum time for the peer to accept, to finish the handshake, to take the next byte or to answer.
    pub timeout: Duration,
}

/// Terms of TLS, and the files they come from.
#[derive(Clone)]
struct Tls {
    settings: Settings,
    host: String,
    terms: Terms,
    /// True if a connection was made with these terms.
    used: bool,
    /// Error of the last attempt to read the files; the earlier terms remain in use.
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
    /// Creates a peer at `HOST:PORT`, with TLS if there are settings for it.
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

    /// Returns the kept connection, or a new one if there is none or it was closed while nothing was in
    /// flight: then nothing is lost.
    pub fn connected(&mut self, kept: Option<Connection>) -> Result<Connection, Failure> {
        let Some(mut kept) = kept else {
            return self.connect();
        };
        match kept.closed() {
            Ok(false) => Ok(kept),
            Ok(true) | Err(_) => self.connect(),
        }
    }

    /// Connects with the current certificates and completes the handshake.
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

/// Disables Nagle's algorithm: batches are written whole.
fn prepared(socket: TcpStream) -> std::io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incoming {
    /// This number of bytes.
    Bytes(usize),
    /// The peer has closed the connection.
    Closed,
    /// Nothing yet.
    Nothing,
}

/// An open connection; unusable after a failure.
pub struct Connection {
    socket: TcpStream,
    tls: Option<Box<Session>>,
    timeout: Duration,
    /// Number of bytes written to the socket.
    written: u64,
    /// True if nothing but the handshake was written.
    is_fresh: bool,
    /// True if the peer has sent anything but its part of the handshake.
    has_spoken: bool,
}

impl Connection {
    /// Sets the maximum time for the peer to take bytes.
    pub fn wait_for(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// Returns true if nothing was written yet.
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Returns true if the peer may still refuse this side's certificate. In TLS 1.3 it does so after
    /// the handshake: with an alert, a session ticket, or nothing at all.
    pub fn awaits_verdict(&self) -> bool {
        let tls = self.tls.as_ref();
        !self.has_spoken && tls.is_some_and(|tls| tls.awaits_verdict())
    }

    /// Returns the reason that the peer gave before closing, if any; else the failure of this side's call.
    pub fn with_peers_reason(&mut self, failure: Failure) -> Failure {
        match self.read(&mut [0; 512], Duration::ZERO) {
            Err(alert) if self.tls.is_some() => alert,
            _ => failure,
        }
    }

    /// Writes all bytes; the time limit restarts whenever the peer takes some.
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

    /// Writes the pending bytes of TLS.
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

    /// Returns the number of written bytes that the peer's kernel has acknowledged.
    pub fn acknowledged(&self) -> Result<u64, Failure> {
        let left = unacknowledged(&self.socket)
            .map_err(|errno| Failure::again(format!("ioctl(SIOCOUTQ): {errno}")))?;
        Ok(self.written - (left as u64).min(self.written))
    }

    /// Returns the number of bytes written, including those of TLS.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Reads available bytes, or waits for some.
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
            // A peer that sends its answer in two pieces waits for the first acknowledgement (Nagle),
            // which the kernel would delay by 40 ms.
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

    /// Returns true if the peer has closed. Discards what it sends.
    pub fn closed(&mut self) -> Result<bool, Failure> {
        // Reads only once, because a peer may send without end.
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

    /// Processes received bytes, and sends the peer an alert if they are invalid.
    fn process(&mut self) -> Result<(), Failure> {
        let tls = self.tls.as_mut().expect("the caller has looked");
        tls.process(&mut self.socket)
    }

    fn ready(&self, what: PollFlags, wait: Duration) -> Result<bool, Failure> {
        let mut set = [PollFd::new(self.socket.as_fd(), what)];
        // Rounded up: a timeout of 0 would make the last millisecond a busy loop.
        let wait = PollTimeout::try_from(wait + Duration::from_micros(999));
        match poll(&mut set, wait.unwrap_or(PollTimeout::MAX)) {
            Ok(ready) => Ok(ready > 0),
            Err(Errno::EINTR) => Ok(true),
            Err(errno) => Err(Failure::again(format!("poll(): {}", errno.desc()))),
        }
    }
}

/// Returns the failure for an error of a connection.
pub fn of_io(error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        // The standard library has no error kind for names that cannot be resolved.
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
