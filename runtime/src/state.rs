//! State: what an instance keeps from run to run, as rows that runs add to or as whole tensors that runs replace.

use crate::cuda::Machine;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::memory::Region;
use crate::spec::{OutPlace, Spec};
use kiln_kernels::dtype::DType;

/// What the compiler says of a model's state.
#[derive(Clone, Copy, Debug)]
pub struct StateSpec {
    /// Bytes of all of it.
    pub bytes: usize,
    /// The most rows of what grows; 0 where nothing does.
    pub capacity: usize,
    /// The symbols that are the number of rows.
    pub lengths: &'static [usize],
    /// How many rows a run adds, for symbols that the inputs have bound.
    pub grows: fn(&[i64]) -> i64,
    /// The inputs that are kept, with the outputs that continue them.
    pub pairs: &'static [Pair],
}

impl StateSpec {
    /// That of a model that keeps nothing.
    pub const NONE: StateSpec = StateSpec { bytes: 0, capacity: 0, lengths: &[], grows: |_| 0, pairs: &[] };
}

/// An input that is kept in the instance, and the output that is its next value.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The input's ONNX name.
    pub input: &'static str,
    /// The output's ONNX name.
    pub output: &'static str,
    /// The type of the elements.
    pub dtype: DType,
    /// Where it begins, in bytes.
    pub at: usize,
    /// How a run changes it.
    pub next: Next,
}

/// How a run changes a state.
#[derive(Clone, Copy, Debug)]
pub enum Next {
    /// It writes new rows behind those that are there.
    Appended {
        /// How many slices have rows, each with room for the capacity.
        slices: usize,
        /// Bytes of a row.
        row: usize,
    },
    /// It computes all of it anew.
    Replaced {
        /// Bytes.
        bytes: usize,
        /// Where a run leaves the new value.
        place: OutPlace,
    },
}

/// What a run has left in a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Left {
    /// Its first byte.
    pub(crate) here: *const u8,
    /// How many bytes it has, where the place tells.
    pub(crate) bytes: Option<usize>,
    /// Where it lies on the device.
    pub(crate) there: Option<u64>,
}

/// The memory of an instance's state; that of one on a GPU is the machine's.
#[derive(Debug)]
pub(crate) struct Kept {
    memory: Region,
    /// How many rows there are.
    rows: usize,
}

