//! SoapySDR's C interface, version 0.8, loaded at run time: all the unsafe code of the source.

use std::ffi::{CStr, CString, c_char, c_double, c_int, c_long, c_longlong, c_void};
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null};
use std::time::Duration;

/// Version of the binary interface that is spoken here.
const ABI: &str = "0.8";
/// Where the library is named, if it is not where the system looks.
const VARIABLE: &str = "FRAMEGATE_SOAPYSDR";
/// Its names.
const NAMES: [&str; 2] = ["libSoapySDR.so.0.8", "libSoapySDR.so"];
/// Receiving, as a direction.
const RX: c_int = 1;
/// Results of reading that are no trouble.
const TIMEOUT: c_int = -1;
const OVERFLOW: c_int = -4;
/// The time that came with samples is one.
const HAS_TIME: c_int = 1 << 2;

type Handle = NonNull<c_void>;

/// Declares the table of functions and how it is filled: each is looked up under its own name, once.
macro_rules! functions {
    ($($field:ident = $name:literal : fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The library's functions.
        pub struct Library {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            /// Looks the functions up.
            ///
            /// # Safety
            /// The library speaks SoapySDR's C interface in version 0.8, and is never closed.
            unsafe fn resolve(library: &libloading::Library) -> Result<Self, String> {
                Ok(Self {
                    $($field: {
                        // SAFETY: by contract of this function the signature is that of SoapySDR 0.8.
                        let symbol = unsafe { library.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>($name) };
                        *symbol.map_err(|_| format!("it has no function {}", String::from_utf8_lossy($name)))?
                    },)*
                })
            }
        }
    };
}

functions! {
    lib_version = b"SoapySDR_getLibVersion": fn() -> *const c_char;
    err_to_str = b"SoapySDR_errToStr": fn(c_int) -> *const c_char;
    last_error = b"SoapySDRDevice_lastError": fn() -> *const c_char;
    make = b"SoapySDRDevice_makeStrArgs": fn(*const c_char) -> *mut c_void;
    unmake = b"SoapySDRDevice_unmake": fn(*mut c_void) -> c_int;
    set_antenna = b"SoapySDRDevice_setAntenna": fn(*mut c_void, c_int, usize, *const c_char) -> c_int;
    set_gain_mode = b"SoapySDRDevice_setGainMode": fn(*mut c_void, c_int, usize, bool) -> c_int;
    has_gain_mode = b"SoapySDRDevice_hasGainMode": fn(*const c_void, c_int, usize) -> bool;
    set_gain = b"SoapySDRDevice_setGain": fn(*mut c_void, c_int, usize, c_double) -> c_int;
    set_frequency = b"SoapySDRDevice_setFrequency": fn(*mut c_void, c_int, usize, c_double, *const c_void) -> c_int;
    set_correction = b"SoapySDRDevice_setFrequencyCorrection": fn(*mut c_void, c_int, usize, c_double) -> c_int;
    set_rate = b"SoapySDRDevice_setSampleRate": fn(*mut c_void, c_int, usize, c_double) -> c_int;
    rate = b"SoapySDRDevice_getSampleRate": fn(*const c_void, c_int, usize) -> c_double;
    setup = b"SoapySDRDevice_setupStream":
        fn(*mut c_void, c_int, *const c_char, *const usize, usize, *const c_void) -> *mut c_void;
    close = b"SoapySDRDevice_closeStream": fn(*mut c_void, *mut c_void) -> c_int;
    mtu = b"SoapySDRDevice_getStreamMTU": fn(*const c_void, *mut c_void) -> usize;
    activate = b"SoapySDRDevice_activateStream": fn(*mut c_void, *mut c_void, c_int, c_longlong, usize) -> c_int;
    deactivate = b"SoapySDRDevice_deactivateStream": fn(*mut c_void, *mut c_void, c_int, c_longlong) -> c_int;
    read = b"SoapySDRDevice_readStream":
        fn(*mut c_void, *mut c_void, *const *mut c_void, usize, *mut c_int, *mut c_longlong, c_long) -> c_int;
}

/// A text of the library's, which may be null.
///
/// # Safety
/// `text` is null or ends with a zero, and stays while this function runs.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by contract of this function.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

impl Library {
    /// Loads it, from this path or from where it usually is. It stays for good: drivers that it loads have threads of
    /// their own.
    ///
    /// # Errors
    /// It is not there, or of another version.
    pub fn load(path: Option<&Path>) -> Result<&'static Self, String> {
        let named = path.map(Path::to_owned).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
        let usual = NAMES.map(PathBuf::from);
        let paths: &[PathBuf] = named.as_ref().map_or(&usual[..], std::slice::from_ref);
        let mut missing = String::new();
        for path in paths {
            // SAFETY: loading runs the library's initialisers. It is one that the operator names, or SoapySDR where the
            // system has it.
            match unsafe { libloading::Library::new(path.as_path()) } {
                Ok(library) => return Self::of(library).map_err(|e| format!("{}: {e}", path.display())),
                Err(e) if missing.is_empty() => missing = reason(&e),
                Err(_) => {}
            }
        }
        Err(format!(
            "SoapySDR is not there ({missing}); install libsoapysdr0.8 and the receiver's soapysdr-module-…, or \
                     name the library in {VARIABLE}"
        ))
    }

    fn of(library: libloading::Library) -> Result<&'static Self, String> {
        // Whatever becomes of it: what is loaded stays.
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        // SAFETY: this function has had this signature since there is a version of the interface.
        let version = unsafe { library.get::<unsafe extern "C" fn() -> *const c_char>(b"SoapySDR_getABIVersion") };
        let version = version.map_err(|_| "it is not SoapySDR".to_owned())?;
        // SAFETY: it takes nothing, and returns a static text.
        let version = unsafe { text(version()) };
        if version.split('-').next() != Some(ABI) {
            return Err(format!("its binary interface is {version}, and framegate speaks {ABI}"));
        }
        // SAFETY: it says that it speaks this version, and it is never closed.
        let functions = unsafe { Self::resolve(library) }?;
        Ok(Box::leak(Box::new(functions)))
    }

    /// Its version.
    pub fn version(&self) -> String {
        // SAFETY: it takes nothing, and returns a static text.
        unsafe { text((self.lib_version)()) }
    }

    /// What the library says to the last call of this thread that failed.
    fn last_error(&self) -> String {
        // SAFETY: it takes nothing, and returns a text that belongs to this thread until its next call.
        let said = unsafe { text((self.last_error)()) };
        if said.is_empty() { "it does not say why".to_owned() } else { said }
    }

    /// What a code means.
    fn meaning(&self, code: c_int) -> String {
        // SAFETY: any code is allowed; the text is static.
        unsafe { text((self.err_to_str)(code)) }
    }

    fn ok(&self, what: &str, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        Err(format!("it does not take {what}: {} ({})", self.last_error(), self.meaning(code)))
    }
}

