//! What a scene looks like: fixed and pleasant for the live one, drawn by lot for training and evaluation.

use super::play::Squad;
use super::raster::{Yuv, yuv};
use super::rng::Rng;

/// How a shirt is patterned with its second colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    Plain,
    Stripes,
    Hoops,
    Halves,
}

/// What a side wears.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kit {
    pub(super) shirt: Yuv,
    pub(super) second: Yuv,
    pub(super) pattern: Pattern,
    pub(super) sleeves: Yuv,
    pub(super) shorts: Yuv,
    pub(super) socks: Yuv,
}

/// What cannot be changed with the clothes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Person {
    pub(super) skin: Yuv,
    pub(super) hair: Yuv,
    pub(super) boots: Yuv,
    /// 1 is average.
    pub(super) height: f32,
    pub(super) girth: f32,
}

/// How the grass is mown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mowing {
    Plain,
    Across,
    Along,
    Chequered,
}

/// Ground, lines and everything behind them.
#[derive(Debug, Clone)]
pub(super) struct Ground {
    pub(super) salt: u32,
    /// Half extents of the pitch, metres.
    pub(super) half: [f32; 2],
    pub(super) grass: [f32; 3],
    pub(super) mowing: Mowing,
    pub(super) stripe: f32,
    pub(super) contrast: f32,
    pub(super) wear: f32,
    pub(super) line: [f32; 3],
    pub(super) line_width: f32,
    pub(super) surround: [f32; 3],
    pub(super) board_height: f32,
    pub(super) boards: [[f32; 3]; 4],
    pub(super) crowd: f32,
    pub(super) fans: [[f32; 3]; 2],
    pub(super) stand: [f32; 3],
    pub(super) rows: f32,
    pub(super) sky: [f32; 3],
    /// Shadow of a stand over the pitch: edge as a·x + b·y > c is dark, and how dark (1 is none).
    pub(super) shade: [f32; 4],
    /// Samples per pixel and axis.
    pub(super) oversample: u32,
}

/// Where the camera stands, in the terms of [`Camera::new`](super::camera::Camera::new).
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    pub(super) target: [f32; 2],
    pub(super) distance: f32,
    pub(super) elevation: f32,
    pub(super) yaw: f32,
    pub(super) width: f32,
}

/// What light and a poor camera do to the picture.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flaws {
    /// Factor and exponent of the luma.
    pub(super) gain: f32,
    pub(super) gamma: f32,
    /// Factor of the chroma and its offsets.
    pub(super) saturation: f32,
    pub(super) tint: [f32; 2],
    pub(super) vignette: f32,
    /// Standard deviation of the blur in pixels of a 720-line picture; 0 for none.
    pub(super) blur: f32,
    /// Standard deviation of the noise in code values.
    pub(super) noise: f32,
    /// Step of the block transform's quantiser in code values; 0 for none.
    pub(super) quantiser: f32,
}

/// Everything that is chosen once for a scene.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) view: View,
    pub(super) ground: Ground,
    pub(super) kits: [Kit; 5],
    pub(super) squad: Squad,
    pub(super) pace: f32,
    /// Size of people against the pitch; 1 is natural.
    pub(super) figure: f32,
    /// Diameter of the ball, metres.
    pub(super) ball: f32,
    pub(super) ball_colour: Yuv,
    pub(super) more_balls: u32,
    /// Where a metre of height casts its shadow, metres.
    pub(super) sun: [f32; 2],
    pub(super) shadow: f32,
    /// Boxes of on-screen graphics, x1, y1, x2, y2 as shares of the picture.
    pub(super) overlays: Vec<([f32; 4], Yuv)>,
    pub(super) flaws: Option<Flaws>,
}

/// A colour by hue (turns), saturation and value.
fn hsv(h: f32, s: f32, v: f32) -> [f32; 3] {
    [5.0, 3.0, 1.0].map(|n: f32| {
        let k = (n + h * 6.0).rem_euclid(6.0);
        255.0 * v * (1.0 - s * k.min(4.0 - k).clamp(0.0, 1.0))
    })
}

