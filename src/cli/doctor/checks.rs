//! The things that are looked at.

use super::{Finding, State, count};
use framegate::infer::runtime;
use framegate::source::plugins;
use rustix::process::{Resource, getrlimit};
use std::path::PathBuf;

/// What a set of GStreamer elements is for. Each inner list holds alternatives, the software one first.
struct Purpose {
    name: &'static str,
    required: bool,
    elements: &'static [&'static [&'static str]],
}

const PURPOSES: [Purpose; 12] = [
    Purpose { name: "video frames", required: true, elements: &[&["appsink"], &["videoconvert"], &["parsebin"]] },
    Purpose {
        name: "RTSP cameras",
        required: true,
        elements: &[&["rtspsrc"], &["rtpjitterbuffer"], &["rtph264depay"], &["rtph265depay"]],
    },
    Purpose {
        name: "H.264",
        required: true,
        elements: &[&["h264parse"], &["avdec_h264", "openh264dec", "vah264dec", "nvh264dec", "v4l2h264dec"]],
    },
    Purpose {
        name: "H.265",
        required: true,
        elements: &[&["h265parse"], &["avdec_h265", "libde265dec", "vah265dec", "nvh265dec", "v4l2h265dec"]],
    },
    Purpose { name: "cameras at this machine", required: true, elements: &[&["v4l2src"], &["jpegdec"]] },
    Purpose { name: "MP4 and Matroska files", required: true, elements: &[&["qtdemux"], &["matroskademux"]] },
    Purpose {
        name: "MJPEG over HTTP",
        required: false,
        elements: &[&["souphttpsrc"], &["multipartdemux"], &["jpegdec"]],
    },
    Purpose { name: "HLS", required: false, elements: &[&["souphttpsrc"], &["hlsdemux", "hlsdemux2"], &["tsdemux"]] },
    Purpose { name: "VP8 and VP9", required: false, elements: &[&["vp8dec", "avdec_vp8"], &["vp9dec", "avdec_vp9"]] },
    Purpose { name: "AV1", required: false, elements: &[&["dav1ddec", "av1dec", "avdec_av1", "vaav1dec", "nvav1dec"]] },
    Purpose { name: "MPEG-2 and MPEG-4", required: false, elements: &[&["avdec_mpeg2video"], &["avdec_mpeg4"]] },
    Purpose {
        name: "recording and test scenes",
        required: false,
        elements: &[&["x264enc", "openh264enc", "vah264enc", "nvh264enc"], &["matroskamux"], &["mp4mux"]],
    },
];

/// Looks at everything.
pub(super) fn all() -> Vec<Finding> {
    let mut out = gstreamer();
    out.push(inference());
    out.push(nvidia());
    out.push(opencv());
    out.push(soapy());
    out.extend([cameras(), real_time(), systemd()]);
    out
}

fn gstreamer() -> Vec<Finding> {
    if let Err(error) = plugins::init() {
        let fix = "apt-get install libgstreamer1.0-0 gstreamer1.0-plugins-base";
        return vec![Finding::bad("GStreamer", State::Missing, error, fix)];
    }
    let mut out = vec![Finding::good("GStreamer", gstreamer::version_string().trim_start_matches("GStreamer "))];
    out.extend(PURPOSES.iter().map(purpose));
    out.extend(blacklisted());
    out
}

fn there(element: &str) -> bool {
    gstreamer::ElementFactory::find(element).is_some()
}

fn purpose(purpose: &Purpose) -> Finding {
    let lacking: Vec<_> =
        purpose.elements.iter().filter(|alternatives| !alternatives.iter().any(|e| there(e))).collect();
    if lacking.is_empty() {
        let used = purpose.elements.iter().filter_map(|a| a.iter().find(|e| there(e)).copied());
        return Finding::good(purpose.name, used.collect::<Vec<_>>().join(", "));
    }
    let state = if purpose.required { State::Missing } else { State::Absent };
    let names: Vec<_> = lacking.iter().map(|a| a.join(" or ")).collect();
    let mut packages: Vec<_> = lacking.iter().filter_map(|a| plugins::package(a[0])).collect();
    packages.sort_unstable();
    packages.dedup();
    let fix = if packages.is_empty() {
        format!("gst-inspect-1.0 {}", lacking[0][0])
    } else {
        format!("apt-get install {}", packages.join(" "))
    };
    Finding::bad(purpose.name, state, format!("no GStreamer element {}", names.join(", ")), fix)
}

/// A plugin whose file is there and whose elements are not: the registry's cache remembers a failure that is over.
fn blacklisted() -> Option<Finding> {
    let pairs =
        [("avdec_h264", "libgstlibav.so"), ("rtspsrc", "libgstrtsp.so"), ("h264parse", "libgstvideoparsersbad.so")];
    let (element, file) = pairs.into_iter().find(|(element, file)| !there(element) && plugin_file(file).is_some())?;
    let file = plugin_file(file)?;
    Some(Finding::bad(
        "GStreamer's cache",
        State::Missing,
        format!("{} is installed, but GStreamer does not offer {element}: its cache is stale", file.display()),
        "rm -f ~/.cache/gstreamer-1.0/registry.*.bin",
    ))
}

fn plugin_file(name: &str) -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    folders.flatten().map(|d| d.path().join("gstreamer-1.0").join(name)).find(|p| p.is_file())
}

