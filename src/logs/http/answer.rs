//! Parser for HTTP/1.1 answers (RFC 9112) that may be incomplete.

/// Maximum bytes of a head.
const HEAD_MAX: usize = 64 * 1024;
/// Maximum number of headers.
const HEADERS_MAX: usize = 128;
/// Maximum bytes of a body.
const BODY_MAX: usize = 8 * 1024 * 1024;

/// A complete answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status, 200 to 599.
    pub status: u16,
    /// Body without its framing.
    pub body: Vec<u8>,
    /// True if the connection can be reused.
    pub keep: bool,
    /// Time after which the server wants the next request.
    pub retry_after: Option<RetryAfter>,
}

/// Value of `retry-after` (RFC 9110, section 10.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// Number of seconds after the answer.
    Seconds(u64),
    /// Time in seconds since 1970.
    At(u64),
}

/// Completeness of an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The complete answer.
    Whole(Answer),
    /// More bytes must follow.
    Partial,
    /// The body exceeds the maximum.
    TooLong,
}

/// Parses the received bytes of an answer to POST; `ended` is true if no more follow. The error is a short
/// description.
pub fn parse(mut bytes: &[u8], ended: bool) -> Result<Progress, &'static str> {
    loop {
        let Some(head) = head_of(bytes)? else {
            return Ok(Progress::Partial);
        };
        let rest = &bytes[head.length..];
        // Interim answers precede the final one (RFC 9110, section 15.2).
        if head.status < 200 {
            bytes = rest;
            continue;
        }
        let (body, length) = match head.framing {
            Framing::Chunked => match unchunk(rest)? {
                Some(found) => found,
                None if rest.len() > BODY_MAX => return Ok(Progress::TooLong),
                None => return Ok(Progress::Partial),
            },
            Framing::Length(length) if length > BODY_MAX => return Ok(Progress::TooLong),
            Framing::Length(length) if rest.len() < length => return Ok(Progress::Partial),
            Framing::Length(length) => (rest[..length].to_vec(), length),
            Framing::Close if rest.len() > BODY_MAX => return Ok(Progress::TooLong),
            Framing::Close if !ended => return Ok(Progress::Partial),
            Framing::Close => (rest.to_vec(), rest.len()),
        };
        return Ok(Progress::Whole(Answer {
            status: head.status,
            body,
            // Further bytes belong to no request.
            keep: head.keep && !ended && length == rest.len(),
            retry_after: head.retry_after,
        }));
    }
}

struct Head {
    status: u16,
    framing: Framing,
    keep: bool,
    length: usize,
    retry_after: Option<RetryAfter>,
}

#[derive(Clone, Copy, PartialEq)]
enum Framing {
    Length(usize),
    Chunked,
    Close,
}

/// Returns the head, or `None` if it is incomplete.
fn head_of(bytes: &[u8]) -> Result<Option<Head>, &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let window = &bytes[..bytes.len().min(HEAD_MAX)];
    let length = match response.parse(window).map_err(invalid)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if bytes.len() < HEAD_MAX => return Ok(None),
        httparse::Status::Partial => return Err("the head is too long"),
    };
    let status = response.code.filter(|code| (100..600).contains(code));
    let status = status.ok_or("no status line")?;
    let bodiless = status < 200 || status == 204 || status == 304;
    let mut head = Head {
        status,
        framing: if bodiless {
            Framing::Length(0)
        } else {
            Framing::Close
        },
        keep: response.version == Some(1),
        length,
        retry_after: None,
    };
    for header in response.headers {
        let value = std::str::from_utf8(header.value).map_err(|_| "the head is not text")?;
        head.header(&header.name.to_ascii_lowercase(), value.trim(), bodiless)?;
    }
    head.keep &= head.framing != Framing::Close;
    Ok(Some(head))
}

fn invalid(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::Version | httparse::Error::Status => "no status line",
        httparse::Error::TooManyHeaders => "too many headers",
        _ => "a header is invalid",
    }
}

impl Head {
    fn header(&mut self, name: &str, value: &str, bodiless: bool) -> Result<(), &'static str> {
        match name {
            "connection" if value.eq_ignore_ascii_case("close") => self.keep = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => self.keep = true,
            "content-length" if !bodiless && self.framing != Framing::Chunked => {
                let length = Framing::Length(decimal(value).ok_or("the length is not a number")?);
                if !matches!(self.framing, Framing::Close) && self.framing != length {
                    return Err("two lengths");
                }
                self.framing = length;
            }
            "transfer-encoding" if !bodiless => {
                if value.eq_ignore_ascii_case("chunked") {
                    self.framing = Framing::Chunked
                } else {
                    return Err("an unknown transfer encoding");
                }
            }
            "retry-after" => self.retry_after = retry_after(value),
            _ => {}
        }
        Ok(())
    }
}

/// Parses seconds, or a date in the form that servers must send; ignores anything else. A number that is too
/// large counts as the largest one.
fn retry_after(value: &str) -> Option<RetryAfter> {
    if is_decimal(value) {
        return Some(RetryAfter::Seconds(value.parse().unwrap_or(u64::MAX)));
    }
    crate::base::time::http_date(value).map(RetryAfter::At)
}

/// Parses decimal digits only.
fn decimal(text: &str) -> Option<usize> {
    text.parse().ok().filter(|_| is_decimal(text))
}

