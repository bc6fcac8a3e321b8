use super::super::event::{Body, Event, Stream};
use super::*;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

/// Encodes only the bytes of a line.
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
    // The batches in flight are given up too: their delivery is unknown.
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
        assert_eq!(delivered(&mut sink, &line).unwrap(), Delivery::default());
    }
    reader.read_exact(&mut [0; 15]).unwrap();
}

/// Waits for the delivery of the oldest batch.
fn delivered(sink: &mut Streamed<Bare>, batch: &Batch) -> Result<Delivery, Failure> {
    loop {
        if let Some(delivery) = sink.settle(batch, Some(SOON))? {
            return Ok(delivery);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for the acknowledgement of the oldest batch; returns its time.
fn taken(sink: &mut Streamed<Bare>) -> Instant {
    while sink.resting == 0 {
        sink.look().unwrap();
    }
    sink.flight[0].taken.unwrap()
}

/// A load balancer without a backend accepts, its kernel acknowledges, and then it closes.
#[test]
fn a_batch_that_its_connection_does_not_outlive_is_not_delivered() {
    let (mut sink, listener) = sink(PATIENCE);
    let line = batch(b"lost");
    sink.send(&line).unwrap();
    let (peer, _) = listener.accept().unwrap();
    while sink.resting == 0 {
        assert_eq!(sink.settle(&line, Some(SOON)).unwrap(), None);
    }
    drop(peer);
    let failure = delivered(&mut sink, &line).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Again);
    // The next connection counts as new again.
    sink.send(&line).unwrap();
    let _peer = listener.accept().unwrap();
    delivered(&mut sink, &line).unwrap();
}

#[test]
fn a_known_connection_need_not_outlive_a_batch_while_memory_is_short() {
    let (mut sink, listener) = sink(PATIENCE);
    let line = batch(b"line\n");
    sink.press(true);
    sink.send(&line).unwrap();
    let _reader = listener.accept().unwrap();
    let began = taken(&mut sink);
    assert_eq!(sink.due(), Some(began + NEW));
    delivered(&mut sink, &line).unwrap();
    sink.send(&line).unwrap();
    let began = taken(&mut sink);
    assert_eq!(sink.due(), Some(began));
    sink.press(false);
    assert_eq!(sink.due(), Some(began + KNOWN));
}

/// A server that requests a certificate, and either checks it or accepts everybody silently.
#[cfg(feature = "tls")]
fn mutual(directory: &std::path::Path, checks: bool) -> rustls::ServerConnection {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let file = |name: &str| directory.join(name);
    let read = |name: &str| CertificateDer::pem_file_iter(file(name)).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(read("ca.pem").map(Result::unwrap));
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        roots.into(),
        std::sync::Arc::clone(&provider),
    );
    let verifier = if checks {
        verifier
    } else {
        verifier.allow_unauthenticated()
    };
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap());
    let chain = read("server.pem").map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(file("server.key")).unwrap();
    let mut config = config.with_single_cert(chain, key).unwrap();
    if !checks {
        config.send_tls13_tickets = 0;
    }
    rustls::ServerConnection::new(config.into()).unwrap()
}

#[cfg(feature = "tls")]
#[test]
fn a_receiver_that_refuses_the_certificate_after_the_handshake_has_acknowledged_nothing() {
    let directory = tempfile::TempDir::new().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    let mut script = std::process::Command::new(script);
    assert!(script.arg(directory.path()).status().unwrap().success());
    let settings = crate::base::tls::Settings {
        ca: Some(directory.path().join("ca.pem")),
        client: None,
    };
    for checks in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        let peer = Peer::new(&address, Some(&settings), PATIENCE).unwrap();
        let mut sink = Streamed::new(peer, Bare);
        let mut session = mutual(directory.path(), checks);
        let line = batch(b"line\n");
        std::thread::scope(|scope| {
            let server = scope.spawn(move || {
                let (mut socket, _) = listener.accept().unwrap();
                let mut read = [0; 10];
                let outcome = rustls::Stream::new(&mut session, &mut socket).read_exact(&mut read);
                // It closes after this side has read the alert or the bytes it waits for.
                let _closed = std::io::copy(&mut socket, &mut std::io::sink());
                outcome.is_ok()
            });
            let outcome = sink.send(&line).and_then(|()| {
                let unjudged = sink.connection.as_ref().unwrap().awaits_verdict();
                assert!(unjudged || checks);
                if !checks {
                    let began = taken(&mut sink);
                    assert_eq!(sink.due(), Some(began + UNJUDGED));
                }
                delivered(&mut sink, &line)
            });
            if checks {
                let failure = outcome.unwrap_err();
                assert_eq!(failure.kind, FailureKind::Refused, "{failure:?}");
                assert!(failure.why.contains("CertificateRequired"), "{failure:?}");
            } else {
                assert_eq!(outcome.unwrap(), Delivery::default());
                // The verdict is awaited once per connection, although this peer still has not given one.
                sink.send(&line).unwrap();
                let began = taken(&mut sink);
                assert!(sink.connection.as_ref().unwrap().awaits_verdict());
                assert_eq!(sink.due(), Some(began + KNOWN));
                delivered(&mut sink, &line).unwrap();
            }
            drop(sink);
            assert_eq!(server.join().unwrap(), !checks);
        });
    }
}

#[test]
fn a_missing_acknowledgement_finally_becomes_a_failure() {
    let (mut sink, listener) = sink(SOON);
    let piece = batch(&[0; 64 * 1024]);
    sink.send(&piece).unwrap();
    let _unread = listener.accept().unwrap();
    // The peer's kernel takes some bytes while nobody reads, up to 40 ms later, and then no more.
    let failure = loop {
        match sink.settle(&piece, Some(SOON)) {
            Ok(None) if sink.resting < sink.flight.len() => {}
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Ok(Some(_)) => sink.send(&piece).unwrap(),
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.why, "does not acknowledge");
}

#[test]
fn bytes_to_a_peer_that_has_closed_are_not_delivered() {
    let (mut sink, listener) = sink(PATIENCE);
    let line = batch(b"lost");
    sink.send(&line).unwrap();
    drop(listener.accept().unwrap());
    drop(listener);
    let failure = delivered(&mut sink, &line).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Again);
    let failure = sink.send(&line).unwrap_err();
    assert_eq!(failure.why, "Connection refused");
}

/// The peer's kernel has acknowledged all bytes, but the peer closed: it is unknown if it stored them.
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
    let failure = delivered(&mut sink, &line).unwrap_err();
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
    delivered(&mut sink, &line).unwrap();
    sink.send(&line).unwrap();
    delivered(&mut sink, &line).unwrap();
    reader.read_exact(&mut [0; 10]).unwrap();
}
