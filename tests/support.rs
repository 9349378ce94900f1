//! What the tests share: golden files, comparison, the folder of shared data.

use std::path::PathBuf;
use std::process::Command;

use preftune::models::weights::Checkpoint;
use tch::{Kind, Tensor};

/// `tests/golden/NAME`, made by `tests/golden/make_golden.py`.
pub fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// Tensors of a golden safetensors file.
pub fn golden_tensors(name: &str) -> Checkpoint {
    Checkpoint::open_file(&golden(name)).unwrap()
}

/// The folder that `PREFTUNE_SHARED` names (DreamBench photos and a small diffusion model), which `.ci/run` sets.
/// A test that needs it says so and passes where it is not set.
pub fn shared(what: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("PREFTUNE_SHARED").map(PathBuf::from);
    if folder.is_none() {
        println!("not run: needs `{what}` in the folder that PREFTUNE_SHARED names");
    }
    folder.map(|folder| folder.join(what))
}

/// Runs an ignored test in a process of its own, for what is set once in a process, and gives what it wrote to stderr.
#[track_caller]
pub fn in_own_process(test: &str) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--test-threads=1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    let said = String::from_utf8_lossy(&child.stderr).into_owned();
    assert!(child.status.success(), "{text}{said}");
    assert!(text.contains("1 passed"), "{text}");
    said
}

/// Asserts that the largest absolute difference is at most `tolerance` times the largest expected magnitude.
#[track_caller]
pub fn assert_close(what: &str, actual: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(actual.size(), expected.size(), "{what}: shape");
    let (actual, expected) = (actual.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    let difference = (&actual - &expected).abs().max().double_value(&[]);
    let scale = expected
        .abs()
        .max()
        .double_value(&[])
        .max(f64::MIN_POSITIVE);
    println!(
        "{what}: relative error {:.2e} (largest value {scale:.3})",
        difference / scale
    );
    assert!(
        difference <= tolerance * scale,
        "{what}: off by {difference:e}, {:e} of the largest value {scale}; allowed {tolerance:e}",
        difference / scale
    );
}
