//! Mends images on their way into CRIU, where CRIU would restore something else than what was dumped.
//!
//! **Periodic timerfds that have expired and were not read yet.** After an expiration the kernel arms a periodic timerfd anew only
//! when it is read. Until then it says that 0 is left, and so does the image; CRIU passes that on to `timerfd_settime`, which
//! takes it for "disarmed". Event loops meet this at nearly every move, since timers go on while tasks are frozen. Here such a
//! timer gets 1 ns: it expires at once, and goes on with its period as soon as it is read. Its count of expirations is set by
//! CRIU afterwards, so that the one at once is not counted twice.
//!
//! Two kinds look alike and stay as they are:
//! - A program can disarm a timer and leave it an interval. `timerfd_settime` clears the count, so only a timer with
//!   expirations to be read has expired.
//! - To a timer set with `TFD_TIMER_ABSTIME` CRIU adds the present second, so that it is armed anyway.

pub(crate) mod fields;

use std::fmt;

use thiserror::Error;

use self::fields::{HIGHEST, Message, Number, Rows};

/// An image larger than this is not worth holding in memory to mend it.
pub const MAX_BYTES: u64 = 64 << 20;

/// The only image with something to mend.
pub(crate) const FILES: &str = "files.img";
/// Every image begins with this number ...
const COMMON_MAGIC: u32 = 0x5456_4319;
/// ... and this one with that.
pub(crate) const FILES_MAGIC: u32 = 0x5630_3138;

/// What was mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// A periodic timerfd that had expired is armed.
    Timer {
        /// CRIU's number of the open file.
        file: u64,
        /// How many expirations wait to be read.
        ticks: u64,
        /// Its period: seconds and nanoseconds.
        period: (u64, u64),
    },
}

impl fmt::Display for Mended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mended::Timer { file, ticks, period: (seconds, nanoseconds) } = self;
        write!(f, "timerfd {file:#x}, every {seconds}.{nanoseconds:09} s, expired and not read ({ticks}), is armed")
    }
}

/// Why an image was left as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotUnderstood {
    /// It is something else, or of another CRIU.
    #[error("it does not begin as CRIU's files.img does")]
    Beginning,
    /// It ends inside something.
    #[error("what begins at byte {at} is longer than what holds it")]
    TooShort {
        /// Where that begins.
        at: usize,
    },
    /// A number or field that protobuf does not have.
    #[error("there is no protobuf at byte {at}")]
    NotProtobuf {
        /// Where.
        at: usize,
    },
    /// A field is not as often there, or not of the sort, as it must be.
    #[error("field {field} of the message at byte {at} is missing, double or of another type")]
    Field {
        /// Where the message begins.
        at: usize,
        /// The field's number.
        field: usize,
    },
}

/// Whether [`mend`] could change an image of this name.
pub fn knows(name: &str) -> bool {
    name == FILES
}

/// Gives the image back as CRIU should get it, and says what was mended. An image in which nothing is to be mended, or that is
/// not understood, comes back unchanged.
pub fn mend(name: &str, mut image: Vec<u8>) -> (Vec<u8>, Result<Vec<Mended>, NotUnderstood>) {
    if !knows(name) {
        return (image, Ok(Vec::new()));
    }
    match expired_timers(&image) {
        Ok(timers) => {
            let mended = timers.into_iter().map(|timer| {
                // However many bytes the number 0 takes, this bit makes it a 1. So no length changes.
                image[timer.nanoseconds_at] |= 1;
                timer.mended
            });
            let mended = mended.collect();
            (image, Ok(mended))
        }
        Err(why) => (image, Err(why)),
    }
}

/// A timer to be armed.
struct Expired {
    mended: Mended,
    /// Where in the image the nanoseconds that are left begin; they are 0.
    nanoseconds_at: usize,
}

fn expired_timers(image: &[u8]) -> Result<Vec<Expired>, NotUnderstood> {
    let mut expired = Vec::new();
    for place in Rows::of(image, FILES_MAGIC)? {
        expired.extend(expired_timer(&Message::read(image, place?, HIGHEST)?)?);
    }
    Ok(expired)
}

/// Fields of CRIU's `file_entry` (images/fdinfo.proto).
mod file_entry {
    pub(super) const TYPE: usize = 1;
    pub(super) const TIMERFD: usize = 12;
    /// The value of [`TYPE`] that says that [`TIMERFD`] is there.
    pub(super) const TYPE_TIMERFD: u64 = 17;
}

/// Fields of CRIU's `timerfd_entry` (images/timerfd.proto).
mod timerfd_entry {
    pub(super) const ID: usize = 1;
    pub(super) const TICKS: usize = 5;
    pub(super) const SETTIME_FLAGS: usize = 6;
    pub(super) const VALUE_SECONDS: usize = 7;
    pub(super) const VALUE_NANOSECONDS: usize = 8;
    pub(super) const INTERVAL_SECONDS: usize = 9;
    pub(super) const INTERVAL_NANOSECONDS: usize = 10;
    /// `TFD_TIMER_ABSTIME`, in [`SETTIME_FLAGS`].
    pub(super) const ABSOLUTE: u64 = 1;
}

/// The timer to be armed, if the file is one.
fn expired_timer(file: &Message<'_>) -> Result<Option<Expired>, NotUnderstood> {
    if file.number(file_entry::TYPE)?.value != file_entry::TYPE_TIMERFD {
        return Ok(None);
    }
    let timer = file.message(file_entry::TIMERFD, HIGHEST)?;
    let Number { value: nanoseconds, at: nanoseconds_at } = timer.number(timerfd_entry::VALUE_NANOSECONDS)?;
    let left = (timer.number(timerfd_entry::VALUE_SECONDS)?.value, nanoseconds);
    let period = (
        timer.number(timerfd_entry::INTERVAL_SECONDS)?.value,
        timer.number(timerfd_entry::INTERVAL_NANOSECONDS)?.value,
    );
    let ticks = timer.number(timerfd_entry::TICKS)?.value;
    let absolute = timer.number(timerfd_entry::SETTIME_FLAGS)?.value & timerfd_entry::ABSOLUTE != 0;
    if left != (0, 0) || period == (0, 0) || ticks == 0 || absolute {
        return Ok(None);
    }
    let file = timer.number(timerfd_entry::ID)?.value;
    Ok(Some(Expired { mended: Mended::Timer { file, ticks, period }, nanoseconds_at }))
}

#[cfg(test)]
mod tests;
