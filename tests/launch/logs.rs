//! Every line of the app reaches the sink between two records, or is counted as lost.

use crate::host;
use crate::support::bulk::{Answer, Bulk};
use crate::support::host::Host;
use crate::support::launch::Launch;
use serde_json::Value;

fn launch<'a>(host: &'a Host, bulk: &Bulk) -> Launch<'a> {
    host.launch().sink(format!("es+http://{}", bulk.address()))
}

/// The documents of that dataset, in the order of arrival.
fn documents(bulk: &Bulk, dataset: &str) -> Vec<Value> {
    assert_eq!(bulk.refused(), [""; 0]);
    let documents = bulk.documents().into_iter().map(|document| document.source);
    documents
        .filter(|document| document["event.dataset"] == dataset)
        .collect()
}

/// The messages of the app's lines, in the order of arrival.
fn messages(bulk: &Bulk) -> Vec<String> {
    let lines = documents(bulk, "imrun.output");
    lines
        .iter()
        .map(|line| line["message"].as_str().unwrap().to_owned())
        .collect()
}

/// The counters of the exit record, which must have arrived last.
fn counters(bulk: &Bulk) -> Value {
    let last = bulk.documents().pop().unwrap().source;
    assert_eq!(last["event.dataset"], "imrun.exit");
    last["imrun.lines"].clone()
}

#[test]
fn the_app_starts_when_the_sink_has_acknowledged_the_launch_record_and_not_before() {
    let host = host!();
    let bulk = Bulk::start(Answer::Stall);
    let mut app = launch(&host, &bulk).script("echo first").spawn();
    bulk.wait("the launch record", |_, requests| requests == 1);
    app.event("verified");
    // It has had its chance: the child stands in front of execve, and does nothing.
    std::thread::sleep(std::time::Duration::from_millis(200));
    bulk.answer(Answer::Well);
    let ending = app.wait().exits(0);
    assert_eq!(ending.events.len(), 3);
    let datasets: Vec<_> = bulk
        .documents()
        .iter()
        .map(|d| d.source["event.dataset"].clone())
        .collect();
    assert_eq!(datasets, ["imrun.launch", "imrun.output", "imrun.exit"]);
    let ids: Vec<_> = bulk
        .documents()
        .iter()
        .map(|d| d.source["container.id"].clone())
        .collect();
    assert!(
        ids.iter().all(|id| *id == ending.event("started")["id"]),
        "{ids:?}"
    );
    let sequences: Vec<_> = bulk
        .documents()
        .iter()
        .map(|d| d.source["event.sequence"].clone())
        .collect();
    assert_eq!(sequences, [1, 2, 3]);
}

#[test]
fn a_sink_that_does_not_take_the_launch_record_keeps_the_app_from_starting() {
    let host = host!();
    for answer in [Answer::Status(401), Answer::Item(400, "imrun: launch")] {
        let bulk = Bulk::start(answer);
        let refused = launch(&host, &bulk).script("echo ran").run();
        refused.refused(&bulk.address().to_string()).because("sink");
        assert_eq!(messages(&bulk), [""; 0]);
    }
}

#[test]
fn the_exit_record_comes_last_and_counts_every_line() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let ending = launch(&host, &bulk)
        .script("seq 1 500; seq 1 500 >&2; exit 3")
        .run()
        .exits(3);
    let lines = counters(&bulk);
    assert_eq!(
        (&lines["read"], &lines["acknowledged"]),
        (&1000.into(), &1000.into())
    );
    for counter in ["dropped", "rejected", "pending"] {
        assert_eq!(lines[counter], 0, "{counter}");
    }
    let record = &documents(&bulk, "imrun.exit")[0];
    assert_eq!(record["imrun.code"], 3);
    assert_eq!(record["imrun.launch"], ending.event("started")["launch"]);
    assert_eq!(ending.event("exit")["lines"], lines);
    let streams = documents(&bulk, "imrun.output");
    let of = |name: &str| {
        streams
            .iter()
            .filter(|line| line["log.iostream"] == name)
            .count()
    };
    assert_eq!((of("stdout"), of("stderr")), (500, 500));
}

#[test]
fn the_last_line_needs_no_newline() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    launch(&host, &bulk)
        .script("printf 'one\\ntwo'; printf three >&2")
        .run()
        .exits(0);
    let mut messages = messages(&bulk);
    messages.sort();
    assert_eq!(messages, ["one", "three", "two"]);
}

