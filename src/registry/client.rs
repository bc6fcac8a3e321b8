//! A request to a registry: authenticated, redirected, and made again where that may help.

use super::agents::Agents;
use super::endpoint::{Endpoint, Scheme};
use super::retry::{self, Again, Retries};
use super::token::Tried;
use super::{Settings, endpoint, explanation, location};
use crate::error::{Error, Reason, Result, reason_of};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use ureq::http::{Method, Request, Response, Uri, header};
use ureq::{Body, Timeout};

/// Redirects in a row that are followed.
const MAX_REDIRECTS: usize = 5;

/// One repository of one registry or mirror.
pub struct Client {
    pub(super) endpoint: Endpoint,
    /// What may be done there: `pull`, or `pull,push`.
    pub(super) actions: &'static str,
    /// Scheme and authority.
    pub(super) base: Uri,
    pub(super) settings: Settings,
    /// What the registry takes for an authentication, once that is known.
    pub(super) authorization: Mutex<Option<Arc<str>>>,
    agents: Agents,
    ends: Instant,
}

/// A request that can be made more than once.
pub struct Exchange<'a> {
    /// Names its object in errors.
    pub what: &'a str,
    pub method: Method,
    pub url: Uri,
    /// Beside those that every request has.
    pub headers: Vec<(header::HeaderName, String)>,
    pub body: Content<'a>,
    /// The statuses that are no error.
    pub expected: &'a [u16],
}

impl<'a> Exchange<'a> {
    /// A request that brings nothing.
    pub fn new(what: &'a str, method: Method, url: Uri, expected: &'a [u16]) -> Exchange<'a> {
        Exchange {
            what,
            method,
            url,
            headers: Vec::new(),
            body: Content::Nothing,
            expected,
        }
    }
}

/// What a request brings.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// All of a file, whatever its position is.
    File(&'a File),
}

/// Why an attempt failed, and whether another may not.
#[derive(Debug)]
pub struct Failure {
    pub error: Error,
    pub again: Again,
}

impl Failure {
    /// A failure that another attempt would not change.
    pub fn last(error: Error) -> Failure {
        Failure {
            error,
            again: Again::Never,
        }
    }
}

impl Client {
    /// A client of the repository at an endpoint.
    pub fn new(endpoint: Endpoint, actions: &'static str, settings: &Settings) -> Result<Client> {
        let authority = endpoint::authority(&endpoint.registry);
        let uri = |scheme: &str| {
            let text = format!("{scheme}://{authority}/");
            text.parse::<Uri>()
                .map_err(|_| Error::usage(&endpoint.registry, "is no host of a URL"))
        };
        let (plain, tls) = (uri("http")?, uri("https")?);
        let mut client = Client {
            agents: Agents::new(settings, authority, &endpoint.tls),
            endpoint,
            actions,
            base: plain,
            settings: settings.clone(),
            authorization: Mutex::default(),
            ends: Instant::now() + settings.deadline,
        };
        if !client.is_plain()? {
            client.base = tls;
        }
        Ok(client)
    }

    /// Returns whether requests go without TLS. A registry that may be either is asked; one that wants TLS answers
    /// 400 or what is not HTTP. One on this machine may be either, unless the host has certificates for it.
    fn is_plain(&self) -> Result<bool> {
        let registry = &self.endpoint.registry;
        match self.endpoint.scheme {
            Scheme::Http => return Ok(true),
            Scheme::Https => return Ok(false),
            Scheme::Usual if self.settings.plain_http => return Ok(true),
            Scheme::Usual if !endpoint::is_loopback(endpoint::host(registry)) => return Ok(false),
            Scheme::Usual | Scheme::Either => {}
        }
        if !endpoint::certificates(registry).is_empty() {
            return Ok(false);
        }
        let request = Request::get(self.absolute(&format!("{}/", self.endpoint.path))?).body(());
        let request = request.map_err(|error| Error::usage(registry, error))?;
        match self.agents.to(&self.base)?.run(request) {
            Ok(response) => Ok(response.status() != 400),
            Err(ureq::Error::Protocol(_)) => Ok(false),
            Err(ureq::Error::Io(error)) if is_cut_off(&error) => Ok(false),
            // The request itself will say it, and may be made again. A host that is not this machine is
            // asked by TLS then.
            Err(_) => Ok(endpoint::is_loopback(endpoint::host(registry))),
        }
    }

    /// Names the server in errors: `the registry`, or `the mirror HOST`.
    pub fn who(&self) -> String {
        self.endpoint.title.clone()
    }

