//! A TLS session on a non-blocking socket.

use crate::base::error::{Error, Result as Checked};
use crate::base::tls::Settings;
use crate::logs::sink::{Failure, FailureKind};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, SignatureScheme};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Settings for sessions with a peer.
#[derive(Clone)]
pub struct Terms {
    config: Arc<ClientConfig>,
    /// Name that the peer's certificate must have.
    name: ServerName<'static>,
    asked: Arc<AtomicBool>,
}

impl Terms {
    /// Creates terms with the settings' roots and client certificate; the peer's certificate must be for
    /// `host`.
    pub fn new(settings: &Settings, host: &str) -> Checked<Terms> {
        let mut config = ClientConfig::clone(&*settings.rustls()?);
        let asked = Arc::<AtomicBool>::default();
        config.client_auth_cert_resolver = Arc::new(Asked {
            resolver: config.client_auth_cert_resolver,
            asked: Arc::clone(&asked),
        });
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            let why = "no certificate can have that name";
            Error::usage(format_args!("sink host {host:?}"), why)
        })?;
        Ok(Terms {
            config: Arc::new(config),
            name,
            asked,
        })
    }
}

/// Records that the peer requests a certificate.
#[derive(Debug)]
struct Asked {
    resolver: Arc<dyn ResolvesClientCert>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Asked {
    fn resolve(
        &self,
        authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.resolver.resolve(authorities, schemes)
    }

    fn has_certs(&self) -> bool {
        self.resolver.has_certs()
    }
}

/// A session, from the handshake on.
pub struct Session {
    tls: ClientConnection,
    /// True if the peer has requested a certificate.
    asked: Arc<AtomicBool>,
}

impl Session {
    /// Creates a session without sending anything.
    pub fn new(terms: &Terms) -> Result<Session, Failure> {
        let session = ClientConnection::new(Arc::clone(&terms.config), terms.name.clone());
        terms.asked.store(false, Ordering::Relaxed);
        Ok(Session {
            tls: session.map_err(|error| of_tls(&error))?,
            asked: Arc::clone(&terms.asked),
        })
    }

    /// Returns true if the peer has requested a certificate and not judged it yet. Up to TLS 1.2, the
    /// handshake itself contains the result.
    pub fn awaits_verdict(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
            && self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && self.tls.tls13_tickets_received() == 0
    }

    /// Accepts bytes for the peer.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tls.writer().write(bytes)
    }

    /// Reads bytes of the peer; fails with `WouldBlock` if there are none.
    pub fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.tls.reader().read(to)
    }

    /// Returns true if bytes must be written to the socket.
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Writes pending bytes to the socket; returns their number.
    pub fn write_tls(&mut self, socket: &mut TcpStream) -> io::Result<usize> {
        self.tls.write_tls(socket)
    }

    /// Reads bytes from the socket for processing; returns their number.
    pub fn read_tls(&mut self, socket: &mut TcpStream) -> io::Result<usize> {
        self.tls.read_tls(socket)
    }

    /// Returns true during the handshake.
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Processes received bytes, and sends the peer an alert if they are invalid.
    pub fn process(&mut self, socket: &mut TcpStream) -> Result<(), Failure> {
        let Err(error) = self.tls.process_new_packets() else {
            return Ok(());
        };
        // The error is more important than a failure to send the alert.
        let _alerted = self.tls.write_tls(socket);
        Err(of_tls(&error))
    }
}

/// Returns the failure for a TLS error: a certificate that is not trusted now will not be trusted later.
fn of_tls(error: &rustls::Error) -> Failure {
    let why = format!("TLS: {error}");
    match error {
        rustls::Error::InvalidCertificate(_) => Failure::new(FailureKind::Refused, why).hint(
            "?ca=FILE names the authority to trust; the URL's host must be the certificate's",
        ),
        rustls::Error::AlertReceived(_) => Failure::new(FailureKind::Refused, why).hint(
            "the sink refuses the certificate of ?cert=FILE&key=FILE, or wants one and gets none",
        ),
        rustls::Error::InvalidMessage(_) => Failure::new(FailureKind::Refused, why)
            .hint("check whether the sink uses TLS, and that the URL's scheme matches"),
        _ => Failure::again(why),
    }
}
