//! Requests to a registry, with authentication, redirects and retries.

use super::agents::Agents;
use super::endpoint::{Endpoint, Scheme};
use super::retry::{self, Again, Retries};
use super::token::Tried;
use super::{Settings, endpoint, explanation, location};
use crate::base::error::{Error, Reason, Result, reason_of};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use ureq::http::{Method, Request, Response, Uri, header};
use ureq::{Body, Timeout};

/// Maximum number of consecutive redirects.
const MAX_REDIRECTS: usize = 5;

/// Client for one repository of a registry or mirror.
pub struct Client {
    pub(super) endpoint: Endpoint,
    /// Actions on the repository: `pull`, or `pull,push`.
    pub(super) actions: &'static str,
    /// Scheme and authority of the server.
    pub(super) base: Uri,
    pub(super) settings: Settings,
    /// Value of `Authorization` that the registry accepts, once known.
    pub(super) authorization: Mutex<Option<Arc<str>>>,
    agents: Agents,
    ends: Instant,
}

/// A request that can be repeated.
pub struct Exchange<'a> {
    /// Name of the object in errors.
    pub what: &'a str,
    pub method: Method,
    pub url: Uri,
    /// Additional headers.
    pub headers: Vec<(header::HeaderName, String)>,
    pub body: Content<'a>,
    /// Statuses that are not errors.
    pub expected: &'a [u16],
}

impl<'a> Exchange<'a> {
    /// Creates a request without a body.
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

/// Body of a request.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// A whole file, regardless of its position.
    File(&'a File),
}

/// Error of an attempt, and whether to retry.
#[derive(Debug)]
pub struct Failure {
    pub error: Error,
    pub again: Again,
}

impl Failure {
    /// Creates a failure that must not be retried.
    pub fn last(error: Error) -> Failure {
        Failure {
            error,
            again: Again::Never,
        }
    }
}

impl Client {
    /// Creates a client for the repository at an endpoint.
    pub fn new(endpoint: Endpoint, actions: &'static str, settings: &Settings) -> Result<Client> {
        let authority = endpoint::authority(&endpoint.registry);
        let uri = |scheme: &str| {
            let text = format!("{scheme}://{authority}/");
            text.parse::<Uri>()
                .map_err(|_| Error::usage(&endpoint.registry, "is not a valid host"))
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

    /// Returns true if requests go without TLS. If the endpoint allows both, asks the registry: one that
    /// requires TLS answers 400 or not in HTTP. A registry on this machine allows both, unless the host
    /// has certificates for it.
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
            // The request itself will report the error, and may be retried. A host that is not this
            // machine is then contacted with TLS.
            Err(_) => Ok(endpoint::is_loopback(endpoint::host(registry))),
        }
    }

    /// Returns the server's name for errors: `the registry`, or `the mirror HOST`.
    pub fn server_name(&self) -> String {
        self.endpoint.title.clone()
    }

    /// Logs that this server failed and the next one is asked.
    pub fn log_failover(&self, error: &Error) {
        log::warn!(
            "{} failed, asking the next server: {error}",
            self.server_name()
        );
    }

    /// Returns the name of the server of `url`, to which the registry may have redirected, or where it may
    /// want an upload.
    fn server_name_at(&self, url: &Uri) -> String {
        if location::same_origin(url, &self.base) {
            self.server_name()
        } else {
            format!(
                "{} (named by {})",
                location::shown(&url.to_string()),
                self.server_name()
            )
        }
    }

