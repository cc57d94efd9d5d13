//! Pictures with what was found in them drawn in: for recordings and live previews.

use super::SinkError;
use crate::frame::{Detection, Picture, Record, clock};
use crate::infer::preprocess::{ChannelOrder, Fit, InputSpec, Layout, Preprocessor};
use crate::infer::tensor::DType;
use opencv::core::{CV_8UC3, Mat, MatTraitConst, MatTraitManual, Point, Rect, Scalar, Size};
use opencv::imgproc;

impl From<opencv::Error> for SinkError {
    fn from(e: opencv::Error) -> Self {
        Self(format!("drawing: {}", e.message))
    }
}

/// Turns pictures of any format into pictures to draw on. Keeps its scratch memory, so make one for each thread.
#[derive(Default)]
pub struct Canvas {
    pass: Option<Preprocessor>,
}

impl Canvas {
    /// The picture as viewed (turned, mirrored, with square pixels), scaled to `size` (width, height), as B, G, R
    /// bytes.
    ///
    /// # Errors
    /// The picture is empty or its planes are too short.
    pub fn read(&mut self, picture: &Picture, size: (u32, u32)) -> Result<Mat, SinkError> {
        let (width, height) = (size.0 as usize, size.1 as usize);
        let pass = match &mut self.pass {
            Some(p) if (p.spec().width, p.spec().height) == (width, height) => p,
            other => other.insert(Preprocessor::new(InputSpec {
                width,
                height,
                layout: Layout::Nhwc,
                channels: ChannelOrder::Bgr,
                dtype: DType::U8,
                fit: Fit::Stretch,
                mean: [0.0; 3],
                scale: [1.0; 3],
            })),
        };
        let mut mat = Mat::new_rows_cols_with_default(height as i32, width as i32, CV_8UC3, Scalar::default())?;
        pass.run(picture, None, mat.data_bytes_mut()?).map_err(|e| SinkError(e.to_string()))?;
        Ok(mat)
    }
}

/// Sizes that follow the picture's.
struct Style {
    /// Width of a box's line, pixels.
    line: i32,
    /// Scale of the font.
    font: f64,
    /// Width of the font's strokes, pixels.
    stroke: i32,
    /// Space around text, pixels.
    pad: i32,
}

/// The font of all drawings.
pub(super) const FONT: i32 = imgproc::FONT_HERSHEY_SIMPLEX;
const WHITE: [f64; 3] = [255.0; 3];
const GREEN: [f64; 3] = [80.0, 200.0, 80.0];
const RED: [f64; 3] = [60.0, 60.0, 235.0];

impl Style {
    fn of(size: Size) -> Self {
        // Made for 720 lines.
        let unit = f64::from(size.width.min(size.height)) / 720.0;
        Self {
            line: (2.0 * unit).round().clamp(1.0, 12.0) as i32,
            font: (0.55 * unit).clamp(0.35, 3.0),
            stroke: (1.2 * unit).round().clamp(1.0, 6.0) as i32,
            pad: (4.0 * unit).round().clamp(2.0, 24.0) as i32,
        }
    }

    /// Width, height above the base line, and depth below it.
    fn measure(&self, text: &str) -> opencv::Result<(i32, i32, i32)> {
        let mut below = 0;
        let size = imgproc::get_text_size(text, FONT, self.font, self.stroke, &mut below)?;
        Ok((size.width, size.height, below))
    }

    /// Height of the bar on top.
    fn bar(&self) -> opencv::Result<i32> {
        let (_, above, below) = self.measure("Hg")?;
        Ok(above + below + 2 * self.pad)
    }

    fn write(&self, mat: &mut Mat, text: &str, at: Point, color: [f64; 3]) -> opencv::Result<()> {
        imgproc::put_text(mat, text, at, FONT, self.font, scalar(color), self.stroke, imgproc::LINE_AA, false)
    }
}

/// A colour as OpenCV takes it.
pub(super) fn scalar(bgr: [f64; 3]) -> Scalar {
    Scalar::new(bgr[0], bgr[1], bgr[2], 0.0)
}

/// A vivid colour, always the same for a number; numbers near each other get colours far apart (golden ratio of hue).
fn color_of(number: u64) -> [f64; 3] {
    let hue = (number as f64 * 0.618_033_988_75 + 0.33).fract() * 6.0;
    let (sector, part) = (hue as usize % 6, hue.fract());
    let (high, low) = (250.0, 60.0);
    let (rise, fall) = (low + (high - low) * part, high - (high - low) * part);
    let [r, g, b] = [
        [high, rise, low],
        [fall, high, low],
        [low, high, rise],
        [low, fall, high],
        [rise, low, high],
        [high, low, fall],
    ][sector];
    [b, g, r]
}

