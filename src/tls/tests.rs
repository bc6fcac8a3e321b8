use super::trust::{certificates, key, provider};
use super::*;
use rustls::pki_types::ServerName;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use std::sync::Arc;
use tempfile::TempDir;
use ureq::tls::{Certificate, RootCerts};

fn directory() -> TempDir {
    let directory = TempDir::new().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates");
    let mut script = std::process::Command::new(script);
    assert!(script.arg(directory.path()).status().unwrap().success());
    directory
}

fn settings(directory: &TempDir) -> Settings {
    Settings {
        ca: Some(directory.path().join("ca.pem")),
        client: None,
    }
}

fn client(directory: &TempDir) -> Settings {
    Settings {
        client: Some(Client {
            cert: directory.path().join("client.pem"),
            key: directory.path().join("client.key"),
        }),
        ..settings(directory)
    }
}

/// A server that shows the certificate of that name; it asks for one too where `mutual`.
fn server(directory: &TempDir, name: &str, mutual: bool) -> ServerConnection {
    let file = |ending| directory.path().join(format!("{name}.{ending}"));
    let builder = ServerConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = if mutual {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(settings(directory).roots().unwrap());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider());
        builder.with_client_cert_verifier(verifier.build().unwrap())
    } else {
        builder.with_no_client_auth()
    };
    let config = builder.with_single_cert(
        certificates(&file("pem")).unwrap(),
        key(&file("key")).unwrap(),
    );
    ServerConnection::new(Arc::new(config.unwrap())).unwrap()
}

/// Shakes hands in memory.
fn handshake(settings: &Settings, mut server: ServerConnection) -> Result<(), String> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(settings.rustls().unwrap(), name).unwrap();
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut &wire[..]).unwrap();
        server
            .process_new_packets()
            .map_err(|error| format!("server: {error}"))?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut &wire[..]).unwrap();
        client
            .process_new_packets()
            .map_err(|error| format!("client: {error}"))?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(())
}

#[test]
fn only_a_server_of_that_name_and_of_our_authority_is_trusted() {
    let directory = directory();
    let attempt = |name| handshake(&settings(&directory), server(&directory, name, false));
    attempt("server").unwrap();
    let stranger = attempt("stranger").unwrap_err();
    assert!(stranger.contains("UnknownIssuer"), "{stranger}");
    let elsewhere = attempt("elsewhere").unwrap_err();
    assert!(
        elsewhere.contains("not valid for name \"localhost\""),
        "{elsewhere}"
    );
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_the_clients() {
    let directory = directory();
    let attempt = |settings| handshake(&settings, server(&directory, "server", true));
    attempt(client(&directory)).unwrap();
    assert!(
        attempt(settings(&directory))
            .unwrap_err()
            .starts_with("server: ")
    );
}

#[test]
fn ureq_gets_the_same_roots_and_client() {
    let directory = directory();
    let config = client(&directory).ureq().unwrap();
    let RootCerts::Specific(roots) = config.root_certs() else {
        panic!("{config:?}");
    };
    let ca = certificates(&directory.path().join("ca.pem")).unwrap();
    assert!(roots.iter().map(Certificate::der).eq([&ca[0][..]]));
    assert_eq!(config.client_cert().unwrap().certs().len(), 1);
    assert!(!config.disable_verification());
}

#[test]
fn a_file_that_is_not_there_or_holds_nothing_of_use_is_named() {
    let directory = directory();
    // X.509 of version 1, which nobody takes any more.
    let old = directory.path().join("old.pem");
    let (key, request) = (
        directory.path().join("client.key"),
        directory.path().join("old.csr"),
    );
    for words in [&["req", "-new", "-subj", "/CN=old"][..], &["x509", "-req"]] {
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(words);
        match words[0] {
            "req" => openssl.arg("-key").arg(&key).arg("-out").arg(&request),
            _ => openssl
                .arg("-in")
                .arg(&request)
                .arg("-signkey")
                .arg(&key)
                .arg("-out")
                .arg(&old),
        };
        assert!(openssl.output().unwrap().status.success());
    }
    let ca = |name: &str| Settings {
        ca: Some(directory.path().join(name)),
        client: None,
    };
    for (settings, named) in [
        (ca("absent.pem"), "absent.pem"),
        (ca("server.key"), "no certificate in PEM form"),
        (
            Settings {
                client: Some(Client {
                    cert: directory.path().join("client.pem"),
                    key: directory.path().join("client.pem"),
                }),
                ..settings(&directory)
            },
            "no private key",
        ),
        (
            Settings {
                client: Some(Client {
                    cert: directory.path().join("client.pem"),
                    key: directory.path().join("server.key"),
                }),
                ..settings(&directory)
            },
            "client.pem\": is not the certificate of the key",
        ),
        (
            Settings {
                client: Some(Client {
                    cert: old,
                    key: directory.path().join("client.key"),
                }),
                ..settings(&directory)
            },
            "old.pem",
        ),
    ] {
        let error = settings.rustls().unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains(named), "{shown}");
        assert_eq!(settings.ureq().unwrap_err(), error);
    }
}
