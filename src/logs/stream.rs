//! Events over TCP where nothing answers: TCP's own acknowledgement is used.
//!
//! A batch is delivered when the peer's kernel has acknowledged its last byte and the peer has not
//! closed. A batch of which that is not known is sent again, whole, over the next connection.

use super::event::Batch;
use super::net::{Connection, Peer};
use super::sink::{Delivery, Failure, FailureKind, Sink};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// So much is encoded before it is written.
const CHUNK: usize = 64 * 1024;

/// How many timeouts long a peer may take nothing. Longer than an attempt elsewhere: while it lives,
/// another connection would only repeat lines, and mix up their order.
const STALLED: u32 = 24;

/// Appends one event as it goes over the wire.
pub trait Encoder: Send {
    /// Appends it, with whatever ends it.
    fn encode(&mut self, to: &mut Vec<u8>, event: &super::event::Event<'_>);
}

/// Encoded events, one behind the other.
pub struct Streamed<E> {
    peer: Peer,
    encoder: E,
    connection: Option<Connection>,
    /// Where each batch in flight ends, in bytes written to this connection.
    ends: VecDeque<u64>,
    /// How much was acknowledged, and since when it is not more.
    progress: (u64, Instant),
    chunk: Vec<u8>,
}

impl<E: Encoder> Streamed<E> {
    /// A sink at that peer.
    pub fn new(peer: Peer, encoder: E) -> Streamed<E> {
        Streamed {
            peer,
            encoder,
            connection: None,
            ends: VecDeque::new(),
            progress: (0, Instant::now()),
            chunk: Vec::new(),
        }
    }

    /// Drops the connection with all that is in flight, where this failed.
    fn or_drop<T>(&mut self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        if outcome.is_err() {
            self.connection = None;
            self.ends.clear();
        }
        outcome
    }

    fn try_send(&mut self, batch: &Batch) -> Result<(), Failure> {
        if self.ends.is_empty() {
            let mut connection = self.peer.connected(self.connection.take())?;
            connection.wait_for(STALLED * self.peer.timeout);
            self.connection = Some(connection);
        }
        let connection = self.connection.as_mut().ok_or_else(Failure::closed)?;
        if self.ends.is_empty() {
            self.progress = (connection.written(), Instant::now());
        }
        self.chunk.clear();
        for event in batch.iter() {
            self.encoder.encode(&mut self.chunk, &event);
            if self.chunk.len() >= CHUNK {
                connection.write(&self.chunk)?;
                self.chunk.clear();
            }
        }
        connection.write(&self.chunk)?;
        // A line can be many times as long in its escaped form.
        self.chunk.shrink_to(2 * CHUNK);
        self.ends.push_back(connection.written());
        Ok(())
    }

    fn try_settle(&mut self, wait: Option<Duration>) -> Result<Option<Delivery>, Failure> {
        let (Some(connection), Some(end)) = (self.connection.as_mut(), self.ends.front()) else {
            return Err(Failure::closed());
        };
        let began = Instant::now();
        let mut pause = Pause::default();
        loop {
            // First the queue, then the state: a reset empties the queue too.
            let acknowledged = connection.acknowledged()?;
            if connection.closed()? {
                return Err(Failure::closed());
            }
            if acknowledged >= *end {
                self.ends.pop_front();
                return Ok(Some(Delivery::default()));
            }
            if wait.is_some_and(|wait| began.elapsed() >= wait) {
                return Ok(None);
            }
            if acknowledged > self.progress.0 {
                self.progress = (acknowledged, Instant::now());
            }
            if self.progress.1.elapsed() >= STALLED * self.peer.timeout {
                return Err(Failure::new(FailureKind::Again, "does not acknowledge"));
            }
            pause.sleep();
        }
    }
}

impl<E: Encoder> Sink for Streamed<E> {
    /// The peer's kernel may put an acknowledgement off until more comes: 40 ms and longer.
    fn window(&self) -> usize {
        8
    }

    fn send(&mut self, batch: &Batch) -> Result<(), Failure> {
        let outcome = self.try_send(batch);
        self.or_drop(outcome)
    }

    fn settle(&mut self, _: &Batch, wait: Option<Duration>) -> Result<Option<Delivery>, Failure> {
        let outcome = self.try_settle(wait);
        self.or_drop(outcome)
    }
}

/// Sleeps from 20 µs, doubling to 5 ms: on a local network an acknowledgement takes less than a
/// scheduler's tick, elsewhere up to 40 ms and more.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Pause {
        Pause(Duration::from_micros(20))
    }
}

impl Pause {
    fn sleep(&mut self) {
        std::thread::sleep(self.0);
        self.0 = Duration::from_millis(5).min(self.0 * 2);
    }
}

#[cfg(test)]
mod tests;
