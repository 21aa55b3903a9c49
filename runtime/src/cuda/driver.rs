//! The CUDA driver as a table of functions, found at run time: nothing of CUDA is needed to build a program or to start it.

use super::Rows;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

unsafe extern "C" {
    pub(super) fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    pub(super) fn dlsym(library: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

/// A handle of the driver.
pub(super) type Handle = *mut c_void;

/// Why a call of the driver failed, with the name of the function.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refused {
    pub(super) function: &'static str,
    pub(super) code: c_int,
    pub(super) text: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} answers {}: {}", self.function, self.code, self.text)
    }
}

/// A choice about a launch (`CUlaunchAttribute`): its number, and a value of up to 64 bytes, of which the runtime sets a word.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct LaunchAttribute {
    id: c_int,
    _pad: c_int,
    value: [u64; 8],
}
impl LaunchAttribute {
    /// The launch may begin while the one before it in the stream ends (`CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION`).
    pub(super) const OVERLAP: LaunchAttribute = LaunchAttribute { id: 6, _pad: 0, value: [1, 0, 0, 0, 0, 0, 0, 0] };
}

/// How a kernel is launched (`CUlaunchConfig`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct LaunchConfig {
    /// Blocks along three axes.
    pub(super) grid: [c_uint; 3],
    /// Threads of a block along three axes.
    pub(super) block: [c_uint; 3],
    /// Bytes of shared memory of a block.
    pub(super) shared: c_uint,
    /// The stream.
    pub(super) stream: Handle,
    /// Attributes, and how many there are.
    pub(super) attributes: *const LaunchAttribute,
    pub(super) count: c_uint,
}

/// Rows as the tensor memory accelerator knows them (`CUtensorMap`), in the driver's own words.
#[repr(C, align(128))]
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorMap([u64; 16]);

/// `cuTensorMapEncodeTiled`: the map, element type, dimensions, address, extents, strides in bytes from the second dimension on, box, element
/// strides, and how elements are interleaved, swizzled, brought to the second cache, and filled in where there are none.
type EncodeTiled = unsafe extern "C" fn(
    *mut TensorMap,
    c_int,
    c_uint,
    u64,
    *const u64,
    *const u64,
    *const c_uint,
    *const c_uint,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

macro_rules! driver {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal ($($arg:ident: $ty:ty),*);)*) => {
        /// The functions of the driver that the runtime calls; see the CUDA driver API reference for each.
        #[derive(Debug)]
        pub(super) struct Driver {
            error_text: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int,
            /// Drivers before CUDA 12 lack it; what it serves has another form.
            encode_tiled: Option<EncodeTiled>,
            $($name: unsafe extern "C" fn($($ty),*) -> c_int,)*
        }

        impl Driver {
            fn load() -> Result<Driver, String> {
                // SAFETY: the driver's library runs no code of ours when it is loaded, and the names end with a zero byte.
                let library = [c"libcuda.so.1", c"libcuda.so"].into_iter().map(|n| unsafe { dlopen(n.as_ptr(), 2) }).find(|l| !l.is_null());
                let library = library.ok_or("there is no CUDA driver on this machine (libcuda.so.1 cannot be loaded)")?;
                let symbol = |name: &CStr| {
                    // SAFETY: the library stays loaded, and the name ends with a zero byte.
                    let at = unsafe { dlsym(library, name.as_ptr()) };
                    if at.is_null() { Err(format!("the CUDA driver is too old: it has no {}", name.to_string_lossy())) } else { Ok(at) }
                };
                // SAFETY: each symbol is the function that the driver API names so, with the arguments stated here.
                unsafe {
                    Ok(Driver {
                        error_text: std::mem::transmute::<Handle, unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int>(symbol(c"cuGetErrorString")?),
                        encode_tiled: std::mem::transmute::<Handle, Option<EncodeTiled>>(dlsym(library, c"cuTensorMapEncodeTiled".as_ptr())),
                        $($name: std::mem::transmute::<Handle, unsafe extern "C" fn($($ty),*) -> c_int>(symbol($symbol)?),)*
                    })
                }
            }
            $($(#[$doc])*
            ///
            /// # Safety
            /// As the driver API has it.
            #[allow(clippy::too_many_arguments, reason = "those of the driver")]
            pub(super) unsafe fn $name(&self, $($arg: $ty),*) -> Result<(), Refused> {
                // SAFETY: passed on from the caller.
                let code = unsafe { (self.$name)($($arg),*) };
                if code == 0 { Ok(()) } else { Err(self.refused(stringify!($name), code)) }
            })*
        }
    };
}

