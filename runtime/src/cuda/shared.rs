//! What instances of a model share on a device: its context, the compiled kernels, and the weights.

use super::DeviceSpec;
use super::driver::{Driver, Handle, Refused};
use super::ranges::Ranges;
use crate::error::{Error, Result};
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::Mutex;

/// The attribute of a kernel that says how much shared memory a launch may ask for.
const MOST_SHARED: c_int = 8;
/// Shared memory that every launch may ask for.
const PLAIN_SHARED: usize = 48 << 10;
/// The attribute of a device that is the first number of its compute capability, and the least one whose launches can overlap.
const LEVEL: c_int = 75;
/// Its second number.
#[cfg(feature = "harness")]
const MINOR: c_int = 76;
const OVERLAPS: c_int = 9;
/// The driver's answer where the code for a device lacks a kernel.
const NOT_FOUND: c_int = 500;

/// A model on a device.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) driver: &'static Driver,
    pub(super) spec: &'static DeviceSpec,
    device: c_int,
    context: Handle,
    module: Handle,
    /// The kernels; null where code for the device lacks one, since it has another in its place.
    functions: Vec<Handle>,
    /// The shared memory that each kernel has been allowed so far.
    allowed: Mutex<Vec<usize>>,
    pub(super) weights: u64,
    /// Whether a launch may begin while the one before it ends.
    pub(super) overlaps: bool,
    /// The profiler that takes ranges, if there is one, and the names of the steps for it.
    ranges: Option<(Ranges, Vec<CString>)>,
    /// Whether kernels are there whose operands the tensor memory accelerator brings.
    pub(super) streams: bool,
    /// The device's name, for people.
    pub(crate) name: String,
}

// SAFETY: handles of the driver may be used by any thread whose context is the model's; every call here sets it first.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Which device is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Ordinal(usize),
    Uuid([u8; 16]),
}

pub(super) fn error(e: Refused) -> Error {
    Error::Device { message: e.to_string() }
}

impl Shared {
    /// Brings a model to a device. Launches overlap there where that is wanted and the device can.
    ///
    /// # Errors
    /// No driver, no such device, kernels that do not run on it, no memory.
    pub(crate) fn new(spec: &'static DeviceSpec, wanted: Wanted, weights: *const u8, overlap: bool) -> Result<Shared> {
        let driver = Driver::get().map_err(|message| Error::Device { message })?;
        let device = find(driver, wanted)?;
        let mut out = Shared {
            driver,
            spec,
            device,
            context: std::ptr::null_mut(),
            module: std::ptr::null_mut(),
            functions: Vec::new(),
            allowed: Mutex::new(vec![PLAIN_SHARED; spec.kernels.len()]),
            weights: 0,
            overlaps: overlap && attribute(driver, device, LEVEL) >= OVERLAPS,
            ranges: Ranges::get().map(|r| (r, names(spec))),
            streams: false,
            name: name(driver, device),
        };
        let (image, bytes) = (spec.image)();
        if bytes == 0 {
            return Err(Error::Device { message: "this build has no compiled kernels".into() });
        }
        let size = spec.spec.weights_bytes;
        // SAFETY: the handles are written by the driver before they are used, the image is embedded whole, names end with a zero byte, and
        // `weights` points to as many bytes as the specification says.
        unsafe {
            driver.retain_context(&mut out.context, device).map_err(error)?;
            driver.set_context(out.context).map_err(error)?;
            driver.load_module(&mut out.module, image.cast()).map_err(|e| {
                let hint = if e.code == 209 { "; it was compiled for other devices than this one" } else { "" };
                Error::Device { message: format!("the compiled kernels cannot be loaded: {e}{hint}") }
            })?;
            for kernel in spec.kernels {
                let kernel = CString::new(*kernel).map_err(|_| Error::Device { message: "a kernel without a name".into() })?;
                let mut f = std::ptr::null_mut();
                match driver.function(&mut f, out.module, kernel.as_ptr()) {
                    Err(e) if e.code != NOT_FOUND => return Err(error(e)),
                    found => out.functions.push(if found.is_ok() { f } else { std::ptr::null_mut() }),
                }
            }
            out.streams = driver.makes_maps() && !out.functions.contains(&std::ptr::null_mut());
            if size > 0 {
                driver.allocate(&mut out.weights, size).map_err(|_| Error::Memory { bytes: size })?;
                driver.copy_to_device(out.weights, weights.cast(), size, std::ptr::null_mut()).map_err(error)?;
                driver.synchronize(std::ptr::null_mut()).map_err(error)?;
            }
        }
        Ok(out)
    }
    /// The profiler that takes a range for step `i`, and its name.
    pub(crate) fn range(&self, i: usize) -> Option<(Ranges, &CStr)> {
        self.ranges.as_ref().and_then(|(r, names)| Some((*r, names.get(i)?.as_c_str())))
    }
    /// Whether a profiler takes ranges.
    pub(crate) fn is_watched(&self) -> bool {
        self.ranges.is_some()
    }
    /// Its name without blanks, and its compute capability, such as `NVIDIA_H200/9.0`.
    #[cfg(feature = "harness")]
    pub(crate) fn label(&self) -> String {
        let name = self.name.replace(|c: char| c.is_whitespace() || c == '#' || c == '/', "_");
        format!("{name}/{}.{}", attribute(self.driver, self.device, LEVEL), attribute(self.driver, self.device, MINOR))
    }
    /// Makes the model's context that of this thread.
    pub(super) fn enter(&self) -> std::result::Result<(), Refused> {
        // SAFETY: the context is retained as long as this lives.
        unsafe { self.driver.set_context(self.context) }
    }
    /// A kernel that may ask for as much shared memory.
    pub(super) fn function(&self, i: usize, shared: usize) -> std::result::Result<Handle, Refused> {
        let f = self.functions[i];
        if f.is_null() {
            return Err(Refused {
                function: "function",
                code: NOT_FOUND,
                text: format!("the kernels for this device lack {}", self.spec.kernels[i]),
            });
        }
        if shared > PLAIN_SHARED {
            let mut allowed = self.allowed.lock().unwrap_or_else(|e| e.into_inner());
            if shared > allowed[i] {
                // SAFETY: the function belongs to the module, which is loaded.
                unsafe { self.driver.set_function_attribute(f, MOST_SHARED, shared as c_int)? };
                allowed[i] = shared;
            }
        }
        Ok(f)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What cannot be given back, after an error of the device above all, goes with the process.
        // SAFETY: nothing of the model is used any more: every machine holds this, and is gone.
        unsafe {
            let _ = self.enter();
            if self.weights != 0 {
                let _ = self.driver.free(self.weights);
            }
            if !self.module.is_null() {
                let _ = self.driver.unload_module(self.module);
            }
            if !self.context.is_null() {
                let _ = self.driver.release_context(self.device);
            }
        }
    }
}

