//! A session of TLS on a socket that never blocks.

use crate::error::{Error, Result as Checked};
use crate::ship::sink::{Failure, FailureKind};
use crate::tls::Settings;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, ProtocolVersion, SignatureScheme};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a session must hold to.
#[derive(Clone)]
pub struct Terms {
    config: Arc<ClientConfig>,
    /// The name that the peer's certificate must have.
    name: ServerName<'static>,
    asked: Arc<AtomicBool>,
}

impl Terms {
    /// The settings' roots and client certificate; the peer's certificate must be the host's.
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

/// Notes that the peer asks for a certificate.
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

/// One session, from the handshake on.
pub struct Session {
    tls: ClientConnection,
    /// Whether the peer has asked for a certificate.
    asked: Arc<AtomicBool>,
}

impl Session {
    /// Nothing is sent yet.
    pub fn new(terms: &Terms) -> Result<Session, Failure> {
        let session = ClientConnection::new(Arc::clone(&terms.config), terms.name.clone());
        terms.asked.store(false, Ordering::Relaxed);
        Ok(Session {
            tls: session.map_err(|error| of_tls(&error))?,
            asked: Arc::clone(&terms.asked),
        })
    }

    /// Whether the peer has asked for a certificate, and not said yet what it makes of it. Up to TLS
    /// 1.2 the handshake itself says so.
    pub fn awaits_verdict(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
            && self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            && self.tls.tls13_tickets_received() == 0
    }

    /// Takes bytes for the peer.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.tls.writer().write(bytes)
    }

    /// Bytes of the peer; `WouldBlock` where none are there yet.
    pub fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.tls.reader().read(to)
    }

    /// Whether something must be written to the socket.
    pub fn wants_write(&self) -> bool {
        self.tls.wants_write()
    }

    /// Writes to the socket what is ready; the number of bytes.
    pub fn write_tls(&mut self, socket: &mut TcpStream) -> io::Result<usize> {
        self.tls.write_tls(socket)
    }

    /// Reads from the socket, to be processed; the number of bytes.
    pub fn read_tls(&mut self, socket: &mut TcpStream) -> io::Result<usize> {
        self.tls.read_tls(socket)
    }

    /// Whether the handshake is not over.
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Takes in what was read, and tells the peer what was wrong with it.
    pub fn process(&mut self, socket: &mut TcpStream) -> Result<(), Failure> {
        let Err(error) = self.tls.process_new_packets() else {
            return Ok(());
        };
        // The alert is a courtesy; the error is the one to tell.
        let _alerted = self.tls.write_tls(socket);
        Err(of_tls(&error))
    }
}

/// What an error of TLS means: a certificate that is not trusted will not be trusted later.
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
            .hint("does it speak TLS? the URL's scheme says whether imrun does"),
        _ => Failure::again(why),
    }
}
