//! One HTTP endpoint that batches are posted to.

use super::sink::{Failure, FailureKind};
use super::url::Credentials;
use crate::error::reason_of;
use std::io::ErrorKind;
use std::time::Duration;
use ureq::{Agent, Error, Timeout};

/// The longest answer that is read.
const ANSWER_MAX: u64 = 8 * 1024 * 1024;

/// A URL with all that a request to it needs; its connection is kept between requests.
pub struct Endpoint {
    agent: Agent,
    url: String,
    content_type: &'static str,
    authorization: Option<String>,
}

impl Endpoint {
    /// An endpoint whose requests take `timeout` at most. `url` has no credentials.
    pub fn new(
        url: String,
        content_type: &'static str,
        credentials: Option<&Credentials>,
        timeout: Duration,
    ) -> Endpoint {
        let config = Agent::config_builder()
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout))
            .http_status_as_error(false)
            // The sink is the host's choice: neither a server nor a variable may change it.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .user_agent(concat!("imrun/", env!("CARGO_PKG_VERSION")))
            .input_buffer_size(16 * 1024)
            .output_buffer_size(64 * 1024)
            .max_idle_connections(1)
            .max_idle_connections_per_host(1)
            .build();
        Endpoint {
            agent: config.new_agent(),
            url,
            content_type,
            authorization: credentials.map(basic),
        }
    }

    /// Posts a body and returns that of a 2xx answer.
    pub fn post(&self, body: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut request = self.agent.post(&self.url).content_type(self.content_type);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let mut response = request.send(body).map_err(|error| failure(&error))?;
        let status = response.status().as_u16();
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_MAX)
            .read_to_vec();
        match (status, body) {
            (200..=299, Ok(body)) => Ok(body),
            (200..=299, Err(error)) => Err(failure(&error)),
            _ => Err(refusal(status)),
        }
    }
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
        401 | 403 => failure.hint("are user and password right? SCHEME://USER:PASSWORD@HOST:PORT"),
        400 | 404 | 405 => {
            failure.hint("is the path of the URL right, and does it need ?index=NAME?")
        }
        _ => failure,
    }
}

/// What an exchange that broke off means. No text of the request gets into it.
fn failure(error: &Error) -> Failure {
    let again = |why: String| Failure::new(FailureKind::Again, why);
    match error {
        Error::Io(error) => of_io(error),
        Error::HostNotFound => Failure::new(FailureKind::Refused, "the host has no address"),
        Error::Timeout(Timeout::Resolve) => again("no address before the timeout".into()),
        Error::Timeout(Timeout::Connect) => again("no connection before the timeout".into()),
        Error::Timeout(_) => again("no answer before the timeout".into()),
        Error::Protocol(error) => again(format!("answered what is not HTTP/1.1: {error}")),
        Error::BodyExceedsLimit(_) => again("the answer is too long".into()),
        error => again(error.to_string()),
    }
}

/// What an error of a connection means.
pub fn of_io(error: &std::io::Error) -> Failure {
    let kind = match error.kind() {
        // Names that cannot be resolved have no kind of their own in the standard library.
        _ if error.to_string().starts_with("failed to lookup address") => FailureKind::Refused,
        ErrorKind::ConnectionRefused
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable => FailureKind::Refused,
        _ => FailureKind::Again,
    };
    Failure::new(kind, reason_of(error))
}

/// The header's value for basic authentication (RFC 7617).
fn basic(credentials: &Credentials) -> String {
    let pair = [&credentials.user[..], b":", &credentials.password].concat();
    format!("Basic {}", base64(&pair))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
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
            assert_eq!(refusal(status).kind, FailureKind::Again, "{status}");
        }
        for status in [301, 307, 400, 401, 403, 404, 405, 415] {
            assert_eq!(refusal(status).kind, FailureKind::Refused, "{status}");
        }
        assert_eq!(refusal(413).kind, FailureKind::TooLarge);
    }
}
