//! Players, the referee and the ball: jointed figures of round limbs, posed in the world and painted far parts first.

use super::camera::{Camera, Point};
use super::look::{Kit, Look, Pattern, Person};
use super::play::{Ball, Pose};
use super::raster::{Paint, Surface, Yuv, capsule, ellipse, yuv};

const SHADOW: Yuv = [20.0, 124.0, 124.0];

/// The part of a body that is painted with one colour.
#[derive(Debug, Clone, Copy)]
struct Limb {
    ends: [Point; 2],
    radii: [f32; 2],
    paint: Paint,
    pattern: Pattern,
    /// Pushed towards the camera when limbs are sorted, metres.
    forward: f32,
}

/// The joints of a body, metres from the feet: forward, to the left, up.
struct Joints {
    hips: [Point; 2],
    knees: [Point; 2],
    ankles: [Point; 2],
    toes: [Point; 2],
    waist: Point,
    chest: Point,
    shoulders: [Point; 2],
    elbows: [Point; 2],
    hands: [Point; 2],
    head: Point,
}

impl Joints {
    /// A stride at this phase; the lower foot stands on the ground.
    fn of(pose: &Pose) -> Self {
        let effort = (pose.speed / 3.2).clamp(0.08, 1.0);
        let lean = 0.16 * effort;
        let side = [0.10, -0.10];
        let (mut knees, mut ankles, mut toes) = ([[0.0; 3]; 2], [[0.0; 3]; 2], [[0.0; 3]; 2]);
        let hips = side.map(|s| [0.0, s, 0.93]);
        for leg in 0..2 {
            let phase = pose.phase + leg as f32 * std::f32::consts::PI;
            let thigh = effort * 0.78 * phase.sin() + 0.08 * effort;
            let flex = 0.10 + effort * (0.30 + 1.05 * phase.cos().max(0.0));
            let shin = thigh - flex;
            knees[leg] = [0.45 * thigh.sin(), side[leg], 0.93 - 0.45 * thigh.cos()];
            ankles[leg] = [knees[leg][0] + 0.42 * shin.sin(), side[leg], knees[leg][2] - 0.42 * shin.cos()];
            let foot = shin * 0.6;
            toes[leg] = [ankles[leg][0] + 0.17 * foot.cos(), side[leg], ankles[leg][2] - 0.03 + 0.17 * foot.sin()];
        }
        let chest = [0.50 * lean.sin(), 0.0, 0.95 + 0.47 * lean.cos()];
        let shoulders = [0.20, -0.20].map(|s| [chest[0], s, chest[2] + 0.02]);
        let (mut elbows, mut hands) = ([[0.0; 3]; 2], [[0.0; 3]; 2]);
        for arm in 0..2 {
            let phase = pose.phase + (1 - arm) as f32 * std::f32::consts::PI;
            let upper = effort * 0.85 * phase.sin() - 0.1;
            let lower = upper + 0.25 + effort * 1.25;
            let out = if arm == 0 { 1.0 } else { -1.0 };
            let s = shoulders[arm];
            elbows[arm] = [s[0] + 0.27 * upper.sin(), s[1] + out * 0.07, s[2] - 0.27 * upper.cos()];
            let e = elbows[arm];
            hands[arm] = [e[0] + 0.25 * lower.sin(), e[1] - out * 0.02, e[2] - 0.25 * lower.cos()];
        }
        let mut joints = Self {
            hips,
            knees,
            ankles,
            toes,
            waist: [0.0, 0.0, 0.98],
            chest,
            shoulders,
            elbows,
            hands,
            head: [chest[0] + 0.05 + 0.04 * effort, 0.0, chest[2] + 0.27],
        };
        let drop = ankles[0][2].min(ankles[1][2]) - 0.08;
        for p in joints.all() {
            p[2] -= drop;
        }
        joints
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Point> {
        self.hips
            .iter_mut()
            .chain(&mut self.knees)
            .chain(&mut self.ankles)
            .chain(&mut self.toes)
            .chain(&mut self.shoulders)
            .chain(&mut self.elbows)
            .chain(&mut self.hands)
            .chain([&mut self.waist, &mut self.chest, &mut self.head])
    }
}

fn between(a: Point, b: Point, share: f32) -> Point {
    std::array::from_fn(|i| a[i] + (b[i] - a[i]) * share)
}

/// Paints the shadows of somebody.
pub(super) fn shadow(surface: &mut impl Surface, camera: &Camera, look: &Look, pose: &Pose) {
    let height = 1.7 * look.figure;
    let foot = [pose.at[0], pose.at[1], 0.0];
    let tip = [pose.at[0] + look.sun[0] * height, pose.at[1] + look.sun[1] * height, 0.0];
    let ((a, scale), (b, _)) = (camera.project(foot), camera.project(tip));
    let paint = Paint { alpha: look.shadow, ..Paint::solid(SHADOW) };
    let r = 0.2 * look.figure * scale;
    capsule(surface, (a, r * 0.7), (b, r), &paint, |_, _| (0.0, 0.0));
    let contact = Paint { alpha: 0.25, ..paint };
    ellipse(surface, a, [0.36 * look.figure * scale, 0.17 * look.figure * scale], &contact, |_, _| (0.0, 0.0));
}

/// Paints somebody.
pub(super) fn person(
    surface: &mut impl Surface,
    camera: &Camera,
    look: &Look,
    pose: &Pose,
    kit: &Kit,
    person: &Person,
) {
    let mut joints = Joints::of(pose);
    let (sin, cos) = pose.heading.sin_cos();
    let tall = look.figure * person.height;
    for p in joints.all() {
        let [f, l, u] = p.map(|v| v * tall);
        *p = [pose.at[0] + f * cos - l * sin, pose.at[1] + f * sin + l * cos, u];
    }
    let wide = tall * person.girth;
    let mut limbs: [Option<Limb>; 24] = [None; 24];
    let mut count = 0;
    let mut add = |ends: [Point; 2], radii: [f32; 2], colour: Yuv, forward: f32| {
        limbs[count] = Some(Limb {
            ends,
            radii: radii.map(|r| r * wide),
            paint: Paint::solid(colour),
            pattern: Pattern::Plain,
            forward,
        });
        count += 1;
    };
    let j = &joints;
    for leg in 0..2 {
        let (hip, knee, ankle) = (j.hips[leg], j.knees[leg], j.ankles[leg]);
        add([between(hip, knee, 0.5), knee], [0.085, 0.065], person.skin, 0.0);
        add([hip, between(hip, knee, 0.62)], [0.115, 0.115], kit.shorts, 0.02);
        add([between(knee, ankle, 0.2), ankle], [0.066, 0.05], kit.socks, 0.01);
        add([ankle, j.toes[leg]], [0.055, 0.045], person.boots, 0.02);
    }
    add(j.hips, [0.13, 0.13], kit.shorts, 0.03);
    for arm in 0..2 {
        let (shoulder, elbow) = (j.shoulders[arm], j.elbows[arm]);
        add([between(shoulder, elbow, 0.6), elbow], [0.05, 0.045], person.skin, 0.0);
        add([elbow, j.hands[arm]], [0.046, 0.042], person.skin, 0.02);
        add([shoulder, between(shoulder, elbow, 0.72)], [0.078, 0.07], kit.sleeves, 0.02);
    }
    add([j.chest, j.head], [0.07, 0.06], person.skin, 0.0);
    add([j.shoulders[0], j.shoulders[1]], [0.085, 0.085], kit.shirt, 0.04);
    add([j.waist, j.chest], [0.15, 0.185], kit.shirt, 0.05);
    if let Some(Some(torso)) = limbs.get_mut(count - 1) {
        torso.paint.second = kit.second;
        torso.pattern = kit.pattern;
    }
    let mut order: [(f32, usize); 24] = std::array::from_fn(|i| (f32::MIN, i));
    for (i, limb) in limbs.iter().enumerate().take(count) {
        if let Some(limb) = limb {
            order[i].0 = camera.depth(between(limb.ends[0], limb.ends[1], 0.5)) - limb.forward * 4.0;
        }
    }
    let order = &mut order[..count];
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    let sunny = if look.sun[0] > 0.0 { -1.0 } else { 1.0 };
    for &(_, i) in order.iter() {
        let Some(limb) = &limbs[i] else { continue };
        let ((a, sa), (b, sb)) = (camera.project(limb.ends[0]), camera.project(limb.ends[1]));
        let (ra, rb) = (limb.radii[0] * sa, limb.radii[1] * sb);
        let turn = if b[1] > a[1] { -sunny } else { sunny };
        let pattern = limb.pattern;
        capsule(surface, (a, ra), (b, rb), &limb.paint, |across, along| {
            let second = match pattern {
                Pattern::Plain => 0.0,
                Pattern::Stripes => (0.5 + 2.0 * (across * 5.5).cos()).clamp(0.0, 1.0),
                Pattern::Hoops => (0.5 + 2.0 * (along * 14.0).sin()).clamp(0.0, 1.0),
                Pattern::Halves => (0.5 + across * 3.0).clamp(0.0, 1.0),
            };
            (second, turn * across * 16.0)
        });
    }
    head(surface, camera, j.head, tall, pose.heading, person);
}

fn head(surface: &mut impl Surface, camera: &Camera, at: Point, tall: f32, heading: f32, person: &Person) {
    let (centre, scale) = camera.project(at);
    let r = 0.125 * tall * scale;
    let paint = Paint { first: person.skin, second: person.hair, alpha: 1.0 };
    // Seen from above, with much of the crown. The face points where the body does: to the side by the cosine, away from the camera by the sine.
    let (face, away) = (heading.cos(), heading.sin());
    ellipse(surface, centre, [r * 0.9, r], &paint, |x, y| {
        let hair = -y * 1.1 - x * face * 0.8 + away * 0.75 + 0.08;
        ((0.5 + hair * 4.0).clamp(0.0, 1.0), -12.0 * y)
    });
}

/// Paints the ball's shadow.
pub(super) fn ball_shadow(surface: &mut impl Surface, camera: &Camera, look: &Look, ball: &Ball) {
    let r = look.ball / 2.0;
    let ground = [ball.at[0] + look.sun[0] * ball.at[2], ball.at[1] + look.sun[1] * ball.at[2] + r * 0.3, 0.0];
    let (at, scale) = camera.project(ground);
    let paint = Paint { alpha: look.shadow.max(0.25), ..Paint::solid(SHADOW) };
    ellipse(surface, [at[0] + look.sun[0] * r * scale, at[1]], [r * 1.15 * scale, r * 0.6 * scale], &paint, |_, _| {
        (0.0, 0.0)
    });
}

/// Paints the ball; `exposure` seconds smear it along its way.
pub(super) fn ball(surface: &mut impl Surface, camera: &Camera, look: &Look, ball: &Ball, exposure: f32) {
    let r = look.ball / 2.0;
    let centre = [ball.at[0], ball.at[1], ball.at[2] + r];
    let half = exposure / 2.0;
    let ends = [-half, half].map(|t| std::array::from_fn(|i| centre[i] + ball.velocity[i] * t));
    let ((a, scale), (b, _)) = (camera.project(ends[0]), camera.project(ends[1]));
    let radius = r * scale;
    let (dark, spin) = (yuv([30.0, 30.0, 34.0]), (ball.at[0] + ball.at[1] * 0.7) / r);
    let paint = Paint { first: look.ball_colour, second: dark, alpha: 1.0 };
    let middle = [(a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0];
    capsule(surface, (a, radius), (b, radius), &paint, |_, _| (0.0, 0.0));
    // Dark panels that turn with the way travelled, and a shaded underside.
    let (sin, cos) = spin.sin_cos();
    ellipse(surface, middle, [radius * 0.98, radius * 0.98], &paint, |x, y| {
        let (u, v) = (x * cos - y * sin, x * sin + y * cos);
        let panel = |px: f32, py: f32, size: f32| 1.0 - ((u - px).hypot(v - py) / size).powi(4);
        let dark =
            panel(0.1, 0.05, 0.34).max(panel(-0.75, 0.5, 0.3)).max(panel(0.62, -0.72, 0.3)).max(panel(0.65, 0.75, 0.3));
        (dark.clamp(0.0, 0.85), -26.0 * (x * 0.3 + y).max(0.0))
    });
}
