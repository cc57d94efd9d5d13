//! The built-in test scene: a soccer pitch with two teams, a referee and a ball, drawn straight into I420 planes.
//!
//! It serves as the live picture behind `test://pitch` and, with looks drawn by lot, as training and evaluation data
//! of the demonstration model. The same configuration, seed and frame number make the same picture and the same
//! ground truth on every run; frames can be drawn in any order. Colours are BT.709, limited range.
//!
//! Seeds of random scenes are kept apart by rule: 1 and up train the demonstration model, 900000001 and up choose its
//! best weights, 1800000001 and up measure it.
//!
//! With [`SceneConfig::number`] the frame's number is burnt into the top left corner, so that latency can be checked
//! from outside: 24 blocks of 16×16 pixels in a row, most significant bit first, luma 235 for one and 16 for zero,
//! holding [`number_code`].

mod camera;
mod figure;
mod flaws;
mod look;
mod pitch;
mod play;
mod raster;
mod rng;

use camera::Camera;
use look::{Look, Person};
use play::{Ball, Play, Pose, Side};
use raster::{Extent, Owners, Paint, Sample, Surface};
use rng::Rng;

/// Side of one block of the burnt-in number, pixels.
pub const NUMBER_BLOCK: usize = 16;
/// Blocks of the burnt-in number.
pub const NUMBER_BITS: usize = 24;

/// What is in a scene. The number is the class's number in the demonstration model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Class {
    /// A player of either team, goalkeepers included.
    Player = 0,
    /// The referee, in black or bright yellow over black.
    Referee = 1,
    /// A ball.
    Ball = 2,
}

impl Class {
    /// All classes, by number.
    pub const ALL: [Self; 3] = [Self::Player, Self::Referee, Self::Ball];

    /// The label.
    pub fn name(self) -> &'static str {
        ["player", "referee", "ball"][self as usize]
    }
}

/// One thing that is really there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    /// What it is.
    pub class: Class,
    /// Who it is: the same number in every frame of a scene.
    pub id: u32,
    /// x1, y1, x2, y2 in pixels: everything it covers, hidden parts included, cut off at the picture's edges.
    pub bbox: [f32; 4],
    /// Share of its pixels that show, 0 to 1: not behind something else, not outside the picture.
    pub visible: f32,
}

/// Which looks a scene may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variety {
    /// One sunny afternoon; the seed chooses kits, people and moves.
    Live,
    /// Everything by lot: camera, kits, grass, light, blur, noise, compression, graphics.
    Random,
}

/// A scene's size and kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SceneConfig {
    /// Columns, even, 64 to 7680.
    pub width: usize,
    /// Rows, even, 64 to 4320.
    pub height: usize,
    /// Frames per second, above 0.
    pub fps: f64,
    /// Which looks.
    pub variety: Variety,
    /// Burn the frame's number into the top left corner (needs 384 columns).
    pub number: bool,
}

impl SceneConfig {
    /// The live scene.
    pub fn live(width: usize, height: usize, fps: f64) -> Self {
        Self { width, height, fps, variety: Variety::Live, number: false }
    }

    /// A scene by lot, for training and evaluation.
    pub fn random(width: usize, height: usize) -> Self {
        Self { width, height, fps: 30.0, variety: Variety::Random, number: false }
    }
}

/// Why a scene or a frame cannot be drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SceneError {
    /// The size does not fit.
    #[error("a scene of {width}x{height}: sides must be even, {least} to 7680 wide and 64 to 4320 high")]
    Size {
        /// Columns asked for.
        width: usize,
        /// Rows asked for.
        height: usize,
        /// Fewest columns.
        least: usize,
    },
    /// The rate does not fit.
    #[error("a scene of {0} frames per second: must be above 0 and at most 1000")]
    Rate(f64),
    /// A plane to draw on is too small, or of another size.
    #[error("plane {plane} of the picture to draw on has {have} bytes, needs {need}")]
    Plane {
        /// Which plane.
        plane: usize,
        /// Bytes there.
        have: usize,
        /// Bytes needed.
        need: usize,
    },
}

