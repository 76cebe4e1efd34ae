//! WebSocket frames as RFC 6455 has them: from bytes to events, and back.
//!
//! The decoder is fed whatever arrived. It copies payloads into the message that they belong to, and has
//! no buffer of its own: between messages it takes no memory but itself, which is what lets very many
//! connections sleep. It trusts no length: a message grows as its bytes arrive, up to the limit.

use super::{CloseReason, Message, WebSocketError};

/// The largest message that a peer may send.
pub(super) const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Payloads of pings, pongs and close frames are this short.
const CONTROL_BYTES_MAX: u64 = 125;
/// What is set aside for a message before its bytes are there.
const RESERVED_BYTES_MAX: u64 = 64 << 10;
/// Flags, length, longer length, mask.
const HEADER_BYTES_MAX: usize = 2 + 8 + 4;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What a peer said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Message(Message),
    Ping(Vec<u8>),
    Pong,
    Close(CloseReason),
}

/// A frame whose payload is being read.
#[derive(Debug)]
struct Frame {
    opcode: u8,
    is_final: bool,
    left: u64,
    mask: [u8; 4],
    /// How many bytes of the payload were unmasked.
    unmasked: usize,
}

/// Reads one side of a connection.
#[derive(Debug)]
pub(super) struct Decoder {
    /// Clients mask what they send; ends within the process do not.
    is_masked: bool,
    header: [u8; HEADER_BYTES_MAX],
    header_bytes: usize,
    frame: Option<Frame>,
    /// The opcode and the bytes so far of a message.
    message: Option<(u8, Vec<u8>)>,
    /// The payload of a control frame, which may come between a message's frames.
    control: Vec<u8>,
}

impl Decoder {
    pub(super) fn new(is_masked: bool) -> Self {
        Decoder {
            is_masked,
            header: [0; HEADER_BYTES_MAX],
            header_bytes: 0,
            frame: None,
            message: None,
            control: Vec::new(),
        }
    }

    /// Takes bytes from `input` until there is an event, or no byte is left. After an error the
    /// connection cannot be read any further.
    pub(super) fn feed(&mut self, input: &mut &[u8]) -> Result<Option<Event>, WebSocketError> {
        loop {
            if self.frame.is_none() {
                if !self.read_header(input) {
                    return Ok(None);
                }
                self.begin_frame()?;
            }
            let frame = self.frame.as_mut().expect("it was begun");
            let taken = frame.left.min(input.len() as u64) as usize;
            let (payload, rest) = input.split_at(taken);
            *input = rest;
            let into = match (&mut self.message, frame.opcode < CLOSE) {
                (Some((_, bytes)), true) => bytes,
                _ => &mut self.control,
            };
            let (mask, unmasked) = (frame.mask, frame.unmasked);
            let clear = payload.iter().enumerate();
            into.extend(clear.map(|(at, byte)| byte ^ mask[(unmasked + at) % 4]));
            frame.unmasked += taken;
            frame.left -= taken as u64;
            if frame.left > 0 {
                return Ok(None);
            }
            let frame = self.frame.take().expect("it was begun");
            if let Some(event) = self.end_frame(&frame)? {
                return Ok(Some(event));
            }
        }
    }

    /// Whether the header is complete.
    fn read_header(&mut self, input: &mut &[u8]) -> bool {
        loop {
            let needed = self.header_needed();
            if self.header_bytes == needed {
                return true;
            }
            let taken = (needed - self.header_bytes).min(input.len());
            if taken == 0 {
                return false;
            }
            let (bytes, rest) = input.split_at(taken);
            *input = rest;
            self.header[self.header_bytes..][..taken].copy_from_slice(bytes);
            self.header_bytes += taken;
        }
    }

