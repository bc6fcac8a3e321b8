//! One HTTP endpoint that batches are posted to.

mod answer;

use super::authorization::Authorization;
use super::backoff::Attempt;
use super::net::{Connection, Incoming, Peer};
use super::sink::{Failure, FailureKind};
use super::url::Credentials;

use crate::time::nanoseconds;
use flate2::{Compression, write::GzEncoder};
use std::io::Write as _;
use std::time::{Duration, Instant};

pub use answer::{Answer, Progress, RetryAfter, parse};

/// The body of a large batch is given back.
const BODY_KEPT: usize = 1024 * 1024;
/// How long an answer is waited for that came before the request was written: a refusal.
const EARLY: Duration = Duration::from_millis(200);

/// A URL with all that a request to it needs; its connection is kept between requests.
pub struct Endpoint {
    peer: Peer,
    /// The request's head up to the value of `authorization`.
    head: String,
    authorization: Authorization,
    attempt: Attempt,
    gzip: bool,
    connection: Option<Connection>,
    /// Since when the answer is waited for, and what there is of it.
    sent: Instant,
    answer: Vec<u8>,
}

/// What a request says but for its body.
pub struct Request {
    /// Path and query.
    pub target: String,
    /// Of the body.
    pub content_type: &'static str,
    /// The value of the header.
    pub authorization: Authorization,
    /// Whether to compress the body.
    pub gzip: bool,
}

impl Endpoint {
    /// An endpoint at that peer.
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
            // Its connection is given up: the next one is made with what the files say then.
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
///
/// The specification of OTLP has 500 rejected too. A proxy whose server restarts answers that as well,
/// and no line may be lost for it.
fn refusal(answer: &Answer) -> Failure {
    let status = answer.status;
    let kind = match status {
        413 => FailureKind::TooLarge,
        // Another batch may do better.
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
        401 | 403 => failure.hint(
            "are the credentials right? SCHEME://USER:PASSWORD@HOST:PORT or ?authorization=FILE",
        ),
        400 | 404 | 405 => {
            failure.hint("is the path of the URL right, and does it need ?index=NAME?")
        }
        _ => failure,
    }
}

/// How long from now that is.
fn wait(after: RetryAfter) -> Duration {
    match after {
        RetryAfter::Seconds(seconds) => Duration::from_secs(seconds),
        RetryAfter::At(second) => {
            let at = Duration::from_secs(second);
            at.saturating_sub(Duration::from_nanos(nanoseconds()))
        }
    }
}

/// The header's value for basic authentication (RFC 7617).
pub fn basic(credentials: &Credentials) -> String {
    let pair = [&credentials.user[..], b":", &credentials.password].concat();
    format!("Basic {}", base64(&pair))
}

/// Base64 (RFC 4648, section 4).
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            let value = bits >> (18 - 6 * digit) & 63;
            text.push(match digit <= group.len() {
                true => char::from(DIGITS[value as usize]),
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }

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
    fn a_sink_that_names_a_time_is_left_alone_until_then() {
        let second = nanoseconds() / 1_000_000_000;
        assert_eq!(wait(RetryAfter::Seconds(7)), Duration::from_secs(7));
        assert_eq!(wait(RetryAfter::At(second - 10)), Duration::ZERO);
        let later = wait(RetryAfter::At(second + 1000));
        assert!((900..=1000).contains(&later.as_secs()), "{later:?}");
    }
}
