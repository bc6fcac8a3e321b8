//! `forward+tcp`, `forward+tls`: the protocol of Fluentd and Fluent Bit, with acknowledgements.
//!
//! Source: Fluentd, Forward Protocol Specification v1: PackedForward mode, CompressedPackedForward
//! with `?compression=gzip`; each message has a `chunk`, which the receiver sends back as `ack`.

use super::backoff::Attempt;
use super::event::{Batch, Body, Event, Origin};
use super::http::gzip;
use super::msgpack::{self, Parsed};
use super::net::{Connection, Incoming, Peer};
use super::parse;
use super::sink::{Delivery, Failure, Sink};
use super::url::SinkUrl;
use crate::base::time::{nanoseconds, rfc3339};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Maximum bytes of an answer.
const ANSWER_MAX: usize = 64 * 1024;

/// A receiver of the forward protocol.
pub struct Forward {
    attempt: Attempt,
    peer: Peer,
    tag: String,
    gzip: bool,
    records: Records,
    /// Prefix of each chunk's name, before the first sequence number.
    launch: String,
    connection: Option<Connection>,
    flight: VecDeque<Chunk>,
    answers: Vec<u8>,
    entries: Vec<u8>,
}

struct Chunk {
    name: String,
    sent: Instant,
}

impl Forward {
    /// Creates a sink for the events of one launch.
    pub fn new(url: &SinkUrl, peer: Peer, origin: &Origin) -> Forward {
        Forward {
            attempt: Attempt::new(peer.timeout),
            peer,
            tag: url.tag.clone().unwrap_or_else(|| "imrun".into()),
            gzip: url.gzip,
            records: Records::new(origin, url.parse),
            launch: format!("{}-{:x}", origin.container_id, nanoseconds()),
            connection: None,
            flight: VecDeque::new(),
            answers: Vec::new(),
            entries: Vec::new(),
        }
    }

    fn or_drop<T>(&mut self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        if outcome.is_err() {
            self.connection = None;
            self.flight.clear();
            self.answers.clear();
        }
        outcome
    }

    fn try_send(&mut self, batch: &Batch) -> Result<(), Failure> {
        if self.flight.is_empty() {
            self.connection = Some(self.peer.connected(self.connection.take())?);
            self.answers.clear();
        }
        let connection = self.connection.as_mut().ok_or_else(Failure::closed)?;
        self.entries.clear();
        for event in batch.iter() {
            self.records.append(&mut self.entries, &event);
        }
        // The same events have the same name, so that a receiver can recognise a repetition.
        let (first, events) = (batch.first().unwrap_or_default(), batch.len());
        let name = BASE64_STANDARD.encode(format!("{}-{first}-{events}", self.launch));
        let packed = self.gzip.then(|| gzip(&self.entries));
        let entries = packed.as_deref().unwrap_or(&self.entries);
        let mut head = Vec::with_capacity(64);
        msgpack::array(&mut head, 3);
        msgpack::text(&mut head, self.tag.as_bytes());
        msgpack::bin_head(&mut head, entries.len());
        let options = options(&name, batch.len(), self.gzip);
        for part in [&head[..], entries, &options] {
            let written = connection.write(part);
            written.map_err(|failure| connection.with_peers_reason(failure))?;
        }
        let sent = Instant::now();
        self.flight.push_back(Chunk { name, sent });
        Ok(())
    }

    fn try_settle(&mut self, wait: Option<Duration>) -> Result<Option<Delivery>, Failure> {
        let (Some(connection), Some(oldest)) = (self.connection.as_mut(), self.flight.front())
        else {
            return Err(Failure::closed());
        };
        let deadline = oldest.sent + self.attempt.timeout();
        let until = wait.map_or(deadline, |wait| deadline.min(Instant::now() + wait));
        loop {
            match acknowledged(&self.answers)? {
                Parsed::Whole(name, length) if name == oldest.name => {
                    self.attempt.answered(oldest.sent.elapsed());
                    self.answers.drain(..length);
                    self.flight.pop_front();
                    // The time of the next batch starts now.
                    if let Some(next) = self.flight.front_mut() {
                        next.sent = Instant::now();
                    }
                    return Ok(Some(Delivery::default()));
                }
                Parsed::Whole(..) => {
                    return Err(Failure::again("acknowledged a batch that was not sent"));
                }
                Parsed::Partial => {}
            }
            let mut chunk = [0; 4096];
            let left = until.saturating_duration_since(Instant::now());
            match connection.read(&mut chunk, left)? {
                Incoming::Bytes(read) => self.answers.extend_from_slice(&chunk[..read]),
                Incoming::Closed => return Err(Failure::closed()),
                Incoming::Nothing if Instant::now() >= deadline => {
                    let time = self.attempt.timeout();
                    self.attempt.missed();
                    let why = format!("no acknowledgement within {time:?}");
                    return Err(Failure::again(why));
                }
                Incoming::Nothing => return Ok(None),
            }
        }
    }
}

impl Sink for Forward {
    fn window(&self) -> usize {
        4
    }

    fn send(&mut self, batch: &Batch) -> Result<(), Failure> {
        let outcome = self.try_send(batch);
        self.or_drop(outcome)
    }