    /// Says that the next server is asked, and why.
    pub fn pass_over(&self, error: &Error) {
        log::warn!("{} is passed over: {error}", self.who());
    }

    /// Names the server of `url`, which may be another one that the registry redirects to.
    fn who_at(&self, url: &Uri) -> String {
        match location::same_origin(url, &self.base) {
            true => self.who(),
            false => format!(
                "{}, where {} redirects to,",
                url.authority().map_or("", |authority| authority.as_str()),
                self.who()
            ),
        }
    }

    /// The URL of a part of the repository: `manifests/latest`, `blobs/sha256:…`.
    pub fn url(&self, part: &str) -> Result<Uri> {
        let Endpoint {
            path,
            repository,
            namespace,
            ..
        } = &self.endpoint;
        let query = match namespace {
            Some(namespace) => format!("?ns={namespace}"),
            None => String::new(),
        };
        self.absolute(&format!("{path}/{repository}/{part}{query}"))
    }

    fn absolute(&self, path: &str) -> Result<Uri> {
        let url = location::resolve(&self.base, path);
        url.ok_or_else(|| {
            Error::usage(
                &self.endpoint.registry,
                format_args!("no URL with {path:?}"),
            )
        })
    }

    /// Makes the request until it succeeds, or it is of no use any more.
    pub fn send(&self, exchange: &Exchange) -> Result<Response<Body>> {
        let mut retries = Retries::default();
        loop {
            match self.attempt(exchange) {
                Ok(response) => return Ok(response),
                Err(failure) => self.wait(failure, &mut retries)?,
            }
        }
    }

    /// Waits before another attempt, or says why there is none.
    pub fn wait(&self, failure: Failure, retries: &mut Retries) -> Result<()> {
        match (retries.next(failure.again), failure.again) {
            (Some(wait), _) if wait < self.left() => {
                std::thread::sleep(wait);
                Ok(())
            }
            (_, Again::After(wait)) => Err(failure.error.hint(format_args!(
                "{} asks to be left alone for {} s: try again later",
                self.who(),
                wait.as_secs()
            ))),
            _ => Err(failure.error),
        }
    }

    /// Makes a request until all of its answer is there, which is a document.
    pub fn fetch(&self, exchange: &Exchange, limit: usize) -> Result<(Response<()>, Vec<u8>)> {
        let mut retries = Retries::default();
        loop {
            let fetched = self.attempt(exchange).and_then(|response| {
                let (head, body) = response.into_parts();
                let bytes = self.read(exchange.what, &self.who(), body, limit)?;
                let head = Response::from_parts(head, ());
                self.refuse_page(exchange.what, &head, &bytes)
                    .map_err(Failure::last)?;
                Ok((head, bytes))
            });
            match fetched {
                Ok(fetched) => return Ok(fetched),
                Err(failure) => self.wait(failure, &mut retries)?,
            }
        }
    }

    /// What is left of the time for all of it.
    pub fn left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// What is wrong when nothing is left of it.
    pub fn late(&self, what: &str) -> Failure {
        let why = format_args!(
            "is not there after {} s",
            self.settings.deadline.as_secs_f32()
        );
        Failure::last(Error::system(what, why).hint("--deadline sets how long a transfer may take"))
    }

    /// Makes the request once, with the redirects and the authentication that it takes.
    pub fn attempt(&self, exchange: &Exchange) -> std::result::Result<Response<Body>, Failure> {
        let (mut url, mut redirects, mut tried) = (exchange.url.clone(), 0, Tried::default());
        loop {
            // No other server learns what this one is shown.
            let ours = location::same_origin(&url, &self.base);
            let authorization = self.authorization.lock().map_or(None, |held| held.clone());
            let authorization = authorization.filter(|_| ours);
            let who = self.who_at(&url);
            let response = self.once(exchange, &url, &who, authorization.as_deref())?;
            match response.status().as_u16() {
                401 if ours
                    && self.authenticate(
                        exchange.what,
                        &response,
                        authorization,
                        &mut tried,
                    )? => {}
                status @ (301 | 302 | 303 | 307 | 308) if may_follow(exchange, status) => {
                    redirects += 1;
                    url = self.redirected(exchange.what, &url, &response, redirects)?;
                }
                status if exchange.expected.contains(&status) => return Ok(response),
                _ => return Err(refusal(exchange.what, &who, response)),
            }
        }
    }

