//! Who is where, when: a closed-form, endless, repeatable game.
//!
//! Every path is a sum of waves whose periods divide [`PERIOD`], so any frame can be drawn without the ones before.

use super::camera::Point;
use super::rng::Rng;
use std::f32::consts::TAU;

/// The game repeats itself after this many seconds.
pub(super) const PERIOD: f64 = 600.0;
/// One spell of a player on the ball and the pass behind it, seconds.
const SPELL: f32 = 2.5;
/// Part of a spell before the pass.
const HOLD: f32 = 0.58;
/// Players keep this distance, metres.
const ELBOW_ROOM: f32 = 1.1;

/// Which side somebody is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Team(usize),
    Keeper(usize),
    Referee,
}

#[derive(Debug, Clone)]
struct Wave {
    reach: [f32; 2],
    turns: f32,
    phase: [f32; 2],
}

#[derive(Debug, Clone)]
struct Path {
    side: Side,
    home: [f32; 2],
    waves: Vec<Wave>,
    stride: f32,
}

/// Somebody at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pose {
    pub(super) side: Side,
    pub(super) at: [f32; 2],
    /// Direction that the body faces, radians, counted from x towards y.
    pub(super) heading: f32,
    /// Metres per second.
    pub(super) speed: f32,
    /// Of the stride, radians.
    pub(super) phase: f32,
}

/// The ball at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ball {
    /// Its centre, metres; z counts from the ground to its lowest point.
    pub(super) at: Point,
    /// Metres per second.
    pub(super) velocity: Point,
}

/// A game of two teams.
#[derive(Debug, Clone)]
pub(super) struct Play {
    half: [f32; 2],
    paths: Vec<Path>,
    shift: Wave,
    holders: Vec<usize>,
    pace: f32,
}

/// How many of each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Squad {
    pub(super) outfield: u32,
    pub(super) keepers: bool,
    pub(super) referees: u32,
    /// How often they change direction; 1 is a quiet game.
    pub(super) haste: f32,
}

impl Play {
    /// A game on a pitch of half extents `half` metres; `pace` 1 is lively.
    pub(super) fn new(half: [f32; 2], squad: Squad, pace: f32, rng: &mut Rng) -> Self {
        let mut paths = Vec::new();
        let path = |side, home, reach: f32, rng: &mut Rng| Path {
            side,
            home,
            waves: (0..3)
                .map(|i| Wave {
                    reach: [rng.range(0.5, 1.0) * reach, rng.range(0.4, 0.9) * reach]
                        .map(|r| r / (1.0 + i as f32 * 0.7)),
                    turns: (rng.int(14 + 16 * i, 30 + 22 * i) as f32 * squad.haste).round(),
                    phase: [rng.range(0.0, TAU), rng.range(0.0, TAU)],
                })
                .collect(),
            stride: rng.range(0.0, TAU),
        };
        for team in 0..2 {
            let sign = if team == 0 { -1.0 } else { 1.0 };
            for i in 0..squad.outfield {
                let spread = (i as f32 + 0.5) / squad.outfield as f32 * 2.0 - 1.0;
                let depth = ((i * 5 + 2) % squad.outfield.max(1)) as f32 / squad.outfield as f32;
                let home = [sign * half[0] * (0.62 - depth * 0.85), spread * half[1] * 0.78];
                paths.push(path(Side::Team(team), home, half[1] * 0.33, rng));
            }
            if squad.keepers {
                paths.push(path(Side::Keeper(team), [sign * (half[0] - 1.3), 0.0], 0.7, rng));
            }
        }
        for _ in 0..squad.referees {
            let home = [rng.range(-0.4, 0.4) * half[0], rng.range(-0.5, 0.5) * half[1]];
            paths.push(path(Side::Referee, home, half[1] * 0.4, rng));
        }
        let shift = Wave {
            reach: [half[0] * 0.22, half[1] * 0.12],
            turns: rng.int(18, 26) as f32,
            phase: [rng.range(0.0, TAU), rng.range(0.0, TAU)],
        };
        let mut play = Self { half, paths, shift, holders: Vec::new(), pace };
        play.plan_passes(rng);
        play
    }

    /// Chooses who gets the ball: now and then the other team, mostly somebody neither near nor far.
    fn plan_passes(&mut self, rng: &mut Rng) {
        let field: Vec<usize> =
            (0..self.paths.len()).filter(|&i| matches!(self.paths[i].side, Side::Team(_))).collect();
        if field.is_empty() {
            return;
        }
        let spells = (PERIOD as f32 / SPELL) as usize;
        let mut holder = field[0];
        for k in 0..spells {
            self.holders.push(holder);
            let people = self.people_at((k + 1) as f32 * SPELL);
            let mut best = (f32::MAX, holder);
            for _ in 0..4 {
                let next = field[(rng.next() % field.len() as u64) as usize];
                let gap = distance(people[holder].at, people[next].at);
                let cost = (gap - 8.0).abs() + if self.paths[next].side == self.paths[holder].side { 0.0 } else { 5.0 };
                if next != holder && cost < best.0 {
                    best = (cost, next);
                }
            }
            holder = best.1;
        }
    }

    fn swing(wave: &Wave, t: f32, axis: usize) -> f32 {
        wave.reach[axis] * (TAU * wave.turns * t / PERIOD as f32 + wave.phase[axis]).sin()
    }