fn is_decimal(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the content of a chunked body and its length with the framing; `None` if it is incomplete.
fn unchunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, &'static str> {
    const LINE_MAX: usize = 4096;
    let mut body = Vec::new();
    let mut at = 0;
    let line = |at: usize| -> Result<Option<&[u8]>, &'static str> {
        let rest = &bytes[at..];
        let window = &rest[..rest.len().min(LINE_MAX)];
        match window.windows(2).position(|two| two == b"\r\n") {
            Some(end) => Ok(Some(&rest[..end])),
            None if rest.len() >= LINE_MAX => Err("a line of a chunked body is too long"),
            None => Ok(None),
        }
    };
    loop {
        let Some(size) = line(at)? else {
            return Ok(None);
        };
        at += size.len() + 2;
        let size = hexadecimal(size).ok_or("a chunk without a size")?;
        if size == 0 {
            break;
        }
        if size > BODY_MAX {
            return Err("a chunk is too long");
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else {
            return Ok(None);
        };
        let (chunk, end) = chunk.split_at(size);
        if end != b"\r\n" {
            return Err("a chunk longer than its size");
        }
        body.extend_from_slice(chunk);
        at += size + 2;
    }
    // Trailers end with an empty line.
    loop {
        let Some(trailer) = line(at)? else {
            return Ok(None);
        };
        at += trailer.len() + 2;
        if trailer.is_empty() {
            return Ok(Some((body, at)));
        }
    }
}

/// Parses a chunk's size, without its extensions.
fn hexadecimal(line: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(line).ok()?;
    let digits = text.split(';').next()?.trim_end();
    let valid = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
    usize::from_str_radix(digits, 16).ok().filter(|_| valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(text: &str) -> Answer {
        match parse(text.as_bytes(), false) {
            Ok(Progress::Whole(answer)) => answer,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn answer(status: u16, body: &str, keep: bool) -> Answer {
        let (body, retry_after) = (body.into(), None);
        Answer {
            status,
            body,
            keep,
            retry_after,
        }
    }

    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0A\r\n0123456789\r\n0\r\nt: 1\r\n\r\n";

    #[test]
    fn answers_of_each_framing_are_understood() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(whole(text), answer(200, "hi", true));
        assert_eq!(whole(CHUNKED), answer(200, "abc0123456789", true));
        let text = "HTTP/1.1 503 \r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(whole(text), answer(503, "", false));
        let text = "HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx";
        assert_eq!(whole(text), answer(200, "x", false));
        assert_eq!(
            whole("HTTP/1.1 204 No Content\r\n\r\n"),
            answer(204, "", true)
        );
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(whole(text), answer(200, "", true));
    }

    #[test]
    fn the_time_that_a_server_names_is_understood_in_both_forms() {
        for (value, expected) in [
            ("120", Some(RetryAfter::Seconds(120))),
            ("99999999999999999999", Some(RetryAfter::Seconds(u64::MAX))),
            (
                "Sun, 06 Nov 1994 08:49:37 GMT",
                Some(RetryAfter::At(784_111_777)),
            ),
            ("soon", None),
            ("-1", None),
            ("", None),
        ] {
            let text =
                format!("HTTP/1.1 503 x\r\nRetry-After: {value}\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(whole(&text).retry_after, expected, "{value}");
        }
    }

    #[test]
    fn an_answer_that_is_too_long_differs_from_an_invalid_one() {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n";
        assert_eq!(parse(head.as_bytes(), false), Ok(Progress::TooLong));
        let large = vec![b'x'; BODY_MAX + 1];
        let open = [b"HTTP/1.1 200 OK\r\n\r\n", &large[..]].concat();
        assert_eq!(parse(&open, false), Ok(Progress::TooLong));
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let chunk = "800000\r\n".to_owned() + &"x".repeat(0x80_0000) + "\r\n1\r\n";
        let chunked = format!("{head}{chunk}");
        assert_eq!(parse(chunked.as_bytes(), false), Ok(Progress::TooLong));
    }

    #[test]
    fn a_body_without_a_length_ends_with_the_connection() {
        let text = b"HTTP/1.1 200 OK\r\n\r\nhi";
        assert_eq!(parse(text, false), Ok(Progress::Partial));
        assert_eq!(
            parse(text, true),
            Ok(Progress::Whole(answer(200, "hi", false)))
        );
    }

    #[test]
    fn unrequested_bytes_end_the_connection() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK";
        assert_eq!(whole(text), answer(200, "hi", false));
    }

    #[test]
    fn an_answer_that_is_not_http_is_an_error() {
        for text in [
            "garbage",
            "\x16\x03\x01",
            "HTTP/2 200\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 +20 OK\r\n\r\n",
            "HTTP/1.1 99 x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
        ] {
            assert!(parse(text.as_bytes(), false).is_err(), "{text:?}");
        }
        assert!(
            parse(
                &[b"HTTP/1.1 200 OK\r\nx: ", &[b'y'; HEAD_MAX][..]].concat(),
                false
            )
            .is_err()
        );
    }

    #[test]
    fn each_prefix_of_an_answer_is_incomplete() {
        for end in 0..CHUNKED.len() {
            assert_eq!(
                parse(&CHUNKED.as_bytes()[..end], false),
                Ok(Progress::Partial),
                "{end}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), ended: bool) {
            let start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            let _judged = parse(&bytes, ended);
            let _judged = parse(&[start, &bytes[..]].concat(), ended);
        }
    }
}
