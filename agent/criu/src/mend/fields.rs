//! Protobuf's wire format, as far as finding fields in it goes: a message is a row of tags, each with a value behind it.

use std::ops::Range;

use super::NotUnderstood;

/// Fields with higher numbers are passed over.
const HIGHEST: usize = 12;
/// A number of 64 bits in groups of 7.
const LONGEST_NUMBER: usize = 10;

/// A number, and where its bytes begin.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    pub(super) value: u64,
    pub(super) at: usize,
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
pub(super) struct Message<'a> {
    image: &'a [u8],
    start: usize,
    fields: [Option<Value>; HIGHEST + 1],
}

impl<'a> Message<'a> {
    /// Reads the message that lies at `place`, which must be inside the image. Of the fields up to [`HIGHEST`] each may be there
    /// once only.
    pub(super) fn read(image: &'a [u8], place: Range<usize>) -> Result<Message<'a>, NotUnderstood> {
        let mut message = Message { image, start: place.start, fields: Default::default() };
        let mut rest = Rest { image, place };
        while !rest.place.is_empty() {
            let (field, value) = rest.field()?;
            if let Some(known) = message.fields.get_mut(field)
                && known.replace(value).is_some()
            {
                return Err(message.wrong(field));
            }
        }
        Ok(message)
    }

    /// A field that must be there, and be a number.
    pub(super) fn number(&self, field: usize) -> Result<Number, NotUnderstood> {
        match self.fields.get(field) {
            Some(Some(Value::Number(number))) => Ok(*number),
            _ => Err(self.wrong(field)),
        }
    }

    /// A field that must be there, and be a message.
    pub(super) fn message(&self, field: usize) -> Result<Message<'a>, NotUnderstood> {
        match self.fields.get(field) {
            Some(Some(Value::Bytes(place))) => Message::read(self.image, place.clone()),
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
