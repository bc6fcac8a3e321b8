//! A receiver of JSON lines over TCP.

use super::server::{PATIENCE, Server};
use serde_json::Value;
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

#[derive(Debug, Default)]
struct State {
    /// Read nothing.
    stalled: bool,
    /// Throw away what is read, and end.
    killed: bool,
    lines: Vec<Value>,
    connections: usize,
}

/// The receiver: what it has read survives its being killed.
pub struct Lines {
    server: Option<Server>,
    address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl Lines {
    /// Listens on a free port.
    pub fn start() -> Lines {
        let shared = Arc::default();
        let server = serve(([127, 0, 0, 1], 0).into(), &shared);
        Lines {
            address: server.address(),
            server: Some(server),
            shared,
        }
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops reading, or goes on.
    pub fn stall(&self, stalled: bool) {
        self.state().stalled = stalled;
        self.shared.1.notify_all();
    }

    /// Closes all connections and the port, whether all was read or not.
    pub fn kill(&mut self) {
        self.state().killed = true;
        self.shared.1.notify_all();
        self.server = None;
    }

    /// Opens the port again.
    pub fn restart(&mut self) {
        let mut state = self.state();
        (state.stalled, state.killed) = (false, false);
        drop(state);
        self.server = Some(serve(self.address, &self.shared));
    }

    /// Waits until `condition` holds for the lines read.
    pub fn wait(&self, what: &str, condition: impl Fn(&[Value]) -> bool) {
        let waits = |state: &mut State| !condition(&state.lines);
        let (_state, timeout) = self
            .shared
            .1
            .wait_timeout_while(self.state(), PATIENCE, waits)
            .unwrap();
        assert!(!timeout.timed_out(), "never seen: {what}");
    }

    /// The lines read, in the order of arrival.
    pub fn lines(&self) -> Vec<Value> {
        self.state().lines.clone()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.kill();
    }
}

fn serve(address: SocketAddr, shared: &Arc<(Mutex<State>, Condvar)>) -> Server {
    let shared = Arc::clone(shared);
    Server::start(address, move |connection| {
        // A connection that breaks off is what these tests are about.
        let _broken = read(connection, &shared);
    })
}

fn read(mut connection: TcpStream, shared: &(Mutex<State>, Condvar)) -> std::io::Result<()> {
    shared.0.lock().unwrap().connections += 1;
    let mut pending = Vec::new();
    let mut chunk = vec![0; 65536];
    loop {
        let read = connection.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&chunk[..read]);
        let stalls = |state: &mut State| state.stalled && !state.killed;
        let state = shared.1.wait_while(shared.0.lock().unwrap(), stalls);
        let mut state = state.unwrap();
        if state.killed {
            return Ok(());
        }
        let Some(end) = pending.iter().rposition(|byte| *byte == b'\n') else {
            continue;
        };
        for line in pending[..end].split(|byte| *byte == b'\n') {
            state.lines.push(serde_json::from_slice(line).unwrap());
        }
        drop(state);
        pending.drain(..=end);
        shared.1.notify_all();
    }
}
