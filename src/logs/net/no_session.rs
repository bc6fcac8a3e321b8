//! TLS in a build without it: no terms exist, so no session does.

use crate::base::error::{Error, Result as Checked};
use crate::base::tls::Settings;
use crate::logs::sink::Failure;
use std::io;
use std::net::TcpStream;

/// Terms of a session; none exist.
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

/// A session; none exists.
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
