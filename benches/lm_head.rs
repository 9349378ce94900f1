//! Log-probs of given tokens by a plain head and by the head in two passes, at the size of SmolLM2 (49,152 tokens): the same
//! gradients, peak memory and time of both. `cargo bench --bench lm_head`; writes benches/results/lm_head.md.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench may panic and shows its figures"
)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use preftune::ops::logprobs::{TwoPass, selected};
use tch::{Device, Kind, Tensor};

const VOCABULARY: i64 = 49_152;
const WIDTH: i64 = 576;
/// Scored tokens: four pairs of answers of 128.
const TOKENS: i64 = 1024;
/// Logits at a time, as a text run has them.
const ROWS: i64 = (1 << 26) / VOCABULARY;
/// A quarter of them.
const FEW_ROWS: i64 = ROWS / 4;
const REPEATS: usize = 3;

/// Gradients of states and head of a loss that couples all tokens, and its value.
fn gradients(rows: Option<i64>) -> (f64, Tensor, Tensor) {
    tch::manual_seed(1);
    let options = (Kind::Float, Device::Cpu);
    let states = Tensor::randn([TOKENS, WIDTH], options).set_requires_grad(true);
    let head = (Tensor::randn([VOCABULARY, WIDTH], options) * 0.05).set_requires_grad(true);
    let targets = Tensor::randint(VOCABULARY, [TOKENS], (Kind::Int64, Device::Cpu));
    let logits = |states: &Tensor| states.matmul(&head.tr());
    let loss = |logps: &Tensor| (logps.sum(Kind::Float) / 1e3).square();
    let value = match rows {
        None => {
            let loss = loss(&selected(&logits(&states), &targets));
            loss.backward();
            loss.double_value(&[])
        }
        Some(rows) => {
            let pass = TwoPass::new(&states, &targets, &logits, None, rows);
            let loss = loss(&pass.logps);
            loss.backward();
            pass.backward();
            loss.double_value(&[])
        }
    };
    (value, states.grad(), head.grad())
}

fn of(name: &str) -> Option<i64> {
    match name {
        "plain" => None,
        "two passes" => Some(ROWS),
        _ => Some(FEW_ROWS),
    }
}

/// Peak resident memory of this process in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    let kibibytes: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes / 1024.0
}

fn main() {
    tch::set_num_threads(1);
    if let Ok(name) = std::env::var("LM_HEAD") {
        let mut seconds: Vec<f64> = (0..REPEATS)
            .map(|_| {
                let begin = Instant::now();
                let _ = gradients(of(&name));
                begin.elapsed().as_secs_f64()
            })
            .collect();
        seconds.sort_by(f64::total_cmp);
        println!("{} {}", seconds[REPEATS / 2], peak());
        return;
    }
    let mut text = format!(
        "# Plain head and head in two passes\n\n{TOKENS} tokens, {VOCABULARY} entries, width {WIDTH}, f32, one thread, head and states \
         trained; median of {REPEATS}, each form in a process of its own.\n\n\
         | head | rows at a time | s | peak RSS, MiB | largest difference of gradients |\n| --- | ---: | ---: | ---: | ---: |\n"
    );
    let (value, states, head) = gradients(None);
    for name in ["plain", "two passes", "two passes, a quarter of the rows"] {
        let (own, own_states, own_head) = gradients(of(name));
        let off = |one: &Tensor, other: &Tensor| {
            let largest = (one - other).abs().max() / other.abs().max();
            largest.double_value(&[])
        };
        let off = off(&own_states, &states).max(off(&own_head, &head));
        assert!(
            (own / value - 1.0).abs() < 1e-5 && off < 1e-4,
            "{name}: {own}, {value}, {off}"
        );
        let child = Command::new(std::env::current_exe().unwrap())
            .env("LM_HEAD", name)
            .output()
            .unwrap();
        let line = String::from_utf8(child.stdout).unwrap();
        let numbers: Vec<f64> = line
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        let rows = of(name).map_or(TOKENS, |rows| rows.min(TOKENS));
        let (seconds, memory) = (numbers[0], numbers[1]);
        writeln!(
            text,
            "| {name} | {rows} | {seconds:.2} | {memory:.0} | {off:.1e} |"
        )
        .unwrap();
    }
    print!("{text}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results/lm_head.md");
    std::fs::write(path, text).unwrap();
}
