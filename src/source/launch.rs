//! `launch = "…"`: any GStreamer source.

use gstreamer as gst;

/// Builds a description's elements without starting them.
///
/// # Errors
/// What GStreamer says of it, and what helps where an element is missing.
pub fn parse(description: &str) -> Result<gst::Bin, String> {
    super::plugins::init()?;
    let parsed = gst::parse::bin_from_description(description, true);
    // A description that ends in caps needs an element to end in.
    let parsed = parsed.or_else(|_| gst::parse::bin_from_description(&format!("{description} ! identity"), true));
    parsed.map_err(|e| {
        let text = e.message().to_owned();
        match e.kind::<gst::ParseError>() {
            // GStreamer says: no element "NAME".
            Some(gst::ParseError::NoSuchElement) => match text.split('"').nth(1) {
                Some(name) => super::plugins::missing(name),
                None => text,
            },
            _ => text,
        }
    })
}
