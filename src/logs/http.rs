//! An HTTP endpoint that batches are posted to.

mod answer;

use super::authorization::Authorization;
use super::backoff::Attempt;
use super::net::{Connection, Incoming, Peer};
use super::sink::{Failure, FailureKind, PATIENCE};
use super::url::Credentials;

use crate::base::time::nanoseconds;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::{Compression, write::GzEncoder};
use std::io::Write as _;
use std::time::{Duration, Instant};

pub use answer::{Answer, Progress, RetryAfter, parse};

/// Maximum bytes of a body buffer that is kept between requests.
const BODY_KEPT: usize = 1024 * 1024;
/// Maximum wait for an answer that arrived before the whole request was written: a refusal.
const EARLY: Duration = Duration::from_millis(200);

/// A URL with everything its requests need; keeps its connection between requests.
pub struct Endpoint {
    peer: Peer,
    /// Head of the request up to the value of `authorization`.
    head: String,
    authorization: Authorization,
    attempt: Attempt,
    gzip: bool,
    connection: Option<Connection>,
    /// Time at which the request was sent, and the part of the answer received so far.
    sent: Instant,
    answer: Vec<u8>,
}

/// Parts of a request except for its body.
pub struct Request {
    /// Path and query.
    pub target: String,
    /// Content type of the body.
    pub content_type: &'static str,
    /// Value of the header `authorization`.
    pub authorization: Authorization,
    /// Compresses the body.
    pub gzip: bool,
}

impl Endpoint {
    /// Creates an endpoint at that peer.
    pub fn new(peer: Peer, request: Request) -> Endpoint {
        let mut head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\nuser-agent: imrun/{}\r\naccept: */*\r\ncontent-type: {}\r\n",
            request.target,
            peer.address,
            env!("CARGO_PKG_VERSION"),
            request.content_type
        );
        if request.gzip {
            head += "content-encoding: gzip\r\n";
        }
        Endpoint {
            attempt: Attempt::new(peer.timeout),
            peer,
            head,
            authorization: request.authorization,
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
        if connection.is_fresh() {
            self.authorization.renew();
        }
        let packed = self.gzip.then(|| gzip(body));
        let body = packed.as_deref().unwrap_or(body);
        let mut head = self.head.clone();
        if let Some(value) = self.authorization.value() {
            head += &format!("authorization: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", body.len());
        self.answer.clear();
        let written = connection
            .write(head.as_bytes())
            .and_then(|()| connection.write(body));
        self.connection = Some(connection);
        self.sent = Instant::now();
        let Err(failure) = written else {
            return Ok(());
        };
        // A server that refuses a request early may close the connection right after its answer.
        let refusal = self.answer(Some(EARLY));
        self.connection = None;
        Err(refusal
            .err()
            .filter(|early| early.kind != FailureKind::Again)
            .unwrap_or(failure))
    }

    /// Returns the body of a 2xx answer; `None` if it has not arrived after `wait`.
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
        // Frees the memory of a large answer.
        self.answer = Vec::new();
        let answer = outcome?.expect("no answer was returned above");
        match answer.status {
            200..=299 => Ok(Some(answer.body)),
            // Drops the connection: the next one uses the current contents of the files.
            401 | 403 => {
                self.connection = None;
                let mut failure = refusal(&answer);
                if let Some(fault) = self.authorization.fault() {
                    failure.why += &format!("; {fault}");
                }
                Err(failure)
            }
            _ => Err(refusal(&answer)),
        }
    }

    fn receive(&mut self, wait: Option<Duration>) -> Result<Option<Answer>, Failure> {
        let connection = self.connection.as_mut().ok_or_else(without_answer)?;
        let deadline = self.sent + self.attempt.timeout();
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
                    let time = self.attempt.timeout();
                    self.attempt.missed();
                    return Err(Failure::again(format!("no answer within {time:?}")));
                }
                Incoming::Nothing => return Ok(None),
            };
            match parse(&self.answer, ended) {
                Ok(Progress::Whole(answer)) => {
                    self.attempt.answered(self.sent.elapsed());
                    return Ok(Some(answer));
                }
                Ok(Progress::TooLong) => {
                    let why = "its answer is longer than 8 MiB";
                    return Err(Failure::new(FailureKind::TooLarge, why));
                }
                Ok(Progress::Partial) if ended => {
                    return Err(without_answer());
                }
                Ok(Progress::Partial) => {}
                Err(why) => {
                    return Err(Failure::again(format!("did not answer in HTTP/1.1: {why}")));
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

/// Returns the failure for an answer other than 2xx (RFC 9110, section 15).
///
/// The OTLP specification rejects events for 500 too, but a proxy with a restarting server also answers
/// 500, and no line may be lost then.
fn refusal(answer: &Answer) -> Failure {
    let status = answer.status;
    let kind = match status {
        413 => FailureKind::TooLarge,
        // Another batch may succeed.
        400 | 406 | 411 | 412 | 414..=417 | 422 | 428 | 431 | 501 | 505 => FailureKind::Rejected,
        408 | 425 | 429 | 500..=599 => FailureKind::Again,
        _ => FailureKind::Refused,
    };
    let mut failure = Failure::new(kind, format!("answered {status}"));
    if let Some(wait) = answer.retry_after.map(wait) {
        failure.why += &format!(", retry after {} s", wait.as_secs());
        failure.retry_after = Some(wait);
    }
    match status {
        300..=399 => failure.hint("redirects are not followed: give the URL that they lead to"),
        401 | 403 => failure
            .hint("check the credentials: SCHEME://USER:PASSWORD@HOST:PORT or ?authorization=FILE"),
        400 | 404 | 405 => {
            failure.hint("check the path of the URL, and whether it needs ?index=NAME")
        }
        _ => failure,
    }
}

/// Returns the delay from now, at most [`PATIENCE`].
fn wait(after: RetryAfter) -> Duration {
    let wait = match after {
        RetryAfter::Seconds(seconds) => Duration::from_secs(seconds),
        RetryAfter::At(second) => {
            let at = Duration::from_secs(second);
            at.saturating_sub(Duration::from_nanos(nanoseconds()))
        }
    };
    wait.min(PATIENCE)
}

/// Returns the header's value for basic authentication (RFC 7617).
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
            assert_eq!(refused(status).kind, FailureKind::Again, "{status}");
        }
        for status in [301, 307, 401, 403, 404, 405] {
            assert_eq!(refused(status).kind, FailureKind::Refused, "{status}");
        }
        for status in [400, 415, 422, 501] {
            assert_eq!(refused(status).kind, FailureKind::Rejected, "{status}");
        }
        assert_eq!(refused(413).kind, FailureKind::TooLarge);
    }

    fn refused(status: u16) -> Failure {
        refusal(&Answer {
            status,
            body: Vec::new(),
            keep: true,
            retry_after: None,
        })
    }

    #[test]
    fn a_sink_that_requests_a_delay_is_not_contacted_before() {
        let second = nanoseconds() / 1_000_000_000;
        assert_eq!(wait(RetryAfter::Seconds(7)), Duration::from_secs(7));
        assert_eq!(wait(RetryAfter::Seconds(u64::MAX)), PATIENCE);
        assert_eq!(wait(RetryAfter::At(second - 10)), Duration::ZERO);
        let later = wait(RetryAfter::At(second + 1000));
        assert!((900..=1000).contains(&later.as_secs()), "{later:?}");
    }
}