    fn header_needed(&self) -> usize {
        if self.header_bytes < 2 {
            return 2;
        }
        let mask = if self.header[1] & 0x80 == 0 { 0 } else { 4 };
        2 + mask
            + match self.header[1] & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            }
    }

    /// Checks the header, which is complete.
    fn begin_frame(&mut self) -> Result<(), WebSocketError> {
        let wrong = |what| Err(WebSocketError::Protocol(what));
        let header = &self.header[..std::mem::take(&mut self.header_bytes)];
        let (is_final, opcode) = (header[0] & 0x80 != 0, header[0] & 0x0f);
        if header[0] & 0x70 != 0 {
            return wrong("reserved bits are set, and no extension was agreed upon");
        }
        if (header[1] & 0x80 != 0) != self.is_masked {
            return wrong("a client masks its frames, and nobody else does");
        }
        let (left, rest) = match header[1] & 0x7f {
            126 => (u64::from(u16::from_be_bytes([header[2], header[3]])), 4),
            127 => {
                let bytes = header[2..10].try_into().expect("eight bytes");
                (u64::from_be_bytes(bytes), 10)
            }
            short => (u64::from(short), 2),
        };
        match (opcode, &self.message) {
            (CLOSE | PING | PONG, _) if !is_final => return wrong("a control frame is cut"),
            (CLOSE | PING | PONG, _) if left > CONTROL_BYTES_MAX => {
                return wrong("a control frame has more than 125 bytes");
            }
            (CLOSE | PING | PONG, _) => {}
            (CONTINUATION, None) => return wrong("there is nothing to continue"),
            (TEXT | BINARY, Some(_)) => return wrong("the message before is not complete"),
            (CONTINUATION | TEXT | BINARY, message) => {
                let before = message.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64);
                if left > MESSAGE_BYTES_MAX as u64 - before {
                    let limit = MESSAGE_BYTES_MAX;
                    return Err(WebSocketError::TooLong { limit });
                }
                let (_, bytes) = self.message.get_or_insert((opcode, Vec::new()));
                bytes.reserve(left.min(RESERVED_BYTES_MAX) as usize);
            }
            _ => return wrong("an opcode is unknown"),
        }
        let mask = match self.is_masked {
            true => header[rest..].try_into().expect("four bytes"),
            false => [0; 4],
        };
        self.frame = Some(Frame {
            opcode,
            is_final,
            left,
            mask,
            unmasked: 0,
        });
        Ok(())
    }

    fn end_frame(&mut self, frame: &Frame) -> Result<Option<Event>, WebSocketError> {
        match frame.opcode {
            PING => return Ok(Some(Event::Ping(std::mem::take(&mut self.control)))),
            PONG => {
                self.control = Vec::new();
                return Ok(Some(Event::Pong));
            }
            CLOSE => return close_reason(&std::mem::take(&mut self.control)).map(Some),
            _ if !frame.is_final => return Ok(None),
            _ => {}
        }
        let (opcode, bytes) = self.message.take().expect("its first frame made it");
        let message = match opcode {
            TEXT => Message::Text(String::from_utf8(bytes).map_err(|_| WebSocketError::NotUtf8)?),
            _ => Message::Binary(bytes),
        };
        Ok(Some(Event::Message(message)))
    }
}

fn close_reason(payload: &[u8]) -> Result<Event, WebSocketError> {
    let (code, reason) = match payload {
        [] => (super::NO_CODE, ""),
        [_] => return Err(WebSocketError::Protocol("a close frame has half a code")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(WebSocketError::Protocol("a close code is not to be sent"));
            }
            let reason = str::from_utf8(reason).map_err(|_| WebSocketError::NotUtf8)?;
            (code, reason)
        }
    };
    Ok(Event::Close(CloseReason {
        code,
        reason: reason.to_owned(),
        was_clean: true,
    }))
}

/// Appends a message as one frame.
pub(super) fn encode_message(out: &mut Vec<u8>, message: &Message) {
    match message {
        Message::Text(text) => encode(out, TEXT, text.as_bytes()),
        Message::Binary(bytes) => encode(out, BINARY, bytes),
    }
}

pub(super) fn encode_ping(out: &mut Vec<u8>) {
    encode(out, PING, b"");
}

pub(super) fn encode_pong(out: &mut Vec<u8>, payload: &[u8]) {
    encode(out, PONG, payload);
}

/// Appends a close frame; without a code it is empty.
pub(super) fn encode_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend(code.to_be_bytes());
        payload.extend(reason.as_bytes());
    }
    encode(out, CLOSE, &payload);
}