driver! {
    /// Starts the driver.
    init = c"cuInit" (flags: c_uint);
    /// How many devices there are.
    device_count = c"cuDeviceGetCount" (count: *mut c_int);
    /// Device `ordinal`.
    device = c"cuDeviceGet" (device: *mut c_int, ordinal: c_int);
    /// The name of a device.
    device_name = c"cuDeviceGetName" (name: *mut c_char, length: c_int, device: c_int);
    /// An attribute of a device.
    device_attribute = c"cuDeviceGetAttribute" (value: *mut c_int, attribute: c_int, device: c_int);
    /// The UUID of a device, or of the slice of one (MIG).
    device_uuid = c"cuDeviceGetUuid_v2" (uuid: *mut u8, device: c_int);
    /// The context that all users of a device in the process share.
    retain_context = c"cuDevicePrimaryCtxRetain" (context: *mut Handle, device: c_int);
    /// Gives it back.
    release_context = c"cuDevicePrimaryCtxRelease_v2" (device: c_int);
    /// Makes a context that of the calling thread.
    set_context = c"cuCtxSetCurrent" (context: Handle);
    /// Memory of the device.
    allocate = c"cuMemAlloc_v2" (at: *mut u64, bytes: usize);
    /// Gives it back.
    free = c"cuMemFree_v2" (at: u64);
    /// Memory of the host that the device reads and writes by itself.
    allocate_host = c"cuMemAllocHost_v2" (at: *mut Handle, bytes: usize);
    /// Gives it back.
    free_host = c"cuMemFreeHost" (at: Handle);
    /// Copies to the device.
    copy_to_device = c"cuMemcpyHtoDAsync_v2" (to: u64, from: *const c_void, bytes: usize, stream: Handle);
    /// Copies from the device.
    copy_from_device = c"cuMemcpyDtoHAsync_v2" (to: *mut c_void, from: u64, bytes: usize, stream: Handle);
    /// Copies within the device.
    copy_within_device = c"cuMemcpyDtoDAsync_v2" (to: u64, from: u64, bytes: usize, stream: Handle);
    /// Fills memory of the device.
    fill = c"cuMemsetD8Async" (to: u64, value: u8, bytes: usize, stream: Handle);
    /// Loads compiled kernels.
    load_module = c"cuModuleLoadData" (module: *mut Handle, image: *const c_void);
    /// Unloads them.
    unload_module = c"cuModuleUnload" (module: Handle);
    /// A kernel by its name.
    function = c"cuModuleGetFunction" (function: *mut Handle, module: Handle, name: *const c_char);
    /// Sets an attribute of a kernel.
    set_function_attribute = c"cuFuncSetAttribute" (function: Handle, attribute: c_int, value: c_int);
    /// Launches a kernel.
    launch = c"cuLaunchKernelEx" (config: *const LaunchConfig, function: Handle, arguments: *mut *mut c_void, extra: *mut *mut c_void);
    /// A stream.
    create_stream = c"cuStreamCreate" (stream: *mut Handle, flags: c_uint);
    /// Destroys it.
    destroy_stream = c"cuStreamDestroy_v2" (stream: Handle);
    /// Waits for all that a stream was given.
    synchronize = c"cuStreamSynchronize" (stream: Handle);
    /// From here on a stream's work becomes a graph.
    begin_capture = c"cuStreamBeginCapture_v2" (stream: Handle, mode: c_int);
    /// The graph.
    end_capture = c"cuStreamEndCapture" (stream: Handle, graph: *mut Handle);
    /// Makes a graph ready to launch.
    instantiate = c"cuGraphInstantiateWithFlags" (executable: *mut Handle, graph: Handle, flags: u64);
    /// Launches it.
    launch_graph = c"cuGraphLaunch" (executable: Handle, stream: Handle);
    /// Destroys a graph.
    destroy_graph = c"cuGraphDestroy" (graph: Handle);
    /// Destroys one that was made ready.
    destroy_executable = c"cuGraphExecDestroy" (executable: Handle);
    /// An event, which notes the time.
    create_event = c"cuEventCreate" (event: *mut Handle, flags: c_uint);
    /// Has a stream note it where its work has come to.
    record_event = c"cuEventRecordWithFlags" (event: Handle, stream: Handle, flags: c_uint);
    /// Milliseconds between two events.
    elapsed = c"cuEventElapsedTime" (milliseconds: *mut f32, from: Handle, to: Handle);
    /// Destroys an event.
    destroy_event = c"cuEventDestroy_v2" (event: Handle);
}

impl Driver {
    /// The driver of this machine, loaded and started once.
    pub(super) fn get() -> Result<&'static Driver, String> {
        static DRIVER: OnceLock<Result<Driver, String>> = OnceLock::new();
        let loaded = DRIVER.get_or_init(|| {
            let driver = Driver::load()?;
            // SAFETY: the flags must be 0.
            unsafe { driver.init(0) }.map_err(|e| format!("the CUDA driver does not start: {e}"))?;
            Ok(driver)
        });
        loaded.as_ref().map_err(Clone::clone)
    }
    /// Whether it makes maps.
    pub(super) fn makes_maps(&self) -> bool {
        self.encode_tiled.is_some()
    }
    /// A map of rows. Nothing is read there: the address is only written down.
    pub(super) fn map_of(&self, r: &Rows) -> Result<TensorMap, Refused> {
        const UINT16: c_int = 1;
        const SWIZZLE_128B: c_int = 3;
        const PROMOTION_L2_256B: c_int = 3;
        const NOT_SUPPORTED: c_int = 801;
        let function = "encode_tiled";
        let Some(encode) = self.encode_tiled else {
            return Err(Refused { function, code: NOT_SUPPORTED, text: "this driver makes no maps".into() });
        };
        let bytes = size_of::<u16>();
        let mut map = TensorMap([0; 16]);
        let (extents, strides) = ([r.depth as u64, r.rows as u64], [(r.pitch * bytes) as u64]);
        let sizes = [(Rows::BOX / bytes) as c_uint, r.of_box as c_uint];
        // SAFETY: every list has as many numbers as two dimensions ask for, and the map is aligned as it must be.
        let code = unsafe {
            encode(
                &mut map,
                UINT16,
                2,
                r.at,
                extents.as_ptr(),
                strides.as_ptr(),
                sizes.as_ptr(),
                [1, 1].as_ptr(),
                0,
                SWIZZLE_128B,
                PROMOTION_L2_256B,
                0,
            )
        };
        if code == 0 { Ok(map) } else { Err(self.refused(function, code)) }
    }
    fn refused(&self, function: &'static str, code: c_int) -> Refused {
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: the driver gives a text that lives as long as it does, or none.
        let text = unsafe {
            (self.error_text)(code, &mut text);
            if text.is_null() { "an error without a text".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        };
        Refused { function, code, text }
    }
}
