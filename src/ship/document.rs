//! An event as a JSON object.
//!
//! The names are those of the Elastic Common Schema 9 (`@timestamp`, `message`, `container.*`,
//! `host.name`, `event.*`), which has none for the output stream: `log.iostream` is OpenTelemetry's
//! (semantic conventions, general logs attributes). imrun's own are under `imrun.`. Names are
//! written with dots, not nested: both mean the same to Elasticsearch.

use super::event::{Body, Event, Origin};
use crate::time::rfc3339;
use serde::Serialize;
use serde_json::{Map, Value};
use std::borrow::Cow;

#[derive(Serialize)]
struct Document<'a> {
    #[serde(rename = "@timestamp")]
    timestamp: String,
    message: Cow<'a, str>,
    #[serde(rename = "log.iostream", skip_serializing_if = "Option::is_none")]
    stream: Option<&'static str>,
    #[serde(rename = "event.sequence")]
    sequence: u64,
    #[serde(rename = "event.dataset")]
    dataset: Cow<'static, str>,
    #[serde(rename = "container.id")]
    container_id: &'a str,
    #[serde(rename = "container.name", skip_serializing_if = "Option::is_none")]
    container_name: Option<&'a str>,
    #[serde(rename = "container.image.hash.all")]
    image_digest: [&'a str; 1],
    #[serde(rename = "host.name")]
    host_name: &'a str,
    #[serde(rename = "imrun.launch_id", skip_serializing_if = "Option::is_none")]
    launch_id: Option<&'a str>,
    #[serde(flatten)]
    own: Map<String, Value>,
}

/// Appends an event as one JSON object, without a newline. A line that is not UTF-8 has U+FFFD
/// where it is not, which is all that JSON can say.
pub fn append(to: &mut Vec<u8>, origin: &Origin, event: &Event) {
    let (message, stream, dataset, own) = match &event.body {
        Body::Line {
            stream,
            bytes,
            partial,
        } => (
            String::from_utf8_lossy(bytes),
            Some(stream.as_str()),
            Cow::Borrowed("imrun.output"),
            own([("partial", Value::Bool(true))]
                .into_iter()
                .filter(|_| *partial)),
        ),
        Body::Record { kind, fields } => (
            Cow::Owned(format!("imrun: {kind}")),
            None,
            Cow::Owned(format!("imrun.{kind}")),
            fields
                .as_object()
                .map(|fields| own(fields.clone()))
                .unwrap_or_default(),
        ),
    };
    let document = Document {
        timestamp: rfc3339(event.time),
        message,
        stream,
        sequence: event.sequence,
        dataset,
        container_id: &origin.container_id,
        container_name: origin.container_name.as_deref(),
        image_digest: [&origin.image_digest],
        host_name: &origin.host_name,
        // A name that came twice would make the document invalid.
        launch_id: (!own.contains_key("imrun.launch_id")).then_some(&origin.launch_id),
        own,
    };
    serde_json::to_writer(to, &document).expect("strings, numbers and maps of them are JSON");
}

fn own(fields: impl IntoIterator<Item = (impl AsRef<str>, Value)>) -> Map<String, Value> {
    let named = |(name, value): (_, _)| (format!("imrun.{}", AsRef::<str>::as_ref(&name)), value);
    fields.into_iter().map(named).collect()
}

#[cfg(test)]
mod tests;