fn inference() -> Finding {
    match runtime::locate() {
        Ok((path, version)) => {
            let beside = |name: &str| path.parent().is_some_and(|folder| folder.join(name).is_file());
            let mut providers = vec!["cpu"];
            for (name, file) in [
                ("openvino", "libonnxruntime_providers_openvino.so"),
                ("cuda", "libonnxruntime_providers_cuda.so"),
                ("tensorrt", "libonnxruntime_providers_tensorrt.so"),
            ] {
                if beside(file) {
                    providers.push(name);
                }
            }
            Finding::good("ONNX Runtime", format!("{version}, {}; {}", providers.join(", "), path.display()))
        }
        Err(error) => {
            Finding::bad("ONNX Runtime", State::Missing, error.to_string().replace('\n', " "), "scripts/setup")
        }
    }
}

fn nvidia() -> Finding {
    match nvml_wrapper::Nvml::init() {
        Ok(nvml) => {
            let driver = nvml.sys_driver_version().unwrap_or_else(|_| "of unknown version".into());
            let gpus = nvml.device_count().unwrap_or(0);
            Finding::good("NVIDIA driver", format!("{driver}, {}", count(gpus as usize, "GPU")))
        }
        Err(_) if !std::path::Path::new("/proc/driver/nvidia").exists() => {
            Finding::good("NVIDIA driver", "none, and no need of it: there is no NVIDIA GPU in use here")
        }
        Err(error) => Finding::bad(
            "NVIDIA driver",
            State::Absent,
            format!("cannot be asked: {error}"),
            "apt-get install nvidia-driver",
        ),
    }
}

fn opencv() -> Finding {
    // It is linked: without it this program would not have started.
    let version = opencv::core::get_version_string().unwrap_or_else(|_| "there".into());
    Finding::good("OpenCV", version)
}

fn soapy() -> Finding {
    match framegate::source::soapy_version() {
        Ok(version) => Finding::good("SoapySDR", version),
        Err(why) => Finding::bad(
            "SoapySDR",
            State::Absent,
            format!("no soapy:// receivers: {why}"),
            "apt-get install libsoapysdr0.8 soapysdr-module-all",
        ),
    }
}

fn cameras() -> Finding {
    let devices: Vec<PathBuf> = std::fs::read_dir("/dev")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("video")))
        .collect();
    if devices.is_empty() {
        return Finding::good("camera devices", "none at this machine");
    }
    let closed = devices.iter().find(|path| {
        let opened = std::fs::File::open(path);
        matches!(opened, Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied)
    });
    match closed {
        None => Finding::good("camera devices", count(devices.len(), "device")),
        Some(path) => Finding::bad(
            "camera devices",
            State::Absent,
            format!("this user may not open {}", path.display()),
            "usermod -aG video \"$USER\", then log in again",
        ),
    }
}

fn real_time() -> Finding {
    let limit = getrlimit(Resource::Rtprio).current;
    // No limit reads as `None`.
    if rustix::process::geteuid().is_root() || limit.is_none_or(|l| l > 0) {
        return Finding::good("real-time priority", "allowed");
    }
    Finding::bad(
        "real-time priority",
        State::Absent,
        "not allowed to this user: [threads] realtime will be ignored",
        "set LimitRTPRIO=50 in the unit, or rtprio in /etc/security/limits.conf",
    )
}

fn systemd() -> Finding {
    if std::path::Path::new("/run/systemd/system").is_dir() {
        return Finding::good("systemd", "runs");
    }
    Finding::bad(
        "systemd",
        State::Absent,
        "does not run here: nothing restarts framegate",
        "scripts/run starts it by hand",
    )
}
