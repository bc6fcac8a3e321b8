use super::*;
use crate::base::tls::Settings;
use std::net::TcpListener;

const PATIENCE: Duration = Duration::from_secs(60);

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

fn certificates() -> tempfile::TempDir {
    let directory = tempfile::TempDir::new().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    let mut script = std::process::Command::new(script);
    assert!(script.arg(directory.path()).status().unwrap().success());
    directory
}

/// Returns a peer with an unknown certificate authority.
fn distrustful(address: &str, timeout: Duration) -> Peer {
    let directory = certificates();
    let settings = Settings {
        ca: Some(directory.path().join("ca.pem")),
        client: None,
    };
    Peer::new(address, Some(&settings), timeout).unwrap()
}

#[test]
fn a_peer_that_does_not_speak_tls_is_refused() {
    let (listener, address) = listener();
    let mut peer = distrustful(&address, PATIENCE);
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket
            .write_all(b"220 welcome to something else\r\n")
            .unwrap();
        let _reset = socket.read(&mut [0; 1024]);
    });
    let failure = peer.connected(None).err().unwrap();
    assert_eq!(failure.kind, FailureKind::Refused);
    assert!(failure.why.starts_with("TLS: "), "{failure:?}");
    server.join().unwrap();
}

#[test]
fn a_peer_that_says_nothing_in_the_handshake_is_given_up() {
    let (listener, address) = listener();
    let failure = distrustful(&address, Duration::from_millis(50)).connected(None);
    let failure = failure.err().unwrap();
    assert_eq!(failure.why, "no TLS handshake before the timeout");
    drop(listener);
}

#[test]
fn a_connection_that_was_closed_is_replaced() {
    let (listener, address) = listener();
    let mut peer = Peer::new(&address, None, PATIENCE).unwrap();
    let kept = peer.connected(None).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let mut kept = peer.connected(Some(kept)).unwrap();
    drop(theirs);
    while !kept.closed().unwrap() {
        std::thread::yield_now();
    }
    peer.connected(Some(kept)).unwrap();
    listener.accept().unwrap();
}

/// A server that completes the handshake, ends the session, and keeps its socket open.
#[cfg(feature = "tls")]
fn end_a_session(listener: &TcpListener, directory: &std::path::Path) -> TcpStream {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = rustls::crypto::ring::default_provider();
    let config = rustls::ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth();
    let chain = CertificateDer::pem_file_iter(directory.join("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join("server.key")).unwrap();
    let config = config.with_single_cert(chain.map(Result::unwrap).collect(), key);
    let mut session = rustls::ServerConnection::new(config.unwrap().into()).unwrap();
    let (mut socket, _) = listener.accept().unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut socket).unwrap();
    }
    session.send_close_notify();
    while session.wants_write() {
        session.write_tls(&mut socket).unwrap();
    }
    socket
}

#[cfg(feature = "tls")]
#[test]
fn a_session_that_its_peer_ends_is_closed_though_the_socket_is_open() {
    let (listener, address) = listener();
    let (_, port) = address.rsplit_once(':').unwrap();
    let directory = certificates();
    let settings = Settings {
        ca: Some(directory.path().join("ca.pem")),
        client: None,
    };
    let mut peer = Peer::new(&format!("localhost:{port}"), Some(&settings), PATIENCE).unwrap();
    let (_socket, mut connection) = std::thread::scope(|scope| {
        let server = scope.spawn(|| end_a_session(&listener, directory.path()));
        let connection = peer.connected(None).unwrap();
        (server.join().unwrap(), connection)
    });
    assert_eq!(
        connection.read(&mut [0; 16], PATIENCE).unwrap(),
        Incoming::Closed
    );
    assert!(connection.closed().unwrap());
}

#[test]
fn a_read_waits_no_longer_than_it_is_told_to() {
    let (listener, address) = listener();
    let mut peer = Peer::new(&address, None, PATIENCE).unwrap();
    let mut connection = peer.connected(None).unwrap();
    let (mut theirs, _) = listener.accept().unwrap();
    let mut bytes = [0; 16];
    let soon = Duration::from_millis(10);
    assert_eq!(
        connection.read(&mut bytes, soon).unwrap(),
        Incoming::Nothing
    );
    theirs.write_all(b"abc").unwrap();
    assert_eq!(
        connection.read(&mut bytes, PATIENCE).unwrap(),
        Incoming::Bytes(3)
    );
    drop(theirs);
    assert_eq!(
        connection.read(&mut bytes, PATIENCE).unwrap(),
        Incoming::Closed
    );
}
