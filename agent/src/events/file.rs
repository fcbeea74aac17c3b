//! The file of events: one JSON object a line, `events.ndjson`. When it would pass 4 MiB it becomes `events.ndjson.1`,
//! in place of the one that was there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use migrate_proto::api::Event;

use super::EventError;

/// How large the file may become.
pub(super) const LARGEST: u64 = 4 << 20;

pub(super) struct EventFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// The last line may be only half there; the next one must begin on a line of its own.
    torn: bool,
}

impl EventFile {
    /// The file, and the events in it and its predecessor, oldest first. Lines that are no events are left out.
    pub(super) fn open(dir: &Path) -> Result<(EventFile, Vec<Event>), EventError> {
        fs::create_dir_all(dir).map_err(|source| EventError::Directory { path: dir.to_owned(), source })?;
        let path = dir.join("events.ndjson");
        let mut events = Vec::new();
        for path in [predecessor(&path), path.clone()] {
            events.extend(load(&path).map_err(|source| EventError::Open { path, source })?);
        }
        let file = EventFile::append_to(path.clone()).map_err(|source| EventError::Open { path, source })?;
        Ok((file, events))
    }

    pub(super) fn append(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        if self.bytes > 0 && self.bytes + line.len() as u64 > LARGEST {
            match fs::rename(&self.path, predecessor(&self.path)) {
                // Somebody removed it, or the last attempt got no further than this.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
            *self = EventFile::append_to(self.path.clone())?;
        }
        if self.torn {
            line.insert(0, b'\n');
        }
        // Until it is known to be whole.
        self.torn = true;
        self.file.write_all(&line)?;
        self.torn = false;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Writes go to `file` from now on.
    #[cfg(test)]
    pub(super) fn redirect(&mut self, file: File) {
        self.file = file;
    }

    fn append_to(path: PathBuf) -> io::Result<EventFile> {
        let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)?;
        let bytes = file.metadata()?.len();
        let mut last = *b"\n";
        if bytes > 0 {
            file.read_exact_at(&mut last, bytes - 1)?;
        }
        Ok(EventFile { path, file, bytes, torn: last != *b"\n" })
    }
}

fn predecessor(path: &Path) -> PathBuf {
    path.with_extension("ndjson.1")
}

fn load(path: &Path) -> io::Result<Vec<Event>> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        bytes => bytes?,
    };
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let mut unreadable = 0;
    let events = lines.filter_map(|line| serde_json::from_slice(line).inspect_err(|_| unreadable += 1).ok()).collect();
    if unreadable > 0 {
        tracing::warn!("{unreadable} lines of {} are no events and were left out", path.display());
    }
    Ok(events)
}
