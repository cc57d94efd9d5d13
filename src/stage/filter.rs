//! `filter`: keeps the detections that matter, by class, score, size and place.

use super::{BuildContext, Built, Stage, StageConfig, StageError};
use crate::frame::{Detection, Frame};
use crate::issue::{Issue, Severity};
use serde::Deserialize;
use std::sync::Arc;

/// Keys of `kind = "filter"`. A detection is kept if it passes every key that is given.
#[derive(Debug, Clone, PartialEq, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FilterConfig {
    /// Labels or class numbers to keep. Default: all.
    pub classes: Vec<Class>,
    /// Labels or class numbers to remove. Default: none.
    pub exclude: Vec<Class>,
    /// Least score, 0 to 1. Default: any.
    pub min_score: Option<f32>,
    /// Largest score, 0 to 1. Default: any.
    pub max_score: Option<f32>,
    /// Least width and height of the box, in `units`. Default: any.
    pub min_size: Option<[f32; 2]>,
    /// Largest width and height of the box, in `units`. Default: any.
    pub max_size: Option<[f32; 2]>,
    /// Points [x, y] in `units`: the corners of a polygon, or two opposite corners of a rectangle. Default: the whole
    /// picture and beyond.
    pub region: Option<Vec<[f32; 2]>>,
    /// Which part of a box has to be in the region. Default `bottom_center`: where somebody stands.
    pub anchor: Anchor,
    /// Keep what is outside the region instead. Default false.
    pub outside: bool,
    /// What sizes and points are measured in. Default `relative`.
    pub units: Units,
}

/// A class, as people name it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(untagged, expecting = "expected a label (\"person\") or a class number (0)")]
pub enum Class {
    /// By number in the model's labels.
    Number(u32),
    /// By label.
    Label(String),
}

impl Class {
    fn is(&self, d: &Detection) -> bool {
        match self {
            Self::Number(n) => d.class == *n,
            Self::Label(l) => **l == *d.label,
        }
    }
}

/// Which part of a box has to be in the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Anchor {
    /// The middle of its lower edge.
    #[default]
    BottomCenter,
    /// Its middle.
    Center,
    /// Any part of it.
    Overlap,
}

/// What sizes and points are measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Units {
    /// Shares of the picture's width and height, 0 to 1.
    #[default]
    Relative,
    /// Pixels of the source picture as viewed.
    Pixels,
}

impl FilterConfig {
    /// Whether the picture's size has to be known.
    fn needs_size(&self) -> bool {
        let measured = self.region.is_some() || self.min_size.is_some() || self.max_size.is_some();
        self.units == Units::Relative && measured
    }

    fn check_region(&self, points: &[[f32; 2]]) -> Option<Issue> {
        let wrong = |message: &str| Issue::error("region", message);
        if points.iter().flatten().any(|v| !v.is_finite()) {
            return Some(wrong("a coordinate is not a finite number"));
        }
        if points.len() < 2 {
            let help = "two opposite corners make a rectangle, three or more points a polygon";
            return Some(wrong("a region has at least two points").help(help));
        }
        // A little beyond the picture is fine, far beyond means that pixels were meant.
        if self.units == Units::Relative && points.iter().flatten().any(|v| !(-1.0..=2.0).contains(v)) {
            return Some(
                wrong("a coordinate is far outside the picture, whose edges are 0 and 1").help("units = \"pixels\"?"),
            );
        }
        Region::new(points).is_flat().then(|| wrong("the region has no area"))
    }
}