    /// Where a path is, before people make room for each other.
    fn place(&self, path: &Path, t: f32) -> [f32; 2] {
        std::array::from_fn(|axis| {
            let common = match path.side {
                Side::Keeper(_) => 0.0,
                _ => Self::swing(&self.shift, t, axis),
            };
            let v = path.home[axis] + common + path.waves.iter().map(|w| Self::swing(w, t, axis)).sum::<f32>();
            let limit = self.half[axis] * 0.97;
            // Bends smoothly towards the touchline instead of crossing it.
            v / (1.0 + (v / limit).powi(8)).powf(0.125)
        })
    }

    fn people_at(&self, t: f32) -> Vec<Pose> {
        const STEP: f32 = 0.05;
        let mut people: Vec<Pose> = self
            .paths
            .iter()
            .map(|path| {
                let (a, b) = (self.place(path, t - STEP), self.place(path, t + STEP));
                let v = [(b[0] - a[0]) / (2.0 * STEP), (b[1] - a[1]) / (2.0 * STEP)];
                let speed = v[0].hypot(v[1]) * self.pace;
                // Two strides a second at a run; whole turns in a period keep the loop seamless.
                let strides = (PERIOD as f32 * 1.55).round();
                let phase = (TAU * strides * (t / PERIOD as f32) + path.stride) % TAU;
                // Somebody who hardly moves looks to the middle.
                let idle = (1.0 - speed).max(0.0) * 0.4;
                let look = [v[0] - idle * a[0].signum(), v[1] - idle * a[1].signum()];
                Pose { side: path.side, at: self.place(path, t), heading: look[1].atan2(look[0]), speed, phase }
            })
            .collect();
        for i in 0..people.len() {
            for j in 0..i {
                let (a, b) = (people[i].at, people[j].at);
                let gap = distance(a, b).max(1e-3);
                if gap < ELBOW_ROOM {
                    let push = (ELBOW_ROOM - gap) / (2.0 * gap);
                    let d = [(a[0] - b[0]) * push, (a[1] - b[1]) * push];
                    people[i].at = [a[0] + d[0], a[1] + d[1]];
                    people[j].at = [b[0] - d[0], b[1] - d[1]];
                }
            }
        }
        people
    }

    /// Everybody at `t` seconds.
    pub(super) fn people(&self, t: f64) -> Vec<Pose> {
        self.people_at((t * self.pace as f64).rem_euclid(PERIOD) as f32)
    }

    /// The ball at `t` seconds, if there are players to pass it.
    pub(super) fn ball(&self, t: f64) -> Option<Ball> {
        let t = (t * self.pace as f64).rem_euclid(PERIOD) as f32;
        let now = self.ball_at(t)?;
        let then = self.ball_at((t + 0.02).min(PERIOD as f32 - 1e-3))?;
        Some(Ball { at: now, velocity: std::array::from_fn(|i| (then[i] - now[i]) / 0.02 * self.pace) })
    }

    fn ball_at(&self, t: f32) -> Option<Point> {
        if self.holders.is_empty() {
            return None;
        }
        let spell = ((t / SPELL) as usize).min(self.holders.len() - 1);
        let share = t / SPELL - spell as f32;
        let (from, to) = (self.holders[spell], self.holders[(spell + 1) % self.holders.len()]);
        let people = self.people_at(t);
        let (a, b) = (feet(&people[from]), feet(&people[to]));
        let s = ((share - HOLD) / (1.0 - HOLD)).max(0.0);
        // Kicked hard, rolls out.
        let s = 1.0 - (1.0 - s) * (1.0 - s);
        let gap = distance(a, b);
        let loft = if spell.is_multiple_of(3) && gap > 6.0 { 0.18 * gap } else { 0.0 };
        Some([a[0] + (b[0] - a[0]) * s, a[1] + (b[1] - a[1]) * s, 4.0 * loft * s * (1.0 - s)])
    }
}

/// Where somebody leads the ball.
fn feet(pose: &Pose) -> [f32; 2] {
    let lead = 0.55 + 0.12 * pose.speed.min(3.0) * pose.phase.sin();
    [pose.at[0] + pose.heading.cos() * lead, pose.at[1] + pose.heading.sin() * lead]
}

fn distance(a: [f32; 2], b: [f32; 2]) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn game() -> Play {
        Play::new([18.0, 12.0], Squad { outfield: 6, keepers: true, referees: 1, haste: 1.7 }, 1.0, &mut Rng::new(7))
    }

    #[test]
    fn everybody_moves_smoothly_and_stays_on_the_pitch() {
        let play = game();
        for i in 0..600 {
            let t = i as f64 / 30.0;
            let (now, next) = (play.people(t), play.people(t + 1.0 / 30.0));
            for (a, b) in now.iter().zip(&next) {
                assert!(a.at[0].abs() < 19.0 && a.at[1].abs() < 13.0, "{a:?}");
                // A run is 0.1 m a frame; stepping aside for somebody who comes head-on is the fastest.
                assert!(distance(a.at, b.at) < 0.6, "{a:?} to {b:?}");
            }
        }
    }

    #[test]
    fn the_ball_travels_between_players_without_jumps() {
        let play = game();
        let mut way = 0.0;
        for i in 0..900 {
            let t = i as f64 / 30.0;
            let (Some(a), Some(b)) = (play.ball(t), play.ball(t + 1.0 / 30.0)) else { panic!("no ball") };
            let step = distance([a.at[0], a.at[1]], [b.at[0], b.at[1]]);
            assert!(step < 2.0, "{step} at {t}");
            way += step;
        }
        assert!(way > 60.0, "{way}");
    }
}
