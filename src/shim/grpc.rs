//! Minimal gRPC client for containerd: one call per connection, with a stream of answers.
//!
//! Source: grpc/grpc, doc/PROTOCOL-HTTP2.md.

use crate::base::error::{Context, Error, Result};
use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use h2::client::{Builder, ResponseFuture};
use std::fmt::Display;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use ureq::http::{HeaderMap, Request};

/// Maximum size of an answer, in bytes. containerd sends content in pieces of one MiB.
const MAX_ANSWER: usize = 4 << 20;
/// Flow-control window, in bytes.
const WINDOW: u32 = 1 << 20;
/// Status code NOT_FOUND.
const NOT_FOUND: &str = "5";

/// Address of containerd, and one of its namespaces.
pub struct Peer {
    address: String,
    namespace: String,
}

/// Stream of answers to a call.
pub struct Answers {
    runtime: Runtime,
    method: &'static str,
    body: RecvStream,
    received: BytesMut,
    /// Headers of the response; they contain the status if there is no body.
    head: HeaderMap,
}

impl Peer {
    /// Returns the peer that listens at the path `address`.
    pub fn new(address: &str, namespace: &str) -> Peer {
        Peer {
            address: address.to_owned(),
            namespace: namespace.to_owned(),
        }
    }

    /// Calls `method`, `/SERVICE/NAME`. `None` if containerd answers NOT_FOUND.
    pub fn call(&self, method: &'static str, request: Vec<u8>) -> Result<Option<Answers>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context(|| "epoll_create()")?;
        let response = runtime.block_on(self.send(method, request))?;
        let (head, body) = runtime
            .block_on(response)
            .map_err(|error| failed(method, error))?
            .into_parts();
        if head.status != 200 {
            return Err(failed(method, head.status));
        }
        if head
            .headers
            .get("grpc-status")
            .is_some_and(|s| s == NOT_FOUND)
        {
            return Ok(None);
        }
        Ok(Some(Answers {
            runtime,
            method,
            body,
            received: BytesMut::new(),
            head: head.headers,
        }))
    }

    async fn send(&self, method: &'static str, request: Vec<u8>) -> Result<ResponseFuture> {
        let failed = |error| failed(method, error);
        let socket = UnixStream::connect(&self.address)
            .await
            .context(|| format!("connect({:?})", self.address))?;
        let (client, connection) = Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .enable_push(false)
            .handshake(socket)
            .await
            .map_err(failed)?;
        // The task ends with the runtime, and its errors show up in the answers.
        drop(tokio::spawn(connection));
        let head = Request::post(format!("http://containerd{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("containerd-namespace", &self.namespace)
            .body(())
            .map_err(|error| Error::usage(method, error))?;
        let mut client = client.ready().await.map_err(failed)?;
        let (response, mut body) = client.send_request(head, false).map_err(failed)?;
        body.send_data(framed(&request), true).map_err(failed)?;
        Ok(response)
    }
}

fn failed(method: &str, error: impl Display) -> Error {
    Error::system(format_args!("containerd's {method}"), error)
}

/// Encodes a message with its length in front.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("requests are short");
    let mut bytes = vec![0];
    bytes.extend(length.to_be_bytes());
    bytes.extend(message);
    bytes.into()
}

impl Answers {
    /// Returns the next answer; `None` at the end.
    pub fn message(&mut self) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(message) = take(self.method, &mut self.received)? {
                return Ok(Some(message));
            }
            let data = self.runtime.block_on(self.body.data());
            let Some(data) = data else {
                return self.end().map(|()| None);
            };
            let data = data.map_err(|error| failed(self.method, error))?;
            self.received.extend_from_slice(&data);
            self.body
                .flow_control()
                .release_capacity(data.len())
                .map_err(|error| failed(self.method, error))?;
        }
    }

    fn end(&mut self) -> Result<()> {
        let trailers = self.runtime.block_on(self.body.trailers());
        let trailers = trailers.map_err(|error| failed(self.method, error))?;
        if !self.received.is_empty() {
            return Err(failed(self.method, "the last answer is truncated"));
        }
        let heads = [trailers.as_ref().unwrap_or(&self.head), &self.head];
        let field = |name| heads.iter().find_map(|head| head.get(name)?.to_str().ok());
        match (field("grpc-status"), field("grpc-message")) {
            (Some("0"), _) => Ok(()),
            (_, Some(why)) => Err(failed(self.method, why)),
            (status, None) => Err(failed(self.method, format_args!("status {status:?}"))),
        }
    }
}

/// Takes the first message from the received bytes, if it is complete.
fn take(method: &str, received: &mut BytesMut) -> Result<Option<Vec<u8>>> {
    let Some((&[compressed, a, b, c, d], rest)) = received.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if compressed != 0 || length > MAX_ANSWER {
        return Err(failed(method, "an answer is compressed or too long"));
    }
    if rest.len() < length {
        return Ok(None);
    }
    received.advance(5);
    Ok(Some(received.split_to(length).to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_returned_only_when_complete() {
        let mut received = BytesMut::from(&framed(b"first")[..]);
        received.extend_from_slice(&framed(b""));
        received.extend_from_slice(&framed(b"cut")[..7]);
        let mut next = || take("/a/b", &mut received).unwrap();
        assert_eq!(next().as_deref(), Some(&b"first"[..]));
        assert_eq!(next().as_deref(), Some(&b""[..]));
        assert_eq!(next(), None);
        assert_eq!(received.len(), 7);
    }

    #[test]
    fn a_compressed_or_oversized_message_is_refused() {
        for head in [&[1, 0, 0, 0, 0][..], &[0, 0xff, 0xff, 0xff, 0xff]] {
            assert!(take("/a/b", &mut BytesMut::from(head)).is_err());
        }
    }
}
