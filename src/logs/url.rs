//! URLs of `--sink` and `IMRUN_SINK`.

use super::authorization::Authorization;
use super::document::Documents;
use super::event::Origin;
use super::http::basic;
use super::net::Peer;
use super::sink::{Acknowledgement, Sink};
use super::stream::Streamed;
use super::syslog::{self, Syslog};
use super::{es, forward, otlp, stdio};
use crate::base::error::{Error, Result};
use crate::base::tls;
use std::collections::HashSet;
use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Parameters of servers with the bulk API.
const OF_BULK: [&str; 17] = [
    "_source",
    "_source_excludes",
    "_source_includes",
    "batch_size",
    "error_trace",
    "filter_path",
    "human",
    "include_source_on_error",
    "list_executed_pipelines",
    "pipeline",
    "pretty",
    "refresh",
    "require_alias",
    "require_data_stream",
    "routing",
    "timeout",
    "wait_for_active_shards",
];

/// Parameters of VictoriaLogs, for both protocols.
const OF_VICTORIA: [&str; 8] = [
    "_msg_field",
    "_stream_fields",
    "_time_field",
    "debug",
    "decolorize_fields",
    "extra_fields",
    "ignore_fields",
    "preserve_json_keys",
];

/// Prefix of a parameter that only the server knows.
const SENT_ON: &str = "send.";

const KNOWN: &str = "es+http, es+https, otlp+http, otlp+https, syslog+tcp, syslog+tls, syslog+udp, \
     forward+tcp, forward+tls, json+tcp, json+tls (SCHEME://HOST:PORT), stdio:";

/// Protocol of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Bulk API of Elasticsearch and compatible servers.
    Elastic,
    /// OpenTelemetry's protocol over HTTP.
    Otlp,
    /// RFC 5424.
    Syslog,
    /// Fluentd's forward protocol.
    Forward,
    /// One JSON object per line.
    Json,
    /// imrun's own stdout and stderr.
    Stdio,
}

/// Transport of a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP, with HTTP for some protocols.
    Plain,
    /// TCP or HTTP with TLS.
    Tls,
    /// One message per UDP datagram.
    Udp,
    /// Existing descriptors.
    None,
}

/// Scheme of the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    name: &'static str,
    /// Protocol.
    pub protocol: Protocol,
    /// Transport.
    pub transport: Transport,
}

const SCHEMES: [Scheme; 12] = {
    const fn scheme(name: &'static str, protocol: Protocol, transport: Transport) -> Scheme {
        Scheme {
            name,
            protocol,
            transport,
        }
    }
    use Protocol::{Elastic, Forward, Json, Otlp, Stdio, Syslog};
    use Transport::{None, Plain, Tls, Udp};
    [
        scheme("es+http", Elastic, Plain),
        scheme("es+https", Elastic, Tls),
        scheme("otlp+http", Otlp, Plain),
        scheme("otlp+https", Otlp, Tls),
        scheme("syslog+tcp", Syslog, Plain),
        scheme("syslog+tls", Syslog, Tls),
        scheme("syslog+udp", Syslog, Udp),
        scheme("forward+tcp", Forward, Plain),
        scheme("forward+tls", Forward, Tls),
        scheme("json+tcp", Json, Plain),
        scheme("json+tls", Json, Tls),
        scheme("stdio", Stdio, None),
    ]
};

/// A valid sink URL. Neither `Display` nor `Debug` shows credentials.
#[derive(Clone, PartialEq, Eq)]
pub struct SinkUrl {
    scheme: Scheme,
    /// `HOST:PORT`; empty for `stdio:`.
    pub(super) address: String,
    credentials: Option<Credentials>,
    /// Path: empty, or with a leading slash and without a trailing one.
    pub(super) path: String,
    /// `?index=`.
    pub(super) index: Option<String>,
    /// `?tag=`.
    pub(super) tag: Option<String>,
    /// `?facility=`, as a number of RFC 5424.
    pub(super) facility: Option<u8>,
    /// `?compression=gzip`.
    pub(super) gzip: bool,
    /// `?parse=json`.
    pub(super) parse: bool,
    /// `?api_key=`.
    api_key: Option<String>,
    /// File of `?authorization=`.
    authorization: Option<PathBuf>,
    tls: tls::Settings,
    /// Other parameters as written; they are for the server.
    pub(super) parameters: Vec<String>,
}

