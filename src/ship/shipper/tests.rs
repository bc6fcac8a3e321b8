use super::super::event::Body;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Mutex;

const PATIENCE: Duration = Duration::from_secs(60);

/// Follows a script, then takes everything.
struct Scripted {
    script: Vec<Step>,
    arrived: Arc<Mutex<Vec<u64>>>,
}

#[derive(Debug, Clone)]
enum Step {
    Take,
    Again,
    Refuse,
    TooLarge,
    /// Puts off each event whose sequence number is divisible by the first, and rejects those that
    /// are divisible by the second.
    Partly(u64, u64),
}

impl Sink for Scripted {
    fn deliver(&mut self, _: &Origin, batch: &[Event]) -> std::result::Result<Delivery, Failure> {
        let (again, reject) = match self.script.pop().unwrap_or(Step::Take) {
            Step::Take => (u64::MAX, u64::MAX),
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
        Ok(delivery)
    }
}

fn origin() -> Origin {
    Origin {
        container_id: "c".into(),
        container_name: None,
        image_digest: "d".into(),
        host_name: "h".into(),
        launch_id: "l".into(),
    }
}

fn shipper(script: Vec<Step>) -> (Shipper, Arc<Mutex<Vec<u64>>>) {
    let arrived = Arc::default();
    let sink = Scripted {
        script,
        arrived: Arc::clone(&arrived),
    };
    let url = "stdio:".parse().unwrap();
    let shipper = Shipper::with_sink(&url, Box::new(sink), origin(), Options::default()).unwrap();
    (shipper, arrived)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Take),
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
    ) {
        script.push(Step::Take);
        let (shipper, arrived) = shipper(script);
        let launch = shipper.push_record("launch", serde_json::json!({}));
        shipper.wait_acknowledged(launch, Instant::now() + PATIENCE).unwrap();
        shipper.begin_drain();
        for _ in 0..lines {
            while shipper.push_line(Stream::Stdout, b"x", false) == Pushed::Full {
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
    shipper.push_line(Stream::Stdout, b"x", false);
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
    let line = |sequence| {
        let body = Body::Line {
            stream: Stream::Stdout,
            bytes: [].into(),
            partial: false,
        };
        Event {
            time: 0,
            sequence,
            body,
        }
    };
    let fields = serde_json::json!({});
    let record = Event {
        time: 0,
        sequence: 1,
        body: Body::Record {
            kind: "launch",
            fields,
        },
    };
    let sent = [record, line(2), line(3), line(4)];
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
        sent[..3]
            .iter()
            .map(|event| event.body.cost())
            .sum::<usize>()
    );
    assert_eq!(sum.why.as_deref(), Some("never"));
}
