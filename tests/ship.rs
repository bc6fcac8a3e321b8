//! Sends logs to receivers that misbehave.
#![allow(clippy::unwrap_used)]

mod support {
    pub mod bulk;
    pub mod lines;
    pub mod server;
}

use imrun::base::error::{Error, Reason};
use imrun::logs::{Ending, Frame, Options, Origin, Pushed, Shipper, Stream};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use support::bulk::{Answer, Bulk};
use support::lines::Lines;
use support::server::PATIENCE;

const LINES: u64 = 20_000;

fn origin() -> Origin {
    Origin {
        container_id: "c0ffee".into(),
        container_name: Some("web".into()),
        image_digest: format!("sha256:{}", "5".repeat(64)),
        host_name: "node".into(),
        launch_id: "first".into(),
    }
}

fn start(url: &str, options: Options) -> Shipper {
    Shipper::start(&[url.parse().unwrap()], &origin(), options).unwrap()
}

fn es(bulk: &Bulk) -> Shipper {
    start(&format!("es+http://{}", bulk.address()), Options::default())
}

/// Options with which an attempt without an answer is given up soon.
fn impatient() -> Options {
    Options {
        timeout: Duration::from_millis(200),
        ..Options::default()
    }
}

fn later() -> Instant {
    Instant::now() + PATIENCE
}

/// Ships the launch record and waits for it like a launch.
fn launch(shipper: &Shipper) {
    let sequence = shipper.push_record("launch", json!({ "integrity": "hashed" }));
    shipper.wait_acknowledged(sequence, later()).unwrap();
}

/// Returns the error that would refuse a launch.
fn refusal(shipper: &Shipper, patience: Duration) -> Error {
    let sequence = shipper.push_record("launch", json!({}));
    let deadline = Instant::now() + patience;
    shipper.wait_acknowledged(sequence, deadline).unwrap_err()
}

