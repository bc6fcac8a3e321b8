//! Network setup by `ip=`, if the kernel has not done it.

use super::address::{self, Address};
use super::machine;
use crate::base::error::{Context, Error, Result};
use crate::base::files;
use crate::base::sys::network;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DEVICES: &str = "/sys/class/net";
/// Time limit for an interface to appear.
const TIMEOUT: Duration = Duration::from_secs(10);

/// File of kernels that apply `ip=` themselves (Linux, net/ipv4/ipconfig.c).
const KERNEL_CONFIGURED: &str = "/proc/net/pnp";

/// Configures loopback, and the interface of `ip=`.
pub fn configure(address: Option<&[u8]>) -> Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context(|| "socket(AF_INET)")?;
    network::loopback_up(socket.as_fd()).context(|| "ioctl(\"lo\", SIOCSIFFLAGS)")?;
    let address = match address {
        Some(value) if !Path::new(KERNEL_CONFIGURED).exists() => address::parse(value)?,
        _ => None,
    };
    match address {
        Some(address) => set(socket.as_fd(), &address),
        None => Ok(()),
    }
}

fn set(socket: BorrowedFd<'_>, address: &Address) -> Result<()> {
    if let Some(name) = &address.host_name {
        nix::unistd::sethostname(name).context(|| format!("sethostname({name:?})"))?;
    }
    if let Some(text) = servers(address) {
        machine::directory("/etc")?;
        std::fs::write(RESOLV_CONF, text).context(|| format!("write({RESOLV_CONF:?})"))?;
    }
    let device = device(address)?;
    let call = |name: &str| format!("ioctl({device:?}, {name})");
    let (ours, mask) = (address.address, address.netmask);
    network::set_address(socket, &device, ours).context(|| call("SIOCSIFADDR"))?;
    network::set_netmask(socket, &device, mask).context(|| call("SIOCSIFNETMASK"))?;
    network::up(socket, &device).context(|| call("SIOCSIFFLAGS"))?;
    if let Some(gateway) = address.gateway {
        network::add_default_route(socket, gateway)
            .context(|| format!("ioctl(SIOCADDRT, {gateway})"))?;
    }
    Ok(())
}

fn servers(address: &Address) -> Option<String> {
    let mut text = String::new();
    for server in &address.servers {
        writeln!(text, "nameserver {server}").expect("a string takes all that is written");
    }
    Some(text).filter(|text| !text.is_empty())
}

/// Waits for the named interface, or for any that is not loopback. Returns its name; the first by name.
fn device(address: &Address) -> Result<String> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found = match &address.device {
            Some(name) => Some(name.clone()).filter(|name| Path::new(DEVICES).join(name).exists()),
            None => first()?,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            let name = address.device.as_deref().unwrap_or("ip=");
            return Err(Error::system(
                name,
                format_args!("no network interface for it appeared within {TIMEOUT:?}"),
            )
            .hint("the initramfs needs the modules of its bus and driver: docs/appliance.md"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn first() -> Result<Option<String>> {
    let names = files::names(Path::new(DEVICES))?;
    Ok(names.into_iter().find(|name| name != "lo"))
}
