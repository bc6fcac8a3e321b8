//! The app does not run before the sink has acknowledged the launch record. The tests detect a running app by a
//! connection that it would make, because a refusing sink would not show its output.

use crate::host;
use crate::support::bulk::{Answer, Bulk};
use crate::support::host::Host;
use crate::support::launch::Launch;
use crate::support::outcome::Outcome;
use std::io::ErrorKind;
use std::net::TcpListener;

/// Listener to which a running app with the host's network connects.
struct Beside(TcpListener);

impl Beside {
    fn new() -> Beside {
        Beside(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// Returns a launch whose app only connects.
    fn launch<'a>(&self, host: &'a Host, sink: &str) -> Launch<'a> {
        let port = self.0.local_addr().unwrap().port();
        let launch = host.launch().options(["--net", "host"]).sink(sink);
        launch.script(&format!("nc -w 1 127.0.0.1 {port} </dev/null; true"))
    }

    /// Returns the number of connections so far, which the kernel queues.
    fn connections(&self) -> usize {
        self.0.set_nonblocking(true).unwrap();
        let accept = || match self.0.accept() {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        };
        std::iter::from_fn(|| accept().then_some(())).count()
    }

    /// Checks after imrun's end that nothing of the image ran or was reported as started.
    fn saw_nothing(&self, outcome: Outcome) {
        let outcome = outcome.exits(125);
        let started = |event: &serde_json::Value| event["event"] == "started";
        assert!(!outcome.events.iter().any(started), "{outcome:?}");
        assert_eq!(outcome.event("refused")["code"], 125);
        assert_eq!(self.connections(), 0, "the app ran: {outcome:?}");
    }
}

#[test]
fn an_app_with_net_host_is_detected_by_its_connection() {
    let (host, beside) = (host!(), Beside::new());
    let bulk = Bulk::start(Answer::Well);
    let mut app = beside
        .launch(&host, &format!("es+http://{}", bulk.address()))
        .spawn();
    app.event("started");
    let (connection, _) = beside.0.accept().unwrap();
    drop(connection);
    app.wait().exits(0);
}

#[test]
fn the_app_does_not_run_while_no_sink_answers() {
    let host = host!();
    // Sinks that accept connections but never read.
    let sink = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = sink.local_addr().unwrap();
    // Sinks with acknowledgements; all launches wait in parallel.
    let launches = ["es+http", "otlp+http", "forward+tcp"].map(|protocol| {
        let beside = Beside::new();
        let running = beside
            .launch(&host, &format!("{protocol}://{address}"))
            .spawn();
        (beside, running)
    });
    for (beside, running) in launches {
        beside.saw_nothing(running.wait());
    }
}

#[test]
fn the_app_does_not_run_if_the_sink_answers_with_an_error() {
    let host = host!();
    let answers = [
        Answer::Status(401),
        Answer::Status(403),
        Answer::Item(400, "imrun: launch"),
    ];
    for answer in answers {
        let (bulk, beside) = (Bulk::start(answer), Beside::new());
        let sink = format!("es+http://{}", bulk.address());
        beside.saw_nothing(beside.launch(&host, &sink).run());
    }
}

#[test]
fn the_app_does_not_run_if_one_of_two_sinks_refuses() {
    let (host, beside) = (host!(), Beside::new());
    let (good, bad) = (Bulk::start(Answer::Well), Bulk::start(Answer::Status(401)));
    let [first, second] = [good, bad].map(|bulk| (format!("es+http://{}", bulk.address()), bulk));
    for (one, other) in [(&first, &second), (&second, &first)] {
        let launch = beside.launch(&host, &one.0);
        beside.saw_nothing(launch.options(["--sink", &other.0]).run());
    }
}
