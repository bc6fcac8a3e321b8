//! Sockets: addresses, passing of descriptors, unacknowledged bytes.

use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Maximum number of descriptors in a message.
const MAX_DESCRIPTORS: usize = 8;

/// Buffer for a control header and the descriptors, with the alignment of a header.
type Control = [u64; 6];

/// Binds a socket to an address, given as the bytes of its structure (bind(2)).
pub fn bind(socket: BorrowedFd<'_>, address: &[u8]) -> nix::Result<()> {
    let (bytes, length) = (address.as_ptr().cast(), address.len() as libc::socklen_t);
    // SAFETY: the kernel reads `length` bytes.
    Errno::result(unsafe { libc::bind(socket.as_raw_fd(), bytes, length) }).map(drop)
}

/// Connects to a Unix socket without waiting. Returns `None` if its queue of connections is full.
///
/// The stream does not block.
pub fn connect_unix(path: &Path) -> nix::Result<Option<UnixStream>> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
        Ok(()) => Ok(Some(socket.into())),
        Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Sends a message with copies of at most eight descriptors, without allocating (unix(7),
/// `SCM_RIGHTS`).
pub fn send(channel: RawFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> nix::Result<()> {
    if descriptors.len() > MAX_DESCRIPTORS {
        return Err(Errno::EINVAL);
    }
    let length = size_of_val(descriptors) as libc::c_uint;
    let mut part = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control: Control = [0; 6];
    // SAFETY: an all-zero msghdr is a valid one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        message.msg_control = control.as_mut_ptr().cast();
        // SAFETY: no pointer is followed.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
        // SAFETY: the buffer has room for a header and eight descriptors, and is aligned for both.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            let numbers: *mut RawFd = libc::CMSG_DATA(header).cast();
            // A BorrowedFd has the layout of its number.
            let source: *const RawFd = descriptors.as_ptr().cast();
            std::ptr::copy_nonoverlapping(source, numbers, descriptors.len());
        }
    }
    // SAFETY: the header refers to bytes and a buffer that live for the whole call.
    let sent = unsafe { libc::sendmsg(channel, &raw const message, libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(drop)
}

/// Receives a message of [`send`], without allocating. Returns the number of bytes, 0 if the peer has closed its end,
/// and the descriptors.
///
/// The descriptors are close-on-exec. Descriptors beyond `N` are lost.
pub fn receive<const N: usize>(
    channel: RawFd,
    bytes: &mut [u8],
) -> nix::Result<(usize, [Option<OwnedFd>; N])> {
    const { assert!(N <= MAX_DESCRIPTORS) };
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut control: Control = [0; 6];
    // SAFETY: an all-zero msghdr is a valid one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let length = loop {
        // SAFETY: the header refers to bytes and a buffer that live for the whole call.
        let result = unsafe { libc::recvmsg(channel, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(result) {
            Err(Errno::EINTR) => continue,
            other => break other?,
        }
    };
    Ok((length as usize, descriptors(&message)))
}

fn descriptors<const N: usize>(message: &libc::msghdr) -> [Option<OwnedFd>; N] {
    // SAFETY: the kernel has filled in the header and the control buffer that it refers to.
    let Some(header) = (unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }) else {
        return [const { None }; N];
    };
    // SAFETY: no pointer is followed.
    let bytes = header.cmsg_len - unsafe { libc::CMSG_LEN(0) } as usize;
    // SAFETY: the kernel has put that many bytes of descriptors behind the header.
    let data: *const RawFd = unsafe { libc::CMSG_DATA(header) }.cast();
    std::array::from_fn(|index| {
        (index < bytes / size_of::<RawFd>()).then(|| {
            // SAFETY: inside these bytes; the kernel has just made the descriptor for this process.
            unsafe { OwnedFd::from_raw_fd(data.add(index).read_unaligned()) }
        })
    })
}

/// Returns the number of bytes of a TCP socket that the peer's kernel has not acknowledged yet.
///
/// Source: tcp(7), `SIOCOUTQ`.
pub fn unacknowledged(socket: impl AsFd) -> nix::Result<usize> {
    let mut bytes: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int through the pointer, which is
    // valid for the whole call; the descriptor is borrowed for as long.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    Errno::result(result)?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn descriptors_come_in_their_order_with_the_byte() {
        let (a, b) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..3)
            .map(|number| std::fs::File::create_new(dir.path().join(number.to_string())).unwrap())
            .collect();
        let sent: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        send(a.as_raw_fd(), b"three", &sent).unwrap();
        send(a.as_raw_fd(), b"none", &[]).unwrap();
        let mut bytes = [0; 8];
        let (length, received) = receive::<4>(b.as_raw_fd(), &mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"three");
        for (number, descriptor) in received.iter().enumerate() {
            let path = descriptor
                .as_ref()
                .map(|fd| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap());
            let expected = (number < 3).then(|| dir.path().join(number.to_string()));
            assert_eq!(path, expected);
        }
        let (length, [none]) = receive::<1>(b.as_raw_fd(), &mut bytes).unwrap();
        assert_eq!((&bytes[..length], none.is_none()), (&b"none"[..], true));
    }

    #[test]
    fn a_channel_whose_peer_is_gone_has_no_message() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(a);
        assert_eq!(receive::<0>(b.as_raw_fd(), &mut [0]).unwrap().0, 0);
    }

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
    fn bytes_that_the_peer_has_no_room_for_are_not_acknowledged() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_reader, _) = listener.accept().unwrap();
        writer.set_nonblocking(true).unwrap();
        while writer.write(&[0; 65536]).is_ok() {}
        assert!(unacknowledged(&writer).unwrap() > 0);
    }

    #[test]
    fn a_descriptor_other_than_a_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(unacknowledged(&file), Err(Errno::ENOTTY));
    }
}
