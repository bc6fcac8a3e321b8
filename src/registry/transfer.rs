//! A blob as a stream that resumes after an interruption.

use super::client::{Client, Exchange, Failure, broken, header_of, is_page, too_slow};
use super::range;
use super::retry::{Again, Retries};
use super::senders::Senders;
use crate::base::error::Error;
use crate::image::manifest::Descriptor;
use std::io::{self, Read};
use std::time::{Duration, Instant};
use ureq::http::{Method, Response, header};
use ureq::{Body, BodyReader};

/// Bytes that a registry must send within the timeout.
const PACE: u64 = 64 << 10;
/// Bytes after which earlier failures no longer count.
const PROGRESS: u64 = 1 << 20;

/// Reader of a blob; returns as many bytes as its descriptor says.
///
/// The consumer checks the digest. Errors of `read` contain imrun's own error in an `io::Error`.
pub struct Transfer<'a> {
    /// Servers to ask, in order.
    clients: &'a [Client],
    senders: &'a Senders,
    what: String,
    descriptor: Descriptor,
    /// True if the answer is labelled as a web page and its length does not prove otherwise.
    may_be_page: bool,
    /// Body of the current answer, and its offset in the blob.
    body: Option<(BodyReader<'static>, u64)>,
    /// Entity tag: a range is requested only of the same entity.
    etag: Option<String>,
    /// Number of bytes returned.
    offset: u64,
    /// Offset of the last failure.
    failed_at: u64,
    retries: Retries,
    pace: Pace,
    /// Error after which no more bytes follow.
    ended: Option<Error>,
}

impl<'a> Transfer<'a> {
    /// Creates a transfer that starts with the first read.
    pub fn new(
        clients: &'a [Client],
        senders: &'a Senders,
        what: String,
        descriptor: &Descriptor,
    ) -> Transfer<'a> {
        Transfer {
            clients,
            senders,
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

    /// Returns the current server.
    fn client(&self) -> &'a Client {
        &self.clients[0]
    }

    /// Returns further bytes; 0 at the end.
    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, Failure> {
        loop {
            let (mut body, at) = match self.body.take() {
                Some(open) => open,
                None => self.open()?,
            };
            // A registry without ranges starts from the beginning: skips the bytes that were read before.
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

    /// Checks the result of a read at offset `at`.
    fn check(&mut self, at: u64, read: io::Result<usize>) -> Result<usize, Failure> {
        let left = self.descriptor.size - at;
        match read {
            // All bytes have arrived; the consumer checks the digest.
            Ok(0) | Err(_) if left == 0 => Ok(0),
            Ok(0) => Err(self.broken(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) if count as u64 > left => Err(Failure::last(self.too_long())),
            Ok(_) if self.client().time_left().is_zero() => {
                Err(self.client().deadline_error(&self.what))
            }
            Ok(_) if self.pace.is_slow(self.client().settings.timeout) => {
                Err(too_slow(&self.what, &self.client().server_name()))
            }
            Ok(count) => Ok(count),
            Err(error) => Err(self.broken(error)),
        }
    }

    fn broken(&self, error: io::Error) -> Failure {
        broken(&self.what, &self.client().server_name(), error)
    }

    fn too_long(&self) -> Error {
        let (who, size) = (self.client().server_name(), self.descriptor.size);
        let why = format_args!("{who} sends more than the {size} bytes that its descriptor says");
        Error::digest(&self.what, why)
    }

    /// Requests the missing bytes. Returns the body and the offset at which it begins.
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
        self.senders
            .note(self.descriptor.digest, &self.client().endpoint);
        Ok((response.into_body().into_reader(), at))
    }

    /// Checks the head of an answer. Returns the offset at which its body begins.
    fn begin(&mut self, response: &Response<Body>) -> crate::base::error::Result<u64> {
        if response.status() == 206 {
            let who = self.client().server_name();
            check_range(
                &self.what,
                &who,
                response,
                self.offset,
                self.descriptor.size,
            )?;
            return Ok(self.offset);
        }
        // The blob's media type does not matter: its digest decides.
        let length = response.body().content_length();
        self.may_be_page = is_page(response) && length.is_none();
        match length {
            Some(length) if length != self.descriptor.size && is_page(response) => {
                return Err(self.client().page(&self.what));
            }
            Some(length) => self.descriptor.expect_size("layer", length)?,
            None => {}
        }
        // A weak tag does not guarantee the same bytes (RFC 9110, section 13.1.5).
        let etag = header_of(response, header::ETAG).filter(|tag| tag.starts_with('"'));
        self.etag = etag.map(str::to_string);
        Ok(0)
    }

    /// Waits and prepares the next read to continue at the current offset.
    fn recover(&mut self, mut failure: Failure) -> crate::base::error::Result<()> {
        if self.offset - self.failed_at >= PROGRESS {
            self.retries.reset();
        }
        self.failed_at = self.offset;
        self.pace = Pace::default();
        // A registry that was reachable before may be restarting.
        if failure.again == Again::Nobody && self.offset > 0 {
            failure.again = Again::Soon;
        }
        let Err(error) = self.client().wait(failure, &mut self.retries) else {
            return Ok(());
        };
        match self.clients {
            // Another server has the same bytes, but may have another entity tag.
            [client, rest @ ..] if !rest.is_empty() && !client.time_left().is_zero() => {
                client.log_failover(&error);
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
) -> crate::base::error::Result<()> {
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
            format_args!("{who} sends another range than the one from byte {offset}"),
        )),
    }
}

/// Speed of the registry while imrun waits for it.
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

    /// Returns true if less than [`PACE`] arrived in a whole timeout; then starts the next one.
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
    fn few_bytes_in_a_timeout_are_slow_and_many_are_not() {
        let timeout = Duration::from_secs(30);
        let mut pace = Pace::default();
        pace.note(Duration::from_secs(29), 1);
        assert!(!pace.is_slow(timeout), "the timeout has not passed");
        pace.note(Duration::from_secs(1), 1);
        assert!(pace.is_slow(timeout));
        pace.note(Duration::from_secs(31), PACE);
        assert!(!pace.is_slow(timeout));
        pace.note(Duration::from_secs(30), PACE - 1);
        assert!(pace.is_slow(timeout), "earlier bytes do not count");
    }
}