#[test]
fn bytes_that_are_no_text_arrive_as_far_as_json_can_carry_them() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let script = "printf 'nul \\000 bad \\377\\n\\n\\r\\n\\033[31mred\\n'";
    launch(&host, &bulk).script(script).run().exits(0);
    assert_eq!(
        messages(&bulk),
        ["nul \0 bad \u{fffd}", "", "\r", "\u{1b}[31mred"]
    );
    let shown = host.launch().script(script).run().exits(0);
    assert_eq!(shown.bytes, b"nul \0 bad \xff\n\n\r\n\x1b[31mred\n");
}

#[test]
fn thirty_thousand_lines_arrive_all_of_them_in_order() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    // It ends when they have arrived: what a slow machine ships after an app's end has a deadline.
    let app = launch(&host, &bulk)
        .interactive()
        .script("seq 1 30000; read line; true");
    let app = app.spawn();
    bulk.wait("all lines", |documents, _| documents.len() == 30_001);
    app.wait().exits(0);
    let expected = (1..=30_000).map(|number: u32| number.to_string());
    assert!(messages(&bulk).into_iter().eq(expected));
    let lines = counters(&bulk);
    assert_eq!(
        (&lines["read"], &lines["acknowledged"]),
        (&30_000.into(), &30_000.into())
    );
}

#[test]
fn an_app_waits_for_a_stalled_sink_and_loses_nothing() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let mut app = launch(&host, &bulk)
        .interactive()
        .options(["--log-buffer", "64K"]);
    app = app.script("echo up; read line; seq 1 30000; echo end; read line; true");
    let mut app = app.spawn();
    bulk.wait("the app is up", |documents, _| documents.len() == 2);
    bulk.answer(Answer::Stall);
    app.say("\n");
    bulk.wait("a request that stalls", |_, requests| requests > 2);
    bulk.answer(Answer::Well);
    bulk.wait("the rest", |documents, _| documents.len() == 30_003);
    app.wait().exits(0);
    let expected = (1..=30_000).map(|number: u32| number.to_string());
    let expected = ["up".to_owned()]
        .into_iter()
        .chain(expected)
        .chain(["end".to_owned()]);
    assert!(messages(&bulk).into_iter().eq(expected));
}

#[test]
fn under_on_stall_drop_the_app_never_waits_and_what_is_lost_is_counted() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let app =
        launch(&host, &bulk)
            .interactive()
            .options(["--log-buffer", "16K", "--on-stall", "drop"]);
    // Its last word comes by exit code: a line would be dropped as well.
    let mut app = app
        .script("echo up; read line; seq 1 30000; read line; exit 9")
        .spawn();
    bulk.wait("the app is up", |documents, _| documents.len() == 2);
    bulk.answer(Answer::Stall);
    app.say("\n");
    app.say("\n");
    bulk.wait("a request that stalls", |_, requests| requests > 2);
    std::thread::sleep(std::time::Duration::from_millis(300));
    bulk.answer(Answer::Well);
    app.wait().exits(9);
    let lines = counters(&bulk);
    let count = |name: &str| lines[name].as_u64().unwrap();
    assert_eq!(count("read"), 30_001);
    assert!(count("dropped") > 0, "{lines}");
    assert_eq!(count("acknowledged") + count("dropped"), 30_001, "{lines}");
    assert_eq!(messages(&bulk).len() as u64, count("acknowledged"));
}

#[test]
fn a_line_that_the_sink_rejects_is_counted_and_told() {
    let host = host!();
    let bulk = Bulk::start(Answer::Item(400, "poison"));
    let ending = launch(&host, &bulk)
        .script("echo well; echo poison; echo well")
        .run()
        .exits(124);
    assert!(ending.err.contains("1 rejected"), "{ending:?}");
    assert_eq!(counters(&bulk)["rejected"], 1);
    assert_eq!(messages(&bulk), ["well", "well"]);
}

#[test]
fn stdio_shows_lines_where_they_belong_and_takes_no_file() {
    let host = host!();
    let shown = host
        .launch()
        .script("echo out; echo err >&2")
        .run()
        .exits(0)
        .prints("out\n");
    assert_eq!(shown.err, "err\n");
    let log = host.path("log");
    for redirection in [
        format!(">{}", log.display()),
        format!("2>>{}", log.display()),
    ] {
        let refused = host
            .launch()
            .redirections(&redirection)
            .script("echo ran")
            .run()
            .exits(125);
        assert_eq!(refused.because("policy").event("refused")["code"], 125);
        assert!(!std::fs::read_to_string(&log).unwrap().contains("ran"));
    }
    host.launch()
        .redirections(">/dev/null")
        .script("echo ran")
        .run()
        .exits(0)
        .prints("");
}

