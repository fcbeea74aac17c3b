//! The build-id of an ELF file: what the linker calls its content, in a note of type `NT_GNU_BUILD_ID`.
//!
//! Reads at most the header, the program headers and the note segments, each bounded. A file that makes no sense has no
//! build-id; then its content is hashed like that of any other file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const MAX_PROGRAM_HEADERS: u64 = 512;
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// SHA-1 is 20 bytes; linkers can be told to use any hexadecimal string. An empty one, or one that all files could share,
/// says nothing.
const ID_BYTES: std::ops::RangeInclusive<usize> = 8..=64;

/// The file's build-id; `None` where it has none or is no ELF file.
pub fn build_id(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut head = [0; 64];
    let have = read_up_to(file, &mut head, 0)?;
    let Some(layout) = Layout::of(&head[..have]) else { return Ok(None) };
    for index in 0..layout.headers.min(MAX_PROGRAM_HEADERS) {
        let mut header = [0; 56];
        let Some(offset) = layout.header_offset(index) else { return Ok(None) };
        let have = read_up_to(file, &mut header[..layout.header_bytes()], offset)?;
        let Some(segment) = layout.note(&header[..have]) else { continue };
        let mut notes = vec![0; segment.bytes.min(MAX_NOTE_BYTES) as usize];
        let have = read_up_to(file, &mut notes, segment.offset)?;
        if let Some(id) = layout.find_id(&notes[..have], segment.align) {
            return Ok(Some(id.to_vec()));
        }
    }
    Ok(None)
}

