//! A blob as a stream: where it breaks off, it goes on from there.

use super::client::{Client, Exchange, Failure, broken, header_of, is_page, too_slow};
use super::range;
use super::retry::{Again, Retries};
use crate::error::Error;
use crate::manifest::Descriptor;
use std::io::{self, Read};
use std::time::{Duration, Instant};
use ureq::http::{Method, Response, header};
use ureq::{Body, BodyReader};

/// Bytes that a registry must send within the timeout.
const PACE: u64 = 64 << 10;
/// Bytes after which a transfer counts as getting on: failures before are forgotten.
const PROGRESS: u64 = 1 << 20;

/// The bytes of a blob, as many as its descriptor says.
///
/// Their digest is the reader's to check. Errors of `read` are imrun's own, inside an `io::Error`.
pub struct Transfer<'a> {
    /// The servers to ask, one after another.
    clients: &'a [Client],
    what: String,
    descriptor: Descriptor,
    /// Whether the answer is said to be a web page, and has no length that says otherwise.
    may_be_page: bool,
    /// The answer that is being read, and the offset in the blob that it has reached.
    body: Option<(BodyReader<'static>, u64)>,
    /// What a range is only asked of.
    etag: Option<String>,
    /// Bytes that were handed out.
    offset: u64,
    /// Where the last failure was.
    failed_at: u64,
    retries: Retries,
    pace: Pace,
    /// Why there is nothing more to be had.
    ended: Option<Error>,
}

impl<'a> Transfer<'a> {
    /// A transfer that begins with the first read.
    pub fn new(clients: &'a [Client], what: String, descriptor: &Descriptor) -> Transfer<'a> {
        Transfer {
            clients,
            may_be_page: false,
            what,
            descriptor: descriptor.clone(),
            body: None,
            etag: None,
            offset: 0,
            failed_at: 0,
            retries: Retries::default(),
            pace: Pace::default(),
            ended: None,
        }
    }

    /// The server that is asked at present.
    fn client(&self) -> &'a Client {
        &self.clients[0]
    }

