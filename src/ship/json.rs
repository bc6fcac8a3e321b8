//! `json+tcp`: one JSON object a line over TCP.
//!
//! Nothing answers at this level, so TCP's own acknowledgement is used: a batch is delivered when
//! the peer's kernel has acknowledged its last byte and the peer has not closed. A batch of which
//! that is not known is sent again, whole, over the next connection.

use super::document;
use super::event::{Event, Origin};
use super::http::of_io;
use super::sink::{Delivery, Failure, FailureKind, Sink};
use crate::sys::socket::unacknowledged;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// Lines to a TCP listener.
pub struct Lines {
    address: String,
    timeout: Duration,
    connection: Option<TcpStream>,
}

impl Lines {
    /// A sink at `HOST:PORT`; connecting takes `timeout` at most, and a delivery as long again.
    pub fn new(address: &str, timeout: Duration) -> Lines {
        Lines {
            address: address.to_owned(),
            timeout,
            connection: None,
        }
    }

    fn connect(&self) -> Result<TcpStream, Failure> {
        let addresses = self.address.to_socket_addrs();
        let addresses = addresses.map_err(|error| of_io(&error))?;
        let mut failure = Failure::new(FailureKind::Refused, "the host has no address");
        for address in addresses {
            match TcpStream::connect_timeout(&address, self.timeout).and_then(prepared) {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = of_io(&error),
            }
        }
        Err(failure)
    }
}

/// Batches are written whole: nothing is gained by waiting for more.
fn prepared(connection: TcpStream) -> std::io::Result<TcpStream> {
    connection.set_nodelay(true)?;
    connection.set_nonblocking(true)?;
    Ok(connection)
}

impl Sink for Lines {
    fn deliver(&mut self, origin: &Origin, batch: &[Event]) -> Result<Delivery, Failure> {
        let mut connection = match self.connection.take() {
            Some(mut kept) => match closed(&mut kept) {
                // It closed while nothing was sent: nothing is lost, so this is no failure.
                Ok(true) | Err(_) => self.connect()?,
                Ok(false) => kept,
            },
            None => self.connect()?,
        };
        let mut body = Vec::new();
        for event in batch {
            document::append(&mut body, origin, event);
            body.push(b'\n');
        }
        let deadline = Instant::now() + self.timeout;
        write(&mut connection, &body, deadline)?;
        confirm(&mut connection, deadline)?;
        self.connection = Some(connection);
        Ok(Delivery::default())
    }
}

fn write(connection: &mut TcpStream, mut bytes: &[u8], deadline: Instant) -> Result<(), Failure> {
    let mut wait = Wait::until(deadline);
    while !bytes.is_empty() {
        match connection.write(bytes) {
            Ok(written) => {
                bytes = &bytes[written..];
                wait = Wait::until(deadline);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait.or_fail("takes no more bytes")?;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(of_io(&error)),
        }
    }
    Ok(())
}

/// Waits until the peer's kernel has acknowledged all bytes.
fn confirm(connection: &mut TcpStream, deadline: Instant) -> Result<(), Failure> {
    let again = |why: String| Failure::new(FailureKind::Again, why);
    let mut wait = Wait::until(deadline);
    loop {
        // First the queue, then the state: a reset empties the queue too.
        let left = unacknowledged(&*connection).map_err(|error| again(error.to_string()))?;
        if closed(connection).map_err(|error| of_io(&error))? {
            return Err(again("closed the connection".into()));
        }
        if left == 0 {
            return Ok(());
        }
        wait.or_fail("does not acknowledge")?;
    }
}

/// Whether the peer has closed. What it sends is read and thrown away: the protocol has no answers.
fn closed(connection: &mut TcpStream) -> std::io::Result<bool> {
    let mut scrap = [0; 512];
    loop {
        match connection.read(&mut scrap) {
            Ok(0) => return Ok(true),
            // A peer that talks without end must not hold the batch up.
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sleeps from 20 µs, doubling to 5 ms: on a local network an acknowledgement takes less than a
/// scheduler's tick, elsewhere up to 40 ms and more.
struct Wait {
    step: Duration,
    deadline: Instant,
}

impl Wait {
    fn until(deadline: Instant) -> Wait {
        Wait {
            step: Duration::from_micros(20),
            deadline,
        }
    }

    fn or_fail(&mut self, why: &str) -> Result<(), Failure> {
        if Instant::now() >= self.deadline {
            return Err(Failure::new(FailureKind::Again, why));
        }
        std::thread::sleep(self.step);
        self.step = Duration::from_millis(5).min(self.step * 2);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (prepared(writer).unwrap(), listener.accept().unwrap().0)
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn bytes_that_the_peer_has_no_room_for_are_not_delivered() {
        let (mut writer, mut reader) = pair();
        while writer.write(&[0; 65536]).is_ok() {}
        let failure = confirm(&mut writer, Instant::now()).unwrap_err();
        assert_eq!(
            (failure.kind, &failure.why[..]),
            (FailureKind::Again, "does not acknowledge")
        );
        let failure = write(&mut writer, b"more", Instant::now()).unwrap_err();
        assert_eq!(
            (failure.kind, &failure.why[..]),
            (FailureKind::Again, "takes no more bytes")
        );
        let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        confirm(&mut writer, later()).unwrap();
        drop(writer);
        reading.join().unwrap().unwrap();
    }

    #[test]
    fn bytes_to_a_peer_that_has_closed_are_not_delivered() {
        let (mut writer, reader) = pair();
        drop(reader);
        let sent = write(&mut writer, b"lost", later());
        let failure = sent
            .and_then(|()| confirm(&mut writer, later()))
            .unwrap_err();
        assert_eq!(failure.kind, FailureKind::Again);
    }

    #[test]
    fn a_peer_that_talks_is_not_listened_to() {
        let (mut writer, mut reader) = pair();
        reader.write_all(&[b'!'; 100_000]).unwrap();
        write(&mut writer, b"line\n", later()).unwrap();
        confirm(&mut writer, later()).unwrap();
        reader.read_exact(&mut [0; 5]).unwrap();
    }
}
