use super::*;
use proptest::prelude::*;

/// A reader that returns at most these numbers of bytes.
struct Pieces<'a> {
    bytes: &'a [u8],
    sizes: std::iter::Cycle<std::slice::Iter<'a, usize>>,
}

impl Read for Pieces<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let size = (*self.sizes.next().unwrap()).clamp(1, to.len());
        self.bytes.read(&mut to[..size])
    }
}

type Owned = (Vec<u8>, Ending);

/// Returns all frames of a stream read in such pieces; each frame is refused `refusals` times.
fn frames(bytes: &[u8], sizes: &[usize], refusals: usize) -> Vec<Owned> {
    let mut from = Pieces {
        bytes,
        sizes: sizes.iter().cycle(),
    };
    let mut framer = Framer::new();
    let mut frames = Vec::new();
    loop {
        let read = framer.read_from(&mut from).unwrap();
        let mut offered = 0;
        while !framer.frames(|frame| {
            offered += 1;
            let taken = offered % (refusals + 1) == 0;
            if taken {
                frames.push((frame.bytes.to_vec(), frame.ending));
            }
            taken
        }) {}
        if read == 0 {
            return frames;
        }
    }
}

fn whole(bytes: &[u8]) -> Vec<Owned> {
    frames(bytes, &[usize::MAX], 0)
}

fn joined(frames: &[Owned]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (frame, ending) in frames {
        bytes.extend_from_slice(frame);
        bytes.extend((*ending == Ending::Newline).then_some(b'\n'));
    }
    bytes
}

/// Streams with short and empty lines, lines about as long as a frame, and any bytes.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        prop::collection::vec(Just(b'\n'), 0..10),
        "\\PC{0,40}\n".prop_map(String::into_bytes),
        (LINE_MAX - 5..LINE_MAX + 5).prop_map(|length| vec![b'x'; length]),
        (LINE_MAX / 3 - 2..LINE_MAX / 3 + 2).prop_map(|length| "\u{20ac}".repeat(length).into()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn the_frames_are_the_stream_whatever_the_sizes_of_the_reads(
        bytes in stream(),
        sizes in prop::collection::vec(1usize..100_000, 1..5),
        refusals in 0usize..3,
    ) {
        let expected = whole(&bytes);
        prop_assert_eq!(joined(&expected), &bytes[..]);
        prop_assert!(expected.iter().all(|(frame, _)| frame.len() <= LINE_MAX));
        prop_assert!(expected.iter().all(|(frame, _)| !frame.contains(&b'\n')));
        prop_assert!(frames(&bytes, &sizes, refusals) == expected);
    }

    #[test]
    fn a_split_line_of_text_is_text_in_all_its_pieces(text in "\\PC{60}", skew in "[a-z]{0,5}") {
        let line = skew + &text.repeat(1 + 3 * LINE_MAX / text.len());
        let frames = whole(line.as_bytes());
        prop_assert!(frames.len() > 2);
        prop_assert!(frames.iter().all(|(frame, _)| std::str::from_utf8(frame).is_ok()));
    }
}

#[test]
fn frames_contain_the_bytes_as_written() {
    let frames = whole(b"a\0b\r\n\xff\n\n\nlast");
    let expected: [(&[u8], Ending); 5] = [
        (b"a\0b\r", Ending::Newline),
        (b"\xff", Ending::Newline),
        (b"", Ending::Newline),
        (b"", Ending::Newline),
        (b"last", Ending::End),
    ];
    assert!(
        frames
            .iter()
            .map(|(frame, ending)| (&frame[..], *ending))
            .eq(expected)
    );
}

#[test]
fn a_line_is_split_only_when_it_is_longer_than_a_frame() {
    let line = vec![b'x'; LINE_MAX];
    assert_eq!(
        whole(&[&line[..], b"\n"].concat()),
        [(line.clone(), Ending::Newline)]
    );
    assert_eq!(whole(&line), [(line.clone(), Ending::End)]);
    let longer = whole(&[&line[..], b"x\n"].concat());
    assert_eq!(
        longer,
        [(line, Ending::Split), (b"x".to_vec(), Ending::Newline)]
    );
}

#[test]
fn a_million_empty_lines_are_a_million_frames() {
    let frames = whole(&[b'\n'; 1_000_000]);
    assert_eq!(frames.len(), 1_000_000);
}

#[test]
fn a_frame_that_is_not_taken_leaves_no_room_and_no_end_of_stream() {
    let mut framer = Framer::new();
    let mut endless = io::repeat(b'\n');
    while framer.has_room() {
        framer.read_from(&mut endless).unwrap();
    }
    assert!(!framer.frames(|_| false));
    let error = framer.read_from(&mut endless).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(framer.frames(|_| true));
    assert!(framer.has_room());
}

#[test]
fn a_stream_can_be_finished_without_reading_its_end() {
    let mut framer = Framer::new();
    framer.read_from(&mut &b"no newline"[..]).unwrap();
    assert!(framer.frames(|frame| panic!("{frame:?} came too early")));
    framer.finish();
    let mut last = Vec::new();
    assert!(framer.frames(|frame| {
        last.extend_from_slice(frame.bytes);
        true
    }));
    assert_eq!(last, b"no newline");
}
