//! The one place that opens files for a model: the model file, and the data files beside it that its tensors name.
//!
//! A data file must lie in the model's folder or below. Its location is relative and made of plain names; no link stands anywhere on the way, and
//! the last name is a regular file. A model that says otherwise is refused before anything is opened. Hard links are accepted: they are what
//! deduplicating stores and `cp -l` make of honest files, and making one takes rights that a model file does not have.
//! Offset and length are checked against the file before memory is asked for. A `checksum` is not verified, as in every other reader.

use super::Limits;
use super::proto::StringStringEntryProto;
use crate::diagnostics::{self, Diagnostic, shown};
use kiln_kernels::value::Bytes;
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

/// How often the bytes of one data file may be read over: overlapping ranges of one small file could otherwise fill any memory.
const REREAD: u64 = 4;

/// Reads byte ranges of data files; each file is opened once, equal ranges are read once and shared.
pub(super) struct Resolver {
    folder: Option<PathBuf>,
    files: BTreeMap<PathBuf, DataFile>,
    left: u64,
    limit: u64,
}

struct DataFile {
    file: File,
    len: u64,
    read: u64,
    ranges: BTreeMap<(u64, u64), Bytes>,
}

/// Where a tensor's elements lie.
struct Entry<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

/// Opens the model file.
///
/// # Errors
/// It cannot be opened, or is not a regular file.
pub(super) fn open_model(path: &Path) -> diagnostics::Result<(File, u64)> {
    let failed = |e: std::io::Error| Diagnostic::new(format!("cannot read the model: {e}"));
    // Looked at before it is opened: opening a pipe waits for a writer.
    let found = std::fs::metadata(path).map_err(failed)?;
    if !found.is_file() {
        return Err(Diagnostic::new(format!("cannot read the model: it is {}, not a regular file", kind(&found))).into());
    }
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    Ok((file, len))
}

impl Resolver {
    /// A resolver of locations relative to `folder`; without one it refuses all.
    pub(super) fn new(folder: Option<&Path>, limits: &Limits) -> Resolver {
        Resolver { folder: folder.map(Path::to_path_buf), files: BTreeMap::new(), left: limits.max_data, limit: limits.max_data }
    }
    /// The files that were read, in the order of their paths.
    pub(super) fn into_files(self) -> Vec<PathBuf> {
        let folder = self.folder.unwrap_or_default();
        self.files.into_keys().map(|location| folder.join(location)).collect()
    }
    /// The `expected` bytes that `entries` (a tensor's `external_data`) point to.
    ///
    /// # Errors
    /// In words: an entry is unknown, doubled or malformed; the location leaves the folder or is no regular file; the range is not in the file or
    /// has another length; too much data in all.
    pub(super) fn read(&mut self, entries: &[StringStringEntryProto], expected: u64) -> Result<Bytes, String> {
        let Entry { location, offset, length } = parse(entries)?;
        if let Some(length) = length
            && length != expected
        {
            return Err(format!("its external data has length {length}, its dims and type take {expected} bytes"));
        }
        let place = format!("\"{}\"", shown(location));
        let Some(folder) = &self.folder else {
            return Err(format!("its data lies in the file {place}, and the model was given without a folder to look in"));
        };
        let path = checked(location)?;
        if !self.files.contains_key(&path) {
            let (file, len) = open(folder, &path).map_err(|why| format!("its data file {place} cannot be used: {why}"))?;
            self.files.insert(path.clone(), DataFile { file, len, read: 0, ranges: BTreeMap::new() });
        }
        let Some(data) = self.files.get_mut(&path) else { return Err(format!("its data file {place} was not opened; this is a bug")) };
        if offset.checked_add(expected).is_none_or(|end| end > data.len) {
            return Err(format!("its data is {expected} bytes at offset {offset} of {place}, which has {} bytes", data.len));
        }
        if let Some(bytes) = data.ranges.get(&(offset, expected)) {
            return Ok(bytes.clone());
        }
        data.read = data.read.saturating_add(expected);
        if data.read > data.len.saturating_mul(REREAD) {
            return Err(format!("the tensors before it already read {place} {REREAD} times over"));
        }
        self.left = match self.left.checked_sub(expected) {
            Some(left) => left,
            None => return Err(format!("the model's external data is above the limit of {} bytes (max_data)", self.limit)),
        };
        let size = usize::try_from(expected).map_err(|_| format!("its {expected} bytes do not fit in memory"))?;
        let mut bytes = Bytes::zeroed(size);
        let read = data.file.seek(SeekFrom::Start(offset)).and_then(|_| data.file.read_exact(bytes.as_mut()));
        read.map_err(|e| format!("reading its data from {place} failed: {e}"))?;
        data.ranges.insert((offset, expected), bytes.clone());
        Ok(bytes)
    }
}