/// The three planes of an I420 picture, to draw on.
#[derive(Debug)]
pub struct PlanesMut<'a> {
    width: usize,
    height: usize,
    y: &'a mut [u8],
    u: &'a mut [u8],
    v: &'a mut [u8],
    strides: [usize; 3],
}

impl<'a> PlanesMut<'a> {
    /// Planes of a picture of even size; `strides` are bytes from one row to the next.
    ///
    /// # Errors
    /// [`SceneError::Plane`] where a plane is shorter than its rows, or its stride shorter than a row.
    pub fn new(
        (width, height): (usize, usize),
        [y, u, v]: [&'a mut [u8]; 3],
        strides: [usize; 3],
    ) -> Result<Self, SceneError> {
        for (plane, have) in [y.len(), u.len(), v.len()].into_iter().enumerate() {
            let (w, h) = if plane == 0 { (width, height) } else { (width / 2, height / 2) };
            let need = strides[plane].max(w) * h.saturating_sub(1) + w;
            if have < need || strides[plane] < w {
                return Err(SceneError::Plane { plane, have, need });
            }
        }
        Ok(Self { width, height, y, u, v, strides })
    }

    /// The planes of one tight I420 buffer of `width * height * 3 / 2` bytes.
    ///
    /// # Errors
    /// [`SceneError::Plane`] where the buffer is too short.
    pub fn tight((width, height): (usize, usize), buffer: &'a mut [u8]) -> Result<Self, SceneError> {
        let (luma, chroma) = (width * height, width / 2 * (height / 2));
        if buffer.len() < luma + 2 * chroma {
            return Err(SceneError::Plane { plane: 0, have: buffer.len(), need: luma + 2 * chroma });
        }
        let (y, rest) = buffer.split_at_mut(luma);
        let (u, v) = rest.split_at_mut(chroma);
        Self::new((width, height), [y, u, v], [width, width / 2, width / 2])
    }
}

/// Bits of the burnt-in number of frame `n`: the low 16 bits of `n`, then an 8-bit check.
pub fn number_code(n: u64) -> u32 {
    let check = ((n.wrapping_mul(37).wrapping_add(11)) ^ (n >> 8)) & 0xff;
    (((n & 0xffff) << 8) | check) as u32
}

/// Everything that can be seen at one moment, far things first.
enum Thing<'a> {
    Person(Pose, &'a Person),
    Ball(Ball),
}

/// A soccer pitch with people on it. See the [module](self).
#[derive(Debug)]
pub struct Scene {
    config: SceneConfig,
    seed: u64,
    look: Look,
    camera: Camera,
    play: Play,
    people: Vec<Person>,
    more_balls: Vec<Ball>,
    /// When frame 0 is, seconds.
    start: f64,
    background: Vec<u8>,
}

impl Scene {
    /// Chooses everything by the seed and paints the background.
    ///
    /// # Errors
    /// A size or a rate that cannot be drawn.
    pub fn new(config: SceneConfig, seed: u64) -> Result<Self, SceneError> {
        let SceneConfig { width, height, fps, .. } = config;
        let least = if config.number { NUMBER_BITS * NUMBER_BLOCK } else { 64 };
        if width % 2 + height % 2 != 0 || !(least..=7680).contains(&width) || !(64..=4320).contains(&height) {
            return Err(SceneError::Size { width, height, least });
        }
        if !(fps > 0.0 && fps <= 1000.0) {
            return Err(SceneError::Rate(fps));
        }
        let rng = &mut Rng::new(seed);
        let look = match config.variety {
            Variety::Live => Look::live(rng),
            Variety::Random => Look::random(rng),
        };
        let view = look.view;
        let size = [width as f32, height as f32];
        let camera = Camera::new(size, view.target, view.distance, view.elevation, view.yaw, view.width);
        let play = Play::new(look.ground.half, look.squad, look.pace, rng);
        let start = match config.variety {
            Variety::Live => 0.0,
            Variety::Random => f64::from(rng.range(0.0, play::PERIOD as f32)),
        };
        let people = (0..play.people(start).len()).map(|_| Person::new(rng)).collect();
        let [hx, hy] = look.ground.half;
        let more_balls = (0..look.more_balls)
            .map(|_| {
                let loft = if rng.chance(0.3) { rng.range(0.0, 3.0) } else { 0.0 };
                let at = view.target;
                let near =
                    |v: f32, reach: f32, limit: f32, rng: &mut Rng| (v + rng.range(-reach, reach)).clamp(-limit, limit);
                let (reach_x, reach_y) = (view.width * 0.45, view.width * 0.25);
                Ball {
                    at: [near(at[0], reach_x, hx, rng), near(at[1], reach_y, hy, rng), loft],
                    velocity: [rng.range(-9.0, 9.0), rng.range(-5.0, 5.0), 0.0]
                        .map(|v| if loft > 0.0 { v } else { v * 0.3 }),
                }
            })
            .collect();
        let mut background = vec![0; width * height * 3 / 2];
        pitch::paint(&mut PlanesMut::tight((width, height), &mut background)?, &camera, &look.ground);
        Ok(Self { config, seed, look, camera, play, people, more_balls, start, background })
    }