/// The loader's own words, which the error keeps in its source.
fn reason(e: &dyn std::error::Error) -> String {
    e.source().map_or_else(|| e.to_string(), ToString::to_string)
}

/// An open device, and its stream once there is one. Both are closed when it is dropped.
pub struct Device {
    library: &'static Library,
    device: Handle,
    stream: Option<Handle>,
}

// SAFETY: SoapySDR's devices belong to no thread; this one is used by its owner only, one call at a time.
unsafe impl Send for Device {}

/// What reading gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// So many samples, and when the first one was taken by the device's clock, nanoseconds, where it says so.
    Samples(usize, Option<i64>),
    /// Samples were lost in the device or its driver.
    Overflow,
    /// Nothing came in time.
    Nothing,
}

impl Device {
    /// Opens the device that these arguments describe, as in `driver=rtlsdr,serial=1`.
    ///
    /// # Errors
    /// What the library says.
    pub fn open(library: &'static Library, arguments: &str) -> Result<Self, String> {
        let text = CString::new(arguments).map_err(|_| "a zero character is in the device's arguments".to_owned())?;
        // SAFETY: the text ends with a zero and outlives the call.
        let device = NonNull::new(unsafe { (library.make)(text.as_ptr()) });
        let device = device.ok_or_else(|| format!("there is no such device: {}", library.last_error()))?;
        Ok(Self { library, device, stream: None })
    }

    /// Chooses the antenna of a channel.
    ///
    /// # Errors
    /// What the library says.
    pub fn set_antenna(&mut self, channel: usize, name: &str) -> Result<(), String> {
        let text = CString::new(name).map_err(|_| "a zero character is in the antenna's name".to_owned())?;
        // SAFETY: the device is open; the text ends with a zero and outlives the call.
        let code = unsafe { (self.library.set_antenna)(self.device.as_ptr(), RX, channel, text.as_ptr()) };
        self.library.ok(&format!("the antenna `{name}`"), code)
    }

