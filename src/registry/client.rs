//! A request to a registry: authenticated, redirected, and made again where that may help.

use super::agents::Agents;
use super::retry::{self, Again, Retries};
use super::{Settings, endpoint, location};
use crate::base::error::{Error, Reason, Result, reason_of};
use crate::image::reference::Reference;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};
use ureq::http::{Method, Request, Response, Uri, header};
use ureq::{Body, Timeout};

/// Redirects in a row that are followed.
const MAX_REDIRECTS: usize = 5;
/// Bytes of an error's explanation that are read.
const MAX_EXPLANATION: u64 = 8 << 10;

/// One repository of one registry.
pub struct Client {
    /// As it is written in names.
    pub(super) registry: String,
    pub(super) repository: String,
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
    /// A client of the repository that `name` is in.
    pub fn new(name: &Reference, actions: &'static str, settings: &Settings) -> Result<Client> {
        let authority = endpoint::authority(&name.registry);
        let uri = |scheme: &str| {
            let text = format!("{scheme}://{authority}/");
            text.parse::<Uri>()
                .map_err(|_| Error::usage(&name.registry, "is no host of a URL"))
        };
        let mut client = Client {
            registry: name.registry.clone(),
            repository: name.repository.clone(),
            actions,
            base: uri("http")?,
            settings: settings.clone(),
            authorization: Mutex::default(),
            agents: Agents::new(settings),
            ends: Instant::now() + settings.deadline,
        };
        if !settings.plain_http && !client.is_plain_loopback()? {
            client.base = uri("https")?;
        }
        Ok(client)
    }

    /// Whether a registry on this machine speaks without TLS: it is asked, unless the host has
    /// certificates for it. One that wants TLS answers 400 or what is not HTTP.
    fn is_plain_loopback(&self) -> Result<bool> {
        let own_certificates = endpoint::certificates(&self.registry);
        if !endpoint::is_loopback(endpoint::host(&self.registry)) || !own_certificates.is_empty() {
            return Ok(false);
        }
        let request = Request::get(self.absolute("/v2/")?).body(());
        let request = request.map_err(|error| Error::usage(&self.registry, error))?;
        match self.agents.to(&self.base)?.run(request) {
            Ok(response) => Ok(response.status() != 400),
            Err(ureq::Error::Protocol(_)) => Ok(false),
            Err(ureq::Error::Io(error)) if is_cut_off(&error) => Ok(false),
            // The request itself will say it, and may be made again.
            Err(_) => Ok(true),
        }
    }

    /// The URL of a part of the repository: `manifests/latest`, `blobs/sha256:…`.
    pub fn url(&self, part: &str) -> Result<Uri> {
        self.absolute(&format!("/v2/{}/{part}", self.repository))
    }

    fn absolute(&self, path: &str) -> Result<Uri> {
        let url = location::resolve(&self.base, path);
        url.ok_or_else(|| Error::usage(&self.registry, format_args!("no URL with {path:?}")))
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
                "the registry asks to be left alone for {} s: try again later",
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
                refuse_page(exchange.what, &response).map_err(Failure::last)?;
                let (head, body) = response.into_parts();
                let bytes = self.read(exchange.what, body, limit)?;
                Ok((Response::from_parts(head, ()), bytes))
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
        let (mut url, mut redirects, mut asked) = (exchange.url.clone(), 0, false);
        loop {
            // No other server learns what this one is shown.
            let ours = location::same_origin(&url, &self.base);
            let authorization = self.authorization.lock().map_or(None, |held| held.clone());
            let authorization = authorization.filter(|_| ours);
            let response = self.once(exchange, &url, authorization.as_deref())?;
            match response.status().as_u16() {
                401 if ours && !asked => {
                    self.authenticate(exchange.what, response, authorization)?;
                    asked = true;
                }
                status @ (301 | 302 | 303 | 307 | 308) if may_follow(exchange, status) => {
                    redirects += 1;
                    url = self.redirected(exchange.what, &url, &response, redirects)?;
                }
                status if exchange.expected.contains(&status) => return Ok(response),
                _ => return Err(refusal(exchange.what, response)),
            }
        }
    }

    /// Where an answer sends the request.
    fn redirected(
        &self,
        what: &str,
        from: &Uri,
        response: &Response<Body>,
        redirects: usize,
    ) -> std::result::Result<Uri, Failure> {
        let wrong = |why: &str| Failure::last(Error::policy(what, why));
        if redirects > MAX_REDIRECTS {
            return Err(wrong(&format!(
                "the registry redirects more than {MAX_REDIRECTS} times"
            )));
        }
        let target = header_of(response, header::LOCATION);
        let target = target.and_then(|target| location::resolve(from, target));
        let target = target.ok_or_else(|| wrong("the registry redirects to what is no URL"))?;
        if self.may_speak_to(&target) {
            Ok(target)
        } else {
            Err(wrong("the registry redirects to where there is no TLS"))
        }
    }

    /// Whether a request may go there: by TLS, or where it may go without.
    pub(super) fn may_speak_to(&self, url: &Uri) -> bool {
        let loopback = |url: &Uri| url.host().is_some_and(endpoint::is_loopback);
        url.scheme_str() == Some("https")
            || self.settings.plain_http
            || loopback(url) && loopback(&self.base)
    }

    /// One request, and its answer's head.
    pub(super) fn once(
        &self,
        exchange: &Exchange,
        url: &Uri,
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
        outcome.map_err(|error| failure(what, error))
    }