#[test]
fn the_credentials_of_the_sink_are_sent_to_it_and_shown_to_nobody() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let sink = format!("es+http://imrun:open-sesame@{}", bulk.address());
    let mut app = host
        .launch()
        .interactive()
        .sink(&sink)
        .script("read line; true")
        .spawn();
    app.event("started");
    let shown = [host.imrun(["ps"]).out, host.imrun(["ps", "--json"]).out];
    assert!(shown[1].contains("***@"), "{shown:?}");
    let ending = app.wait().exits(0);
    let authorizations = bulk
        .authorizations()
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
    assert_eq!(authorizations, ["Basic aW1ydW46b3Blbi1zZXNhbWU="]);
    let record = &documents(&bulk, "imrun.launch")[0]["imrun.record"];
    assert_eq!(
        record["sink"]["url"],
        format!("es+http://***@{}", bulk.address())
    );
    let all = format!(
        "{shown:?} {:?} {} {:?}",
        bulk.documents(),
        ending.err,
        ending.events
    );
    assert!(!all.contains("open-sesame"), "{all}");
    let refused = host
        .launch()
        .sink(sink.replace("@", "@nowhere.invalid:1/@"))
        .run()
        .exits(125);
    assert!(!refused.err.contains("open-sesame"), "{refused:?}");
}

#[test]
fn a_launch_that_came_to_nothing_ends_with_an_exit_record_that_says_why() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let sink = format!("es+http://{}", bulk.address());
    host.launch().sink(sink).app(["/none"]).run().exits(127);
    let documents = bulk.documents();
    let datasets: Vec<_> = documents
        .iter()
        .map(|document| &document.source["event.dataset"])
        .collect();
    assert_eq!(datasets, ["imrun.launch", "imrun.exit"]);
    assert_eq!(documents[1].source["imrun.code"], 127);
    let why = documents[1].source["imrun.error"].as_str().unwrap();
    assert!(why.contains("/none"), "{why}");
}

#[test]
fn several_sinks_are_in_the_record_and_each_has_its_counters_at_the_end() {
    let host = host!();
    let (bulk, other) = (Bulk::start(Answer::Well), Bulk::start(Answer::Well));
    let second = format!("es+http://{}", other.address());
    let outcome = launch(&host, &bulk)
        .options(["--sink", &second])
        .script("seq 100")
        .run()
        .exits(0);
    assert_eq!(messages(&bulk), messages(&other));
    assert_eq!(messages(&bulk).len(), 100);
    let record = &documents(&bulk, "imrun.launch")[0]["imrun.record"];
    assert_eq!(record["sinks"][1]["url"], second);
    let exit = &documents(&other, "imrun.exit")[0];
    for sink in exit["imrun.sinks"].as_array().unwrap() {
        assert_eq!(sink["lines"]["acknowledged"], 100, "{sink}");
    }
    let event = outcome.event("exit");
    assert_eq!(event["sinks"], exit["imrun.sinks"]);
    let twice = launch(&host, &bulk).options(["--sink", &format!("es+http://{}", bulk.address())]);
    twice.run().refused("is given twice").because("usage");
}

#[test]
fn ps_shows_what_became_of_the_lines_so_far() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let mut app = launch(&host, &bulk).script("seq 100; sleep 60").spawn();
    let id = app.event("started")["id"].as_str().unwrap().to_owned();
    let shown = || {
        let listed = host.imrun(["ps", "--json"]).exits(0);
        let running: Value = serde_json::from_str(&listed.out).unwrap();
        running[0]["sinks"][0]["lines"]["acknowledged"].clone()
    };
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    while shown() != 100 {
        assert!(std::time::Instant::now() < deadline, "{}", shown());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    host.imrun(["stop", "-t", "0s", &id]).exits(0);
    app.wait().exits(137);
}

#[test]
fn a_sink_that_refuses_is_named_while_it_does_and_at_the_end() {
    let host = host!();
    let bulk = Bulk::start(Answer::Well);
    let script = "while :; do echo line; sleep 0.1; done";
    let mut app = launch(&host, &bulk).script(script).spawn();
    let id = app.event("started")["id"].as_str().unwrap().to_owned();
    bulk.answer(Answer::Status(401));
    let shown = || {
        let listed = host.imrun(["ps", "--json"]).exits(0);
        let running: Value = serde_json::from_str(&listed.out).unwrap();
        running[0]["sinks"][0]["failure"].clone()
    };
    let deadline = std::time::Instant::now() + crate::support::server::PATIENCE;
    while shown() != "answered 401" {
        assert!(std::time::Instant::now() < deadline, "{}", shown());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    host.imrun(["stop", "-t", "0s", &id]).exits(0);
    let ending = app.wait().exits(137);
    assert_eq!(ending.err.matches("answered 401").count(), 2, "{ending:?}");
    assert_eq!(ending.event("exit")["sinks"][0]["failure"], "answered 401");
}
