//! Events as JSON objects.
//!
//! Names follow the Elastic Common Schema 9 (`@timestamp`, `message`, `container.*`, `host.name`,
//! `event.*`). It has none for the output stream, so `log.iostream` is OpenTelemetry's (semantic
//! conventions, general logs attributes). imrun's own names begin with `imrun.`. Names contain dots
//! instead of nested objects: Elasticsearch treats both alike.

use super::escape::{append_lossy, append_number, append_string};
use super::event::{Body, Event, Origin, Stream};
use super::parse;
use crate::base::time::{Clock, rfc3339};
use serde_json::Value;

/// Encoder for the events of one launch; encodes their common members once.
pub struct Documents {
    clock: Clock,
    /// Encoded members from the container's ID on, without the closing brace.
    identity: Vec<u8>,
    launch: Vec<u8>,
    /// Members of a line after its sequence number: its dataset and both of the above.
    line: Vec<u8>,
    parse: bool,
}

impl Documents {
    /// Creates an encoder for this origin. With `parse`, the members of a line that is a JSON object
    /// become fields.
    pub fn new(origin: &Origin, parse: bool) -> Documents {
        let mut identity = Vec::new();
        member(&mut identity, "container.id", &origin.container_id);
        if let Some(name) = &origin.container_name {
            member(&mut identity, "container.name", name);
        }
        identity.extend_from_slice(b",\"container.image.hash.all\":[");
        append_string(&mut identity, &origin.image_digest);
        identity.push(b']');
        member(&mut identity, "host.name", &origin.host_name);
        let mut launch = Vec::new();
        member(&mut launch, "imrun.launch_id", &origin.launch_id);
        let dataset = b",\"event.dataset\":\"imrun.output\"";
        Documents {
            clock: Clock::default(),
            line: [&dataset[..], &identity, &launch].concat(),
            identity,
            launch,
            parse,
        }
    }

    /// Appends an event as one JSON object without a newline. JSON must be UTF-8, so other bytes become
    /// U+FFFD.
    pub fn append(&mut self, to: &mut Vec<u8>, event: &Event<'_>) {
        to.extend_from_slice(b"{\"@timestamp\":\"");
        match event.body {
            Body::Line { .. } => self.append_line(to, event),
            Body::Record { kind, fields } => {
                to.extend_from_slice(self.clock.rfc3339(event.time));
                self.append_record(to, event.sequence, kind, fields);
            }
        }
        to.push(b'}');
    }

    fn append_line(&mut self, to: &mut Vec<u8>, event: &Event<'_>) {
        let Body::Line {
            stream,
            bytes,
            partial,
        } = event.body
        else {
            return;
        };
        let object = parse::whole_line(self.parse, bytes, partial);
        let time = object.as_ref().and_then(parse::Object::time);
        match time {
            Some(time) => {
                to.extend_from_slice(rfc3339(time).as_bytes());
                to.extend_from_slice(b"\",\"event.created\":\"");
                to.extend_from_slice(self.clock.rfc3339(event.time));
            }
            None => to.extend_from_slice(self.clock.rfc3339(event.time)),
        }
        to.extend_from_slice(b"\",\"message\":\"");
        match object.as_ref().and_then(parse::Object::message) {
            Some(message) => append_lossy(to, message.as_bytes()),
            None => append_lossy(to, bytes),
        }
        to.extend_from_slice(match stream {
            Stream::Stdout => b"\",\"log.iostream\":\"stdout\",\"event.sequence\":",
            Stream::Stderr => b"\",\"log.iostream\":\"stderr\",\"event.sequence\":",
        });
        append_number(to, event.sequence);
        match object.as_ref().and_then(parse::Object::dataset) {
            Some(dataset) => {
                member(to, "event.dataset", dataset);
                to.extend_from_slice(&self.identity);
                to.extend_from_slice(&self.launch);
            }
            None => to.extend_from_slice(&self.line),
        }
        if partial {
            to.extend_from_slice(b",\"imrun.partial\":true");
        }
        for (name, value) in object.iter().flat_map(parse::Object::members) {
            to.push(b',');
            append_string(to, name);
            to.push(b':');
            to.extend_from_slice(value.as_bytes());
        }
    }

    fn append_record(&self, to: &mut Vec<u8>, sequence: u64, kind: &str, fields: &Value) {
        to.extend_from_slice(b"\",\"message\":\"imrun: ");
        append_lossy(to, kind.as_bytes());
        to.extend_from_slice(b"\",\"event.sequence\":");
        append_number(to, sequence);
        to.extend_from_slice(b",\"event.dataset\":\"imrun.");
        append_lossy(to, kind.as_bytes());
        to.push(b'"');
        to.extend_from_slice(&self.identity);
        // A repeated name would make the document invalid.
        if fields.get("launch_id").is_none() {
            to.extend_from_slice(&self.launch);
        }
        for (name, value) in fields.as_object().into_iter().flatten() {
            to.extend_from_slice(b",\"imrun.");
            append_lossy(to, name.as_bytes());
            to.extend_from_slice(b"\":");
            serde_json::to_writer(&mut *to, value).expect("a value is JSON");
        }
    }
}

fn member(to: &mut Vec<u8>, name: &str, value: &str) {
    to.push(b',');
    append_string(to, name);
    to.push(b':');
    append_string(to, value);
}

#[cfg(test)]
mod tests;