    /// What it was made from.
    pub fn config(&self) -> &SceneConfig {
        &self.config
    }

    /// Draws frame `n`.
    ///
    /// # Errors
    /// [`SceneError::Plane`] where the planes are of another size than the scene.
    pub fn draw(&self, n: u64, out: &mut PlanesMut<'_>) -> Result<(), SceneError> {
        let SceneConfig { width, height, .. } = self.config;
        if (out.width, out.height) != (width, height) {
            return Err(SceneError::Plane { plane: 0, have: out.width * out.height, need: width * height });
        }
        let (luma, chroma) = (width * height, width * height / 4);
        copy(&self.background[..luma], width, out.y, out.strides[0]);
        copy(&self.background[luma..luma + chroma], width / 2, out.u, out.strides[1]);
        copy(&self.background[luma + chroma..], width / 2, out.v, out.strides[2]);
        let things = self.things(n);
        for (_, thing) in &things {
            match thing {
                Thing::Person(pose, _) => figure::shadow(out, &self.camera, &self.look, pose),
                Thing::Ball(ball) => figure::ball_shadow(out, &self.camera, &self.look, ball),
            }
        }
        for (_, thing) in &things {
            self.paint(out, thing);
        }
        self.graphics(out);
        if let Some(flaws) = &self.look.flaws {
            flaws::apply(out, flaws, &mut Rng::new(self.seed ^ n.wrapping_mul(0x5851_f42d_4c95_7f2d)));
        }
        if self.config.number {
            burn_in(n, out);
        }
        Ok(())
    }

    /// What is to be seen in frame `n`: everything that reaches into the picture, however little of it shows.
    pub fn truth(&self, n: u64) -> Vec<Truth> {
        let (w, h) = (self.config.width, self.config.height);
        let mut owners = Owners::new(w, h, h / 4);
        let things = self.things(n);
        for (_, thing) in &things {
            owners.next_object();
            self.paint(&mut owners, thing);
        }
        owners.next_object();
        self.graphics(&mut owners);
        if self.config.number {
            let bounds = [0.0, 0.0, (NUMBER_BITS * NUMBER_BLOCK) as f32, NUMBER_BLOCK as f32];
            rectangle(&mut owners, bounds, &Paint::solid([16.0, 128.0, 128.0]));
        }
        let mut truth = Vec::new();
        for ((id, thing), Extent { bounds, pixels, visible }) in things.iter().zip(owners.finish()) {
            let class = match thing {
                Thing::Person(Pose { side: Side::Referee, .. }, _) => Class::Referee,
                Thing::Person(..) => Class::Player,
                Thing::Ball(_) => Class::Ball,
            };
            let bbox = [bounds[0].max(0.0), bounds[1].max(0.0), bounds[2].min(w as f32), bounds[3].min(h as f32)];
            if pixels > 0 && bbox[2] > bbox[0] && bbox[3] > bbox[1] {
                truth.push(Truth { class, id: *id, bbox, visible: visible as f32 / pixels as f32 });
            }
        }
        truth
    }