/// Decoded user and password of a URL.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub user: Vec<u8>,
    pub password: Vec<u8>,
}

impl SinkUrl {
    /// Returns protocol and transport.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns the meaning of its acknowledgements.
    pub fn acknowledgement(&self) -> Acknowledgement {
        match (self.scheme.protocol, self.scheme.transport) {
            (Protocol::Elastic | Protocol::Otlp | Protocol::Forward, _) => {
                Acknowledgement::Protocol
            }
            (_, Transport::Plain | Transport::Tls) => Acknowledgement::Transport,
            (_, Transport::Udp) => Acknowledgement::None,
            (_, Transport::None) => Acknowledgement::Unshipped,
        }
    }

    /// Returns true if it only shows the unmodified bytes on imrun's own streams.
    pub fn is_bare(&self) -> bool {
        self.acknowledgement() == Acknowledgement::Unshipped
    }

    /// Creates the sink without connecting it.
    pub(super) fn sink(&self, origin: &Origin, timeout: Duration) -> Result<Box<dyn Sink>> {
        let peer = || {
            let tls = (self.scheme.transport == Transport::Tls).then_some(&self.tls);
            Peer::new(&self.address, tls, timeout)
        };
        let syslog = || Syslog::new(origin, self.facility);
        Ok(match (self.scheme.protocol, self.scheme.transport) {
            (Protocol::Elastic, _) => Box::new(es::sink(self, peer()?, origin)?),
            (Protocol::Otlp, _) => Box::new(otlp::sink(self, peer()?, origin)?),
            (Protocol::Forward, _) => Box::new(forward::Forward::new(self, peer()?, origin)),
            (Protocol::Json, _) => {
                Box::new(Streamed::new(peer()?, Documents::new(origin, self.parse)))
            }
            (Protocol::Syslog, Transport::Udp) => {
                Box::new(syslog::Datagrams::new(&self.address, syslog()))
            }
            (Protocol::Syslog, _) => Box::new(Streamed::new(peer()?, syslog())),
            (Protocol::Stdio, _) => Box::new(stdio::Stdio::inherited()?),
        })
    }

    /// Returns the header's value, if there is one.
    pub(super) fn authorization(&self) -> Result<Authorization> {
        if let Some(file) = &self.authorization {
            return Authorization::of_file(file);
        }
        let key = self.api_key.as_ref().map(|key| format!("ApiKey {key}"));
        let basic = || self.credentials.as_ref().map(basic);
        Ok(Authorization::fixed(key.or_else(basic)))
    }
}

impl FromStr for SinkUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<SinkUrl> {
        let hint = format!("known are {KNOWN}");
        let (name, rest) = text
            .split_once(':')
            .ok_or_else(|| wrong(text, "has no scheme").hint(&hint))?;
        let scheme = SCHEMES.into_iter().find(|scheme| scheme.name == name);
        let scheme = scheme.ok_or_else(|| wrong(text, "the scheme is unknown").hint(&hint))?;
        match scheme.protocol {
            _ if scheme.transport == Transport::Tls && !cfg!(feature = "tls") => {
                let why = "this build of imrun has no TLS";
                Err(Error::unsupported(format_args!("sink {name}:"), why))
            }
            Protocol::Stdio if rest.is_empty() => Ok(bare(scheme)),
            Protocol::Stdio => Err(wrong(text, "nothing may follow stdio:")),
            _ => network(text, scheme, rest),
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
        tag: None,
        facility: None,
        gzip: false,
        parse: false,
        api_key: None,
        authorization: None,
        tls: tls::Settings::default(),
        parameters: Vec::new(),
    }
}