impl StageConfig for FilterConfig {
    fn check(&self, _context: &BuildContext) -> Vec<Issue> {
        let mut issues = Vec::new();
        for (key, value) in [("min_score", self.min_score), ("max_score", self.max_score)] {
            if let Some(v) = value.filter(|v| !(0.0..=1.0).contains(v)) {
                issues.push(Issue::error(key, format!("{v} is not between 0 and 1")));
            }
        }
        if let (Some(min), Some(max)) = (self.min_score, self.max_score)
            && min > max
        {
            issues.push(Issue::error("min_score", format!("{min} is above max_score = {max}: nothing would be kept")));
        }
        for (key, size) in [("min_size", self.min_size), ("max_size", self.max_size)] {
            if let Some(v) = size.iter().flatten().find(|v| !v.is_finite() || **v < 0.0) {
                issues.push(Issue::error(key, format!("{v} is no width or height")));
            }
            if self.units == Units::Relative
                && let Some(v) = size.iter().flatten().find(|v| **v > 2.0)
            {
                let issue = Issue::error(key, format!("{v} is far larger than the picture, which is 1"));
                issues.push(issue.help("units = \"pixels\"?"));
            }
        }
        if let (Some(min), Some(max)) = (self.min_size, self.max_size)
            && (min[0] > max[0] || min[1] > max[1])
        {
            issues.push(Issue::error("min_size", "is above max_size: nothing would be kept"));
        }
        if let Some(class) = self.exclude.iter().find(|c| self.classes.contains(c)) {
            issues.push(Issue::error("exclude", format!("{class:?} is kept by `classes` and removed here")));
        }
        match &self.region {
            Some(points) => issues.extend(self.check_region(points)),
            None if self.outside => issues.push(Issue::error("outside", "there is no region to be outside of")),
            None if self.anchor != Anchor::default() => {
                issues.push(Issue::warning("anchor", "has no effect without a region"));
            }
            None => {}
        }
        if *self == Self::default() {
            issues.push(Issue::warning("", "nothing is filtered").help("give `classes`, `min_score`, `region`, …"));
        }
        issues
    }

    fn build(&self, context: &BuildContext) -> Result<Built, StageError> {
        if let Some(i) = self.check(context).into_iter().find(|i| i.severity == Severity::Error) {
            return Err(StageError(format!("{}: {}", i.key, i.message)));
        }
        let config = Arc::new(self.clone());
        let region = config.region.as_deref().map(Region::new);
        Ok(Built::Stage(Box::new(move || Ok(Box::new(Filter { config: config.clone(), region: region.clone() })))))
    }
}

/// The stage as built.
struct Filter {
    config: Arc<FilterConfig>,
    region: Option<Region>,
}

impl Stage for Filter {
    fn process(&mut self, frame: &mut Frame) -> Result<(), StageError> {
        let Some(detections) = &mut frame.annotations.detections else { return Ok(()) };
        let scale = match frame.payload.picture().map(|p| p.view_size()) {
            _ if !self.config.needs_size() => [1.0, 1.0],
            Some((w, h)) if w > 0 && h > 0 => [1.0 / w as f32, 1.0 / h as f32],
            _ => return Err(StageError::new("relative sizes and regions need the picture, and the frame has none")),
        };
        detections.retain(|d| self.keeps(d, scale));
        Ok(())
    }
}

impl Filter {
    /// `scale` turns pixels into the configured units.
    fn keeps(&self, d: &Detection, scale: [f32; 2]) -> bool {
        let c = &*self.config;
        let [x1, y1, x2, y2] = d.bbox;
        let bbox = [x1 * scale[0], y1 * scale[1], x2 * scale[0], y2 * scale[1]];
        let size = [bbox[2] - bbox[0], bbox[3] - bbox[1]];
        let fits = |least: [f32; 2], most: [f32; 2]| (0..2).all(|i| least[i] <= size[i] && size[i] <= most[i]);
        let measured = c.min_size.is_some() || c.max_size.is_some();
        (c.classes.is_empty() || c.classes.iter().any(|k| k.is(d)))
            && !c.exclude.iter().any(|k| k.is(d))
            && c.min_score.is_none_or(|s| d.score >= s)
            && c.max_score.is_none_or(|s| d.score <= s)
            && (!measured || fits(c.min_size.unwrap_or([0.0; 2]), c.max_size.unwrap_or([f32::INFINITY; 2])))
            && self.region.as_ref().is_none_or(|r| r.holds(bbox, c.anchor) != c.outside)
    }
}

