//! Sends events over TCP for protocols without answers, and uses TCP's acknowledgements.
//!
//! A batch counts as delivered when the peer's kernel has acknowledged its last byte and the connection
//! has outlived that by a margin: a receiver that refuses a certificate, or a load balancer without a
//! backend, first takes bytes and then closes. All other batches are sent again, as a whole, over the
//! next connection.

use super::event::Batch;
use super::net::{Connection, Peer};
use super::sink::{Delivery, Failure, FailureKind, Sink};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Time that a new connection must outlive its first batch.
const NEW: Duration = Duration::from_millis(120);

/// Time that a connection must outlive each later batch.
const KNOWN: Duration = Duration::from_millis(50);

/// Time that a new connection must outlive its first batch while the peer has requested a certificate
/// and sent nothing since: some peers check it slowly, and others never confirm it.
const UNJUDGED: Duration = Duration::from_secs(1);

/// Interval between checks of a new connection.
const LOOK: Duration = Duration::from_millis(10);

/// Maximum number of batches that the peer's kernel has not acknowledged. It may delay an
/// acknowledgement by 40 ms or more.
const WINDOW: usize = 8;

/// Number of bytes encoded before they are written.
const CHUNK: usize = 64 * 1024;

/// Number of timeouts for which a peer may take nothing. Longer than for other sinks: as long as the
/// peer lives, a new connection would only repeat and reorder lines.
const STALLED: u32 = 24;

/// Encoding of events on the wire.
pub trait Encoder: Send {
    /// Appends an event with its terminator.
    fn encode(&mut self, to: &mut Vec<u8>, event: &super::event::Event<'_>);
}

/// Sink that sends encoded events one after the other.
pub struct Streamed<E> {
    peer: Peer,
    encoder: E,
    connection: Option<Connection>,
    /// Batches in flight, oldest first.
    flight: VecDeque<Flight>,
    /// Number of batches in flight that the peer's kernel has acknowledged.
    resting: usize,
    /// True if the connection has outlived a batch.
    is_known: bool,
    /// True if memory is short: then an established connection need not outlive a batch.
    is_pressed: bool,
    /// Number of acknowledged bytes, and the time of the last change.
    progress: (u64, Instant),
    chunk: Vec<u8>,
}

/// A batch in flight.
struct Flight {
    /// End of the batch, in bytes written to this connection.
    end: u64,
    /// Time at which the acknowledgement of the peer's kernel was noticed.
    taken: Option<Instant>,
}

impl<E: Encoder> Streamed<E> {
    /// Creates a sink at that peer.
    pub fn new(peer: Peer, encoder: E) -> Streamed<E> {
        Streamed {
            peer,
            encoder,
            connection: None,
            flight: VecDeque::new(),
            resting: 0,
            is_known: false,
            is_pressed: false,
            progress: (0, Instant::now()),
            chunk: Vec::new(),
        }
    }

    /// Drops the connection with everything in flight if the call failed.
    fn or_drop<T>(&mut self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        if outcome.is_err() {
            self.connection = None;
            self.flight.clear();
            self.resting = 0;
        }
        outcome
    }

    fn try_send(&mut self, batch: &Batch) -> Result<(), Failure> {
        if self.flight.is_empty() {
            let mut connection = self.peer.connected(self.connection.take())?;
            connection.wait_for(STALLED * self.peer.timeout);
            self.is_known &= !connection.is_fresh();
            self.connection = Some(connection);
        }
        let connection = self.connection.as_mut().ok_or_else(Failure::closed)?;
        if self.flight.is_empty() {
            self.progress = (connection.written(), Instant::now());
        }
        self.chunk.clear();
        let written = encode(connection, &mut self.encoder, &mut self.chunk, batch);
        written.map_err(|failure| connection.with_peers_reason(failure))?;
        // The escaped form of a line can be many times as long.
        self.chunk.shrink_to(2 * CHUNK);
        let (end, taken) = (connection.written(), None);
        self.flight.push_back(Flight { end, taken });
        Ok(())
    }

    /// Checks which bytes the peer's kernel has acknowledged.
    fn look(&mut self) -> Result<(), Failure> {
        let connection = self.connection.as_mut().ok_or_else(Failure::closed)?;
        // Checks the queue before the state, since a reset also empties the queue.
        let acknowledged = connection.acknowledged()?;
        if connection.closed()? {
            return Err(Failure::closed());
        }
        let now = Instant::now();
        if acknowledged > self.progress.0 {
            self.progress = (acknowledged, now);
        }
        for flight in self.flight.range_mut(self.resting..) {
            if flight.end > acknowledged {
                break;
            }
            flight.taken = Some(now);
            self.resting += 1;
        }
        Ok(())
    }

    /// Returns the time at which the oldest batch counts as delivered, if the peer's kernel has
    /// acknowledged it.
    fn due(&self) -> Option<Instant> {
        let taken = self.flight.front()?.taken?;
        let connection = self.connection.as_ref()?;
        Some(match self.is_known {
            false if connection.awaits_verdict() => taken + UNJUDGED,
            false => taken + NEW,
            true if self.is_pressed => taken,
            true => taken + KNOWN,
        })
    }

    fn try_settle(&mut self, wait: Option<Duration>) -> Result<Option<Delivery>, Failure> {
        let began = Instant::now();
        let mut pause = Pause::default();
        loop {
            self.look()?;
            let due = self.due();
            let now = Instant::now();
            if due.is_some_and(|due| due <= now) {
                self.flight.pop_front();
                self.resting -= 1;
                self.is_known = true;
                return Ok(Some(Delivery::default()));
            }
            let open = self.flight.len() - self.resting;
            let is_over = match wait {
                // The caller can send more now.
                None => due.is_some() && open < WINDOW,
                Some(wait) => open == 0 || began.elapsed() >= wait,
            };
            if is_over {
                return Ok(None);
            }
            let is_stalled = self.progress.1.elapsed() >= STALLED * self.peer.timeout;
            if open > 0 && is_stalled {
                return Err(Failure::new(FailureKind::Again, "does not acknowledge"));
            }
            pause.sleep();
        }
    }
}

/// Writes a batch to the connection in chunks.
fn encode(
    connection: &mut Connection,
    encoder: &mut impl Encoder,
    chunk: &mut Vec<u8>,
    batch: &Batch,
) -> Result<(), Failure> {
    for event in batch.iter() {
        encoder.encode(chunk, &event);
        if chunk.len() >= CHUNK {
            connection.write(chunk)?;
            chunk.clear();
        }
    }
    connection.write(chunk)
}

impl<E: Encoder> Sink for Streamed<E> {
    /// Acknowledged batches that only wait for the margin do not count.
    fn window(&self) -> usize {
        WINDOW + self.resting
    }

    fn rests_until(&self) -> Option<Instant> {
        let due = self.due().filter(|_| self.resting == self.flight.len())?;
        let look = Instant::now() + LOOK;
        Some(if self.is_known { due } else { due.min(look) })
    }

    fn press(&mut self, pressed: bool) {
        self.is_pressed = pressed;
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

/// Sleeps for 20 µs, doubled up to 5 ms: on a local network, an acknowledgement takes less than a
/// scheduler's tick, otherwise 40 ms or more.
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
