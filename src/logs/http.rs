//! One HTTP endpoint that batches are posted to.

mod answer;

use super::net::{Connection, Incoming, Peer};
use super::sink::{Failure, FailureKind};
use super::url::Credentials;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::{Compression, write::GzEncoder};
use std::io::Write as _;
use std::time::{Duration, Instant};

pub use answer::{Answer, Progress, parse};

/// The body of a large batch is given back.
const BODY_KEPT: usize = 1024 * 1024;
/// How long an answer is waited for that came before the request was written: a refusal.
const EARLY: Duration = Duration::from_millis(200);

/// A URL with all that a request to it needs; its connection is kept between requests.
pub struct Endpoint {
    peer: Peer,
    /// The request's head up to the length of its body.
    head: String,
    gzip: bool,
    connection: Option<Connection>,
    /// Since when the answer is waited for, and what there is of it.
    sent: Instant,
    answer: Vec<u8>,
}

/// What a request says but for its body.
pub struct Request<'a> {
    /// Path and query.
    pub target: String,
    /// Of the body.
    pub content_type: &'static str,
    /// The value of the header.
    pub authorization: Option<&'a str>,
    /// Whether to compress the body.
    pub gzip: bool,
}

impl Endpoint {
    /// An endpoint at that peer.
    pub fn new(peer: Peer, request: &Request<'_>) -> Endpoint {
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\nuser-agent: imrun/{}\r\naccept: */*\r\ncontent-type: {}\r\n",
            request.target,
            peer.address,
            env!("CARGO_PKG_VERSION"),
            request.content_type
        );
        if let Some(value) = request.authorization {
            head += &format!("authorization: {value}\r\n");
        }
        if request.gzip {
            head += "content-encoding: gzip\r\n";
        }
        head += "content-length: ";
        Endpoint {
            peer,
            head,
            gzip: request.gzip,
            connection: None,
            sent: Instant::now(),
            answer: Vec::new(),
        }
    }

    /// Sends a request; its answer comes with [`Endpoint::answer`]. `body` is empty afterwards.
    pub fn post(&mut self, body: &mut Vec<u8>) -> Result<(), Failure> {
        let sent = self.write(body);
        body.clear();
        body.shrink_to(BODY_KEPT);
        sent
    }

    fn write(&mut self, body: &[u8]) -> Result<(), Failure> {
        let mut connection = self.peer.connected(self.connection.take())?;
        let packed = self.gzip.then(|| gzip(body));
        let body = packed.as_deref().unwrap_or(body);
        let head = format!("{}{}\r\n\r\n", self.head, body.len());
        self.answer.clear();
        let written = connection
            .write(head.as_bytes())
            .and_then(|()| connection.write(body));
        self.connection = Some(connection);
        self.sent = Instant::now();
        let Err(failure) = written else {
            return Ok(());
        };
        // Who refuses a request before it has read all of it may close behind its answer.
        let refusal = self.answer(Some(EARLY));
        self.connection = None;
        Err(refusal
            .err()
            .filter(|early| early.kind != FailureKind::Again)
            .unwrap_or(failure))
    }

    /// The body of a 2xx answer; none where it is not there after `wait`.
    pub fn answer(&mut self, wait: Option<Duration>) -> Result<Option<Vec<u8>>, Failure> {
        let outcome = self.receive(wait);
        let keep = match &outcome {
            Ok(None) => return Ok(None),
            Ok(Some(answer)) => answer.keep,
            Err(_) => false,
        };
        if !keep {
            self.connection = None;
        }
        // An answer can be large once.
        self.answer = Vec::new();
        let answer = outcome?.expect("no answer was returned above");
        match answer.status {
            200..=299 => Ok(Some(answer.body)),
            status => Err(refusal(status)),
        }
    }

    fn receive(&mut self, wait: Option<Duration>) -> Result<Option<Answer>, Failure> {
        let connection = self.connection.as_mut().ok_or_else(without_answer)?;
        let deadline = self.sent + self.peer.timeout;
        let until = wait.map_or(deadline, |wait| deadline.min(Instant::now() + wait));
        let mut chunk = [0; 16 * 1024];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let ended = match connection.read(&mut chunk, left)? {
                Incoming::Bytes(read) => {
                    self.answer.extend_from_slice(&chunk[..read]);
                    false
                }
                Incoming::Closed => true,
                Incoming::Nothing if Instant::now() >= deadline => {
                    return Err(Failure::again("no answer before the timeout"));
                }
                Incoming::Nothing => return Ok(None),
            };
            match parse(&self.answer, ended) {
                Ok(Progress::Whole(answer)) => return Ok(Some(answer)),
                Ok(Progress::Partial) if ended => {
                    return Err(without_answer());
                }
                Ok(Progress::Partial) => {}
                Err(why) => {
                    return Err(Failure::again(format!(
                        "answered what is not HTTP/1.1: {why}"
                    )));
                }
            }
        }
    }
}

/// Compresses a body (RFC 1952).
pub fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let written = packed.write_all(body).and_then(|()| packed.finish());
    written.expect("memory takes all")
}

fn without_answer() -> Failure {
    Failure::again("closed the connection without an answer")
}

/// What an answer other than 2xx means (RFC 9110, section 15).
fn refusal(status: u16) -> Failure {
    let kind = match status {
        413 => FailureKind::TooLarge,
        408 | 425 | 429 | 500..=599 => FailureKind::Again,
        _ => FailureKind::Refused,
    };
    let failure = Failure::new(kind, format!("answered {status}"));
    match status {
        300..=399 => failure.hint("redirects are not followed: give the URL that they lead to"),
        401 | 403 => failure.hint(
            "are the credentials right? SCHEME://USER:PASSWORD@HOST:PORT or ?authorization=FILE",
        ),
        400 | 404 | 405 => {
            failure.hint("is the path of the URL right, and does it need ?index=NAME?")
        }
        _ => failure,
    }
}

/// The header's value for basic authentication (RFC 7617).
pub fn basic(credentials: &Credentials) -> String {
    let pair = [&credentials.user[..], b":", &credentials.password].concat();
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_is_tried_again_and_a_wrong_request_refused() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert_eq!(refusal(status).kind, FailureKind::Again, "{status}");
        }
        for status in [301, 307, 400, 401, 403, 404, 405, 415] {
            assert_eq!(refusal(status).kind, FailureKind::Refused, "{status}");
        }
        assert_eq!(refusal(413).kind, FailureKind::TooLarge);
    }
}