/// A polygon; even-odd rule where it crosses itself.
#[derive(Debug, Clone)]
struct Region(Vec<[f32; 2]>);

impl Region {
    /// Two points are opposite corners of a rectangle.
    fn new(points: &[[f32; 2]]) -> Self {
        match *points {
            [[x1, y1], [x2, y2]] => Self(vec![[x1, y1], [x2, y1], [x2, y2], [x1, y2]]),
            _ => Self(points.to_vec()),
        }
    }

    fn edges(&self) -> impl Iterator<Item = ([f32; 2], [f32; 2])> {
        self.0.iter().copied().zip(self.0.iter().copied().cycle().skip(1))
    }

    /// Whether all its points are on one line.
    fn is_flat(&self) -> bool {
        let first = self.0.first().copied().unwrap_or_default();
        self.edges().all(|(a, b)| {
            let [ax, ay, bx, by] = [a[0] - first[0], a[1] - first[1], b[0] - first[0], b[1] - first[1]].map(f64::from);
            ax * by == ay * bx
        })
    }

    fn holds(&self, bbox: [f32; 4], anchor: Anchor) -> bool {
        let [x1, y1, x2, y2] = bbox;
        if !bbox.iter().all(|v| v.is_finite()) {
            return false;
        }
        match anchor {
            Anchor::BottomCenter => self.contains([(x1 + x2) / 2.0, y2]),
            Anchor::Center => self.contains([(x1 + x2) / 2.0, (y1 + y2) / 2.0]),
            Anchor::Overlap => self.overlaps(bbox),
        }
    }

    fn contains(&self, [x, y]: [f32; 2]) -> bool {
        let crossed = self.edges().filter(|&([ax, ay], [bx, by])| {
            // Half-open in y, so that a ray through a corner counts once.
            (ay > y) != (by > y) && x < ax + (y - ay) / (by - ay) * (bx - ax)
        });
        crossed.count() % 2 == 1
    }

    fn overlaps(&self, [x1, y1, x2, y2]: [f32; 4]) -> bool {
        let in_box = |[x, y]: [f32; 2]| x1 <= x && x <= x2 && y1 <= y && y <= y2;
        self.0.iter().any(|&p| in_box(p))
            || [[x1, y1], [x2, y1], [x2, y2], [x1, y2]].iter().any(|&p| self.contains(p))
            || self.edges().any(|(a, b)| cuts(a, b, [x1, y1, x2, y2]))
    }
}

