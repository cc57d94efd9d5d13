//! The picture: colours for levels, axes, and what was heard.

use super::super::SinkError;
use super::super::heard::{Ear, Heard};
use super::super::overlay::{FONT, plain, scalar};
use super::columns::Columns;
use crate::signal::{SILENCE_DBFS, decibels};
use opencv::core::{CV_8UC1, CV_8UC3, Mat, MatTrait, MatTraitConst, Point, Rect, Size, Vec3b, Vector};
use opencv::{imgcodecs, imgproc};
use std::time::SystemTime;

/// What a picture shows.
pub(super) struct Sheet<'a> {
    pub title: &'a str,
    /// When the first sample was taken.
    pub at: SystemTime,
    pub rate: f64,
    pub frequency: Option<f64>,
    pub columns: &'a Columns,
    pub heard: &'a [Heard],
    /// Of the plot.
    pub width: u32,
    pub levels: Option<[f32; 2]>,
}

const LEFT: i32 = 92;
const RIGHT: i32 = 104;
const TOP: i32 = 34;
const BOTTOM: i32 = 50;
const GROUND: [f64; 3] = [28.0, 24.0, 22.0];
const INK: [f64; 3] = [225.0; 3];
const DIM: [f64; 3] = [140.0; 3];
/// Where there are no samples.
const NOTHING: Vec3b = opencv::core::VecN([70, 66, 64]);
const BURST: [f64; 3] = [255.0, 230.0, 90.0];
const MESSAGE: [f64; 3] = [120.0, 255.0, 140.0];
const SCALE: f64 = 0.42;

/// A round step, and the multiples of it from `low` to `high`: at most `most` of them, at least two.
fn ticks(low: f64, high: f64, most: usize) -> (f64, Vec<f64>) {
    let least = (high - low) / most.max(2) as f64;
    if !(least.is_finite() && least > 0.0) {
        return (1.0, Vec::new());
    }
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|s| *s >= least).unwrap_or(10.0 * power);
    let first = (low / step).ceil();
    let count = ((high / step).floor() - first + 1.0).clamp(0.0, 1000.0) as usize;
    (step, (0..count).map(|n| (first + n as f64) * step).collect())
}

/// A number with the decimals that a step needs.
fn number(value: f64, step: f64) -> String {
    let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
    // Adding zero turns -0 into 0.
    format!("{:.decimals$}", value + 0.0)
}

/// The unit that shows a span of so many Hz well.
fn unit(hz: f64) -> (f64, &'static str) {
    match hz {
        h if h >= 1e6 => (1e6, "MHz"),
        h if h >= 1e3 => (1e3, "kHz"),
        _ => (1.0, "Hz"),
    }
}

/// A drawing with a plot in it.
struct Drawing {
    mat: Mat,
    plot: Rect,
}

impl Drawing {
    fn text(&mut self, text: &str, x: i32, base: i32, color: [f64; 3]) -> opencv::Result<()> {
        let at = Point::new(x, base);
        imgproc::put_text(&mut self.mat, text, at, FONT, SCALE, scalar(color), 1, imgproc::LINE_AA, false)
    }

    fn line(&mut self, from: (i32, i32), to: (i32, i32), color: [f64; 3]) -> opencv::Result<()> {
        let (from, to) = (Point::new(from.0, from.1), Point::new(to.0, to.1));
        imgproc::line(&mut self.mat, from, to, scalar(color), 1, imgproc::LINE_8, 0)
    }
}

fn measure(text: &str) -> opencv::Result<Size> {
    imgproc::get_text_size(text, FONT, SCALE, 1, &mut 0)
}

/// Paints a picture and gives it back as PNG.
pub(super) fn paint(sheet: &Sheet<'_>) -> Result<Vec<u8>, SinkError> {
    let bins = sheet.columns.bins();
    let plot = Rect::new(LEFT, TOP, sheet.width as i32, bins.clamp(256, 1024) as i32);
    let size = (plot.height + TOP + BOTTOM, plot.width + LEFT + RIGHT);
    let mat = Mat::new_rows_cols_with_default(size.0, size.1, CV_8UC3, scalar(GROUND))?;
    let mut drawing = Drawing { mat, plot };
    let [low, high] = levels(sheet);
    draw_plot(&mut drawing, sheet, low, high)?;
    draw_heard(&mut drawing, sheet)?;
    draw_axes(&mut drawing, sheet)?;
    draw_colours(&mut drawing, low, high)?;
    let mut png = Vector::<u8>::new();
    match imgcodecs::imencode_def(".png", &drawing.mat, &mut png)? {
        true => Ok(png.into()),
        false => Err(SinkError("the picture cannot be written as PNG".to_owned())),
    }
}

