//! In a build without TLS: there are no terms, so there is never a session.

use crate::error::{Error, Result as Checked};
use crate::ship::sink::Failure;
use crate::tls::Settings;
use std::io;
use std::net::TcpStream;

/// What a session must hold to: there is none.
#[derive(Clone)]
pub enum Terms {}

impl Terms {
    /// # Errors
    /// Always.
    pub fn new(_: &Settings, host: &str) -> Checked<Terms> {
        Err(Error::unsupported(
            format_args!("sink host {host:?}"),
            "this build of imrun has no TLS",
        ))
    }
}

/// One session: there is none.
pub struct Session(Terms);

impl Session {
    pub fn new(terms: &Terms) -> Result<Session, Failure> {
        match *terms {}
    }

    pub fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    pub fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }

    pub fn wants_write(&self) -> bool {
        match self.0 {}
    }

    pub fn write_tls(&mut self, _: &mut TcpStream) -> io::Result<usize> {
        match self.0 {}
    }

    pub fn read_tls(&mut self, _: &mut TcpStream) -> io::Result<usize> {
        match self.0 {}
    }

    pub fn awaits_verdict(&self) -> bool {
        match self.0 {}
    }

    pub fn is_handshaking(&self) -> bool {
        match self.0 {}
    }

    pub fn process(&mut self, _: &mut TcpStream) -> Result<(), Failure> {
        match self.0 {}
    }
}