/// Beyond where a file can end there is nothing; the kernel would call it an error.
fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let end = offset.checked_add(buffer.len() as u64);
    if end.is_none_or(|end| i64::try_from(end).is_err()) {
        return Ok(0);
    }
    let mut have = 0;
    while have < buffer.len() {
        match file.read_at(&mut buffer[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(have)
}

/// How this file writes its numbers, and where its program headers are.
struct Layout {
    wide: bool,
    big_endian: bool,
    table: u64,
    entry_bytes: u64,
    headers: u64,
}

struct Segment {
    offset: u64,
    bytes: u64,
    align: usize,
}

impl Layout {
    fn of(head: &[u8]) -> Option<Layout> {
        let identity = head.get(..16)?;
        let wide = match (identity.starts_with(b"\x7fELF"), identity[4]) {
            (true, 1) => false,
            (true, 2) => true,
            _ => return None,
        };
        let big_endian = match identity[5] {
            1 => false,
            2 => true,
            _ => return None,
        };
        let mut layout = Layout { wide, big_endian, table: 0, entry_bytes: 0, headers: 0 };
        let (table, sizes) = if wide { (layout.number(head, 32, 8)?, 54) } else { (layout.number(head, 28, 4)?, 42) };
        layout.table = table;
        layout.entry_bytes = layout.number(head, sizes, 2)?;
        layout.headers = layout.number(head, sizes + 2, 2)?;
        (layout.entry_bytes >= layout.header_bytes() as u64).then_some(layout)
    }

    fn header_bytes(&self) -> usize {
        if self.wide { 56 } else { 32 }
    }

    fn header_offset(&self, index: u64) -> Option<u64> {
        self.table.checked_add(index * self.entry_bytes)
    }

    fn note(&self, header: &[u8]) -> Option<Segment> {
        if self.number(header, 0, 4)? != u64::from(PT_NOTE) {
            return None;
        }
        let (offset, bytes, align) = if self.wide {
            (self.number(header, 8, 8)?, self.number(header, 32, 8)?, self.number(header, 48, 8)?)
        } else {
            (self.number(header, 4, 4)?, self.number(header, 16, 4)?, self.number(header, 28, 4)?)
        };
        Some(Segment { offset, bytes, align: if align == 8 { 8 } else { 4 } })
    }

    /// Notes lie one after the other: three lengths, a name and a content, each padded.
    fn find_id<'a>(&self, notes: &'a [u8], align: usize) -> Option<&'a [u8]> {
        let mut rest = notes;
        loop {
            let name_bytes = self.number(rest, 0, 4)? as usize;
            let content_bytes = self.number(rest, 4, 4)? as usize;
            let kind = self.number(rest, 8, 4)?;
            let name = rest.get(12..12usize.checked_add(name_bytes)?)?;
            let start = (12 + name_bytes).next_multiple_of(align);
            let end = start.checked_add(content_bytes)?;
            let content = rest.get(start..end)?;
            if kind == u64::from(NT_GNU_BUILD_ID) && name == b"GNU\0" && ID_BYTES.contains(&content.len()) {
                return Some(content);
            }
            rest = rest.get(end.checked_next_multiple_of(align)?..)?;
        }
    }

    fn number(&self, bytes: &[u8], at: usize, width: usize) -> Option<u64> {
        let digits = bytes.get(at..at.checked_add(width)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.big_endian { digits.iter().fold(0, add) } else { digits.iter().rev().fold(0, add) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Write;

    use super::*;

    const ID: [u8; 20] = [0xab; 20];

    /// The smallest ELF file that has a build-id, behind a note of another kind.
    fn elf(wide: bool, big: bool, align: usize) -> Vec<u8> {
        let number = |value: u64, width: usize| -> Vec<u8> {
            let bytes = value.to_be_bytes()[8 - width..].to_vec();
            if big { bytes } else { bytes.into_iter().rev().collect() }
        };
        let (head, entry, word) = if wide { (64, 56, 8) } else { (52, 32, 4) };
        let mut notes = Vec::new();
        for (kind, content) in [(1, &ID[..3]), (3, &ID[..])] {
            for value in [4, content.len() as u64, kind] {
                notes.extend(number(value, 4));
            }
            notes.extend(b"GNU\0");
            notes.extend(content);
            notes.resize(notes.len().next_multiple_of(align), 0);
        }
        let mut file = b"\x7fELF".to_vec();
        file.extend([1 + u8::from(wide), 1 + u8::from(big)]);
        file.resize(24 + word, 0);
        file.extend(number(head, word));
        file.resize(head as usize - 10, 0);
        file.extend(number(entry, 2));
        file.extend(number(1, 2));
        file.resize(head as usize, 0);
        file.extend(number(4, 4));
        file.resize(head as usize + if wide { 8 } else { 4 }, 0);
        file.extend(number(head + entry, word));
        file.resize(head as usize + if wide { 32 } else { 16 }, 0);
        file.extend(number(notes.len() as u64, word));
        file.resize(head as usize + if wide { 48 } else { 28 }, 0);
        file.extend(number(align as u64, word));
        file.extend(notes);
        file
    }

    fn id_of(bytes: &[u8]) -> Option<Vec<u8>> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        build_id(&file).unwrap()
    }

    #[test]
    fn every_width_and_byte_order_is_read() {
        for (wide, big, align) in
            [(true, false, 4), (true, true, 4), (false, false, 4), (false, true, 4), (true, false, 8)]
        {
            assert_eq!(id_of(&elf(wide, big, align)).unwrap(), ID, "wide {wide}, big {big}, align {align}");
        }
    }

    #[test]
    fn a_cut_or_damaged_file_has_none_and_harms_nobody() {
        let whole = elf(true, false, 4);
        for length in 0..whole.len() {
            assert_eq!(id_of(&whole[..length]), None, "{length} bytes");
        }
        for index in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[index] = 0xff;
            id_of(&damaged);
        }
    }

    /// Found by fuzzing: the kernel refuses to read there, and the move was refused with its words.
    #[test]
    fn program_headers_where_no_file_can_end_are_not_there() {
        for table in [i64::MAX as u64 - 10, i64::MAX as u64, u64::MAX] {
            let mut file = elf(true, false, 4);
            file[32..40].copy_from_slice(&table.to_le_bytes());
            assert_eq!(id_of(&file), None, "{table:#x}");
        }
    }

    #[test]
    fn what_is_no_elf_file_has_none() {
        assert_eq!(id_of(b""), None);
        assert_eq!(id_of(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn the_shell_has_the_id_that_readelf_says() {
        let readelf = std::process::Command::new("readelf").args(["-n", "/bin/sh"]).output();
        let Ok(output) = readelf else { return };
        let text = String::from_utf8(output.stdout).unwrap();
        let said = text.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).unwrap();
        let found = build_id(&File::open("/bin/sh").unwrap()).unwrap().unwrap();
        assert_eq!(found.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), said);
    }
}
