use super::*;
use proptest::prelude::*;
use serde_json::json;

fn buffer(capacity: usize) -> Buffer {
    Buffer::new(capacity, Arc::new(Notice::new().unwrap()))
}

fn push(buffer: &Buffer, size: usize) -> Pushed {
    buffer
        .open()
        .push_line(Stream::Stdout, &vec![b'x'; size], false)
}

/// Returns the settlement of a sink that acknowledges everything.
fn all_of(batch: &Batch) -> Settlement {
    let mut settlement = Settlement::default();
    for event in batch.iter() {
        settlement.freed += event.body.cost();
        settlement.acknowledged.add(&event);
    }
    settlement
}

fn noticed(buffer: &Buffer) -> bool {
    buffer.notice.clear().unwrap()
}

#[test]
fn an_event_is_settled_when_all_earlier_ones_are() {
    let buffer = buffer(1 << 20);
    for _ in 0..3 {
        push(&buffer, 10);
    }
    let batch = buffer.take().unwrap();
    assert_eq!(batch.first(), Some(1));
    // The second event is to be sent again.
    let first = batch.iter().next().unwrap();
    let mut settlement = Settlement {
        unsettled: Some(2),
        freed: first.body.cost(),
        ..Settlement::default()
    };
    settlement.acknowledged.add(&first);
    buffer.settle(settlement);
    assert!(buffer.is_settled(1) && !buffer.is_settled(2));
    assert!(!buffer.wait_settled(3, Instant::now()));
}

#[test]
fn a_million_empty_lines_do_not_fit() {
    let buffer = buffer(1 << 20);
    let taken = (0..1_000_000)
        .filter(|_| push(&buffer, 0) != Pushed::Full)
        .count();
    assert!((10_000..50_000).contains(&taken), "{taken}");
}

#[test]
fn an_empty_buffer_accepts_an_event_of_any_size() {
    let buffer = buffer(10);
    assert_eq!(push(&buffer, 1000), Pushed::Taken(1));
    assert_eq!(push(&buffer, 0), Pushed::Full);
    buffer.settle(all_of(&buffer.take().unwrap()));
    assert_eq!(push(&buffer, 1000), Pushed::Taken(2));
}

#[test]
fn events_in_flight_still_take_room() {
    let buffer = buffer(10_000);
    while push(&buffer, 100) != Pushed::Full {}
    let batch = buffer.take().unwrap();
    assert_eq!(push(&buffer, 100), Pushed::Full);
    buffer.settle(all_of(&batch));
    assert!(buffer.open().has_room(100));
}

#[test]
fn a_notice_follows_the_first_acknowledgement_and_requested_room() {
    let buffer = buffer(10_000);
    assert!(!noticed(&buffer));
    push(&buffer, 0);
    buffer.settle(all_of(&buffer.take().unwrap()));
    assert!(noticed(&buffer) && !noticed(&buffer));
    push(&buffer, 0);
    buffer.settle(all_of(&buffer.take().unwrap()));
    assert!(!noticed(&buffer));
    while push(&buffer, 100) != Pushed::Full {}
    buffer.settle(all_of(&buffer.take().unwrap()));
    assert!(noticed(&buffer));
}

#[test]
fn a_notice_comes_when_the_sink_fails_and_when_a_drain_ends() {
    let buffer = buffer(10_000);
    buffer.fail(Failure::new(FailureKind::Broken, "gone"));
    assert!(noticed(&buffer));
    assert_eq!(buffer.failed().unwrap().why, "gone");
    let buffer = self::buffer(10_000);
    for round in 0..2 {
        push(&buffer, 0);
        buffer.drain();
        buffer.settle(all_of(&buffer.take().unwrap()));
        assert!(noticed(&buffer), "round {round}");
    }
}

#[test]
fn a_batch_has_at_most_its_bytes_and_its_events_but_never_none() {
    let buffer = buffer(1 << 30);
    push(&buffer, 2 * Batch::BYTES);
    (0..1500).for_each(|_| assert_ne!(push(&buffer, 1), Pushed::Full));
    (0..5).for_each(|_| assert_ne!(push(&buffer, Batch::BYTES / 2), Pushed::Full));
    for events in [1, Batch::EVENTS, 500 + 1, 2, 2] {
        assert_eq!(buffer.take().unwrap().len(), events);
    }
    assert!(buffer.try_take().is_none());
}

#[test]
fn a_closed_buffer_gives_nothing_and_ends_every_pause() {
    let buffer = buffer(1000);
    push(&buffer, 0);
    buffer.close();
    assert!(buffer.take().is_none());
    assert_eq!(buffer.pause(Duration::from_secs(3600), true), Pause::Closed);
}