/// The levels of the darkest and the brightest colour.
fn levels(sheet: &Sheet<'_>) -> [f32; 2] {
    if let Some(levels) = sheet.levels {
        return levels;
    }
    let powers = sheet.columns.all().iter().filter_map(|c| c.power()).flatten();
    let mut all: Vec<f32> = powers.map(decibels).filter(|l| *l > SILENCE_DBFS).collect();
    if all.is_empty() {
        return [-120.0, 0.0];
    }
    let last = all.len() - 1;
    let mut at = |share: f64| *all.select_nth_unstable_by((last as f64 * share) as usize, f32::total_cmp).1;
    // From somewhat above the deepest dips of the noise to what only the strongest peaks pass.
    let (low, high) = (at(0.2), at(0.9998));
    [low, high.max(low + 20.0)]
}

fn draw_plot(drawing: &mut Drawing, sheet: &Sheet<'_>, low: f32, high: f32) -> Result<(), SinkError> {
    let (columns, bins) = (sheet.columns.all(), sheet.columns.bins());
    if columns.is_empty() {
        return Ok(());
    }
    let mut gray = Mat::new_rows_cols_with_default(bins as i32, columns.len() as i32, CV_8UC1, scalar([0.0; 3]))?;
    for (x, column) in columns.iter().enumerate() {
        for (bin, power) in column.power().into_iter().flatten().enumerate() {
            let share = (decibels(power) - low) / (high - low);
            // The highest frequency is on top.
            *gray.at_2d_mut::<u8>((bins - 1 - bin) as i32, x as i32)? = (share * 255.0) as u8;
        }
    }
    let mut coloured = Mat::default();
    imgproc::apply_color_map(&gray, &mut coloured, imgproc::COLORMAP_INFERNO)?;
    for (x, _) in columns.iter().enumerate().filter(|(_, c)| c.power().is_none()) {
        for y in 0..bins {
            *coloured.at_2d_mut::<Vec3b>(y as i32, x as i32)? = NOTHING;
        }
    }
    let mut scaled = Mat::default();
    let size = Size::new(drawing.plot.width, drawing.plot.height);
    let how = if coloured.rows() > size.height { imgproc::INTER_AREA } else { imgproc::INTER_NEAREST };
    imgproc::resize(&coloured, &mut scaled, size, 0.0, 0.0, how)?;
    let mut place = Mat::roi_mut(&mut drawing.mat, drawing.plot)?;
    scaled.copy_to(&mut place)?;
    Ok(())
}

/// Where a position in the stream and an offset in Hz lie in the drawing.
fn place(sheet: &Sheet<'_>, plot: Rect) -> (impl Fn(u64) -> i32, impl Fn(f64) -> i32) {
    let span = (sheet.columns.all().len() as u64 * sheet.columns.per()).max(1) as f64;
    let (origin, rate) = (sheet.columns.origin(), sheet.rate);
    let x = move |position: u64| {
        let share = (position as f64 - origin as f64) / span;
        plot.x + (share.clamp(0.0, 1.0) * f64::from(plot.width - 1)).round() as i32
    };
    let y = move |hz: f64| plot.y + ((0.5 - hz / rate).clamp(0.0, 1.0) * f64::from(plot.height - 1)).round() as i32;
    (x, y)
}

fn draw_heard(drawing: &mut Drawing, sheet: &Sheet<'_>) -> opencv::Result<()> {
    let plot = drawing.plot;
    let (x, y) = place(sheet, plot);
    let mut labels: Vec<Rect> = Vec::new();
    for heard in sheet.heard {
        let (left, right) = (x(heard.start) - 1, x(heard.end()) + 1);
        let (color, top, bottom) = match (heard.ear, heard.edges) {
            (Ear::Energy, Some([low, high])) => (BURST, y(high) - 2, y(low) + 2),
            (Ear::Energy, None) => (BURST, plot.y, plot.y + plot.height - 1),
            // A message takes the whole band: a bar below says where it is.
            (Ear::Adsb, _) => (MESSAGE, plot.y + plot.height - 6, plot.y + plot.height - 1),
        };
        let frame = Rect::new(left, top, (right - left).max(2), (bottom - top).max(3));
        imgproc::rectangle(&mut drawing.mat, frame, scalar(color), 1, imgproc::LINE_8, 0)?;
        let text = match heard.snr {
            Some(snr) => format!("{} {snr:.0} dB", plain(&heard.label)),
            None => plain(&heard.label),
        };
        let size = measure(&text)?;
        let base = if top - 4 - size.height > plot.y { top - 4 } else { bottom + 4 + size.height };
        let start = left.min(plot.x + plot.width - size.width).max(plot.x);
        let label = Rect::new(start - 2, base - size.height - 2, size.width + 4, size.height + 5);
        // Labels that would hide each other are left out.
        if labels.iter().all(|l| (*l & label).area() == 0) {
            imgproc::rectangle(&mut drawing.mat, label, scalar(GROUND), imgproc::FILLED, imgproc::LINE_8, 0)?;
            drawing.text(&text, start, base, color)?;
            labels.push(label);
        }
    }
    Ok(())
}