fn wait_for_notice(shipper: &Shipper) {
    let mut fds = [PollFd::new(shipper.notice(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(PATIENCE).unwrap();
    assert_eq!(poll(&mut fds, patience).unwrap(), 1, "no notice came");
    shipper.clear_notice().unwrap();
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = later();
    while !condition() {
        assert!(Instant::now() < deadline, "never seen: {what}");
        std::thread::yield_now();
    }
}

fn whole_line(bytes: &[u8]) -> Frame<'_> {
    Frame {
        bytes,
        ending: Ending::Newline,
    }
}

/// Pushes a line as a supervisor does with `--on-stall block`.
fn push(shipper: &Shipper, text: &str) {
    while shipper
        .open()
        .push_frame(Stream::Stdout, whole_line(text.as_bytes()))
        == Pushed::Full
    {
        wait_for_notice(shipper);
    }
}

fn push_lines(shipper: &Shipper, numbers: std::ops::Range<u64>) {
    for number in numbers {
        push(shipper, &format!("line {number}"));
    }
}

/// Pushes lines until one does not fit, and returns how many did.
fn fill(shipper: &Shipper) -> u64 {
    let fits = |_: &u64| {
        shipper
            .open()
            .push_frame(Stream::Stderr, whole_line(&[b'x'; 1000]))
            != Pushed::Full
    };
    (0..).take_while(fits).count() as u64
}

/// Returns the sequence numbers in the order of arrival.
fn sequences(documents: &[Value]) -> Vec<u64> {
    let sequence = |document: &Value| document["event.sequence"].as_u64().unwrap();
    documents.iter().map(sequence).collect()
}

fn stored(bulk: &Bulk) -> Vec<Value> {
    bulk.documents()
        .into_iter()
        .map(|document| document.source)
        .collect()
}

/// Asserts that the launch record and all lines have arrived, once each and in order.
fn assert_all_arrived(bulk: &Bulk, lines: u64) {
    assert_eq!(bulk.refused(), [""; 0]);
    let documents = stored(bulk);
    assert!(sequences(&documents).into_iter().eq(1..=lines + 1));
    for (number, document) in documents[1..].iter().enumerate() {
        assert_eq!(document["message"], format!("line {number}"));
    }
}

#[test]
fn lines_and_records_arrive_with_common_field_names() {
    let bulk = Bulk::start(Answer::Well);
    let shipper = es(&bulk);
    launch(&shipper);
    let piece = Frame {
        bytes: b"caf\xc3\xa9 \"\0\" \xff\r",
        ending: Ending::Split,
    };
    shipper.open().push_frame(Stream::Stderr, piece);
    assert_eq!(shipper.drain(later()).acknowledged, 1);
    let documents = bulk.documents();
    let mut line = documents[1].source.clone();
    let time = line.as_object_mut().unwrap().remove("@timestamp").unwrap();
    assert_eq!(
        time.as_str().unwrap().len(),
        "2026-11-21T22:55:24.123456789Z".len()
    );
    assert_eq!(
        line,
        json!({
            "message": "caf\u{e9} \"\0\" \u{fffd}\r",
            "log.iostream": "stderr",
            "event.sequence": 2,
            "event.dataset": "imrun.output",
            "container.id": "c0ffee",
            "container.name": "web",
            "container.image.hash.all": [format!("sha256:{}", "5".repeat(64))],
            "host.name": "node",
            "imrun.launch_id": "first",
            "imrun.partial": true,
        })
    );
    let record = &documents[0].source;
    assert_eq!(record["event.dataset"], "imrun.launch");
    assert_eq!(record["imrun.integrity"], "hashed");
    assert_eq!(documents[0].index.as_deref(), Some("logs-imrun-default"));
    let id = |index: usize| documents[index].id.clone().unwrap();
    assert!(
        id(0).starts_with("c0ffee-") && id(0).ends_with("-1"),
        "{}",
        id(0)
    );
    assert_eq!(id(0).strip_suffix('1'), id(1).strip_suffix('2'));
}

#[test]
fn path_index_parameters_and_credentials_of_the_url_are_used() {
    let bulk = Bulk::start(Answer::Well);
    let (address, password) = (bulk.address(), "p%40ss");
    let url = format!("es+http://user:{password}@{address}/insert/?index=logs&debug=1");
    launch(&start(&url, Options::default()));
    launch(&start(
        &format!("es+http://{address}/insert"),
        Options::default(),
    ));
    let indices: Vec<_> = bulk
        .documents()
        .into_iter()
        .map(|document| document.index)
        .collect();
    // The second document is also stored: another launch of the same container has other IDs.
    assert_eq!(indices, [Some("logs".to_owned()), None]);
    assert_eq!(bulk.targets().len(), 2);
    let filter = "filter_path=errors,items.*.status,items.*.error";
    for start in ["/insert/_bulk?debug=1&", "/insert/_bulk?"] {
        assert!(bulk.targets().contains(&format!("{start}{filter}")));
    }
    let basic = "Basic dXNlcjpwQHNz".to_owned();
    assert_eq!(bulk.authorizations(), [Some(basic), None].into());
}

#[test]
fn a_sink_that_is_down_refuses_the_launch_at_once() {
    let mut bulk = Bulk::start(Answer::Well);
    bulk.kill();
    for scheme in ["es+http://user:secret@", "json+tcp://"] {
        let shipper = start(&format!("{scheme}{}", bulk.address()), Options::default());
        // The default deadline would make this wait for an hour.
        let error = refusal(&shipper, Duration::from_secs(3600));
        assert_eq!(error.reason, Reason::Sink);
        let shown = format!("{error} {error:?} {shipper:?}");
        assert!(shown.contains(&bulk.address().to_string()), "{shown}");
        assert!(shown.contains("Connection refused"), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
        assert!(error.hint.unwrap().contains("--sink stdio:"));
        assert!(shipper.failure().is_some());
    }
}

#[test]
fn a_host_without_an_address_refuses_the_launch_at_once() {
    // This name never has an address (RFC 6761, section 6.4).
    for scheme in ["es+http", "json+tcp"] {
        let shipper = start(&format!("{scheme}://sink.invalid:9200"), Options::default());
        let error = refusal(&shipper, Duration::from_secs(3600));
        assert!(
            error
                .why
                .starts_with("failed to lookup address information"),
            "{error}"
        );
    }
}

#[test]
fn a_sink_that_rejects_the_record_refuses_the_launch_at_once() {
    for status in [301, 307, 400, 401, 403, 404, 405] {
        let bulk = Bulk::start(Answer::Status(status));
        let error = refusal(&es(&bulk), Duration::from_secs(3600));
        assert_eq!(error.why, format!("answered {status}"));
    }
    let bulk = Bulk::start(Answer::Item(400, "imrun: launch"));
    let error = refusal(&es(&bulk), Duration::from_secs(3600));
    assert!(error.why.contains("400 receiver: answers 400"), "{error}");
}

#[test]
fn a_sink_without_a_valid_answer_refuses_the_launch_at_the_deadline() {
    for (answer, why) in [
        (Answer::Status(503), "answered 503"),
        (Answer::Garbage, "did not answer as _bulk does"),
        (Answer::Noise, "did not answer in HTTP/1.1"),
        (Answer::Half, ""),
        (Answer::Close, ""),
        (Answer::Stall, "no answer within "),
    ] {
        let bulk = Bulk::start(answer);
        let shipper = start(&format!("es+http://{}", bulk.address()), impatient());
        let error = refusal(&shipper, Duration::from_secs(1));
        assert!(error.why.starts_with(why), "{answer:?}: {error}");
        assert_ne!(
            error.why, "no acknowledgement before the deadline",
            "{answer:?}"
        );
        assert!(shipper.failure().is_none(), "{answer:?}");
    }
}

#[test]
fn no_line_is_lost_repeated_or_reordered_when_the_server_restarts() {
    let mut bulk = Bulk::start(Answer::Well);
    let shipper = es(&bulk);
    launch(&shipper);
    push_lines(&shipper, 0..LINES / 2);
    bulk.kill();
    let before = bulk.documents().len();
    // Pushes only as many lines as fit, because nothing receives them.
    let mut next = LINES / 2;
    while shipper.open().has_room(100) && next < LINES {
        push(&shipper, &format!("line {next}"));
        next += 1;
    }
    wait_until("an attempt without a server", || {
        shipper.counters().retried > 0
    });
    assert_eq!(bulk.documents().len(), before);
    bulk.restart();
    push_lines(&shipper, next..LINES);
    let counters = shipper.drain(later());
    assert_eq!((counters.read, counters.acknowledged), (LINES, LINES));
    assert_all_arrived(&bulk, LINES);
}

#[test]
fn no_line_is_lost_repeated_or_reordered_by_temporary_errors() {
    for answer in [
        Answer::Status(429),
        Answer::Status(500),
        Answer::Status(503),
        // The sink accepted the record before, so these errors are temporary.
        Answer::Status(401),
        Answer::Status(404),
        Answer::Half,
        Answer::Garbage,
        Answer::Noise,
        Answer::Close,
        Answer::Stall,
        Answer::Item(429, "7"),
        Answer::Item(503, "line"),
    ] {
        let bulk = Bulk::start(Answer::Well);
        let shipper = start(&format!("es+http://{}", bulk.address()), impatient());
        launch(&shipper);
        bulk.answer(answer);
        push_lines(&shipper, 0..500);
        let requests = |_: &_, requests| requests > 3;
        bulk.wait("a second attempt", |documents, count| {
            requests(documents, count)
        });
        bulk.answer(Answer::Well);
        let counters = shipper.drain(later());
        assert_eq!(counters.acknowledged, 500, "{answer:?}: {counters:?}");
        assert!(counters.retried > 0, "{answer:?}");
        let mut documents = stored(&bulk);
        // Rejected events are sent later; sorts them by their sequence numbers.
        documents.sort_by_key(|document| document["event.sequence"].as_u64());
        assert!(sequences(&documents).into_iter().eq(1..=501), "{answer:?}");
        if !matches!(answer, Answer::Item(..)) {
            assert_all_arrived(&bulk, 500);
        }
    }
}

#[test]
fn rejected_lines_are_counted_and_block_nothing() {
    let bulk = Bulk::start(Answer::Well);
    let shipper = es(&bulk);
    launch(&shipper);
    bulk.answer(Answer::Item(400, "line 7"));
    push_lines(&shipper, 0..100);
    let counters = shipper.drain(later());
    assert_eq!((counters.rejected, counters.acknowledged), (11, 89));
    assert_eq!((counters.pending, counters.retried), (0, 0));
    assert_eq!(bulk.documents().len(), 1 + 89);
    let why = shipper.last_rejection().unwrap();
    assert_eq!(why, "400 receiver: answers 400 to this one");
}

#[test]
fn an_answer_without_items_and_without_errors_acknowledges_all() {
    let bulk = Bulk::start(Answer::WithoutItems);
    let shipper = es(&bulk);
    launch(&shipper);
    push_lines(&shipper, 0..100);
    assert_eq!(shipper.drain(later()).acknowledged, 100);
    assert_all_arrived(&bulk, 100);
}

#[test]
fn a_batch_that_is_too_large_is_split_and_a_line_that_is_too_large_is_dropped() {
    let bulk = Bulk::start(Answer::Well);
    let shipper = es(&bulk);
    launch(&shipper);
    bulk.answer(Answer::Status(413));
    push_lines(&shipper, 0..4);
    let counters = shipper.drain(later());
    assert_eq!(
        (counters.rejected, counters.acknowledged, counters.pending),
        (4, 0, 0)
    );
}

#[test]
fn a_stalled_sink_fills_the_buffer_and_a_notice_reports_free_space() {
    let bulk = Bulk::start(Answer::Well);
    let options = Options {
        buffer: 64 * 1024,
        ..Options::default()
    };
    let shipper = start(&format!("es+http://{}", bulk.address()), options);
    launch(&shipper);
    shipper.clear_notice().unwrap();
    assert_eq!(shipper.stalled(), None);
    bulk.answer(Answer::Stall);
    let taken = fill(&shipper);
    assert!(
        (1..64).contains(&taken),
        "{taken} lines of 1000 bytes in 64 KiB"
    );
    assert!(!shipper.open().has_room(1000));
    let first = shipper.stalled().unwrap();
    bulk.wait("a request", |_, requests| requests >= 2);
    assert!(shipper.stalled().unwrap() > first);
    bulk.answer(Answer::Well);
    wait_for_notice(&shipper);
    assert!(shipper.open().has_room(1000));
    assert_eq!(shipper.drain(later()).acknowledged, taken);
    assert_eq!(shipper.stalled(), None);
}

#[test]
fn dropped_lines_are_counted_and_leave_a_gap() {
    let bulk = Bulk::start(Answer::Well);
    let options = Options {
        buffer: 64 * 1024,
        ..Options::default()
    };
    let shipper = start(&format!("es+http://{}", bulk.address()), options);
    launch(&shipper);
    bulk.answer(Answer::Stall);
    let taken = fill(&shipper);
    for _ in 0..5 {
        shipper
            .open()
            .push_or_drop(Stream::Stderr, whole_line(&[b'x'; 1000]));
    }
    // The exit record is accepted even if the buffer is full.
    let exit = shipper.push_record("exit", json!({ "dropped": 5 }));
    assert_eq!(exit, 1 + taken + 5 + 1);
    bulk.answer(Answer::Well);
    shipper.wait_acknowledged(exit, later()).unwrap();
    let counters = shipper.counters();
    assert_eq!((counters.read, counters.dropped), (taken + 5, 5));
    assert_eq!(
        (counters.acknowledged, counters.pending_records),
        (taken, 0)
    );
    let arrived = sequences(&stored(&bulk));
    assert!(arrived.into_iter().eq((1..=1 + taken).chain([exit])));
}

#[test]
fn side_effects_are_limited_in_number_and_counted() {
    let bulk = Bulk::start(Answer::Well);
    let options = Options {
        buffer: 64 * 1024,
        ..Options::default()
    };
    let shipper = start(&format!("es+http://{}", bulk.address()), options);
    launch(&shipper);
    bulk.answer(Answer::Stall);
    let effect = || {
        shipper
            .open()
            .push_record("side-effect", &json!({ "path": "/etc/x" }))
    };
    let taken = (0..10_000).filter(|_| effect() != Pushed::Full).count() as u64;
    assert!((1..1000).contains(&taken), "{taken}");
    assert_eq!(shipper.counters().lost_records, 10_000 - taken);
    bulk.answer(Answer::Well);
    assert_eq!(shipper.drain(later()).pending_records, 0);
}

#[test]
fn an_unreachable_sink_at_exit_blocks_nothing_and_the_loss_is_counted() {
    let mut bulk = Bulk::start(Answer::Well);
    let mut lines = Lines::start();
    let sinks = [
        format!("es+http://{}", bulk.address()),
        format!("json+tcp://{}", lines.address()),
    ];
    let shippers = sinks.map(|url| start(&url, Options::default()));
    shippers.iter().for_each(launch);
    bulk.kill();
    lines.kill();
    for shipper in shippers {
        push_lines(&shipper, 0..100);
        let counters = shipper.drain(Instant::now() + Duration::from_millis(300));
        assert_eq!(
            (counters.read, counters.acknowledged, counters.pending),
            (100, 0, 100)
        );
    }
}

#[test]
fn a_stalled_sink_at_exit_blocks_nothing() {
    let bulk = Bulk::start(Answer::Well);
    let shipper = es(&bulk);
    launch(&shipper);
    bulk.answer(Answer::Stall);
    push_lines(&shipper, 0..100);
    let counters = shipper.drain(Instant::now() + Duration::from_millis(100));
    assert_eq!(counters.pending, 100);
}

fn json_lines(address: SocketAddr) -> Shipper {
    start(&format!("json+tcp://{address}"), impatient())
}

#[test]
fn lines_over_tcp_arrive_once_and_in_order() {
    let lines = Lines::start();
    let shipper = json_lines(lines.address());
    launch(&shipper);
    push_lines(&shipper, 0..LINES);
    assert_eq!(shipper.drain(later()).acknowledged, LINES);
    lines.wait("all lines", |lines| lines.len() as u64 == LINES + 1);
    assert!(sequences(&lines.lines()).into_iter().eq(1..=LINES + 1));
    assert_eq!(lines.lines()[1]["message"], "line 0");
}

#[test]
fn a_connection_that_was_closed_while_idle_loses_nothing() {
    let mut lines = Lines::start();
    let shipper = json_lines(lines.address());
    launch(&shipper);
    lines.wait("the launch record", |lines| lines.len() == 1);
    lines.kill();
    lines.restart();
    push_lines(&shipper, 0..100);
    let counters = shipper.drain(later());
    assert_eq!((counters.acknowledged, counters.retried), (100, 0));
    lines.wait("all lines", |lines| lines.len() == 101);
    assert!(sequences(&lines.lines()).into_iter().eq(1..=101));
}

#[test]
fn a_killed_tcp_receiver_loses_at_most_the_bytes_in_its_kernels_buffer() {
    let mut lines = Lines::start();
    let shipper = json_lines(lines.address());
    launch(&shipper);
    push_lines(&shipper, 0..LINES / 2);
    lines.kill();
    let taken = shipper.counters().acknowledged + 1;
    let read = lines.lines().len() as u64;
    lines.restart();
    push_lines(&shipper, LINES / 2..LINES);
    assert_eq!(shipper.drain(later()).acknowledged, LINES);
    let arrived = arrived_until(&lines, LINES + 1);
    // The first receiver read the beginning, the second one the end.
    let (first, second) = arrived.split_at(read as usize);
    assert!(first.iter().copied().eq(1..=read));
    assert!(second.iter().copied().eq(second[0]..=LINES + 1));
    let lost = second[0].saturating_sub(1 + read);
    let repeated = (1 + read).saturating_sub(second[0]);
    println!("of {LINES} lines {lost} lost, {repeated} repeated, none reordered");
    // One more batch may have been sent without being counted yet.
    assert!(lost <= (taken + 1000).saturating_sub(read), "{lost} lost");
}

#[test]
fn tcp_does_not_confirm_what_a_receiver_read_so_its_acknowledgement_is_called_transport() {
    let mut lines = Lines::start();
    let shipper = json_lines(lines.address());
    let url: imrun::logs::SinkUrl = format!("json+tcp://{}", lines.address()).parse().unwrap();
    assert_eq!(url.acknowledgement().as_str(), "transport");
    launch(&shipper);
    lines.wait("the launch record", |lines| lines.len() == 1);
    lines.stall(true);
    push_lines(&shipper, 0..100);
    assert_eq!(shipper.drain(later()).acknowledged, 100);
    lines.kill();
    lines.restart();
    push_lines(&shipper, 100..200);
    assert_eq!(shipper.drain(later()).acknowledged, 200);
    assert!(
        arrived_until(&lines, 201)
            .into_iter()
            .eq([1].into_iter().chain(102..=201))
    );
}

/// Returns the sequence numbers in the order of arrival, once the last one has arrived.
fn arrived_until(lines: &Lines, last: u64) -> Vec<u64> {
    lines.wait("the last line", |lines| {
        lines
            .last()
            .is_some_and(|line| line["event.sequence"] == last)
    });
    sequences(&lines.lines())
}

#[test]
fn a_tcp_receiver_that_reads_nothing_stalls_the_sink_and_loses_nothing() {
    let lines = Lines::start();
    let shipper = start(
        &format!("json+tcp://{}", lines.address()),
        Options::default(),
    );
    launch(&shipper);
    lines.stall(true);
    // More than the buffers of both kernels hold, so the sink must wait.
    let line = [b'x'; 60_000];
    let mut taken = 0;
    while taken < 1000 && shipper.stalled().unwrap_or_default() < Duration::from_millis(500) {
        match shipper.open().push_frame(Stream::Stdout, whole_line(&line)) {
            Pushed::Taken(_) => taken += 1,
            Pushed::Full => std::thread::yield_now(),
        }
    }
    assert!(!shipper.open().has_room(60_000));
    lines.stall(false);
    assert_eq!(shipper.drain(later()).acknowledged, taken);
    lines.wait("all lines", |lines| lines.len() as u64 > taken);
    let mut arrived = sequences(&lines.lines());
    arrived.dedup();
    assert!(arrived.into_iter().eq(1..=taken + 1));
    assert_eq!(lines.connections(), 1);
}

fn two_sinks(bulk: &Bulk, lines: &Lines, options: Options) -> Shipper {
    let urls = [
        format!("es+http://{}", bulk.address()),
        format!("json+tcp://{}", lines.address()),
    ];
    let urls = urls.map(|url| url.parse().unwrap());
    Shipper::start(&urls, &origin(), options).unwrap()
}

#[test]
fn each_of_several_sinks_gets_every_line_with_the_same_number() {
    let (bulk, lines) = (Bulk::start(Answer::Well), Lines::start());
    let shipper = two_sinks(&bulk, &lines, Options::default());
    launch(&shipper);
    push_lines(&shipper, 0..LINES);
    assert_eq!(shipper.drain(later()).acknowledged, LINES);
    assert_all_arrived(&bulk, LINES);
    assert!(
        arrived_until(&lines, LINES + 1)
            .into_iter()
            .eq(1..=LINES + 1)
    );
    assert!(
        shipper
            .each()
            .all(|(_, counters, _)| counters.acknowledged == LINES)
    );
}

#[test]
fn one_failing_sink_of_several_refuses_the_launch_and_is_named() {
    let bulk = Bulk::start(Answer::Well);
    let mut lines = Lines::start();
    lines.kill();
    let shipper = two_sinks(&bulk, &lines, Options::default());
    let error = refusal(&shipper, Duration::from_secs(3600));
    let what = format!("sink json+tcp://{}", lines.address());
    assert_eq!((error.what, &error.why[..]), (what, "Connection refused"));
}

#[test]
fn the_slowest_of_several_sinks_sets_the_pace_and_with_drop_only_it_loses_lines() {
    let (bulk, lines) = (Bulk::start(Answer::Well), Lines::start());
    let options = Options {
        buffer: 64 * 1024,
        ..Options::default()
    };
    let shipper = two_sinks(&bulk, &lines, options);
    launch(&shipper);
    bulk.answer(Answer::Stall);
    let taken = fill(&shipper);
    lines.wait("the accepted lines", |lines| {
        lines.len() as u64 == taken + 1
    });
    // The line has arrived; shortly after, the sink is acknowledged and its buffer empty.
    let deadline = later();
    while shipper.each().last().unwrap().1.acknowledged < taken {
        assert!(Instant::now() < deadline, "not acknowledged");
        std::thread::yield_now();
    }
    for _ in 0..5 {
        shipper
            .open()
            .push_or_drop(Stream::Stderr, whole_line(&[b'x'; 1000]));
    }
    bulk.answer(Answer::Well);
    let counters = shipper.drain(later());
    assert_eq!((counters.acknowledged, counters.dropped), (taken, 5));
    let of_json = shipper.each().last().unwrap().1;
    assert_eq!((of_json.acknowledged, of_json.dropped), (taken + 5, 0));
    push(&shipper, "last");
    shipper.drain(later());
    // The numbers are the same, with a gap for the dropped lines.
    let last = taken + 5 + 2;
    assert_eq!(sequences(&stored(&bulk)).last(), Some(&last));
    assert!(arrived_until(&lines, last).into_iter().eq(1..=last));
}

#[test]
fn a_token_replaced_while_the_sink_refuses_the_old_one_is_used() {
    let bulk = Bulk::start(Answer::Well);
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&token, "Bearer old\n").unwrap();
    let path = token.path().display();
    let url = format!("es+http://{}?authorization={path}", bulk.address());
    let shipper = start(&url, Options::default());
    launch(&shipper);
    bulk.answer(Answer::Status(401));
    push(&shipper, "line 0");
    wait_until("a refusal", || shipper.counters().retried > 0);
    let failure = shipper.each().next().unwrap().2;
    assert_eq!(failure.as_deref(), Some("answered 401"));
    std::fs::write(&token, "Bearer new\n").unwrap();
    bulk.answer(Answer::Well);
    assert_eq!(shipper.drain(later()).acknowledged, 1);
    let sent = |token: &str| Some(format!("Bearer {token}"));
    assert_eq!(bulk.authorizations(), [sent("old"), sent("new")].into());
    assert_eq!(shipper.each().next().unwrap().2, None);
}

#[test]
fn a_record_is_settled_when_all_of_several_sinks_have_acknowledged_it() {
    let (bulk, lines) = (Bulk::start(Answer::Well), Lines::start());
    let shipper = two_sinks(&bulk, &lines, Options::default());
    launch(&shipper);
    bulk.answer(Answer::Stall);
    let sequence = shipper.push_record("exit", json!({}));
    lines.wait("the record", |lines| lines.len() == 2);
    // The other sink has what it needs, sooner or later; this one has no answer.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!shipper.is_settled(sequence));
    bulk.answer(Answer::Well);
    shipper.drain(later());
    assert!(shipper.is_settled(sequence));
}
