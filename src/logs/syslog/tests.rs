use super::*;
use proptest::prelude::*;
use serde_json::json;

fn origin() -> Origin {
    Origin {
        container_id: "c0ffee".into(),
        container_name: Some("we\"b]".into()),
        image_digest: "sha256:d".into(),
        host_name: "my host".into(),
        launch_id: "sha256:l".into(),
    }
}

fn messages(body: Body<'_>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let event = Event {
        time: 1_709_251_199_123_456_789,
        sequence: 2_147_483_648,
        body,
    };
    Syslog::new(&origin(), Some(16)).messages(&event, |message| messages.push(message.to_vec()));
    messages
}

fn line(bytes: &[u8], partial: bool) -> Body<'_> {
    Body::Line {
        stream: Stream::Stderr,
        bytes,
        partial,
    }
}

/// Returns the text before the message proper.
fn head(partial: &str) -> String {
    let data = r#"container="c0ffee" name="we\"b\]" image="sha256:d" launch="sha256:l""#;
    format!(
        "<131>1 2024-02-29T23:59:59.123456Z my_host we\"b] c0ffee stderr \
         [meta sequenceId=\"1\"][imrun@32473 sequence=\"2147483648\" {data}{partial}] "
    )
}

#[test]
fn a_line_is_a_message_of_rfc_5424() {
    let expected = head("").into_bytes();
    assert_eq!(
        messages(line(b"caf\xe9 \0\r", false)),
        [[&expected[..], b"caf\xe9 \0\r"].concat()]
    );
    assert_eq!(messages(line(b"", false)), [expected]);
    let partial = head(r#" partial="true""#).into_bytes();
    assert_eq!(messages(line(b"x", true)), [[&partial[..], b"x"].concat()]);
}

#[test]
fn a_record_is_a_notice_with_its_fields() {
    let fields = json!({ "code": 0 });
    let messages = messages(Body::Record {
        kind: "exit",
        fields: &fields,
    });
    let text = String::from_utf8(messages.concat()).unwrap();
    assert!(text.starts_with("<133>1 "), "{text}");
    assert!(text.contains(" c0ffee exit [meta "), "{text}");
    assert!(text.ends_with(r#"] imrun: exit {"code":0}"#), "{text}");
}

#[test]
fn each_message_of_a_stream_has_its_length_in_front_of_it() {
    let mut stream = Vec::new();
    let event = |bytes| Event {
        time: 0,
        sequence: 1,
        body: line(bytes, false),
    };
    let mut syslog = Syslog::new(&origin(), None);
    syslog.encode(&mut stream, &event(b"one\ntwo"));
    let (length, rest) = stream.split_at(stream.iter().position(|byte| *byte == b' ').unwrap());
    let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap();
    assert_eq!(length, rest.len() - 1);
}

#[test]
fn facilities_have_their_numbers() {
    assert_eq!(facility("kern"), Some(0));
    assert_eq!(facility("daemon"), Some(DAEMON));
    assert_eq!(facility("local7"), Some(23));
    assert_eq!(facility("local8"), None);
    assert_eq!(facility_name(23), "local7");
}

proptest! {
    #[test]
    fn a_long_line_comes_in_pieces_that_are_text_where_it_is(text in "\\PC{1,60}", times in 1usize..2000) {
        let long = text.repeat(times);
        let messages = messages(line(long.as_bytes(), false));
        let (first, last) = (head(r#" partial="true""#), head(""));
        let mut joined = String::new();
        for (index, message) in messages.iter().enumerate() {
            prop_assert!(message.len() <= MESSAGE_MAX);
            let head = if index + 1 < messages.len() { &first } else { &last };
            let message = std::str::from_utf8(message).unwrap();
            joined += message.strip_prefix(&head[..]).unwrap();
        }
        prop_assert_eq!(joined, long);
    }
}

#[test]
fn datagrams_to_a_host_without_a_listener_are_refused() {
    let address = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut sink = Datagrams::new(&address.to_string(), Syslog::new(&origin(), None));
    let mut batch = Batch::default();
    batch.push_line(0, 1, Stream::Stdout, b"x", false);
    let failure = sink.send(&batch).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Refused);
}

#[test]
fn each_line_is_a_datagram() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let mut sink = Datagrams::new(&address, Syslog::new(&origin(), None));
    let mut batch = Batch::default();
    batch.push_line(0, 1, Stream::Stdout, b"one", false);
    batch.push_line(0, 2, Stream::Stdout, b"two", false);
    sink.send(&batch).unwrap();
    assert_eq!(
        sink.settle(&batch, None).unwrap(),
        Some(Delivery::default())
    );
    let mut message = [0; MESSAGE_MAX];
    for text in [b"] one", b"] two"] {
        let length = socket.recv(&mut message).unwrap();
        assert!(message[..length].ends_with(text));
    }
}