const WHITE: [f32; 3] = [238.0, 240.0, 240.0];
const BLACK: [f32; 3] = [22.0, 22.0, 26.0];

/// Team colours. Black shirts and bright yellow ones are the referee's alone, as the laws of the game want it.
fn team_colour(rng: &mut Rng) -> [f32; 3] {
    match rng.int(0, 5) {
        0 => WHITE,
        1 => hsv(rng.range(0.52, 0.72), rng.range(0.5, 1.0), rng.range(0.4, 0.9)),
        2 => hsv(rng.range(-0.05, 0.08), rng.range(0.7, 1.0), rng.range(0.45, 0.95)),
        3 => hsv(rng.range(0.72, 0.95), rng.range(0.3, 0.9), rng.range(0.45, 0.95)),
        4 => hsv(rng.range(0.28, 0.5), rng.range(0.5, 1.0), rng.range(0.35, 0.9)),
        _ => hsv(rng.unit(), rng.range(0.0, 0.15), rng.range(0.5, 0.9)),
    }
}

fn team_kit(rng: &mut Rng, unlike: Option<[f32; 3]>) -> (Kit, [f32; 3]) {
    let mut shirt = team_colour(rng);
    while unlike.is_some_and(|u| u.iter().zip(shirt).map(|(a, b)| (a - b).abs()).sum::<f32>() < 160.0) {
        shirt = team_colour(rng);
    }
    let second = if rng.chance(0.5) { WHITE } else { team_colour(rng) };
    let pattern = rng.pick([Pattern::Plain, Pattern::Plain, Pattern::Stripes, Pattern::Hoops, Pattern::Halves]);
    let sleeves = if rng.chance(0.3) { second } else { shirt };
    let shorts = if rng.chance(0.4) {
        shirt
    } else if rng.chance(0.5) {
        WHITE
    } else {
        team_colour(rng)
    };
    let socks = if rng.chance(0.5) { shirt } else { team_colour(rng) };
    let [sleeves, shorts, socks, second] = [sleeves, shorts, socks, second].map(yuv);
    (Kit { shirt: yuv(shirt), second, pattern, sleeves, shorts, socks }, shirt)
}

/// The referee: black or bright yellow above, black below.
fn referee_kit(rng: &mut Rng) -> Kit {
    let black = yuv(BLACK.map(|v| v + rng.range(-8.0, 10.0)));
    let yellow = yuv(hsv(rng.range(0.14, 0.19), rng.range(0.75, 1.0), rng.range(0.85, 1.0)));
    let shirt = if rng.chance(0.5) { black } else { yellow };
    Kit { shirt, second: shirt, pattern: Pattern::Plain, sleeves: shirt, shorts: black, socks: black }
}

/// Kits that stand out from the grass and from each other: two teams, their keepers, the referee.
fn live_kits(rng: &mut Rng) -> [Kit; 5] {
    const RED: [f32; 3] = [206.0, 32.0, 44.0];
    const NAVY: [f32; 3] = [24.0, 42.0, 104.0];
    const BLUE: [f32; 3] = [44.0, 96.0, 206.0];
    const SKY: [f32; 3] = [132.0, 190.0, 236.0];
    const CLARET: [f32; 3] = [124.0, 24.0, 60.0];
    const ORANGE: [f32; 3] = [240.0, 112.0, 24.0];
    const PURPLE: [f32; 3] = [128.0, 60.0, 176.0];
    const TEAL: [f32; 3] = [40.0, 196.0, 190.0];
    let kit = |shirt, second, pattern, sleeves, shorts, socks| Kit {
        shirt: yuv(shirt),
        second: yuv(second),
        pattern,
        sleeves: yuv(sleeves),
        shorts: yuv(shorts),
        socks: yuv(socks),
    };
    let warm = [
        kit(RED, WHITE, Pattern::Plain, WHITE, WHITE, RED),
        kit(RED, WHITE, Pattern::Stripes, RED, NAVY, RED),
        kit(ORANGE, WHITE, Pattern::Plain, ORANGE, WHITE, ORANGE),
        kit(CLARET, SKY, Pattern::Plain, SKY, WHITE, CLARET),
    ];
    let cold = [
        kit(BLUE, WHITE, Pattern::Plain, BLUE, WHITE, BLUE),
        kit(WHITE, BLUE, Pattern::Stripes, WHITE, BLUE, WHITE),
        kit(WHITE, NAVY, Pattern::Plain, WHITE, NAVY, WHITE),
        kit(SKY, WHITE, Pattern::Hoops, SKY, NAVY, SKY),
    ];
    let keepers = [
        kit(PURPLE, WHITE, Pattern::Plain, PURPLE, PURPLE, PURPLE),
        kit(TEAL, WHITE, Pattern::Plain, TEAL, TEAL, TEAL),
    ];
    [rng.pick(warm), rng.pick(cold), keepers[0], keepers[1], referee_kit(rng)]
}

