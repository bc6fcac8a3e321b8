//! `es+http`: the bulk API of Elasticsearch, OpenSearch and those who speak it.
//!
//! Source: Elasticsearch Guide, "Bulk API".

use super::document::Documents;
use super::escape::{append_number, append_string};
use super::event::{Batch, Origin};
use super::http::{Endpoint, Request};
use super::net::Peer;
use super::sink::{Delivery, Failure, FailureKind, Rejection, Sink};
use super::url::SinkUrl;
use crate::error::Result as Checked;
use crate::time::nanoseconds;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A data stream of the built-in template `logs-*-*`, where neither URL nor path names an index.
const DEFAULT_INDEX: &str = "logs-imrun-default";
/// What is asked for of the answer: it names each document otherwise, and is as long as the request.
const FILTER: &str = "filter_path=errors,items.*.status,items.*.error";
/// Of a sink's own words, so much is kept.
const WHY_MAX: usize = 200;
/// The body of a large batch is given back.
const BODY_KEPT: usize = 1024 * 1024;

/// A server's `_bulk`.
pub struct Elastic {
    endpoint: Endpoint,
    documents: Documents,
    /// The action, up to the sequence number at the end of the `_id`.
    action: Vec<u8>,
    body: Vec<u8>,
}

impl Elastic {
    /// A sink for the events of one launch.
    pub fn new(url: &SinkUrl, peer: Peer, origin: &Origin) -> Checked<Elastic> {
        let mut parameters = url.parameters.clone();
        if !parameters.iter().any(|one| one.starts_with("filter_path=")) {
            parameters.push(FILTER.into());
        }
        let default = || url.path.is_empty().then(|| DEFAULT_INDEX.to_owned());
        let authorization = url.authorization()?;
        let request = Request {
            target: format!("{}/_bulk?{}", url.path, parameters.join("&")),
            content_type: "application/x-ndjson",
            authorization: authorization.as_deref(),
            gzip: url.gzip,
        };
        Ok(Elastic {
            endpoint: Endpoint::new(peer, &request),
            documents: Documents::new(origin, url.parse),
            action: action(url.index.clone().or_else(default).as_deref(), origin),
            body: Vec::new(),
        })
    }

    /// The request: an action and a document for each event.
    fn encode(&mut self, batch: &Batch) {
        self.body.clear();
        for event in batch.iter() {
            self.body.extend_from_slice(&self.action);
            append_number(&mut self.body, event.sequence);
            self.body.extend_from_slice(b"\"}}\n");
            self.documents.append(&mut self.body, &event);
            self.body.push(b'\n');
        }
    }
}

impl Sink for Elastic {
    fn send(&mut self, batch: &Batch) -> Result<(), Failure> {
        self.encode(batch);
        let sent = self.endpoint.post(&self.body);
        self.body.clear();
        self.body.shrink_to(BODY_KEPT);
        sent
    }

    fn settle(
        &mut self,
        batch: &Batch,
        wait: Option<Duration>,
    ) -> Result<Option<Delivery>, Failure> {
        let answer = self.endpoint.answer(wait)?;
        answer
            .map(|answer| understand(&answer, batch.len()))
            .transpose()
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
pub fn understand(answer: &[u8], events: usize) -> Result<Delivery, Failure> {
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
