//! Parser of the kernel parameter `ip=`, for kernels that do not apply it themselves.
//!
//! Source: Linux, Documentation/admin-guide/nfs/nfsroot.rst.

use crate::base::error::{Error, Result};
use std::net::Ipv4Addr;

/// Network settings of `ip=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Address of the machine.
    pub address: Ipv4Addr,
    /// Netmask.
    pub netmask: Ipv4Addr,
    /// Default gateway.
    pub gateway: Option<Ipv4Addr>,
    /// Host name.
    pub host_name: Option<String>,
    /// Network interface; `None` selects the first one.
    pub device: Option<String>,
    /// Name servers.
    pub servers: Vec<Ipv4Addr>,
}

/// Parses `CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF:DNS0:DNS1:NTP0`, where parts may be empty or
/// missing. `None` for `off` and `none`.
///
/// # Errors
/// A part is invalid, or the protocol would need a server (DHCP, BOOTP, RARP).
pub fn parse(value: &[u8]) -> Result<Option<Address>> {
    let text = String::from_utf8_lossy(value);
    let wrong = |why: &str| Error::usage(format_args!("ip={text}"), why);
    let asks = || {
        wrong("asks a server for the address, which imrun init does not support")
            .hint("set it: ip=ADDRESS::GATEWAY:NETMASK::DEVICE:off; or use a kernel with CONFIG_IP_PNP and the driver built in")
    };
    if text == "off" || text == "none" {
        return Ok(None);
    }
    if !text.contains(':') && text.parse::<Ipv4Addr>().is_err() {
        return Err(asks());
    }
    let mut parts = text.split(':');
    let mut part = || parts.next().unwrap_or("");
    let (client, _server, gateway, netmask) = (part(), part(), part(), part());
    let (host_name, device, protocol) = (part(), part(), part());
    let (servers, _ntp) = ([part(), part()], part());
    if parts.next().is_some() {
        return Err(wrong("has more than ten parts"));
    }
    if !matches!(protocol, "" | "off" | "none" | "static") || client.is_empty() {
        return Err(asks());
    }
    let number = |name: &str, text: &str| match text {
        "" => Ok(None),
        text => text
            .parse::<Ipv4Addr>()
            .map(Some)
            .map_err(|_| wrong(&format!("{name} {text:?} is not an IPv4 address"))),
    };
    let address = number("client", client)?.ok_or_else(asks)?;
    let netmask = match number("netmask", netmask)? {
        Some(netmask) if !is_netmask(netmask) => {
            return Err(wrong("the netmask has gaps"));
        }
        Some(netmask) => netmask,
        None => class(address),
    };
    let mut known = Vec::new();
    for server in servers {
        known.extend(number("name server", server)?);
    }
    let text = |part: &str| Some(part.to_string()).filter(|part| !part.is_empty());
    // IFNAMSIZ, its NUL included.
    if device.len() > 15 || device.contains('/') {
        return Err(wrong("the name of the device is invalid"));
    }
    Ok(Some(Address {
        address,
        netmask,
        gateway: number("gateway", gateway)?,
        host_name: text(host_name),
        device: text(device),
        servers: known,
    }))
}

fn is_netmask(mask: Ipv4Addr) -> bool {
    let bits = mask.to_bits();
    bits.leading_ones() + bits.trailing_zeros() >= 32
}

/// Returns the netmask that the kernel assumes for the address's class.
fn class(address: Ipv4Addr) -> Ipv4Addr {
    match address.octets()[0] {
        0..128 => Ipv4Addr::new(255, 0, 0, 0),
        128..192 => Ipv4Addr::new(255, 255, 0, 0),
        192.. => Ipv4Addr::new(255, 255, 255, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_parsed_with_all_its_parts() {
        let parsed = parse(b"10.0.2.15::10.0.2.2:255.255.255.0:web:eth0:off:10.0.2.3").unwrap();
        let expected = Address {
            address: Ipv4Addr::new(10, 0, 2, 15),
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            host_name: Some("web".into()),
            device: Some("eth0".into()),
            servers: vec![Ipv4Addr::new(10, 0, 2, 3)],
        };
        assert_eq!(parsed, Some(expected));
    }

    #[test]
    fn missing_parts_get_the_kernels_defaults() {
        for (text, netmask) in [("10.1.2.3", 8), ("172.16.0.1", 16), ("192.168.1.9", 24)] {
            let parsed = parse(text.as_bytes()).unwrap().unwrap();
            assert_eq!(parsed.netmask.to_bits().leading_ones(), netmask, "{text}");
            assert_eq!((parsed.gateway, parsed.device), (None, None), "{text}");
        }
        for none in ["off", "none"] {
            assert_eq!(parse(none.as_bytes()).unwrap(), None);
        }
    }

    #[test]
    fn an_invalid_address_is_refused_by_its_part() {
        for (text, why) in [
            ("dhcp", "asks a server"),
            (":::::eth0:dhcp", "asks a server"),
            ("", "asks a server"),
            ("10.0.0.256::", "client"),
            ("10.0.0.1::1.2.3", "gateway"),
            ("10.0.0.1:::255.0.255.0", "gaps"),
            ("10.0.0.1:::::../../eth0", "device"),
            ("10.0.0.1:::::::1.1.1.1:x", "name server"),
            ("10.0.0.1::::::::::", "ten parts"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.why.contains(why), "{text}: {error}");
        }
    }
}
