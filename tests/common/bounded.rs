//! A GStreamer source with a pool of four buffers, as drivers and hardware decoders have them.

use gst::glib;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;
use gstreamer as gst;
use gstreamer_video::gst_base;

/// The name under which descriptions find it.
pub const NAME: &str = "boundedsrc";
/// Buffers in its pool.
pub const BUFFERS: u32 = 4;
/// Its pictures, grey and 10 ms apart.
pub const CAPS: &str = "video/x-raw,format=(string)GRAY8,width=(int)64,height=(int)48,framerate=(fraction)100/1";

glib::wrapper! {
    /// The source.
    pub struct BoundedSrc(ObjectSubclass<imp::BoundedSrc>) @extends gst_base::PushSrc, gst_base::BaseSrc, gst::Element, gst::Object;
}

/// Makes it known to GStreamer.
pub fn register() {
    gst::init().expect("GStreamer");
    gst::Element::register(None, NAME, gst::Rank::NONE, BoundedSrc::static_type()).expect("registers");
}

mod imp {
    use super::*;
    use std::sync::{LazyLock, Mutex};
    use std::time::Duration;

    #[derive(Default)]
    pub struct BoundedSrc {
        pool: Mutex<Option<gst::BufferPool>>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for BoundedSrc {
        const NAME: &'static str = "TestBoundedSrc";
        type Type = super::BoundedSrc;
        type ParentType = gst_base::PushSrc;
    }

    impl ObjectImpl for BoundedSrc {
        fn constructed(&self) {
            self.parent_constructed();
            self.obj().set_live(true);
            self.obj().set_format(gst::Format::Time);
            self.obj().set_do_timestamp(true);
        }
    }

    impl GstObjectImpl for BoundedSrc {}

    impl ElementImpl for BoundedSrc {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new("Bounded", "Source/Video", "Four buffers", "test")
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let caps = CAPS.parse::<gst::Caps>().expect("caps");
                let (src, always) = (gst::PadDirection::Src, gst::PadPresence::Always);
                vec![gst::PadTemplate::new("src", src, always, &caps).expect("a template")]
            });
            TEMPLATES.as_ref()
        }
    }

    impl BaseSrcImpl for BoundedSrc {
        fn start(&self) -> Result<(), gst::ErrorMessage> {
            let pool = gst::BufferPool::new();
            let mut config = pool.config();
            let caps = CAPS.parse::<gst::Caps>().expect("caps");
            config.set_params(Some(&caps), 64 * 48, BUFFERS, BUFFERS);
            pool.set_config(config).expect("config");
            pool.set_active(true).expect("active");
            *self.pool.lock().expect("no panic") = Some(pool);
            Ok(())
        }

        fn unlock(&self) -> Result<(), gst::ErrorMessage> {
            if let Some(pool) = &*self.pool.lock().expect("no panic") {
                pool.set_flushing(true);
            }
            Ok(())
        }

        fn stop(&self) -> Result<(), gst::ErrorMessage> {
            if let Some(pool) = self.pool.lock().expect("no panic").take() {
                let _ = pool.set_active(false);
            }
            Ok(())
        }
    }

    impl PushSrcImpl for BoundedSrc {
        fn create(
            &self,
            _: Option<&mut gst::BufferRef>,
        ) -> Result<gst_base::subclass::base_src::CreateSuccess, gst::FlowError> {
            std::thread::sleep(Duration::from_millis(10));
            let pool = self.pool.lock().expect("no panic").clone().ok_or(gst::FlowError::Flushing)?;
            Ok(gst_base::subclass::base_src::CreateSuccess::NewBuffer(pool.acquire_buffer(None)?))
        }
    }
}