impl Kept {
    /// An empty state, here or on a device.
    pub(crate) fn new(spec: &StateSpec, here: bool) -> Result<Kept> {
        Ok(Kept { memory: Region::new(if here { spec.bytes } else { 0 })?, rows: 0 })
    }
    /// The first byte.
    pub(crate) fn start(&self) -> *mut u8 {
        self.memory.start()
    }
    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }
    /// Binds the symbols that are its length.
    pub(crate) fn bind(&self, spec: &StateSpec, syms: &mut [i64]) {
        spec.lengths.iter().for_each(|s| syms[*s] = self.rows as i64);
    }
    /// The error of every run that adds rows, where there is room for none.
    pub(crate) fn full(&self, spec: &StateSpec) -> Option<Error> {
        let first = spec.pairs.iter().find(|p| matches!(p.next, Next::Appended { .. }))?;
        let message = format!("all {} rows are taken", spec.capacity);
        (self.rows >= spec.capacity).then(|| Error::StateFull { port: first.input.into(), message })
    }
    /// How many rows there are behind a run whose symbols are bound.
    pub(crate) fn grown(&self, spec: &StateSpec, syms: &[i64]) -> Result<usize> {
        let Some(first) = spec.pairs.iter().find(|p| matches!(p.next, Next::Appended { .. })) else { return Ok(0) };
        let new = (spec.grows)(syms).max(0) as usize;
        let free = spec.capacity - self.rows;
        if new > free {
            let message = format!("{} of {} rows are taken, and the run adds {new}", self.rows, spec.capacity);
            return Err(Error::StateFull { port: first.input.into(), message });
        }
        Ok(self.rows + new)
    }
    /// Takes over what a run has left: `rows` rows, and the values that `find` finds in their places.
    pub(crate) fn commit(
        &mut self,
        spec: &StateSpec,
        rows: usize,
        machine: Option<&Machine>,
        find: impl Fn(OutPlace) -> Left,
    ) -> Result<()> {
        let replaced = || {
            spec.pairs.iter().filter_map(|p| match p.next {
                Next::Replaced { bytes, place } => Some((p, bytes, place)),
                Next::Appended { .. } => None,
            })
        };
        // Nothing is written before everything is known to be there.
        if let Some((p, bytes, _)) = replaced().find(|(_, bytes, place)| find(*place).bytes.is_some_and(|n| n != *bytes)) {
            let message = format!("the next value of \"{}\" has another size than the {bytes} bytes it is kept in", p.input);
            return Err(Error::State { message });
        }
        for (p, bytes, place) in replaced() {
            let left = find(place);
            match (machine, left.there) {
                (Some(m), Some(at)) => m.keep(p.at, at, bytes)?,
                // SAFETY: the plan keeps that many bytes in the output's place, and gave the state as many; no output lies in a state.
                _ => unsafe { self.bytes(machine).write(p.at, std::slice::from_raw_parts(left.here, bytes))? },
            }
        }
        self.rows = rows;
        Ok(())
    }
    fn bytes<'m>(&'m self, machine: Option<&'m Machine>) -> Bytes<'m> {
        machine.map_or(Bytes::Here(self), Bytes::There)
    }
    /// The rows in use of every pair, slice by slice, as offset and length in bytes.
    fn used(spec: &'static StateSpec, rows: usize) -> impl Iterator<Item = (usize, usize, DType)> {
        spec.pairs.iter().flat_map(move |p| {
            let (slices, pitch, len) = match p.next {
                Next::Appended { slices, row } => (slices, spec.capacity * row, rows * row),
                Next::Replaced { bytes, .. } => (1, bytes, bytes),
            };
            (0..slices).map(move |s| (p.at + s * pitch, len, p.dtype))
        })
    }
    fn clear(&mut self, spec: &StateSpec, machine: Option<&Machine>) {
        self.rows = 0;
        for p in spec.pairs {
            if let Next::Replaced { bytes, .. } = p.next {
                // A device that refuses this refuses the next run too, which can say so.
                let _ = self.bytes(machine).clear(p.at, bytes);
            }
        }
    }
    fn truncate(&mut self, spec: &StateSpec, rows: usize) -> Result<()> {
        if rows >= self.rows {
            return Ok(());
        }
        if let Some(p) = spec.pairs.iter().find(|p| matches!(p.next, Next::Replaced { .. })) {
            let message =
                format!("\"{}\" is replaced by every run, so an earlier one cannot be returned to; clear the state, or load it", p.input);
            return Err(Error::State { message });
        }
        self.rows = rows;
        Ok(())
    }
    fn save(&self, spec: &'static Spec, machine: Option<&Machine>) -> Result<Vec<u8>> {
        let used = || Kept::used(&spec.state, self.rows);
        let payload: usize = used().map(|(_, len, _)| len).sum();
        let mut out = Vec::with_capacity(HEAD + payload + SUM);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&mark(spec));
        out.extend_from_slice(&(self.rows as u64).to_le_bytes());
        for (at, len, _) in used() {
            let end = out.len();
            out.resize(end + len, 0);
            self.bytes(machine).read(at, &mut out[end..])?;
        }
        let sum = checksum(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        Ok(out)
    }
    fn load(&mut self, spec: &'static Spec, machine: Option<&Machine>, bytes: &[u8]) -> Result<()> {
        let wrong = |message: &str| Err(Error::State { message: message.into() });
        if bytes.len() < HEAD + SUM || !bytes.starts_with(MAGIC) {
            return wrong("these bytes are no saved state");
        }
        if bytes[MAGIC.len()..MAGIC.len() + 8] != mark(spec) {
            return wrong("the state was saved by another model, or by this one compiled otherwise");
        }
        let (body, sum) = bytes.split_at(bytes.len() - SUM);
        let (head, mut payload) = body.split_at(HEAD);
        let number = |b: &[u8]| b.try_into().map_or(u64::MAX, u64::from_le_bytes);
        let rows = number(&head[HEAD - 8..]);
        if checksum(body) != number(sum) || rows > spec.state.capacity as u64 {
            return wrong("the saved state is damaged");
        }
        let rows = rows as usize;
        if payload.len() != Kept::used(&spec.state, rows).map(|(_, len, _)| len).sum::<usize>() {
            return wrong("the saved state is damaged");
        }
        let mut rest = payload;
        for (_, len, dtype) in Kept::used(&spec.state, rows) {
            let part = rest.split_off(..len).unwrap_or_default();
            if dtype == DType::Bool && part.iter().any(|b| *b > 1) {
                return wrong("the saved state has values that are no bool");
            }
        }
        for (at, len, _) in Kept::used(&spec.state, rows) {
            let part = payload.split_off(..len).unwrap_or_default();
            self.bytes(machine).write(at, part)?;
        }
        self.rows = rows;
        Ok(())
    }
}

