//! The pixel pass allocates nothing once it has seen a kind of picture. Alone in its file because it counts what the
//! whole process allocates.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::cell::Cell;

use framegate::frame::{Orientation, Picture, PixelFormat};
use framegate::infer::preprocess::{ChannelOrder, Fit, InputSpec, Layout, Preprocessor, SimdLevel};
use framegate::infer::tensor::DType;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // Gone while a thread ends; what happens then is nobody's frame.
    let _ = ALLOCATIONS.try_with(|n| n.set(n.get() + 1));
}

// SAFETY: hands everything to the system's allocator; counting neither allocates nor panics.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(memory) }
    }

    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, memory) }
    }

    unsafe fn realloc(&self, at: *mut u8, memory: Memory, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, memory, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn picture(format: PixelFormat, width: u32, height: u32) -> Picture {
    let (w, h) = (width as usize, height as usize);
    Picture::hd((width, height), format, [3 * w; 3], vec![vec![90; 3 * w * h]; 3])
}

fn spec(layout: Layout, dtype: DType) -> InputSpec {
    InputSpec {
        width: 320,
        height: 256,
        layout,
        channels: ChannelOrder::Rgb,
        dtype,
        fit: Fit::Letterbox { centered: true, pad: [114.0; 3], never_enlarge: false },
        mean: [0.0; 3],
        scale: [1.0; 3],
    }
}

#[test]
fn the_counter_counts() {
    assert!(allocations(|| drop(std::hint::black_box(vec![0u8; 100]))) > 0);
}

#[test]
fn kinds_of_pictures_seen_before_allocate_nothing() {
    let pictures = [
        picture(PixelFormat::I420, 640, 360),
        picture(PixelFormat::Nv12, 333, 477),
        picture(PixelFormat::Rgb, 200, 100),
        Picture {
            orientation: Orientation { quarter_turns: 1, mirrored: true },
            ..picture(PixelFormat::I420, 640, 360)
        },
    ];
    for level in SimdLevel::ALL {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            for dtype in [DType::F32, DType::F16, DType::U8] {
                let spec = spec(layout, dtype);
                let mut slot = vec![0; spec.bytes()];
                let mut pass = Preprocessor::with_level(spec, level);
                let mut round = |slot: &mut [u8]| {
                    for p in &pictures {
                        pass.run(p, None, slot).expect("sound");
                    }
                };
                round(&mut slot);
                let n = allocations(|| (0..20).for_each(|_| round(&mut slot)));
                assert_eq!(n, 0, "{level:?} {layout:?} {dtype:?}");
            }
        }
    }
}

#[test]
fn regions_that_are_never_the_same_twice_allocate_nothing() {
    let picture = picture(PixelFormat::Nv12, 640, 360);
    let spec = spec(Layout::Nchw, DType::F32);
    let mut slot = vec![0; spec.bytes()];
    let mut pass = Preprocessor::new(spec);
    pass.run(&picture, Some([0.0, 0.0, 640.0, 360.0]), &mut slot).expect("sound");
    let n = allocations(|| {
        for i in 0..50 {
            let i = i as f32;
            pass.run(&picture, Some([7.3 * i, i, 7.3 * i + 100.0 + i, 200.0 + i]), &mut slot).expect("sound");
        }
    });
    assert_eq!(n, 0);
}
