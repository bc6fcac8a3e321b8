//! `syslog+tcp`, `syslog+tls`, `syslog+udp`: RFC 5424 messages, over streams with octet counting (RFC
//! 6587 section 3.4.1, RFC 5425), over UDP with one message per datagram (RFC 5426).

use super::escape::append_number;
use super::event::{Batch, Body, Event, Origin, Stream};
use super::net::of_io;
use super::sink::{Delivery, Failure, FailureKind, Sink};
use super::stream::Encoder;
use crate::base::time::Clock;
use std::net::{ToSocketAddrs, UdpSocket};
use std::time::Duration;

/// Maximum bytes of a message: rsyslog's default (its "8k" are 8,096 bytes; it splits longer ones).
/// Longer lines are split into several messages.
pub const MESSAGE_MAX: usize = 8096;

/// Facilities of RFC 5424, table 1, with the names of syslog.conf(5).
const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
];
const DAEMON: u8 = 3;

/// Severities of RFC 5424, table 2.
const ERROR: u8 = 3;
const NOTICE: u8 = 5;
const INFORMATIONAL: u8 = 6;

/// Returns a facility's number.
pub fn facility(name: &str) -> Option<u8> {
    let number = FACILITIES.iter().position(|known| *known == name)?;
    u8::try_from(number).ok()
}

/// Returns a facility's name.
pub fn facility_name(number: u8) -> &'static str {
    FACILITIES.get(usize::from(number)).unwrap_or(&"daemon")
}

/// Encodes the events of one launch as messages.
pub struct Syslog {
    clock: Clock,
    facility: u8,
    /// HOSTNAME, APP-NAME and PROCID, with spaces around them.
    names: Vec<u8>,
    /// Parameters that all messages have in their structured data.
    identity: Vec<u8>,
    message: Vec<u8>,
}

impl Syslog {
    /// Creates an encoder for this origin.
    pub fn new(origin: &Origin, facility: Option<u8>) -> Syslog {
        let mut names = Vec::new();
        let app = origin.container_name.as_deref().unwrap_or("imrun");
        for (name, longest) in [
            (&origin.host_name[..], 255),
            (app, 48),
            (&origin.container_id, 128),
        ] {
            names.push(b' ');
            names.extend_from_slice(&printable(name, longest));
        }
        names.push(b' ');
        let mut identity = Vec::new();
        parameter(&mut identity, "container", &origin.container_id);
        if let Some(name) = &origin.container_name {
            parameter(&mut identity, "name", name);
        }
        parameter(&mut identity, "image", &origin.image_digest);
        parameter(&mut identity, "launch", &origin.launch_id);
        Syslog {
            clock: Clock::default(),
            facility: facility.unwrap_or(DAEMON),
            names,
            identity,
            message: Vec::new(),
        }
    }

    /// Passes the messages of an event to `give`, one after the other.
    pub fn messages(&mut self, event: &Event<'_>, mut give: impl FnMut(&[u8])) {
        let text;
        let (severity, kind, bytes, partial) = match event.body {
            Body::Line {
                stream,
                bytes,
                partial,
            } => (severity(stream), stream.as_str(), bytes, partial),
            Body::Record { kind, fields } => {
                text = format!("imrun: {kind} {fields}");
                (NOTICE, kind, text.as_bytes(), false)
            }
        };
        let mut left = bytes;
        loop {
            self.message.clear();
            self.head(event, severity, kind);
            // Reserves room for the longer form, which the last piece may not need.
            let room = MESSAGE_MAX.saturating_sub(self.message.len() + " partial=\"true\"] ".len());
            let (piece, rest) = left.split_at(cut(left, room.max(1)));
            if partial || !rest.is_empty() {
                self.message.extend_from_slice(b" partial=\"true\"");
            }
            self.message.extend_from_slice(b"] ");
            self.message.extend_from_slice(piece);
            give(&self.message);
            left = rest;
            if left.is_empty() {
                return;
            }
        }
    }