/// Black or white, whichever reads better on the colour.
fn ink_on([b, g, r]: [f64; 3]) -> [f64; 3] {
    if 0.114 * b + 0.587 * g + 0.299 * r > 140.0 { [0.0; 3] } else { WHITE }
}

/// The font has ASCII only.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

/// Draws a record on its picture: boxes with labels, track ids and scores; landmarks; a bar on top with the stream,
/// the time, the latency, the rung and whether the frame was on time.
///
/// `mat` holds 8-bit B, G, R. It may be of another size than the source picture: coordinates are scaled.
///
/// # Errors
/// The picture is of another type, or OpenCV fails.
pub fn draw(mat: &mut Mat, record: &Record) -> Result<(), SinkError> {
    if mat.typ() != CV_8UC3 || mat.empty() {
        return Err(SinkError("there is no picture of 8-bit B, G, R to draw on".to_owned()));
    }
    let size = mat.size()?;
    let style = Style::of(size);
    let (w, h) = record.size.unwrap_or((size.width as u32, size.height as u32));
    let scale = [f64::from(size.width) / f64::from(w.max(1)), f64::from(size.height) / f64::from(h.max(1))];
    for d in record.annotations.detections.iter().flatten() {
        draw_detection(mat, d, scale, &style, record.inferred)?;
    }
    draw_bar(mat, record, &style)?;
    Ok(())
}

fn draw_detection(mat: &mut Mat, d: &Detection, scale: [f64; 2], style: &Style, inferred: bool) -> opencv::Result<()> {
    let size = mat.size()?;
    // Boxes may lie anywhere; just outside the picture is far enough for drawing.
    let place = |v: f32, axis: usize| {
        let limit = f64::from([size.width, size.height][axis]);
        (f64::from(v) * scale[axis]).clamp(-64.0, limit + 64.0).round() as i32
    };
    if d.bbox.iter().any(|v| v.is_nan()) {
        return Ok(());
    }
    let [x1, y1, x2, y2] = [place(d.bbox[0], 0), place(d.bbox[1], 1), place(d.bbox[2], 0), place(d.bbox[3], 1)];
    let color = color_of(d.track.map_or(u64::from(d.class), |t| t.wrapping_add(17)));
    let frame = Rect::new(x1, y1, (x2 - x1).max(0) + 1, (y2 - y1).max(0) + 1);
    // A box that the tracker carried is drawn finer than one that was seen.
    let line = if inferred { style.line } else { (style.line / 2).max(1) };
    imgproc::rectangle(mat, frame, scalar([0.0; 3]), line + 2, imgproc::LINE_8, 0)?;
    imgproc::rectangle(mat, frame, scalar(color), line, imgproc::LINE_8, 0)?;
    for p in &d.landmarks {
        let at = Point::new(place(p[0], 0), place(p[1], 1));
        imgproc::circle(mat, at, style.line + 2, scalar([0.0; 3]), imgproc::FILLED, imgproc::LINE_AA, 0)?;
        imgproc::circle(mat, at, style.line + 1, scalar(color), imgproc::FILLED, imgproc::LINE_AA, 0)?;
    }

    let mut lines = vec![match d.track {
        Some(track) => format!("{} #{track} {:.0}%", plain(&d.label), d.score * 100.0),
        None => format!("{} {:.0}%", plain(&d.label), d.score * 100.0),
    }];
    lines.extend(d.attributes.iter().map(|a| format!("{} {:.0}%", plain(&a.label), a.score * 100.0)));
    let mut width = 0;
    let (mut above, mut below) = (0, 0);
    for text in &lines {
        let (w, up, down) = style.measure(text)?;
        (width, above, below) = (width.max(w), above.max(up), below.max(down));
    }
    let row = above + below + style.pad;
    let height = row * lines.len() as i32 + style.pad / 2;
    // Above the box; within it where there is no room above; always within the picture and never under the bar.
    let left = (x1 - line / 2).min(size.width - width - 2 * style.pad).max(0);
    let bar = style.bar()?;
    let top = if y1 - height >= bar { y1 - height } else { y1.max(bar) };
    let label = Rect::new(left, top, width + 2 * style.pad, height);
    imgproc::rectangle(mat, label, scalar(color), imgproc::FILLED, imgproc::LINE_8, 0)?;
    for (i, text) in lines.iter().enumerate() {
        let base = top + row * i as i32 + style.pad / 2 + above + style.pad / 2;
        style.write(mat, text, Point::new(left + style.pad, base), ink_on(color))?;
    }
    Ok(())
}

