//! The text of `--sink` and `IMRUN_SINK`.

use super::event::Origin;
use super::sink::{Acknowledgement, Sink};
use super::{es, json, stdio};
use crate::error::{Error, Result};
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::time::Duration;

const KNOWN: &str = "es+http://HOST:PORT, json+tcp://HOST:PORT, stdio:";
const NOT_YET: [&str; 9] = [
    "es+https",
    "json+tls",
    "otlp+http",
    "otlp+https",
    "syslog+tcp",
    "syslog+tls",
    "syslog+udp",
    "forward+tcp",
    "forward+tls",
];

/// The protocol of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `es+http`: the bulk API of Elasticsearch and those who speak it.
    Elastic,
    /// `json+tcp`: a JSON object a line.
    Json,
    /// `stdio`: imrun's own stdout and stderr.
    Stdio,
}

impl Scheme {
    /// As it is written in front of the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Elastic => "es+http",
            Scheme::Json => "json+tcp",
            Scheme::Stdio => "stdio",
        }
    }
}

/// Where to ship to: parsed and valid. Neither `Display` nor `Debug` shows credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct SinkUrl {
    scheme: Scheme,
    /// `HOST:PORT`, empty for `stdio:`.
    pub(super) address: String,
    pub(super) credentials: Option<Credentials>,
    /// Empty, or starts with a slash and does not end with one.
    pub(super) path: String,
    /// `?index=`.
    pub(super) index: Option<String>,
    /// The other parameters, as they were written: they belong to the server.
    pub(super) parameters: Vec<String>,
}

/// The userinfo of a URL, decoded.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub user: Vec<u8>,
    pub password: Vec<u8>,
}

impl SinkUrl {
    /// The protocol.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// How far its acknowledgements go.
    pub fn acknowledgement(&self) -> Acknowledgement {
        match self.scheme {
            Scheme::Elastic => Acknowledgement::Protocol,
            Scheme::Json => Acknowledgement::Transport,
            Scheme::Stdio => Acknowledgement::None,
        }
    }

    /// The sink itself, not yet connected.
    pub(super) fn sink(&self, origin: &Origin, timeout: Duration) -> Result<Box<dyn Sink>> {
        Ok(match self.scheme {
            Scheme::Elastic => Box::new(es::Elastic::new(self, origin, timeout)),
            Scheme::Json => Box::new(json::Lines::new(&self.address, timeout)),
            Scheme::Stdio => Box::new(stdio::Stdio::inherited()?),
        })
    }
}

impl FromStr for SinkUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<SinkUrl> {
        let (scheme, rest) = text
            .split_once(':')
            .ok_or_else(|| wrong(text, "has no scheme").hint(KNOWN))?;
        match scheme {
            "es+http" => elastic(text, rest),
            "json+tcp" => json_tcp(text, rest),
            "stdio" if rest.is_empty() => Ok(bare(Scheme::Stdio)),
            "stdio" => Err(wrong(text, "nothing may follow stdio:")),
            _ if NOT_YET.contains(&scheme) => Err(Error::unsupported(
                format!("sink {}", redacted(text)),
                format!("{scheme} is not there yet"),
            )
            .hint(format!("there are {KNOWN}"))),
            _ => Err(wrong(text, "the scheme is unknown").hint(format!("known are {KNOWN}"))),
        }
    }
}

fn bare(scheme: Scheme) -> SinkUrl {
    SinkUrl {
        scheme,
        address: String::new(),
        credentials: None,
        path: String::new(),
        index: None,
        parameters: Vec::new(),
    }
}

fn elastic(text: &str, rest: &str) -> Result<SinkUrl> {
    let wrong = |why| wrong(text, why);
    let rest = rest
        .strip_prefix("//")
        .ok_or_else(|| wrong("// must follow the scheme"))?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    if !path.bytes().chain(query.bytes()).all(is_sendable) {
        return Err(wrong(
            "a byte of the path or the query must be written as %XX",
        ));
    }
    let (credentials, address) = match authority.rsplit_once('@') {
        Some((userinfo, address)) => (Some(credentials(text, userinfo)?), address),
        None => (None, authority),
    };
    let mut url = SinkUrl {
        address: self::address(text, address)?,
        credentials,
        path: path.trim_end_matches('/').to_owned(),
        ..bare(Scheme::Elastic)
    };
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("index", name)) => url.index = Some(index(text, name)?),
            _ => url.parameters.push(parameter.to_owned()),
        }
    }
    Ok(url)
}

