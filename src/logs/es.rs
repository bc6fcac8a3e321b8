//! `es+http`: the bulk API of Elasticsearch, OpenSearch and compatible servers.
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
use crate::base::error::Result as Checked;
use crate::base::time::nanoseconds;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Data stream of the built-in template `logs-*-*`, used if neither URL nor path names an index.
const DEFAULT_INDEX: &str = "logs-imrun-default";
/// Filter for the answer, which would otherwise describe each document and be as long as the request.
const FILTER: &str = "filter_path=errors,items.*.status,items.*.error";
/// Maximum number of characters kept of a sink's explanation.
const WHY_MAX: usize = 200;

/// The `_bulk` endpoint of a server.
pub struct Elastic {
    documents: Documents,
    /// Action up to the sequence number at the end of the `_id`.
    action: Vec<u8>,
}

/// Creates a sink for the events of one launch.
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
    /// Appends an action and a document for each event.
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
    // A document that already exists counts as delivered. The time makes the ID unique among launches, whose
    // container IDs may be the same.
    let id = format!("{}-{:x}-", origin.container_id, nanoseconds());
    append_string(&mut action, &id);
    // The sequence number is inserted before the closing quote.
    action.pop();
    action
}

#[derive(Deserialize)]
struct Answer<'a> {
    errors: bool,
    /// Result of each event, in order. VictoriaLogs omits them.
    #[serde(default, borrow)]
    items: Vec<Named<'a>>,
}

/// A result under the name of its action, which is ignored.
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

/// Reads the answer to a batch of `events` events. An invalid answer acknowledges nothing.
pub fn understand(answer: &[u8], events: usize) -> Result<Delivery, Failure> {
    let garbage = |why: String| Failure::new(FailureKind::Again, why);
    let answer: Answer<'_> = serde_json::from_slice(answer)
        .map_err(|_| garbage("did not answer as _bulk does".into()))?;
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
            // 409: an earlier attempt created the document.
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

/// Returns the sink's explanation, shortened and without control characters; it may quote a line.
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