    /// Where an answer sends the request.
    pub(super) fn redirected(
        &self,
        what: &str,
        from: &Uri,
        response: &Response<Body>,
        redirects: usize,
    ) -> std::result::Result<Uri, Failure> {
        let who = self.who_at(from);
        let wrong = |why: String| Failure::last(Error::policy(what, format_args!("{who} {why}")));
        if redirects > MAX_REDIRECTS {
            return Err(wrong(format!("redirects more than {MAX_REDIRECTS} times")));
        }
        self.place(what, from, response, "redirects to")
            .map_err(Failure::last)
    }

    /// The URL in an answer's `Location`; `verb` says in an error what it is for.
    pub(super) fn place(
        &self,
        what: &str,
        from: &Uri,
        response: &Response<Body>,
        verb: &str,
    ) -> Result<Uri> {
        let who = self.who_at(from);
        let bytes = response.headers().get(header::LOCATION);
        let text = bytes.map_or_else(String::new, |value| {
            String::from_utf8_lossy(value.as_bytes()).into_owned()
        });
        let shown = location::shown(&text);
        if text.is_empty() {
            return Err(Error::digest(
                what,
                format_args!("{who} {verb} nowhere: no Location"),
            ));
        }
        let target = location::resolve(from, &text).ok_or_else(|| {
            Error::digest(
                what,
                format_args!("{who} {verb} {shown:?}, which is no HTTP URL"),
            )
        })?;
        if self.may_speak_to(&target) {
            return Ok(target);
        }
        let error = Error::policy(what, format_args!("{who} {verb} {shown:?}, without TLS"));
        Err(match target.host() == from.host() {
            true => error
                .hint("a proxy before a registry must tell it the scheme, by X-Forwarded-Proto"),
            false => error,
        })
    }

    /// Whether a request may go there: by TLS, or where it may go without.
    pub(super) fn may_speak_to(&self, url: &Uri) -> bool {
        let loopback = |url: &Uri| url.host().is_some_and(endpoint::is_loopback);
        url.scheme_str() == Some("https")
            || self.settings.plain_http
            || location::same_origin(url, &self.base)
            || loopback(url) && loopback(&self.base)
    }

    /// One request, and its answer's head.
    pub(super) fn once(
        &self,
        exchange: &Exchange,
        url: &Uri,
        who: &str,
        authorization: Option<&str>,
    ) -> std::result::Result<Response<Body>, Failure> {
        let what = exchange.what;
        if self.left().is_zero() {
            return Err(self.late(what));
        }
        let mut request = Request::builder().method(exchange.method.clone()).uri(url);
        for (name, value) in &exchange.headers {
            request = request.header(name, value);
        }
        if location::same_origin(url, &self.base) {
            for (name, value) in &self.endpoint.headers {
                request = request.header(name, value);
            }
        }
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let unfit = |error: ureq::http::Error| Failure::last(Error::usage(what, error));
        let agent = self.agents.to(url).map_err(Failure::last)?;
        let outcome = match exchange.body {
            Content::Nothing => agent.run(request.body(()).map_err(unfit)?),
            Content::Bytes(bytes) => agent.run(request.body(bytes).map_err(unfit)?),
            Content::File(file) => {
                let mut file = file;
                std::io::Seek::rewind(&mut file)
                    .map_err(|error| Failure::last(Error::system(what, reason_of(&error))))?;
                agent.run(request.body(file).map_err(unfit)?)
            }
        };
        outcome.map_err(|error| failure(what, who, error))
    }

    /// All of a short answer: at most `limit` bytes, before long.
    pub fn read(
        &self,
        what: &str,
        who: &str,
        body: Body,
        limit: usize,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let (mut bytes, mut piece) = (Vec::new(), [0; 8 << 10]);
        let (began, mut body) = (Instant::now(), body.into_reader());
        loop {
            match body.read(&mut piece) {
                Ok(0) => return Ok(bytes),
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
                Err(error) => return Err(broken(what, who, error)),
            }
            if bytes.len() > limit {
                let why = format_args!("{who} sends more than {limit} bytes");
                return Err(Failure::last(Error::digest(what, why)));
            }
            if began.elapsed() > self.settings.timeout {
                return Err(too_slow(what, who));
            }
        }
    }

    /// A web page where a document should be: a login, or an error of something in between. A document that is only
    /// labelled as one is none.
    fn refuse_page(&self, what: &str, head: &Response<()>, bytes: &[u8]) -> Result<()> {
        let looks_like_json = bytes.trim_ascii_start().starts_with(b"{");
        match is_page(head) && !looks_like_json {
            true => Err(self.page(what)),
            false => Ok(()),
        }
    }

    /// The error for a web page in the place of something else.
    pub fn page(&self, what: &str) -> Error {
        Error::digest(
            what,
            format_args!("{} sends a web page in its place", self.who()),
        )
        .hint("is it a registry? A proxy or a login page may answer for it")
    }
}