fn json_tcp(text: &str, rest: &str) -> Result<SinkUrl> {
    let rest = rest
        .strip_prefix("//")
        .ok_or_else(|| wrong(text, "// must follow the scheme"))?;
    if rest.contains(['@', '?', '#']) || rest.trim_end_matches('/').contains('/') {
        return Err(wrong(text, "json+tcp takes HOST:PORT and nothing else"));
    }
    Ok(SinkUrl {
        address: address(text, rest.trim_end_matches('/'))?,
        ..bare(Scheme::Json)
    })
}

/// Checks `HOST:PORT`, where the host is a name, an IPv4 address or an IPv6 address in brackets.
fn address(text: &str, address: &str) -> Result<String> {
    let (host, port) = address
        .rsplit_once(':')
        .ok_or_else(|| wrong(text, "has no port"))?;
    let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let valid = match host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
    {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && host.chars().all(named),
    };
    if !valid {
        return Err(wrong(text, "the host is neither a name nor an address"));
    }
    match port.parse::<u16>() {
        Ok(1..) if port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(address.to_owned()),
        _ => Err(wrong(text, "the port is not a number from 1 to 65535")),
    }
}

fn credentials(text: &str, userinfo: &str) -> Result<Credentials> {
    let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
    let decoded =
        |part| decoded(part).ok_or_else(|| wrong(text, "the user or password has a bad %XX"));
    Ok(Credentials {
        user: decoded(user)?,
        password: decoded(password)?,
    })
}

/// Checks a name of an index or data stream, as far as it could break the request.
fn index(text: &str, name: &str) -> Result<String> {
    let name = decoded(name).and_then(|name| String::from_utf8(name).ok());
    let allowed = |c: char| !c.is_control() && !c.is_whitespace() && !"\\/*?\"<>|,#:".contains(c);
    name.filter(|name| (1..=255).contains(&name.len()) && name.chars().all(allowed))
        .ok_or_else(|| wrong(text, "index is not the name of an index"))
}

/// Visible ASCII without what ends a query.
fn is_sendable(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(
            byte,
            b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
}

/// Undoes percent-encoding (RFC 3986, section 2.1).
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut result = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        result.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            _ => byte,
        });
    }
    Some(result)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

fn wrong(text: &str, why: &str) -> Error {
    Error::usage(format_args!("sink {:?}", redacted(text)), why)
}

/// A text that may not be valid, without all that could be meant as credentials.
fn redacted(text: &str) -> String {
    let Some((before, after)) = text.rsplit_once('@') else {
        return text
            .split_once('?')
            .map_or(text.to_owned(), |(text, _)| format!("{text}?***"));
    };
    let scheme = before
        .split_once("://")
        .map_or(String::new(), |(scheme, _)| format!("{scheme}://"));
    let after = after.split_once('?').map_or(after, |(after, _)| after);
    format!("{scheme}***@{after}")
}

impl fmt::Display for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme == Scheme::Stdio {
            return f.write_str("stdio:");
        }
        let userinfo = if self.credentials.is_some() {
            "***@"
        } else {
            ""
        };
        write!(
            f,
            "{}://{userinfo}{}{}",
            self.scheme.as_str(),
            self.address,
            self.path
        )?;
        let index = self.index.iter().map(|index| format!("index={index}"));
        // The value of a parameter may be a key.
        let others = self
            .parameters
            .iter()
            .map(|parameter| match parameter.split_once('=') {
                Some((name, _)) => format!("{name}=***"),
                None => "***".to_owned(),
            });
        for (place, parameter) in index.chain(others).enumerate() {
            write!(f, "{}{parameter}", if place == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SinkUrl({self})")
    }
}

#[cfg(test)]
mod tests;
