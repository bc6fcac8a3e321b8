//! `json+tcp` and `json+tls`: one JSON object per line.

use super::document::Documents;
use super::event::Event;
use super::stream::Encoder;

impl Encoder for Documents {
    fn encode(&mut self, to: &mut Vec<u8>, event: &Event<'_>) {
        self.append(to, event);
        to.push(b'\n');
    }
}
