use super::*;
use crate::error::Reason;
use std::io::Read as _;
use std::os::unix::net::UnixStream;

fn null() -> OwnedFd {
    File::options()
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into()
}

fn line(stream: Stream, bytes: &[u8], partial: bool) -> Event {
    let bytes = bytes.into();
    Event {
        time: 0,
        sequence: 1,
        body: Body::Line {
            stream,
            bytes,
            partial,
        },
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

#[test]
fn lines_come_out_on_their_own_streams_as_they_were_and_records_do_not() {
    let (mut stdout, to_stdout) = std::io::pipe().unwrap();
    let (mut stderr, to_stderr) = std::io::pipe().unwrap();
    let mut sink = Stdio::new(to_stdout.into(), to_stderr.into()).unwrap();
    let record = Body::Record {
        kind: "launch",
        fields: serde_json::json!({}),
    };
    let batch = [
        Event {
            time: 0,
            sequence: 1,
            body: record,
        },
        line(Stream::Stdout, b"one \xff\0", false),
        line(Stream::Stderr, b"warning\r", false),
        line(Stream::Stdout, b"tw", true),
        line(Stream::Stdout, b"o", false),
        line(Stream::Stdout, b"", false),
    ];
    assert_eq!(
        sink.deliver(&origin(), &batch).unwrap(),
        Delivery::default()
    );
    drop(sink);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    stdout.read_to_end(&mut out).unwrap();
    stderr.read_to_end(&mut err).unwrap();
    assert_eq!(out, b"one \xff\0\ntwo\n\n");
    assert_eq!(err, b"warning\r\n");
}

#[test]
fn a_regular_file_and_a_socket_are_refused_by_name() {
    let file = tempfile::tempfile().unwrap();
    let error = Stdio::new(file.into(), null()).err().unwrap();
    assert_eq!(error.reason, Reason::Policy);
    assert!(error.why.starts_with("stdout is a regular file"), "{error}");
    let (socket, _peer) = UnixStream::pair().unwrap();
    let error = Stdio::new(null(), socket.into()).err().unwrap();
    assert!(error.why.starts_with("stderr is a socket"), "{error}");
}

#[test]
fn a_reader_that_is_gone_breaks_the_sink() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut sink = Stdio::new(writer.into(), null()).unwrap();
    drop(reader);
    let failure = sink
        .deliver(&origin(), &[line(Stream::Stdout, b"x", false)])
        .unwrap_err();
    assert_eq!(failure.kind, FailureKind::Broken);
    assert_eq!(failure.why, "write to stdout: Broken pipe");
}

#[test]
fn a_full_pipe_that_does_not_block_is_waited_for() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
    nix::fcntl::fcntl(&writer, flags).unwrap();
    let mut sink = Stdio::new(writer.into(), null()).unwrap();
    let text = vec![b'x'; 1 << 20];
    let expected = text.len() + 1;
    let writing = std::thread::spawn(move || {
        let batch = [line(Stream::Stdout, &text, false)];
        sink.deliver(&origin(), &batch).unwrap();
    });
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    writing.join().unwrap();
    assert_eq!(read.len(), expected);
}
