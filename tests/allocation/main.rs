//! A closed model allocates nothing after it is made, shown by an allocator that counts what the whole process asks for.

use kiln::{Options, Threads};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

kiln::model! { struct Convnet = "models/convnet.onnx"; }
kiln::model! { struct Recurrent = "models/recurrent.onnx"; dims { steps in 1..=5, batch in 1..=8 } }
kiln::model! { struct Mlp = "models/mlp.onnx"; dims { batch in 1..=8 } }

kiln::model! {
    struct Cached = "models/cached.onnx";
    dims { batch = 2, rows in 1..=4, total in 0..=20 }
    state { "past_*" -> "present_*", capacity = 20 }
}

struct Counting;
static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Relaxed);
        // SAFETY: passed on from the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passed on from the caller.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs without the test harness, whose own thread allocates while a test runs.
fn main() {
    let threads = Threads::new(2);
    // A new thread allocates while it starts: both must have got as far as a task before counting begins.
    let both = Barrier::new(2);
    let meet = |_, _| {
        both.wait();
    };
    threads.run(2, &meet).unwrap();
    let options = Options::default().threads(threads);
    let mut net = Convnet::with(&options).unwrap();
    let mut recurrent = Recurrent::with(&options).unwrap();
    let mut mlp = Mlp::with(&options).unwrap();
    let image = vec![0.25f32; 3 * 17 * 19];
    let rows = vec![0.5f32; 8 * 12];
    let mut cached = Cached::with(&options).unwrap();
    let (ids, mask) = ([3i64; 2 * 4], [0.5f32; 2 * 20]);
    let waves = vec![0.5f32; 5 * 8 * 3];
    let before = COUNT.load(Relaxed);
    let mut sum = 0.0;
    for batch in [1, 8, 3, 5] {
        sum += net.run(&image).unwrap().logits[0];
        sum += recurrent.run((&waves[..5 * batch * 3], [5, batch, 3])).unwrap().lstm[0];
        sum += mlp.run(&rows[..batch * 12]).unwrap().probabilities[0];
    }
    for new in [4, 1, 3, 1, 1] {
        let total = cached.state().len() + new;
        let inputs = CachedInputs { ids: (&ids[..2 * new], [2, new]).into(), mask: (&mask[..2 * total], [2, total]).into() };
        sum += cached.run(inputs).unwrap().y[0];
    }
    cached.state_mut().truncate(10).unwrap();
    cached.state_mut().clear();
    assert_eq!(COUNT.load(Relaxed) - before, 0, "allocations in seventeen runs (sum {sum})");
}