/// What steps are called in a profile: their ONNX nodes, or the kernel where they have none.
fn names(spec: &DeviceSpec) -> Vec<CString> {
    let of = |k: &crate::spec::Kernel| {
        let nodes: Vec<&str> = k.nodes.iter().filter_map(|n| spec.spec.nodes.get(*n as usize)).copied().collect();
        let text = if nodes.is_empty() { format!("{} {}", k.kind, k.name) } else { nodes.join("; ") };
        CString::new(text.replace('\0', " ")).unwrap_or_default()
    };
    spec.spec.kernels.iter().map(of).collect()
}

/// An attribute of a device; 0 where the driver does not tell.
fn attribute(driver: &Driver, device: c_int, which: c_int) -> c_int {
    let mut value = 0;
    // SAFETY: the driver writes a number.
    match unsafe { driver.device_attribute(&mut value, which, device) } {
        Ok(()) => value,
        Err(_) => 0,
    }
}

fn name(driver: &Driver, device: c_int) -> String {
    let mut text = [0 as c_char; 128];
    // SAFETY: the driver writes at most as many bytes, with a zero byte at the end.
    match unsafe { driver.device_name(text.as_mut_ptr(), text.len() as c_int, device) } {
        Ok(()) => text.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect(),
        Err(_) => "a device without a name".into(),
    }
}

fn find(driver: &Driver, wanted: Wanted) -> Result<c_int> {
    let (mut count, mut device) = (0, 0);
    // SAFETY: the driver writes a number to each.
    unsafe { driver.device_count(&mut count) }.map_err(error)?;
    let none =
        |what: String| Error::Device { message: format!("{what}: the driver sees {count} device{}", if count == 1 { "" } else { "s" }) };
    match wanted {
        Wanted::Ordinal(i) => {
            if i >= count.max(0) as usize {
                return Err(none(format!("there is no CUDA device {i}")));
            }
            // SAFETY: as above.
            unsafe { driver.device(&mut device, i as c_int) }.map_err(error)?;
            Ok(device)
        }
        Wanted::Uuid(uuid) => {
            for i in 0..count {
                let mut found = [0u8; 16];
                // SAFETY: the driver writes a number, and 16 bytes.
                unsafe { driver.device(&mut device, i).and_then(|()| driver.device_uuid(found.as_mut_ptr(), device)) }.map_err(error)?;
                if found == uuid {
                    return Ok(device);
                }
            }
            Err(none("there is no CUDA device of that UUID".into()))
        }
    }
}