    /// All of a short answer: at most `limit` bytes, before long.
    pub fn read(
        &self,
        what: &str,
        body: Body,
        limit: usize,
    ) -> std::result::Result<Vec<u8>, Failure> {
        let (mut bytes, mut piece) = (Vec::new(), [0; 8 << 10]);
        let (began, mut body) = (Instant::now(), body.into_reader());
        loop {
            match body.read(&mut piece) {
                Ok(0) => return Ok(bytes),
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
                Err(error) => return Err(broken(what, error)),
            }
            if bytes.len() > limit {
                let why = format_args!("the registry sends more than {limit} bytes");
                return Err(Failure::last(Error::digest(what, why)));
            }
            if began.elapsed() > self.settings.timeout {
                return Err(too_slow(what));
            }
        }
    }
}

/// A web page where a registry's answer should be: a login or an error of something in between.
pub fn refuse_page(what: &str, response: &Response<Body>) -> Result<()> {
    match header_of(response, header::CONTENT_TYPE) {
        Some(media_type) if media_type.to_ascii_lowercase().starts_with("text/html") => Err(
            Error::digest(what, "the registry sends a web page in its place")
                .hint("is it a registry? A proxy or a login page may answer for it"),
        ),
        _ => Ok(()),
    }
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
pub fn refusal(what: &str, response: Response<Body>) -> Failure {
    let status = response.status().as_u16();
    let wait = header_of(&response, header::RETRY_AFTER);
    let wait = wait.and_then(|wait| retry::after(wait, SystemTime::now()));
    let again = match (status, wait) {
        (429 | 503, Some(wait)) => Again::After(wait),
        (408 | 429 | 500 | 502 | 503 | 504, _) => Again::Soon,
        _ => Again::Never,
    };
    let explanation = explanation(response).map_or(String::new(), |text| format!(": {text}"));
    let error = Error::system(
        what,
        format_args!("the registry answers {status}{explanation}"),
    );
    let error = match status {
        401 | 403 => error.hint("podman login and docker login write credentials that imrun reads; REGISTRY_AUTH_FILE names another file"),
        404 => error.hint("is the name right? A registry may also hide what it wants credentials for"),
        _ => error,
    };
    Failure { error, again }
}

/// `{"errors":[{"code":…,"message":…}]}`, as the specification has it.
fn explanation(response: Response<Body>) -> Option<String> {
    let mut bytes = Vec::new();
    let body = response.into_body().into_reader();
    body.take(MAX_EXPLANATION).read_to_end(&mut bytes).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    let first = &value["errors"][0];
    let texts = ["code", "message"].map(|key| first[key].as_str().unwrap_or_default());
    let text = texts.join(" ").chars().take(200).collect::<String>();
    Some(text.trim().to_string()).filter(|text| !text.is_empty())
}

/// What it means that there was no answer.
fn failure(what: &str, error: ureq::Error) -> Failure {
    let soon = |why: String| Failure {
        error: Error::system(what, why),
        again: Again::Soon,
    };
    let last = |why: String| Failure::last(Error::system(what, why));
    match error {
        ureq::Error::Io(error) => broken(what, error),
        ureq::Error::HostNotFound => last("the registry's host has no address".into()),
        ureq::Error::Timeout(Timeout::Resolve) => soon("no address before the timeout".into()),
        ureq::Error::Timeout(Timeout::Connect) => soon("no connection before the timeout".into()),
        ureq::Error::Timeout(_) => soon("no answer before the timeout".into()),
        ureq::Error::Protocol(error) => last(format!(
            "the registry answers what is not HTTP/1.1: {error}"
        )),
        error => last(error.to_string()),
    }
}

/// What it means that a connection broke off.
pub fn broken(what: &str, error: std::io::Error) -> Failure {
    let inner = error.get_ref();
    if let Some(ureq::Error::Timeout(_)) = inner.and_then(|inner| inner.downcast_ref()) {
        let error = Error::system(what, "the registry says nothing more");
        return Failure {
            error,
            again: Again::Soon,
        };
    }
    if let Some(error) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        return Failure::last(of_tls(what, error));
    }
    let again = match error.kind() {
        // Names that cannot be resolved have no kind of their own in the standard library.
        _ if error.to_string().starts_with("failed to lookup address") => Again::Never,
        ErrorKind::ConnectionRefused => Again::Nobody,
        _ => Again::Soon,
    };
    let why = match error.kind() {
        ErrorKind::UnexpectedEof => "the registry closes the connection".to_string(),
        _ => reason_of(&error),
    };
    Failure {
        error: Error::system(what, why),
        again,
    }
}

fn of_tls(what: &str, error: &rustls::Error) -> Error {
    let hint = match error {
        rustls::Error::InvalidCertificate(_) => {
            "a CA of one's own: SSL_CERT_FILE, or /etc/containers/certs.d/HOST:PORT/ca.crt"
        }
        rustls::Error::InvalidMessage(_) => "is it a registry without TLS? --plain-http",
        _ => return Error::system(what, format_args!("TLS: {error}")),
    };
    Error::system(what, format_args!("TLS: {error}")).hint(hint)
}

/// A registry that gives something now and then, but not enough.
pub fn too_slow(what: &str) -> Failure {
    let error = Error::new(Reason::System, what, "the registry sends too slowly");
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