fn draw_bar(mat: &mut Mat, record: &Record, style: &Style) -> opencv::Result<()> {
    let size = mat.size()?;
    let (_, above, _) = style.measure("Hg")?;
    let height = style.bar()?.min(size.height);
    darken(mat, height)?;

    let time = jiff::Timestamp::try_from(clock::wall(record.captured)).map(|t| format!("{t:.3}")).unwrap_or_default();
    let found = record.annotations.detections.as_ref().map(|d| format!("{} found", d.len()));
    let rung = match (record.inferred, record.rescued) {
        (false, _) => format!("{} (carried)", plain(&record.rung)),
        (true, true) => format!("{} (rescued)", plain(&record.rung)),
        (true, false) => plain(&record.rung),
    };
    let latency = format!("{:.1} ms", clock::millis(record.latency()));
    let (word, state) = if record.on_time { ("on time", GREEN) } else { ("LATE", RED) };

    let base = style.pad + above;
    let gap = style.pad * 4;
    let dot = above / 2;
    // What has no room on the right is left out; the most important stands first.
    let mut x = style.pad * 2;
    imgproc::circle(mat, Point::new(x + dot, height / 2), dot, scalar(state), imgproc::FILLED, imgproc::LINE_AA, 0)?;
    x += dot * 2 + style.pad * 2;
    let parts = [
        (plain(&record.stream.id), WHITE),
        (latency, state),
        (word.to_owned(), state),
        (rung, WHITE),
        (time, WHITE),
        (format!("frame {}", record.seq), WHITE),
        (found.unwrap_or_default(), WHITE),
    ];
    for (text, color) in parts {
        let (width, _, _) = style.measure(&text)?;
        if x + width > size.width {
            break;
        }
        style.write(mat, &text, Point::new(x, base), color)?;
        x += width + gap;
    }
    Ok(())
}

