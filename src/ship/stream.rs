//! Events over TCP where nothing answers: TCP's own acknowledgement is used.
//!
//! A batch is delivered when the peer's kernel has acknowledged its last byte and the connection has
//! outlived that by a margin: a receiver that refuses a certificate, or a balancer with nobody behind
//! it, takes bytes first and closes then. A batch of which that is not known is sent again, whole, over
//! the next connection.

use super::event::Batch;
use super::net::{Connection, Peer};
use super::sink::{Delivery, Failure, FailureKind, Sink};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a new connection must outlive the first batch that it carries.
const NEW: Duration = Duration::from_millis(120);

/// The same for each batch after that one.
const KNOWN: Duration = Duration::from_millis(50);

/// The same while the peer has asked for a certificate and said nothing since: the checks of some take
/// a while, and others never say anything.
const UNJUDGED: Duration = Duration::from_secs(1);

/// Pause between two looks at a new connection.
const LOOK: Duration = Duration::from_millis(10);

/// Batches that the peer's kernel has not acknowledged. It may put an acknowledgement off until more
/// comes: 40 ms and longer.
const WINDOW: usize = 8;

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
    /// Batches in flight, the oldest first.
    flight: VecDeque<Flight>,
    /// How many of them the peer's kernel has acknowledged.
    resting: usize,
    /// Whether the connection has outlived a batch.
    is_known: bool,
    /// Whether memory is short: a connection that is known need not outlive a batch then.
    is_pressed: bool,
    /// How much was acknowledged, and since when it is not more.
    progress: (u64, Instant),
    chunk: Vec<u8>,
}

/// A batch in flight.
struct Flight {
    /// Where it ends, in bytes written to this connection.
    end: u64,
    /// When the peer's kernel was seen to have acknowledged it.
    taken: Option<Instant>,
}

impl<E: Encoder> Streamed<E> {
    /// A sink at that peer.
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

    /// Drops the connection with all that is in flight, where this failed.
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
        written.map_err(|failure| connection.last_words(failure))?;
        // A line can be many times as long in its escaped form.
        self.chunk.shrink_to(2 * CHUNK);
        let (end, taken) = (connection.written(), None);
        self.flight.push_back(Flight { end, taken });
        Ok(())
    }

    /// Enters what the peer's kernel has acknowledged.
    fn look(&mut self) -> Result<(), Failure> {
        let connection = self.connection.as_mut().ok_or_else(Failure::closed)?;
        // First the queue, then the state: a reset empties the queue too.
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

    /// When the oldest batch is delivered, if the peer's kernel has acknowledged it.
    fn due(&self) -> Option<Instant> {
        let taken = self.flight.front()?.taken?;
        let connection = self.connection.as_ref()?;
        Some(match self.is_known {
            _ if connection.awaits_verdict() => taken + UNJUDGED,
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
                // Whoever asks can send more now.
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

/// Writes a batch to the connection, a chunk after the other.
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
    /// A batch that only has to be outlived keeps no other back.
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
