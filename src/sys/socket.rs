//! What the kernel knows of a socket.

use crate::error::{Context, Result};
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes written to a TCP socket that the peer's kernel has not acknowledged yet.
///
/// Source: tcp(7), `SIOCOUTQ`.
pub fn unacknowledged(socket: impl AsFd) -> Result<usize> {
    let mut bytes: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int through the pointer, which is
    // valid for the whole call; the descriptor is borrowed for as long.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    Errno::result(result).context(|| format!("ioctl({fd}, SIOCOUTQ)"))?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn bytes_that_the_peer_has_read_are_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut reader, _) = listener.accept().unwrap();
        writer.write_all(b"ping").unwrap();
        reader.read_exact(&mut [0; 4]).unwrap();
        while unacknowledged(&writer).unwrap() != 0 {
            std::thread::yield_now();
        }
    }

    #[test]
    fn bytes_that_the_peer_has_no_room_for_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_reader, _) = listener.accept().unwrap();
        writer.set_nonblocking(true).unwrap();
        while writer.write(&[0; 65536]).is_ok() {}
        assert!(unacknowledged(&writer).unwrap() > 0);
    }

    #[test]
    fn a_descriptor_that_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = unacknowledged(&file).unwrap_err();
        assert!(error.to_string().contains("SIOCOUTQ"), "{error}");
    }
}
