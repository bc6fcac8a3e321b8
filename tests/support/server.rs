//! A TCP listener that can be killed with all its connections, and started again.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// So long a test waits for what must happen: only a failing test ever waits as long. An emulated
/// machine is slow.
pub const PATIENCE: Duration = Duration::from_secs(180);

type Connections = Arc<Mutex<Vec<(TcpStream, JoinHandle<()>)>>>;

/// Dropping it ends all its threads and closes the port.
pub struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    connections: Connections,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves each connection in a thread of its own.
    pub fn start(
        address: SocketAddr,
        serve: impl Fn(TcpStream) + Clone + Send + 'static,
    ) -> Server {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let connections = Connections::default();
        let (stop, list) = (Arc::clone(&stopped), Arc::clone(&connections));
        let accepting = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let connection = connection.unwrap();
                let handle = connection.try_clone().unwrap();
                let serve = serve.clone();
                let thread = std::thread::spawn(move || {
                    // The list holds a second descriptor: only a shutdown ends the connection.
                    let own = connection.try_clone().unwrap();
                    serve(connection);
                    let _already_closed = own.shutdown(Shutdown::Both);
                });
                list.lock().unwrap().push((handle, thread));
            }
        });
        Server {
            address,
            stopped,
            connections,
            accepting: Some(accepting),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        TcpStream::connect(self.address).unwrap();
        self.accepting.take().unwrap().join().unwrap();
        for (connection, thread) in self.connections.lock().unwrap().drain(..) {
            let _already_closed = connection.shutdown(Shutdown::Both);
            thread.join().unwrap();
        }
    }
}