/// Where the bytes of a state are. Ranges of them come from the plan: inside of what it gave every pair, of which rows in use are at most the
/// capacity.
enum Bytes<'m> {
    Here(&'m Kept),
    There(&'m Machine),
}

impl Bytes<'_> {
    fn read(&self, at: usize, to: &mut [u8]) -> Result<()> {
        match self {
            // SAFETY: the range is inside of the memory, and no run is under way.
            Bytes::Here(k) => unsafe { std::ptr::copy_nonoverlapping(k.memory.start().add(at), to.as_mut_ptr(), to.len()) },
            Bytes::There(_) if to.is_empty() => {}
            Bytes::There(m) => m.read_state(at, to)?,
        }
        Ok(())
    }
    fn write(&self, at: usize, from: &[u8]) -> Result<()> {
        match self {
            // SAFETY: as above; the source is the caller's.
            Bytes::Here(k) => unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), k.memory.start().add(at), from.len()) },
            Bytes::There(_) if from.is_empty() => {}
            Bytes::There(m) => m.write_state(at, from)?,
        }
        Ok(())
    }
    fn clear(&self, at: usize, bytes: usize) -> Result<()> {
        match self {
            // SAFETY: as above.
            Bytes::Here(k) => unsafe { k.memory.start().add(at).write_bytes(0, bytes) },
            Bytes::There(_) if bytes == 0 => {}
            Bytes::There(m) => m.clear_state(at, bytes)?,
        }
        Ok(())
    }
}

const MAGIC: &[u8; 8] = b"kilnst01";
/// Magic, model and number of rows.
const HEAD: usize = 24;
/// The checksum at the end.
const SUM: usize = 8;

/// What a saved state says of its model: plan and weights, and how the state lies.
fn mark(spec: &Spec) -> [u8; 8] {
    let mut h = checksum(spec.hash.as_bytes());
    for n in [spec.state.bytes, spec.state.capacity, spec.state.pairs.len()] {
        h = checksum(&(h ^ n as u64).to_le_bytes());
    }
    h.to_le_bytes()
}

/// The FNV-1a hash, by words of eight bytes.
fn checksum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let step = |h: u64, w: u64| (h ^ w).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    let h = words.iter().fold(0xcbf2_9ce4_8422_2325, |h, w| step(h, u64::from_le_bytes(*w)));
    rest.iter().fold(h, |h, b| step(h, u64::from(*b)))
}

/// What an instance keeps from run to run, to look at.
#[derive(Clone, Copy, Debug)]
pub struct State<'m> {
    pub(crate) spec: &'static Spec,
    pub(crate) kept: &'m Kept,
    pub(crate) machine: Option<&'m Machine>,
}

impl State<'_> {
    /// How many rows (tokens, mostly) there are; 0 where no state grows.
    pub fn len(&self) -> usize {
        self.kept.rows
    }
    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.kept.rows == 0
    }
    /// How many rows there may be; 0 where no state grows.
    pub fn capacity(&self) -> usize {
        self.spec.state.capacity
    }
    /// The state as bytes, which [`StateMut::load`] takes in an instance of the same model on a machine of the same byte order.
    ///
    /// # Errors
    /// The GPU that has it does not give it.
    pub fn save(&self) -> Result<Vec<u8>> {
        self.kept.save(self.spec, self.machine)
    }
}

/// What an instance keeps from run to run, to be changed.
#[derive(Debug)]
pub struct StateMut<'m>(pub(crate) &'m mut Instance);

impl StateMut<'_> {
    /// Keeps the first `rows` rows; no fewer than there are change nothing.
    ///
    /// # Errors
    /// [`Error::State`] where rows would go, and a state that every run replaces cannot follow.
    pub fn truncate(&mut self, rows: usize) -> Result<()> {
        self.0.kept.truncate(&self.0.spec().state, rows)
    }
    /// As in a new instance: no rows, and zeros in what runs replace.
    pub fn clear(&mut self) {
        let Instance { kept, machine, spec, .. } = &mut *self.0;
        kept.clear(&spec.state, machine.as_ref());
    }
    /// Takes a state that [`State::save`] gave.
    ///
    /// # Errors
    /// [`Error::State`] for bytes that are no state of this model; the state is what it was then. A GPU that does not take it.
    pub fn load(&mut self, bytes: &[u8]) -> Result<()> {
        let Instance { kept, machine, spec, .. } = &mut *self.0;
        kept.load(spec, machine.as_ref(), bytes)
    }
    /// Takes as many rows for kept as there are asked for, at most the capacity, whatever they hold: for measurements.
    #[doc(hidden)]
    pub fn assume(&mut self, rows: usize) {
        self.0.kept.rows = rows.min(self.0.spec().state.capacity);
    }
}