fn network(text: &str, scheme: Scheme, rest: &str) -> Result<SinkUrl> {
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
        ..bare(scheme)
    };
    if !url.is_http() && (url.credentials.is_some() || !url.path.is_empty()) {
        return Err(wrong("expected HOST:PORT without user or path"));
    }
    let (mut cert, mut key) = (None, None);
    let mut names = HashSet::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let name = parameter.split('=').next().unwrap_or_default();
        let of_server = is_of_server(name) || name.starts_with(SENT_ON);
        if !names.insert(name) && !of_server {
            return Err(wrong("a parameter is repeated"));
        }
        match parameter.split_once('=') {
            Some(("cert", file)) if url.is_tls() => cert = Some(path_of(text, file)?),
            Some(("key", file)) if url.is_tls() => key = Some(path_of(text, file)?),
            _ => url.parameter(text, parameter)?,
        }
    }
    url.tls.client = match (cert, key) {
        (Some(cert), Some(key)) => Some(tls::Client { cert, key }),
        (None, None) => None,
        _ => return Err(wrong("cert and key belong together")),
    };
    let ways = [
        url.credentials.is_some(),
        url.api_key.is_some(),
        url.authorization.is_some(),
    ];
    match ways.into_iter().filter(|way| *way).count() {
        0 | 1 => Ok(url),
        _ => Err(wrong(
            "it has more than one of USER, api_key and authorization",
        )),
    }
}

impl SinkUrl {
    fn is_http(&self) -> bool {
        matches!(self.scheme.protocol, Protocol::Elastic | Protocol::Otlp)
    }

    fn is_tls(&self) -> bool {
        self.scheme.transport == Transport::Tls
    }

    /// Reads one parameter of the query.
    fn parameter(&mut self, text: &str, parameter: &str) -> Result<()> {
        use Protocol::{Elastic, Forward, Syslog};
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let protocol = self.scheme.protocol;
        match name {
            "ca" if self.is_tls() => self.tls.ca = Some(path_of(text, value)?),
            "index" if protocol == Elastic => self.index = Some(index(text, value)?),
            "api_key" if protocol == Elastic => self.api_key = Some(key(text, value)?),
            "authorization" if self.is_http() => {
                self.authorization = Some(path_of(text, value)?);
            }
            "tag" if protocol == Forward => self.tag = Some(tag(text, value)?),
            "facility" if protocol == Syslog => self.facility = Some(facility(text, value)?),
            "compression" if self.is_http() || protocol == Forward => match value {
                "gzip" => self.gzip = true,
                "none" => self.gzip = false,
                _ => return Err(wrong(text, "compression must be gzip or none")),
            },
            "parse" if protocol != Syslog => match value {
                "json" => self.parse = true,
                "none" => self.parse = false,
                _ => return Err(wrong(text, "parse must be json or none")),
            },
            _ if self.is_http() && name.len() > SENT_ON.len() && name.starts_with(SENT_ON) => {
                self.parameters.push(parameter[SENT_ON.len()..].to_owned());
            }
            _ if self.takes(name) => self.parameters.push(parameter.to_owned()),
            _ => return Err(self.unknown(text, parameter)),
        }
        Ok(())
    }

    /// Returns true if the server is known to have the parameter.
    fn takes(&self, name: &str) -> bool {
        match self.scheme.protocol {
            Protocol::Elastic => is_of_server(name),
            Protocol::Otlp => OF_VICTORIA.contains(&name),
            _ => false,
        }
    }

