//! `es+http`: the bulk API of Elasticsearch, OpenSearch and those who speak it.
//!
//! Source: Elasticsearch Guide, "Bulk API".

use super::document::Documents;
use super::escape::{append_number, append_string};
use super::event::{Batch, Origin};
use super::http::{Endpoint, Request};
use super::net::Peer;
use super::posted::{Exchange, Posted};
use super::sink::{Delivery, Failure, FailureKind, Rejection};
use super::url::SinkUrl;
use crate::error::Result as Checked;
use crate::time::nanoseconds;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// A data stream of the built-in template `logs-*-*`, where neither URL nor path names an index.
const DEFAULT_INDEX: &str = "logs-imrun-default";
/// What is asked for of the answer: it names each document otherwise, and is as long as the request.
const FILTER: &str = "filter_path=errors,items.*.status,items.*.error";
/// Of a sink's own words, so much is kept.
const WHY_MAX: usize = 200;

/// A server's `_bulk`.
pub struct Elastic {
    documents: Documents,
    /// The action, up to the sequence number at the end of the `_id`.
    action: Vec<u8>,
}

/// A sink for the events of one launch.
pub fn sink(url: &SinkUrl, peer: Peer, origin: &Origin) -> Checked<Posted<Elastic>> {
    let mut parameters = url.parameters.clone();
    if !parameters.iter().any(|one| one.starts_with("filter_path=")) {
        parameters.push(FILTER.into());
    }
    let default = || url.path.is_empty().then(|| DEFAULT_INDEX.to_owned());
    let request = Request {
        target: format!("{}/_bulk?{}", url.path, parameters.join("&")),
        content_type: "application/x-ndjson",
        authorization: url.authorization()?,
        gzip: url.gzip,
    };
    let elastic = Elastic {
        documents: Documents::new(origin, url.parse),
        action: action(url.index.clone().or_else(default).as_deref(), origin),
    };
    Ok(Posted::new(Endpoint::new(peer, request), elastic))
}

impl Exchange for Elastic {
    /// An action and a document for each event.
    fn encode(&mut self, to: &mut Vec<u8>, batch: &Batch) {
        for event in batch.iter() {
            to.extend_from_slice(&self.action);
            append_number(to, event.sequence);
            to.extend_from_slice(b"\"}}\n");
            self.documents.append(to, &event);
            to.push(b'\n');
        }
    }

    fn understand(answer: &[u8], events: usize) -> Result<Delivery, Failure> {
        understand(answer, events)
    }
}

fn action(index: Option<&str>, origin: &Origin) -> Vec<u8> {
    let mut action = b"{\"create\":{".to_vec();
    if let Some(index) = index {
        action.extend_from_slice(b"\"_index\":");
        append_string(&mut action, index);
        action.push(b',');
    }
    action.extend_from_slice(b"\"_id\":");
    // A document that is already there counts as delivered. So that it never is another launch's,
    // whose container id may be the same, the time is part of the name.
    let id = format!("{}-{:x}-", origin.container_id, nanoseconds());
    append_string(&mut action, &id);
    // The sequence number belongs in front of the quote.
    action.pop();
    action
}

#[derive(Deserialize)]
struct Answer<'a> {
    errors: bool,
    /// One for each event in their order. VictoriaLogs leaves them out.
    #[serde(default, borrow)]
    items: Vec<Named<'a>>,
}

/// An item under the name of its action, which nobody looks at; none without a name.
struct Named<'a>(Option<Item<'a>>);

#[derive(Deserialize)]
struct Item<'a> {
    status: u16,
    #[serde(default, borrow)]
    error: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Named<'a>, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = Named<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an item")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<'de>, A::Error> {
                let mut first = None;
                while map.next_key::<IgnoredAny>()?.is_some() {
                    let item = map.next_value()?;
                    first.get_or_insert(item);
                }
                Ok(Named(first))
            }
        }
        from.deserialize_map(First)
    }
}

/// Reads the answer to a batch of so many events. What cannot be understood acknowledges nothing.
pub fn understand(answer: &[u8], events: usize) -> Result<Delivery, Failure> {
    let garbage = |why: String| Failure::new(FailureKind::Again, why);
    let answer: Answer<'_> = serde_json::from_slice(answer)
        .map_err(|_| garbage("answered what is no answer to _bulk".into()))?;
    if answer.items.is_empty() && !answer.errors {
        return Ok(Delivery::default());
    }
    if answer.items.len() != events {
        let items = answer.items.len();
        return Err(garbage(format!("answered for {items} of {events} events")));
    }
    let mut delivery = Delivery::default();
    for (index, item) in answer.items.iter().enumerate() {
        let Some(item) = &item.0 else {
            return Err(garbage(format!("answered nothing for event {index}")));
        };
        match item.status {
            // 409: an earlier attempt has created it.
            200..=299 | 409 => {}
            429 | 500..=599 => delivery.again.push(index),
            status => delivery.rejected.push(Rejection {
                index,
                why: format!("{status} {}", reason(item.error)),
            }),
        }
    }
    Ok(delivery)
}

/// The sink's words, which may quote a line: short, and without what drives a terminal.
fn reason(error: Option<&RawValue>) -> String {
    #[derive(Deserialize)]
    struct Reason {
        r#type: String,
        reason: String,
    }
    let raw = error.map_or("", RawValue::get);
    let text = match serde_json::from_str(raw) {
        Ok(Reason { r#type, reason }) => format!("{type}: {reason}", type = r#type),
        Err(_) => raw.to_owned(),
    };
    text.chars()
        .filter(|c| !c.is_control())
        .take(WHY_MAX)
        .collect()
}

#[cfg(test)]
mod tests;
