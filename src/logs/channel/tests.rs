use super::super::event::Stream;
use super::super::{Ending, Frame, Options, Pushed, Shipper};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);
const LINE: Frame<'static> = Frame {
    bytes: b"x",
    ending: Ending::Newline,
};

/// A sink that follows a script and then accepts everything.
struct Scripted {
    script: Vec<Step>,
    arrived: Arc<Mutex<Vec<u64>>>,
    window: usize,
    /// Number of calls before each answer.
    delay: u32,
    asked: u32,
}

#[derive(Debug, Clone)]
enum Step {
    Take,
    /// The next attempt fails while sending.
    Unsent,
    Again,
    Refuse,
    TooLarge,
    /// Delays each event whose sequence number is divisible by the first number, and rejects those
    /// divisible by the second.
    Partly(u64, u64),
}

impl Sink for Scripted {
    fn window(&self) -> usize {
        self.window
    }

    fn send(&mut self, _: &Batch) -> std::result::Result<(), Failure> {
        match self.script.pop_if(|step| matches!(step, Step::Unsent)) {
            Some(_) => Err(Failure::new(FailureKind::Again, "not sent")),
            None => Ok(()),
        }
    }

    fn settle(
        &mut self,
        batch: &Batch,
        wait: Option<Duration>,
    ) -> std::result::Result<Option<Delivery>, Failure> {
        self.asked += 1;
        if wait.is_some() && !self.asked.is_multiple_of(self.delay) {
            return Ok(None);
        }
        let (again, reject) = match self.script.pop().unwrap_or(Step::Take) {
            Step::Take => (u64::MAX, u64::MAX),
            Step::Unsent => return Ok(None),
            Step::Again => return Err(Failure::new(FailureKind::Again, "later")),
            Step::Refuse => return Err(Failure::new(FailureKind::Refused, "no")),
            Step::TooLarge => return Err(Failure::new(FailureKind::TooLarge, "413")),
            Step::Partly(again, reject) => (again, reject),
        };
        let mut delivery = Delivery::default();
        for (index, event) in batch.iter().enumerate() {
            if event.sequence.is_multiple_of(again) {
                delivery.again.push(index);
            } else if event.sequence.is_multiple_of(reject) && event.sequence > 1 {
                delivery.rejected.push(Rejection {
                    index,
                    why: "never".into(),
                });
            } else {
                self.arrived.lock().unwrap().push(event.sequence);
            }
        }
        Ok(Some(delivery))
    }
}

fn shipper(script: Vec<Step>) -> (Shipper, Arc<Mutex<Vec<u64>>>) {
    shipper_with(script, 1, 1)
}

fn shipper_with(script: Vec<Step>, window: usize, delay: u32) -> (Shipper, Arc<Mutex<Vec<u64>>>) {
    let arrived = Arc::default();
    let sink = Scripted {
        script,
        arrived: Arc::clone(&arrived),
        window,
        delay,
        asked: 0,
    };
    let url = "stdio:".parse().unwrap();
    let sinks: Vec<(SinkUrl, Box<dyn Sink>)> = vec![(url, Box::new(sink))];
    let shipper = Shipper::with_sinks(sinks, Options::default()).unwrap();
    (shipper, arrived)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Take),
        Just(Step::Unsent),
        Just(Step::Again),
        Just(Step::Refuse),
        Just(Step::TooLarge),
        (2u64..5, 2u64..9).prop_map(|(again, reject)| Step::Partly(again, reject)),
    ]
}

proptest! {
    // Each failure costs a pause.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_line_arrives_once_or_is_rejected_once_whatever_the_sink_does(
        mut script in prop::collection::vec(step(), 0..6),
        lines in 1u64..3000,
        window in 1usize..4,
        delay in 1u32..4,
    ) {
        // A sink with several batches in flight accepts or fails whole batches.
        let whole = |step: &Step| !matches!(step, Step::TooLarge | Step::Partly(..));
        script.retain(|step| window == 1 || whole(step));
        script.push(Step::Take);
        let (shipper, arrived) = shipper_with(script, window, delay);
        let launch = shipper.push_record("launch", serde_json::json!({}));
        shipper.wait_acknowledged(launch, Instant::now() + PATIENCE).unwrap();
        shipper.begin_drain();
        for _ in 0..lines {
            while shipper.open().push_frame(Stream::Stdout, LINE) == Pushed::Full {
                std::thread::yield_now();
            }
        }
        let counters = shipper.drain(Instant::now() + PATIENCE);
        prop_assert_eq!(counters.read, lines);
        prop_assert_eq!(counters.acknowledged + counters.rejected, lines);
        prop_assert_eq!(counters.pending + counters.dropped, 0);
        prop_assert!(shipper.is_settled(lines + 1));
        prop_assert_eq!(shipper.stalled(), None);
        let mut times: BTreeMap<u64, u64> = BTreeMap::new();
        arrived.lock().unwrap().iter().for_each(|sequence| *times.entry(*sequence).or_default() += 1);
        prop_assert!(times.values().all(|times| *times == 1));
        if window > 1 {
            prop_assert!(arrived.lock().unwrap().is_sorted());
        }
        prop_assert_eq!(times.len() as u64, counters.acknowledged + 1);
    }
}

