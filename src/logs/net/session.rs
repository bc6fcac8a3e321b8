//! A session of TLS on a socket that never blocks.

use crate::base::error::{Error, Result as Checked};
use crate::base::tls::Settings;
use crate::logs::sink::{Failure, FailureKind};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// What a session must hold to.
#[derive(Clone)]
pub struct Terms {
    config: Arc<ClientConfig>,
    /// The name that the peer's certificate must have.
    name: ServerName<'static>,
}

impl Terms {
    /// The settings' roots and client certificate; the peer's certificate must be the host's.
    pub fn new(settings: &Settings, host: &str) -> Checked<Terms> {
        let config = settings.rustls()?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            let why = "no certificate can have that name";
            Error::usage(format_args!("sink host {host:?}"), why)
        })?;
        Ok(Terms { config, name })
    }
}

/// One session, from the handshake on.
pub struct Session(ClientConnection);

impl Session {
    /// Nothing is sent yet.
    pub fn new(terms: &Terms) -> Result<Session, Failure> {
        let session = ClientConnection::new(Arc::clone(&terms.config), terms.name.clone());
        session.map(Session).map_err(|error| of_tls(&error))
    }

    /// Takes bytes for the peer.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.writer().write(bytes)
    }

    /// Bytes of the peer; `WouldBlock` where none are there yet.
    pub fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.reader().read(to)
    }

    /// Whether something must be written to the socket.
    pub fn wants_write(&self) -> bool {
        self.0.wants_write()
    }

    /// Writes to the socket what is ready; the number of bytes.
    pub fn write_tls(&mut self, socket: &mut TcpStream) -> io::Result<usize> {
        self.0.write_tls(socket)
    }

    /// Reads from the socket, to be processed; the number of bytes.
    pub fn read_tls(&mut self, socket: &mut TcpStream) -> io::Result<usize> {
        self.0.read_tls(socket)
    }

    /// Whether the handshake is not over.
    pub fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Takes in what was read, and tells the peer what was wrong with it.
    pub fn process(&mut self, socket: &mut TcpStream) -> Result<(), Failure> {
        let Err(error) = self.0.process_new_packets() else {
            return Ok(());
        };
        // The alert is a courtesy; the error is the one to tell.
        let _alerted = self.0.write_tls(socket);
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
        rustls::Error::AlertReceived(_) => Failure::new(FailureKind::Refused, why)
            .hint("does it want a certificate? ?cert=FILE&key=FILE shows one"),
        rustls::Error::InvalidMessage(_) => Failure::new(FailureKind::Refused, why)
            .hint("does it speak TLS? the URL's scheme says whether imrun does"),
        _ => Failure::again(why),
    }
}
