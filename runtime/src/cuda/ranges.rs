//! Ranges for profilers, named by ONNX nodes: the protocol by which a tool attaches itself to programs with [NVTX](https://nvidia.github.io/NVTX/) 3.
//!
//! A tool names its library in the environment. That is loaded once and asks for tables of function pointers, one for each module of
//! NVTX; what it writes there is called from then on. Nothing of it costs anything where no tool asks.

use super::driver::{dlopen, dlsym};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Entries of the modules' tables (`NVTX_CBID_CORE_SIZE` and the like), by the number of the module: none, core, CUDA, OpenCL, CUDA runtime,
/// core 2 and synchronization.
const SIZES: [usize; 7] = [0, 16, 9, 15, 7, 16, 7];
const MOST: usize = 16;
const CORE: usize = 1;
/// The entries of the core module that are called here.
const PUSH: usize = 9;
const POP: usize = 11;
/// Numbers of the tables that a tool asks for.
const CALLBACKS: u32 = 1;
const VERSION: u32 = 3;

/// What a tool writes its functions to.
static FUNCTIONS: [[AtomicPtr<c_void>; MOST]; SIZES.len()] = [const { [const { AtomicPtr::new(null_mut()) }; MOST] }; SIZES.len()];

/// Pointers to them, which end with a null pointer as they begin with one.
struct Tables([[*const AtomicPtr<c_void>; MOST + 1]; SIZES.len()]);
// SAFETY: the pointers are to statics.
unsafe impl Send for Tables {}
// SAFETY: as above.
unsafe impl Sync for Tables {}
static TABLES: OnceLock<Tables> = OnceLock::new();

unsafe extern "C" fn module_table(module: c_uint, table: *mut *const *const AtomicPtr<c_void>, size: *mut c_uint) -> c_int {
    let Some(entries) = SIZES.get(module as usize).filter(|n| **n > 0) else { return 0 };
    let tables = TABLES.get_or_init(|| {
        let mut out = [[null(); MOST + 1]; SIZES.len()];
        for ((table, functions), n) in out.iter_mut().zip(&FUNCTIONS).zip(SIZES) {
            table.iter_mut().zip(functions).take(n).skip(1).for_each(|(at, f)| *at = f);
        }
        Tables(out)
    });
    // SAFETY: the tool passes places for both, or null.
    unsafe {
        if !table.is_null() {
            *table = tables.0[module as usize].as_ptr();
        }
        if !size.is_null() {
            *size = *entries as c_uint;
        }
    }
    1
}
unsafe extern "C" fn tool_version(_version: u32) {}

#[repr(C)]
struct Callbacks {
    size: usize,
    module_table: unsafe extern "C" fn(c_uint, *mut *const *const AtomicPtr<c_void>, *mut c_uint) -> c_int,
}
#[repr(C)]
struct Version {
    size: usize,
    version: u32,
    reserved: u32,
    tool_version: unsafe extern "C" fn(u32),
}
static CALLBACK_TABLE: Callbacks = Callbacks { size: size_of::<Callbacks>(), module_table };
static VERSION_TABLE: Version = Version { size: size_of::<Version>(), version: 3, reserved: 0, tool_version };

unsafe extern "C" fn export_table(id: u32) -> *const c_void {
    match id {
        CALLBACKS => (&raw const CALLBACK_TABLE).cast(),
        VERSION => (&raw const VERSION_TABLE).cast(),
        _ => null(),
    }
}

type Push = unsafe extern "C" fn(*const c_char) -> c_int;
type Pop = unsafe extern "C" fn() -> c_int;

/// A tool that takes ranges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranges {
    push: Push,
    pop: Pop,
}

impl Ranges {
    /// The tool that the environment names, asked once; none where there is none, or it takes no ranges.
    pub(crate) fn get() -> Option<Ranges> {
        static TOOL: OnceLock<Option<Ranges>> = OnceLock::new();
        *TOOL.get_or_init(|| {
            let name = if size_of::<usize>() == 8 { "NVTX_INJECTION64_PATH" } else { "NVTX_INJECTION32_PATH" };
            let path = CString::new(std::env::var_os(name)?.into_encoded_bytes()).ok()?;
            // SAFETY: whoever named the library wants it in this process; names end with a zero byte, and the function is what NVTX says.
            let attached = unsafe {
                let library = dlopen(path.as_ptr(), 1);
                if library.is_null() {
                    return None;
                }
                let start = dlsym(library, c"InitializeInjectionNvtx2".as_ptr());
                if start.is_null() {
                    return None;
                }
                type Start = unsafe extern "C" fn(unsafe extern "C" fn(u32) -> *const c_void) -> c_int;
                let start = std::mem::transmute::<*mut c_void, Start>(start);
                start(export_table) != 0
            };
            let [push, pop] = [PUSH, POP].map(|i| FUNCTIONS[CORE][i].load(Ordering::Acquire));
            if !attached || push.is_null() || pop.is_null() {
                return None;
            }
            // SAFETY: the tool wrote functions of these types there.
            unsafe {
                Some(Ranges { push: std::mem::transmute::<*mut c_void, Push>(push), pop: std::mem::transmute::<*mut c_void, Pop>(pop) })
            }
        })
    }
    /// A range of that name around some work.
    pub(crate) fn around<T>(self, name: &CStr, work: impl FnOnce() -> T) -> T {
        // SAFETY: the tool's functions take a text that ends with a zero byte, and end the range of this thread that began last.
        unsafe { (self.push)(name.as_ptr()) };
        let out = work();
        // SAFETY: as above.
        unsafe { (self.pop)() };
        out
    }
}
