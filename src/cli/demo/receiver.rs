//! A sink for demonstrations and tests: the part of Elasticsearch's bulk API that imrun uses, on loopback, over
//! HTTP/1.1.
//!
//! It is strict: it refuses requests that a real server might accept.

use crate::base::error::{Context, Result};
use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

const LINE_MAX: u64 = 8 * 1024;
const HEADERS_MAX: usize = 64;
const BODY_MAX: u64 = 64 * 1024 * 1024;

/// One document of a bulk request.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// `_index` of the action, if present.
    pub index: Option<String>,
    /// `_id` of the action, if present.
    pub id: Option<String>,
    /// The document, an object.
    pub source: Value,
}

/// One HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Method, such as `POST`.
    pub method: String,
    /// Path with its query.
    pub target: String,
    /// Header `authorization`.
    pub authorization: Option<String>,
    /// Body, of the length in `content-length`.
    pub body: Vec<u8>,
}

/// The server. Its threads end with the process.
#[derive(Debug)]
pub struct BulkReceiver;

impl BulkReceiver {
    /// Listens on a free port of 127.0.0.1, and sends each received document to the channel.
    pub fn start() -> Result<(SocketAddr, mpsc::Receiver<Document>)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(|| "bind(127.0.0.1)")?;
        let address = listener.local_addr().context(|| "getsockname()")?;
        let (sender, receiver) = mpsc::channel();
        let accept = move || {
            // The client repeats a connection that could not be accepted.
            for connection in listener.incoming().flatten() {
                let sender = sender.clone();
                std::thread::spawn(move || serve(connection, &sender));
            }
        };
        let spawned = std::thread::Builder::new().spawn(accept);
        spawned.context(|| "clone() for the receiver")?;
        Ok((address, receiver))
    }
}

/// Serves one connection until it ends.
fn serve(connection: TcpStream, documents: &mpsc::Sender<Document>) -> io::Result<()> {
    let mut reader = BufReader::new(connection);
    while let Some(request) = read_request(&mut reader)? {
        let (status, answer) = match parse(&request) {
            Ok(batch) => {
                let statuses = vec![201; batch.len()];
                // Documents are acknowledged even if the receiver of the channel is gone.
                let _gone = batch
                    .into_iter()
                    .try_for_each(|document| documents.send(document));
                (200, bulk_answer(&statuses))
            }
            Err(why) => (400, json!({ "error": why, "status": 400 })),
        };
        respond(reader.get_mut(), status, answer.to_string().as_bytes())?;
    }
    Ok(())
}