fn draw_axes(drawing: &mut Drawing, sheet: &Sheet<'_>) -> opencv::Result<()> {
    let plot = drawing.plot;
    let (right, bottom) = (plot.x + plot.width, plot.y + plot.height);
    let frame = Rect::new(plot.x - 1, plot.y - 1, plot.width + 2, plot.height + 2);
    imgproc::rectangle(&mut drawing.mat, frame, scalar(DIM), 1, imgproc::LINE_8, 0)?;

    let (x, y) = place(sheet, plot);
    let centre = sheet.frequency.unwrap_or(0.0);
    let (scale, name) = unit(if centre > 0.0 { centre } else { sheet.rate / 2.0 });
    let (low, high) = ((centre - sheet.rate / 2.0) / scale, (centre + sheet.rate / 2.0) / scale);
    let (step, marks) = ticks(low, high, (plot.height / 48) as usize);
    for mark in marks {
        let at = y(mark * scale - centre);
        let text = number(mark, step);
        let size = measure(&text)?;
        drawing.line((plot.x - 5, at), (plot.x - 1, at), DIM)?;
        drawing.text(&text, plot.x - 9 - size.width, at + size.height / 2, INK)?;
    }
    drawing.text(name, 8, plot.y - 8, INK)?;

    let columns = sheet.columns;
    let seconds = |position: u64| position as f64 / sheet.rate;
    let end = columns.origin() + columns.all().len() as u64 * columns.per();
    let (scale, name) = if seconds(end) - seconds(columns.origin()) < 1.0 { (1e3, "ms") } else { (1.0, "s") };
    let (from, to) = (seconds(columns.origin()) * scale, seconds(end) * scale);
    let (step, marks) = ticks(from, to, (plot.width / 110) as usize);
    for mark in marks {
        let at = x((mark / scale * sheet.rate).round() as u64);
        let text = number(mark, step);
        let size = measure(&text)?;
        drawing.line((at, bottom), (at, bottom + 5), DIM)?;
        drawing.text(&text, (at - size.width / 2).min(right - size.width), bottom + 10 + size.height, INK)?;
    }
    let name = format!("{name} in the stream");
    drawing.text(&name, right - measure(&name)?.width, bottom + 42, DIM)?;

    let at = jiff::Timestamp::try_from(sheet.at).map(|t| format!("{t:.3}")).unwrap_or_default();
    let (scale, name) = unit(sheet.rate);
    let title = format!("{}   from {at}   {} {name} wide", plain(sheet.title), sheet.rate / scale);
    drawing.text(&title, plot.x, plot.y - 11, INK)
}

/// The colours beside the plot, with their levels.
fn draw_colours(drawing: &mut Drawing, low: f32, high: f32) -> opencv::Result<()> {
    let plot = drawing.plot;
    let bar = Rect::new(plot.x + plot.width + 18, plot.y, 14, plot.height);
    let mut gray = Mat::new_rows_cols_with_default(256, 1, CV_8UC1, scalar([0.0; 3]))?;
    for level in 0..=255u8 {
        *gray.at_2d_mut::<u8>(255 - i32::from(level), 0)? = level;
    }
    let (mut coloured, mut scaled) = (Mat::default(), Mat::default());
    imgproc::apply_color_map(&gray, &mut coloured, imgproc::COLORMAP_INFERNO)?;
    imgproc::resize(&coloured, &mut scaled, Size::new(bar.width, bar.height), 0.0, 0.0, imgproc::INTER_LINEAR)?;
    let mut place = Mat::roi_mut(&mut drawing.mat, bar)?;
    scaled.copy_to(&mut place)?;
    let (low, high) = (f64::from(low), f64::from(high));
    let (step, marks) = ticks(low, high, (plot.height / 48) as usize);
    for mark in marks {
        let share = (mark - low) / (high - low);
        let at = bar.y + ((1.0 - share) * f64::from(bar.height - 1)).round() as i32;
        let text = number(mark, step);
        drawing.line((bar.x + bar.width, at), (bar.x + bar.width + 4, at), DIM)?;
        drawing.text(&text, bar.x + bar.width + 8, at + measure(&text)?.height / 2, INK)?;
    }
    drawing.text("dBFS", bar.x, plot.y - 11, INK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_their_range() {
        let (step, marks) = ticks(433.42, 434.42, 10);
        assert_eq!((step, marks.len()), (0.1, 10));
        assert_eq!(number(marks[0], step), "433.5");
        let (step, marks) = ticks(-0.5, 0.5, 4);
        assert_eq!(
            (step, marks.iter().map(|m| number(*m, step)).collect::<Vec<_>>().join(" ")),
            (0.5, "-0.5 0.0 0.5".into())
        );
        assert_eq!(ticks(0.0, 13.7, 14), (1.0, (0..=13).map(f64::from).collect()));
        assert!(ticks(1.0, 1.0, 5).1.is_empty() && ticks(0.0, f64::NAN, 5).1.is_empty());
    }
}
