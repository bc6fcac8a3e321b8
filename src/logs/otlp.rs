//! `otlp+http`, `otlp+https`: OpenTelemetry's protocol for logs, over HTTP with protobuf.
//!
//! Source: opentelemetry-proto 1.x, `logs/v1/logs.proto` and `collector/logs/v1/logs_service.proto`;
//! OTLP specification, "OTLP/HTTP". Names follow the semantic conventions where they have one; imrun's
//! own begin with `imrun.`.

use super::escape::append_number;
use super::event::{Batch, Body, Event, Origin};
use super::http::{Endpoint, Request};
use super::net::Peer;
use super::parse;
use super::posted::{Exchange, Posted};
use super::sink::{Delivery, Failure, FailureKind, Rejection};
use super::url::SinkUrl;
use crate::base::error::Result as Checked;
use crate::base::protobuf::{self, Value, bytes, double, fixed, message, number};
use crate::base::time::nanoseconds;
use serde_json::Value as Json;

/// Path used if the URL has none.
const PATH: &str = "/v1/logs";
/// Maximum number of characters kept of a sink's explanation.
const WHY_MAX: usize = 200;
/// `SeverityNumber` of imrun's records. Lines have a severity only if they contain a level.
const INFO: u64 = 9;

/// A collector.
pub struct Otlp {
    /// Resource and scope, encoded as fields of the messages around the records.
    resource: Vec<u8>,
    scope: Vec<u8>,
    /// Prefix of each `log.record.uid`, before the sequence number.
    id: String,
    parse: bool,
}

/// Creates a sink for the events of one launch.
pub fn sink(url: &SinkUrl, peer: Peer, origin: &Origin) -> Checked<Posted<Otlp>> {
    let path = if url.path.is_empty() { PATH } else { &url.path };
    let query = if url.parameters.is_empty() {
        String::new()
    } else {
        format!("?{}", url.parameters.join("&"))
    };
    let request = Request {
        target: format!("{path}{query}"),
        content_type: "application/x-protobuf",
        authorization: url.authorization()?,
        gzip: url.gzip,
    };
    let otlp = Otlp::new(origin, url.parse);
    Ok(Posted::new(Endpoint::new(peer, request), otlp))
}

impl Otlp {
    fn new(origin: &Origin, parse: bool) -> Otlp {
        Otlp {
            resource: resource(origin),
            scope: scope(env!("CARGO_PKG_VERSION")),
            id: format!("{}-{:x}-", origin.container_id, nanoseconds()),
            parse,
        }
    }

    /// `LogRecord`.
    fn record(&self, to: &mut Vec<u8>, event: &Event<'_>) {
        match event.body {
            Body::Line {
                stream,
                bytes,
                partial,
            } => {
                let object = parse::whole_line(self.parse, bytes, partial);
                let time = object.as_ref().and_then(parse::Object::time);
                fixed(to, 1, time.unwrap_or(event.time));
                if let Some(level) = object.as_ref().and_then(parse::Object::level) {
                    severity(to, &level);
                }
                let message = object.as_ref().and_then(parse::Object::message);
                any_text(to, 5, message.map_or(bytes, str::as_bytes));
                attribute(to, "log.iostream", stream.as_str());
                self.place(to, event.sequence);
                if partial {
                    attribute_of(to, "imrun.partial", &Json::Bool(true));
                }
                if let Some(dataset) = object.as_ref().and_then(parse::Object::dataset) {
                    attribute(to, "event.dataset", dataset);
                }
                for (name, value) in object.iter().flat_map(parse::Object::members) {
                    attribute_of(to, name, &parse::value(value));
                }
                fixed(to, 11, event.time);
            }
            Body::Record { kind, fields } => {
                fixed(to, 1, event.time);
                number(to, 2, INFO);
                any_text(to, 5, format!("imrun: {kind}").as_bytes());
                self.place(to, event.sequence);
                for (name, value) in fields.as_object().into_iter().flatten() {
                    attribute_of(to, &format!("imrun.{name}"), value);
                }
                fixed(to, 11, event.time);
                bytes(to, 12, format!("imrun.{kind}").as_bytes());
            }
        }
    }

    /// Appends the event's identity, so that a receiver can recognise repetitions and gaps.
    fn place(&self, to: &mut Vec<u8>, sequence: u64) {
        message(to, 6, |to| {
            bytes(to, 1, b"log.record.uid");
            message(to, 2, |to| {
                message(to, 1, |to| {
                    to.extend_from_slice(self.id.as_bytes());
                    append_number(to, sequence);
                });
            });
        });
        message(to, 6, |to| {
            bytes(to, 1, b"imrun.sequence");
            message(to, 2, |to| number(to, 3, sequence));
        });
    }
}

impl Exchange for Otlp {
    /// `ExportLogsServiceRequest`, of one `ResourceLogs` with one `ScopeLogs`.
    fn encode(&mut self, to: &mut Vec<u8>, batch: &Batch) {
        message(to, 1, |to| {
            to.extend_from_slice(&self.resource);
            message(to, 2, |to| {
                to.extend_from_slice(&self.scope);
                for event in batch.iter() {
                    message(to, 2, |to| self.record(to, &event));
                }
            });
        });
    }

    fn understand(answer: &[u8], events: usize) -> Result<Delivery, Failure> {
        understand(answer, events)
    }
}

