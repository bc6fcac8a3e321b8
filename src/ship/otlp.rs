//! `otlp+http`, `otlp+https`: OpenTelemetry's protocol for logs, over HTTP with protobuf.
//!
//! Source: opentelemetry-proto 1.x, `logs/v1/logs.proto` and `collector/logs/v1/logs_service.proto`;
//! OTLP specification, "OTLP/HTTP". The names are those of the semantic conventions, as far as they
//! have any; imrun's own are under `imrun.`.

use super::escape::append_number;
use super::event::{Batch, Body, Event, Origin};
use super::http::{Endpoint, Request};
use super::net::Peer;
use super::parse;
use super::posted::{Exchange, Posted};
use super::protobuf::{self, Value, bytes, double, fixed, message, number};
use super::sink::{Delivery, Failure, FailureKind, Rejection};
use super::url::SinkUrl;
use crate::error::Result as Checked;
use crate::time::nanoseconds;
use serde_json::Value as Json;

/// Where a collector takes logs when the URL names no path.
const PATH: &str = "/v1/logs";
/// Of a sink's own words, so much is kept.
const WHY_MAX: usize = 200;
/// `SeverityNumber`: of imrun's own records. A stream is no severity: only lines with a level have one.
const INFO: u64 = 9;

/// A collector.
pub struct Otlp {
    /// The resource and the scope, as fields of the messages around the records.
    resource: Vec<u8>,
    scope: Vec<u8>,
    /// In front of the sequence number in each `log.record.uid`.
    id: String,
    parse: bool,
}

/// A sink for the events of one launch.
pub fn sink(url: &SinkUrl, peer: Peer, origin: &Origin) -> Checked<Posted<Otlp>> {
    let path = if url.path.is_empty() { PATH } else { &url.path };
    let query = match url.parameters.is_empty() {
        true => String::new(),
        false => format!("?{}", url.parameters.join("&")),
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

    /// Which event it is: a receiver can tell a repetition, and a gap.
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

/// The fields `severity_number` and `severity_text` of a level: its name, or its number as bunyan and
/// pino write it. A level that is none of those has its text alone.
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

/// A field that is an `AnyValue` of text: bytes where it is none.
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

/// `AnyValue`: nothing of null. A value comes from a record or from one line: it is no deeper than
/// the JSON parser's limit.
fn any(to: &mut Vec<u8>, value: &Json) {
    match value {
        Json::Null => {}
        Json::String(text) => bytes(to, 1, text.as_bytes()),
        Json::Bool(value) => number(to, 2, u64::from(*value)),
        Json::Number(value) => match (value.as_i64(), value.as_f64()) {
            // A negative number is its two's complement.
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

/// Reads the answer to a batch of so many events: `ExportLogsServiceResponse`. Which events were
/// rejected is not said: the first ones are counted. What cannot be understood acknowledges nothing.
pub fn understand(answer: &[u8], events: usize) -> Result<Delivery, Failure> {
    let garbage = |_| Failure::new(FailureKind::Again, "answered what is no answer to OTLP");
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
    // A negative number is a very large one here.
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

/// The sink's words, which may quote a line: short, and without what drives a terminal.
fn words(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars()
        .filter(|c| !c.is_control())
        .take(WHY_MAX)
        .collect()
}

#[cfg(test)]
mod tests;