#[test]
fn a_firm_wait_is_not_shortened_by_a_drain() {
    let soon = Duration::from_millis(1);
    let buffer = buffer(1000);
    assert_eq!(buffer.pause(soon, false), Pause::Over);
    buffer.drain();
    assert_eq!(buffer.pause(soon, false), Pause::Over);
    assert_eq!(buffer.pause(soon, true), Pause::Over);
}

#[test]
fn a_stall_is_reported_once_and_again_after_progress() {
    let buffer = buffer(1000);
    assert_eq!(buffer.stall_to_report(Duration::ZERO), None);
    push(&buffer, 0);
    assert!(buffer.stall_to_report(Duration::from_secs(3600)).is_none());
    // A refusal is reported immediately, any other error after some time.
    let refused = Failure::new(FailureKind::Refused, "answered 401");
    buffer.retry(refused.clone(), 1);
    let stall = buffer.stall_to_report(Duration::from_secs(3600)).unwrap();
    assert_eq!(stall.failure, Some(refused));
    assert_eq!(buffer.stall_to_report(Duration::ZERO), None);
    let mut settlement = Settlement {
        freed: 1,
        ..Settlement::default()
    };
    settlement.acknowledged.lines = 1;
    buffer.settle(settlement);
    assert_eq!(buffer.last_failure(), None);
    push(&buffer, 0);
    let stall = buffer.stall_to_report(Duration::ZERO).unwrap();
    assert_eq!(stall.failure, None);
}

#[test]
fn a_failed_sink_ends_every_wait_for_it() {
    let buffer = buffer(1000);
    push(&buffer, 0);
    buffer.fail(Failure::new(FailureKind::Broken, "gone"));
    let deadline = Instant::now() + Duration::from_secs(3600);
    assert!(!buffer.wait_settled(1, deadline));
    assert!(!buffer.wait_drained(deadline));
}

#[derive(Debug, Clone)]
enum Step {
    Line(usize),
    Record(bool),
    Drop(u64),
    Take,
    Settle,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..3000).prop_map(Step::Line),
        1 => any::<bool>().prop_map(Step::Record),
        1 => (1u64..5).prop_map(Step::Drop),
        2 => Just(Step::Take),
        2 => Just(Step::Settle),
    ]
}

proptest! {
    #[test]
    fn the_numbers_add_up_whatever_happens(steps in prop::collection::vec(step(), 0..200)) {
        let buffer = buffer(20_000);
        let mut flight = Batch::default();
        let mut arrived: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Line(size) => {
                    let fits = buffer.open().has_room(size);
                    prop_assert_eq!(push(&buffer, size) != Pushed::Full, fits);
                }
                Step::Record(true) => { buffer.open().force_record("launch", json!({ "a": 1 })); }
                Step::Record(false) => { buffer.open().push_record("side-effect", json!({ "a": 1 })); }
                Step::Drop(lines) => buffer.open().drop_lines(lines),
                Step::Take if flight.is_empty() && !buffer.lock().queue.is_empty() => {
                    flight = buffer.take().unwrap();
                }
                Step::Take => {}
                Step::Settle => {
                    arrived.extend(flight.iter().map(|event| event.sequence));
                    buffer.settle(all_of(&flight));
                    buffer.recycle(std::mem::take(&mut flight));
                }
            }
            let numbers = buffer.counters();
            let settled = numbers.acknowledged + numbers.dropped + numbers.rejected;
            prop_assert_eq!(numbers.read, settled + numbers.pending);
            let state = buffer.lock();
            let held = state.queue.iter().chain([&flight]).flat_map(Batch::iter).map(|event| event.body.cost());
            prop_assert_eq!(state.used, held.sum::<usize>());
            prop_assert_eq!(state.used == 0, numbers.pending + numbers.pending_records == 0);
            prop_assert_eq!(state.waiting_since.is_some(), state.used > 0);
        }
        prop_assert!(arrived.is_sorted());
    }
}

#[test]
fn each_event_has_a_later_time_than_the_one_before() {
    let buffer = buffer(1 << 20);
    for _ in 0..3 {
        let mut open = buffer.open();
        (0..100)
            .for_each(|_| assert_ne!(open.push_line(Stream::Stdout, b"x", false), Pushed::Full));
    }
    let batch = buffer.take().unwrap();
    let times: Vec<u64> = batch.iter().map(|event| event.time).collect();
    assert_eq!(times.len(), 300);
    assert!(times.is_sorted_by(|one, next| one < next));
}