/// Appends `severity_number` and `severity_text` of a level: a name, or a number as in bunyan and pino.
/// Any other level gets only its text.
fn severity(to: &mut Vec<u8>, level: &Json) {
    let name = level.as_str().map(str::to_ascii_lowercase);
    let known = match (name.as_deref(), level.as_f64()) {
        (Some("trace" | "verbose" | "finest" | "silly"), _) => Some(1),
        (Some("debug" | "fine"), _) => Some(5),
        (Some("info" | "information" | "informational"), _) => Some(INFO),
        (Some("notice"), _) => Some(10),
        (Some("warn" | "warning"), _) => Some(13),
        (Some("error" | "err" | "severe"), _) => Some(17),
        (Some("critical" | "crit" | "dpanic"), _) => Some(18),
        (Some("alert"), _) => Some(19),
        (Some("fatal" | "emergency" | "emerg" | "panic"), _) => Some(21),
        (None, Some(10.0..20.0)) => Some(1),
        (None, Some(20.0..30.0)) => Some(5),
        (None, Some(30.0..40.0)) => Some(INFO),
        (None, Some(40.0..50.0)) => Some(13),
        (None, Some(50.0..60.0)) => Some(17),
        (None, Some(60.0..=100.0)) => Some(21),
        _ => None,
    };
    if let Some(known) = known {
        number(to, 2, known);
    }
    let text = level
        .as_str()
        .map_or_else(|| level.to_string(), str::to_owned);
    bytes(to, 3, text.as_bytes());
}

/// The field `resource` of `ResourceLogs`.
fn resource(origin: &Origin) -> Vec<u8> {
    let mut field = Vec::new();
    let service = origin
        .container_name
        .as_deref()
        .unwrap_or("unknown_service:imrun");
    message(&mut field, 1, |to| {
        let mut own = |name, value| message(to, 1, |to| key_text(to, name, value));
        own("service.name", service);
        own("service.instance.id", &origin.container_id);
        own("container.id", &origin.container_id);
        if let Some(name) = &origin.container_name {
            own("container.name", name);
        }
        own("container.image.id", &origin.image_digest);
        own("host.name", &origin.host_name);
        own("imrun.launch_id", &origin.launch_id);
    });
    field
}

/// The field `scope` of `ScopeLogs`.
fn scope(version: &str) -> Vec<u8> {
    let mut field = Vec::new();
    message(&mut field, 1, |to| {
        bytes(to, 1, b"imrun");
        bytes(to, 2, version.as_bytes());
    });
    field
}

/// The field `attributes` of a record.
fn attribute(to: &mut Vec<u8>, name: &str, value: &str) {
    message(to, 6, |to| key_text(to, name, value));
}

fn attribute_of(to: &mut Vec<u8>, name: &str, value: &Json) {
    message(to, 6, |to| key_value(to, name, value));
}

/// `KeyValue` of a string.
fn key_text(to: &mut Vec<u8>, name: &str, value: &str) {
    bytes(to, 1, name.as_bytes());
    any_text(to, 2, value.as_bytes());
}

/// `KeyValue`.
fn key_value(to: &mut Vec<u8>, name: &str, value: &Json) {
    bytes(to, 1, name.as_bytes());
    message(to, 2, |to| any(to, value));
}

/// Appends a field with an `AnyValue` of text, or of bytes if it is not UTF-8.
fn any_text(to: &mut Vec<u8>, field: u64, text: &[u8]) {
    const STRING: u64 = 1;
    const BYTES: u64 = 7;
    let kind = if std::str::from_utf8(text).is_ok() {
        STRING
    } else {
        BYTES
    };
    message(to, field, |to| bytes(to, kind, text));
}

/// Appends an `AnyValue`; null has none. A value comes from a record or from one line, so it is no
/// deeper than the JSON parser's limit.
fn any(to: &mut Vec<u8>, value: &Json) {
    match value {
        Json::Null => {}
        Json::String(text) => bytes(to, 1, text.as_bytes()),
        Json::Bool(value) => number(to, 2, u64::from(*value)),
        Json::Number(value) => match (value.as_i64(), value.as_f64()) {
            // A negative number is encoded as two's complement.
            (Some(value), _) => number(to, 3, value as u64),
            (None, float) => double(to, 4, float.unwrap_or(f64::NAN)),
        },
        Json::Array(values) => message(to, 5, |to| {
            values
                .iter()
                .for_each(|value| message(to, 1, |to| any(to, value)));
        }),
        Json::Object(members) => message(to, 6, |to| {
            for (name, value) in members {
                message(to, 1, |to| key_value(to, name, value));
            }
        }),
    }
}

/// Reads the answer to a batch of `events` events: `ExportLogsServiceResponse`. It does not name the
/// rejected events, so the first ones are counted as rejected. An invalid answer acknowledges nothing.
pub fn understand(answer: &[u8], events: usize) -> Result<Delivery, Failure> {
    let garbage = |_| Failure::new(FailureKind::Again, "did not answer as OTLP does");
    let (mut rejected, mut why) = (0, String::new());
    for field in protobuf::fields(answer) {
        let field = field.map_err(garbage)?;
        let (1, Value::Bytes(partial)) = (field.number, field.value) else {
            continue;
        };
        for field in protobuf::fields(partial) {
            let field = field.map_err(garbage)?;
            match (field.number, field.value) {
                (1, Value::Number(records)) => rejected = records,
                (2, Value::Bytes(text)) => why = words(text),
                _ => {}
            }
        }
    }
    // A negative number becomes a very large one.
    let rejected = usize::try_from(rejected).unwrap_or(usize::MAX).min(events);
    let rejection = |index| Rejection {
        index,
        why: format!("partial success: {why}"),
    };
    Ok(Delivery {
        rejected: (0..rejected).map(rejection).collect(),
        again: Vec::new(),
    })
}

/// Returns the sink's explanation, shortened and without control characters; it may quote a line.
fn words(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars()
        .filter(|c| !c.is_control())
        .take(WHY_MAX)
        .collect()
}

#[cfg(test)]
mod tests;