fn parse(entries: &[StringStringEntryProto]) -> Result<Entry<'_>, String> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for entry in entries {
        // `basepath` is written by the Python package and means nothing to a reader.
        if !["location", "offset", "length", "checksum", "basepath"].contains(&entry.key.as_str()) {
            return Err(format!("its external data has the unknown entry \"{}\"", shown(&entry.key)));
        }
        if seen.insert(&entry.key, &entry.value).is_some() {
            return Err(format!("its external data has the entry \"{}\" twice", entry.key));
        }
    }
    let number = |key: &str| match seen.get(key) {
        None => Ok(None),
        Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => match text.parse::<u64>() {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(format!("its external data has {key} {}, which is too large", shown(text))),
        },
        Some(text) => Err(format!("its external data has {key} \"{}\", which is not a number from 0 on", shown(text))),
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    let location = *seen.get("location").ok_or("its external data names no location")?;
    Ok(Entry { location, offset, length })
}

/// The location as a relative path of plain names.
fn checked(location: &str) -> Result<PathBuf, String> {
    let refuse = |why: &str| Err(format!("its data file \"{}\" is refused: {why}", shown(location)));
    if location.is_empty() {
        return refuse("the location is empty");
    }
    if location.contains(['\0', '\\']) {
        return refuse("a location holds neither NUL nor a backslash");
    }
    let mut path = PathBuf::new();
    for component in Path::new(location).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return refuse("a location does not hold \"..\""),
            Component::RootDir | Component::Prefix(_) => return refuse("a location is relative to the model's folder"),
        }
    }
    if path.as_os_str().is_empty() || location.ends_with('/') {
        return refuse("the location is a folder");
    }
    Ok(path)
}

/// Opens `path` below `folder`, every component looked at on the way.
fn open(folder: &Path, path: &Path) -> Result<(File, u64), String> {
    let mut here = folder.to_path_buf();
    let mut components = path.components().peekable();
    while let Some(component) = components.next() {
        here.push(component);
        let found = std::fs::symlink_metadata(&here).map_err(|e| e.to_string())?;
        let wanted = if components.peek().is_some() { found.is_dir() } else { found.is_file() };
        if found.is_symlink() {
            return Err(format!("\"{}\" is a symbolic link; copy the file it points to into the model's folder", shown(&name(&here))));
        }
        if !wanted {
            return Err(format!("\"{}\" is {}", shown(&name(&here)), kind(&found)));
        }
    }
    let inside = folder.canonicalize().and_then(|folder| Ok(here.canonicalize()?.starts_with(folder)));
    if !inside.map_err(|e| e.to_string())? {
        return Err("it is not in the model's folder".to_string());
    }
    let before = std::fs::symlink_metadata(&here).map_err(|e| e.to_string())?;
    let file = File::open(&here).map_err(|e| e.to_string())?;
    let opened = file.metadata().map_err(|e| e.to_string())?;
    if !opened.is_file() || !same(&before, &opened) {
        return Err("it was replaced while it was opened".to_string());
    }
    Ok((file, opened.len()))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(unix)]
fn same(a: &Metadata, b: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

#[cfg(not(unix))]
fn same(_: &Metadata, _: &Metadata) -> bool {
    true
}

fn kind(found: &Metadata) -> &'static str {
    match found {
        f if f.is_dir() => "a folder",
        f if f.is_symlink() => "a symbolic link",
        f if f.is_file() => "a file",
        _ => "a pipe, socket or device",
    }
}
