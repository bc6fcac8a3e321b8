//! `es+http`: the bulk API of Elasticsearch, OpenSearch and those who speak it.
//!
//! Source: Elasticsearch Guide, "Bulk API".

use super::document;
use super::event::{Event, Origin};
use super::http::Endpoint;
use super::sink::{Delivery, Failure, FailureKind, Rejection, Sink};
use super::url::SinkUrl;
use crate::time::nanoseconds;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// A data stream of the built-in template `logs-*-*`, where neither URL nor path names an index.
const DEFAULT_INDEX: &str = "logs-imrun-default";
/// Of a sink's own words, so much is kept.
const WHY_MAX: usize = 200;

/// A server's `_bulk`.
pub struct Elastic {
    endpoint: Endpoint,
    index: Option<String>,
    /// In front of the sequence number in each `_id`.
    id: String,
}

impl Elastic {
    /// A sink for the events of one launch.
    pub fn new(url: &SinkUrl, origin: &Origin, timeout: Duration) -> Elastic {
        let query = match url.parameters.is_empty() {
            true => String::new(),
            false => format!("?{}", url.parameters.join("&")),
        };
        let target = format!("http://{}{}/_bulk{query}", url.address, url.path);
        let default = || url.path.is_empty().then(|| DEFAULT_INDEX.to_owned());
        Elastic {
            endpoint: Endpoint::new(
                target,
                "application/x-ndjson",
                url.credentials.as_ref(),
                timeout,
            ),
            index: url.index.clone().or_else(default),
            // A document that is already there counts as delivered. So that it never is another
            // launch's, whose container id may be the same, the time is part of the name.
            id: format!("{}-{:x}", origin.container_id, nanoseconds()),
        }
    }

    /// The request: an action and a document for each event.
    fn request(&self, origin: &Origin, batch: &[Event]) -> Vec<u8> {
        let mut body = Vec::new();
        for event in batch {
            let action = Action {
                create: Target {
                    index: self.index.as_deref(),
                    id: format!("{}-{}", self.id, event.sequence),
                },
            };
            serde_json::to_writer(&mut body, &action).expect("strings are JSON");
            body.push(b'\n');
            document::append(&mut body, origin, event);
            body.push(b'\n');
        }
        body
    }
}

impl Sink for Elastic {
    fn deliver(&mut self, origin: &Origin, batch: &[Event]) -> Result<Delivery, Failure> {
        let answer = self.endpoint.post(&self.request(origin, batch))?;
        understand(&answer, batch.len())
    }
}

#[derive(Serialize)]
struct Action<'a> {
    create: Target<'a>,
}

#[derive(Serialize)]
struct Target<'a> {
    #[serde(rename = "_index", skip_serializing_if = "Option::is_none")]
    index: Option<&'a str>,
    #[serde(rename = "_id")]
    id: String,
}

#[derive(Deserialize)]
struct Answer {
    errors: bool,
    /// One for each event in their order, under the name of its action. VictoriaLogs leaves them
    /// out.
    #[serde(default)]
    items: Vec<BTreeMap<String, Item>>,
}

#[derive(Deserialize)]
struct Item {
    status: u16,
    #[serde(default)]
    error: serde_json::Value,
}

/// Reads the answer to a batch of so many events. What cannot be understood acknowledges nothing.
fn understand(answer: &[u8], events: usize) -> Result<Delivery, Failure> {
    let garbage = |why: String| Failure::new(FailureKind::Again, why);
    let answer: Answer = serde_json::from_slice(answer)
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
        let Some(item) = item.values().next() else {
            return Err(garbage(format!("answered nothing for event {index}")));
        };
        match item.status {
            // 409: an earlier attempt has created it.
            200..=299 | 409 => {}
            429 | 500..=599 => delivery.again.push(index),
            status => delivery.rejected.push(Rejection {
                index,
                why: format!("{status} {}", reason(&item.error)),
            }),
        }
    }
    Ok(delivery)
}

/// The sink's words, which may quote a line: short, and without what drives a terminal.
fn reason(error: &serde_json::Value) -> String {
    let text = match (&error["type"], &error["reason"]) {
        (serde_json::Value::String(kind), serde_json::Value::String(why)) => {
            format!("{kind}: {why}")
        }
        _ => error.to_string(),
    };
    text.chars()
        .filter(|c| !c.is_control())
        .take(WHY_MAX)
        .collect()
}

#[cfg(test)]
mod tests;
