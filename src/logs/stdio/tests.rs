use super::*;
use crate::base::error::Reason;
use std::io::Read as _;
use std::os::unix::net::UnixStream;

fn null() -> OwnedFd {
    File::options()
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into()
}

fn lines(lines: &[(Stream, &[u8], bool)]) -> Batch {
    let mut batch = Batch::default();
    batch.push_record(0, 1, "launch", serde_json::json!({}));
    for (number, (stream, bytes, partial)) in (2..).zip(lines) {
        batch.push_line(0, number, *stream, bytes, *partial);
    }
    batch
}

#[test]
fn lines_come_out_on_their_own_streams_as_they_were_and_records_do_not() {
    let (mut stdout, to_stdout) = std::io::pipe().unwrap();
    let (mut stderr, to_stderr) = std::io::pipe().unwrap();
    let mut sink = Stdio::new(to_stdout.into(), to_stderr.into()).unwrap();
    let batch = lines(&[
        (Stream::Stdout, b"one \xff\0", false),
        (Stream::Stderr, b"warning\r", false),
        (Stream::Stdout, b"tw", true),
        (Stream::Stdout, b"o", false),
        (Stream::Stdout, b"", false),
    ]);
    sink.send(&batch).unwrap();
    assert_eq!(
        sink.settle(&batch, None).unwrap(),
        Some(Delivery::default())
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
        .send(&lines(&[(Stream::Stdout, b"x", false)]))
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
        sink.send(&lines(&[(Stream::Stdout, &text, false)]))
            .unwrap();
    });
    let mut read = Vec::new();
    reader.read_to_end(&mut read).unwrap();
    writing.join().unwrap();
    assert_eq!(read.len(), expected);
}

#[test]
fn a_stream_that_has_ended_is_closed_behind_its_last_bytes() {
    let (mut stdout, to_stdout) = std::io::pipe().unwrap();
    let (mut stderr, to_stderr) = std::io::pipe().unwrap();
    let mut sink = Stdio::new(to_stdout.into(), to_stderr.into()).unwrap();
    let mut batch = lines(&[(Stream::Stdout, b"unfinished", true)]);
    batch.push_record(0, 3, STREAM_END, serde_json::json!({ "stream": "stdout" }));
    batch.push_line(0, 4, Stream::Stderr, b"more", false);
    sink.send(&batch).unwrap();
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "unfinished");
    drop(sink);
    text.clear();
    stderr.read_to_string(&mut text).unwrap();
    assert_eq!(text, "more\n");
}