/// Leaves a third of the light in the top `rows`, so that text stands out and the picture still shows through.
fn darken(mat: &mut Mat, rows: i32) -> opencv::Result<()> {
    for row in 0..rows {
        let line = mat.at_row_mut::<opencv::core::Vec3b>(row)?;
        for pixel in line {
            for v in &mut pixel.0 {
                *v = (u16::from(*v) * 85 / 256) as u8;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Annotations, Attribute, Payload, PixelFormat, Stream};
    use opencv::core::MatTraitConstManual;
    use std::sync::Arc;

    fn picture(width: u32, height: u32, [y, u, v]: [u8; 3]) -> Picture {
        let (w, h) = (width as usize, height as usize);
        let (cw, ch) = (w.div_ceil(2), h.div_ceil(2));
        Picture::hd(
            (width, height),
            PixelFormat::I420,
            [w, cw, cw],
            vec![vec![y; w * h], vec![u; cw * ch], vec![v; cw * ch]],
        )
    }

    fn record(detections: Vec<Detection>) -> Record {
        Record {
            pipeline: "p".into(),
            stream: Arc::new(Stream::new("cam0", 0, None, 0, true)),
            seq: 123,
            pts: Some(0),
            captured: 5_000_000_000,
            camera_time_us: None,
            delivered: 5_017_300_000,
            on_time: true,
            rung: "full".into(),
            rescued: false,
            inferred: true,
            size: Some((640, 360)),
            samples: None,
            annotations: Annotations { detections: Some(detections), ..Annotations::default() },
            payload: Payload::Empty,
        }
    }

    fn at(mat: &Mat, x: i32, y: i32) -> [f64; 3] {
        mat.at_2d::<opencv::core::Vec3b>(y, x).unwrap().0.map(f64::from)
    }

    fn near(a: [f64; 3], b: [f64; 3], within: f64) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() <= within)
    }

    #[test]
    fn colours_of_the_picture_survive() {
        // Pure red in limited-range BT.709.
        let mat = Canvas::default().read(&picture(64, 48, [63, 102, 240]), (64, 48)).unwrap();
        assert!(near(at(&mat, 30, 20), [0.0, 0.0, 255.0], 3.0), "{:?}", at(&mat, 30, 20));
        assert_eq!((mat.cols(), mat.rows()), (64, 48));
    }

    #[test]
    fn a_box_is_drawn_where_it_is_in_its_colour() {
        let mut mat = Canvas::default().read(&picture(640, 360, [126, 128, 128]), (640, 360)).unwrap();
        let gray = at(&mat, 400, 300);
        let mut d = Detection::new("person".into(), 3, 0.91, [200.0, 120.0, 300.0, 250.0]);
        d.track = Some(7);
        draw(&mut mat, &record(vec![d])).unwrap();
        let color = color_of(24);
        for (x, y) in [(200, 200), (300, 200), (250, 250)] {
            assert!(near(at(&mat, x, y), color, 8.0), "{x},{y}: {:?} {color:?}", at(&mat, x, y));
        }
        // The label hides the upper edge's left end and has text on it.
        let label: Vec<_> = (201..260).map(|x| at(&mat, x, 113)).collect();
        assert!(label.iter().any(|c| near(*c, color, 8.0)) && label.iter().any(|c| near(*c, ink_on(color), 90.0)));
        // Nothing else is touched.
        for (x, y) in [(250, 200), (400, 300), (150, 100)] {
            assert_eq!(at(&mat, x, y), gray, "{x},{y}");
        }
    }

    #[test]
    fn boxes_follow_the_size_of_the_drawing() {
        let mut mat = Canvas::default().read(&picture(640, 360, [126, 128, 128]), (320, 180)).unwrap();
        draw(&mut mat, &record(vec![Detection::new("a".into(), 1, 0.5, [200.0, 120.0, 300.0, 250.0])])).unwrap();
        assert!(near(at(&mat, 100, 110), color_of(1), 8.0), "{:?}", at(&mat, 100, 110));
    }

    #[test]
    fn the_bar_shows_whether_the_frame_was_on_time() {
        let mut on_time = Canvas::default().read(&picture(640, 360, [235, 128, 128]), (640, 360)).unwrap();
        let mut late = on_time.clone();
        let mut r = record(Vec::new());
        draw(&mut on_time, &r).unwrap();
        r.on_time = false;
        draw(&mut late, &r).unwrap();
        let has = |mat: &Mat, color| (0..40).any(|x| (2..14).any(|y| near(at(mat, x, y), color, 4.0)));
        assert!(has(&on_time, GREEN) && !has(&on_time, RED));
        assert!(has(&late, RED) && !has(&late, GREEN));
        assert!(near(at(&late, 639, 0), [84.0; 3], 3.0), "the bar is dark: {:?}", at(&late, 639, 0));
    }

    #[test]
    fn boxes_outside_absurd_boxes_and_foreign_letters_are_no_error() {
        let mut mat = Canvas::default().read(&picture(64, 48, [126, 128, 128]), (64, 48)).unwrap();
        let boxes = [
            [-500.0, -500.0, 1e9, 1e9],
            [f32::NAN, 0.0, 1.0, 1.0],
            [10.0, 10.0, 5.0, 5.0],
            [f32::NEG_INFINITY, 0.0, f32::INFINITY, 40.0],
            [60.0, 47.0, 64.0, 48.0],
        ];
        let all = boxes.map(|b| Detection::new("狗 \n dog".into(), 0, f32::NAN, b));
        draw(&mut mat, &record(all.to_vec())).unwrap();
        assert!(draw(&mut Mat::default(), &record(Vec::new())).is_err());
    }

    #[test]
    fn neighbouring_numbers_have_different_colours_and_readable_ink() {
        for n in 0..50 {
            assert!(!near(color_of(n), color_of(n + 1), 60.0), "{n}");
            let ink = ink_on(color_of(n));
            assert!(!near(ink, color_of(n), 60.0));
        }
    }

    /// Leaves a picture to look at where `FRAMEGATE_DRAWING` names one.
    #[test]
    fn a_whole_picture_is_drawn() {
        let mut mat = Canvas::default().read(&picture(1280, 720, [90, 120, 118]), (1280, 720)).unwrap();
        let mut all = Vec::new();
        for i in 0..7u8 {
            let x = 60.0 + 170.0 * f32::from(i);
            let top = 60.0 + 60.0 * f32::from(i % 4);
            let mut d = Detection::new(
                ["person", "ball", "referee"][i as usize % 3].into(),
                i.into(),
                0.91,
                [x, top, x + 90.0, top + 220.0],
            );
            d.track = (i % 2 == 0).then_some(7 + u64::from(i));
            if i == 2 {
                d.attributes = vec![Attribute { stage: "shirt".into(), label: "red shirt".into(), score: 0.8 }];
                d.landmarks = vec![[x + 20.0, top + 60.0], [x + 60.0, top + 60.0]];
            }
            all.push(d);
        }
        all.push(Detection::new("corner".into(), 9, 0.5, [1200.0, 2.0, 1290.0, 100.0]));
        let mut r = record(all);
        r.size = Some((1280, 720));
        let before = mat.clone();
        draw(&mut mat, &r).unwrap();
        let changed =
            mat.data_bytes().unwrap().iter().zip(before.data_bytes().unwrap()).filter(|(a, b)| a != b).count();
        assert!(changed > 1280 * 20 * 3, "{changed} bytes changed");
        if let Some(path) = std::env::var_os("FRAMEGATE_DRAWING") {
            assert!(opencv::imgcodecs::imwrite_def(path, &mat).unwrap());
        }
    }
}
