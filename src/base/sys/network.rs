//! Network interfaces (netdevice(7)) and namespaces.

use nix::Result;
use nix::errno::Errno;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Brings the interface `lo` up. `socket` is any socket of the network namespace.
pub fn loopback_up(socket: BorrowedFd<'_>) -> Result<()> {
    up(socket, "lo")
}

/// Brings an interface up.
pub fn up(socket: BorrowedFd<'_>, device: &str) -> Result<()> {
    let mut request = request(device);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    set(socket, libc::SIOCSIFFLAGS, &request)
}

/// Sets the address of an interface.
pub fn set_address(socket: BorrowedFd<'_>, device: &str, address: Ipv4Addr) -> Result<()> {
    let mut request = request(device);
    request.ifr_ifru.ifru_addr = socket_address(address);
    set(socket, libc::SIOCSIFADDR, &request)
}

/// Sets the netmask of an interface.
pub fn set_netmask(socket: BorrowedFd<'_>, device: &str, netmask: Ipv4Addr) -> Result<()> {
    let mut request = request(device);
    request.ifr_ifru.ifru_netmask = socket_address(netmask);
    set(socket, libc::SIOCSIFNETMASK, &request)
}

/// Adds a default route to `gateway` (route(4)).
pub fn add_default_route(socket: BorrowedFd<'_>, gateway: Ipv4Addr) -> Result<()> {
    // SAFETY: an all-zero rtentry is a valid one.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: the request is a whole rtentry that lives for the length of the call; its null device
    // means any.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &raw const route) };
    Errno::result(result).map(drop)
}

/// Returns a request for a device. A name of 16 bytes or more is truncated, and matches no interface.
fn request(device: &str) -> libc::ifreq {
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (place, byte) in request.ifr_name[..room].iter_mut().zip(device.bytes()) {
        *place = byte as libc::c_char;
    }
    request
}

fn set(socket: BorrowedFd<'_>, call: libc::Ioctl, request: &libc::ifreq) -> Result<()> {
    // SAFETY: the request is a whole ifreq that lives for the length of the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), call, std::ptr::from_ref(request)) };
    Errno::result(result).map(drop)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // The port's two bytes, then the address, in the network's order (struct sockaddr_in).
    for (place, byte) in data[2..6].iter_mut().zip(address.octets()) {
        *place = byte as libc::c_char;
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

/// Returns the kind of a namespace as a `CLONE_NEW*` flag (ioctl_nsfs(2)).
pub fn namespace_type(file: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: the request has no argument.
    Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) })
}