    /// Sets the amplification of a channel in dB, or leaves it to the device where that can do it.
    ///
    /// # Errors
    /// What the library says.
    pub fn set_gain(&mut self, channel: usize, db: Option<f64>) -> Result<(), String> {
        let (library, device) = (self.library, self.device.as_ptr());
        // SAFETY: the device is open.
        if unsafe { (library.has_gain_mode)(device, RX, channel) } {
            // SAFETY: the device is open.
            library.ok("the gain's mode", unsafe { (library.set_gain_mode)(device, RX, channel, db.is_none()) })?;
        }
        let Some(db) = db else { return Ok(()) };
        // SAFETY: the device is open.
        library.ok("the gain", unsafe { (library.set_gain)(device, RX, channel, db) })
    }

    /// Tunes a channel, Hz.
    ///
    /// # Errors
    /// What the library says.
    pub fn set_frequency(&mut self, channel: usize, hz: f64) -> Result<(), String> {
        // SAFETY: the device is open; null arguments are none.
        let code = unsafe { (self.library.set_frequency)(self.device.as_ptr(), RX, channel, hz, null()) };
        self.library.ok("the frequency", code)
    }

    /// Corrects the crystal of a channel, parts per million.
    ///
    /// # Errors
    /// What the library says.
    pub fn set_correction(&mut self, channel: usize, ppm: f64) -> Result<(), String> {
        // SAFETY: the device is open.
        let code = unsafe { (self.library.set_correction)(self.device.as_ptr(), RX, channel, ppm) };
        self.library.ok("the correction", code)
    }

    /// Sets the sample rate of a channel, and says what it has become; 0 where the device does not say.
    ///
    /// # Errors
    /// What the library says.
    pub fn set_rate(&mut self, channel: usize, rate: f64) -> Result<f64, String> {
        let (library, device) = (self.library, self.device.as_ptr());
        // SAFETY: the device is open.
        library.ok("the sample rate", unsafe { (library.set_rate)(device, RX, channel, rate) })?;
        // SAFETY: the device is open.
        Ok(unsafe { (library.rate)(device, RX, channel) })
    }

    /// Begins to receive complex floats on a channel. Says how many samples it likes to give at once, at least 1.
    ///
    /// # Errors
    /// What the library says.
    pub fn start(&mut self, channel: usize) -> Result<usize, String> {
        let (library, device) = (self.library, self.device.as_ptr());
        // SAFETY: the device is open; format and channel outlive the call, of channels there is one; null arguments are
        // none.
        let stream = unsafe { (library.setup)(device, RX, c"CF32".as_ptr(), &raw const channel, 1, null()) };
        let stream = NonNull::new(stream).ok_or_else(|| format!("it gives no stream: {}", library.last_error()))?;
        self.stream = Some(stream);
        // SAFETY: device and stream are open.
        library.ok("the start", unsafe { (library.activate)(device, stream.as_ptr(), 0, 0, 0) })?;
        // SAFETY: device and stream are open.
        Ok(unsafe { (library.mtu)(device, stream.as_ptr()) }.max(1))
    }

    /// Waits for samples, and puts them at the start of `out`.
    ///
    /// # Errors
    /// What the library says; the device is then of no use.
    pub fn read(&mut self, out: &mut [[f32; 2]], patience: Duration) -> Result<Read, String> {
        let Some(stream) = self.stream else { return Err("it was not started".to_owned()) };
        let buffers = [out.as_mut_ptr().cast::<c_void>()];
        let (mut flags, mut time) = (0, 0);
        let patience = c_long::try_from(patience.as_micros()).unwrap_or(c_long::MAX);
        // SAFETY: device and stream are open. The stream has one channel and complex floats, as a pair of floats is: the
        // one buffer holds as many as it is told. Flags and time are written to before it returns.
        let code = unsafe {
            (self.library.read)(
                self.device.as_ptr(),
                stream.as_ptr(),
                buffers.as_ptr(),
                out.len(),
                &raw mut flags,
                &raw mut time,
                patience,
            )
        };
        match code {
            1.. => Ok(Read::Samples(out.len().min(code as usize), (flags & HAS_TIME != 0).then_some(time))),
            OVERFLOW => Ok(Read::Overflow),
            0 | TIMEOUT => Ok(Read::Nothing),
            _ => Err(format!("receiving failed: {}", self.library.meaning(code))),
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let (library, device) = (self.library, self.device.as_ptr());
        if let Some(stream) = self.stream.take() {
            // SAFETY: device and stream are open, and nobody uses either any more. What goes wrong can help nobody now.
            unsafe {
                (library.deactivate)(device, stream.as_ptr(), 0, 0);
                (library.close)(device, stream.as_ptr());
            }
        }
        // SAFETY: the device is open, and nobody uses it any more.
        unsafe { (library.unmake)(device) };
    }
}
