//! Protobuf's wire format, as far as finding fields in it goes: a message is a row of tags, each with a value behind it.

use std::ops::Range;

use super::{COMMON_MAGIC, NotUnderstood};

/// Fields with higher numbers are never looked for.
pub(crate) const HIGHEST: usize = 12;
/// A number of 64 bits in groups of 7.
const LONGEST_NUMBER: usize = 10;

/// A number, and where its bytes begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number {
    pub(crate) value: u64,
    pub(crate) at: usize,
}

/// The places of an image's messages. An image is two magic numbers, then entries: a length in the machine's byte order, and a
/// message.
pub(crate) struct Rows<'a> {
    image: &'a [u8],
    at: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn of(image: &'a [u8], magic: u32) -> Result<Rows<'a>, NotUnderstood> {
        let right = word(image, 0) == Some(COMMON_MAGIC) && word(image, 4) == Some(magic);
        right.then_some(Rows { image, at: 8 }).ok_or(NotUnderstood::Beginning)
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Range<usize>, NotUnderstood>;

    fn next(&mut self) -> Option<Self::Item> {
        let (image, at) = (self.image, self.at);
        if at >= image.len() {
            return None;
        }
        let start = at + size_of::<u32>();
        let end = word(image, at).and_then(|length| start.checked_add(length as usize));
        let place = end.filter(|end| *end <= image.len()).map(|end| start..end);
        // After what cannot be read there is nothing to be read.
        self.at = place.as_ref().map_or(image.len(), |place| place.end);
        Some(place.ok_or(NotUnderstood::TooShort { at }))
    }
}

fn word(image: &[u8], at: usize) -> Option<u32> {
    image.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

#[derive(Debug, Clone)]
enum Value {
    Number(Number),
    /// A text, bytes or a message.
    Bytes(Range<usize>),
    /// A number of fixed size.
    Fixed,
}

/// A message somewhere in an image.
#[derive(Debug)]
pub(crate) struct Message<'a> {
    image: &'a [u8],
    start: usize,
    fields: [Option<Value>; HIGHEST + 1],
}

impl<'a> Message<'a> {
    /// Reads the message that lies at `place`, which must be inside the image. Of the fields up to `highest` ([`HIGHEST`] at most)
    /// each may be there once only; the others are passed over.
    pub(crate) fn read(image: &'a [u8], place: Range<usize>, highest: usize) -> Result<Message<'a>, NotUnderstood> {
        let mut message = Message { image, start: place.start, fields: Default::default() };
        let mut rest = Rest { image, place };
        while !rest.place.is_empty() {
            let (field, value) = rest.field()?;
            if let Some(known) = message.fields.get_mut(..=highest).and_then(|fields| fields.get_mut(field))
                && known.replace(value).is_some()
            {
                return Err(message.wrong(field));
            }
        }
        Ok(message)
    }

    /// A field that must be there, and be a number.
    pub(crate) fn number(&self, field: usize) -> Result<Number, NotUnderstood> {
        match self.fields.get(field) {
            Some(Some(Value::Number(number))) => Ok(*number),
            _ => Err(self.wrong(field)),
        }
    }

    /// A field that must be there, and be a message; see [`Message::read`].
    pub(crate) fn message(&self, field: usize, highest: usize) -> Result<Message<'a>, NotUnderstood> {
        match self.fields.get(field) {
            Some(Some(Value::Bytes(place))) => Message::read(self.image, place.clone(), highest),
            _ => Err(self.wrong(field)),
        }
    }

    /// A field that must be there, and be a text or bytes.
    pub(crate) fn bytes(&self, field: usize) -> Result<&'a [u8], NotUnderstood> {
        match self.fields.get(field) {
            Some(Some(Value::Bytes(place))) => Ok(&self.image[place.clone()]),
            _ => Err(self.wrong(field)),
        }
    }

    fn wrong(&self, field: usize) -> NotUnderstood {
        NotUnderstood::Field { at: self.start, field }
    }
}

/// What has not been read yet.
struct Rest<'a> {
    image: &'a [u8],
    place: Range<usize>,
}

impl Rest<'_> {
    fn field(&mut self) -> Result<(usize, Value), NotUnderstood> {
        let Number { value: tag, at } = self.number()?;
        let not_protobuf = NotUnderstood::NotProtobuf { at };
        let field = u32::try_from(tag).map_err(|_| not_protobuf)? as usize >> 3;
        if field == 0 {
            return Err(not_protobuf);
        }
        let value = match tag & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = self.number()?.value;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(not_protobuf),
        };
        Ok((field, value))
    }

    fn take(&mut self, length: u64) -> Result<Range<usize>, NotUnderstood> {
        let start = self.place.start;
        if length > self.place.len() as u64 {
            return Err(NotUnderstood::TooShort { at: start });
        }
        self.place.start += length as usize;
        Ok(start..self.place.start)
    }

    /// Groups of 7 bits, the lowest first; the highest bit of a byte says that more follow.
    fn number(&mut self) -> Result<Number, NotUnderstood> {
        let at = self.place.start;
        let mut value = 0;
        for group in 0..LONGEST_NUMBER {
            let byte = self.take(1).map(|place| self.image[place.start])?;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << (7 * group);
            if shifted >> (7 * group) != bits {
                break;
            }
            value |= shifted;
            if byte & 0x80 == 0 {
                return Ok(Number { value, at });
            }
        }
        Err(NotUnderstood::NotProtobuf { at })
    }
}
