//! The pool a decoder's buffer comes from.

use gst::glib::translate::from_glib_none;
use gst::prelude::*;
use gstreamer as gst;

/// The most buffers that the pool of this buffer makes; `None` where it has no pool or no limit.
pub fn limit(buffer: &gst::BufferRef) -> Option<u32> {
    // SAFETY: `as_ptr` is valid for as long as `buffer` is borrowed, and a buffer holds a reference to its pool, so
    // the pointer is null or valid here; `from_glib_none` takes a reference of its own.
    let pool: gst::BufferPool = unsafe {
        let pool = (*buffer.as_ptr()).pool;
        if pool.is_null() {
            return None;
        }
        from_glib_none(pool)
    };
    match pool.config().params() {
        Some((_, _, _, most)) if most > 0 => Some(most),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_a_bounded_pool_is_found() {
        super::super::plugins::init().expect("GStreamer");
        assert_eq!(limit(&gst::Buffer::with_size(16).expect("buffer")), None);
        for (most, found) in [(5, Some(5)), (0, None)] {
            let pool = gst::BufferPool::new();
            let mut config = pool.config();
            config.set_params(None, 16, 1, most);
            pool.set_config(config).expect("config");
            pool.set_active(true).expect("active");
            let buffer = pool.acquire_buffer(None).expect("buffer");
            assert_eq!(limit(&buffer), found);
            drop(buffer);
            pool.set_active(false).expect("inactive");
        }
    }
}