#[test]
fn a_refusal_ends_a_launch_but_not_a_container() {
    let (shipper, arrived) = shipper(vec![Step::Refuse, Step::Take]);
    let launch = shipper.push_record("launch", serde_json::json!({}));
    shipper
        .wait_acknowledged(launch, Instant::now() + PATIENCE)
        .unwrap();
    shipper.open().push_frame(Stream::Stdout, LINE);
    assert_eq!(shipper.drain(Instant::now() + PATIENCE).acknowledged, 1);
    assert_eq!(*arrived.lock().unwrap(), [1, 2]);

    let (shipper, arrived) = self::shipper(vec![Step::Take, Step::Refuse]);
    let launch = shipper.push_record("launch", serde_json::json!({}));
    let error = shipper
        .wait_acknowledged(launch, Instant::now() + PATIENCE)
        .unwrap_err();
    assert_eq!(error.to_string(), "sink stdio: no");
    assert_eq!(shipper.failure(), Some(error));
    assert!(arrived.lock().unwrap().is_empty());
}

#[test]
fn a_settlement_counts_lines_and_records_apart() {
    let mut sent = Batch::default();
    sent.push_record(0, 1, "launch", serde_json::json!({}));
    (2..=4).for_each(|sequence| sent.push_line(0, sequence, Stream::Stdout, b"", false));
    let rejected = vec![Rejection {
        index: 2,
        why: "never".into(),
    }];
    let sum = settlement(
        &sent,
        &Delivery {
            rejected,
            again: vec![3],
        },
    );
    assert_eq!((sum.acknowledged.lines, sum.acknowledged.records), (1, 1));
    assert_eq!(
        (sum.rejected.lines, sum.rejected.records, sum.again),
        (1, 0, 1)
    );
    assert_eq!(
        sum.freed,
        sent.iter()
            .take(3)
            .map(|event| event.body.cost())
            .sum::<usize>()
    );
    assert_eq!(sum.why.as_deref(), Some("never"));
}

/// A sink that refuses every batch with an event for which the function returns true.
struct Squeamish {
    refuses: fn(u64) -> bool,
    arrived: Arc<Mutex<Vec<u64>>>,
    attempts: Arc<Mutex<usize>>,
}

impl Sink for Squeamish {
    fn send(&mut self, _: &Batch) -> std::result::Result<(), Failure> {
        *self.attempts.lock().unwrap() += 1;
        Ok(())
    }

    fn settle(
        &mut self,
        batch: &Batch,
        _: Option<Duration>,
    ) -> std::result::Result<Option<Delivery>, Failure> {
        let sequences: Vec<_> = batch.iter().map(|event| event.sequence).collect();
        if sequences.iter().any(|sequence| (self.refuses)(*sequence)) {
            return Err(Failure::new(FailureKind::Rejected, "answered 400"));
        }
        self.arrived.lock().unwrap().extend(sequences);
        Ok(Some(Delivery::default()))
    }
}

/// Sends `lines` lines after the launch record. Returns the counters, the accepted events and the attempts.
fn through(refuses: fn(u64) -> bool, lines: u64) -> (super::super::Counters, Vec<u64>, usize) {
    let (arrived, attempts) = (Arc::default(), Arc::default());
    let sink = Squeamish {
        refuses,
        arrived: Arc::clone(&arrived),
        attempts: Arc::clone(&attempts),
    };
    let sinks: Vec<(SinkUrl, Box<dyn Sink>)> = vec![("stdio:".parse().unwrap(), Box::new(sink))];
    let shipper = Shipper::with_sinks(sinks, Options::default()).unwrap();
    let launch = shipper.push_record("launch", serde_json::json!({}));
    shipper
        .wait_acknowledged(launch, Instant::now() + PATIENCE)
        .unwrap();
    let mut open = shipper.open();
    (0..lines).for_each(|_| assert_ne!(open.push_frame(Stream::Stdout, LINE), Pushed::Full));
    drop(open);
    let counters = shipper.drain(Instant::now() + PATIENCE);
    let arrived = arrived.lock().unwrap().clone();
    let attempts = *attempts.lock().unwrap();
    (counters, arrived, attempts)
}

#[test]
fn a_rejected_batch_is_split_until_only_the_faulty_events_are_lost() {
    let (counters, arrived, _) = through(|sequence| sequence == 100 || sequence == 900, 999);
    assert_eq!((counters.acknowledged, counters.rejected), (997, 2));
    let good = (1..=1000).filter(|sequence| ![100, 900].contains(sequence));
    assert!(arrived.into_iter().eq(good));
}

#[test]
fn a_sink_that_refuses_everything_is_not_sent_each_line_alone() {
    let (counters, _, attempts) = through(|sequence| sequence > 1, 3000);
    assert_eq!((counters.acknowledged, counters.rejected), (0, 3000));
    assert!(attempts < 500, "{attempts} attempts");
}
