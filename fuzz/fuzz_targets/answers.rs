//! What a sink answers, from arbitrary bytes: HTTP, `_bulk`, OTLP, acknowledgements of the forward protocol.
#![no_main]

use imrun::logs::answers::{bulk, forward, http, otlp};
use libfuzzer_sys::fuzz_target;

const EVENTS: usize = 3;

fuzz_target!(|bytes: &[u8]| {
    for ended in [false, true] {
        let _ = http(bytes, ended);
    }
    let _ = forward(bytes);
    for delivery in [bulk(bytes, EVENTS), otlp(bytes, EVENTS)]
        .into_iter()
        .flatten()
    {
        assert!(delivery.rejected.len() + delivery.again.len() <= EVENTS);
        assert!(delivery.again.is_sorted());
        assert!(delivery.again.iter().all(|index| *index < EVENTS));
        assert!(delivery.rejected.iter().all(|one| one.index < EVENTS));
    }
});