impl Person {
    pub(super) fn new(rng: &mut Rng) -> Self {
        let tone = rng.unit();
        let skin = [246.0 - 150.0 * tone, 205.0 - 145.0 * tone, 172.0 - 132.0 * tone];
        let hair = rng.pick([[28.0, 22.0, 18.0], [62.0, 42.0, 26.0], [120.0, 84.0, 44.0], [196.0, 160.0, 96.0]]);
        let boots = rng.pick([[20.0; 3], [235.0; 3], [230.0, 70.0, 30.0], [40.0, 200.0, 220.0]]);
        Self {
            skin: yuv(skin),
            hair: yuv(hair),
            boots: yuv(boots),
            height: rng.range(0.94, 1.06),
            girth: rng.range(0.92, 1.12),
        }
    }
}

impl Look {
    /// The live scene: a sunny afternoon, kit colours by the seed.
    pub(super) fn live(rng: &mut Rng) -> Self {
        let mut random = Self::random(rng);
        random.view = View { target: [0.0, 1.5], distance: 70.0, elevation: 0.56, yaw: 0.0, width: 39.5 };
        random.ground = Ground {
            salt: 11,
            half: [18.0, 11.5],
            grass: [74.0, 138.0, 52.0],
            mowing: Mowing::Across,
            stripe: 2.25,
            contrast: 0.07,
            wear: 0.12,
            line: [236.0, 240.0, 232.0],
            line_width: 0.13,
            surround: [66.0, 122.0, 50.0],
            board_height: 1.1,
            boards: [[18.0, 60.0, 130.0], [196.0, 40.0, 44.0], [236.0, 236.0, 236.0], [24.0, 24.0, 30.0]],
            crowd: 0.86,
            fans: [[190.0, 50.0, 50.0], [60.0, 84.0, 170.0]],
            stand: [84.0, 88.0, 98.0],
            rows: 14.0,
            sky: [150.0, 188.0, 226.0],
            shade: [0.0, 1.0, 1e6, 1.0],
            oversample: 2,
        };
        random.kits = live_kits(rng);
        random.squad = Squad { outfield: 6, keepers: true, referees: 1, haste: 1.7 };
        random.pace = 1.0;
        random.figure = 1.32;
        random.ball = 0.42;
        random.ball_colour = yuv([245.0; 3]);
        random.more_balls = 0;
        random.sun = [0.55, 0.28];
        random.shadow = 0.42;
        random.overlays.clear();
        random.flaws = None;
        random
    }