    /// Returns the URL of a path in the repository: `manifests/latest`, `blobs/sha256:…`.
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
                format_args!("cannot make a URL with {path:?}"),
            )
        })
    }

    /// Sends the request, with retries, until it succeeds or fails for good.
    pub fn send(&self, exchange: &Exchange) -> Result<Response<Body>> {
        let mut retries = Retries::default();
        loop {
            match self.attempt(exchange) {
                Ok(response) => return Ok(response),
                Err(failure) => self.wait(failure, &mut retries)?,
            }
        }
    }

    /// Waits before the next attempt, or returns the error if there is none.
    pub fn wait(&self, failure: Failure, retries: &mut Retries) -> Result<()> {
        match (retries.next(failure.again), failure.again) {
            (Some(wait), _) if wait < self.time_left() => {
                std::thread::sleep(wait);
                Ok(())
            }
            (_, Again::After(wait)) => Err(failure.error.hint(format_args!(
                "{} is rate-limited: retry in {} s",
                self.server_name(),
                wait.as_secs()
            ))),
            _ => Err(failure.error),
        }
    }

    /// Sends a request, with retries, until its whole answer, a document, has arrived.
    pub fn fetch(&self, exchange: &Exchange, limit: usize) -> Result<(Response<()>, Vec<u8>)> {
        let mut retries = Retries::default();
        loop {
            let fetched = self.attempt(exchange).and_then(|response| {
                let (head, body) = response.into_parts();
                let bytes = self.read(exchange.what, &self.server_name(), body, limit)?;
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

    /// Returns the rest of the time until the deadline.
    pub fn time_left(&self) -> Duration {
        self.ends.saturating_duration_since(Instant::now())
    }

    /// Returns the error for a missed deadline.
    pub fn deadline_error(&self, what: &str) -> Failure {
        let why = format_args!(
            "did not finish within {} s",
            self.settings.deadline.as_secs_f32()
        );
        Failure::last(Error::system(what, why).hint("set a longer limit with --deadline"))
    }

    /// Sends the request once, with redirects and authentication.
    pub fn attempt(&self, exchange: &Exchange) -> std::result::Result<Response<Body>, Failure> {
        let (mut url, mut redirects, mut tried) = (exchange.url.clone(), 0, Tried::default());
        loop {
            // Other servers must not see this server's credentials.
            let ours = location::same_origin(&url, &self.base);
            let authorization = self.authorization.lock().map_or(None, |held| held.clone());
            let authorization = authorization.filter(|_| ours);
            let who = self.server_name_at(&url);
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

    /// Returns the target of a redirect.
    pub(super) fn redirected(
        &self,
        what: &str,
        from: &Uri,
        response: &Response<Body>,
        redirects: usize,
    ) -> std::result::Result<Uri, Failure> {
        let who = self.server_name_at(from);
        let wrong = |why: String| Failure::last(Error::policy(what, format_args!("{who} {why}")));
        if redirects > MAX_REDIRECTS {
            return Err(wrong(format!("redirects more than {MAX_REDIRECTS} times")));
        }
        self.place(what, from, response, "redirects to")
            .map_err(Failure::last)
    }

    /// Returns the URL in an answer's `Location`; `verb` names its purpose in errors.
    pub(super) fn place(
        &self,
        what: &str,
        from: &Uri,
        response: &Response<Body>,
        verb: &str,
    ) -> Result<Uri> {
        let who = self.server_name_at(from);
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
                format_args!("{who} {verb} {shown:?}, which is not an HTTP URL"),
            )
        })?;
        if self.may_speak_to(&target) {
            return Ok(target);
        }
        let error = Error::policy(what, format_args!("{who} {verb} {shown:?}, without TLS"));
        Err(if target.host() == from.host() {
            error.hint("a proxy in front of the registry must set X-Forwarded-Proto")
        } else {
            error
        })
    }

    /// Returns true if requests to the URL are allowed: with TLS, or without if the endpoint permits that.
    pub(super) fn may_speak_to(&self, url: &Uri) -> bool {
        let loopback = |url: &Uri| url.host().is_some_and(endpoint::is_loopback);
        url.scheme_str() == Some("https")
            || self.settings.plain_http
            || location::same_origin(url, &self.base)
            || loopback(url) && loopback(&self.base)
    }

    /// Sends one request and returns the head of the answer.
    pub(super) fn once(
        &self,
        exchange: &Exchange,
        url: &Uri,
        who: &str,
        authorization: Option<&str>,
    ) -> std::result::Result<Response<Body>, Failure> {
        let what = exchange.what;
        if self.time_left().is_zero() {
            return Err(self.deadline_error(what));
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

    /// Reads a whole short answer of at most `limit` bytes.
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

    /// Refuses a web page instead of a document: a login page, or an error of a proxy. A document that
    /// is only labelled as a web page is accepted.
    fn refuse_page(&self, what: &str, head: &Response<()>, bytes: &[u8]) -> Result<()> {
        let looks_like_json = bytes.trim_ascii_start().starts_with(b"{");
        if is_page(head) && !looks_like_json {
            Err(self.page(what))
        } else {
            Ok(())
        }
    }

    /// Returns the error for a web page instead of another object.
    pub fn page(&self, what: &str) -> Error {
        Error::digest(
            what,
            format_args!("{} sends a web page instead", self.server_name()),
        )
        .hint("check that this is a registry: a proxy or a login page may have answered")
    }
}

/// Returns true if an answer is labelled as a web page. Some registries label blobs so.
pub fn is_page<B>(response: &Response<B>) -> bool {
    header_of(response, header::CONTENT_TYPE)
        .is_some_and(|text| text.to_ascii_lowercase().starts_with("text/html"))
}

/// Returns true if the request may follow a redirect: a body can be repeated only with the same method.
fn may_follow(exchange: &Exchange, status: u16) -> bool {
    matches!(exchange.method, Method::GET | Method::HEAD) || matches!(status, 307 | 308)
}

/// Returns a header, if it is text.
pub fn header_of<B>(response: &Response<B>, name: impl header::AsHeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// Returns the failure for an answer with an unexpected status.
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
        401 | 403 => error.hint("log in with podman login or docker login, or set REGISTRY_AUTH_FILE to a file of credentials"),
        404 => error.hint("check the name; a registry may also hide images that need credentials"),
        _ => error,
    };
    Failure { error, again }
}

/// Returns the failure for a missing answer.
fn failure(what: &str, who: &str, error: ureq::Error) -> Failure {
    let soon = |why: String| Failure {
        error: Error::system(what, why),
        again: Again::Soon,
    };
    let last = |why: String| Failure::last(Error::system(what, why));
    match error {
        ureq::Error::Io(error) => broken(what, who, error),
        ureq::Error::HostNotFound => {
            last(format!("{who} has no address: its name cannot be resolved"))
        }
        ureq::Error::Timeout(Timeout::Resolve) => {
            soon(format!("no address before the timeout: {who}"))
        }
        ureq::Error::Timeout(Timeout::Connect) => {
            soon(format!("no connection before the timeout: {who}"))
        }
        ureq::Error::Timeout(_) => soon(format!("no answer before the timeout: {who}")),
        ureq::Error::Protocol(error) => last(format!("{who} does not answer in HTTP/1.1: {error}")),
        error => last(format!("{who}: {error}")),
    }
}

/// Returns the failure for a broken connection.
pub fn broken(what: &str, who: &str, error: std::io::Error) -> Failure {
    let inner = error.get_ref();
    if let Some(ureq::Error::Timeout(_)) = inner.and_then(|inner| inner.downcast_ref()) {
        let error = Error::system(what, format_args!("{who} stopped sending"));
        return Failure {
            error,
            again: Again::Soon,
        };
    }
    if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return Failure::last(of_tls(what, who, error));
    }
    let again = match error.kind() {
        // The standard library has no error kind for names that cannot be resolved.
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
            "to trust another CA, set SSL_CERT_FILE or add /etc/containers/certs.d/HOST:PORT/ca.crt"
        }
        rustls::Error::InvalidMessage(_) => "for a registry without TLS, use --plain-http",
        _ => return Error::system(what, format_args!("{who}: TLS: {error}")),
    };
    Error::system(what, format_args!("{who}: TLS: {error}")).hint(hint)
}

/// Returns the failure for a registry that sends some data, but too slowly.
pub fn too_slow(what: &str, who: &str) -> Failure {
    let error = Error::new(Reason::System, what, format_args!("{who} sends too slowly"));
    Failure::last(error.hint("set a longer limit for 64 KiB with --timeout"))
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