/// Whether an answer says that it is a web page. Some registries say so of blobs.
pub fn is_page<B>(response: &Response<B>) -> bool {
    header_of(response, header::CONTENT_TYPE)
        .is_some_and(|text| text.to_ascii_lowercase().starts_with("text/html"))
}

/// A body can be sent again to where it did not go, but only if the method stays the same.
fn may_follow(exchange: &Exchange, status: u16) -> bool {
    matches!(exchange.method, Method::GET | Method::HEAD) || matches!(status, 307 | 308)
}

/// A header that is text.
pub fn header_of<B>(response: &Response<B>, name: impl header::AsHeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// What an answer means that is none of those that were expected.
pub fn refusal(what: &str, who: &str, response: Response<Body>) -> Failure {
    let status = response.status().as_u16();
    let wait = header_of(&response, header::RETRY_AFTER);
    let wait = wait.and_then(|wait| retry::after(wait, SystemTime::now()));
    let again = match (status, wait) {
        (429 | 503, Some(wait)) => Again::After(wait),
        (408 | 429 | 500 | 502 | 503 | 504, _) => Again::Soon,
        _ => Again::Never,
    };
    let words = explanation::of(response).map_or(String::new(), |text| format!(": {text}"));
    let error = Error::system(what, format_args!("{who} answers {status}{words}"));
    let error = match status {
        401 | 403 => error.hint("podman login and docker login write credentials that imrun reads; REGISTRY_AUTH_FILE names another file"),
        404 => error.hint("is the name right? A registry may also hide what it wants credentials for"),
        _ => error,
    };
    Failure { error, again }
}

/// What it means that there was no answer.
fn failure(what: &str, who: &str, error: ureq::Error) -> Failure {
    let soon = |why: String| Failure {
        error: Error::system(what, why),
        again: Again::Soon,
    };
    let last = |why: String| Failure::last(Error::system(what, why));
    match error {
        ureq::Error::Io(error) => broken(what, who, error),
        ureq::Error::HostNotFound => last(format!("{who} has no address: its name is not known")),
        ureq::Error::Timeout(Timeout::Resolve) => {
            soon(format!("no address before the timeout: {who}"))
        }
        ureq::Error::Timeout(Timeout::Connect) => {
            soon(format!("no connection before the timeout: {who}"))
        }
        ureq::Error::Timeout(_) => soon(format!("no answer before the timeout: {who}")),
        ureq::Error::Protocol(error) => {
            last(format!("{who} answers what is not HTTP/1.1: {error}"))
        }
        error => last(format!("{who}: {error}")),
    }
}

/// What it means that a connection broke off.
pub fn broken(what: &str, who: &str, error: std::io::Error) -> Failure {
    let inner = error.get_ref();
    if let Some(ureq::Error::Timeout(_)) = inner.and_then(|inner| inner.downcast_ref()) {
        let error = Error::system(what, format_args!("{who} says nothing more"));
        return Failure {
            error,
            again: Again::Soon,
        };
    }
    if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return Failure::last(of_tls(what, who, error));
    }
    let again = match error.kind() {
        // Names that cannot be resolved have no kind of their own in the standard library.
        _ if error.to_string().starts_with("failed to lookup address") => Again::Never,
        ErrorKind::ConnectionRefused => Again::Nobody,
        _ => Again::Soon,
    };
    let why = match error.kind() {
        ErrorKind::UnexpectedEof => format!("{who} closes the connection"),
        _ => format!("{who}: {}", reason_of(&error)),
    };
    Failure {
        error: Error::system(what, why),
        again,
    }
}

fn of_tls(what: &str, who: &str, error: &rustls::Error) -> Error {
    let hint = match error {
        rustls::Error::InvalidCertificate(_) => {
            "a CA of one's own: SSL_CERT_FILE, or /etc/containers/certs.d/HOST:PORT/ca.crt"
        }
        rustls::Error::InvalidMessage(_) => "is it a registry without TLS? --plain-http",
        _ => return Error::system(what, format_args!("{who}: TLS: {error}")),
    };
    Error::system(what, format_args!("{who}: TLS: {error}")).hint(hint)
}

/// A registry that gives something now and then, but not enough.
pub fn too_slow(what: &str, who: &str) -> Failure {
    let error = Error::new(Reason::System, what, format_args!("{who} sends too slowly"));
    Failure::last(error.hint("--timeout sets how long it may take to send 64 KiB"))
}

fn is_cut_off(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
    )
}