    /// Returns the error for a parameter that this scheme does not have. A word without a value may be
    /// part of a password, so it is not shown.
    fn unknown(&self, text: &str, parameter: &str) -> Error {
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let shown = match parameter.split_once('=') {
            Some((name, _)) if name.len() <= 40 && name.chars().all(named) => format!(" {name}"),
            _ => String::new(),
        };
        let error = wrong(text, &format!("{} has no parameter{shown}", self.scheme));
        let secure = if self.is_tls() { ", ca, cert, key" } else { "" };
        let own = match self.scheme.protocol {
            Protocol::Elastic => "index, api_key, authorization, compression, parse",
            Protocol::Otlp => "authorization, compression, parse",
            Protocol::Forward => "tag, compression, parse",
            Protocol::Syslog => "facility",
            Protocol::Json | Protocol::Stdio => "parse",
        };
        if self.is_http() {
            error.hint(format!(
                "it has {own}{secure}; send.NAME=VALUE is sent on to the server as NAME=VALUE"
            ))
        } else {
            error.hint(format!("it has {own}{secure}"))
        }
    }
}

fn is_of_server(name: &str) -> bool {
    OF_BULK.contains(&name) || OF_VICTORIA.contains(&name)
}

/// Checks `HOST:PORT`; the host is a name, an IPv4 address or an IPv6 address in brackets.
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

/// Checks that the name of an index or data stream cannot break the request.
fn index(text: &str, name: &str) -> Result<String> {
    let name = decoded(name).and_then(|name| String::from_utf8(name).ok());
    let allowed = |c: char| !c.is_control() && !c.is_whitespace() && !"\\/*?\"<>|,#:".contains(c);
    name.filter(|name| (1..=255).contains(&name.len()) && name.chars().all(allowed))
        .ok_or_else(|| wrong(text, "index is not a valid name of an index"))
}

/// Checks an API key as issued by Elasticsearch, since it becomes part of a header.
fn key(text: &str, value: &str) -> Result<String> {
    let key = decoded(value).and_then(|key| String::from_utf8(key).ok());
    key.filter(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| wrong(text, "api_key must be the encoded key"))
}

fn tag(text: &str, value: &str) -> Result<String> {
    let tag = decoded(value).and_then(|tag| String::from_utf8(tag).ok());
    tag.filter(|tag| (1..=255).contains(&tag.len()) && tag.bytes().all(|b| b.is_ascii_graphic()))
        .ok_or_else(|| wrong(text, "tag must be 1 to 255 visible characters"))
}

fn facility(text: &str, value: &str) -> Result<u8> {
    syslog::facility(value).ok_or_else(|| {
        wrong(text, "facility is unknown: expected one of RFC 5424")
            .hint("user, daemon, local0 to local7, …")
    })
}

fn path_of(text: &str, value: &str) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = decoded(value).filter(|bytes| !bytes.is_empty() && !bytes.contains(&0));
    let bytes = bytes.ok_or_else(|| wrong(text, "a parameter must be the path of a file"))?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

/// Returns true for visible ASCII that does not end a query.
fn is_sendable(byte: u8) -> bool {
    byte.is_ascii_graphic()
        && !matches!(
            byte,
            b'#' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}'
        )
}

/// Decodes percent-encoding (RFC 3986, section 2.1).
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

/// Returns a text, which may be invalid, without anything that could be a credential.
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

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl fmt::Display for SinkUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme.protocol == Protocol::Stdio {
            return f.write_str("stdio:");
        }
        let userinfo = match self.credentials {
            Some(_) => "***@",
            None => "",
        };
        let (scheme, address, path) = (self.scheme, &self.address, &self.path);
        write!(f, "{scheme}://{userinfo}{address}{path}")?;
        let set = |set: bool, text: &str| set.then(|| text.to_owned());
        let own = [
            self.index.as_ref().map(|index| format!("index={index}")),
            self.tag.as_ref().map(|tag| format!("tag={tag}")),
            self.facility
                .map(|number| format!("facility={}", syslog::facility_name(number))),
            set(self.gzip, "compression=gzip"),
            set(self.parse, "parse=json"),
            set(self.api_key.is_some(), "api_key=***"),
        ];
        // The value of a parameter may be a key.
        let others = self.parameters.iter().map(|parameter| {
            let name = parameter
                .split_once('=')
                .map(|(name, _)| format!("{name}="));
            name.unwrap_or_default() + "***"
        });
        for (place, parameter) in own.into_iter().flatten().chain(others).enumerate() {
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
