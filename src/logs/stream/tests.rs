use super::super::event::{Body, Event, Stream};
use super::*;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

/// The bytes of a line and nothing more.
struct Bare;

impl Encoder for Bare {
    fn encode(&mut self, to: &mut Vec<u8>, event: &Event<'_>) {
        if let Body::Line { bytes, .. } = event.body {
            to.extend_from_slice(bytes);
        }
    }
}

fn sink(timeout: Duration) -> (Streamed<Bare>, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let peer = Peer::new(&address, None, timeout).unwrap();
    (Streamed::new(peer, Bare), listener)
}

fn batch(bytes: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.push_line(0, 1, Stream::Stdout, bytes, false);
    batch
}

const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(20);

#[test]
fn bytes_that_the_peer_has_no_room_for_are_not_delivered() {
    let (mut sink, listener) = sink(SOON);
    let large = batch(&vec![0; 1 << 20]);
    sink.send(&large).unwrap();
    let (mut reader, _) = listener.accept().unwrap();
    let mut sent = 1;
    let failure = loop {
        match sink.send(&large) {
            Ok(()) => sent += 1,
            Err(failure) => break failure,
        }
        assert!(sent < 1000, "where did it all go?");
    };
    assert_eq!(
        (failure.kind, &failure.why[..]),
        (FailureKind::Again, "takes no more bytes")
    );
    // What is in flight is given up with it: nobody knows what became of it.
    assert!(sink.settle(&large, None).is_err());
    let reading = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    reading.join().unwrap().unwrap();
}

#[test]
fn a_batch_is_delivered_when_its_last_byte_is_acknowledged() {
    let (mut sink, listener) = sink(PATIENCE);
    let line = batch(b"line\n");
    for _ in 0..3 {
        sink.send(&line).unwrap();
    }
    let (mut reader, _) = listener.accept().unwrap();
    for _ in 0..3 {
        assert_eq!(sink.settle(&line, None).unwrap(), Some(Delivery::default()));
    }
    reader.read_exact(&mut [0; 15]).unwrap();
}

#[test]
fn what_is_not_acknowledged_is_not_known_yet_and_a_failure_in_the_end() {
    let (mut sink, listener) = sink(SOON);
    let piece = batch(&[0; 64 * 1024]);
    sink.send(&piece).unwrap();
    let _unread = listener.accept().unwrap();
    // The peer's kernel takes some of it while nobody reads, perhaps 40 ms
    // late, and then no more.
    while sink.settle(&piece, Some(12 * SOON)).unwrap().is_some() {
        sink.send(&piece).unwrap();
    }
    let failure = sink.settle(&piece, None).unwrap_err();
    assert_eq!(failure.why, "does not acknowledge");
}

#[test]
fn bytes_to_a_peer_that_has_closed_are_not_delivered() {
    let (mut sink, listener) = sink(PATIENCE);
    let line = batch(b"lost");
    sink.send(&line).unwrap();
    drop(listener.accept().unwrap());
    drop(listener);
    let failure = sink.settle(&line, None).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Again);
    let failure = sink.send(&line).unwrap_err();
    assert_eq!(failure.why, "Connection refused");
}

/// Its kernel has acknowledged all, but it has left: nobody knows whether it stored them.
#[test]
fn bytes_to_a_peer_that_has_read_them_and_left_are_not_delivered() {
    let (mut sink, listener) = sink(PATIENCE);
    let line = batch(b"line\n");
    sink.send(&line).unwrap();
    let (mut reader, _) = listener.accept().unwrap();
    reader.read_exact(&mut [0; 5]).unwrap();
    drop(reader);
    let connection = sink.connection.as_mut().unwrap();
    while !connection.closed().unwrap() {
        std::thread::yield_now();
    }
    assert_eq!(connection.acknowledged().unwrap(), connection.written());
    let failure = sink.settle(&line, None).unwrap_err();
    assert_eq!(
        (failure.kind, &*failure.why),
        (FailureKind::Again, "closed the connection")
    );
}

#[test]
fn a_peer_that_talks_is_not_listened_to() {
    let (mut sink, listener) = sink(PATIENCE);
    let line = batch(b"line\n");
    sink.send(&line).unwrap();
    let (mut reader, _) = listener.accept().unwrap();
    reader.write_all(&[b'!'; 100_000]).unwrap();
    assert!(sink.settle(&line, None).unwrap().is_some());
    sink.send(&line).unwrap();
    assert!(sink.settle(&line, None).unwrap().is_some());
    reader.read_exact(&mut [0; 10]).unwrap();
}