    /// Some bytes that were not read before; none at the end.
    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        loop {
            let (mut body, at) = match self.body.take() {
                Some(open) => open,
                None => self.open()?,
            };
            // A registry without ranges begins anew: what was read before is passed over.
            let known = usize::try_from(self.offset - at).unwrap_or(usize::MAX);
            let end = if known > 0 {
                known.min(buffer.len())
            } else {
                buffer.len()
            };
            let began = Instant::now();
            let read = body.read(&mut buffer[..end]);
            self.pace.note(
                began.elapsed(),
                read.as_ref().map_or(0, |count| *count as u64),
            );
            let count = self.check(at, read)?;
            self.body = Some((body, at + count as u64));
            if std::mem::take(&mut self.may_be_page) && buffer[..count].starts_with(b"<") {
                return Err(Failure::last(self.client().page(&self.what)));
            }
            if known == 0 {
                self.offset += count as u64;
                return Ok(count);
            }
        }
    }

    /// What a read at the offset `at` is worth.
    fn check(&mut self, at: u64, read: io::Result<usize>) -> Result<usize, Failure> {
        let left = self.descriptor.size - at;
        match read {
            // All of it is there, and its digest will say whether it is right.
            Ok(0) | Err(_) if left == 0 => Ok(0),
            Ok(0) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) if count as u64 > left => Err(Failure::last(self.too_long())),
            Ok(_) if self.client().left().is_zero() => Err(self.client().late(&self.what)),
            Ok(_) if self.pace.is_slow(self.client().settings.timeout) => {
                Err(too_slow(&self.what, &self.client().who()))
            }
            Ok(count) => Ok(count),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn broken(&self, error: io::Error) -> Failure {
        broken(&self.what, &self.client().who(), error)
    }

    fn too_long(&self) -> Error {
        let (who, size) = (self.client().who(), self.descriptor.size);
        let why = format_args!("{who} sends more than the {size} bytes that its descriptor says");
        Error::digest(&self.what, why)
    }

    /// Asks for what is missing; the answer, and the offset that it begins at.
    fn open(&mut self) -> Result<(BodyReader<'static>, u64), Failure> {
        let mut headers = Vec::new();
        if self.offset > 0 {
            headers.push((header::RANGE, format!("bytes={}-", self.offset)));
            headers.extend(self.etag.clone().map(|etag| (header::IF_RANGE, etag)));
        }
        let part = format!("blobs/{}", self.descriptor.digest);
        let url = self.client().url(&part).map_err(Failure::last)?;
        let expected: &[u16] = if self.offset > 0 { &[200, 206] } else { &[200] };
        let exchange = Exchange {
            headers,
            ..Exchange::new(&self.what, Method::GET, url, expected)
        };
        let response = self.client().attempt(&exchange)?;
        let at = self.begin(&response).map_err(Failure::last)?;
        Ok((response.into_body().into_reader(), at))
    }

    /// Checks the head of an answer; the offset that its body begins at.
    fn begin(&mut self, response: &Response<Body>) -> crate::error::Result<u64> {
        if response.status() == 206 {
            let who = self.client().who();
            check_range(
                &self.what,
                &who,
                response,
                self.offset,
                self.descriptor.size,
            )?;
            return Ok(self.offset);
        }
        // What a blob is said to be does not matter: its digest decides.
        let length = response.body().content_length();
        self.may_be_page = is_page(response) && length.is_none();
        match length {
            Some(length) if length != self.descriptor.size && is_page(response) => {
                return Err(self.client().page(&self.what));
            }
            Some(length) => self.descriptor.expect_size("layer", length)?,
            None => {}
        }
        // A weak tag does not promise the same bytes (RFC 9110, section 13.1.5).
        let etag = header_of(response, header::ETAG).filter(|tag| tag.starts_with('"'));
        self.etag = etag.map(str::to_string);
        Ok(0)
    }

    /// Waits, and lets the next read begin where this one broke off.
    fn recover(&mut self, mut failure: Failure) -> crate::error::Result<()> {
        if self.offset - self.failed_at >= PROGRESS {
            self.retries.reset();
        }
        self.failed_at = self.offset;
        self.pace = Pace::default();
        // A registry that was there a moment ago is perhaps being started again.
        if failure.again == Again::Nobody && self.offset > 0 {
            failure.again = Again::Soon;
        }
        let Err(error) = self.client().wait(failure, &mut self.retries) else {
            return Ok(());
        };
        match self.clients {
            // Another server has the same bytes, but may have another tag for them.
            [client, rest @ ..] if !rest.is_empty() && !client.left().is_zero() => {
                client.pass_over(&error);
                (self.clients, self.etag) = (rest, None);
                self.retries = Retries::default();
                Ok(())
            }
            _ => Err(error),
        }
    }
}

impl Read for Transfer<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(error) = &self.ended {
                return Err(io::Error::other(error.clone()));
            }
            match self.advance(buffer) {
                Ok(count) => return Ok(count),
                Err(failure) => self.ended = self.recover(failure).err(),
            }
        }
    }
}

fn check_range(
    what: &str,
    who: &str,
    response: &Response<Body>,
    offset: u64,
    size: u64,
) -> crate::error::Result<()> {
    let range = header_of(response, header::CONTENT_RANGE).and_then(range::parse);
    match range {
        Some(range)
            if range.first == offset
                && range.last < size
                && range.total.is_none_or(|total| total == size) =>
        {
            Ok(())
        }
        _ => Err(Error::digest(
            what,
            format_args!("{who} sends another range than from byte {offset}"),
        )),
    }
}

/// How fast the registry sends, as long as it is waited for.
#[derive(Default)]
struct Pace {
    waited: Duration,
    bytes: u64,
}

impl Pace {
    fn note(&mut self, waited: Duration, bytes: u64) {
        self.waited += waited;
        self.bytes += bytes;
    }

    /// Whether a whole timeout has brought less than it must; the next one begins then.
    fn is_slow(&mut self, timeout: Duration) -> bool {
        if self.waited < timeout {
            return false;
        }
        std::mem::take(self).bytes < PACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_is_slow_and_a_flood_is_not() {
        let timeout = Duration::from_secs(30);
        let mut pace = Pace::default();
        pace.note(Duration::from_secs(29), 1);
        assert!(!pace.is_slow(timeout), "it has time yet");
        pace.note(Duration::from_secs(1), 1);
        assert!(pace.is_slow(timeout));
        pace.note(Duration::from_secs(31), PACE);
        assert!(!pace.is_slow(timeout));
        pace.note(Duration::from_secs(30), PACE - 1);
        assert!(pace.is_slow(timeout), "what was sent before does not count");
    }
}