/// Reads one request; `None` at the end of the connection.
///
/// # Errors
/// `InvalidData` if the request is not HTTP/1.1 with a `content-length`.
pub fn read_request(from: &mut impl BufRead) -> io::Result<Option<Request>> {
    let Some(start) = read_line(from)? else {
        return Ok(None);
    };
    let mut parts = start.split(' ');
    let (Some(method), Some(target), Some("HTTP/1.1"), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(invalid("not a request of HTTP/1.1"));
    };
    let (mut length, mut authorization) = (None, None);
    for _ in 0..HEADERS_MAX {
        let line = read_line(from)?.ok_or(ErrorKind::UnexpectedEof)?;
        if line.is_empty() {
            let length = length.ok_or_else(|| invalid("no content-length"))?;
            return Ok(Some(Request {
                method: method.to_owned(),
                target: target.to_owned(),
                authorization,
                body: read_body(from, length)?,
            }));
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| invalid("not a header"))?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = Some(value.trim().parse().map_err(invalid)?),
            "transfer-encoding" => return Err(invalid("a body without a stated length")),
            "authorization" => authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    Err(invalid("too many headers"))
}

fn read_body(from: &mut impl BufRead, length: u64) -> io::Result<Vec<u8>> {
    if length > BODY_MAX {
        return Err(invalid("the body is too long"));
    }
    let mut body = Vec::new();
    let read = from.take(length).read_to_end(&mut body)?;
    if read as u64 != length {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

/// Reads a line that ends with CRLF, and returns it without that; none at the end.
fn read_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    if from.take(LINE_MAX).read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let line = line
        .strip_suffix("\r\n")
        .ok_or_else(|| invalid("a line without CRLF"))?;
    Ok(Some(line.to_owned()))
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// The documents of a bulk request, or what is wrong with it.
pub fn parse(request: &Request) -> std::result::Result<Vec<Document>, String> {
    let path = request.target.split('?').next().unwrap_or_default();
    if request.method != "POST" || !path.ends_with("/_bulk") {
        return Err(format!("{} {path} is not POST …/_bulk", request.method));
    }
    let text = std::str::from_utf8(&request.body).map_err(|error| error.to_string())?;
    let text = text
        .strip_suffix('\n')
        .ok_or("the last line has no newline")?;
    let lines: Vec<&str> = text.split('\n').collect();
    if !lines.len().is_multiple_of(2) {
        return Err("an action without a document".into());
    }
    lines
        .chunks_exact(2)
        .map(|pair| document(pair[0], pair[1]))
        .collect()
}

fn document(action: &str, source: &str) -> std::result::Result<Document, String> {
    let parsed = |text| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
    let (action, source) = (parsed(action)?, parsed(source)?);
    let target = action["create"]
        .as_object()
        .ok_or("the action is not create")?;
    if !source.is_object() || source["@timestamp"].as_str().is_none() {
        return Err("the document is not an object with a @timestamp".into());
    }
    let text = |name| target.get(name).and_then(Value::as_str).map(str::to_owned);
    Ok(Document {
        index: text("_index"),
        id: text("_id"),
        source,
    })
}

/// The answer to a bulk request, of one status for each document.
pub fn bulk_answer(statuses: &[u16]) -> Value {
    let item = |status: &u16| match status {
        200..=299 => json!({ "create": { "status": status } }),
        _ => json!({ "create": { "status": status, "error": {
            "type": "receiver", "reason": format!("answers {status} to this one") } } }),
    };
    json!({
        "took": 0,
        "errors": statuses.iter().any(|status| !(200..=299).contains(status)),
        "items": statuses.iter().map(item).collect::<Vec<_>>(),
    })
}

/// Sends an answer; the connection stays open.
pub fn respond(to: &mut impl Write, status: u16, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    to.write_all(&[head.as_bytes(), body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> io::Result<Option<Request>> {
        read_request(&mut text.as_bytes())
    }

    fn post(body: &str) -> std::result::Result<Vec<Document>, String> {
        parse(&Request {
            method: "POST".into(),
            target: "/_bulk?x=y".into(),
            authorization: None,
            body: body.into(),
        })
    }

    #[test]
    fn a_request_is_read_with_its_body_and_the_connection_stays_open() {
        let text =
            "POST /_bulk HTTP/1.1\r\nContent-Length: 2\r\nAuthorization: Basic eA==\r\n\r\nhiPOST";
        let mut bytes = text.as_bytes();
        let request = read_request(&mut bytes).unwrap().unwrap();
        assert_eq!(request.body, b"hi");
        assert_eq!(request.authorization.as_deref(), Some("Basic eA=="));
        assert_eq!(bytes, b"POST");
        assert_eq!(read_request(&mut &b""[..]).unwrap(), None);
    }

    #[test]
    fn anything_but_http_is_refused() {
        for text in [
            "\r\n",
            "POST /_bulk\r\n\r\n",
            "POST /_bulk HTTP/1.0\r\ncontent-length: 0\r\n\r\n",
            "POST /_bulk HTTP/1.1\n\n",
            "POST /_bulk HTTP/1.1\r\n\r\n",
            "POST /_bulk HTTP/1.1\r\ncontent-length: 3\r\n\r\nhi",
            "POST /_bulk HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            "POST /_bulk HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n",
            "POST /_bulk HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST /_bulk HTTP/1.1\r\ncontent-length",
        ] {
            assert!(request(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn documents_are_parsed_with_their_actions() {
        let documents = post("{\"create\":{\"_id\":\"1\"}}\n{\"@timestamp\":\"t\"}\n").unwrap();
        assert_eq!(documents[0].id.as_deref(), Some("1"));
        assert_eq!(documents[0].index, None);
    }

    #[test]
    fn an_inexact_bulk_request_is_refused() {
        for body in [
            "",
            "\n",
            "{\"create\":{}}\n",
            "{\"create\":{}}\n{\"@timestamp\":\"t\"}",
            "{\"create\":{}}\n{\"@timestamp\":\"t\"}\n\n",
            "{\"delete\":{}}\n{\"@timestamp\":\"t\"}\n",
            "{\"create\":{}}\n{}\n",
            "{\"create\":{}}\n[]\n",
            "{\"create\":{}}\n{\"@timestamp\":\"t\"\n",
        ] {
            assert!(post(body).is_err(), "{body:?} was taken");
        }
    }
}