    /// A scene by lot.
    pub(super) fn random(rng: &mut Rng) -> Self {
        let half = [rng.range(14.0, 30.0), rng.range(10.0, 20.0)];
        let hue = rng.range(0.20, 0.36);
        let grass = hsv(hue, rng.range(0.35, 0.8), rng.range(0.28, 0.68));
        let (home, shirt) = team_kit(rng, None);
        let (away, other) = team_kit(rng, Some(shirt));
        let (keeper, _) = team_kit(rng, Some(shirt));
        let (keeper2, _) = team_kit(rng, Some(other));
        let referee = referee_kit(rng);
        let width = rng.range(22.0, 46.0);
        let figure = rng.range(1.0, 1.45);
        // A ball of about 9 to 18 pixels in a picture of 1280.
        let ball = rng.range(9.0, 17.0) * width / 1280.0;
        let dark = |rng: &mut Rng| hsv(rng.unit(), rng.range(0.0, 0.4), rng.range(0.08, 0.5));
        let bright = |rng: &mut Rng| hsv(rng.unit(), rng.range(0.0, 1.0), rng.range(0.2, 1.0));
        let ground = Ground {
            salt: rng.next() as u32,
            half,
            grass,
            mowing: rng.pick([Mowing::Plain, Mowing::Across, Mowing::Along, Mowing::Chequered]),
            stripe: rng.range(1.2, 5.0),
            contrast: rng.range(0.02, 0.14),
            wear: rng.range(0.0, 0.5),
            line: [rng.range(190.0, 250.0); 3],
            line_width: rng.range(0.09, 0.18),
            surround: if rng.chance(0.6) { grass.map(|v| v * 0.85) } else { bright(rng) },
            board_height: if rng.chance(0.8) { rng.range(0.6, 1.6) } else { 0.0 },
            boards: [bright(rng), bright(rng), WHITE, BLACK],
            crowd: if rng.chance(0.7) { rng.range(0.2, 0.95) } else { 0.0 },
            fans: [bright(rng), bright(rng)],
            stand: dark(rng),
            rows: rng.range(4.0, 22.0),
            sky: hsv(rng.range(0.5, 0.65), rng.range(0.0, 0.5), rng.range(0.1, 0.95)),
            shade: if rng.chance(0.35) {
                let angle = rng.range(0.0, std::f32::consts::TAU);
                [angle.cos(), angle.sin(), rng.range(-8.0, 8.0), rng.range(0.45, 0.8)]
            } else {
                [0.0, 1.0, 1e6, 1.0]
            },
            oversample: 1,
        };
        let overlays = (0..rng.int(0, 3))
            .map(|_| {
                let (w, h) = (rng.range(0.03, 0.25), rng.range(0.02, 0.09));
                let (x, y) =
                    (rng.range(0.0, 1.0 - w), if rng.chance(0.7) { rng.range(0.0, 0.12) } else { rng.range(0.8, 0.9) });
                ([x, y, x + w, y + h], yuv(bright(rng)))
            })
            .collect();
        let sun_angle = rng.range(0.0, std::f32::consts::TAU);
        let sun_length = rng.range(0.1, 1.6);
        Self {
            view: View {
                target: [rng.range(-0.5, 0.5) * half[0], rng.range(-0.4, 0.5) * half[1]],
                distance: rng.range(35.0, 90.0),
                elevation: rng.range(0.30, 0.85),
                yaw: rng.range(-0.35, 0.35),
                width,
            },
            ground,
            kits: [home, away, keeper, keeper2, referee],
            squad: Squad { outfield: rng.int(3, 10), keepers: rng.chance(0.8), referees: rng.int(1, 3), haste: 1.0 },
            pace: rng.range(0.6, 1.5),
            figure,
            ball,
            ball_colour: yuv(if rng.chance(0.8) {
                [rng.range(215.0, 252.0); 3]
            } else {
                hsv(rng.pick([0.03, 0.07, 0.15]), rng.range(0.5, 0.9), 1.0)
            }),
            more_balls: rng.int(0, 2),
            sun: [sun_angle.cos() * sun_length, sun_angle.sin() * sun_length],
            shadow: rng.range(0.05, 0.6),
            overlays,
            flaws: Some(Flaws {
                gain: rng.range(0.6, 1.25),
                gamma: rng.range(0.8, 1.3),
                saturation: rng.range(0.5, 1.3),
                tint: [rng.range(-7.0, 7.0), rng.range(-7.0, 7.0)],
                vignette: rng.range(0.0, 0.35),
                blur: if rng.chance(0.6) { rng.range(0.3, 1.4) } else { 0.0 },
                noise: if rng.chance(0.7) { rng.range(0.5, 8.0) } else { 0.0 },
                quantiser: if rng.chance(0.7) { rng.range(4.0, 30.0) } else { 0.0 },
            }),
        }
    }
}