    fn settle(&mut self, _: &Batch, wait: Option<Duration>) -> Result<Option<Delivery>, Failure> {
        let outcome = self.try_settle(wait);
        self.or_drop(outcome)
    }
}

fn options(chunk: &str, events: usize, gzip: bool) -> Vec<u8> {
    let mut options = Vec::new();
    msgpack::map(&mut options, if gzip { 3 } else { 2 });
    msgpack::text(&mut options, b"chunk");
    msgpack::text(&mut options, chunk.as_bytes());
    msgpack::text(&mut options, b"size");
    msgpack::unsigned(&mut options, events as u64);
    if gzip {
        msgpack::text(&mut options, b"compressed");
        msgpack::text(&mut options, b"gzip");
    }
    options
}

/// Reads the next acknowledgement: the name of a chunk.
pub fn acknowledged(answers: &[u8]) -> Result<Parsed<&str>, Failure> {
    let garbage = || Failure::again("did not answer with an acknowledgement");
    match msgpack::strings(answers).map_err(|_| garbage())? {
        Parsed::Whole(pairs, length) => {
            let ack = pairs.iter().find(|(name, _)| *name == "ack");
            ack.map(|(_, chunk)| Parsed::Whole(*chunk, length))
                .ok_or_else(garbage)
        }
        Parsed::Partial if answers.len() > ANSWER_MAX => Err(garbage()),
        Parsed::Partial => Ok(Parsed::Partial),
    }
}

/// Encoder of events as entries `[time, record]`. Names are the same as in the JSON documents; common
/// members are encoded once.
struct Records {
    identity: Vec<u8>,
    pairs: u32,
    launch: String,
    parse: bool,
}

impl Records {
    fn new(origin: &Origin, parse: bool) -> Records {
        let mut identity = Vec::new();
        pair(&mut identity, "container.id", &origin.container_id);
        if let Some(name) = &origin.container_name {
            pair(&mut identity, "container.name", name);
        }
        msgpack::text(&mut identity, b"container.image.hash.all");
        msgpack::array(&mut identity, 1);
        msgpack::text(&mut identity, origin.image_digest.as_bytes());
        pair(&mut identity, "host.name", &origin.host_name);
        Records {
            identity,
            pairs: 3 + u32::from(origin.container_name.is_some()),
            launch: origin.launch_id.clone(),
            parse,
        }
    }

    fn append(&self, to: &mut Vec<u8>, event: &Event<'_>) {
        msgpack::array(to, 2);
        msgpack::event_time(to, event.time);
        match event.body {
            Body::Record { kind, fields } => self.append_record(to, event.sequence, kind, fields),
            Body::Line {
                stream,
                bytes,
                partial,
            } => {
                let object = parse::whole_line(self.parse, bytes, partial);
                let members = object.as_ref().map_or(0, |object| object.members().count());
                let members = u32::try_from(members).expect("a batch is small");
                let time = object.as_ref().and_then(parse::Object::time);
                let dataset = object.as_ref().and_then(parse::Object::dataset);
                let members = members + u32::from(time.is_some());
                msgpack::map(to, self.pairs + 5 + u32::from(partial) + members);
                msgpack::text(to, b"message");
                match object.as_ref().and_then(parse::Object::message) {
                    Some(message) => msgpack::text(to, message.as_bytes()),
                    None => msgpack::text(to, bytes),
                }
                pair(to, "log.iostream", stream.as_str());
                self.append_common(to, event.sequence, dataset.unwrap_or("imrun.output"));
                if let Some(time) = time {
                    pair(to, "@timestamp", &rfc3339(time));
                }
                pair(to, "imrun.launch_id", &self.launch);
                if partial {
                    msgpack::text(to, b"imrun.partial");
                    msgpack::boolean(to, true);
                }
                for (name, value) in object.iter().flat_map(parse::Object::members) {
                    msgpack::text(to, name.as_bytes());
                    msgpack::value(to, &parse::value(value));
                }
            }
        }
    }

    fn append_record(&self, to: &mut Vec<u8>, sequence: u64, kind: &str, fields: &Value) {
        let own = fields.as_object().into_iter().flatten();
        let launch = fields.get("launch_id").is_none();
        let count = u32::try_from(own.clone().count()).expect("a batch is small");
        msgpack::map(to, self.pairs + 3 + u32::from(launch) + count);
        pair(to, "message", &format!("imrun: {kind}"));
        self.append_common(to, sequence, &format!("imrun.{kind}"));
        if launch {
            pair(to, "imrun.launch_id", &self.launch);
        }
        for (name, value) in own {
            msgpack::text(to, format!("imrun.{name}").as_bytes());
            msgpack::value(to, value);
        }
    }

    fn append_common(&self, to: &mut Vec<u8>, sequence: u64, dataset: &str) {
        msgpack::text(to, b"event.sequence");
        msgpack::unsigned(to, sequence);
        pair(to, "event.dataset", dataset);
        to.extend_from_slice(&self.identity);
    }
}

fn pair(to: &mut Vec<u8>, name: &str, value: &str) {
    msgpack::text(to, name.as_bytes());
    msgpack::text(to, value.as_bytes());
}

#[cfg(test)]
mod tests;