fn encode(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..126 => out.push(short as u8),
        middle @ 126..0x1_0000 => {
            out.push(126);
            out.extend((middle as u16).to_be_bytes());
        }
        long => {
            out.push(127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a client sends it.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode(&mut bytes, first & 0x0f, payload);
        bytes[0] = first;
        bytes[1] |= 0x80;
        let header = bytes.len() - payload.len();
        let mask = [0x11, 0x22, 0x44, 0x88];
        for (at, byte) in bytes[header..].iter_mut().enumerate() {
            *byte ^= mask[at % 4];
        }
        bytes.splice(header..header, mask);
        bytes
    }

    /// All events, with the bytes arriving in pieces of this size.
    fn decode(bytes: &[u8], piece: usize) -> Result<Vec<Event>, WebSocketError> {
        let (mut decoder, mut events) = (Decoder::new(true), Vec::new());
        for mut piece in bytes.chunks(piece) {
            while let Some(event) = decoder.feed(&mut piece)? {
                events.push(event);
            }
        }
        Ok(events)
    }

    #[test]
    fn messages_arrive_however_they_are_cut() {
        let long = "ä".repeat(40_000);
        let bytes = [
            masked(0x81, b"hello"),
            masked(0x01, &long.as_bytes()[..1]),
            masked(0x89, b"are you there?"),
            masked(0x00, &long.as_bytes()[1..70_000]),
            masked(0x80, &long.as_bytes()[70_000..]),
            masked(0x82, &[7; 300]),
            masked(0x81, b""),
            masked(0x8a, b""),
            masked(0x88, &[0x0f, 0xa0, b'b', b'y', b'e']),
        ]
        .concat();
        let reason = "bye".to_owned();
        let expected = [
            Event::Message("hello".into()),
            Event::Ping(b"are you there?".to_vec()),
            Event::Message(long.into()),
            Event::Message(vec![7; 300].into()),
            Event::Message("".into()),
            Event::Pong,
            Event::Close(CloseReason {
                code: 4000,
                reason,
                was_clean: true,
            }),
        ];
        for piece in [1, 2, 3, 5, 1000, bytes.len()] {
            assert_eq!(
                decode(&bytes, piece).unwrap(),
                expected,
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn what_breaks_the_protocol_is_refused_with_its_code() {
        let too_long = [
            &[0x82, 0xff][..],
            &(32_u64 << 20 | 1).to_be_bytes(),
            &[0; 4],
        ]
        .concat();
        let endless = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[0; 4]].concat();
        let grown = [
            masked(0x02, &vec![0; 16 << 20]),
            masked(0x00, &vec![0; 16 << 20]),
            masked(0x80, &[0]),
        ];
        let cases: [(&str, u16, Vec<u8>); 15] = [
            ("unmasked", 1002, vec![0x81, 0]),
            ("reserved bit", 1002, masked(0xc1, b"x")),
            ("unknown opcode", 1002, masked(0x83, b"x")),
            ("unknown control opcode", 1002, masked(0x8b, b"x")),
            ("cut ping", 1002, masked(0x09, b"x")),
            ("long ping", 1002, masked(0x89, &[0; 126])),
            ("nothing to continue", 1002, masked(0x80, b"x")),
            (
                "two messages",
                1002,
                [masked(0x01, b"x"), masked(0x81, b"x")].concat(),
            ),
            ("half a code", 1002, masked(0x88, &[3])),
            ("forbidden code", 1002, masked(0x88, &[0x03, 0xed])),
            ("text", 1007, masked(0x81, &[0xff])),
            ("reason", 1007, masked(0x88, &[0x03, 0xe8, 0xff])),
            ("long", 1009, too_long),
            ("endless", 1009, endless),
            ("grown", 1009, grown.concat()),
        ];
        for (what, code, bytes) in cases {
            let error = decode(&bytes, 4096).unwrap_err();
            assert_eq!(error.code(), code, "{what}: {error}");
        }
    }

    #[test]
    fn any_bytes_are_events_or_an_error_and_take_no_more_memory_than_they_are() {
        let mut rng = fastrand::Rng::with_seed(13);
        let good = [
            masked(0x01, b"begin"),
            masked(0x89, b"?"),
            masked(0x80, b"end"),
        ]
        .concat();
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            let mut decoder = Decoder::new(true);
            let mut input = &bytes[..];
            while let Ok(Some(_)) = decoder.feed(&mut input) {}
            let held = decoder.message.map_or(0, |(_, message)| message.capacity());
            assert!(held <= RESERVED_BYTES_MAX as usize + bytes.len());
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        let messages: [Message; 3] = ["x".into(), vec![1; 70_000].into(), vec![2; 200].into()];
        messages
            .iter()
            .for_each(|message| encode_message(&mut bytes, message));
        encode_close(&mut bytes, None, "");
        let mut decoder = Decoder::new(false);
        let mut input = &bytes[..];
        for message in messages {
            let event = decoder.feed(&mut input).unwrap();
            assert_eq!(event, Some(Event::Message(message)));
        }
        let Some(Event::Close(reason)) = decoder.feed(&mut input).unwrap() else {
            panic!("a close frame")
        };
        assert_eq!((reason.code, input.len()), (1005, 0));
    }
}