    /// Everything in frame `n` with its number, far things first.
    fn things(&self, n: u64) -> Vec<(u32, Thing<'_>)> {
        // Whole seconds and the rest apart, so that the time stays exact for large numbers.
        let t = self.start + (n as f64 / self.config.fps) % play::PERIOD;
        let mut things: Vec<(f32, u32, Thing<'_>)> = Vec::with_capacity(self.people.len() + 4);
        for (i, (pose, person)) in self.play.people(t).into_iter().zip(&self.people).enumerate() {
            let depth = self.camera.depth([pose.at[0], pose.at[1], 0.0]);
            things.push((depth, i as u32, Thing::Person(pose, person)));
        }
        for (i, ball) in self.play.ball(t).into_iter().chain(self.more_balls.iter().copied()).enumerate() {
            let depth = self.camera.depth([ball.at[0], ball.at[1], 0.0]);
            things.push((depth, (self.people.len() + i) as u32, Thing::Ball(ball)));
        }
        // What lies behind the camera's near limit would be of any size.
        things.retain(|(depth, ..)| *depth > self.look.view.distance * 0.3);
        things.sort_by(|a, b| b.0.total_cmp(&a.0));
        things.into_iter().map(|(_, id, thing)| (id, thing)).collect()
    }

    fn paint(&self, surface: &mut impl Surface, thing: &Thing<'_>) {
        match thing {
            Thing::Person(pose, person) => {
                let kit = match pose.side {
                    Side::Team(team) => &self.look.kits[team],
                    Side::Keeper(team) => &self.look.kits[2 + team],
                    Side::Referee => &self.look.kits[4],
                };
                figure::person(surface, &self.camera, &self.look, pose, kit, person);
            }
            Thing::Ball(ball) => figure::ball(surface, &self.camera, &self.look, ball, 0.006),
        }
    }

    fn graphics(&self, surface: &mut impl Surface) {
        let (w, h) = (self.config.width as f32, self.config.height as f32);
        for ([x1, y1, x2, y2], colour) in &self.look.overlays {
            rectangle(surface, [x1 * w, y1 * h, x2 * w, y2 * h], &Paint::solid(*colour));
        }
    }
}

/// Copies tight rows to rows of another stride.
fn copy(from: &[u8], width: usize, to: &mut [u8], stride: usize) {
    for (row, source) in to.chunks_mut(stride).zip(from.chunks_exact(width)) {
        row[..width].copy_from_slice(source);
    }
}

fn rectangle(surface: &mut impl Surface, [x1, y1, x2, y2]: [f32; 4], paint: &Paint) {
    surface.shape([x1, y1, x2, y2], paint, |x, y| Sample {
        distance: (x1 - x).max(x - x2).max(y1 - y).max(y - y2),
        second: 0.0,
        light: 0.0,
    });
}

fn burn_in(n: u64, out: &mut PlanesMut<'_>) {
    let code = number_code(n);
    let columns = NUMBER_BITS * NUMBER_BLOCK;
    for y in 0..NUMBER_BLOCK {
        let row = &mut out.y[y * out.strides[0]..][..columns];
        for (bit, block) in row.chunks_mut(NUMBER_BLOCK).enumerate() {
            block.fill(if code >> (NUMBER_BITS - 1 - bit) & 1 == 1 { 235 } else { 16 });
        }
    }
    for y in 0..NUMBER_BLOCK / 2 {
        out.u[y * out.strides[1]..][..columns / 2].fill(128);
        out.v[y * out.strides[2]..][..columns / 2].fill(128);
    }
}

#[cfg(test)]
mod tests;