/// Whether a segment passes through a box (Liang–Barsky).
fn cuts(a: [f32; 2], b: [f32; 2], [x1, y1, x2, y2]: [f32; 4]) -> bool {
    let (mut from, mut to) = (0.0f32, 1.0f32);
    for (start, step, low, high) in [(a[0], b[0] - a[0], x1, x2), (a[1], b[1] - a[1], y1, y2)] {
        if step == 0.0 {
            if !(low <= start && start <= high) {
                return false;
            }
            continue;
        }
        let (t, u) = ((low - start) / step, (high - start) / step);
        from = from.max(t.min(u));
        to = to.min(t.max(u));
    }
    from <= to
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{
        Arrival, Colorimetry, Matrix, Orientation, OwnedPlanes, Payload, Picture, PixelFormat, Range, Siting, Stream,
    };
    use proptest::prelude::*;

    fn context() -> BuildContext {
        BuildContext { id: "filter".into(), ..Default::default() }
    }

    fn picture(width: u32, height: u32) -> Payload {
        let color = Colorimetry {
            matrix: Matrix::Bt709,
            range: Range::Full,
            siting_x: Siting::Centered,
            siting_y: Siting::Centered,
        };
        Payload::Picture(Arc::new(Picture {
            width,
            height,
            format: PixelFormat::Gray8,
            strides: [width as usize, 0, 0],
            color,
            pixel_aspect: (1, 1),
            orientation: Orientation::default(),
            buffer: Box::new(OwnedPlanes(vec![vec![0; (width * height) as usize]])),
        }))
    }

    /// Labels of what a filter keeps of these (label, class, score, box) in a picture of 100 × 50.
    fn kept(toml: &str, detections: &[(&str, u32, f32, [f32; 4])]) -> Vec<String> {
        let config = crate::stage::from_toml("filter", toml).expect("keys");
        let Ok(Built::Stage(make)) = config.build(&context()) else { panic!("a plain stage: {toml}") };
        let stream = Arc::new(Stream::new("cam0", 0, None, 0, true));
        let mut frame = Frame::new(stream.capture(0), None, Arrival::default(), picture(100, 50));
        let all =
            detections.iter().map(|&(label, class, score, bbox)| Detection::new(label.into(), class, score, bbox));
        frame.annotations.detections = Some(all.collect());
        make().expect("built").process(&mut frame).expect("filtered");
        frame.annotations.detections.expect("there").iter().map(|d| d.label.to_string()).collect()
    }

    fn issues(toml: &str) -> Vec<(Severity, String)> {
        let config = crate::stage::from_toml("filter", toml).expect("keys");
        config.check(&context()).into_iter().map(|i| (i.severity, i.key)).collect()
    }

    const SCENE: &[(&str, u32, f32, [f32; 4])] = &[
        ("person", 0, 0.9, [10.0, 5.0, 20.0, 25.0]),
        ("car", 2, 0.6, [50.0, 20.0, 90.0, 45.0]),
        ("ball", 32, 0.3, [30.0, 40.0, 34.0, 44.0]),
    ];

    #[test]
    fn classes_are_kept_by_label_or_number_and_excluded_likewise() {
        assert_eq!(kept("classes = [\"person\", 32]", SCENE), ["person", "ball"]);
        assert_eq!(kept("exclude = [\"person\", 2]", SCENE), ["ball"]);
        assert_eq!(kept("classes = [\"horse\"]", SCENE), [""; 0]);
    }

    #[test]
    fn scores_and_sizes_are_kept_within_their_ranges() {
        assert_eq!(kept("min_score = 0.6", SCENE), ["person", "car"]);
        assert_eq!(kept("min_score = 0.3\nmax_score = 0.6", SCENE), ["car", "ball"]);
        assert_eq!(kept("units = \"pixels\"\nmin_size = [10, 20]", SCENE), ["person", "car"]);
        assert_eq!(kept("max_size = [0.1, 0.5]", SCENE), ["person", "ball"]);
    }

    #[test]
    fn a_region_is_met_by_the_anchor_asked_for() {
        let upper = "region = [[0, 0], [1, 0.5]]\n";
        assert_eq!(kept(upper, SCENE), [""; 0]);
        assert_eq!(kept(&format!("{upper}anchor = \"center\""), SCENE), ["person"]);
        assert_eq!(kept(&format!("{upper}anchor = \"overlap\""), SCENE), ["person", "car"]);
        assert_eq!(kept(&format!("{upper}anchor = \"overlap\"\noutside = true"), SCENE), ["ball"]);
        // A triangle whose tip is inside the car, in pixels.
        let triangle = "units = \"pixels\"\nanchor = \"overlap\"\nregion = [[70, 30], [95, 60], [100, 50]]";
        assert_eq!(kept(triangle, SCENE), ["car"]);
    }

    #[test]
    fn a_thin_region_that_passes_through_a_box_overlaps_it() {
        let beam = "units = \"pixels\"\nanchor = \"overlap\"\nregion = [[0, 30], [100, 30.5], [100, 31]]";
        assert_eq!(kept(beam, SCENE), ["car"]);
    }

    #[test]
    fn hostile_boxes_fall_out_of_regions_and_sizes_and_nothing_else() {
        let nan = [("odd", 0, 0.9, [f32::NAN, 1.0, 2.0, f32::NAN])];
        assert_eq!(kept("min_score = 0.1", &nan), ["odd"]);
        for anchor in ["bottom_center", "center", "overlap"] {
            assert_eq!(kept(&format!("region = [[0, 0], [1, 1]]\nanchor = \"{anchor}\""), &nan), [""; 0]);
        }
        assert_eq!(kept("min_size = [0, 0]", &nan), [""; 0]);
    }

    #[test]
    fn relative_units_without_a_picture_fail_the_frame() {
        let config = crate::stage::from_toml("filter", "min_size = [0.1, 0.1]").expect("keys");
        let Ok(Built::Stage(make)) = config.build(&context()) else { panic!("a plain stage") };
        let stream = Arc::new(Stream::new("cam0", 0, None, 0, true));
        let mut frame = Frame::new(stream.capture(0), None, Arrival::default(), Payload::Empty);
        let mut stage = make().expect("built");
        assert!(stage.process(&mut frame).is_ok(), "no detections, nothing to measure");
        frame.annotations.detections = Some(Vec::new());
        let error = stage.process(&mut frame).expect_err("no size");
        assert!(error.to_string().contains("picture"), "{error}");
    }

    #[test]
    fn what_cannot_be_meant_is_said() {
        let error = |key: &str| vec![(Severity::Error, key.to_owned())];
        assert_eq!(issues("min_score = 1.5"), error("min_score"));
        assert_eq!(issues("min_score = 0.8\nmax_score = 0.2"), error("min_score"));
        assert_eq!(issues("min_size = [10, 10]"), error("min_size"));
        assert_eq!(issues("min_size = [0.2, 0.2]\nmax_size = [0.3, 0.1]"), error("min_size"));
        assert_eq!(issues("max_size = [nan, 0.1]"), error("max_size"));
        assert_eq!(issues("region = [[0.1, 0.1]]"), error("region"));
        assert_eq!(issues("region = [[0, 0], [0.5, 0.5], [1, 1]]"), error("region"));
        assert_eq!(issues("region = [[0, 0], [640, 480]]"), error("region"));
        assert_eq!(issues("region = [[0, 0], [inf, 1]]"), error("region"));
        assert_eq!(issues("classes = [\"car\"]\nexclude = [\"car\"]"), error("exclude"));
        assert_eq!(issues("outside = true"), error("outside"));
        assert_eq!(issues(""), [(Severity::Warning, String::new())]);
        assert_eq!(issues("region = [[0, 0], [640, 480]]\nunits = \"pixels\""), []);
        assert!(crate::stage::from_toml("filter", "classes = [1.5]").is_err_and(|e| e.to_string().contains("label")));
        assert!(crate::stage::from_toml("filter", "labels = [\"car\"]").is_err());
    }

    proptest! {
        #[test]
        fn a_rectangle_as_polygon_holds_what_comparisons_say(
            r in prop::array::uniform4(0.0f32..100.0), b in prop::array::uniform4(0.0f32..100.0),
        ) {
            let sort = |[a, b, c, d]: [f32; 4]| [a.min(c), b.min(d), a.max(c), b.max(d)];
            let (r, b) = (sort(r), sort(b));
            let region = Region::new(&[[r[0], r[1]], [r[2], r[3]]]);
            let c = [(b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0];
            let inside = r[0] < c[0] && c[0] < r[2] && r[1] < c[1] && c[1] < r[3];
            prop_assert_eq!(region.holds(b, Anchor::Center), inside);
            let overlap = r[0] < b[2] && b[0] < r[2] && r[1] < b[3] && b[1] < r[3];
            prop_assert_eq!(region.holds(b, Anchor::Overlap), overlap);
        }
    }
}
