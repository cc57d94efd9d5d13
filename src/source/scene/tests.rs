use super::*;

const SIZE: (usize, usize) = (640, 360);

fn picture(scene: &Scene, n: u64) -> Vec<u8> {
    let mut buffer = vec![0; SIZE.0 * SIZE.1 * 3 / 2];
    scene.draw(n, &mut PlanesMut::tight(SIZE, &mut buffer).unwrap()).unwrap();
    buffer
}

fn live(seed: u64) -> Scene {
    Scene::new(SceneConfig::live(SIZE.0, SIZE.1, 30.0), seed).unwrap()
}

#[test]
fn a_frame_depends_on_seed_and_number_only() {
    let scene = live(5);
    let (a, b) = (picture(&scene, 40), picture(&scene, 7));
    let other = live(5);
    assert!(picture(&other, 7) == b && picture(&other, 40) == a);
    assert!(a != b && picture(&live(6), 40) != a);
    assert_eq!(scene.truth(40), other.truth(40));
}

#[test]
fn random_scenes_repeat_with_their_noise() {
    let make = |seed| Scene::new(SceneConfig::random(SIZE.0, SIZE.1), seed).unwrap();
    assert!(picture(&make(3), 0) == picture(&make(3), 0));
    assert!(picture(&make(3), 0) != picture(&make(4), 0));
}

#[test]
fn boxes_hold_everything_that_is_painted_and_nothing_more() {
    let mut scene = live(9);
    scene.look.shadow = 0.0;
    scene.look.sun = [0.0; 2];
    let n = 100;
    let truth = scene.truth(n);
    assert!(truth.len() >= 14 && truth.iter().any(|t| t.class == Class::Referee));
    // Shadows are painted even when faint, so the boxes' objects are painted alone here.
    let (drawn, mut alone) = (scene.things(n), scene.background.clone());
    {
        let mut planes = PlanesMut::tight(SIZE, &mut alone).unwrap();
        for (_, thing) in &drawn {
            scene.paint(&mut planes, thing);
        }
    }
    let changed = |x: usize, y: usize| {
        let i = y * SIZE.0 + x;
        alone[i].abs_diff(scene.background[i]) > 8
    };
    for y in 0..SIZE.1 {
        for x in 0..SIZE.0 {
            let (px, py) = (x as f32 + 0.5, y as f32 + 0.5);
            let within = |t: &Truth| {
                let [x1, y1, x2, y2] = t.bbox;
                px > x1 - 1.0 && px < x2 + 1.0 && py > y1 - 1.0 && py < y2 + 1.0
            };
            assert!(!changed(x, y) || truth.iter().any(within), "something at {x}, {y} is in no box");
        }
    }
    for t in truth.iter().filter(|t| t.visible > 0.99) {
        let [x1, y1, x2, y2] = t.bbox.map(|v| v as usize);
        let column = |x: usize| (y1..y2).any(|y| changed(x, y));
        let row = |y: usize| (x1..x2).any(|x| changed(x, y));
        let sides = [column(x1) || column(x1 + 1), column(x2 - 1) || column(x2 - 2)];
        let ends = [row(y1) || row(y1 + 1), row(y2 - 1) || row(y2 - 2)];
        assert!(sides == [true; 2] && ends == [true; 2], "{t:?} is wider than what is painted");
    }
}

#[test]
fn what_is_hidden_or_outside_counts_as_not_visible() {
    let mut scene = live(2);
    let truth = scene.truth(0);
    let t = truth.iter().find(|t| t.visible > 0.99).unwrap();
    let (w, h) = (SIZE.0 as f32, SIZE.1 as f32);
    let [x1, y1, x2, y2] = t.bbox;
    scene.look.overlays.push(([x1 / w, y1 / h, x2 / w, y2 / h], [128.0; 3]));
    let hidden = scene.truth(0);
    assert!(hidden.iter().any(|h| h.id == t.id && h.visible < 0.02 && h.bbox == t.bbox));
    for t in (0..40).flat_map(|i| scene.truth(i * 15)) {
        assert!(t.bbox[0] >= 0.0 && t.bbox[1] >= 0.0 && t.bbox[2] <= w && t.bbox[3] <= h);
        assert!((0.0..=1.0).contains(&t.visible));
    }
}

#[test]
fn the_frame_number_can_be_read_back() {
    let scene = Scene::new(SceneConfig { number: true, ..SceneConfig::live(SIZE.0, SIZE.1, 30.0) }, 1).unwrap();
    for n in [0u64, 1, 255, 256, 40_000, 65_535, 65_536, 1 << 40] {
        let frame = picture(&scene, n);
        let code = (0..NUMBER_BITS).fold(0u32, |code, bit| {
            let at = 8 * SIZE.0 + bit * NUMBER_BLOCK + 8;
            code << 1 | u32::from(frame[at] > 128)
        });
        assert_eq!(code, number_code(n));
        assert_eq!(u64::from(code >> 8), n & 0xffff);
        assert_eq!(u64::from(code & 0xff), ((n.wrapping_mul(37) + 11) ^ (n >> 8)) & 0xff);
    }
}

#[test]
fn padded_rows_are_left_alone() {
    let scene = live(1);
    let (w, h) = SIZE;
    let strides = [w + 24, w / 2 + 8, w / 2 + 40];
    let mut planes = [vec![7u8; strides[0] * h], vec![7u8; strides[1] * h / 2], vec![7u8; strides[2] * h / 2]];
    let [y, u, v] = &mut planes;
    scene.draw(33, &mut PlanesMut::new(SIZE, [y, u, v], strides).unwrap()).unwrap();
    let tight = picture(&scene, 33);
    for row in 0..h {
        assert!(planes[0][row * strides[0]..][..w] == tight[row * w..][..w]);
        assert!(planes[0][row * strides[0] + w..][..24].iter().all(|&p| p == 7));
    }
    for row in 0..h / 2 {
        assert!(planes[1][row * strides[1]..][..w / 2] == tight[w * h + row * w / 2..][..w / 2]);
        assert!(planes[2][row * strides[2] + w / 2..][..40].iter().all(|&p| p == 7));
    }
}

#[test]
fn what_cannot_be_drawn_is_said() {
    let error = |config| Scene::new(config, 1).err();
    assert!(matches!(error(SceneConfig::live(641, 360, 30.0)), Some(SceneError::Size { .. })));
    assert!(matches!(error(SceneConfig::live(32, 360, 30.0)), Some(SceneError::Size { least: 64, .. })));
    let numbered = SceneConfig { number: true, ..SceneConfig::live(320, 180, 30.0) };
    assert!(matches!(error(numbered), Some(SceneError::Size { least: 384, .. })));
    assert!(matches!(error(SceneConfig::live(640, 360, 0.0)), Some(SceneError::Rate(_))));
    assert!(matches!(error(SceneConfig::live(640, 360, f64::NAN)), Some(SceneError::Rate(_))));
    let mut short = vec![0; 1000];
    assert!(PlanesMut::tight(SIZE, &mut short).is_err());
    let mut other = vec![0; 320 * 180 * 3 / 2];
    assert!(live(1).draw(0, &mut PlanesMut::tight((320, 180), &mut other).unwrap()).is_err());
    let (mut y, mut u, mut v) = (vec![0; 640 * 360], vec![0; 320 * 180], vec![0; 320 * 179]);
    let planes = PlanesMut::new(SIZE, [&mut y, &mut u, &mut v], [640, 320, 320]);
    assert_eq!(planes.unwrap_err(), SceneError::Plane { plane: 2, have: 320 * 179, need: 320 * 180 });
}
