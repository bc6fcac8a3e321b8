//! A sink that sends batches as HTTP requests and reads their answers.

use super::event::Batch;
use super::http::Endpoint;
use super::sink::{Delivery, Failure, Sink};
use std::time::Duration;

/// Encoding of requests and answers of a protocol.
pub trait Exchange: Send {
    /// Appends a request's body.
    fn encode(&mut self, to: &mut Vec<u8>, batch: &Batch);

    /// Reads the answer to a batch of `events` events.
    ///
    /// # Errors
    /// An invalid answer, which acknowledges nothing.
    fn understand(answer: &[u8], events: usize) -> Result<Delivery, Failure>;
}

/// A sink with one request per batch.
pub struct Posted<E> {
    endpoint: Endpoint,
    exchange: E,
    body: Vec<u8>,
}

impl<E: Exchange> Posted<E> {
    /// Creates a sink at that endpoint.
    pub fn new(endpoint: Endpoint, exchange: E) -> Posted<E> {
        Posted {
            endpoint,
            exchange,
            body: Vec::new(),
        }
    }
}

impl<E: Exchange> Sink for Posted<E> {
    fn send(&mut self, batch: &Batch) -> Result<(), Failure> {
        self.body.clear();
        self.exchange.encode(&mut self.body, batch);
        self.endpoint.post(&mut self.body)
    }

    fn settle(
        &mut self,
        batch: &Batch,
        wait: Option<Duration>,
    ) -> Result<Option<Delivery>, Failure> {
        let answer = self.endpoint.answer(wait)?;
        answer
            .map(|answer| E::understand(&answer, batch.len()))
            .transpose()
    }
}
