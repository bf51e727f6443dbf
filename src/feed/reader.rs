//! Server-Sent Events, read as they come (HTML Living Standard, section 9.2.6). What nobody here needs of them is left out.

use super::event::EVENT_MAX;

/// A block of a stream: all lines up to an empty one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    /// Its id, where it has one. Empty: there is none any more.
    pub(super) id: Option<String>,
    /// Its data; `None` where it has none, and is no event.
    pub(super) data: Option<Vec<u8>>,
    /// Whether it was too long, so that data is missing.
    pub(super) cut: bool,
    /// Whether it has a comment.
    pub(super) comment: bool,
}

impl Block {
    /// Whether it is a comment and nothing else: a sign of life.
    pub(super) fn is_sign(&self) -> bool {
        *self == Self { comment: true, ..Self::default() }
    }
}

/// The longest line that is read: an event, and the name of its field.
const LINE_MAX: usize = EVENT_MAX + 16;
/// The longest id, in bytes: it becomes a field of a request.
const ID_MAX: usize = 256;

/// Reads blocks out of pieces of any size. Holds one event at the most.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    block: Block,
    /// Whether the last byte was a CR, so that an LF is part of the same end of line.
    after_cr: bool,
}

impl Reader {
    /// Reads a piece, and the blocks that end in it.
    pub(super) fn read(&mut self, piece: &[u8]) -> Vec<Block> {
        let mut blocks = Vec::new();
        for byte in piece {
            let after_cr = std::mem::replace(&mut self.after_cr, *byte == b'\r');
            match byte {
                b'\n' if after_cr => {}
                b'\r' | b'\n' => blocks.extend(self.end_line()),
                _ if self.line.len() < LINE_MAX => self.line.push(*byte),
                _ => self.block.cut = true,
            }
        }
        blocks
    }

    fn end_line(&mut self) -> Option<Block> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Some(std::mem::take(&mut self.block)).filter(|block| *block != Block::default());
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"" => self.block.comment = true,
            b"data" => self.add_data(value),
            b"id" => self.set_id(value),
            _ => {}
        }
        None
    }

    fn add_data(&mut self, value: &[u8]) {
        let data = self.block.data.get_or_insert_default();
        if data.len() + value.len() >= EVENT_MAX {
            self.block.cut = true;
            return;
        }
        if !data.is_empty() {
            data.push(b'\n');
        }
        data.extend_from_slice(value);
    }

    /// An id that no request can say is none.
    fn set_id(&mut self, value: &[u8]) {
        let says = value.len() <= ID_MAX && value.iter().all(u8::is_ascii_graphic);
        self.block.id = str::from_utf8(value).ok().filter(|_| says).map(str::to_owned);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(id: Option<&str>, data: Option<&str>) -> Block {
        let data = data.map(|data| data.as_bytes().to_vec());
        Block { id: id.map(str::to_owned), data, ..Block::default() }
    }

    const STREAM: &str = "retry: 1000\nid: 0\n\nid: 1\r\nevent: user.created\r\ndata: {\"a\":1}\r\n\r\n: here\r\r\
                          data:one\ndata: two\n\ndata\n\nid: \u{e4}\ndata: x\n\ndata: unfinished\n";

    fn blocks() -> Vec<Block> {
        vec![
            block(Some("0"), None),
            block(Some("1"), Some("{\"a\":1}")),
            Block { comment: true, ..Block::default() },
            block(None, Some("one\ntwo")),
            block(None, Some("")),
            block(None, Some("x")),
        ]
    }

    #[test]
    fn blocks_are_read_whatever_ends_their_lines() {
        assert_eq!(Reader::default().read(STREAM.as_bytes()), blocks());
    }

    #[test]
    fn a_comment_is_a_sign_where_it_stands_alone() {
        let rows =
            [(":\n\n", true), (": here\n\n", true), (": here\nid: 1\n\n", false), (":\ndata: x\n\n", false)];
        for (text, wanted) in rows {
            let blocks = Reader::default().read(text.as_bytes());
            assert_eq!((blocks.len(), blocks[0].is_sign()), (1, wanted), "{text:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_does_not_stay() {
        let mut reader = Reader::default();
        let long = format!("data: {}\n\ndata: next\n\n", "x".repeat(3 * EVENT_MAX));
        let read: Vec<Block> = long.as_bytes().chunks(1000).flat_map(|piece| reader.read(piece)).collect();
        assert!(read[0].cut && read[1] == block(None, Some("next")));
        let many = "data: y\n".repeat(EVENT_MAX) + "\n";
        let read = reader.read(many.as_bytes());
        assert!(read[0].cut && read[0].data.as_ref().is_some_and(|data| data.len() < EVENT_MAX));
    }

    proptest! {
        #[test]
        fn pieces_may_be_of_any_size(size in 1..40_usize) {
            let mut reader = Reader::default();
            let read: Vec<Block> = STREAM.as_bytes().chunks(size).flat_map(|piece| reader.read(piece)).collect();
            prop_assert_eq!(read, blocks());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reader::default().read(&bytes);
        }
    }
}