    /// Writes the head up to the end of the structured data's parameters.
    fn head(&mut self, event: &Event<'_>, severity: u8, kind: &str) {
        let to = &mut self.message;
        to.push(b'<');
        append_number(to, u64::from(self.facility * 8 + severity));
        to.extend_from_slice(b">1 ");
        // A time has at most microseconds (section 6).
        let time = self.clock.rfc3339(event.time);
        to.extend_from_slice(&time[..time.len() - "000Z".len()]);
        to.push(b'Z');
        to.extend_from_slice(&self.names);
        to.extend_from_slice(&kind.as_bytes()[..kind.len().min(32)]);
        // The number wraps around at its maximum (section 7.3.1).
        to.extend_from_slice(b" [meta sequenceId=\"");
        append_number(to, (event.sequence.saturating_sub(1)) % 2_147_483_647 + 1);
        to.extend_from_slice(b"\"][imrun@32473 sequence=\"");
        append_number(to, event.sequence);
        to.push(b'"');
        to.extend_from_slice(&self.identity);
    }
}

fn severity(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => INFORMATIONAL,
        Stream::Stderr => ERROR,
    }
}

/// Returns the text as PRINTUSASCII of at most `longest` bytes; `-` for an empty text.
fn printable(text: &str, longest: usize) -> Vec<u8> {
    let bytes = text.bytes().take(longest);
    let bytes = bytes.map(|byte| if byte.is_ascii_graphic() { byte } else { b'_' });
    let name: Vec<u8> = bytes.collect();
    if name.is_empty() { b"-".to_vec() } else { name }
}

/// Appends ` NAME="VALUE"` (section 6.3.3).
fn parameter(to: &mut Vec<u8>, name: &str, value: &str) {
    to.push(b' ');
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(b"=\"");
    for byte in value.bytes() {
        if matches!(byte, b'"' | b'\\' | b']') {
            to.push(b'\\');
        }
        to.push(byte);
    }
    to.push(b'"');
}

/// Returns the position to cut a text longer than `room`: not within a UTF-8 sequence.
fn cut(bytes: &[u8], room: usize) -> usize {
    if bytes.len() <= room {
        return bytes.len();
    }
    let continues = |at: usize| bytes[at] & 0b1100_0000 == 0b1000_0000;
    let first = room.saturating_sub(3).max(1);
    (first..=room)
        .rev()
        .find(|at| !continues(*at))
        .unwrap_or(room)
}

impl Encoder for Syslog {
    fn encode(&mut self, to: &mut Vec<u8>, event: &Event<'_>) {
        self.messages(event, |message| {
            append_number(to, message.len() as u64);
            to.push(b' ');
            to.extend_from_slice(message);
        });
    }
}

/// Sink with one message per datagram. Nothing is acknowledged: a sent event counts as delivered.
pub struct Datagrams {
    address: String,
    syslog: Syslog,
    socket: Option<UdpSocket>,
}

impl Datagrams {
    /// Creates a sink at `HOST:PORT`.
    pub fn new(address: &str, syslog: Syslog) -> Datagrams {
        Datagrams {
            address: address.to_owned(),
            syslog,
            socket: None,
        }
    }

    fn connect(&self) -> Result<UdpSocket, Failure> {
        let addresses = self.address.to_socket_addrs();
        let mut addresses = addresses.map_err(|error| of_io(&error))?;
        let none = || Failure::new(FailureKind::Refused, "the host has no address");
        let address = addresses.next().ok_or_else(none)?;
        let any = if address.is_ipv4() {
            "0.0.0.0:0"
        } else {
            "[::]:0"
        };
        let socket = UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            Ok(socket)
        });
        socket.map_err(|error| of_io(&error))
    }
}

impl Sink for Datagrams {
    fn send(&mut self, batch: &Batch) -> Result<(), Failure> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.connect()?,
        };
        let mut outcome = Ok(());
        for event in batch.iter() {
            self.syslog.messages(&event, |message| {
                if outcome.is_ok() {
                    outcome = socket.send(message).map(|_| ());
                }
            });
        }
        // If nothing listens, the kernel reports an ICMP error on the next call.
        let refused = socket
            .take_error()
            .and_then(|error| error.map_or(Ok(()), Err));
        outcome.and(refused).map_err(|error| of_io(&error))?;
        self.socket = Some(socket);
        Ok(())
    }

    fn settle(&mut self, _: &Batch, _: Option<Duration>) -> Result<Option<Delivery>, Failure> {
        Ok(Some(Delivery::default()))
    }
}

#[cfg(test)]
mod tests;
